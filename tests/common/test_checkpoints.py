"""Checkpoints load as data: nothing in a file runs, damage is told in one line, misfits are listed by name."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.checkpoints import load_checkpoint, load_published, load_weights, save_checkpoint
from common.errors import UserError

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Trap:
    """Creates a file when it is unpickled by something that runs what a pickle asks for."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> Any:
        return (Path.touch, (self.sprung,))


class Config(dict):
    """Like RecBole's Config: a mapping of its own class, with state and further objects in it."""


def weights() -> OrderedDict[str, torch.Tensor]:
    return OrderedDict([("w", torch.arange(6.0).view(2, 3)), ("half", torch.ones(2, dtype=torch.bfloat16))])


def published(folder: Path, zipped: bool) -> Path:
    """A file as RecBole's trainer leaves it, with a trap in its config and one on the top level."""
    config = Config(seed=2024)
    config.trap = Trap(folder / "sprung")  # type: ignore[attr-defined]
    shared = weights()
    content = {
        "config": config,
        "epoch": 3,
        "state_dict": shared,
        "optimizer": {"state": {0: {"exp_avg": shared["w"], "step": 1}}, "param_groups": [{"params": [0], "lr": 1e-3}]},
        "other_parameter": Trap(folder / "sprung"),
        "class": Config,
        "list": [1, Trap(folder / "sprung"), ("x", None, True)],
    }
    torch.save(content, folder / "published.pth", _use_new_zipfile_serialization=zipped)
    return folder / "published.pth"


def test_what_is_saved_loads_again_as_it_was(tmp_path: Path) -> None:
    content = {
        "weights": weights(),
        "epoch": 3,
        "best": 0.25,
        "name": "SICSRec",
        "nested": [{"a": (1, None)}, True, torch.zeros(0, 3, dtype=torch.int64)],
    }
    save_checkpoint(tmp_path / "a.pth", content)
    loaded = load_checkpoint(tmp_path / "a.pth")
    assert list(loaded) == list(content)
    assert loaded["nested"][0] == {"a": (1, None)} and loaded["nested"][1] is True
    assert loaded["nested"][2].shape == (0, 3) and loaded["nested"][2].dtype == torch.int64
    for name, value in content["weights"].items():  # type: ignore[attr-defined]
        assert torch.equal(loaded["weights"][name], value) and loaded["weights"][name].dtype == value.dtype


@FORMATS
def test_load_checkpoint_refuses_what_would_run(tmp_path: Path, zipped: bool) -> None:
    with pytest.raises(UserError, match="not a checkpoint that loads as data"):
        load_checkpoint(published(tmp_path, zipped))
    assert not (tmp_path / "sprung").exists()


@FORMATS
def test_a_published_file_gives_its_tensors_and_runs_nothing(tmp_path: Path, zipped: bool) -> None:
    path = published(tmp_path, zipped)
    loaded = load_published(path)
    assert not (tmp_path / "sprung").exists()
    assert set(loaded) == {"epoch", "state_dict", "optimizer", "list"}
    assert loaded["epoch"] == 3 and loaded["list"] == [1, ["x", None, True]]
    assert loaded["optimizer"]["param_groups"] == [{"params": [0], "lr": 1e-3}]
    assert torch.equal(loaded["optimizer"]["state"][0]["exp_avg"], weights()["w"])
    for name, value in weights().items():
        assert torch.equal(loaded["state_dict"][name], value) and loaded["state_dict"][name].dtype == value.dtype


def test_the_trap_springs_where_pickle_is_trusted(tmp_path: Path) -> None:
    torch.load(published(tmp_path, zipped=True), weights_only=False)
    assert (tmp_path / "sprung").exists()


@FORMATS
def test_a_bare_tensor_and_a_bare_state_dict_load(tmp_path: Path, zipped: bool) -> None:
    for content in (torch.eye(3), weights()):
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        loaded = load_published(tmp_path / "a.pth")
        assert type(loaded) in (torch.Tensor, OrderedDict)


@FORMATS
def test_views_of_one_storage_and_parameters_are_kept(tmp_path: Path, zipped: bool) -> None:
    table = torch.arange(12.0).view(3, 4)
    content = {"column": table[:, 1], "parameter": torch.nn.Parameter(table), "trap": Trap(tmp_path / "sprung")}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    loaded = load_published(tmp_path / "a.pth")
    assert loaded["column"].tolist() == [1.0, 5.0, 9.0] and torch.equal(loaded["parameter"], table)


def test_torchscript_is_refused_for_it_is_code(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pth"))
    for load in (load_checkpoint, load_published):
        with pytest.raises(UserError, match=r"script\.pth"):
            load(tmp_path / "script.pth")


@FORMATS
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_file_cut_short_is_refused(tmp_path: Path, zipped: bool, kept: float) -> None:
    path = published(tmp_path, zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    for load in (load_checkpoint, load_published):
        with pytest.raises(UserError, match=r"published\.pth"):
            load(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.booleans(), st.integers(0), st.binary(min_size=1, max_size=8))
def test_damage_anywhere_is_refused_or_harmless(tmp_path: Path, zipped: bool, place: int, junk: bytes) -> None:
    path = published(tmp_path, zipped)
    data = bytearray(path.read_bytes())
    place %= len(data)
    data[place : place + len(junk)] = junk
    path.write_bytes(bytes(data))
    for load in (load_checkpoint, load_published):
        try:
            load(path)
        except UserError as error:
            assert str(path) in str(error)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("load", [load_checkpoint, load_published])
def test_a_missing_file_is_named(tmp_path: Path, load: Any) -> None:
    with pytest.raises(UserError, match=r"absent\.pth: no such checkpoint; give the best.pth of a run"):
        load(tmp_path / "absent.pth")


def test_load_weights_takes_exactly_the_modules_names_and_shapes() -> None:
    source, target = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    load_weights(target, source.state_dict(), Path("a.pth"))
    assert torch.equal(target.weight, source.weight) and torch.equal(target.bias, source.bias)


def test_load_weights_lists_every_misfit_and_changes_nothing() -> None:
    target = torch.nn.Linear(3, 2)
    before = target.weight.detach().clone()
    with pytest.raises(UserError) as caught:
        load_weights(target, {"weight": torch.zeros(2, 4), "biass": torch.zeros(2)}, Path("other.pth"))
    message = str(caught.value)
    assert message.startswith("other.pth does not fit the model: ")
    assert "missing bias" in message and "unexpected biass" in message
    assert "weight is (2, 4), the model has (2, 3)" in message
    assert torch.equal(target.weight, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_nan_are_refused_by_name(dtype: torch.dtype) -> None:
    target = torch.nn.Linear(3, 2).to(dtype)
    weights = {**target.state_dict(), "bias": torch.tensor([1.0, torch.nan], dtype=dtype)}
    with pytest.raises(UserError, match=r"^a\.pth: NaN or inf in bias: its training diverged; use another checkpoint"):
        load_weights(target, weights, Path("a.pth"))


def test_infinite_values_that_the_model_itself_has_are_loaded() -> None:
    source, target = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    for module in (source, target):
        module.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    load_weights(target, source.state_dict(), Path("a.pth"))
    assert torch.equal(target.weight, source.weight)
