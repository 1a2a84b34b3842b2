"""Settings of the preparation of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional

from common.errors import UserError
from common.settings import CommonSettings, setting
from importers.filters import PRESETS

KINDS = (
    *("ml-100k", "ninerec", "letter", "amazon2018", "amazon2023", "recformer", "unisrec", "s3rec", "adrec"),
    *("table", "prepared"),
)


@dataclass
class Settings(CommonSettings):
    """Settings of the preparation."""

    data_dir: Optional[str] = setting(
        None,
        "folder of the raw or prepared files, or the folder above it; null: recbole's for ml-100k, else the data set's",
    )
    source: str = setting("auto", "format of the files; auto: detected by their names", choices=("auto", *KINDS))
    covers_dir: Optional[str] = setting(
        None, "covers named by original item id, a folder or an LMDB; null: searched for beside the files"
    )
    missing_covers: str = setting(
        "stop", "covers that are missing or broken: stop, or leave them out and list them", choices=("stop", "zero")
    )
    cover_side: int = setting(0, "longest side of a cover in pixels; larger ones are scaled; 0: any size", minimum=0)
    last_items: int = setting(20, "ml-100k only: number of each user's last ratings that are kept", minimum=3)
    draw_covers: bool = setting(True, "ml-100k only: draw covers from titles and genres; false: text only")
    inter_file: Optional[str] = setting(None, "table, amazon: file of interactions, in data_dir or by its full path")
    item_file: Optional[str] = setting(None, "table, amazon: file of items, in data_dir or by its full path")
    user_column: str = setting("user", "table: column of the user in inter_file")
    item_column: str = setting("item", "table: column of the item in inter_file")
    time_column: str = setting("timestamp", "table: column of the time in inter_file: s, ms, µs, ns or ISO 8601")
    item_id_column: str = setting("item", "table: column of the item in item_file")
    title_column: str = setting("title", "table: column of the title in item_file")
    title_cn_column: Optional[str] = setting(None, "table: column of a Chinese title in item_file, if there is one")
    field_columns: List[str] = setting([], "table: further columns of item_file to keep, as in [brand, category]")
    bad_rows: str = setting(
        "stop", "rows that cannot be used: stop at the first, or drop and count them", choices=("stop", "drop")
    )
    preset: Optional[str] = setting(
        None, "values of the filters below that are null; null: adrec for amazon, else none", choices=tuple(PRESETS)
    )
    k_core: Optional[int] = setting(
        None, "users and items with fewer interactions are dropped, until there are none", minimum=0
    )
    min_length: Optional[int] = setting(None, "users with fewer interactions are dropped", minimum=0)
    max_length: Optional[int] = setting(
        None, "number of each user's last interactions that are kept; 0: all", minimum=0
    )
    duplicates: Optional[str] = setting(
        None,
        "an item that a user has several times: keep all, drop those at the same time (row), or keep the first",
        choices=("keep", "row", "first"),
    )
    missing_titles: Optional[str] = setting(
        None,
        "stop: an item without a row stops, a blank title is an empty text; drop: neither is kept",
        choices=("stop", "drop"),
    )
    user_sample: Optional[int] = setting(None, "number of users to draw after all other filters; 0: all", minimum=0)
    ties: Optional[str] = setting(
        None,
        "order of a user's interactions at the same time: row of the file, original item id (ml-100k), or random",
        choices=("row", "item", "random"),
    )
    html: Optional[str] = setting(None, "HTML in texts: keep it, or clean it away", choices=("keep", "clean"))
    sample_seed: int = setting(2024, "seed of the sample of users and of ties=random", minimum=0)

    def check(self) -> None:
        """Refuse your own files under the name ml-100k, and filters that leave users too short."""
        super().check()
        if self.dataset == "ml-100k" and self.source not in ("auto", "ml-100k", "prepared"):
            raise UserError(
                f"dataset=ml-100k: is recbole's MovieLens, not --from {self.source}; name your data set: -d NAME"
            )
        if len({self.user_column, self.item_column, self.time_column}) < 3:
            raise UserError("user_column, item_column, time_column: two of them are the same column; name three")
        if self.max_length in (1, 2):
            raise UserError(
                f"max_length={self.max_length}: a user needs 3 items to train, validate and test; 0 keeps all"
            )
