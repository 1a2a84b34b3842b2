"""The ablations of SICSRec: what is dropped is absent, what is frozen stays, and the full method is as it was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Dict, List, Set

import pytest
import torch
from stage1_helpers import make_tiny_run, question_of
from stage2_helpers import SMALL, make_model
from tiny import N_ITEMS, make_tiny_dataset

from common.errors import UserError
from common.features import features_path, load_features, save_features
from common.files import read_json, write_json
from common.settings import split_overrides
from reproduce import test as test_script
from reproduce import train
from reproduce.run import HELD
from reproduce.suite import load_suite
from stage1_content_modality_semantic_alignment import sft_content_encoder, use_finetune_bert
from stage1_content_modality_semantic_alignment.llm.selectors import RandomSelector
from stage1_content_modality_semantic_alignment.losses import LOSSES, alignment_losses
from stage2_sequence_preference_learning import SICSRec_main1, recbole_process
from stage2_sequence_preference_learning.data import TrainLoader
from stage2_sequence_preference_learning.settings import ABLATIONS, SICSRecSettings, resolve_switches, shaping

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


@pytest.mark.parametrize("values", STAGE_2[:-1])
def test_gradients_reach_what_is_left_and_nothing_frozen(datasets_dir: Path, values: Dict[str, str]) -> None:
    full, _, _ = make_model(datasets_dir, "SICSRec")
    model, settings, (split, _, _) = make_model(datasets_dir, "SICSRec", **values)
    branches = settings.branches.split("+")
    dropped = tuple(name for branch, own in OF_BRANCH.items() if branch not in branches for name in own)
    expected = {name for name in names(full) if not name.startswith(dropped or "-")}
    if settings.id_tuning != "lora":
        expected = {name for name in expected if "lora" not in name}
    assert names(model) == expected
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for batch, _ in TrainLoader(split, 16, seed=0):
        optimizer.zero_grad()
        sum(model.train()(batch).values()).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        frozen = name.startswith("trm_encoder.") and "lora" not in name and settings.id_tuning != "full"
        assert torch.equal(parameter, before[name]) == frozen, name


def settings_of(datasets_dir: Path, results: Path, **values: Any) -> SICSRecSettings:
    own = {**SMALL, "dataset": "Tiny", "datasets_dir": str(datasets_dir), "results_dir": str(results), "epochs": 1}
    return SICSRecSettings(**{**own, **values})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.mark.parametrize("values", STAGE_2)
def test_each_trains_from_the_id_encoder_and_is_tested(
    datasets_dir: Path, results: Path, values: Dict[str, Any]
) -> None:
    settings = settings_of(datasets_dir, results, **values)
    run = SICSRec_main1.run(settings)
    found = json.loads((run / "metrics.json").read_text())
    assert 0 <= found["test"]["hit@10"] <= 1 and found["operations_per_epoch"] > 0
    told = json.loads((run / "made.json").read_text())["settings"]
    assert {key: told[key] for key in ABLATIONS if key in told} == {k: v for k, v in values.items() if k in ABLATIONS}
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
    assert [found.folder for found in test_script.find_runs(str(results), "SICSRec", "Tiny", wanted)] == [run]


def test_runs_are_picked_by_what_a_value_means_however_it_is_spelled(tmp_path: Path) -> None:
    folder = tmp_path / "SICSRec" / "Tiny" / "one"
    write_json(folder / "made.json", {"settings": {"learning_rate": 0.001, "seed": 7}, "inputs": {}})
    write_json(folder / "metrics.json", {"model": "SICSRec"})
    for words, count in (("learning_rate=1e-3", 1), ("seed=007", 1), ("seed=8", 0)):
        found = test_script.find_runs(str(tmp_path), "SICSRec", "Tiny", split_overrides([words]))
        assert len(found) == count, words
    with pytest.raises(UserError, match="id_tuning"):
        test_script.find_runs(str(tmp_path), "SICSRec", "Tiny", {"id_tuning": "frozn"})


def test_the_full_methods_runs_keep_their_names() -> None:
    full = shaping(resolve_switches(SICSRecSettings()))
    assert not set(ABLATIONS) & set(full)
    assert shaping(resolve_switches(SICSRecSettings(id_tuning="full"))) == {**full, "id_tuning": "full"}


# --- stage 1 ---


def test_only_the_losses_asked_for_are_taken() -> None:
    pair = (torch.eye(3, 64), torch.eye(3, 64))
    both = {"text": pair, "image": pair}
    assert list(alignment_losses(both, 0.05)) == list(LOSSES)
    assert list(alignment_losses(both, 0.05, ["t2i", "t2t"])) == ["t2t", "t2i"]
    assert list(alignment_losses({"image": pair}, 0.05, LOSSES)) == ["i2i"]


@pytest.mark.parametrize("losses", [["t2t"], ["i2i", "t2i"]])
def test_fine_tuning_moves_what_its_losses_reach(tmp_path: Path, losses: List[str]) -> None:
    from test_sft_content_encoder import weights_of

    settings = make_tiny_run(tmp_path, losses=losses, epochs=1)
    sft_content_encoder.run(settings)
    assert settings.finetuned_dir.name == f"hand-{'+'.join(losses)}"
    before, after = weights_of(tmp_path / "models"), weights_of(settings.finetuned_dir)
    moved = {name.split("/")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == ({"bert"} if losses == ["t2t"] else {"bert", "swin"})


def test_losses_that_the_modalities_do_not_allow_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"losses=\['i2i', 't2i'\].*modalities=\['text'\]"):
        make_tiny_run(tmp_path, losses=["i2i", "t2i"], modalities=["text"]).check()


def test_without_losses_the_encoders_are_the_pretrained_ones_and_no_pairs_are_read(tmp_path: Path, capsys: Any) -> None:
    from test_sft_content_encoder import weights_of

    settings = make_tiny_run(tmp_path, losses=[], strategy="no-such-pairs")
    sft_content_encoder.run(settings)
    before, after = weights_of(tmp_path / "models"), weights_of(settings.finetuned_dir)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    sft_content_encoder.run(dataclasses.replace(settings, strategy="others", epochs=9))
    assert "stands" in capsys.readouterr().out
    export = use_finetune_bert.Settings(
        dataset="Tiny",
        datasets_dir=settings.datasets_dir,
        finetune_dir=settings.finetune_dir,
        losses=[],
        device="cpu",
        title_language="en",
        max_text_tokens=40,
    )
    use_finetune_bert.run(export)
    assert export.features_folder == settings.dataset_dir / "pretrained"
    assert load_features(features_path(export.features_folder, "Tiny", "text"), 15).shape[0] == 15


def test_random_pairs_depend_on_seed_and_prompt_alone() -> None:
    questions = [question_of(target, 7, 8, 9) for target in range(40)]
    answers = [RandomSelector(1).choose(question) for question in questions]
    assert next(RandomSelector(1).answers(questions[::-1])) == dict(zip(questions, answers))
    assert [RandomSelector(2).choose(question) for question in questions] != answers
    drawn = [answer.split("-")[0] for answer in answers]
    assert set(drawn) == {"7", "8", "9"} and max(map(drawn.count, "789")) < 25


def folders(*words: str) -> Set[Any]:
    """Where the exports write and where the model reads."""
    planned = [settings for step, settings in train.plan("SICSRec", "Bili_Food", words)]
    return {settings.features_dir for settings in planned if hasattr(settings, "features_dir")}


def test_each_row_of_the_suite_has_features_of_its_own() -> None:
    runs = [run for run in load_suite("ablation-sicsrec", seeds=[2024]).runs if run.model == "SICSRec"]
    where = {run.name: folders(*run.words) for run in runs}
    assert all(len(folder) == 1 for folder in where.values())  # each reads what it writes
    home = "datasets/Bili_Food/"
    assert where["without t2t"] == {f"{home}paper-i2i+t2i"}
    assert where["text alone"] == {f"{home}paper-text"}
    own = ("without t2t", "without i2i", "without t2i", "pairs by TF-IDF", "random pairs", "without stage 1")
    own += ("text alone", "image alone")
    assert len({next(iter(where[name])) for name in own}) == len(own)
    assert all(where[name] == {None} for name in where if name not in own)  # the full method's
    assert "llm_driven_sample" not in [step.name for step, _ in train.plan("SICSRec", "Bili_Food", ["losses=[]"])]
    others = [folders(*run.words) for run in load_suite("ablation-sicsrec", seeds=[1]).runs if run.model == "SICSRec"]
    assert not set().union(*others) & set().union(*where.values())  # nor do seeds share them


def test_stage_1s_ablations_lie_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_tiny_dataset(tmp_path / "source")
    words = [f"data_dir={source}", f"datasets_dir={tmp_path / 'd'}", f"finetune_dir={tmp_path / 'f'}", "device=cpu"]
    words += ["text_model=small", "modalities=[text]", "sft_content_encoder.epochs=1"]
    words += ["tfidf_threshold=0.01", "sft_content_encoder.learning_rate=0.1", f"results_dir={tmp_path / 'r'}"]
    words += ["hidden_size=8", "inner_size=8", "epochs=1"]
    rows = (["selector=tfidf"], ["selector=random", "strategy=random"], ["losses=[]"])
    runs = [train.run_plan(train.plan("Content_SeqEncoder", "Tiny", [*words, *row]), force=False) for row in rows]
    assert len({folder for folder, _ in runs}) == 3
    capsys.readouterr()
    for row in rows:
        train.run_plan(train.plan("Content_SeqEncoder", "Tiny", [*words, *row]), force=False)
    assert "written: " not in capsys.readouterr().out


def test_features_that_another_run_replaced_meanwhile_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings that names do not tell of share stage 1's folders; reproduce.run tries again what another holds up."""
    source = make_tiny_dataset(tmp_path / "source")
    words = [f"data_dir={source}", f"datasets_dir={tmp_path / 'd'}", f"finetune_dir={tmp_path / 'f'}", "device=cpu"]
    words += ["text_model=small", "modalities=[text]", "losses=[]", f"results_dir={tmp_path / 'r'}"]
    planned = train.plan("Content_SeqEncoder", "Tiny", words)
    path = features_path(planned[-1][1].features_dir, "Tiny", "text")
    split = recbole_process.run

    def split_while_another_exports(*arguments: Any) -> None:
        split(*arguments)
        save_features(path, load_features(path, N_ITEMS) + 1, read_json(path.with_suffix(".json")))

    monkeypatch.setattr(recbole_process, "run", split_while_another_exports)
    with pytest.raises(UserError, match=HELD):
        train.run_plan(planned, force=False)
    assert not (tmp_path / "r").exists()
