"""Seeds: the same seed gives the same numbers, and a saved state continues."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Iterator, List

import numpy as np
import pytest
import torch

from common.checkpoints import load_checkpoint, save_checkpoint
from common.compute import rng_state, seed_everything, set_rng_state

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _leave_the_process_as_it_was() -> Iterator[None]:
    state, deterministic = rng_state(CPU), torch.are_deterministic_algorithms_enabled()
    yield
    set_rng_state(state, CPU)
    torch.use_deterministic_algorithms(deterministic)


def draw() -> List[float]:
    """Numbers from each generator; gauss and standard_normal keep a second value for the next call."""
    return [
        random.random(),
        random.gauss(0, 1),
        np.random.rand(),
        np.random.standard_normal(),
        torch.rand(1).item(),
        torch.randn(1).item(),
    ]


def test_the_same_seed_gives_the_same_numbers() -> None:
    seed_everything(7)
    first = draw()
    seed_everything(7)
    assert draw() == first
    seed_everything(8)
    assert draw() != first


@pytest.mark.parametrize("drawn_before", [0, 1, 3])
def test_a_state_saved_in_a_checkpoint_goes_on_where_it_was(tmp_path: Path, drawn_before: int) -> None:
    seed_everything(7)
    for _ in range(drawn_before):
        draw()
    save_checkpoint(tmp_path / "state.pth", {"rng": rng_state(CPU)})
    expected = [draw() for _ in range(3)]
    seed_everything(99)
    set_rng_state(load_checkpoint(tmp_path / "state.pth")["rng"], CPU)
    assert [draw() for _ in range(3)] == expected


def test_a_gpu_state_is_that_of_the_runs_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begun on one of four GPUs, resumed on the one there is."""
    put: List[Any] = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.full((2,), float(device.index)))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: put.append((state.tolist(), device.index)))
    set_rng_state(rng_state(torch.device("cuda:3")), torch.device("cuda:0"))
    assert put == [([3.0, 3.0], 0)]
    assert "cuda" not in rng_state(CPU)
