"""The real scripts of stage 2 on a tiny budget: they keep their word when killed, repeated or misused."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from stage2_helpers import make_model, make_ready

from common.errors import UserError
from common.features import features_path, save_features
from common.files import recipe
from common.settings import REPOSITORY
from stage2_sequence_preference_learning import (
    SICSRec_main1,
    evaluate,
    id_encoder_main1,
    recbole_process,
    recommend,
)
from stage2_sequence_preference_learning.data import TrainLoader, _columns
from stage2_sequence_preference_learning.models import MODELS
from stage2_sequence_preference_learning.settings import SCHEMAS
from stage2_sequence_preference_learning.trainer import SequenceTrainer

STAGE2 = REPOSITORY / "stage2_sequence_preference_learning"
SMALL = {"hidden_size": 8, "inner_size": 8, "train_batch_size": 16, "device": "cpu", "epochs": 3}


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def line(datasets_dir, results_dir, **values):
    """The command line of a tiny training."""
    values = {**SMALL, "datasets_dir": datasets_dir, "results_dir": results_dir, **values}
    return ["-d", "Tiny", *(f"{key}={value}" for key, value in values.items())]


def settings_of(datasets_dir, results_dir, **values):
    return SCHEMAS["SICSRec"](
        **{**SMALL, "dataset": "Tiny", "datasets_dir": str(datasets_dir), "results_dir": str(results_dir), **values}
    )


def run(script, words, launcher=()):
    command = [sys.executable, *launcher, str(STAGE2 / script), *words]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)


def start(script, words, results_dir):
    """Start a script and return it once it has written its first checkpoint."""
    command = [sys.executable, str(STAGE2 / script), *words]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(results_dir.glob("*/*/*/last.pth")):
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it could be interrupted"
    return process


def only_run(results_dir, model="SICSRec"):
    (folder,) = (results_dir / model / "Tiny").iterdir()
    return folder


def results_of(folder):
    """What must be the same to the bit: metrics, ranks, weights."""
    metrics = json.loads((folder / "metrics.json").read_text())
    weights = torch.load(folder / "best.pth", weights_only=True)["state_dict"]
    del metrics["seconds"], metrics["checkpoint"]
    return metrics, (folder / "ranks.csv").read_text(), weights


def assert_same_results(a, b):
    (metrics_a, ranks_a, weights_a), (metrics_b, ranks_b, weights_b) = results_of(a), results_of(b)
    assert metrics_a == metrics_b
    assert ranks_a == ranks_b
    assert weights_a.keys() == weights_b.keys()
    for name in weights_a:
        assert torch.equal(weights_a[name], weights_b[name]), name


def test_two_steps_in_one_command(datasets_dir, tmp_path):
    folder = SICSRec_main1.run(settings_of(datasets_dir, tmp_path / "results"))
    step_1 = only_run(tmp_path / "results", "ID_SeqEncoder")
    by_id = torch.load(step_1 / "best.pth", weights_only=True)["state_dict"]
    whole = torch.load(folder / "best.pth", weights_only=True)["state_dict"]
    for name, weight in by_id.items():  # frozen stays frozen, to the bit; what is trained has moved
        assert torch.equal(whole[name], weight) == name.startswith("trm_encoder."), name
    assert all(whole[name].any() for name in whole if name.endswith("lora_B.weight"))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics["test"]) == {"hit@5", "hit@10", "ndcg@5", "ndcg@10", "mrr"}
    assert metrics["parameters"]["frozen"] == sum(w.numel() for n, w in by_id.items() if n.startswith("trm_encoder."))
    assert len((folder / "ranks.csv").read_text().splitlines()) == 1 + 12


def test_same_seed_same_bits_and_a_finished_run_is_skipped(datasets_dir, tmp_path, capsys):
    a = SICSRec_main1.run(settings_of(datasets_dir, tmp_path / "a"))
    b = SICSRec_main1.run(settings_of(datasets_dir, tmp_path / "b"))
    assert_same_results(a, b)
    before = {path: path.stat().st_mtime_ns for path in a.glob("*.pth")}
    capsys.readouterr()
    assert SICSRec_main1.run(settings_of(datasets_dir, tmp_path / "a")) == a
    assert "stands, nothing to train" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in a.glob("*.pth")}
    other = SICSRec_main1.run(settings_of(datasets_dir, tmp_path / "a", seed=1))
    assert other != a


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumed_equals_uninterrupted(datasets_dir, tmp_path, monkeypatch, precision):
    whole = SICSRec_main1.run(settings_of(datasets_dir, tmp_path / "whole", precision=precision))
    original, saved = SequenceTrainer._save_last, []

    def dies_after_the_second_epoch(self, epoch, loader):
        original(self, epoch, loader)
        saved.append(epoch)
        if len(saved) == 2:
            raise KeyboardInterrupt

    step_1 = str(only_run(tmp_path / "whole", "ID_SeqEncoder") / "best.pth")
    cut = settings_of(datasets_dir, tmp_path / "cut", pretrain_id=step_1, precision=precision)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(SequenceTrainer, "_save_last", dies_after_the_second_epoch)
        SICSRec_main1.run(cut)
    assert not (only_run(tmp_path / "cut") / "metrics.json").exists()
    assert_same_results(SICSRec_main1.run(cut), whole)


def test_order_of_users_follows_from_seed_and_epoch(datasets_dir):
    _, _, (train, _, _) = make_model(datasets_dir, "ID_SeqEncoder")
    whole, resumed = TrainLoader(train, 4, seed=3), TrainLoader(train, 4, seed=3)
    orders = [[batch.targets.tolist() for batch, _ in whole] for _ in range(6)]
    assert orders[0] != orders[1]
    for epoch in range(6):
        resumed.epoch = epoch
        assert [batch.targets.tolist() for batch, _ in resumed] == orders[epoch]


def test_killed_and_started_again_equals_uninterrupted(datasets_dir, tmp_path):
    budget = {"epochs": 40, "stopping_step": 40}
    assert run("id_encoder_main1.py", line(datasets_dir, tmp_path / "whole", **budget)).returncode == 0
    words = line(datasets_dir, tmp_path / "cut", **budget)
    killed = start("id_encoder_main1.py", words, tmp_path / "cut")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not list((tmp_path / "cut").glob("*/*/*/metrics.json"))
    again = run("id_encoder_main1.py", words)
    assert again.returncode == 0 and "goes on after epoch" in again.stdout, again.stderr
    assert_same_results(only_run(tmp_path / "cut", "ID_SeqEncoder"), only_run(tmp_path / "whole", "ID_SeqEncoder"))


def test_a_second_process_on_one_folder_is_refused(datasets_dir, tmp_path):
    words = line(datasets_dir, tmp_path, epochs=100000, stopping_step=100000)
    first = start("id_encoder_main1.py", words, tmp_path)
    try:
        second = run("id_encoder_main1.py", words)
    finally:
        first.kill()
        first.wait()
    assert second.returncode == 1
    assert f"process {first.pid} is writing here" in second.stderr and "Traceback" not in second.stderr


def test_nan_names_step_and_term(datasets_dir, tmp_path, monkeypatch):
    original = MODELS["SICSRec"].terms

    def broken(self, batch):
        terms = original(self, batch)
        return {**terms, "contrastive": terms["contrastive"] * float("nan")}

    monkeypatch.setattr("stage2_sequence_preference_learning.models.SICSRec.terms", broken)
    with pytest.raises(UserError, match=r"epoch 0, step 0: .* from its term: contrastive"):
        SICSRec_main1.run(settings_of(datasets_dir, tmp_path / "results", pretrain_id="none"))


def test_weights_that_are_not_finite_stop_at_the_validation(datasets_dir, tmp_path, monkeypatch):
    def spoil(self, loss):
        with torch.no_grad():
            self.model.item_embedding.weight.fill_(float("nan"))

    monkeypatch.setattr(SequenceTrainer, "_update", spoil)
    monkeypatch.setattr(SequenceTrainer, "_check_terms", lambda *arguments: None)
    with pytest.raises(UserError, match=r"validation after epoch 0: a score is NaN"):
        SICSRec_main1.run(settings_of(datasets_dir, tmp_path / "results"))


def test_several_processes_test_alike(datasets_dir, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29577")
    both = run("SICSRec_main1.py", line(datasets_dir, tmp_path, variant="released"), launcher)
    assert both.returncode == 0, both.stderr
    folder = only_run(tmp_path)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["epochs"] == 3
    words = ["-d", "Tiny", f"datasets_dir={datasets_dir}", "--checkpoint", str(folder / "best.pth")]
    alone, together = run("evaluate.py", words), run("evaluate.py", words, launcher)
    assert alone.stdout == together.stdout
    assert f"{metrics['test']['hit@10']:.4f}" in alone.stdout


class PickledConfig:
    """Stands for the object that published checkpoints carry."""

    def __reduce__(self):
        return (os.system, ("touch should_not_exist",))


def test_published_id_encoder_loads_and_nothing_runs(datasets_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = id_encoder_main1.run(SICSRec_main1.id_settings(settings_of(datasets_dir, tmp_path / "r"), {"epochs": 1}))
    ours = torch.load(folder / "best.pth", weights_only=True)
    published = tmp_path / "ID_SeqEncoder-Tiny.pth"
    torch.save({"state_dict": ours["state_dict"], "config": PickledConfig(), "epoch": 3}, published)
    run_dir = SICSRec_main1.run(settings_of(datasets_dir, tmp_path / "r", pretrain_id=str(published)))
    whole = torch.load(run_dir / "best.pth", weights_only=True)["state_dict"]
    name = "trm_encoder.layer.0.feed_forward.dense_1.weight"
    assert torch.equal(whole[name], ours["state_dict"][name])
    evaluate.main(["-d", "Tiny", f"datasets_dir={datasets_dir}", "--checkpoint", str(published)])
    test = json.loads((folder / "metrics.json").read_text())["test"]
    assert f"{test['hit@10']:.4f}" in capsys.readouterr().out
    assert not (tmp_path / "should_not_exist").exists()


@pytest.mark.parametrize("modalities", [["text", "image"], ["image"]])
def test_a_published_sicsrec_is_known_by_its_shapes(datasets_dir, tmp_path, capsys, modalities):
    settings = settings_of(datasets_dir, tmp_path / "r", pretrain_id="none", modalities=modalities, lora_rank=3)
    folder = SICSRec_main1.run(settings)
    weights = torch.load(folder / "best.pth", weights_only=True)["state_dict"]
    torch.save({"state_dict": weights}, tmp_path / "published.pth")
    capsys.readouterr()
    evaluate.main(["-d", "Tiny", f"datasets_dir={datasets_dir}", "--checkpoint", str(tmp_path / "published.pth")])
    test = json.loads((folder / "metrics.json").read_text())["test"]
    assert "  ".join(f"{value:8.4f}" for value in test.values()) in capsys.readouterr().out


def test_weights_that_do_not_fit_are_listed(datasets_dir, tmp_path):
    folder = id_encoder_main1.run(SICSRec_main1.id_settings(settings_of(datasets_dir, tmp_path / "r"), {"epochs": 1}))
    weights = torch.load(folder / "best.pth", weights_only=True)["state_dict"]
    weights["item_embedding.weight"] = torch.zeros(3, 8)
    del weights["LayerNorm.bias"]
    weights["surplus"] = torch.zeros(1)
    torch.save({"state_dict": weights}, tmp_path / "other.pth")
    with pytest.raises(UserError) as error:
        SICSRec_main1.run(settings_of(datasets_dir, tmp_path / "r", pretrain_id=str(tmp_path / "other.pth")))
    for part in ("missing LayerNorm.bias", "unexpected surplus", "item_embedding.weight is (3, 8)"):
        assert part in str(error.value)


def test_what_a_checkpoint_has_not_cannot_be_told_otherwise(datasets_dir, tmp_path):
    model, _, _ = make_model(datasets_dir, "ID_SeqEncoder")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "id.pth")
    words = ["-d", "Tiny", f"datasets_dir={datasets_dir}", "--checkpoint", str(tmp_path / "id.pth")]
    with pytest.raises(UserError, match="id.pth: rank_normalized=False: ID_SeqEncoder has no such setting"):
        evaluate.main([*words, "rank_normalized=false"])


@pytest.mark.parametrize("visible", [None, "0,1"])
def test_recbole_hides_no_gpu(datasets_dir, monkeypatch, visible):
    """Its Config sets CUDA_VISIBLE_DEVICES by itself; older torch counts GPUs anew each time."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    make_model(datasets_dir, "ID_SeqEncoder")
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


def test_a_checkpoint_of_another_method_is_named(datasets_dir, tmp_path):
    torch.save({"state_dict": {"w": torch.zeros(1)}, "about": '{"model": "ADRec"}'}, tmp_path / "adrec.pth")
    words = ["-d", "Tiny", f"datasets_dir={datasets_dir}", "--checkpoint", str(tmp_path / "adrec.pth")]
    with pytest.raises(UserError, match="adrec.pth: is a checkpoint of ADRec; adrec/test_main.py and"):
        evaluate.main(words)
    with pytest.raises(UserError, match="is a checkpoint of ADRec; give that of an ID_SeqEncoder"):
        SICSRec_main1.run(settings_of(datasets_dir, tmp_path / "r", pretrain_id=str(tmp_path / "adrec.pth")))


def test_a_checkpoint_of_another_split_is_refused(tmp_path):
    """The rows of its tables are numbered by the order in the split's files."""
    datasets_dir = tmp_path / "d"
    home = make_ready(datasets_dir)
    id_encoder_main1.main(line(datasets_dir, tmp_path / "r", epochs=1))
    checkpoint = only_run(tmp_path / "r", "ID_SeqEncoder") / "best.pth"
    lines = (home / "sequential_data.txt").read_text().splitlines()
    (home / "sequential_data.txt").write_text("\n".join(reversed(lines)) + "\n")
    recbole_process.run(recbole_process.Settings(dataset="Tiny", datasets_dir=str(datasets_dir)))
    with pytest.raises(UserError, match="best.pth: was trained on another train split than .*; train again on this"):
        evaluate.main(["-d", "Tiny", f"datasets_dir={datasets_dir}", "--checkpoint", str(checkpoint)])


def test_id_encoder_with_other_heads_is_refused(datasets_dir, tmp_path):
    id_encoder_main1.main(line(datasets_dir, tmp_path, epochs=1, n_heads=2))
    checkpoint = only_run(tmp_path, "ID_SeqEncoder") / "best.pth"
    with pytest.raises(UserError, match="was trained with n_heads=2, this run has n_heads=4; both steps need the same"):
        SICSRec_main1.main(line(datasets_dir, tmp_path, n_heads=4, pretrain_id=checkpoint))


def test_evaluate_writes_scores_and_honours_the_variant(datasets_dir, tmp_path, capsys):
    folder = SICSRec_main1.run(settings_of(datasets_dir, tmp_path / "r"))
    scores = {}
    for variant in ("paper", "released"):
        file = tmp_path / f"{variant}.npy"
        words = ["-d", "Tiny", f"datasets_dir={datasets_dir}", "--checkpoint", str(folder / "best.pth")]
        evaluate.main([*words, f"variant={variant}", "--scores", str(file)])
        scores[variant] = np.load(file)
        assert scores[variant].shape == (12, 15)
    assert not np.allclose(scores["paper"], scores["released"])
    ranks = [line.split(",") for line in (folder / "ranks.csv").read_text().splitlines()[1:]]
    for user, item, rank, _ in ranks:  # the file's ranks follow from the scores
        row = scores["paper"][int(user)]
        assert float(rank) == 1 + (row > row[int(item)]).sum() + ((row == row[int(item)]).sum() - 1) / 2


def test_recommend_prints_titles_and_leaves_out_what_was_seen(datasets_dir, tmp_path, capsys):
    SICSRec_main1.run(settings_of(datasets_dir, tmp_path / "r"))
    words = ["-d", "Tiny", f"datasets_dir={datasets_dir}", f"results_dir={tmp_path / 'r'}"]
    capsys.readouterr()
    recommend.main([*words, "--items", "0,5", "-k", "3"])
    lines = capsys.readouterr().out.split("recommends:\n")[1].splitlines()
    ids = datasets_dir / "Tiny" / "item_ids.csv"
    ids.write_text("id,original_id\n" + "".join(f"{i},sku{i}\n" for i in range(15)))
    recommend.main([*words, "--items", "0,5", "-k", "3"])
    named = capsys.readouterr().out.split("recommends:\n")[1].splitlines()
    assert named == [f"{line} [sku{line.split()[0]}]" for line in lines]
    ids.unlink()
    assert len(lines) == 3 and not {"0", "5"} & {line.split()[0] for line in lines}
    recommend.main([*words, "--user", "2"])
    out = capsys.readouterr().out
    assert "after 6 items" in out and len(out.split("recommends:\n")[1].splitlines()) == 15 - 6
    for wrong, message in (
        (["--user", "99"], "no such user"),
        (["--items", "1,x"], "commas"),
        (["--items", "77"], "no item 77"),
        ([], "say for whom"),
    ):
        with pytest.raises(UserError, match=message):
            recommend.main([*words, *wrong])


def test_missing_features_name_the_cure(datasets_dir, tmp_path):
    with pytest.raises(UserError, match=r"no such features; run stage 1.*modalities=\[text\]"):
        SICSRec_main1.run(settings_of(datasets_dir, tmp_path / "r", pretrain_id="none", features_dir=str(tmp_path)))


def test_features_of_other_titles_are_refused(tmp_path):
    home = make_ready(tmp_path)
    items, path = home / "Tiny_item_sort.csv", features_path(home, "Tiny", "text")
    save_features(path, torch.randn(15, 4), recipe("test", {}, {"items": items}))
    settings = settings_of(
        tmp_path, tmp_path / "r", modalities=["text"], epochs=1, pretrain_id="none", id_tuning="full"
    )
    SICSRec_main1.run(settings)
    items.write_text(items.read_text(encoding="utf-8").replace("0,", "0,other ", 1), encoding="utf-8")
    with pytest.raises(UserError, match="was made from other titles than .*Tiny_item_sort.csv has now"):
        SICSRec_main1.run(settings)


def test_unknown_setting_and_run_made_otherwise(datasets_dir, tmp_path):
    with pytest.raises(UserError, match="did you mean 'alpha'"):
        SICSRec_main1.main(["-d", "Tiny", "alhpa=1"])
    id_encoder_main1.run(SICSRec_main1.id_settings(settings_of(datasets_dir, tmp_path / "r"), {"run": "mine"}))
    other = SICSRec_main1.id_settings(settings_of(datasets_dir, tmp_path / "r", seed=5), {"run": "mine"})
    with pytest.raises(UserError, match="seed 2024 → 5"):
        id_encoder_main1.run(other)


def test_longer_histories_are_cut_as_if_the_files_were(datasets_dir, tmp_path):
    make_ready(tmp_path / "d")
    recbole_process.run(recbole_process.Settings(dataset="Tiny", datasets_dir=str(tmp_path / "d"), max_seq_length=3))
    for number in range(3):
        of_files, of_loader = (
            _columns(make_model(folder, "SICSRec", max_seq_length=3)[2][number])
            for folder in (tmp_path / "d", datasets_dir)
        )
        for cut, read in zip(of_files, of_loader):
            assert np.array_equal(cut, read)
        assert of_loader[2].max() == 3
    run = SICSRec_main1.run(settings_of(datasets_dir, tmp_path / "r", max_seq_length=3))
    weights = torch.load(run / "best.pth", weights_only=True)["state_dict"]
    assert len(weights["position_embedding.weight"]) == 3


def test_a_half_written_checkpoint_is_never_taken(datasets_dir, tmp_path):
    folder = id_encoder_main1.run(SICSRec_main1.id_settings(settings_of(datasets_dir, tmp_path / "r")))
    (folder / "metrics.json").unlink()
    data = (folder / "last.pth").read_bytes()
    (folder / "last.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="last.pth"):
        id_encoder_main1.run(SICSRec_main1.id_settings(settings_of(datasets_dir, tmp_path / "r")))


def test_pickles_are_written_nowhere(datasets_dir, tmp_path):
    folder = SICSRec_main1.run(settings_of(datasets_dir, tmp_path / "r"))
    for file in ("best.pth", "last.pth"):
        content = torch.load(folder / file, weights_only=True)
        assert pickle.dumps(content["about"])  # plain values all through
        assert Path(folder / file).stat().st_size > 0
