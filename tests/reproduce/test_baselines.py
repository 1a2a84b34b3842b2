"""Baselines: RecBole's networks give RecBole's own losses and scores; counts are by hand; runs end as stage 2's do."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Set, Tuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from no_waiting import step_without_waiting
from recbole.data.interaction import Interaction
from scipy import sparse
from stage2_helpers import ENVIRONMENT, SMALL, padded, read_metrics, separate_rows
from tiny import tiny_sequences

from common.compute import Processes, pick_compute
from common.errors import UserError
from common.files import checksum
from common.settings import as_dict, build, check_values, read_yaml
from reproduce import baseline
from reproduce.baselines import counted, features, histories, networks, settings
from reproduce.baselines.ensemble import MODELS
from reproduce.baselines.settings import SCHEMAS, BaselineSettings
from stage2_sequence_preference_learning import ranking_model
from stage2_sequence_preference_learning.checkpoints import load_model
from stage2_sequence_preference_learning.data import EvalLoader, SequenceData, load_splits
from stage2_sequence_preference_learning.packing import Batch, pack
from stage2_sequence_preference_learning.ranking_model import RankingModel
from stage2_sequence_preference_learning.search import check_space

CPU = pick_compute("cpu", "fp32")
SIZES = {**SMALL, "embedding_size": 8, "padded_length": 10, "n_experts": 2, "max_seq_length": 10, "strategy": "paper"}
ALONE = [name for name in SCHEMAS if name != "Ensemble"]
TRAINED = [name for name in ALONE if name not in ("Pop", "Markov", "ItemKNN", "NearestContent")]


def small(name: str, datasets_dir: Path, **values: Any) -> Any:
    """Settings of a tiny model."""
    known = {f.name for f in dataclasses.fields(SCHEMAS[name])}
    own = {key: value for key, value in SIZES.items() if key in known}
    own.update({"whiten": own["hidden_size"], "null_dim": 3} if name == "AlphaFuse" else {})
    return SCHEMAS[name](**{"dataset": "Tiny", "datasets_dir": str(datasets_dir), **own, **values})


def make(name: str, datasets_dir: Path, **values: Any) -> Tuple[Any, SequenceData]:
    """A tiny model and its data."""
    chosen = small(name, datasets_dir, **values)
    data = load_splits(chosen)
    torch.manual_seed(0)
    return MODELS[name](chosen, data), data


def run(name: str, datasets_dir: Path, **values: Any) -> Path:
    """Train a tiny model."""
    return baseline.find(name).train(small(name, datasets_dir, **values))


def all_packed(data: SequenceData) -> Batch:
    """All training rows in one batch."""
    return pack(data.train, np.arange(len(data.train)))


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "NARM", "CORE", "FDSA", "LightSANs"])
def test_loss_and_scores_are_recboles(name: str, datasets_dir: Path) -> None:
    model, data = make(name, datasets_dir)
    model.eval()
    _, items, lengths, targets = padded(data.train)
    if name == "LightSANs":  # the others do not depend on the padding
        items = F.pad(items, (0, 10 - items.shape[1]))
    rows = Interaction({"item_id_list": items, "item_length": lengths, "item_id": targets})
    ours = model.loss_terms(all_packed(data))["rec"]
    full = model.full_sort_scores(separate_rows(data.train))
    if model.net.__dict__.pop("gather_indexes", None) is not None:  # restores RecBole's own
        assert name in ("SASRec", "GRU4Rec", "FDSA")
    torch.testing.assert_close(ours, model.net.calculate_loss(rows), rtol=1e-4, atol=1e-5)
    theirs = model.net.full_sort_predict(rows).view(len(rows), -1)
    torch.testing.assert_close(full[:, 1:], theirs[:, 1:] * (1.0 if name != "CORE" else model.temperature))


@pytest.mark.parametrize("name", ALONE)
def test_scores_do_not_depend_on_the_batch(name: str, datasets_dir: Path) -> None:
    model, data = make(name, datasets_dir)
    model.eval()
    ((rows, batch),) = list(EvalLoader(data.test, data.n_items))
    for row, expected in zip(rows, model.full_sort_scores(batch)):
        alone = model.full_sort_scores(pack(data.test, np.array([row])))[0]
        torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TRAINED)
def test_every_trained_weight_has_a_gradient(name: str, datasets_dir: Path) -> None:
    model, data = make(name, datasets_dir)
    sum(model.loss_terms(all_packed(data)).values()).backward()
    assert not {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}


# BERT4Rec draws the cells that it predicts; RecBole's FEARec reads indices, its FDSA copies a constant
@pytest.mark.parametrize("name", [name for name in TRAINED if name not in ("BERT4Rec", "FEARec", "FDSA")])
def test_a_gpu_does_not_wait_in_a_step(name: str, datasets_dir: Path) -> None:
    model, data = make(name, datasets_dir)
    step_without_waiting(model, all_packed(data))


@pytest.mark.parametrize("name", ALONE)
def test_each_setting_is_read(name: str, datasets_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Set[str] = set()

    class Config(ranking_model.RecBoleConfig):
        def __getitem__(self, key: str) -> Any:
            read.add(key)
            return super().get(key)

    class Watched(SCHEMAS[name]):  # type: ignore[misc]
        def __getattribute__(self, key: str) -> Any:
            if sys._getframe(1).f_code.co_name not in ("asdict", "_asdict_inner"):
                read.add(key)
            return super().__getattribute__(key)

    for module in (ranking_model, networks):
        monkeypatch.setattr(module, "RecBoleConfig", Config)
    data = load_splits(small(name, datasets_dir))
    model = MODELS[name](Watched(**as_dict(small(name, datasets_dir))), data)
    if name in TRAINED:
        model.loss_terms(all_packed(data))
    model.full_sort_scores(separate_rows(data.test))
    own = {f.name for f in dataclasses.fields(SCHEMAS[name])} - {f.name for f in dataclasses.fields(BaselineSettings)}
    assert not own - read - {"strategy", "features_dir", "n_negatives"}  # of load_splits, and of the sampled softmax


def test_bert4rec_masks_and_predicts_after_the_history(datasets_dir: Path) -> None:
    model, data = make("BERT4Rec", datasets_dir, ft_ratio=1.0)
    rows = separate_rows(data.test)
    items, lengths = model.with_last(rows, torch.full_like(rows.targets, 99))
    assert (items[torch.arange(len(items)), lengths - 1] == 99).all()
    assert (lengths == padded(data.test)[2] + 1).all()
    items, lengths = histories.latest(torch.arange(1, 13).view(2, 6), torch.tensor([6, 3]), 4)
    assert items.tolist() == [[3, 4, 5, 6], [7, 8, 9, 10]] and lengths.tolist() == [4, 3]
    model.eval()
    loss = model.loss_terms(rows)["rec"]  # only the last item is masked: the prediction after the history
    scores = model.preference(rows) @ model.candidates().T
    torch.testing.assert_close(loss, F.cross_entropy(scores, rows.targets))


def test_fearec_draws_other_rows_of_the_same_target(datasets_dir: Path) -> None:
    model, data = make("FEARec", datasets_dir)
    _, rows, lengths, targets = padded(data.train)
    items, _ = model.padded(rows, lengths)
    other, _ = model.same_target(items, targets)
    for row, target, found in zip(items.tolist(), targets.tolist(), other.tolist()):
        rows_of_target = items[targets == target].tolist()
        assert found in rows_of_target
        assert found != row or rows_of_target.count(row) > 1 or len(rows_of_target) == 1


def test_fearec_contrasts_no_rows_of_one_user(datasets_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = make("FEARec", datasets_dir)
    model.eval()
    batch = all_packed(data)
    own = model.padded(*histories.prefixes(batch))
    monkeypatch.setattr(model, "same_target", lambda items, targets: own)  # without dropout both views agree
    z = model.encode(*own).double().repeat(2, 1)
    user, n = batch.sequences.repeat(2).tolist(), len(batch)
    values = []
    for i in range(2 * n):
        positive = z[i] @ z[(i + n) % (2 * n)]
        negatives = [z[i] @ z[j] for j in range(2 * n) if user[j] != user[i]]
        values.append(torch.stack([positive, *negatives]).logsumexp(0) - positive)
    expected = model.settings.lmd_sem * torch.stack(values).mean()
    assert len(set(user)) < n  # some user has several rows
    assert model.loss_terms(batch)["contrastive"].item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("max_seq_length", [3, 10])
def test_counts_by_hand(datasets_dir: Path, max_seq_length: int) -> None:
    """The length of histories does not matter: every train item counts."""
    model, data = make("Markov", datasets_dir, backoff=0.0, window=2, max_seq_length=max_seq_length)
    parts = [data.row_of_item()[sequence[:-2]].tolist() for sequence in tiny_sequences()]
    follows, popularity = np.zeros((data.n_items, data.n_items)), np.zeros(data.n_items)
    for part in parts:
        for place, item in enumerate(part):
            popularity[item] += 1  # no user has an item twice
            for distance in range(1, min(2, place) + 1):
                follows[part[place - distance], item] += 1 / distance
    found = model.scores(np.arange(data.n_items)[:, None], np.ones(data.n_items, int))
    np.testing.assert_allclose(found, follows / np.maximum(follows.sum(axis=1, keepdims=True), 1e-12))
    pop, _ = make("Pop", datasets_dir, max_seq_length=max_seq_length)
    assert min(map(len, parts)) > 1 and pop.counts.tolist() == popularity.tolist()


def test_neighbours_by_hand() -> None:
    seen = sparse.csr_matrix(np.array([[1, 1, 0], [1, 1, 1], [0, 0, 1]], np.float32))
    near = counted.nearest_items(seen, 1, 0.0).toarray()
    assert near[0, 1] == pytest.approx(1.0, abs=1e-4) and near[1, 0] == pytest.approx(1.0, abs=1e-4)
    assert near[0, 2] == pytest.approx(0.5, abs=1e-4) and near[1, 2] == 0  # one per column, of a tie the lower


def test_whitened_features_have_unit_variance() -> None:
    out = features.whitened(torch.cat([torch.zeros(1, 6), torch.randn(50, 6) @ torch.randn(6, 6)]), 4)
    assert out.shape == (51, 4) and not out[0].any()
    torch.testing.assert_close(out[1:].T @ out[1:] / 50, torch.eye(4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("whiten", [8, 5])  # the ID added to the features, and beside them
def test_alphafuse_items_by_hand(datasets_dir: Path, whiten: int) -> None:
    model, data = make("AlphaFuse", datasets_dir, whiten=whiten)
    features = data.features["text"][1:].double().numpy()
    centred = features - features.mean(axis=0)
    directions, variances, _ = np.linalg.svd(np.cov(centred.T, bias=True))
    expected = np.zeros((data.n_items, 8))
    expected[1:, :whiten] = (centred @ directions / np.sqrt(variances + 1e-6))[:, :whiten]

    def same_items() -> None:
        items = model.items().flip(1).detach().numpy()
        items[1:, 5:] -= model.id_embedding.weight.flip(1).detach().numpy()[1:]
        signs = np.sign((items * expected).sum(axis=0))  # of directions, which are arbitrary
        np.testing.assert_allclose(items, signs * expected, rtol=1e-3, atol=1e-4)

    same_items()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model.loss_terms(all_packed(data))["rec"].backward()
        optimizer.step()
    same_items()
    assert torch.equal(before["plm_text_embedding.weight"], model.plm_text_embedding.weight)
    assert model.id_embedding.weight[1:].all() and not model.items()[0].any()


@pytest.mark.parametrize("wrong", [{"whiten": None}, {"whiten": 129}, {"null_dim": 129}])
def test_alphafuse_has_room_for_features_and_id(wrong: Dict[str, Any], datasets_dir: Path) -> None:
    step = baseline.find("AlphaFuse")
    with pytest.raises(UserError, match=rf"{next(iter(wrong))}=.*: give a number up to hidden_size=128"):
        check_values(build(step.Settings, {"dataset": "any", **wrong}, step.CONFIGS), "AlphaFuse")


def test_mixture_of_experts_one_expert_at_a_time() -> None:
    torch.manual_seed(0)
    mixture = features.MixtureOfExperts(6, 4, 3, dropout=0.5).eval()
    for parameter in mixture.parameters():
        parameter.data.normal_()
    x = torch.randn(5, 6)
    gates = (x @ mixture.gate).softmax(dim=1)
    expected = sum(gates[:, [e]] * ((x - mixture.shift[e]) @ mixture.map[e]) for e in range(3))
    assert torch.allclose(mixture(x), expected, atol=1e-5)


def test_nearest_content_by_hand(datasets_dir: Path) -> None:
    model, data = make("NearestContent", datasets_dir, window=2, whiten=None)
    table = F.normalize(data.features["text"].float(), dim=1).numpy()
    items, lengths = np.array([[3, 5, 0], [7, 0, 0]]), np.array([2, 1])
    expected = np.stack([table @ (table[5] + table[3] / 2), table @ table[7]])
    expected[[0, 1], [5, 7]] = expected.min(axis=1) - 1e-3
    np.testing.assert_allclose(model.scores(items, lengths), expected, rtol=1e-5, atol=1e-6)
    white, _ = make("NearestContent", datasets_dir, whiten=4)
    found = features.whitened(data.features["text"], 4).numpy()
    cosine = found[2] @ found[7] / np.linalg.norm(found[2]) / np.linalg.norm(found[7])
    assert white.scores(items, lengths)[1, 2] == pytest.approx(cosine, rel=1e-4)


def test_title_words() -> None:
    table, words = networks.title_words(["Red 电影, red", "red film", "电"], 2)
    assert words == ["[PAD]", "red", "电"] and table.tolist() == [[1, 2], [1, 0], [2, 0]]


@pytest.mark.parametrize("name", ["Pop", "NearestContent", "GRU4Rec", "FDSA", "AlphaFuse", "eSASRec"])
def test_a_checkpoint_gives_the_same_model(name: str, datasets_dir: Path, tmp_path: Path) -> None:
    folder = run(name, datasets_dir, epochs=1, results_dir=str(tmp_path))
    model = load_model(folder / "best.pth", "Tiny", str(datasets_dir), CPU, models=baseline.find(name).models())
    ranks = model.rank(EvalLoader(model.data.test, model.data.n_items), CPU, Processes())
    written = [line.split(",")[2] for line in (folder / "ranks.csv").read_text().splitlines()[1:]]
    assert ranks.tolist() == list(map(float, written))


def test_ensemble_is_the_best_sum_on_validation(datasets_dir: Path, tmp_path: Path) -> None:
    values = {"epochs": 1, "results_dir": str(tmp_path)}
    parts = {
        key: run(name, datasets_dir, **values) / "best.pth"
        for key, name in (("id_checkpoint", "SASRec"), ("text_checkpoint", "SASRecText"))
    }
    given = {**{key: str(path) for key, path in parts.items()}, "weight_steps": 4, **values}
    folder = run("Ensemble", datasets_dir, **given)
    valid = [read_metrics(path.parent)["valid"]["ndcg@10"] for path in parts.values()]
    assert read_metrics(folder)["valid"]["ndcg@10"] >= max(valid) and "test" in read_metrics(folder)
    inputs = json.loads((folder / "made.json").read_text())["inputs"]
    assert {key: inputs[key]["sha256"] for key in parts} == {key: checksum(path) for key, path in parts.items()}

    models = baseline.find("Ensemble").models()
    model = load_model(folder / "best.pth", "Tiny", str(datasets_dir), CPU, models=models)
    assert float(model.weight) in (0, 0.25, 0.5, 0.75, 1)  # type: ignore[arg-type]
    parts["id_checkpoint"].write_bytes(parts["text_checkpoint"].read_bytes())
    with pytest.raises(UserError, match=r"trained with another .*best.pth \(id_checkpoint\)"):
        load_model(folder / "best.pth", "Tiny", str(datasets_dir), CPU, models=models)


def test_ensemble_trains_its_parts_as_they_would_be_trained_alone(datasets_dir: Path, tmp_path: Path) -> None:
    values = {"dataset": "Tiny", "datasets_dir": str(datasets_dir), "results_dir": str(tmp_path), "device": "cpu"}
    values.update(precision="fp32", max_seq_length=10, epochs=2, train_batch_size=8)  # type: ignore[call-overload]
    values.update(learning_rate=0.01, clip_grad_norm=0.5)  # type: ignore[call-overload]
    given = {"text_part": "SASRecText", "part_trials": 1, "weight_steps": 2, "n_trials": 2}
    given["search_space"] = {"zscore": [True, False]}  # type: ignore[assignment]
    folder = baseline.find("Ensemble").train(SCHEMAS["Ensemble"](**values, **given))
    assert len(list(folder.parent.glob("search-*"))) == 1
    inputs = json.loads((folder / "made.json").read_text())["inputs"]
    for part, key in (("SASRec", "id_checkpoint"), ("SASRecText", "text_checkpoint")):
        step = baseline.find(part)
        alone = step.train(build(step.Settings, {**values, "n_trials": 1}, step.CONFIGS))
        assert checksum(alone / "best.pth") == inputs[key]["sha256"]


def test_ensemble_with_a_part_that_reads_less_is_refused(datasets_dir: Path, tmp_path: Path) -> None:
    values = {"epochs": 1, "results_dir": str(tmp_path), "text_part": "NearestContent"}
    part = run("SASRec", datasets_dir, max_seq_length=3, epochs=1, results_dir=str(tmp_path)) / "best.pth"
    with pytest.raises(UserError, match="best.pth: reads 3 items, but the ensemble 10; set max_seq_length=3"):
        run("Ensemble", datasets_dir, id_checkpoint=str(part), **values)
    folder = run("Ensemble", datasets_dir, id_checkpoint=str(part), max_seq_length=3, weight_steps=2, **values)
    assert 0 < read_metrics(folder)["test"]["mrr"] <= 1


def test_search_is_shared_by_seeds(datasets_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = {"dropout_prob": {"low": 0.1, "high": 0.5}, "num_layers": [1, 2]}
    values = {"epochs": 1, "results_dir": str(tmp_path), "n_trials": 2, "search_space": space}
    runs = [run("GRU4Rec", datasets_dir, seed=seed, **values) for seed in (2024, 7)]
    chosen = [json.loads((folder / "made.json").read_text())["settings"] for folder in runs]
    assert [s["seed"] for s in chosen] == [2024, 7]
    assert all(chosen[0][key] == chosen[1][key] for key in space)
    assert capsys.readouterr().out.count("trial 1: ") == 2  # started and scored, once


def test_pop_from_command_line_to_ranks(datasets_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["Pop", "-d", "Tiny", f"datasets_dir={datasets_dir}", f"results_dir={tmp_path}", "device=cpu"]
    baseline.main(words)
    (found,) = (tmp_path / "Pop" / "Tiny").glob("*/metrics.json")
    assert {"valid", "test", "test_masked", "protocol", "seconds", "seed"} <= set(read_metrics(found.parent))
    assert len((found.parent / "ranks.csv").read_text().splitlines()) == 1 + 12
    baseline.main(words)
    assert "is up to date" in capsys.readouterr().out
    with pytest.raises(UserError, match="did you mean 'SASRec'"):
        baseline.main(["SASRek", "-d", "Tiny"])
    with pytest.raises(UserError, match="unknown setting 'windw'"):
        baseline.main(["Markov", "-d", "Tiny", "windw=2"])


def test_settings_are_read_without_torch() -> None:
    code = "import sys, reproduce.baseline, reproduce.scores; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT).returncode == 0


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_yaml_fits_its_settings(name: str) -> None:
    step = baseline.find(name)
    assert step.models()[name].schema is step.Settings and issubclass(step.models()[name], RankingModel)
    chosen = build(step.Settings, {"dataset": "any"}, step.CONFIGS)
    check_values(chosen, name)
    assert set(read_yaml(step.CONFIGS / "default.yaml")) <= set(as_dict(chosen))
    if name == "Pop":
        assert not isinstance(chosen, BaselineSettings)  # nothing to search: a suite's n_trials goes to the others
    else:
        check_space(chosen)  # type: ignore[arg-type]
    assert isinstance(chosen, settings.RankingSettings) and chosen.train_batch_size == 2048
