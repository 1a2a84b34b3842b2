"""One row of a benchmark's table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional


@dataclass
class Measured:
    """What one way of computing takes."""

    name: str
    seconds: float
    operations: float
    gigabytes: Optional[float] = None  # the most memory held; not all benchmarks measure it

    def row(self, baseline: Optional[Measured], decimals: int = 3) -> str:
        """As Markdown, with the ratios to the baseline; ``decimals`` are those of the 10¹² operations."""
        times = f"{baseline.seconds / self.seconds:.0f}×" if baseline else ""
        fewer = f"{baseline.operations / self.operations:.0f}×" if baseline else ""
        cells = [self.name, f"{self.seconds:.2f}", times, f"{self.operations / 1e12:.{decimals}f}", fewer]
        if self.gigabytes is not None:
            cells.append(f"{self.gigabytes:.1f}")
        return f"| {' | '.join(cells)} |"
