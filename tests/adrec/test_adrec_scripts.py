"""ADRec's real scripts on a tiny budget: train, resume, several processes, test, recommend what is new."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np
import pytest
import torch
from adrec_helpers import save_tiny_model, tiny_adrec_dataset, tiny_settings
from read_only import read_only
from safetensors.torch import load_file
from stage2_helpers import ENVIRONMENT, assert_same_results, read_metrics
from tiny import tiny_sequences
from torch.nn import functional as F

import common.training
from adrec import embedding_out, main, recommend, test_main
from adrec.checkpoint import load_encoders
from adrec.data import item_tokens, rows_of
from adrec.model import ranking_of
from adrec.settings import ADRecSettings
from common.compute import pick_compute
from common.dataset import load_dataset
from common.errors import UserError
from common.ranking import metrics
from common.settings import REPOSITORY
from common.splits import split_dataset

CPU = pick_compute("cpu", "fp32")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny data set and the tiny BERT."""
    folder = tmp_path_factory.mktemp("adrec")
    tiny_adrec_dataset(folder / "datasets")
    save_tiny_model(folder / "bert")
    return folder


def settings_of(home: Path, results: Path, **values: Any) -> ADRecSettings:
    own: Dict[str, Any] = {"epochs": 2, "valid_steps": 2, "device": "cpu", "log_steps": 1, "learning_rate": 0.005}
    own.update(text_model=str(home / "bert"), results_dir=str(results), **values)
    return tiny_settings(home / "datasets", **own)


@pytest.fixture(scope="module")
def trained(home: Path) -> Path:
    return main.train(settings_of(home, home / "results"))


def test_a_run_holds_its_files(trained: Path) -> None:
    metrics = read_metrics(trained)
    names = [f"{m}@{k}" for m in ("hit", "ndcg") for k in (5, 10, 50)] + ["mrr"]
    for split in ("valid", "test", "test_masked"):
        assert list(metrics[split]) == names
    assert sum(group["users"] for group in metrics["test_by_frequency"].values()) == 12
    assert metrics["parameters"]["trained"] == metrics["parameters"]["frozen"]
    assert len((trained / "ranks.csv").read_text().splitlines()) == 13
    with open(trained / "history.csv", encoding="utf-8") as file:
        columns = list(next(csv.DictReader(file)))
    assert [f"train/{name}" for name in ("seq_item", "item_seq", "seq_seq", "item_item")] == columns[3:7]


@pytest.mark.parametrize("side", ["query", "key"])
def test_either_side_ranks(home: Path, tmp_path: Path, side: str) -> None:
    """What is chosen on validation, saved and tested is the side that ``rank_by`` names."""
    run = main.train(settings_of(home, tmp_path, epochs=1, valid_steps=None, momentum=0.5, rank_by=side))
    saved = torch.load(run / "best.pth", weights_only=True)["state_dict"]
    last = torch.load(run / "last.pth", weights_only=True)["weights"]  # of the same step: there was one validation
    name = "sequence.layers.0.dense_1.weight"
    assert not torch.equal(last[f"query.{name}"], last[f"key.{name}"])
    assert torch.equal(saved[name], last[f"{side}.{name}"])
    loaded = load_encoders(run / "best.pth", "Tiny", str(home / "datasets"), CPU)
    dataset = load_dataset(home / "datasets" / "Tiny", "Tiny")
    items = loaded.encoders.encode_items(item_tokens(dataset, loaded.settings, loaded.tokenizer), CPU)
    rows = rows_of(dataset, split_dataset(dataset, loaded.settings).valid, 5)
    found = metrics(ranking_of(loaded.encoders, items, rows, rows.users).ranks, (10,))
    assert read_metrics(run)["valid"]["mrr"] == pytest.approx(found["mrr"])


def test_ranks_equal_cosines_sorted_by_hand(home: Path, trained: Path) -> None:
    loaded = load_encoders(trained / "best.pth", "Tiny", str(home / "datasets"), CPU)
    items = load_file(trained / "item_embeddings.safetensors")
    assert items["item_ids"].tolist() == list(range(15))
    dataset = load_dataset(home / "datasets" / "Tiny", "Tiny")
    rows = rows_of(dataset, split_dataset(dataset, loaded.settings).test, 5)
    lines = (trained / "ranks.csv").read_text().splitlines()[1:]
    for user, line in enumerate(lines):
        history = tiny_sequences()[user][:-1][-5:]
        vector = loaded.encoders.encode_histories(items["embeddings"], rows, np.array([user]))[0]
        cosines = (F.normalize(items["embeddings"], dim=1) @ vector).detach()
        target = tiny_sequences()[user][-1]
        rank = 1 + int((cosines > cosines[target]).sum())
        masked = rank - sum(int(cosines[i] > cosines[target]) for i in set(history) - {target})
        assert line.split(",") == [str(user), str(target), str(rank), str(masked)]
        top = torch.from_numpy(np.load(trained / "top.npy")[user]).long()  # near ties may change places
        assert torch.allclose(cosines[top], cosines.sort(descending=True).values[:10], atol=1e-6)


@pytest.mark.parametrize("name", ["sequences", "fields"])
def test_other_data_than_it_was_trained_on_is_not_tested(home: Path, tmp_path: Path, name: str) -> None:
    """A sequence that lost its end would be tested on what was trained on, without a word."""
    own = tmp_path / "datasets"
    shutil.copytree(home / "datasets", own)
    run = main.train(settings_of(home, tmp_path, datasets_dir=str(own), epochs=1, test=False))
    if name == "sequences":
        path = own / "Tiny" / "sequential_data.txt"
        lines = [line.split() for line in path.read_text().splitlines()]
        path.write_text("\n".join(" ".join(line[: max(5, len(line) - 2)]) for line in lines) + "\n")
    else:
        (own / "Tiny" / "Tiny_item_fields.csv").unlink()
    with pytest.raises(UserError, match=f"trained on other {name} than .*Tiny"):
        test_main.test_checkpoint(run / "best.pth", "Tiny", str(own), CPU)
    assert "test" not in read_metrics(run)


@pytest.mark.parametrize("saves", [1, 4])
def test_resumed_equals_uninterrupted(
    home: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: int
) -> None:
    """Cut inside the first epoch and inside the second."""
    original, count = common.training.save_last, [0]

    def dies(*arguments: Any) -> None:
        original(*arguments)
        count[0] += 1
        if count[0] == saves:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(common.training, "save_last", dies)
        main.train(settings_of(home, tmp_path))
    (cut,) = (tmp_path / "ADRec" / "Tiny").iterdir()
    assert not (cut / "metrics.json").exists()
    assert_same_results(main.train(settings_of(home, tmp_path)), trained)


@pytest.mark.parametrize(
    "values",
    [
        {"train_text": False, "adapter": True, "history_map": True, "add_mean": False, "precision": "bf16"},
        {"variant": "released", "clip_grad_norm": 1.0},
        {
            "plm_layer": 2,
            "positions": True,
            "sequence_dropout": 0.3,
            "mask_same_item": True,
            "queue_correction": "once_per_item",
            "batch_by": "user",
        },
        {"precision": "bf16", "train_batch_size": 7, "queue_correction": "logq"},
    ],
    ids=str,
)
def test_other_settings_train_and_test(home: Path, tmp_path: Path, values: Dict[str, Any]) -> None:
    run = main.train(settings_of(home, tmp_path, **values))
    assert read_metrics(run)["test"]["mrr"] > 0


def script(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "adrec" / name), *words]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)


TORCHRUN = ("torch.distributed.run", "--nproc_per_node=2", "--master_port=29617")
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1")
ACCELERATE += ("--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=29618")


@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_two_processes_keep_their_queues_equal(home: Path, tmp_path: Path, launcher: Tuple[str, ...]) -> None:
    """Keys are gathered: after an epoch of ragged batches each process holds the same queues and weights."""
    code = f"""
import sys, torch
sys.path[:0] = [{str(REPOSITORY)!r}, {str(REPOSITORY / "tests/helpers")!r}, {str(Path(__file__).parent)!r}]
from pathlib import Path
from adrec import main
import common.training
from test_adrec_scripts import settings_of
original = common.training.operations_per_epoch  # called when the training is over
def saves(model, train, run):
    torch.save(dict(model.state_dict()), f"{tmp_path}/rank{{run.processes.rank}}.pth")
    return original(model, train, run)
common.training.operations_per_epoch = saves
main.train(settings_of(Path({str(home)!r}), Path({str(tmp_path)!r}), epochs=1, train_batch_size=7))
"""
    program = tmp_path / "program.py"
    program.write_text(code)
    command = [sys.executable, "-m", *launcher, str(program)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pth", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    filled = int((first["item_queue.items"] >= 0).sum())
    assert filled == min(30, sum(max(0, len(s) - 3) for s in tiny_sequences()))
    (run,) = (tmp_path / "ADRec" / "Tiny").iterdir()
    assert "test" in read_metrics(run)


def test_scripts_print_what_they_found(home: Path, trained: Path, tmp_path: Path) -> None:
    where = [f"datasets_dir={home / 'datasets'}", f"results_dir={home / 'results'}", "device=cpu", "precision=fp32"]
    tested = script("test_main.py", "-d", "Tiny", *where)
    assert tested.returncode == 0, tested.stderr
    assert "unmasked" in tested.stdout and "seen 1-4" in tested.stdout
    out = script("embedding_out.py", "-d", "Tiny", *where)
    assert "15 items, 16 dimensions" in out.stdout, out.stderr
    new = tmp_path / "new.csv"
    new.write_text('title,category,price\n"a brand-new dance, part one",dance,3\n')
    done = script("recommend.py", "-d", "Tiny", "--user", "3", "-k", "16", "--new-items", str(new), *where)
    assert "a brand-new dance, part one (new)" in done.stdout, done.stderr
    assert "price are not read" in done.stdout
    *listed, new_one = done.stdout.split("recommends:")[1].splitlines()[1:]
    ids = [int(line.split()[0]) for line in listed]
    assert set(ids) == set(range(16)) - set(tiny_sequences()[3])
    assert new_one.split()[:4] == ["place", str(ids.index(15) + 1), "of", "16"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\nx\n", "new.csv:1: the header has no field 'title'"),
        ("title,brand\nx\n", "new.csv:2: 1 column instead of 2 .*put a comma between"),
        ("title\n x\n  \n", "new.csv:3: the title is empty"),
        ("title\n", "new.csv:1: there is no item after the header"),
    ],
)
def test_faulty_new_items_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "new.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        recommend.read_new_items(path)


def test_faults_are_named(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="plm_layer=3: the text encoder has 2 layers"):
        main.train(settings_of(home, tmp_path / "a", plm_layer=3))
    with pytest.raises(UserError, match="n_heads=3: the text encoder.s width 16 is not a multiple"):
        main.train(settings_of(home, tmp_path / "b", n_heads=3))
    with pytest.raises(UserError, match="no run; train with run_train.sh ADRec Tiny"):
        test_main.main(["-d", "Tiny", f"results_dir={tmp_path / 'c'}"])


@pytest.mark.parametrize("prefix", ["", "module.", "module.query."])
def test_a_state_dict_of_the_authors_loads(
    home: Path, tmp_path: Path, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the settings, only what shapes show is known; the text model is beside it, or the default one."""
    run = main.train(settings_of(home, tmp_path / "r", epochs=1, variant="released"))
    weights = torch.load(run / "best.pth", weights_only=True)["state_dict"]
    shutil.copytree(run / "text_encoder", tmp_path / "text_encoder")
    given = {f"{prefix}{name}": weight for name, weight in weights.items()}
    others = {"module.item_queue.vectors": torch.zeros(2)} if prefix == "module.query." else {}
    file = tmp_path / "checkpoint_2_epoch.pkl"
    torch.save({**given, **others}, file)
    loaded = load_encoders(file, "Tiny", str(home / "datasets"), CPU)
    assert all(torch.equal(weights[name], weight) for name, weight in loaded.encoders.state_dict().items())
    assert (loaded.settings.variant, loaded.settings.plm_layer, loaded.settings.mean_over_real) == (
        "released",
        1,
        False,
    )
    test_main.main(["-d", "Tiny", f"datasets_dir={home / 'datasets'}", "--checkpoint", str(file)])
    assert "unmasked              12" in capsys.readouterr().out
    torch.save({"bert.w": torch.zeros(1)}, file)
    with pytest.raises(UserError, match=r"weights begin with bert.w; those of ADRec are text.embeddings"):
        load_encoders(file, "Tiny", str(home / "datasets"), CPU)


def test_offsets_are_of_the_items_that_were_trained_on(home: Path, tmp_path: Path) -> None:
    """They go by item id; vectors of texts alone serve any items."""
    other = tmp_path / "other"
    shutil.copytree(home / "datasets", other)
    items = other / "Tiny" / "Tiny_item_sort.csv"
    lines = items.read_text(encoding="utf-8").splitlines()
    (a, first), (b, second) = (line.split(",", 1) for line in lines[1:3])
    items.write_text("\n".join([lines[0], f"{a},{second}", f"{b},{first}", *lines[3:]]) + "\n", encoding="utf-8")
    for offsets in (False, True):
        values = {"item_offsets": True, "adapter": True, "offset_directions": 3} if offsets else {}
        made = main.train(settings_of(home, tmp_path / "r", epochs=1, **values))
        words = ["-d", "Tiny", f"datasets_dir={other}", "--checkpoint", str(made / "best.pth"), "--items", "1,2"]
        if not offsets:
            recommend.main(words)
            continue
        before = (made / "item_embeddings.pth").read_bytes()
        with pytest.raises(UserError, match="trained on other items than .*Tiny_item_sort.csv"):
            recommend.main(words)
        assert (made / "item_embeddings.pth").read_bytes() == before


def test_embeddings_are_made_once(home: Path, trained: Path) -> None:
    path = trained / "item_embeddings.pth"
    before = path.stat().st_mtime_ns
    words = ["-d", "Tiny", f"datasets_dir={home / 'datasets'}", f"results_dir={home / 'results'}", "precision=fp32"]
    with read_only(home):
        embedding_out.main(words)
        test_main.main(words)
        recommend.main([*words, "--user", "3"])
    assert path.stat().st_mtime_ns == before
    embedding_out.main([*words, "--force"])
    assert path.stat().st_mtime_ns > before
