"""A tiny prepared data set for tests: 12 users, 15 items in 5 kinds, titles, 32x32 covers.

Plain functions, no fixtures; tests import them with ``from tiny import make_tiny_dataset`` (pytest puts
this folder on the path). ``make_tiny_dataset(tmp_path)`` returns ``tmp_path / "Tiny"``, so that
``datasets_dir=tmp_path dataset=Tiny`` finds it.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import List, Sequence, Tuple

import numpy as np
from PIL import Image

from common.arrays import starts_of
from common.dataset import Dataset

N_USERS, N_ITEMS = 12, 15

KINDS: List[Tuple[str, str, Tuple[int, int, int]]] = [
    ("麻辣面", "spicy noodles", (200, 40, 40)),
    ("街舞", "street dance", (40, 160, 60)),
    ("科幻电影", "science fiction film", (40, 60, 200)),
    ("猫咪动画", "cat cartoon", (230, 170, 30)),
    ("巧克力蛋糕", "chocolate cake", (110, 70, 40)),
]


def tiny_titles() -> Tuple[List[str], List[str]]:
    """Chinese and English titles by item; items i, i + 5 and i + 10 are of one kind. Commas and quotes occur."""
    parts_cn = ["第一集", "第二集，续", "第三集"]
    parts_en = ["part one", "part two, continued", 'the "last" part']
    titles_cn = [f"{KINDS[item % 5][0]} {parts_cn[item // 5]}" for item in range(N_ITEMS)]
    titles_en = [f"{KINDS[item % 5][1]}, {parts_en[item // 5]}" for item in range(N_ITEMS)]
    return titles_cn, titles_en


def tiny_sequences() -> List[List[int]]:
    """One list of items a user, 4 to 9 long; every item occurs, no user sees an item twice."""
    return [[(3 * user + 2 * step) % N_ITEMS for step in range(4 + user % 6)] for user in range(N_USERS)]


def tiny_cover(item: int) -> Image.Image:
    """A 32x32 RGB cover: the colour of the item's kind, and a lighter square that differs by item."""
    cover = Image.new("RGB", (32, 32), KINDS[item % 5][2])
    corner = 2 + item
    cover.paste((255, 255, 255 - 10 * item), (corner, corner, corner + 8, corner + 8))
    return cover


def dataset_of(sequences: Sequence[Sequence[int]], titles: List[str], name: str = "D") -> Dataset:
    """A data set in memory."""
    starts = starts_of(np.array(list(map(len, sequences))))
    return Dataset(name, Path(name), np.arange(len(sequences)), np.concatenate(sequences), starts, titles, titles, None)


def make_tiny_dataset(folder: Path, name: str = "Tiny", covers: bool = True) -> Path:
    """Write the tiny data set to ``folder / name`` and return that path."""
    home = Path(folder) / name
    home.mkdir(parents=True)
    with open(home / f"{name}_item_sort.csv", "w", encoding="utf-8", newline="") as out:
        csv.writer(out, lineterminator="\n").writerows(zip(range(N_ITEMS), *tiny_titles()))
    lines = [" ".join(map(str, [user, *items])) for user, items in enumerate(tiny_sequences())]
    (home / "sequential_data.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if covers:
        (home / "covers").mkdir()
        for item in range(N_ITEMS):
            tiny_cover(item).save(home / "covers" / f"{item}.jpg", quality=90)
    return home
