"""Energy of a run: from counters of the CPU and the GPU, else an estimate. The counters are files and a stand-in."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Dict, Tuple

import pytest
import torch

from common import energy
from common.energy import WATTS_PER_GPU, WATTS_PER_THREAD, EnergyMeter

CPU, GPU = torch.device("cpu"), torch.device("cuda")
LIMIT = 1_000_000_000  # 1,000 J
ZONES = {
    "intel-rapl:0": ("package-0", 999_000_000),
    "intel-rapl:0:0": ("core", 10),  # inside package-0
    "intel-rapl:1": ("package-1", 500),
    "intel-rapl:2": ("psys", 20),  # contains the packages
    "intel-rapl-mmio:0": ("package-0", 30),  # repeats package-0
}


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for zone, (name, value) in ZONES.items():
        (tmp_path / zone).mkdir()
        content = {"name": f"{name}\n", "energy_uj": f"{value}\n", "max_energy_range_uj": f"{LIMIT}\n"}
        for file, text in content.items():
            (tmp_path / zone / file).write_text(text)
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    return tmp_path


def count(powercap: Path, values: Dict[str, int]) -> None:
    for zone, value in values.items():
        (powercap / zone / "energy_uj").write_text(f"{value}\n")


def after(meter: EnergyMeter, seconds: float, of: float) -> Tuple[float, bool]:
    """The kWh of ``of`` seconds, when the meter has run for ``seconds``."""
    meter.started = time.perf_counter() - seconds
    found = meter.energy(of)
    meter.stop()
    return found["kwh"], found["measured"]


def test_packages_alone_are_counted_and_a_counter_may_start_again(powercap: Path) -> None:
    meter = EnergyMeter(CPU)
    count(powercap, {"intel-rapl:0": 4_000_000, "intel-rapl:1": 15_000_500, "intel-rapl:0:0": 9, "intel-rapl:2": 9})
    kwh, measured = after(meter, 10, of=1800)  # 5 J + 15 J in 10 s: 2 W
    assert measured and kwh == pytest.approx(0.001, rel=0.01)


def test_a_counter_that_starts_again_often_is_read_in_between(powercap: Path) -> None:
    meter = EnergyMeter(CPU, period=0.01)
    for value in (300_000_000, 800_000_000, 300_000_000, 800_000_000):  # 301, 500, 500 and 500 J
        last = value / 1e6
        count(powercap, {"intel-rapl:0": value})
        while meter.cpu[0].last != last:
            time.sleep(0.005)
    assert meter.cpu[0].joules == pytest.approx(1801)
    assert after(meter, 1801, of=3600) == (pytest.approx(0.001, rel=0.01), True)


@pytest.mark.parametrize("fault", ["no folder", "not readable", "not a number"])
def test_without_readable_counters_it_is_an_estimate(
    powercap: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    counted = powercap / "intel-rapl:1" / "energy_uj"
    if fault == "no folder":
        monkeypatch.setattr(energy, "POWERCAP", powercap / "nothing")
    elif fault == "not readable":  # as root any file is, but no folder
        counted.unlink()
        counted.mkdir()
    else:
        counted.write_text("<not supported>\n")
    watts = WATTS_PER_THREAD * torch.get_num_threads()
    assert after(EnergyMeter(CPU, processes=2), 10, of=3600) == (pytest.approx(2 * watts / 1000), False)
    assert after(EnergyMeter(GPU), 10, of=3600) == (pytest.approx((watts + WATTS_PER_GPU) / 1000), False)


def test_the_gpu_of_the_run_is_counted(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = {"GPU-b": 5_000}  # millijoules
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: counted[handle],
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="b"))
    meter = EnergyMeter(GPU, processes=2)
    counted["GPU-b"] += 1_000_000
    count(powercap, {"intel-rapl:1": 500 + 999_000_000})
    kwh, measured = after(meter, 1, of=3600)  # two GPUs of 1,000 W, and 999 W
    assert measured and kwh == pytest.approx(2.999, rel=0.01)
