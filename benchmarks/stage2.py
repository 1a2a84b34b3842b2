"""Seconds and floating-point operations of a training epoch of stage 2: this code against the plain way, in one run.

    python -m benchmarks.stage2 -d Bili_Food features_dir=DIR
    python -m benchmarks.stage2                                 # on the quickstart's ml-100k

The plain way (plain.py): every prefix is a row padded to 50, the adapters run at every position, torch's dropout, fp32.
Its epoch is scaled up from ``plain_steps`` steps. An epoch of this code is measured as a whole, with the making of
batches; the median of ``epochs`` is reported. Operations are torch's count of matrix products, forward and backward.
Without features there are random ones of the papers' widths: speed does not depend on their values.
"""

from __future__ import annotations

from common.start import run_script

from dataclasses import dataclass
from typing import List, Optional

from common.settings import ComputeSettings, parse, setting


@dataclass
class Settings(ComputeSettings):
    """What to measure."""

    features_dir: Optional[str] = setting(None, "stage 1's features; null: random ones")
    epochs: int = setting(5, "epochs of this code, after one to warm up", minimum=1)
    plain_steps: int = setting(3, "steps of the plain way, after one to warm up; 0 leaves it out", minimum=0)
    compile: bool = setting(False, "measure this code compiled by torch, too")


def main(argv: Optional[List[str]] = None) -> None:
    """Measure both models, print the table."""
    settings = parse(Settings, __doc__, None, argv, has_force=False).settings
    from benchmarks.epochs import make, measure_ours, measure_plain
    from benchmarks.measured import print_table, timed
    from common.compute import Processes, pick_compute, seed_everything
    from stage2_sequence_preference_learning.data import EvalLoader

    compute = pick_compute(settings.device, settings.precision)
    seed_everything(settings.seed)
    rows, validations = [], []
    for name in ("ID_SeqEncoder", "SICSRec"):
        features = {"features_dir": settings.features_dir} if name == "SICSRec" else {}
        own, data, model = make(name, settings.dataset, settings.datasets_dir, **features)
        model.to(compute.device)
        baseline = measure_plain(name, model, data, own, settings.plain_steps) if settings.plain_steps else None
        rows += [baseline.row()] if baseline else []
        for own.compile in (False, True) if settings.compile else (False,):
            rows.append(measure_ours(name, model, data, own, compute, settings.epochs).row(baseline))
        loader = EvalLoader(data.valid, data.n_items)
        seconds = [timed(lambda: model.rank(loader, compute, Processes())) for _ in range(2)]  # noqa: B023
        validations.append(f"{name} {seconds[-1]:.2f} s")
    print_table("epoch of", f"{settings.dataset} on {compute.device}", rows)
    print(f"a validation (full ranking, fp32): {', '.join(validations)}")


if __name__ == "__main__":
    run_script(main)
