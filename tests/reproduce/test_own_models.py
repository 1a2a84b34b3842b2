"""Models of the user's own: classes of RecBole's kind in a file, wherever a model is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch
from recbole.model.sequential_recommender.sasrec import SASRec as RecBoleSASRec
from stage2_helpers import only_run, read_metrics, separate_rows

from common.compute import pick_compute
from common.errors import UserError
from common.features import features_dir, features_path
from reproduce import baseline
from reproduce.baselines.networks import SASRec
from reproduce.baselines.settings import AttentionSettings
from reproduce.own_models import load_own
from stage2_sequence_preference_learning import evaluate, recommend
from stage2_sequence_preference_learning.checkpoints import load_model
from stage2_sequence_preference_learning.data import TrainLoader, load_splits

CPU = pick_compute("cpu", "fp32")
SMALL = ["max_seq_length=10", "hidden_size=8", "inner_size=8", "epochs=2", "train_batch_size=16"]
MINE = '''
from __future__ import annotations
from dataclasses import dataclass
from torch import nn
from common.settings import setting
from recbole.model.sequential_recommender.sasrec import SASRec
from reproduce.baselines.settings import AttentionSettings, ContentSettings

@dataclass
class MyRecSettings(AttentionSettings):
    """Settings of MyRec."""
    factor: float = setting(2.0, "factor of the loss")

class MyRec(SASRec):
    """A SASRec with two loss terms."""
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.factor = config["factor"]
    def calculate_loss(self, interaction):
        return self.factor * super().calculate_loss(interaction), 0.0 * self.item_embedding.weight.sum()

class MyText(SASRec):
    """A SASRec that reads text features."""
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.plm_text_embedding = nn.Embedding.from_pretrained(dataset.item_features("text"))
        self.to_d = nn.Linear(self.plm_text_embedding.embedding_dim, self.hidden_size)
    def calculate_loss(self, interaction):
        return super().calculate_loss(interaction) + self.to_d(self.plm_text_embedding.weight).square().mean()

@dataclass
class MyTextSettings(AttentionSettings, ContentSettings):
    """Settings of MyText."""

class NotAModel:
    pass
'''


@pytest.fixture
def mine(tmp_path: Path) -> str:
    """FILE.py:CLASS."""
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    return f"{tmp_path / 'mine.py'}:MyRec"


@pytest.fixture
def words(datasets_dir: Path, tmp_path: Path) -> List[str]:
    """Arguments of a training."""
    folders = [f"datasets_dir={datasets_dir}", f"results_dir={tmp_path / 'r'}"]
    return ["-d", "Tiny", *folders, "device=cpu", "precision=fp32"]


def train(name: str, words: List[str], tmp_path: Path) -> Path:
    """Train FILE.py:CLASS from the command line; returns the folder of its only run."""
    baseline.main([name, *words, *SMALL])
    return only_run(tmp_path / "r", name.rpartition(":")[2])


def test_loss_and_scores_are_the_models_own(datasets_dir: Path, mine: str) -> None:
    model_class, schema = load_own(mine)
    values: Dict[str, Any] = {"dataset": "Tiny", "datasets_dir": str(datasets_dir), "max_seq_length": 10}
    settings, ours_settings = (kind(**values, hidden_size=8) for kind in (schema, AttentionSettings))
    data = load_splits(settings)
    own, ours = model_class(settings, data).eval(), SASRec(ours_settings, data).eval()
    assert isinstance(own.net, RecBoleSASRec)
    ours.load_state_dict(own.state_dict())
    batch = separate_rows(data.train)
    terms = own.loss_terms(batch)
    assert set(terms) == {"loss 1", "loss 2"} and float(terms["loss 2"].detach()) == 0
    torch.testing.assert_close(terms["loss 1"], 2 * ours.loss_terms(batch)["rec"])
    torch.testing.assert_close(own.full_sort_scores(batch), ours.full_sort_scores(batch))


def test_from_a_file_to_recommendations_and_a_changed_file_is_another_run(
    mine: str, words: List[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # the second finds it up to date
        folder = train(mine, words, tmp_path)
    assert "test" in read_metrics(folder) and "is up to date" in capsys.readouterr().out
    models = baseline.find(mine).models()
    evaluate.main([*words[:3], "device=cpu", "--checkpoint", str(folder / "best.pth")], models)
    assert f"{read_metrics(folder)['test']['mrr']:.4f}" in capsys.readouterr().out
    recommend.main([*words[:4], "device=cpu", "--user", "3"], "MyRec", models)
    assert str(folder) in capsys.readouterr().out

    (tmp_path / "mine.py").write_text(MINE + "# changed", encoding="utf-8")
    with pytest.raises(UserError, match=r"trained with another .*mine.py \(source\) than there is now"):
        load_model(folder / "best.pth", "Tiny", words[2].split("=")[1], CPU, models=baseline.find(mine).models())
    baseline.main([mine, *words, *SMALL])
    assert len(list((tmp_path / "r" / "MyRec" / "Tiny").glob("*/metrics.json"))) == 2


def test_one_that_reads_features_is_evaluated_from_its_checkpoint_alone(
    mine: str, words: List[str], tmp_path: Path, datasets_dir: Path
) -> None:
    name, folder = mine.replace(":MyRec", ":MyText"), tmp_path / "f"
    folder.mkdir()
    shutil.copy(features_path(features_dir(datasets_dir / "Tiny", "paper"), "Tiny", "text"), folder)
    made = train(name, [*words, f"features_dir={folder}"], tmp_path)
    assert "text" in json.loads((made / "made.json").read_text())["inputs"]
    shutil.rmtree(folder)
    model = load_model(made / "best.pth", "Tiny", str(datasets_dir), CPU, models=baseline.find(name).models())
    assert model.get_submodule("net.plm_text_embedding").weight.any()


def test_a_search_tunes_it(mine: str, words: List[str], tmp_path: Path) -> None:
    searched = [*words, "n_trials=2", "search_space={factor: [1.0, 3.0]}", "search_seed=2024"]
    folder = train(mine, searched, tmp_path)
    (trials,) = folder.parent.glob("search-*/trials.csv")
    assert len(trials.read_text().splitlines()) == 3
    assert len(list(folder.parent.glob("search-*/trial-*/metrics.json"))) == 1  # the best one was not trained again


def test_a_subclass_of_ranking_model_is_used_as_it_is(words: List[str], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from reproduce.baselines.networks import SASRec\n"
        "from reproduce.baselines.settings import AttentionSettings as ShiftedSettings\n"
        "class Shifted(SASRec):\n"
        "    def candidates(self):\n"
        "        return super().candidates() + 1\n"
    )
    assert "test" in read_metrics(train(f"{tmp_path}/mine.py:Shifted", words, tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.py:MyRec", "none.py: no such file"),
        ("mine.py:MyReck", "has no class 'MyReck'; did you mean 'MyRec'"),
        ("mine.py:NotAModel", "neither RecBole's SequentialRecommender nor a RankingModel"),
        ("mine.py:SASRec", "SASRec is the name of another model"),
        ("broken.py:MyRec", "broken.py: cannot be imported: ZeroDivisionError"),
        ("other.py:MyRec", "MyRecSettings: not a dataclass derived from BaselineSettings"),
    ],
)
def test_what_is_not_a_model_is_an_error(mine: str, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "other.py").write_text(MINE.replace("MyRecSettings(AttentionSettings)", "MyRecSettings"))
    with pytest.raises(UserError, match=message):
        baseline.find(f"{tmp_path}/{name}")


ODD = """
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.sequential_recommender.sasrec import SASRec
from reproduce.baselines.settings import AttentionSettings

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

"""


def test_a_model_without_parameters_and_one_whose_loss_has_one_element(words: List[str], tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(ODD)
    found = read_metrics(train(f"{tmp_path}/odd.py:Untrained", words, tmp_path))
    assert "test" in found and found["parameters"]["trained"] == 0
    (tmp_path / "mine.py").write_text(ODD.replace(".view(1)", ""))
    for file, run_name in (("odd", "row"), ("mine", "scalar")):
        baseline.main([f"{tmp_path}/{file}.py:OneElement", *words, *SMALL, f"run={run_name}"])
    row, scalar = (read_metrics(tmp_path / "r" / "OneElement" / "Tiny" / name) for name in ("row", "scalar"))
    assert row["test"] == scalar["test"] and row["valid"] == scalar["valid"]


def test_a_checkpoint_of_a_model_that_is_not_given_is_an_error(mine: str, words: List[str], tmp_path: Path) -> None:
    folder = train(mine, words, tmp_path)
    with pytest.raises(UserError, match="a checkpoint of MyRec; use python -m reproduce.checkpoint"):
        load_model(folder / "best.pth", "Tiny", words[2].split("=")[1], CPU)


LACKING = """
from recbole.model.sequential_recommender import FPMC, HGN, STAMP
from reproduce.baselines.settings import ContentSettings
from stage2_sequence_preference_learning.ranking_model import RankingModel

class Reads:
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.read(config, dataset)
class Short(Reads, STAMP):
    def read(self, config, dataset): 1 + config["shortness"]
class Trained(Reads, STAMP):
    def read(self, config, dataset): self.power = config["power"]
    def calculate_loss(self, rows): return super().calculate_loss(rows) ** self.power
class Ranked(Reads, STAMP):
    def read(self, config, dataset): self.factor = config["factor"]
    def full_sort_predict(self, rows): return self.factor * super().full_sort_predict(rows)
class Choice(Reads, STAMP):
    def read(self, config, dataset): {"max": 1, "mean": 2}[config["mode"]]
class Refuses(Reads, STAMP):
    def read(self, config, dataset):
        if config["mode"] not in ("max", "mean"): raise NotImplementedError("mode must be max or mean")
class Two(Reads, STAMP):
    def read(self, config, dataset): config["width"] * config["depth"]
class Attribute(Reads, STAMP):
    def read(self, config, dataset):
        assert config.max_seq_length and not hasattr(config, "other") and not hasattr(config, "__array__")
        config.emb_x
class Packed(Reads, RankingModel):
    def read(self, settings, data): settings.width + 1
class Users(STAMP):
    def calculate_loss(self, rows): return rows[self.USER_ID]
class Features(Reads, STAMP):
    def read(self, config, dataset): self.table = dataset.item_features("text")
class KeepsNothing(Features): pass
class KeepsNothingSettings(ContentSettings): pass
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Short", r"Short: .*; it reads shortness of its config: add it to ShortSettings"),
        ("Trained", r"Trained: TypeError: .*; it reads power of its config: add it to TrainedSettings"),
        ("Ranked", r"Ranked: TypeError: .*; it reads factor of its config: add it to RankedSettings"),
        ("Choice", r"Choice: KeyError: .*; it reads mode of its config: add it to ChoiceSettings"),
        ("Two", r"Two: TypeError: .*; it reads width, depth of its config: add them to TwoSettings"),
        ("Attribute", r"the model reads 'emb_x' of its config; add it to AttributeSettings"),
        ("Refuses", r"Refuses: NotImplementedError: .*; it reads mode of its config: add it to RefusesSettings"),
        ("Packed", r"mine.py: the model reads 'width' of its settings; add it to PackedSettings"),
        ("FPMC", "the model reads 'user_num' of its data set, which has only num, inter_feat"),
        ("HGN", "the model reads the number of 'user_id'; here only item_id"),
        ("Users", "the model reads 'user_id' of its batch, which has only item_id_list, item_length, item_id"),
        ("Features", r"reads text features, but its settings do not name them; .* modalities=\[text\]"),
        ("KeepsNothing", "would not hold the text features; keep them as self.plm_text_embedding"),
    ],
)
def test_what_a_model_reads_and_there_is_not_is_an_error(
    datasets_dir: Path, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "mine.py").write_text(LACKING)
    model_class, schema = load_own(f"{tmp_path}/mine.py:{name}")
    settings = schema(dataset="Tiny", datasets_dir=str(datasets_dir))
    data = load_splits(settings)
    with pytest.raises(UserError, match=message):
        model = model_class(settings, data)
        model.loss_terms(separate_rows(data.train))
        model.full_sort_scores(separate_rows(data.train))


@pytest.mark.parametrize("name", ["GCSAN", "NextItNet", "RepeatNet", "SRGNN", "STAMP"])
def test_a_model_of_recbole_has_recboles_defaults(datasets_dir: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.py").write_text(f"from recbole.model.sequential_recommender import {name}\n")
    model_class, schema = load_own(f"{tmp_path}/mine.py:{name}")
    settings = schema(dataset="Tiny", datasets_dir=str(datasets_dir))
    data = load_splits(settings)
    model = model_class(settings, data)
    loader = TrainLoader(data.train, 8, seed=1)
    batch, _ = loader.load(loader.epoch(0)[0])
    sum(model(batch).values()).backward()
    assert all(term.isfinite() for term in model(batch).values())
