"""Baselines: RecBole's networks give RecBole's own losses and scores; counts are by hand; runs end as stage 2's do."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recbole.config import Config

from common.device import Compute
from common.errors import UserError
from common.files import checksum
from common.settings import build, check_values, read_yaml
from reproduce import baseline
from reproduce.baselines import counted, features, neural
from reproduce.baselines.settings import SCHEMAS, BaselineSettings
from stage2_sequence_preference_learning.data import EvalLoader, TrainLoader, load_splits
from stage2_sequence_preference_learning.evaluation import load_model
from stage2_sequence_preference_learning.packing import batch_of_rows
from stage2_sequence_preference_learning.search_space import check_space
from stage2_sequence_preference_learning.settings import as_dict, recbole_config

SMALL = {"hidden_size": 8, "inner_size": 8, "embedding_size": 8, "padded_length": 10, "n_experts": 2}
NETWORKS = [name for name in baseline.MODELS if name != "Ensemble"]


def small(name, datasets_dir, **values):
    own = {key: value for key, value in SMALL.items() if key in as_dict(SCHEMAS[name]())}
    common = {"dataset": "Tiny", "datasets_dir": str(datasets_dir), "device": "cpu", "precision": "fp32"}
    return SCHEMAS[name](**{**common, "train_batch_size": 16, "max_seq_length": 10, **own, **values})


def make(name, datasets_dir, **values):
    settings = small(name, datasets_dir, **values)
    config = recbole_config(baseline.MODELS[name], settings, torch.device("cpu"), datasets_dir / "unused")
    config["n_catalogue"] = 15
    splits = load_splits(config)
    torch.manual_seed(0)
    return baseline.MODELS[name](config, splits[0]), splits, settings


def all_rows(split):
    inter = split.inter_feat
    return inter, batch_of_rows(inter["item_id_list"], inter["item_length"], inter["item_id"])


def padded(histories):
    return torch.nn.functional.pad(histories, (0, 10 - histories.shape[1]))


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "NARM", "CORE", "FDSA", "LightSANs"])
def test_loss_and_scores_are_recboles(name, datasets_dir):
    model, splits, _ = make(name, datasets_dir)
    model.eval()
    inter, rows = all_rows(splits[0])
    if name == "LightSANs":  # the others do not mind how much padding there is
        inter.interaction["item_id_list"] = padded(inter["item_id_list"])
    (packed,) = [batch for batch, _ in TrainLoader(splits[0], 10**6, 0)]
    ours = model.terms(packed)["rec"]
    full = model.full_sort_scores(rows)
    if model.net.__dict__.pop("gather_indexes", None) is not None:  # RecBole's own again
        assert name in ("SASRec", "GRU4Rec", "FDSA")
    torch.testing.assert_close(ours, model.net.calculate_loss(inter), rtol=1e-4, atol=1e-5)
    theirs = model.net.full_sort_predict(inter).view(len(inter), -1)
    torch.testing.assert_close(full[:, 1:], theirs[:, 1:] * (1.0 if name != "CORE" else model.temperature))


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_do_not_depend_on_the_batch(name, datasets_dir):
    model, splits, _ = make(name, datasets_dir)
    model.eval()
    ((rows, batch),) = list(EvalLoader(splits[2]))
    together = model.full_sort_scores(batch)
    alone = EvalLoader(splits[2])
    alone.batches = [np.array([row]) for row in rows]
    for (_, one), expected in zip(alone, together):
        torch.testing.assert_close(model.full_sort_scores(one)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in (*counted.COUNTED, "NearestContent")])
def test_every_trained_weight_has_a_gradient(name, datasets_dir):
    model, splits, _ = make(name, datasets_dir)
    (batch,) = [batch for batch, _ in TrainLoader(splits[0], 10**6, 0)]
    sum(model.terms(batch).values()).backward()
    without = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not without


@pytest.mark.parametrize("name", baseline.MODELS)
def test_each_setting_is_read(name, datasets_dir, monkeypatch):
    if name == "Ensemble":
        pytest.skip("read in test_ensemble")
    read = set()
    original = Config.__getitem__
    monkeypatch.setattr(Config, "__getitem__", lambda config, key: (read.add(key), original(config, key))[1])
    values = {"dual_domain": True} if name == "FEARec" else {}
    make(name, datasets_dir, **values)
    own = set(as_dict(SCHEMAS[name]())) - set(as_dict(BaselineSettings()))
    assert not own - read


def test_bert4rec_masks_and_predicts_after_the_history(datasets_dir):
    model, splits, _ = make("BERT4Rec", datasets_dir, max_seq_length=10, ft_ratio=1.0)
    inter, rows = all_rows(splits[2])
    items, lengths = model.with_last(rows, torch.full_like(rows.targets, 99))
    assert (items[torch.arange(len(items)), lengths - 1] == 99).all() and (lengths == inter["item_length"] + 1).all()
    items, lengths = neural.latest(torch.arange(1, 13).view(2, 6), torch.tensor([6, 3]), 4)
    assert items.tolist() == [[3, 4, 5, 6], [7, 8, 9, 10]] and lengths.tolist() == [4, 3]
    model.eval()
    terms = model.terms(rows)["rec"]  # the last item alone is masked: the prediction after the history
    scores = model.preference(rows) @ model.candidates().T
    torch.testing.assert_close(terms, torch.nn.functional.cross_entropy(scores, rows.targets))


def test_fearec_draws_other_rows_of_the_same_target(datasets_dir):
    model, splits, _ = make("FEARec", datasets_dir)
    inter, rows = all_rows(splits[0])
    items, lengths = model.padded(*neural.prefixes(rows))
    other, _ = model.same_target(items, rows.targets)
    by_history = {}
    for history, target in zip(padded(inter["item_id_list"]).tolist(), inter["item_id"].tolist()):
        by_history.setdefault(target, []).append(history)
    for row, target, found in zip(items.tolist(), rows.targets.tolist(), other.tolist()):
        assert found in by_history[target]
        assert found != row or by_history[target].count(row) > 1 or len(by_history[target]) == 1


def test_counts_by_hand(datasets_dir):
    markov, splits, _ = make("Markov", datasets_dir, backoff=0.0)
    inter = splits[0].inter_feat
    pairs = [
        (history[length - 1], target)
        for history, length, target in zip(
            inter["item_id_list"].tolist(), inter["item_length"].tolist(), inter["item_id"].tolist()
        )
    ]
    last = pairs[0][0]
    after = [target for before, target in pairs if before == last]
    scores = markov.scores(np.array([[last]]), np.array([1]))[0]
    assert scores[after[0]] == pytest.approx(after.count(after[0]) / len(after)) and scores.sum() == pytest.approx(1)
    seen = counted.sparse.csr_matrix(np.array([[1, 1, 0], [1, 1, 1], [0, 0, 1]], np.float32))
    near = counted.nearest_items(seen, 1, 0.0).toarray()
    assert near[0, 1] == pytest.approx(1.0, abs=1e-4) and near[1, 0] == pytest.approx(1.0, abs=1e-4)
    assert near[0, 2] == pytest.approx(0.5, abs=1e-4) and near[1, 2] == 0  # one neighbour a column, the lower of a tie


def test_fearec_contrasts_no_rows_of_one_user(datasets_dir):
    model, splits, _ = make("FEARec", datasets_dir, contrast="un", lmd=0.1, tau=1.0)
    model.eval()
    (batch,) = [batch for batch, _ in TrainLoader(splits[0], 10**6, 0)]
    with torch.no_grad():  # without dropout both views agree
        z = (
            model.encode(*model.padded(*neural.prefixes(batch))).double().repeat(2, 1)
        )  # without dropout both views agree
        user, n = batch.sequences.repeat(2).tolist(), len(batch)
        values = []
        for i in range(2 * n):
            positive = z[i] @ z[(i + n) % (2 * n)]
            negatives = [z[i] @ z[j] for j in range(2 * n) if user[j] != user[i]]
            values.append(torch.stack([positive, *negatives]).logsumexp(0) - positive)
        expected = model.weights["lmd"] * torch.stack(values).mean()
        found = [value for name, value in model.terms(batch).items() if name != "rec"]
    assert len(set(user)) < n  # some user has several rows
    assert len(found) == 1 and found[0].item() == pytest.approx(expected.item(), rel=1e-4)


def test_whitened_features_have_unit_variance():
    out = features.whitened(torch.cat([torch.zeros(1, 6), torch.randn(50, 6) @ torch.randn(6, 6)]), 4)
    assert out.shape == (51, 4) and not out[0].any()
    torch.testing.assert_close(out[1:].T @ out[1:] / 50, torch.eye(4), atol=1e-3, rtol=0)


def test_mixture_of_experts_one_expert_at_a_time():
    torch.manual_seed(0)
    mixture = features.MixtureOfExperts(6, 4, 3, dropout=0.5).eval()
    for parameter in mixture.parameters():
        parameter.data.normal_()
    x = torch.randn(5, 6)
    gates = (x @ mixture.gate).softmax(dim=1)
    expected = sum(gates[:, [e]] * ((x - mixture.shift[e]) @ mixture.map[e]) for e in range(3))
    assert torch.allclose(mixture(x), expected, atol=1e-5)


def test_nearest_content_by_hand(datasets_dir):
    model, splits, settings = make("NearestContent", datasets_dir, window=2, whiten=None)
    table = F.normalize(splits[0].item_features("text").float(), dim=1).numpy()
    items, lengths = np.array([[3, 5, 0], [7, 0, 0]]), np.array([2, 1])
    expected = np.stack([table @ (table[5] + table[3] / 2), table @ table[7]])
    expected[[0, 1], [5, 7]] = expected.min(axis=1) - 1e-3
    np.testing.assert_allclose(model.scores(items, lengths), expected, rtol=1e-5, atol=1e-6)
    white, _, _ = make("NearestContent", datasets_dir, whiten=4)
    found = features.whitened(splits[0].item_features("text"), 4).numpy()
    cosine = found[2] @ found[7] / np.linalg.norm(found[2]) / np.linalg.norm(found[7])
    assert white.scores(items, lengths)[1, 2] == pytest.approx(cosine, rel=1e-4)


def test_nearest_content_is_tested_from_its_checkpoint_alone(datasets_dir, tmp_path):
    made = baseline.Baseline("NearestContent").run(small("NearestContent", datasets_dir, results_dir=str(tmp_path)))
    assert "test" in json.loads((made / "metrics.json").read_text())
    loaded = load_model(made / "best.pth", "Tiny", str(datasets_dir), Compute(torch.device("cpu"), "fp32"))
    assert loaded.model.plm_text_embedding.weight.any()


def test_title_words():
    table, words = neural.title_words(["Red 电影, red", "red film", "电"], 2)
    assert words == ["[PAD]", "red", "电"] and table.tolist() == [[1, 2], [1, 0], [2, 0]]


def test_ensemble_is_the_best_sum_on_validation(datasets_dir, tmp_path):
    values = {"epochs": 1, "results_dir": str(tmp_path), "precision": "fp32"}
    runs = [
        baseline.Baseline(name).run(small(name, datasets_dir, **values)) / "best.pth"
        for name in ("SASRec", "SASRecText")
    ]
    given = {"id_checkpoint": str(runs[0]), "text_checkpoint": str(runs[1]), "weight_steps": 4, **values}
    made = baseline.Baseline("Ensemble").run(small("Ensemble", datasets_dir, **given))
    result = json.loads((made / "metrics.json").read_text())
    valid = [json.loads((run.parent / "metrics.json").read_text())["valid"]["ndcg@10"] for run in runs]
    assert result["valid"]["ndcg@10"] >= max(valid) and "test" in result
    recipe = json.loads((made / "made.json").read_text())
    assert {"id_checkpoint", "text_checkpoint"} <= set(recipe["inputs"])


def test_ensemble_trains_its_parts_as_they_would_be_trained_alone(datasets_dir, tmp_path):
    values = {"dataset": "Tiny", "datasets_dir": str(datasets_dir), "results_dir": str(tmp_path), "device": "cpu"}
    values.update(precision="fp32", max_seq_length=10, epochs=2, train_batch_size=8)
    values.update(learning_rate=0.01, clip_grad_norm=0.5)
    given = {"text_part": "SASRecText", "part_trials": 1, "weight_steps": 2}
    made = baseline.Baseline("Ensemble").run(SCHEMAS["Ensemble"](**values, **given))
    parts = json.loads((made / "made.json").read_text())["inputs"]
    for part, key in (("SASRec", "id_checkpoint"), ("SASRecText", "text_checkpoint")):
        step = baseline.Baseline(part)
        alone = step.run(build(step.Settings, {**values, "n_trials": 1}, step.CONFIGS))
        assert checksum(alone / "best.pth") in str(parts[key])


def test_ensemble_of_a_part_that_reads_less_is_refused(datasets_dir, tmp_path):
    values = {"epochs": 1, "results_dir": str(tmp_path)}
    part = baseline.Baseline("SASRec").run(small("SASRec", datasets_dir, max_seq_length=3, **values)) / "best.pth"
    given = {"id_checkpoint": str(part), "text_part": "NearestContent", **values}
    with pytest.raises(UserError, match="best.pth: reads 3 items, and the ensemble gives it 10; set max_seq_length=3"):
        baseline.Baseline("Ensemble").run(small("Ensemble", datasets_dir, **given))


def test_ensemble_with_untrained_contents(datasets_dir, tmp_path):
    given = {"text_part": "NearestContent", "weight_steps": 2, "epochs": 1, "results_dir": str(tmp_path)}
    made = baseline.Baseline("Ensemble").run(small("Ensemble", datasets_dir, **given))
    assert 0 < json.loads((made / "metrics.json").read_text())["test"]["mrr"] <= 1


def test_search_is_shared_by_seeds(datasets_dir, tmp_path, capsys):
    space = {"dropout_prob": {"low": 0.1, "high": 0.5}, "num_layers": [1, 2]}
    values = {"epochs": 1, "results_dir": str(tmp_path), "n_trials": 2, "search_space": space}
    runs = [baseline.Baseline("GRU4Rec").run(small("GRU4Rec", datasets_dir, seed=seed, **values)) for seed in (2024, 7)]
    chosen = [json.loads((run / "made.json").read_text())["settings"] for run in runs]
    assert [s["seed"] for s in chosen] == [2024, 7]
    assert all(chosen[0][key] == chosen[1][key] for key in space)
    assert capsys.readouterr().out.count("trial 1: ") == 2  # begun and scored, once


def test_pop_from_command_line_to_ranks(datasets_dir, tmp_path):
    words = ["Pop", "-d", "Tiny", f"datasets_dir={datasets_dir}", f"results_dir={tmp_path}", "device=cpu"]
    baseline.main(words)
    (metrics,) = (tmp_path / "Pop" / "Tiny").glob("*/metrics.json")
    assert {"valid", "test", "test_masked", "protocol", "seconds", "seed"} <= set(json.loads(metrics.read_text()))
    assert len((metrics.parent / "ranks.csv").read_text().splitlines()) == 1 + 12
    with pytest.raises(UserError, match="did you mean 'SASRec'"):
        baseline.main(["SASRek", "-d", "Tiny"])
    with pytest.raises(UserError, match="unknown setting 'windw'"):
        baseline.main(["Markov", "-d", "Tiny", "windw=2"])


@pytest.mark.parametrize("name", baseline.MODELS)
def test_each_yaml_fits_its_settings(name):
    step = baseline.Baseline(name)
    settings = build(step.Settings, {"dataset": "any"}, step.CONFIGS)
    check_values(settings, name)
    assert set(read_yaml(step.CONFIGS / "default.yaml")) <= set(as_dict(settings))
    if name == "Pop":
        assert not hasattr(settings, "n_trials")  # nothing to tune: a suite's n_trials goes to the others
    else:
        check_space(settings)
