"""The search: complete grids, resumed where it was cut, chosen on validation, tested once."""

import json

import pytest

from common.errors import UserError
from stage2_sequence_preference_learning import SICSRec_main1, search
from stage2_sequence_preference_learning.settings import SICSRecSettings

ALPHAS = [0.1, 0.5, 0.9]


def settings_of(datasets_dir, results_dir, **values):
    small = {"hidden_size": 8, "inner_size": 8, "train_batch_size": 16, "device": "cpu", "epochs": 2}
    given = {"pretrain_id": "none", "n_trials": 10, "search_space": {"alpha": ALPHAS}, **small, **values}
    return SICSRecSettings(dataset="Tiny", datasets_dir=str(datasets_dir), results_dir=str(results_dir), **given)


def search_folder(results_dir):
    (folder,) = (results_dir / "SICSRec" / "Tiny").glob("search-*")
    return folder


def read(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_grid_is_complete_chooses_on_validation_and_tests_the_chosen_alone(datasets_dir, tmp_path, capsys):
    best = SICSRec_main1.run(settings_of(datasets_dir, tmp_path))
    folder = search_folder(tmp_path)
    trials = {alpha: read(folder / f"alpha={alpha:g}") for alpha in ALPHAS}
    assert not any("test" in trial for trial in trials.values())
    highest = max(trial["valid"]["hit@10"] for trial in trials.values())
    assert read(best)["valid"]["hit@10"] == highest and "test" in read(best)
    assert best.parent == folder.parent
    lines = (folder / "trials.csv").read_text().splitlines()
    assert lines[0] == "trial,alpha,valid hit@10" and len(lines) == 1 + 3
    assert (folder / "score_over_alpha.png").read_bytes().startswith(b"\x89PNG")
    # a plain run with the chosen value is the same run, and a second search does nothing
    chosen = json.loads((best / "made.json").read_text())["settings"]["alpha"]
    assert SICSRec_main1.run(settings_of(datasets_dir, tmp_path, n_trials=0, alpha=chosen)) == best
    capsys.readouterr()
    assert SICSRec_main1.run(settings_of(datasets_dir, tmp_path)) == best
    assert "trial 3" not in capsys.readouterr().out


def test_a_search_cut_in_a_trial_goes_on_and_the_grid_is_complete(datasets_dir, tmp_path, monkeypatch):
    original, started = search.train, []

    def dies_in_the_second(model, settings, force=False):
        started.append(settings.alpha)
        if len(started) == 2:
            raise KeyboardInterrupt
        return original(model, settings, force)

    settings = settings_of(datasets_dir, tmp_path)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(search, "train", dies_in_the_second)
        search.search("SICSRec", settings)
    search.search("SICSRec", settings_of(datasets_dir, tmp_path))
    lines = (search_folder(tmp_path) / "trials.csv").read_text().splitlines()[1:]
    assert sorted(float(line.split(",")[1]) for line in lines) == ALPHAS  # each once


def test_ranges_of_floats_and_integers(datasets_dir, tmp_path):
    space = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "lora_rank": {"low": 1, "high": 3}}
    best = SICSRec_main1.run(settings_of(datasets_dir, tmp_path, search_space=space, n_trials=2))
    chosen = json.loads((best / "made.json").read_text())["settings"]
    assert 1e-4 <= chosen["learning_rate"] <= 1e-2 and chosen["lora_rank"] in (1, 2, 3)
    assert len((search_folder(tmp_path) / "trials.csv").read_text().splitlines()) == 1 + 2


def test_the_first_trial_over_ranges_is_the_settings_as_they_stand(datasets_dir, tmp_path):
    # lora_rank=4 lies outside of the space: it is drawn
    space = {"learning_rate": {"low": 1e-4, "high": 1e-2}, "alpha": [0.1, 0.3], "lora_rank": {"low": 1, "high": 3}}
    SICSRec_main1.run(
        settings_of(datasets_dir, tmp_path, learning_rate=2e-3, alpha=0.3, search_space=space, n_trials=2)
    )
    header, first, second = (search_folder(tmp_path) / "trials.csv").read_text().splitlines()
    assert header == "trial,alpha,learning_rate,lora_rank,valid hit@10"
    assert first.split(",")[1:3] == ["0.3", "0.002"] and first.split(",")[3] in "123"
    assert second.split(",")[2] != "0.002"


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"alhpa": [1]}, "unknown setting 'alhpa'; did you mean 'alpha'"),
        ({"alpha": 3}, "must be a list of values"),
        ({"alpha": {"low": 0}}, "needs low and high"),
        ({"alpha": [-1]}, "at least 0"),
        ({}, "search_space is empty"),
        ({"results_dir": ["a"]}, "unknown setting"),
    ],
)
def test_a_space_that_makes_no_sense_stops_before_anything_runs(datasets_dir, tmp_path, space, message):
    with pytest.raises(UserError, match=message):
        SICSRec_main1.run(settings_of(datasets_dir, tmp_path, search_space=space))
    assert not list(tmp_path.iterdir())
