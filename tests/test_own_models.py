"""Models of a user's: RecBole classes in a file, and scores made elsewhere, beside ours in runs, suites and tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import pytest
import torch
from recbole.model.sequential_recommender.sasrec import SASRec as RecBoleSASRec

from common.device import Compute
from common.errors import UserError
from common.features import features_path
from reproduce import baseline, checkpoint, run, scores, table
from reproduce import test as test_script
from reproduce.baselines.neural import SASRec
from reproduce.baselines.settings import AttentionSettings
from reproduce.own_models import load_own
from stage2_sequence_preference_learning import evaluate
from stage2_sequence_preference_learning.data import TrainLoader, load_splits
from stage2_sequence_preference_learning.evaluation import load_model
from stage2_sequence_preference_learning.settings import recbole_config

MINE = '''
from __future__ import annotations
from dataclasses import dataclass
from typing import List, Optional
from torch import nn
from common.settings import setting
from recbole.model.sequential_recommender.sasrec import SASRec
from reproduce.baselines.settings import AttentionSettings

@dataclass
class MyRecSettings(AttentionSettings):
    """Of mine."""
    factor: float = setting(2.0, "what the loss is multiplied by")

class MyRec(SASRec):
    """Mine."""
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.factor = config["factor"]
    def calculate_loss(self, interaction):
        return self.factor * super().calculate_loss(interaction), 0.0 * self.item_embedding.weight.sum()

class MyText(SASRec):
    """Reads features."""
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.plm_text_embedding = nn.Embedding.from_pretrained(dataset.item_features("text"))
        self.to_d = nn.Linear(self.plm_text_embedding.embedding_dim, self.hidden_size)
    def calculate_loss(self, interaction):
        return super().calculate_loss(interaction) + self.to_d(self.plm_text_embedding.weight).square().mean()

@dataclass
class MyTextSettings(AttentionSettings):
    """Of those."""
    modalities: List[str] = setting(["text"], "features", choices=("text", "image"))
    features_dir: Optional[str] = setting(None, "where they lie")

class NotAModel:
    pass
'''
CPU = Compute(torch.device("cpu"), "fp32")


@pytest.fixture
def mine(tmp_path: Path) -> str:
    """FILE.py:CLASS."""
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    return f"{tmp_path / 'mine.py'}:MyRec"


@pytest.fixture
def words(datasets_dir: Path, tmp_path: Path) -> List[str]:
    """What every command is told."""
    return [f"datasets_dir={datasets_dir}", f"results_dir={tmp_path / 'r'}", "device=cpu", "precision=fp32"]


SMALL = ["max_seq_length=10", "hidden_size=8", "inner_size=8", "epochs=2", "train_batch_size=16"]


def only(folder: Path) -> Path:
    """The one run in a folder of runs."""
    (found,) = folder.glob("*/metrics.json")
    return found.parent


def read(run_dir: Path) -> Dict[str, Any]:
    """Its results."""
    found: Dict[str, Any] = json.loads((run_dir / "metrics.json").read_text())
    return found


def test_loss_and_scores_are_the_models_own(datasets_dir: Path, mine: str) -> None:
    kind, schema = load_own(mine)
    values = {"dataset": "Tiny", "datasets_dir": str(datasets_dir), "max_seq_length": 10, "hidden_size": 8}
    made = {}
    for name, model, settings in (("mine", kind, schema(**values)), ("ours", SASRec, AttentionSettings(**values))):
        config = recbole_config(model, settings, torch.device("cpu"), datasets_dir / "unused")
        splits = load_splits(config)
        torch.manual_seed(0)
        made[name] = model(config, splits[0]).eval()
    assert isinstance(made["mine"].net, RecBoleSASRec)  # type: ignore[attr-defined]
    made["ours"].load_state_dict(made["mine"].state_dict())
    (batch,) = [batch for batch, _ in TrainLoader(splits[0], 10**6, 0)]
    terms = made["mine"].terms(batch)
    assert set(terms) == {"loss 1", "loss 2"} and float(terms["loss 2"].detach()) == 0
    torch.testing.assert_close(terms["loss 1"], 2 * made["ours"].terms(batch)["rec"])
    torch.testing.assert_close(made["mine"].full_sort_scores(batch), made["ours"].full_sort_scores(batch))


def test_from_a_file_to_recommendations_and_a_changed_file_is_another_run(
    mine: str, words: List[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # the second finds it done
        baseline.main([mine, "-d", "Tiny", *words, *SMALL])
    made = only(tmp_path / "r" / "MyRec" / "Tiny")
    assert "test" in read(made) and "stands, nothing to train" in capsys.readouterr().out
    test_script.main([mine, "Tiny", *words[:3]])
    assert "| MyRec (" in capsys.readouterr().out
    checkpoint.main(["recommend", mine, "-d", "Tiny", "--user", "3", *words])
    assert str(made) in capsys.readouterr().out
    checkpoint.main(["evaluate", mine, "-d", "Tiny", "--checkpoint", str(made / "best.pth"), words[0], *words[2:]])
    assert f"{read(made)['test']['mrr']:.4f}" in capsys.readouterr().out
    file = Path(mine.split(":")[0])
    file.write_text(MINE.replace('"""Mine."""', '"""Mine, changed."""'), encoding="utf-8")
    baseline.main([mine, "-d", "Tiny", *words, *SMALL])
    assert len(list((tmp_path / "r" / "MyRec" / "Tiny").glob("*/metrics.json"))) == 2


def test_a_checkpoint_is_not_ranked_by_a_file_that_was_changed_since(
    mine: str, words: List[str], tmp_path: Path
) -> None:
    baseline.main([mine, "-d", "Tiny", *words, *SMALL, "test=false"])
    made = only(tmp_path / "r" / "MyRec" / "Tiny")
    file = Path(mine.split(":")[0])
    worst_first = (
        "    def full_sort_predict(self, interaction):\n        return -super().full_sort_predict(interaction)\n"
    )
    file.write_text(MINE.replace("class MyText(", f"{worst_first}\nclass MyText("), encoding="utf-8")
    with pytest.raises(UserError, match="was trained with another .*mine.py than lies there now"):
        test_script.main([mine, "Tiny", *words[:3]])
    assert "test" not in read(made)
    file.write_text(MINE, encoding="utf-8")
    test_script.main([mine, "Tiny", *words[:3]])
    assert "test" in read(made)


def test_an_ensemble_is_not_ranked_with_a_part_that_was_trained_again(words: List[str], tmp_path: Path) -> None:
    parts = {"id": ["SASRec"], "text": ["SASRecText"]}
    for kind, (model,) in parts.items():
        baseline.main([model, "-d", "Tiny", *words, *SMALL, f"run={kind}"])
        parts[kind].append(f"{kind}_checkpoint={tmp_path / 'r' / model / 'Tiny' / kind / 'best.pth'}")
    given = [parts["id"][1], parts["text"][1], "max_seq_length=10", "test=false"]
    baseline.main(["Ensemble", "-d", "Tiny", *words, *given])
    baseline.main(["SASRec", "-d", "Tiny", *words, *SMALL, "run=id", "seed=9", "--force"])
    with pytest.raises(UserError, match="was trained with another .*SASRec/Tiny/id/best.pth"):
        test_script.main(["Ensemble", "Tiny", *words[:3]])


def test_ensembles_of_other_parts_are_not_averaged_but_those_of_other_seeds_are(
    words: List[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def trained(model: str, *given: str) -> str:
        baseline.main([model, "-d", "Tiny", *words, *given, "epochs=1"])
        return str(max((tmp_path / "r" / model).glob("Tiny/*/best.pth"), key=lambda path: path.stat().st_mtime_ns))

    text = trained("SASRecText", *SMALL[:3])
    parts = [trained("SASRec", *SMALL[:3], f"seed={seed}") for seed in (1, 2)]
    parts.append(trained("SASRec", "max_seq_length=10", "hidden_size=16", "seed=3"))
    for seed, part in enumerate(parts, start=1):
        given = [f"id_checkpoint={part}", f"text_checkpoint={text}", f"seed={seed}", "max_seq_length=10"]
        baseline.main(["Ensemble", "-d", "Tiny", *words, *given])
    shutil.move(tmp_path / "r", tmp_path / "moved")
    capsys.readouterr()
    test_script.main(["Ensemble", "Tiny", words[0], f"results_dir={tmp_path / 'moved'}", words[2]])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| Ensemble")]
    assert sorted(row.split("|")[2].strip() for row in rows) == ["1", "2"]
    assert len({row.split("|")[1] for row in rows}) == 2  # told apart by a run's name


def test_one_that_reads_features_is_tested_from_its_checkpoint_alone(
    mine: str, words: List[str], tmp_path: Path, datasets_dir: Path
) -> None:
    features = tmp_path / "f"
    features.mkdir()
    shutil.copy(features_path(datasets_dir / "Tiny", "Tiny", "text"), features)
    baseline.main([f"{mine[:-6]}:MyText", "-d", "Tiny", *words, *SMALL, f"features_dir={features}", "test=false"])
    shutil.rmtree(features)
    test_script.main([f"{mine[:-6]}:MyText", "Tiny", *words[:3]])
    made = only(tmp_path / "r" / "MyText" / "Tiny")
    assert "test" in read(made) and "text" in json.loads((made / "made.json").read_text())["inputs"]


def test_a_search_tunes_it(mine: str, words: List[str], tmp_path: Path) -> None:
    baseline.main([mine, "-d", "Tiny", *words, *SMALL, "n_trials=2", "search_space={factor: [1.0, 3.0]}"])
    (trials,) = (tmp_path / "r" / "MyRec" / "Tiny").glob("search-*/trials.csv")
    assert len(trials.read_text().splitlines()) == 3


def exported(words: List[str], tmp_path: Path) -> Path:
    """A trained run whose scores lie in tmp_path/Tiny-1-{test,valid}.npy."""
    baseline.main(["SASRec", "-d", "Tiny", *words, *SMALL])
    made = only(tmp_path / "r" / "SASRec" / "Tiny")
    for split in ("test", "valid"):
        file = ["--scores", str(tmp_path / f"Tiny-1-{split}.npy"), "--split", split]
        evaluate.main(["-d", "Tiny", "--checkpoint", str(made / "best.pth"), *file, words[0], *words[2:]])
    return made


def test_scores_of_a_model_have_its_ranks(words: List[str], tmp_path: Path) -> None:
    made = exported(words, tmp_path)
    files = [f"scores={tmp_path / 'Tiny-1-test.npy'}", f"valid_scores={tmp_path / 'Tiny-1-valid.npy'}"]
    for _ in range(2):
        scores.main(["-d", "Tiny", "max_seq_length=10", *files, *words])
    again = only(tmp_path / "r" / "Scores" / "Tiny")
    assert [read(again)[key] for key in ("valid", "test", "test_masked")] == [
        read(made)[key] for key in ("valid", "test", "test_masked")
    ]
    assert (again / "ranks.csv").read_text() == (made / "ranks.csv").read_text()
    assert (np.load(again / "top.npy") == np.load(made / "top.npy")).all()


@pytest.mark.parametrize("changed", ["s.npy", "test.inter"])
def test_what_was_validated_is_tested(words: List[str], tmp_path: Path, datasets_dir: Path, changed: str) -> None:
    data, path = tmp_path / "data", tmp_path / "s.npy"
    shutil.copytree(datasets_dir, data)
    np.save(path, np.random.default_rng(0).normal(size=(12, 15)))
    given = [f"datasets_dir={data}", *words[1:]]
    scores.main(["-d", "Tiny", f"scores={path}", f"valid_scores={path}", "max_seq_length=10", "test=false", *given])
    if changed == "s.npy":
        np.save(path, np.random.default_rng(1).normal(size=(12, 15)))
    else:
        split = data / "Tiny" / "recbole" / "Tiny" / "Tiny.test.inter"
        split.write_text(split.read_text().rsplit("\t", 1)[0] + "\t1\n")
    with pytest.raises(UserError, match=f"was made with another .*{changed} than lies there now"):
        test_script.main(["Scores", "Tiny", *given[:3]])
    assert "test" not in read(only(tmp_path / "r" / "Scores" / "Tiny"))


def test_a_suite_compares_both_with_ours(mine: str, words: List[str], tmp_path: Path) -> None:
    exported(words, tmp_path)
    files = (
        f"scores: '{tmp_path}/{{dataset}}-{{seed}}-test.npy', valid_scores: '{tmp_path}/{{dataset}}-{{seed}}-valid.npy'"
    )
    rows = f"[Pop, '{mine}', {{model: Scores, name: From elsewhere, settings: {{{files}}}}}]"
    suite = tmp_path / "s.yaml"
    suite.write_text(f"datasets: [Tiny]\nseeds: [1]\nagainst: ['{mine}']\nmodels: {rows}\n")
    given = [str(suite), *words, "max_seq_length=10", "epochs=1"]
    run.main(given)
    table.main(given)
    text = (tmp_path / "r" / "suites" / "s" / "table.md").read_text()
    assert "From elsewhere" in text and "mine.py:MyRec" in text and "p (Holm)" in text


def in_row_2(value: float) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        array = np.load(path)
        array[2, 3] = value
        np.save(path, array)

    return spoil


def test_items_without_a_score_stand_last_and_are_items_all_the_same(words: List[str], tmp_path: Path) -> None:
    """As of a retrieval model: -inf but for three items. A target among the others shares their mean rank."""
    array = np.full((12, 15), -np.inf)
    array[:, :3] = [3.0, 2.0, 1.0]
    path = tmp_path / "s.npy"
    np.save(path, array)
    scores.main(["-d", "Tiny", f"scores={path}", f"valid_scores={path}", "max_seq_length=10", *words])
    made = only(tmp_path / "r" / "Scores" / "Tiny")
    assert np.load(made / "top.npy").min() >= 0 and (np.load(made / "top.npy")[:, :3] == [0, 1, 2]).all()
    n_items = 15  # all occur
    lines = [line.split(",") for line in (made / "ranks.csv").read_text().splitlines()[1:]]
    assert {int(item) > 2 for _, item, _, _ in lines} == {True, False}
    for _, item, rank, _ in lines:
        assert float(rank) == (int(item) + 1 if int(item) < 3 else (4 + n_items) / 2)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(b"x"), "cannot be read as npy"),
        (lambda path: np.save(path, np.load(path)[:, 1:]), r"\(12, 14\).*of shape \(12, 15\) are needed"),
        (in_row_2(np.nan), "row 2: a score is not a number"),
        (in_row_2(np.inf), "row 2: a score is infinite"),
    ],
)
def test_faulty_scores_are_told(words: List[str], tmp_path: Path, spoil: Callable[[Path], None], told: str) -> None:
    path = tmp_path / "s.npy"
    np.save(path, np.random.default_rng(0).normal(size=(12, 15)))
    np.save(tmp_path / "valid.npy", np.load(path))
    spoil(path)
    files = [f"scores={path}", f"valid_scores={tmp_path / 'valid.npy'}"]
    with pytest.raises(UserError, match=told):  # before the validation's ranks are written
        scores.main(["-d", "Tiny", *files, "max_seq_length=10", *words])
    assert not list((tmp_path / "r").rglob("metrics.json"))


@pytest.mark.parametrize("left_out", ["modalities: ", "features_dir: "])
def test_settings_of_features_stand_together(mine: str, left_out: str) -> None:
    path = Path(mine.partition(":")[0])
    path = path if path.is_file() else Path(mine.rpartition(":")[0])
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if left_out not in line))
    with pytest.raises(UserError, match="needs features_dir and modalities, both"):
        load_own(f"{path}:MyText")


def test_features_that_no_setting_names_are_refused(mine: str, words: List[str], tmp_path: Path) -> None:
    """They would not be in the recipe: another file would pass for the one that the run was trained on."""
    path = Path(mine.rpartition(":")[0])
    path.write_text(path.read_text().replace('["text"], "features"', '["image"], "features"'))
    with pytest.raises(UserError, match=r"reads text features, which modalities=\['image'\] do not name"):
        baseline.main([f"{path}:MyText", "-d", "Tiny", *words, *SMALL])
    path.write_text(
        path.read_text().replace("    modalities: List", "    # ").replace("    features_dir: Opt", "    # ")
    )
    with pytest.raises(UserError, match="need features_dir and modalities"):
        baseline.main([f"{path}:MyText", "-d", "Tiny", *words, *SMALL])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("none.py:MyRec", "none.py: no such file"),
        ("mine.py:MyReck", "has no class 'MyReck'; did you mean 'MyRec'"),
        ("mine.py:NotAModel", "no SequentialRecommender"),
        ("mine.py:SASRec", "SASRec is the name of a model that is here already"),
        ("broken.py:MyRec", "broken.py: does not import: ZeroDivisionError"),
    ],
)
def test_what_is_no_model_is_told(mine: str, words: List[str], tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(UserError, match=told):
        baseline.main([f"{tmp_path}/{name}", "-d", "Tiny", *words])


ODD = """
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.sequential_recommender.sasrec import SASRec
from reproduce.baselines.settings import AttentionSettings, TextSettings

class UntrainedSettings(AttentionSettings): pass
class Untrained(SequentialRecommender):
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        counts = torch.bincount(dataset.inter_feat["item_id"], minlength=self.n_items)
        self.register_buffer("counts", counts.float())
    def full_sort_predict(self, rows):
        return self.counts.expand(len(rows["item_length"]), -1)

class OneElementSettings(AttentionSettings): pass
class OneElement(SASRec):
    def calculate_loss(self, rows):
        return super().calculate_loss(rows).view(1)

class ReadsUsersSettings(AttentionSettings): pass
class ReadsUsers(SASRec):
    def calculate_loss(self, rows):
        return super().calculate_loss(rows) + 0 * rows[self.USER_ID].sum()

class KeepsNothingSettings(TextSettings): pass
class KeepsNothing(SASRec):
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.table = dataset.item_features("text")
"""


def test_one_without_parameters_and_one_whose_loss_is_a_row_run_as_under_recbole(
    words: List[str], tmp_path: Path
) -> None:
    (tmp_path / "odd.py").write_text(ODD)
    baseline.main([f"{tmp_path}/odd.py:Untrained", "-d", "Tiny", *words, *SMALL])
    found = read(only(tmp_path / "r" / "Untrained" / "Tiny"))
    assert "test" in found and found["parameters"]["trained"] == 0
    (tmp_path / "mine.py").write_text(ODD.replace(".view(1)", ""))
    for file, run_name in (("odd", "row"), ("mine", "scalar")):
        baseline.main([f"{tmp_path}/{file}.py:OneElement", "-d", "Tiny", *words, *SMALL, f"run={run_name}"])
    row, scalar = (read(tmp_path / "r" / "OneElement" / "Tiny" / name) for name in ("row", "scalar"))
    assert row["test"] == scalar["test"] and row["valid"] == scalar["valid"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("ReadsUsers", "the model reads 'user_id' of its batch, which holds item_id_list, item_length, item_id alone"),
        ("KeepsNothing", "checkpoint would be without the text features; keep them as self.plm_text_embedding"),
    ],
)
def test_what_a_model_cannot_have_here_is_told_before_it_is_trained(
    words: List[str], tmp_path: Path, name: str, told: str
) -> None:
    (tmp_path / "odd.py").write_text(ODD)
    with pytest.raises(UserError, match=told):
        baseline.main([f"{tmp_path}/odd.py:{name}", "-d", "Tiny", *words, *SMALL])
    assert not list((tmp_path / "r").rglob("best.pth"))


def test_a_checkpoint_of_a_model_that_is_not_known_here_is_told(mine: str, words: List[str], tmp_path: Path) -> None:
    baseline.main([mine, "-d", "Tiny", *words, *SMALL])
    made = only(tmp_path / "r" / "MyRec" / "Tiny")
    from stage2_sequence_preference_learning import models

    del models.OTHERS["MyRec"]
    with pytest.raises(UserError, match="MyRec is none of ID_SeqEncoder.*python -m reproduce.checkpoint"):
        load_model(made / "best.pth", "Tiny", words[0].split("=")[1], CPU)
