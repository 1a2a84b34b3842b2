"""The energy that a run takes, from the counters of CPU and GPU, else an estimate."""

from __future__ import annotations

import math
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List

import torch

POWERCAP = Path("/sys/class/powercap")
WATTS_PER_THREAD, WATTS_PER_GPU = 4.0, 150.0  # without a readable counter: codecarbon's value; half of a V100's 300 W


@dataclass
class Counter:
    """Joules counted by the hardware, which starts at 0 again after ``limit``."""

    read: Callable[[], float]
    limit: float = math.inf
    joules: float = field(default=0.0, init=False)  # since the counter was made

    def __post_init__(self) -> None:
        self.last = self.read()

    def update(self) -> None:
        """Add what was counted since the last reading; a reading that fails is left out."""
        with suppress(OSError, ValueError):
            now = self.read()
            self.joules, self.last = self.joules + (now - self.last) % self.limit, now


def _joules(path: Path) -> float:  # the file holds microjoules
    return int(path.read_text(encoding="utf-8")) / 1e6


def cpu_counters() -> List[Counter]:
    """RAPL's counters of the CPU packages; empty if one is missing or may not be read (usually by root alone)."""
    found = []
    try:
        for zone in sorted(POWERCAP.glob("intel-rapl:*")):  # AMD's too
            if (zone / "name").read_text(encoding="utf-8").startswith("package"):  # cores are inside it, psys around it
                limit = _joules(zone / "max_energy_range_uj")
                found.append(Counter(partial(_joules, zone / "energy_uj"), limit))
    except (OSError, ValueError):
        return []
    return found


def gpu_counters(device: torch.device) -> List[Counter]:
    """NVML's counter of a GPU; empty without the package nvidia-ml-py, on GPUs before Volta and on CPUs."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return [Counter(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)]
    except Exception:  # ImportError, NVML's errors, a torch without uuid or CUDA
        return []


class EnergyMeter:
    """Mean power since it was made. The CPU's counters are those of the whole machine.

    Counters are read every ``period`` seconds, because they may start again within minutes.
    """

    def __init__(self, device: torch.device, processes: int = 1, period: float = 30.0) -> None:
        self.on_gpu, self.processes = device.type == "cuda", processes
        self.cpu, self.gpu = cpu_counters(), gpu_counters(device) if self.on_gpu else []
        self.started, self.stopped = time.perf_counter(), threading.Event()
        if self.cpu:
            threading.Thread(target=self._watch, args=(period,), daemon=True).start()

    def _watch(self, period: float) -> None:
        while not self.stopped.wait(period):
            for counter in self.cpu:
                counter.update()

    def stop(self) -> None:
        """End the thread that reads."""
        self.stopped.set()

    def energy(self, seconds: float) -> Dict[str, Any]:
        """kWh of ``seconds`` at the mean power, in watts; ``measured`` says whether no part of it is an estimate."""
        elapsed = time.perf_counter() - self.started
        for counter in (*self.cpu, *self.gpu):
            counter.update()
        watts = sum(counter.joules for counter in self.cpu) / elapsed
        if not self.cpu:
            watts = WATTS_PER_THREAD * torch.get_num_threads() * self.processes
        if self.on_gpu:  # each process has one
            own = self.gpu[0].joules / elapsed if self.gpu else WATTS_PER_GPU
            watts += own * self.processes
        measured = bool(self.cpu and (self.gpu or not self.on_gpu))
        return {"kwh": watts * seconds / 3.6e6, "watts": round(watts, 1), "measured": measured}
