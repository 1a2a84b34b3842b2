"""Write the splits (common/splits.py) as RecBole's benchmark files: train holds every prefix (SICSRec's evaluation).

This project's trainings read the sequences directly (data.py); the files are for RecBole itself and for models of the
user's own that read RecBole's data sets (docs/recbole.md).

    python stage2_sequence_preference_learning/recbole_process.py -d ml-100k
    python stage2_sequence_preference_learning/recbole_process.py -d ml-100k split=temporal quantile=0.9 target=last

Reads   <datasets_dir>/<D>/sequential_data.txt (and <D>_item_sort.csv, to check the items; interaction_times.npy)
Writes  <datasets_dir>/<D>/recbole/<D>/<D>.{train,valid,test}.inter
        <datasets_dir>/<D>/recbole/recbole_process.json (the record)

A row is ``user<TAB>history<TAB>target``, below RecBole's header. Tokens are one-based: zero-based id + 1, for users
and items alike. A history keeps its last ``max_seq_length`` items, because RecBole does not cut the lists of
benchmark files and crashes on longer ones in its position embedding.
"""

from __future__ import annotations

from common.start import run_script

from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Iterator, List, Optional

from tqdm import tqdm

from common.dataset import Dataset, items_path, load_dataset
from common.files import atomic, making, recipe, record
from common.settings import CommonSettings, parse, setting, shaping
from common.splits import KEYS, SplitSettings, Targets, describe, split_dataset

CONFIGS = Path(__file__).parent / "props" / "recbole_process"
HEADER = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
SPLITS = ("train", "valid", "test")


@dataclass
class Settings(SplitSettings):
    """Settings of the split."""

    max_seq_length: int = setting(50, "how many of the latest items of a history are kept", minimum=1)


def recbole_folder(settings: CommonSettings) -> Path:
    """RecBole's ``data_path``; the files are in its subfolder named after the data set."""
    return settings.dataset_dir / "recbole"


def inter_path(settings: CommonSettings, split: str) -> Path:
    """The file of a split: train, valid or test."""
    return recbole_folder(settings) / settings.dataset / f"{settings.dataset}.{split}.inter"


def rows(dataset: Dataset, targets: Targets, max_seq_length: int) -> Iterator[str]:
    """The lines of a split, users in file order, a user's longest history first."""
    tokens = [str(item + 1) for item in range(dataset.n_items)]
    users, places = targets.longest_first()
    for number, own in groupby(zip(users.tolist(), places.tolist()), key=itemgetter(0)):
        words = [tokens[item] for item in dataset.sequences[number].tolist()]
        for _, place in own:
            history = " ".join(words[max(0, place - max_seq_length) : place])
            yield f"{dataset.users[number] + 1}\t{history}\t{words[place]}\n"


def run(settings: Settings, force: bool = False) -> None:
    """Write the three files, unless they are up to date."""
    home, name = settings.dataset_dir, settings.dataset
    dataset = load_dataset(home, name)
    splits = split_dataset(dataset, settings)
    inputs = {**settings.input_files(), "items": items_path(home, name)}
    own = {key: value for key, value in shaping(settings).items() if key in ("max_seq_length", *KEYS)}
    made_from = recipe("recbole_process", own, inputs)
    path = recbole_folder(settings) / "recbole_process.json"
    with making(path, made_from, force) as needed:
        if not needed:
            return
        path.unlink(missing_ok=True)
        for split in SPLITS:
            file = inter_path(settings, split)
            with atomic(file) as temporary, open(temporary, "w", encoding="ascii", newline="\n") as out:
                lines = rows(dataset, getattr(splits, split), settings.max_seq_length)
                out.write(HEADER)
                out.writelines(tqdm(lines, desc=split, disable=None, unit="row", leave=False))
        record(path, made_from, {split: inter_path(settings, split) for split in SPLITS})
    print(describe(dataset, splits))
    print(f"written: {recbole_folder(settings) / name}/{name}.{{{','.join(SPLITS)}}}.inter")


def main(argv: Optional[List[str]] = None) -> None:
    """Parse the command line and run."""
    command = parse(Settings, __doc__, CONFIGS, argv)
    run(command.settings, command.force)


if __name__ == "__main__":
    run_script(main)
