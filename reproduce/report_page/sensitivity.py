"""How a score follows one setting: over rows of a suite that differ by it alone, and over the trials of a search."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

from common.files import digest, read_json, read_text
from common.runs import MADE
from reproduce.lineage import lineage_of_run
from reproduce.rows import Row, history_of

METRIC = "ndcg@10"


@dataclass
class Sweep:
    """Scores over the values of a setting: mean and standard deviation over seeds, (values,) each."""

    model: str
    setting: str
    metric: str
    values: List[Any]
    means: List[float]
    deviations: List[float]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def of_rows(rows: List[Row], split: str) -> List[Sweep]:
    """A sweep for each numeric setting in which runs of a model differ while all else that shapes them is equal.

    A run that several rows share counts once. What runs were made from, such as features or an ID encoder, may differ
    by the same setting and by nothing else.
    """
    results = {folder: result for row in rows for folder, result in zip(row.folders, row.results)}
    runs = [(result["model"], folder, read_json(folder / MADE), result) for folder, result in results.items()]
    told = f"test {METRIC}, {history_of(split)}"
    found = []
    for model in dict.fromkeys(model for model, *_ in runs):
        own = [run for run in runs if run[0] == model]
        numbers = (key for *_, made, _ in own for key, value in made["settings"].items() if _is_number(value))
        for key in dict.fromkeys(key for key in numbers if key != "seed"):
            if len({str(made["settings"].get(key)) for *_, made, _ in own}) == 1:
                continue  # nothing to sweep: what the runs were made from need not be read
            alike: Dict[str, Dict[Any, List[float]]] = defaultdict(lambda: defaultdict(list))
            for _, folder, made, result in own:
                if _is_number(value := made["settings"].get(key)):
                    rest = repr(lineage_of_run(model, folder, made, ("seed", key)))
                    alike[rest][value].append(result[split][METRIC])
            for by_value in alike.values():
                if len(by_value) > 1:
                    values = sorted(by_value)
                    means = [float(np.mean(by_value[value])) for value in values]
                    spread = [float(np.std(by_value[v], ddof=1)) if len(by_value[v]) > 1 else 0.0 for v in values]
                    found.append(Sweep(model, key, told, values, means, spread))
    return found


def _search_of(folder: Path) -> List[Path]:
    """trials.csv of the searches whose trial this run is: the chosen trial is copied to where its run belongs."""
    mine = digest(read_json(folder / MADE))
    return [
        path
        for path in sorted(folder.parent.glob("search-*/trials.csv"))
        if any(digest(read_json(made)) == mine for made in path.parent.glob(f"*/{MADE}"))
    ]


def of_searches(rows: List[Row]) -> List[Tuple[str, Sweep]]:
    """(row, sweep) for each setting that a search of one of the rows' runs went over; a value may occur again."""
    found = []
    for row in rows:
        for path in dict.fromkeys(path for folder in row.folders for path in _search_of(folder)):
            trials = list(csv.DictReader(io.StringIO(read_text(path))))
            keys = list(trials[0])[1:-1] if trials else []
            score = list(trials[0])[-1] if trials else ""
            for key in keys:
                points = [(_typed(trial[key]), float(trial[score])) for trial in trials if trial[key] != ""]
                points.sort(key=lambda point: (not _is_number(point[0]), point[0]))
                values, means = [value for value, _ in points], [mean for _, mean in points]
                found.append((row.name, Sweep(row.results[0]["model"], key, score, values, means, [])))
    return found


def _typed(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text
