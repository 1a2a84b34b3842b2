"""The ablations of SICSRec: dropped parts are absent, frozen weights stay, losses train what they reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Set

import pytest
import torch
from stage1_helpers import make_tiny_run, question_of, weights_of
from stage2_helpers import make_model, settings_of

from common.files import read_json
from reproduce import test as test_script
from reproduce.pipeline import Step
from stage1_content_modality_semantic_alignment import sft_content_encoder
from stage1_content_modality_semantic_alignment.llm.selectors import RandomSelector
from stage2_sequence_preference_learning import SICSRec_main1
from stage2_sequence_preference_learning.data import TrainLoader
from stage2_sequence_preference_learning.settings import SICSRecSettings

OF_BRANCH = {
    "id": ("LayerNorm.", "trm_encoder."),
    "content": ("content_LayerNorm.", "content_trm_decoder."),
    "mix": ("query_LayerNorm.", "value_LayerNorm.", "id_content_trm_decoder."),
}
STAGE_2 = [
    {},
    {"branches": "id+content"},
    {"branches": "content"},
    {"branches": "id"},
    {"id_tuning": "frozen"},
    {"id_tuning": "full"},
    {"id_tuning": "full", "pretrain_id": "none"},
]


def names(model: Any) -> Set[str]:
    return set(model.state_dict())


@pytest.mark.parametrize("values", [*STAGE_2[:-1], {"train_ffw_lora": False}])
def test_gradients_reach_what_is_left_and_nothing_frozen(datasets_dir: Path, values: Dict[str, Any]) -> None:
    full, _, _ = make_model(datasets_dir, "SICSRec")
    model, settings, data = make_model(datasets_dir, "SICSRec", **values)
    branches = settings.branches.split("+")
    dropped = tuple(name for branch, own in OF_BRANCH.items() if branch not in branches for name in own)
    expected = {name for name in names(full) if not name.startswith(dropped or "-")}
    if settings.id_tuning != "lora":
        expected = {name for name in expected if "lora" not in name}
    assert names(model) == expected
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    loader = TrainLoader(data.train, 16, seed=0)
    for rows in loader.epoch(0):
        optimizer.zero_grad()
        sum(model.train()(loader.load(rows)[0]).values()).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        trained = "att_lora" in name or ("ffw_lora" in name and settings.train_ffw_lora)  # S8
        frozen = name.startswith("trm_encoder.") and not trained and settings.id_tuning != "full"
        assert torch.equal(parameter, before[name]) == frozen, name


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.mark.parametrize("values", STAGE_2)
def test_each_trains_from_the_id_encoder_and_is_tested(
    datasets_dir: Path, results: Path, values: Dict[str, Any]
) -> None:
    settings = settings_of(datasets_dir, results, **{"epochs": 1, "step_1": {"epochs": 1}, **values})
    run = SICSRec_main1.train(settings)
    found = read_json(run / "metrics.json")
    assert 0 <= found["test"]["hit@10"] <= 1 and found["operations_per_epoch"] > 0
    recorded = {**vars(SICSRecSettings()), **read_json(run / "made.json")["settings"]}
    assert (recorded["branches"], recorded["id_tuning"]) == (settings.branches, settings.id_tuning)
    assert (found["parameters"]["frozen"] == 0) == (settings.branches == "content" or settings.id_tuning == "full")
    weights = torch.load(run / "best.pth", weights_only=True)["state_dict"]
    assert len(list((results / "ID_SeqEncoder" / "Tiny").iterdir())) == 1  # all start from the same
    if settings.pretrain_id == "none":
        return
    step_1 = read_json(run / "made.json")["inputs"]["id_encoder"]["path"]
    started = torch.load(step_1, weights_only=True)["state_dict"]
    for name in (n for n in weights if n.startswith("trm_encoder.") and "lora" not in n):
        same = torch.equal(weights[name], started[name])
        assert same == (settings.id_tuning != "full") or name.endswith("key.bias"), name
    wanted = {"branches": settings.branches, "id_tuning": settings.id_tuning}
    assert [found.folder for found in test_script.find_runs(Step("SICSRec"), results, "Tiny", wanted)] == [run]


@pytest.mark.parametrize("losses", [["t2t"], ["i2i", "t2i"]])
def test_fine_tuning_moves_what_its_losses_reach(tmp_path: Path, losses: List[str]) -> None:
    settings = make_tiny_run(tmp_path, losses=losses, epochs=1)
    sft_content_encoder.run(settings)
    before, after = weights_of(tmp_path / "models"), weights_of(Path(settings.finetune_dir))
    moved = {name.split("/")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == ({"bert"} if losses == ["t2t"] else {"bert", "swin"})


def test_random_pairs_depend_on_seed_and_prompt_alone() -> None:
    questions = [question_of(target, 7, 8, 9) for target in range(40)]
    answers = [RandomSelector(1).choose(question) for question in questions]
    assert next(RandomSelector(1).answers(questions[::-1])) == dict(zip(questions, answers))
    assert [RandomSelector(2).choose(question) for question in questions] != answers
    drawn = [answer.split("-")[0] for answer in answers]
    assert set(drawn) == {"7", "8", "9"} and max(map(drawn.count, "789")) < 25
