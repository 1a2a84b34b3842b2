"""Data sets that others know by their counts, and where each kind of data is to be had.

Counts: NineRec's as SICSRec's authors prepared them, UniSRec's and RecFormer's as their papers tell; LETTER's were
counted in the files. docs/data_formats.md says more; `common.doctor` and the preparation read this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Mapping, Optional


@dataclass(frozen=True)
class Statistics:
    """Numbers of users, items and interactions, and the lengths of the shortest and longest sequence, where known."""

    users: int
    items: int
    interactions: int
    shortest: Optional[int] = None
    longest: Optional[int] = None

    def agrees(self, found: Statistics) -> bool:
        """Whether all that is known is found."""
        ours, theirs = vars(self), vars(found)
        return all(value in (None, theirs[name]) for name, value in ours.items())

    def __str__(self) -> str:
        lengths = "" if self.shortest is None else f", {self.shortest} to {self.longest} a user"
        return f"{self.users:,} users, {self.items:,} items, {self.interactions:,} interactions{lengths}"


KNOWN: Mapping[str, Mapping[str, Statistics]] = {
    "ninerec": {
        "Bili_Food": Statistics(6_549, 1_579, 39_740, 5, 46),
        "Bili_Dance": Statistics(10_715, 2_307, 83_392, 5, 251),
        "Bili_Movie": Statistics(16_525, 3_509, 115_576, 5, 93),
        "Bili_Cartoon": Statistics(30_300, 4_724, 215_443, 5, 103),
    },
    "unisrec": {
        "Scientific": Statistics(8_442, 4_385, 59_427),
        "Instruments": Statistics(24_962, 9_964, 208_926),
        "Arts": Statistics(45_486, 21_019, 395_150),
        "Office": Statistics(87_436, 25_986, 684_837),
    },
    "recformer": {
        "Scientific": Statistics(11_041, 5_327, 76_896),
        "Instruments": Statistics(27_530, 10_611, 231_312),
        "Arts": Statistics(56_210, 22_855, 492_492),
        "Office": Statistics(101_501, 27_932, 798_914),
    },
    "letter": {"Scientific": Statistics(8_317, 4_344, 58_492, 5, 78)},
}

ORIGINS: Mapping[str, str] = {  # kind → where it is to be had, and the licence's demand
    "ninerec": "NineRec's authors (github.com/westlake-repl/NineRec); copies that were changed must not be passed on",
    "amazon2018": "UCSD (nijianmo.github.io/amazon): reviews and metadata of a category; cite Ni et al., EMNLP 2019",
    "amazon2023": "UCSD (amazon-reviews-2023.github.io): reviews and metadata of a category; cite Hou et al., 2024",
    "recformer": "RecFormer's authors: the processed folder of a category; Amazon's terms as for amazon2018",
    "unisrec": "UniSRec's authors: the downstream data sets; Amazon's terms as for amazon2018",
    "letter": "LETTER's authors: <D>.inter.json and <D>.item.json; Amazon's terms as for amazon2018",
}


def known_counts(dataset: str, kind: str) -> Optional[Statistics]:
    """The counts of a data set, prepared by one kind; prepared files of NineRec's four names count as NineRec's."""
    return KNOWN.get("ninerec" if kind == "prepared" else kind, {}).get(dataset)


def origins_of(dataset: str) -> Dict[str, str]:
    """Kind → where the data set is to be had as such; for an unknown name, every kind."""
    kinds = [kind for kind, sets in KNOWN.items() if dataset in sets]
    if not kinds:
        return dict(ORIGINS)
    kinds += [kind for kind in ORIGINS if kind.startswith("amazon") and kinds != ["ninerec"]]
    return {kind: ORIGINS[kind] for kind in kinds}
