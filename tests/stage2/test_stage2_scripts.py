"""The real scripts of stage 2 on a tiny budget: killed, repeated, misused, in several processes."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from read_only import read_only
from stage2_helpers import (
    ENVIRONMENT,
    STAGE2,
    assert_same_results,
    make_model,
    make_ready,
    only_run,
    read_metrics,
    run_script,
    settings_of,
    words,
)

from common import training
from common.errors import Diverged, UserError
from common.features import features_dir, features_path, save_features
from common.files import recipe
from stage2_sequence_preference_learning import SICSRec_main1, checkpoints, evaluate, id_encoder_main1, recommend
from stage2_sequence_preference_learning.models import SICSRec


def start(script, command, results_dir):
    """Start a script and return it once it has written its first checkpoint."""
    line = [sys.executable, str(STAGE2 / script), *command]
    process = subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(results_dir.glob("*/*/*/last.pth")):
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it could be interrupted"
    return process


def train_id(datasets_dir, results_dir, **step_1):
    """A trained ID encoder's folder."""
    settings = settings_of(datasets_dir, results_dir)
    settings.step_1.update(step_1)
    return id_encoder_main1.train(SICSRec_main1.id_settings(settings))


def evaluate_words(datasets_dir, checkpoint):
    return ["-d", "Tiny", f"datasets_dir={datasets_dir}", "--checkpoint", str(checkpoint)]


def test_two_steps_in_one_command(datasets_dir, tmp_path):
    folder = SICSRec_main1.train(settings_of(datasets_dir, tmp_path / "results"))
    step_1 = only_run(tmp_path / "results", "ID_SeqEncoder")
    by_id = torch.load(step_1 / "best.pth", weights_only=True)["state_dict"]
    whole = torch.load(folder / "best.pth", weights_only=True)["state_dict"]
    for name, weight in by_id.items():  # frozen stays frozen, to the bit; what is trained has moved
        assert torch.equal(whole[name], weight) == name.startswith("trm_encoder."), name
    assert all(whole[name].any() for name in whole if name.endswith("lora_B.weight"))
    metrics = read_metrics(folder)
    assert set(metrics["test"]) == {"hit@5", "hit@10", "ndcg@5", "ndcg@10", "mrr"}
    assert metrics["parameters"]["frozen"] == sum(w.numel() for n, w in by_id.items() if n.startswith("trm_encoder."))
    assert len((folder / "ranks.csv").read_text().splitlines()) == 1 + 12


@pytest.mark.parametrize(
    "values",
    [{"precision": "fp32"}, {"precision": "bf16"}, {"train_features": False, "loss": "sampled_softmax_logq"}],
    ids=str,
)
def test_resumed_equals_uninterrupted(datasets_dir, tmp_path, monkeypatch, values):
    whole = SICSRec_main1.train(settings_of(datasets_dir, tmp_path / "whole", **values))
    original, saved = training.save_last, []

    def dies_after_the_second_epoch(*arguments):
        original(*arguments)
        saved.append(arguments)
        if len(saved) == 2:
            raise KeyboardInterrupt

    step_1 = str(only_run(tmp_path / "whole", "ID_SeqEncoder") / "best.pth")
    cut = settings_of(datasets_dir, tmp_path / "cut", pretrain_id=step_1, **values)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training, "save_last", dies_after_the_second_epoch)
        SICSRec_main1.train(cut)
    assert not (only_run(tmp_path / "cut") / "made.json").exists()
    last = torch.load(only_run(tmp_path / "cut") / "last.pth", weights_only=True)["weights"]
    assert any("plm_" in name for name in last) == cut.train_features
    assert_same_results(SICSRec_main1.train(cut), whole)


def test_killed_and_started_again_equals_uninterrupted(datasets_dir, tmp_path):
    budget = {"epochs": 40, "stopping_step": 40}
    assert run_script("id_encoder_main1.py", words(datasets_dir, tmp_path / "whole", **budget)).returncode == 0
    command = words(datasets_dir, tmp_path / "cut", **budget)
    killed = start("id_encoder_main1.py", command, tmp_path / "cut")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not list((tmp_path / "cut").glob("*/*/*/made.json"))
    again = run_script("id_encoder_main1.py", command)
    assert again.returncode == 0 and "continues after epoch" in again.stdout, again.stderr
    assert_same_results(only_run(tmp_path / "cut", "ID_SeqEncoder"), only_run(tmp_path / "whole", "ID_SeqEncoder"))


def test_a_second_process_waits_and_finds_the_run_finished(datasets_dir, tmp_path):
    command = words(datasets_dir, tmp_path, epochs=200, stopping_step=200)
    first = start("id_encoder_main1.py", command, tmp_path)
    second = run_script("id_encoder_main1.py", command)
    assert first.wait() == 0 and second.returncode == 0
    assert f"process {first.pid} is writing here; waiting for it" in second.stdout and "epoch" not in second.stdout


def test_nan_names_step_and_term(datasets_dir, tmp_path, monkeypatch):
    original = SICSRec.loss_terms

    def broken(self, batch):
        terms = original(self, batch)
        return {**terms, "contrastive": terms["contrastive"] * float("nan")}

    monkeypatch.setattr(SICSRec, "loss_terms", broken)
    with pytest.raises(Diverged, match=r"epoch 1, step 1: .* from its term: contrastive;"):
        SICSRec_main1.train(settings_of(datasets_dir, tmp_path / "results", pretrain_id="none"))


def test_weights_that_are_not_finite_stop_at_the_validation(datasets_dir, tmp_path, monkeypatch):
    original = training.validate

    def spoiled(model, *rest):
        with torch.no_grad():
            model.item_embedding.weight.fill_(float("nan"))
        return original(model, *rest)

    monkeypatch.setattr(training, "validate", spoiled)
    with pytest.raises(Diverged, match=r"validation: a score is NaN"):
        SICSRec_main1.train(settings_of(datasets_dir, tmp_path / "results"))


def test_of_equal_validations_the_latest_is_kept_and_patience_starts_anew(datasets_dir, tmp_path, monkeypatch):
    scores = iter([0.1, 0.3, 0.3, 0.2, 0.3, 0.1, 0.2, 0.1])
    names = ("hit@5", "hit@10", "ndcg@5", "ndcg@10", "mrr")
    monkeypatch.setattr(training, "validate", lambda *rest: dict.fromkeys(names, next(scores)))
    settings = settings_of(datasets_dir, tmp_path, pretrain_id="none", epochs=8, stopping_step=1)
    metrics = read_metrics(SICSRec_main1.train(settings))
    assert (metrics["best_epoch"], metrics["epochs"]) == (5, 7)


def test_several_processes_test_alike(datasets_dir, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29577")
    both = run_script("SICSRec_main1.py", words(datasets_dir, tmp_path, variant="released"), launcher)
    assert both.returncode == 0, both.stderr
    folder = only_run(tmp_path)
    metrics = read_metrics(folder)
    assert metrics["epochs"] == 3
    command = evaluate_words(datasets_dir, folder / "best.pth")
    alone, together = run_script("evaluate.py", command), run_script("evaluate.py", command, launcher)
    assert alone.stdout == together.stdout
    assert f"{metrics['test']['hit@10']:.4f}" in alone.stdout


class PickledConfig:
    """Like the object in published checkpoints."""

    def __reduce__(self):
        return (os.system, ("touch should_not_exist",))


def test_published_id_encoder_loads_and_nothing_runs(datasets_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = train_id(datasets_dir, tmp_path / "r", epochs=1)
    ours = torch.load(folder / "best.pth", weights_only=True)
    published = tmp_path / "ID_SeqEncoder-Tiny.pth"
    torch.save({"state_dict": ours["state_dict"], "config": PickledConfig(), "epoch": 3}, published)
    run_dir = SICSRec_main1.train(settings_of(datasets_dir, tmp_path / "r", pretrain_id=str(published)))
    whole = torch.load(run_dir / "best.pth", weights_only=True)["state_dict"]
    name = "trm_encoder.layer.0.feed_forward.dense_1.weight"
    assert torch.equal(whole[name], ours["state_dict"][name])
    evaluate.main(evaluate_words(datasets_dir, published))
    test = read_metrics(folder)["test"]
    assert f"{test['hit@10']:.4f}" in capsys.readouterr().out
    assert not (tmp_path / "should_not_exist").exists()


@pytest.mark.parametrize("modalities", [["text", "image"], ["image"]])
def test_a_published_sicsrec_is_known_by_its_shapes(datasets_dir, tmp_path, capsys, modalities):
    settings = settings_of(datasets_dir, tmp_path / "r", pretrain_id="none", modalities=modalities, lora_rank=3)
    folder = SICSRec_main1.train(settings)
    weights = torch.load(folder / "best.pth", weights_only=True)["state_dict"]
    torch.save({"state_dict": weights}, tmp_path / "published.pth")
    capsys.readouterr()
    evaluate.main([*evaluate_words(datasets_dir, tmp_path / "published.pth"), "variant=paper"])
    test = read_metrics(folder)["test"]
    assert "  ".join(f"{value:8.4f}" for value in test.values()) in capsys.readouterr().out


def test_a_released_content_encoder_loads_by_its_names_s20(datasets_dir, tmp_path, capsys):
    model, _, _ = make_model(datasets_dir, "Content_SeqEncoder")
    theirs = {ours: released for released, ours in checkpoints.RELEASED_NAMES.items()}
    for path, names in (("ours.pth", {}), ("theirs.pth", theirs)):
        weights = model.state_dict()
        for ours, released in names.items():
            weights = {key.replace(ours, released): weight for key, weight in weights.items()}
        torch.save({"state_dict": weights}, tmp_path / path)
        evaluate.main(evaluate_words(datasets_dir, tmp_path / path))
    first, second = capsys.readouterr().out.split("Content_SeqEncoder on")[1:]
    assert first == second


def test_step_1_draws_its_rows_as_step_2_does_s17(datasets_dir, tmp_path):
    for variant, batch_by in (("paper", "user"), ("released", "row")):
        settings = settings_of(datasets_dir, tmp_path, variant=variant)
        assert settings.batch_by == SICSRec_main1.id_settings(settings).batch_by == batch_by


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["state_dict"].pop("LayerNorm.bias"), "id.pth does not fit .* missing LayerNorm.bias"),
        (
            lambda content: content["about"].update(model="ADRec"),
            "a checkpoint of ADRec; give that of an ID_SeqEncoder",
        ),
        (lambda content: content["about"]["settings"].update(n_heads=4), "trained with n_heads=4, but here n_heads=2"),
        (lambda content: content["about"]["inputs"].update(sequences="1"), "trained on other sequences; train the ID"),
    ],
)
def test_an_id_encoder_that_does_not_fit_is_refused(datasets_dir, tmp_path, change, message):
    content = torch.load(train_id(datasets_dir, tmp_path, epochs=1) / "best.pth", weights_only=True)
    change(content)
    torch.save(content, tmp_path / "id.pth")
    with pytest.raises(UserError, match=f"pretrain_id=.*{message}"):
        SICSRec_main1.train(settings_of(datasets_dir, tmp_path, pretrain_id=str(tmp_path / "id.pth")))


@pytest.mark.parametrize("name", ["MISSING.pth", "."])
def test_a_checkpoint_that_is_no_file_is_named_with_what_to_give(datasets_dir, tmp_path, name):
    path = tmp_path / name
    with pytest.raises(UserError, match=f"pretrain_id={path}: no such file; give the best.pth of an ID_SeqEncoder"):
        SICSRec_main1.main([*words(datasets_dir, tmp_path), "-pretrain_id", str(path)])
    for script, further in ((evaluate, []), (recommend, ["--user", "2"])):
        with pytest.raises(UserError, match=f"{path}: no such checkpoint; give the best.pth of a run"):
            script.main([*evaluate_words(datasets_dir, path), *further])


def test_the_id_encoder_has_no_search(capsys):
    with pytest.raises(SystemExit):
        id_encoder_main1.main(["-d", "Tiny", "--n_trials", "2"])
    assert "argument --n_trials: the ID encoder has no search; leave it out" in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
def test_no_script_uses_weights_that_are_not_finite(datasets_dir, tmp_path, value):
    """A rank among NaN would be a good one, and a list of recommendations would be empty."""
    model, _, _ = make_model(datasets_dir, "ID_SeqEncoder")
    model.item_embedding.weight.data[2:] = value
    torch.save({"state_dict": model.state_dict()}, tmp_path / "id.pth")
    command = evaluate_words(datasets_dir, tmp_path / "id.pth")
    for script, further in ((evaluate, []), (recommend, ["--user", "2"])):
        with pytest.raises(UserError, match=r"id.pth.*: .*(NaN|inf).*; use another checkpoint"):
            script.main([*command, *further])


def test_what_evaluate_cannot_use_is_named(datasets_dir, tmp_path):
    model, _, _ = make_model(datasets_dir, "ID_SeqEncoder")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "id.pth")
    with pytest.raises(UserError, match="id.pth: rank_normalized=False: ID_SeqEncoder has no such setting"):
        evaluate.main([*evaluate_words(datasets_dir, tmp_path / "id.pth"), "rank_normalized=false"])
    torch.save({"state_dict": {"w": torch.zeros(1)}, "about": {"model": "ADRec"}}, tmp_path / "adrec.pth")
    with pytest.raises(UserError, match="adrec.pth: a checkpoint of ADRec; use adrec/test_main.py"):
        evaluate.main(evaluate_words(datasets_dir, tmp_path / "adrec.pth"))


def test_a_checkpoint_of_other_sequences_is_refused(tmp_path):
    """The rows of its tables are numbered by the order of the sequences."""
    home = make_ready(tmp_path / "d")
    checkpoint = train_id(tmp_path / "d", tmp_path / "r", epochs=1) / "best.pth"
    lines = (home / "sequential_data.txt").read_text().splitlines()
    (home / "sequential_data.txt").write_text("\n".join(reversed(lines)) + "\n")
    with pytest.raises(UserError, match="best.pth: trained with another .*sequential_data.txt .*; train again"):
        evaluate.main(evaluate_words(tmp_path / "d", checkpoint))


def test_step_1_has_the_sizes_of_step_2(datasets_dir, tmp_path):
    settings = settings_of(datasets_dir, tmp_path, step_1={"epochs": 7, "n_heads": 4})
    with pytest.raises(UserError, match="step 1: n_heads=4: both steps need the same; n_heads=VALUE sets it for both"):
        SICSRec_main1.train(settings)
    with pytest.raises(UserError, match="step_1.*epochz.*did you mean 'epochs'"):
        SICSRec_main1.main([*words(datasets_dir, tmp_path), "pretrain_id=none", "step_1={epochz: 3}"])
    step_1 = SICSRec_main1.id_settings(settings_of(datasets_dir, tmp_path, step_1={"epochs": 7}, seed=5))
    assert (step_1.epochs, step_1.hidden_size, step_1.seed) == (7, 8, 5)


def test_evaluate_writes_scores_and_honours_the_variant(datasets_dir, tmp_path, capsys):
    folder = SICSRec_main1.train(settings_of(datasets_dir, tmp_path / "r"))
    scores = {}
    for variant in ("paper", "released"):
        file = tmp_path / f"{variant}.npy"
        evaluate.main([*evaluate_words(datasets_dir, folder / "best.pth"), f"variant={variant}", "--scores", str(file)])
        scores[variant] = np.load(file)
        assert scores[variant].shape == (12, 15)
    assert not np.allclose(scores["paper"], scores["released"])
    ranks = [line.split(",") for line in (folder / "ranks.csv").read_text().splitlines()[1:]]
    for user, item, rank, _ in ranks:  # the file's ranks follow from the scores
        row = scores["paper"][int(user)]
        assert float(rank) == 1 + (row > row[int(item)]).sum() + ((row == row[int(item)]).sum() - 1) / 2


def test_recommend_prints_titles_and_leaves_out_what_was_seen(datasets_dir, tmp_path, capsys):
    SICSRec_main1.train(settings_of(datasets_dir, tmp_path / "r"))
    command = ["-d", "Tiny", f"datasets_dir={datasets_dir}", f"results_dir={tmp_path / 'r'}"]
    capsys.readouterr()
    recommend.main([*command, "--items", "0,5", "-k", "3"])
    lines = capsys.readouterr().out.split("recommends:\n")[1].splitlines()
    ids = datasets_dir / "Tiny" / "item_ids.csv"
    ids.write_text("id,original_id\n" + "".join(f"{i},sku{i}\n" for i in range(15)))
    recommend.main([*command, "--items", "0,5", "-k", "3"])
    named = capsys.readouterr().out.split("recommends:\n")[1].splitlines()
    assert named == [f"{line} [sku{line.split()[0]}]" for line in lines]
    ids.unlink()
    assert len(lines) == 3 and not {"0", "5"} & {line.split()[0] for line in lines}
    recommend.main([*command, "--user", "2"])
    out = capsys.readouterr().out
    assert "after 6 items" in out and len(out.split("recommends:\n")[1].splitlines()) == 15 - 6
    for wrong, message in (
        (["--user", "99"], "no such user"),
        (["--items", "1,x"], "commas"),
        (["--items", "77"], "no item 77"),
        ([], "give either"),
    ):
        with pytest.raises(UserError, match=message):
            recommend.main([*command, *wrong])


def test_features_of_other_titles_are_refused(tmp_path):
    home = make_ready(tmp_path)
    items, path = home / "Tiny_item_sort.csv", features_path(features_dir(home, "paper"), "Tiny", "text")
    save_features(path, torch.randn(15, 4), recipe("test", {}, {"items": items}))
    settings = settings_of(tmp_path, tmp_path / "r", modalities=["text"], epochs=1, pretrain_id="none")
    SICSRec_main1.train(settings)
    items.write_text(items.read_text(encoding="utf-8").replace("0,", "0,other ", 1), encoding="utf-8")
    with pytest.raises(UserError, match="made from other titles than those of .*Tiny_item_sort.csv"):
        SICSRec_main1.train(settings)


def test_a_name_that_is_taken_is_refused(datasets_dir, tmp_path):
    train_id(datasets_dir, tmp_path / "r", run="mine")
    with pytest.raises(UserError, match="mine: made with other settings or inputs: epochs 3 → 4; use run=NAME"):
        train_id(datasets_dir, tmp_path / "r", run="mine", epochs=4)


def test_a_run_killed_between_training_and_test_is_tested_without_training(datasets_dir, tmp_path, monkeypatch):
    whole = train_id(datasets_dir, tmp_path / "whole")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training, "load_weights", lambda *rest: (_ for _ in ()).throw(KeyboardInterrupt))
        train_id(datasets_dir, tmp_path / "cut")
    with monkeypatch.context() as patched:
        patched.setattr(training, "validate", lambda *rest: pytest.fail("it trains again"))
        assert_same_results(train_id(datasets_dir, tmp_path / "cut"), whole)


def test_a_finished_run_is_read_from_a_folder_that_cannot_be_written(datasets_dir, tmp_path):
    folder = train_id(datasets_dir, tmp_path / "r")
    with read_only(tmp_path):
        assert train_id(datasets_dir, tmp_path / "r") == folder
