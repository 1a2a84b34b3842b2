"""Seeds: the same seed gives the same numbers, and a saved state goes on where it was."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Iterator, List

import numpy as np
import pytest
import torch

from common.checkpoints import load_checkpoint, save_checkpoint
from common.seeding import rng_state, seed_everything, set_rng_state


@pytest.fixture(autouse=True)
def _leave_the_process_as_it_was() -> Iterator[None]:
    state, deterministic = rng_state(), torch.are_deterministic_algorithms_enabled()
    yield
    set_rng_state(state)
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
    save_checkpoint(tmp_path / "state.pth", {"rng": rng_state()})
    expected = [draw() for _ in range(3)]
    seed_everything(99)
    set_rng_state(load_checkpoint(tmp_path / "state.pth")["rng"])
    assert [draw() for _ in range(3)] == expected


def test_taking_the_state_draws_nothing() -> None:
    seed_everything(7)
    rng_state()
    after = draw()
    seed_everything(7)
    assert draw() == after
