"""The search: complete grids, continued where it was stopped, chosen on validation, tested once."""

import csv
import json
import sqlite3
from functools import partial
from pathlib import Path
from typing import get_type_hints

import pytest
from optuna.distributions import IntDistribution
from read_only import read_only
from stage2_helpers import SMALL

from common.errors import Diverged, UserError
from common.run import METRICS
from reproduce.baselines.settings import SCHEMAS
from stage2_sequence_preference_learning import SICSRec_main1
from stage2_sequence_preference_learning.search import distribution, search
from stage2_sequence_preference_learning.settings import SICSRecSettings

ALPHAS = [0.1, 0.5, 0.9]


def settings_of(datasets_dir, results_dir, **values):
    given = {"pretrain_id": "none", "n_trials": 10, "search_space": {"alpha": ALPHAS}, "epochs": 2, **SMALL, **values}
    return SICSRecSettings(dataset="Tiny", datasets_dir=str(datasets_dir), results_dir=str(results_dir), **given)


def run_search(settings, train=SICSRec_main1.train, **keywords):
    """Search with another function that trains, then train what was chosen."""
    return SICSRec_main1.train(search("SICSRec", settings, train, **keywords))


def search_folder(results_dir):
    (folder,) = (results_dir / "SICSRec" / "Tiny").glob("search-*")
    return folder


def read(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_grid_is_complete_chooses_on_validation_and_tests_the_chosen_run_alone(datasets_dir, tmp_path, capsys):
    best = SICSRec_main1.train(settings_of(datasets_dir, tmp_path))
    folder = search_folder(tmp_path)
    with open(folder / "trials.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    scores = {float(row["alpha"]): float(row["valid hit@10"]) for row in rows}
    assert list(scores) == ALPHAS
    others = [read(path.parent) for path in folder.glob("trial-*/metrics.json")]
    assert len(others) == 2 and not any("test" in trial for trial in others)  # the best one was moved
    assert read(best)["valid"]["hit@10"] == max(scores.values()) and "test" in read(best)
    assert best.parent == folder.parent
    assert (folder / "score_over_alpha.png").read_bytes().startswith(b"\x89PNG")
    # a plain run with the chosen value is the same run, and a second search does nothing
    chosen = json.loads((best / "made.json").read_text())["settings"]["alpha"]
    assert scores[chosen] == max(scores.values())
    assert SICSRec_main1.train(settings_of(datasets_dir, tmp_path, n_trials=0, alpha=chosen)) == best
    capsys.readouterr()
    with read_only(tmp_path):
        assert SICSRec_main1.train(settings_of(datasets_dir, tmp_path)) == best
    assert "trial 3" not in capsys.readouterr().out


def test_a_search_stopped_in_a_trial_continues_and_the_grid_is_complete(datasets_dir, tmp_path):
    started = []

    def stops_in_the_second(settings, force=False):
        started.append(settings.alpha)
        if len(started) == 2:
            raise KeyboardInterrupt
        return SICSRec_main1.train(settings, force)

    with pytest.raises(KeyboardInterrupt):
        run_search(settings_of(datasets_dir, tmp_path), stops_in_the_second)
    run_search(settings_of(datasets_dir, tmp_path))
    lines = (search_folder(tmp_path) / "trials.csv").read_text().splitlines()[1:]
    assert sorted(float(line.split(",")[1]) for line in lines) == ALPHAS  # each once


def quickly(settings, force=False):
    """A run without a training."""
    folder = Path(settings.results_dir) / "SICSRec" / "Tiny" / settings.run
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METRICS).write_text(json.dumps({"valid": {"hit@10": settings.alpha}}))
    return folder


@pytest.mark.parametrize(
    "names", [("a?x=1", "a?x=2"), ("%41", "A"), ("a #b", "a %23b"), ("{SCHEMA_VERSION} [x]*", "é~")]
)
def test_a_search_has_its_own_database_in_a_folder_of_any_name(datasets_dir, tmp_path, names):
    for name, alphas in zip(names, ([0.1], [0.2, 0.3])):
        search("SICSRec", settings_of(datasets_dir, tmp_path / name, search_space={"alpha": alphas}), quickly)
        assert (search_folder(tmp_path / name) / "study.db").is_file()
        assert len((search_folder(tmp_path / name) / "trials.csv").read_text().splitlines()) == 1 + len(alphas)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def execute(statement):
    def spoil(path):
        with sqlite3.connect(path) as connection:
            connection.execute(statement)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b"x" * 5000), "file is not a database"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "database disk image is malformed"),
        (lambda path: (path.unlink(), path.mkdir()), "unable to open database file"),
        (execute("UPDATE alembic_version SET version_num = 'v9.9.a'"), "no longer compatible"),
        (execute("UPDATE trials SET state = 'ODD'"), "'ODD' is not among"),
        (execute("ALTER TABLE studies RENAME study_name TO x"), "study_name"),
    ],
)
def test_a_database_that_is_damaged_is_an_error_and_may_be_deleted(datasets_dir, tmp_path, spoil, message):
    settings = settings_of(datasets_dir, tmp_path)
    search("SICSRec", settings, quickly)
    path = search_folder(tmp_path) / "study.db"
    spoil(path)
    with pytest.raises(UserError, match=f"study.db: .*{message}.*; close other programs .*, or delete it") as caught:
        search("SICSRec", settings, quickly)
    assert "\n" not in str(caught.value)
    path.rmdir() if path.is_dir() else path.unlink()
    assert search("SICSRec", settings, quickly).alpha == 0.9


def test_a_database_that_another_program_locks_is_an_error(datasets_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, timeout=0.1))

    def locks(settings, force=False):
        other = sqlite3.connect(search_folder(tmp_path) / "study.db")
        other.execute("BEGIN EXCLUSIVE")
        locked.append(other)
        return quickly(settings)

    locked = []
    for train in (locks, quickly):  # while the search runs, and before it
        with pytest.raises(UserError, match="study.db: database is locked; close other programs that use it"):
            search("SICSRec", settings_of(datasets_dir, tmp_path), train)


def test_a_search_over_ranges_starts_from_the_settings_own_values_also_where_it_was_stopped(datasets_dir, tmp_path):
    def stops(settings, force=False):
        raise KeyboardInterrupt

    # lora_rank=4 is outside of the space, so it is drawn
    space = {"learning_rate": {"low": 1e-4, "high": 1e-2}, "alpha": [0.1, 0.3], "lora_rank": {"low": 1, "high": 3}}
    found = {}
    for name in ("stopped", "whole"):
        values = {"learning_rate": 2e-3, "alpha": 0.3, "search_space": space, "n_trials": 2, "epochs": 1}
        settings = settings_of(datasets_dir, tmp_path / name, **values)
        if name == "stopped":
            with pytest.raises(KeyboardInterrupt):
                run_search(settings, stops)
        run_search(settings)
        header, *lines = (search_folder(tmp_path / name) / "trials.csv").read_text().splitlines()
        found[name] = [line.split(",")[1:] for line in lines]
    assert header == "trial,alpha,learning_rate,lora_rank,valid hit@10"
    assert found["stopped"] == found["whole"]
    first, second = found["whole"]
    assert first[:2] == ["0.3", "0.002"] and {first[2], second[2]} <= set("123") and second[1] != "0.002"


def test_a_setting_that_is_null_has_its_own_type(datasets_dir, tmp_path):
    space = {"clip_grad_norm": {"low": 0.5, "high": 2}}
    best = SICSRec_main1.train(settings_of(datasets_dir, tmp_path, search_space=space, n_trials=1))
    assert 0.5 <= json.loads((best / "made.json").read_text())["settings"]["clip_grad_norm"] <= 2
    kind = get_type_hints(SCHEMAS["SASRecText"])["whiten"]
    assert distribution(kind, {"low": 2, "high": 4}) == IntDistribution(2, 4)


@pytest.mark.parametrize(
    "space",
    [{"clip_grad_norm": [None, 1.0]}, {"modalities": [["text"], ["image"], ["text", "image"]]}],
)
def test_values_of_any_kind_are_searched_and_listed(datasets_dir, tmp_path, space):
    best = SICSRec_main1.train(settings_of(datasets_dir, tmp_path, search_space=space, epochs=1))
    (key, values), folder = next(iter(space.items())), search_folder(tmp_path)
    with open(folder / "trials.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row[key] for row in rows] == ["" if value is None else str(value) for value in values]
    assert (folder / f"score_over_{key}.png").is_file() and "test" in read(best)


def test_a_value_is_one_run_searched_or_given(datasets_dir, tmp_path):
    best = SICSRec_main1.train(settings_of(datasets_dir, tmp_path, search_space={"clip_grad_norm": [1]}, epochs=1))
    assert SICSRec_main1.train(settings_of(datasets_dir, tmp_path, n_trials=0, clip_grad_norm=1.0, epochs=1)) == best


def test_a_trial_that_diverges_counts_and_the_search_continues(datasets_dir, tmp_path, capsys):
    def diverges_below(settings, force=False):
        if settings.alpha != 0.9:
            raise Diverged("the loss is not finite")
        return SICSRec_main1.train(settings, force)

    best = run_search(settings_of(datasets_dir, tmp_path), diverges_below)
    assert json.loads((best / "made.json").read_text())["settings"]["alpha"] == 0.9
    assert capsys.readouterr().out.count("diverged") == 2
    assert SICSRec_main1.train(settings_of(datasets_dir, tmp_path)) == best  # not tried again
    assert "diverged" not in capsys.readouterr().out
    settings = settings_of(datasets_dir, tmp_path / "b", search_space={"alpha": [0.1, 0.5]})
    with pytest.raises(UserError, match="all 2 trials diverged; lower learning_rate"):
        run_search(settings, diverges_below)


def test_seeds_share_a_search_and_each_starts_from_its_own_id_encoder(datasets_dir, tmp_path, capsys):
    values = {"pretrain_id": None, "search_space": {"alpha": [0.1, 0.9]}, "epochs": 1, "step_1": {"epochs": 1}}
    runs = {
        seed: SICSRec_main1.train(settings_of(datasets_dir, tmp_path, seed=seed, **values)) for seed in (7, 8, 2024)
    }
    made = {seed: json.loads((run / "made.json").read_text()) for seed, run in runs.items()}
    assert len({json.dumps(m["settings"]["alpha"]) for m in made.values()}) == 1
    assert len({m["inputs"]["id_encoder"]["sha256"] for m in made.values()}) == 3
    assert capsys.readouterr().out.count("valid hit@10") == 2 + 3  # two trials in all, and a conclusion for each seed
    assert all("test" in read(run) for run in runs.values())


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"alhpa": [1]}, "unknown setting 'alhpa'; did you mean 'alpha'"),
        ({"alpha": 3}, "must be a list of values"),
        ({"alpha": {"low": 0}}, "needs low and high"),
        ({"alpha": [-1]}, "at least 0"),
        ({"alpha": {"low": 1.0, "high": 0.1}}, "'alpha' is .*; .*low"),
        ({"alpha": {"low": 0.0, "high": 0.1, "log": True}}, "'alpha' is .*; .*log"),
        ({"alpha": {"low": 0.1, "high": 1.0, "log": True, "step": 0.1}}, "'alpha' is .*; .*step"),
        ({"alpha": {"low": 0.1, "high": 1.0, "step": 0}}, "'alpha' is .*; .*step"),
        ({"learning_rate": [0.001, "fast"]}, "search_space: setting 'learning_rate': .*'fast'"),
        ({"lora_rank": [1.5]}, "search_space: setting 'lora_rank'"),
        ({"lora_rank": {"low": 1.5, "high": 3}}, "search_space: setting 'lora_rank'"),
        ({"train_ffw_lora": {"low": 0, "high": 1}}, "low and high must be numbers"),
        ({}, "search_space is empty"),
        ({"results_dir": ["a"]}, "cannot search 'results_dir'"),
        ({"variant": ["paper", "released"]}, "cannot search 'variant'"),
    ],
)
def test_a_space_that_is_not_valid_is_an_error_before_anything_runs(datasets_dir, tmp_path, space, message):
    with pytest.raises(UserError, match=message):
        SICSRec_main1.train(settings_of(datasets_dir, tmp_path, search_space=space, pretrain_id=None))
    assert not list(tmp_path.iterdir())


def test_force_trains_the_chosen_run_again(datasets_dir, tmp_path):
    settings = settings_of(datasets_dir, tmp_path, search_space={"alpha": [0.5]}, epochs=1)
    best = SICSRec_main1.train(settings)
    (best / "best.pth").write_bytes(b"of older code")
    assert SICSRec_main1.train(settings, force=True) == best
    assert (best / "best.pth").read_bytes() != b"of older code" and "test" in read(best)
