"""Counts of known data sets, where to get each kind of data, and the statistics of a prepared data set.

Sources of the counts: NineRec as SICSRec's authors prepared it, UniSRec and RecFormer from their papers, LETTER counted
in its files. See docs/data_formats.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Mapping, Optional

from common.dataset import Dataset


@dataclass(frozen=True)
class Statistics:
    """Numbers of users, items and interactions, and the length of the shortest and longest sequence, if known."""

    users: int
    items: int
    interactions: int
    shortest: Optional[int] = None
    longest: Optional[int] = None

    def agrees(self, found: Statistics) -> bool:
        """Whether all counts that are known are equal."""
        ours, theirs = vars(self), vars(found)
        return all(value in (None, theirs[name]) for name, value in ours.items())

    def __str__(self) -> str:
        lengths = "" if self.shortest is None else f", {self.shortest} to {self.longest} per user"
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

ORIGINS: Mapping[str, str] = {  # kind → where to get it, and what the licence asks for
    "ninerec": "NineRec's authors (github.com/westlake-repl/NineRec); copies that were changed must not be passed on",
    "amazon2018": "UCSD (nijianmo.github.io/amazon): reviews and metadata of a category; cite Ni et al., EMNLP 2019",
    "amazon2023": "UCSD (amazon-reviews-2023.github.io): reviews and metadata of a category; cite Hou et al., 2024",
    "recformer": "RecFormer's authors: the processed folder of a category; Amazon's terms as for amazon2018",
    "unisrec": "UniSRec's authors: the downstream data sets; Amazon's terms as for amazon2018",
    "letter": "LETTER's authors: <D>.inter.json and <D>.item.json; Amazon's terms as for amazon2018",
}


def known_counts(dataset: str, kind: str) -> Optional[Statistics]:
    """The counts of a data set of a kind; prepared files with the names of NineRec's data sets count as NineRec's."""
    return KNOWN.get("ninerec" if kind == "prepared" else kind, {}).get(dataset)


def origins_of(dataset: str) -> Dict[str, str]:
    """Kind → where to get the data set; every kind for an unknown name."""
    kinds = [kind for kind, sets in KNOWN.items() if dataset in sets]
    if not kinds:
        return dict(ORIGINS)
    kinds += [kind for kind in ORIGINS if kind.startswith("amazon") and kinds != ["ninerec"]]
    return {kind: ORIGINS[kind] for kind in kinds}


def statistics(dataset: Dataset) -> Statistics:
    """Count a data set."""
    lengths = [len(sequence) for sequence in dataset.sequences]
    return Statistics(len(lengths), dataset.n_items, sum(lengths), min(lengths), max(lengths))


def describe(dataset: Dataset, kind: str, with_cover: int, drawn: bool) -> str:
    """The statistics in words, with a warning if a known data set has other counts.

    Args:
        kind: what it was prepared from; the known counts depend on it.
        with_cover: number of items with a cover that can be used.
        drawn: the covers are drawn.
    """
    found = statistics(dataset)
    alike = sum(cn == en for cn, en in zip(dataset.titles_cn, dataset.titles_en))
    mean = found.interactions / found.users
    lines = [
        f"  users {found.users:,}  items {found.items:,}  interactions {found.interactions:,}",
        f"  sequence length min {found.shortest}  mean {mean:.2f}  max {found.longest}",
        f"  with title {1:.1%} ({alike:,} items have the same one in both languages)",
    ]
    if dataset.covers is None:
        lines.append("  no covers: text only (modalities=[text])")
    else:
        origin = " (drawn from title and genres: no posters)" if drawn else ""
        lines.append(f"  with cover {with_cover / found.items:.1%}{origin}")
    known = known_counts(dataset.name, kind)
    if known and known.agrees(found):
        lines.append(f"  the same counts as others report for {dataset.name}, {kind}")
    elif known:
        lines.append(
            f"warning: {dataset.name} of the kind {kind} is known with {known}; here it has {found}: "
            f"{likely_cause(known, found)}"
        )
    return "\n".join(lines)


def likely_cause(known: Statistics, found: Statistics) -> str:
    """Why a known data set may have other counts."""
    if known.shortest and found.shortest and found.shortest < known.shortest:
        return f"there are users with fewer than {known.shortest} items: likely another release, or unfiltered files"
    if found.users < known.users:
        return "users are missing: likely a file that was cut short or filtered"
    if found.users > known.users:
        return "there are more users: likely another release"
    if found.interactions == known.interactions and found.items != known.items:
        return "users and interactions agree: likely items that nobody saw were added, or items were merged"
    return "the users agree: likely interactions were added or removed, or sequences were cut"
