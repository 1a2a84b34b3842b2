"""Counts of known data sets, where to get each kind of data, and the statistics of a prepared data set.

Sources of the counts: NineRec as SICSRec's authors prepared it, UniSRec and RecFormer from their papers, LETTER and
S3-Rec counted in their files. See docs/data_formats.md.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, NamedTuple, Optional

import numpy as np

from common.dataset import Dataset, read_times, times_path


class Counts(NamedTuple):
    """Numbers of users, items and interactions."""

    users: int
    items: int
    interactions: int

    def __str__(self) -> str:
        return f"{self.users:,} users, {self.items:,} items, {self.interactions:,} interactions"


KNOWN: Mapping[str, Mapping[str, Counts]] = {
    "ninerec": {
        "Bili_Food": Counts(6_549, 1_579, 39_740),
        "Bili_Dance": Counts(10_715, 2_307, 83_392),
        "Bili_Movie": Counts(16_525, 3_509, 115_576),
        "Bili_Cartoon": Counts(30_300, 4_724, 215_443),
    },
    "unisrec": {
        "Scientific": Counts(8_442, 4_385, 59_427),
        "Instruments": Counts(24_962, 9_964, 208_926),
        "Arts": Counts(45_486, 21_019, 395_150),
        "Office": Counts(87_436, 25_986, 684_837),
    },
    "recformer": {
        "Scientific": Counts(11_041, 5_327, 76_896),
        "Instruments": Counts(27_530, 10_611, 231_312),
        "Arts": Counts(56_210, 22_855, 492_492),
        "Office": Counts(101_501, 27_932, 798_914),
    },
    "letter": {"Scientific": Counts(8_317, 4_344, 58_492)},
    "s3rec": {
        "Beauty": Counts(22_363, 12_101, 198_502),
        "Sports_and_Outdoors": Counts(35_598, 18_357, 296_337),
        "Toys_and_Games": Counts(19_412, 11_924, 167_597),
    },
}

ORIGINS: Mapping[str, str] = {  # kind → where to get it, and what the licence asks for
    "ninerec": "NineRec's authors (github.com/westlake-repl/NineRec); copies that were changed must not be passed on",
    "amazon2018": "UCSD (nijianmo.github.io/amazon): reviews and metadata of a category; cite Ni et al., EMNLP 2019",
    "amazon2023": "UCSD (amazon-reviews-2023.github.io): reviews and metadata of a category; cite Hou et al., 2024",
    "recformer": "RecFormer's authors: the processed folder of a category; Amazon's terms as for amazon2018",
    "unisrec": "UniSRec's authors: the downstream data sets; Amazon's terms as for amazon2018",
    "letter": "LETTER's authors: <D>.inter.json and <D>.item.json; Amazon's terms as for amazon2018",
    "s3rec": "S3-Rec's authors: <D>.txt, for models on IDs alone (no titles); Amazon's terms as for amazon2018",
}


def known_counts(dataset: str, kind: str) -> Optional[Counts]:
    """The counts of a data set of a kind; prepared files with the names of NineRec's data sets count as NineRec's."""
    return KNOWN.get("ninerec" if kind == "prepared" else kind, {}).get(dataset)


def origins_of(dataset: str) -> Dict[str, str]:
    """Kind → where to get the data set; every kind for an unknown name."""
    kinds = [kind for kind, sets in KNOWN.items() if dataset in sets]
    if not kinds:
        return dict(ORIGINS)
    amazon = [] if "ninerec" in kinds else ["amazon2018", "amazon2023"]
    return {kind: ORIGINS[kind] for kind in [*kinds, *amazon]}


def statistics(dataset: Dataset) -> Dict[str, Any]:
    """Numbers of users, items and interactions, the shortest and the longest sequence, and the share of ties.

    ``ties``: interactions at the same time as another one of their user; None without times.
    """
    lengths = np.diff(dataset.starts)
    counts = Counts(len(lengths), dataset.n_items, len(dataset.items))
    share = None
    if times_path(dataset.folder).exists():
        same = np.diff(read_times(dataset)) == 0
        same[dataset.starts[1:-1] - 1] = False  # of two users
        share = float(np.mean(np.append(same, False) | np.append(False, same)))
    return {**counts._asdict(), "shortest": int(lengths.min()), "longest": int(lengths.max()), "ties": share}


def describe(dataset: Dataset, kind: str, with_cover: int, drawn: bool) -> str:
    """The statistics in words, with a warning if a known data set has other counts.

    Args:
        kind: what it was prepared from; the known counts depend on it.
        with_cover: number of items with a cover that can be used.
        drawn: the covers are drawn.
    """
    users, items, interactions, shortest, longest, ties = statistics(dataset).values()
    blank = sum(not title.strip() for title in dataset.titles_en)
    alike = sum(cn == en for cn, en in zip(dataset.titles_cn, dataset.titles_en)) - blank
    origin = " (drawn from title and genres: no posters)" if drawn else ""
    lines = [
        f"  users {users:,}  items {items:,}  interactions {interactions:,}",
        f"  sequence length min {shortest}  mean {interactions / users:.2f}  max {longest}",
        "  no times" if ties is None else f"  at the same time as another one of the user: {ties:.1%} of interactions",
        f"  with title {1 - blank / items:.1%} ({alike:,} items have the same in both languages; {blank:,} are blank)",
        f"  with cover {with_cover / items:.1%}{origin}"
        if dataset.covers
        else f"  no covers: {'text only (modalities=[text])' if blank < items else 'for models on IDs alone'}",
    ]
    if blank > 0.9 * items and kind != "s3rec":
        setting = " (setting 'title_column')" if kind == "table" else ""
        lines.append(f"warning: {blank:,} of {items:,} titles are blank; the likely cause is the title column{setting}")
    known, found = known_counts(dataset.name, kind), Counts(users, items, interactions)
    if known == found:
        lines.append(f"  the same counts as others report for {dataset.name}, {kind}")
    elif known:
        lines.append(
            f"warning: {dataset.name} of the kind {kind} is known with {known}; here it has {found}: another "
            "release, or files that were filtered or cut short"
        )
    return "\n".join(lines)
