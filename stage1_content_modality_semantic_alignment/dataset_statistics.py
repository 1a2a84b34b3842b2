"""Counts by which a prepared data set is recognised, and the known ones."""

from __future__ import annotations

from common.dataset import Dataset
from common.known_datasets import Statistics, known_counts


def statistics(dataset: Dataset) -> Statistics:
    """Count a data set."""
    lengths = [len(sequence) for sequence in dataset.sequences]
    return Statistics(len(lengths), dataset.n_items, sum(lengths), min(lengths), max(lengths))


def describe(dataset: Dataset, kind: str, with_cover: int, covers_are: str = "") -> str:
    """The statistics in words, and a warning where a known data set comes out with other counts.

    Args:
        kind: what it was prepared from; the known counts are those of a kind.
        with_cover: number of items whose cover can be used.
        covers_are: what is to be said about the covers.
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
        lines.append(f"  with cover {with_cover / found.items:.1%}{covers_are}")
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
    """Why a known data set may come out with other counts."""
    if known.shortest and found.shortest and found.shortest < known.shortest:
        return f"users with fewer than {known.shortest} items are in: likely another release, or unfiltered files"
    if found.users < known.users:
        return "users are missing: likely a file that was cut short or filtered"
    if found.users > known.users:
        return "there are more users: likely another release"
    if found.interactions == known.interactions and found.items != known.items:
        return "users and interactions agree: likely items that nobody saw were added, or items were merged"
    return "the users agree: likely interactions were added or taken out, or sequences were cut"
