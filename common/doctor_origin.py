"""What the doctor says of a data set's origin: where it is to be had, what it was prepared from, whether counts agree.

As in `common.doctor`, whatever needs a package is imported after the package was found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, List, Set

from common.environment import Finding
from common.errors import UserError


def where_from(name: str) -> Iterator[Finding]:
    """Where a data set is to be had in each kind, and with which counts it comes out."""
    from common.known_datasets import known_counts, origins_of

    for kind, origin in origins_of(name).items():
        counts = known_counts(name, kind)
        yield Finding(f"--from {kind}", f"{origin}{f'; {counts}' if counts else ''}", absent=True)
    yield Finding("files", "docs/data_formats.md says which goes where", absent=True)


def check_record(folder: Path, name: str, lengths: List[int], n_items: int) -> Iterator[Finding]:
    """What the data set was prepared from, what was left out, and whether its counts are the known ones."""
    from common.files import read_json
    from common.known_datasets import Statistics, known_counts

    kind = "prepared"
    if (folder / "prepare.json").is_file():
        try:
            told = read_json(folder / "prepare.json")
            kind = told["settings"]["source"]
            dropped = [f"{count:,} {reason}" for reason, count in told.get("dropped", {}).items()]
        except (UserError, KeyError, TypeError, AttributeError):
            yield Finding("record", f"{folder}/prepare.json is none", "run prepare_dataset.py --force")
            return
        yield Finding("prepared from", f"{kind}{', left out: ' if dropped else ''}{', '.join(dropped)}")
    known, found = known_counts(name, kind), Statistics(len(lengths), n_items, sum(lengths), min(lengths), max(lengths))
    if known:
        told = "agree" if known.agrees(found) else f"differ: known with {known}; here {found}"
        yield Finding("known counts", told, absent=not known.agrees(found))


def covers_left_out(folder: Path) -> Set[int]:
    """Items whose covers the preparation could not use, and left out."""
    from common.files import read_json

    try:
        told = read_json(folder / "prepare.json")["missing_covers"]
        return {int(entry["item"]) for entry in told}
    except (UserError, KeyError, TypeError, ValueError):
        return set()


def item_fields(folder: Path, name: str, n_items: int) -> str:
    """Read the items' further fields.

    Raises:
        UserError: see `common.item_fields.read_item_fields`.
    """
    from common.item_fields import read_item_fields

    fields = read_item_fields(folder, name, n_items)
    filled = [f"{field} {sum(map(bool, texts)) / n_items:.0%}" for field, texts in fields.items()]
    return ", ".join(filled) or "none"
