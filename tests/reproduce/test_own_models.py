"""Models of a user's: RecBole classes in a file, wherever a model is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import List

import pytest
import torch
from elsewhere import MINE, SMALL, only, read, words_of, write_mine
from recbole.model.sequential_recommender.sasrec import SASRec as RecBoleSASRec

from common.device import Compute
from common.errors import UserError
from common.features import features_path
from reproduce import baseline, checkpoint
from reproduce import test as test_script
from reproduce.baselines.neural import SASRec
from reproduce.baselines.settings import AttentionSettings
from reproduce.own_models import load_own
from stage2_sequence_preference_learning.data import TrainLoader, load_splits
from stage2_sequence_preference_learning.evaluation import load_model
from stage2_sequence_preference_learning.settings import recbole_config

CPU = Compute(torch.device("cpu"), "fp32")


@pytest.fixture
def mine(tmp_path: Path) -> str:
    """FILE.py:CLASS."""
    return write_mine(tmp_path)


@pytest.fixture
def words(datasets_dir: Path, tmp_path: Path) -> List[str]:
    """What a training is told."""
    return [*words_of(datasets_dir, tmp_path), "precision=fp32"]


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
    checkpoint.main(["recommend", mine, "-d", "Tiny", "--user", "3", *words[:3]])
    assert str(made) in capsys.readouterr().out
    checkpoint.main(["evaluate", mine, "-d", "Tiny", "--checkpoint", str(made / "best.pth"), words[0], words[2]])
    assert f"{read(made)['test']['mrr']:.4f}" in capsys.readouterr().out
    file = Path(mine.split(":")[0])
    file.write_text(MINE.replace('"""A SASRec with', '"""Changed, a SASRec with'), encoding="utf-8")
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
