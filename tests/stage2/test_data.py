"""The splits read from the sequences are those of the .inter files, with RecBole's numbers of items."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data import create_dataset
from stage2_helpers import INTER_FILES, rows_of

from common.compute import Processes
from common.dataset import write_dataset
from common.errors import UserError
from stage2_sequence_preference_learning import data as data_module
from stage2_sequence_preference_learning import recbole_process
from stage2_sequence_preference_learning.data import EvalLoader, TrainLoader, load_splits
from stage2_sequence_preference_learning.models import ID_SeqEncoder
from stage2_sequence_preference_learning.settings import HistorySettings

drawn_sequences = st.dictionaries(
    st.integers(0, 30), st.lists(st.integers(0, 19), min_size=3, max_size=12), min_size=1, max_size=6
).filter(lambda drawn: any(len(s) > 3 for s in drawn.values()))


SPLITS = [{}, *({"split": "temporal", "quantile": 0.7, "target": target} for target in ("last", "successive"))]


def load(folder, sequences, longest, **split):
    """Users come one after the other; the times of each overlap with those of the next."""
    times = [10 * number + 7 * place for number, items in enumerate(sequences.values()) for place in range(len(items))]
    write_dataset(folder / "D", "D", sequences.items(), [("题", "title")] * 20, np.array(times))
    return load_splits(HistorySettings(dataset="D", datasets_dir=str(folder), max_seq_length=longest, **split))


def rows_of_file(chosen, split):
    """(history, target) of an .inter file, zero-based."""
    lines = recbole_process.inter_path(chosen, split).read_text().splitlines()[1:]
    fields = [line.split("\t") for line in lines]
    return [([int(item) - 1 for item in history.split(" ")], int(target) - 1) for _, history, target in fields]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn_sequences, st.integers(1, 6), st.sampled_from(SPLITS))
def test_the_rows_are_those_of_the_inter_files(tmp_path: Path, sequences, longest, chosen_split):
    try:
        data = load(tmp_path, sequences, longest, **chosen_split)
    except UserError:  # of a drawn temporal split a part may be empty
        assume(False)
    chosen = recbole_process.Settings(dataset="D", datasets_dir=str(tmp_path), max_seq_length=longest, **chosen_split)
    recbole_process.run(chosen)
    for split in ("train", "valid", "test"):
        found = [(data.item_of_row[h].tolist(), data.item_of_row[t]) for _, h, t in rows_of(getattr(data, split))]
        expected = rows_of_file(chosen, split)
        if split == "train" or "target" in chosen_split:  # a user's rows in another order
            assert sorted(found) == sorted(expected)
        else:
            assert found == expected
    assert data.users.tolist() == list(sequences)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("seed", range(3))
def test_items_are_numbered_as_recbole_numbers_them(tmp_path, monkeypatch, seed, split):
    draw = np.random.default_rng(seed)
    sequences = {user: draw.integers(0, 20, draw.integers(3, 9)).tolist() for user in range(12)}
    sequences[3] = [19, 18, 17, 16, 15]
    monkeypatch.setattr(data_module, "RUNS_AT_ONCE", 5)
    data = load(tmp_path, sequences, 3, **split)
    recbole_process.run(recbole_process.Settings(dataset="D", datasets_dir=str(tmp_path), max_seq_length=3, **split))
    monkeypatch.setattr("sys.argv", ["test"])
    values = {"data_path": str(tmp_path / "D" / "recbole"), **INTER_FILES}
    config = Config(model=ID_SeqEncoder, dataset="D", config_dict=values)
    tokens = create_dataset(config).field2id_token["item_id"]
    assert data.item_of_row.tolist() == [-1, *(int(token) - 1 for token in tokens[1:])]


def test_an_epochs_order_follows_from_seed_and_number_alone(tmp_path):
    data = load(tmp_path, {user: list(range(user, user + 6)) for user in range(12)}, 50)
    first, second = TrainLoader(data.train, 4, seed=3), TrainLoader(data.train, 4, seed=3)
    orders = [np.concatenate(first.epoch(number)).tolist() for number in range(4)]
    assert orders[0] != orders[1]
    assert [np.concatenate(second.epoch(number)).tolist() for number in (3, 1)] == [orders[3], orders[1]]
    assert np.concatenate(TrainLoader(data.train, 4, seed=4).epoch(0)).tolist() != orders[0]


def test_rows_at_random_are_the_same_rows_each_by_itself_s17(tmp_path):
    data = load(tmp_path, {user: list(range(user, user + 3 + user % 9)) for user in range(12)}, 5)
    loader = TrainLoader(data.train, 7, seed=3, batch_by="row")
    expected = sorted((history, target) for _, history, target in rows_of(data.train))
    batches = [loader.load(rows)[0] for rows in loader.epoch(0)]
    assert [len(batch) for batch in batches] == [7] * (len(loader) // 7) + [len(loader) % 7] * (len(loader) % 7 > 0)
    found = []
    for batch in batches:
        assert batch.sequences.tolist() == list(range(len(batch)))  # so rows of one user are negatives of each other
        for row, column, target in zip(batch.rows, batch.columns, batch.targets):
            found.append((batch.items[row][batch.allowed()[row, 0, column]].tolist(), int(target)))
    assert sorted(found) == expected
    assert np.concatenate(loader.epoch(0)).tolist() != np.concatenate(loader.epoch(1)).tolist()


def test_processes_share_each_batch_and_each_validation(tmp_path):
    data = load(tmp_path, {user: list(range(user, user + 6)) for user in range(7)}, 50)
    loaders = [TrainLoader(data.train, 9, 0, Processes(rank, 2)) for rank in range(2)]
    for rows in loaders[0].epoch(0):
        parts = [loader.load(rows) for loader in loaders]
        assert len({total for _, total in parts}) == 1
        if len(rows) > 1:
            assert sum(len(batch) for batch, _ in parts) == parts[0][1]
        else:  # too few to share: each computes all of it, and counts it once for each
            assert {len(batch) * 2 for batch, _ in parts} == {parts[0][1]}
    shares = [np.concatenate([r for r, _ in EvalLoader(data.valid, 20, Processes(rank, 2))]) for rank in range(2)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(7))


def test_history_of_an_evaluation_batch(tmp_path):
    data = load(tmp_path, {0: [1, 2, 3, 4], 1: [5, 6, 7]}, 50)
    rows, items = EvalLoader(data.test, data.n_items).history(np.array([1, 0]))
    assert rows.tolist() == [0, 0, 1, 1, 1]
    assert data.item_of_row[items.numpy()].tolist() == [5, 6, 1, 2, 3]


def test_without_a_row_to_train_on_there_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no row to train on: no user has four items"):
        load(tmp_path, {0: [0, 1, 2]}, 50)
