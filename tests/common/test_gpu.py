"""What needs a GPU; `bash benchmarks/gpu_check.sh` runs these tests."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import numpy as np
import pytest
import torch
from adrec_helpers import tiny_adrec
from stage2_helpers import SMALL, assert_same_results, make_model

from common import training
from common.compute import Compute, pick_compute, rng_state, seed_everything, set_rng_state, to_device
from stage2_sequence_preference_learning import id_encoder_main1
from stage2_sequence_preference_learning.data import TrainLoader
from stage2_sequence_preference_learning.models import MODELS
from stage2_sequence_preference_learning.settings import IDSettings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
GPU = torch.device("cuda")
NAMES = [*MODELS, "ADRec"]


def reduced() -> str:
    """The precision that is not fp32."""
    return pick_compute("cuda").precision


def made(name: str, folder: Path, **values: Any) -> Tuple[Any, Callable[[int], Any]]:
    """A tiny model, and what gives the batch of a step."""
    if name == "ADRec":
        tiny = tiny_adrec(folder / "adrec", **{"dropout": 0.1, **values})
        return tiny.model, lambda step: tiny.loader.load(tiny.loader.epoch(step)[0])[0]
    from stage2_helpers import make_ready

    make_ready(folder)
    model, _, data = make_model(folder, name, **values)
    loader = TrainLoader(data.train, 16, 0)
    return model, lambda step: loader.load(loader.epoch(step)[0])[0]


def losses_and_gradients(model: Any, batch: Any, compute: Compute) -> Tuple[torch.Tensor, torch.Tensor]:
    """The terms of the loss, and all gradients end to end; without dropout."""
    model = copy.deepcopy(model).to(compute.device).eval()
    with compute.autocast():
        terms = torch.stack(list(model(batch.to(compute.device)).values()))
    scale = 256.0  # against underflow in fp16
    (terms.sum() * scale).backward()
    gradients = [p.grad.flatten() / scale for p in model.parameters() if p.grad is not None]
    return terms.detach().float().cpu(), torch.cat(gradients).cpu()


@pytest.mark.parametrize("name", NAMES)
def test_each_precision_gives_the_cpus_losses_and_gradients(name: str, tmp_path: Path) -> None:
    """fp32 to 1e-3. fp16 and bf16: losses to 2 %, the gradient's cosine above 0.99 and its length to 5 %."""
    model, batch_of = made(name, tmp_path)
    terms, gradient = losses_and_gradients(model, batch_of(0), pick_compute("cpu", "fp32"))
    for precision, tolerance in (("fp32", 1e-3), (reduced(), 0.02)):
        found, own = losses_and_gradients(model, batch_of(0), pick_compute("cuda", precision))
        torch.testing.assert_close(found, terms, rtol=tolerance, atol=tolerance)
        assert torch.cosine_similarity(own, gradient, dim=0) > 1 - tolerance / 2
        assert own.norm().item() == pytest.approx(gradient.norm().item(), rel=2.5 * tolerance)


def steps(name: str, folder: Path, precision: str) -> Iterator[None]:
    """Training steps as those of `fit`."""
    compute = pick_compute("cuda", precision)
    model, batch_of = made(name, folder)
    optimizer, scaler = training.make_optimizer(model.to(GPU).train(), model.settings), compute.scaler()
    sums, number = training.TermSums(GPU), 0
    while True:
        batch = batch_of(number).to(GPU)
        with compute.autocast():
            terms = model(batch)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(sum(terms.values())).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        sums.add(terms, len(batch), number)
        number += 1
        yield


@pytest.mark.parametrize("name", NAMES)
def test_a_step_does_not_wait(name: str, tmp_path: Path) -> None:
    """Nor does fp16: a fused Adam skips the step of an overflow by itself."""
    run = steps(name, tmp_path, reduced())
    next(run), next(run)  # memory is allocated, kernels are loaded
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(run)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", NAMES)
def test_memory_does_not_grow_with_the_steps(name: str, tmp_path: Path) -> None:
    run, peaks = steps(name, tmp_path, reduced()), []
    for count in (5, 40):
        torch.cuda.reset_peak_memory_stats()
        for _ in range(count):
            next(run)
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] <= 1.1 * peaks[0]


@pytest.mark.parametrize("precision", ["fp32", "reduced"])
def test_resumed_equals_uninterrupted(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made("ID_SeqEncoder", tmp_path)
    precision = reduced() if precision == "reduced" else precision
    given: Dict[str, Any] = {**SMALL, "device": "cuda", "precision": precision, "epochs": 3, "dataset": "Tiny"}

    def train(results: str) -> Path:
        return id_encoder_main1.train(
            IDSettings(datasets_dir=str(tmp_path), results_dir=str(tmp_path / results), **given)
        )

    whole, save = train("whole"), training.save_last

    def stop(*state: Any) -> None:
        save(*state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training, "save_last", stop)
        train("cut")
    assert_same_results(train("cut"), whole)


def test_generators_of_all_devices_continue() -> None:
    devices = [torch.device("cpu"), *(torch.device("cuda", n) for n in range(torch.cuda.device_count()))]
    seed_everything(1)
    for device in devices:
        torch.rand(3, device=device)
        state = rng_state(device)
        expected: List[torch.Tensor] = [torch.rand(3, device=device), torch.from_numpy(np.random.rand(3))]
        set_rng_state(state, device)
        found = [torch.rand(3, device=device), torch.from_numpy(np.random.rand(3))]
        assert all(map(torch.equal, found, expected))


def test_tensors_arrive_whole_though_their_memory_is_used_again() -> None:
    moved = [to_device(torch.full((1000, 1000), number), GPU) for number in range(20)]
    assert [int(tensor.float().mean()) for tensor in moved] == list(range(20))
