"""How good a set of pairs is: a page to read, and the same numbers as JSON. Beside it, another set to compare with.

    python stage1_content_modality_semantic_alignment/pair_report.py -d Bili_Food strategy=tfidf
    python stage1_content_modality_semantic_alignment/pair_report.py -d Bili_Food against=tfidf

Reads   <datasets_dir>/<D>/pairs/<strategy>/item_pairs_id.txt, summary.json (if there: the verdicts), titles, covers;
        published pairs too: put their item_pairs_id.txt into pairs/<any name>/
Writes  <datasets_dir>/<D>/pairs/<strategy>/pair_report.html (self-contained), pair_report.json

Text similarity is the cosine of TF-IDF vectors of character n-grams, as selector=tfidf has it: it says how far the
judge goes by the words of a title, not how good its choice is. Random pairs have the same targets, each with an item
drawn from all others.
"""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np
from PIL import Image

from common.dataset import Dataset, cover_path, load_dataset
from common.errors import UserError, run_script
from common.files import exclusive, read_json, write_json, write_text
from common.settings import CommonSettings, parse, setting
from stage1_content_modality_semantic_alignment.pair_selectors import TfidfSelector
from stage1_content_modality_semantic_alignment.pairs import Pair, pairs_dir, pairs_path, read_pairs

COVER_SIDE = 96  # pixels
STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}
h1,h2{overflow-wrap:anywhere}table{border-collapse:collapse;margin:.6rem 0 1.6rem}
td,th{border-bottom:1px solid #ddd;padding:.35rem .8rem;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}small{color:#666}
table.pairs{table-layout:fixed;width:100%;overflow-wrap:anywhere}.pairs th{width:36%}
.pairs th:last-child{width:28%;text-align:right}
img,.none{display:block;margin-bottom:.3rem;border-radius:4px}.none{width:96px;line-height:96px;background:#eee;
text-align:center}@media(max-width:40rem){td,th{padding:.35rem .4rem}}"""


@dataclass
class Settings(CommonSettings):
    """Settings of this report."""

    strategy: str = setting("glm-4-9b-chat-hf", "which pairs: the name that llm_driven_sample.py gave them")
    against: Optional[str] = setting(None, "another strategy, to compare with")
    examples: int = setting(10, "pairs to show with titles and covers", minimum=0)
    seed: int = setting(2024, "seed of random pairs and examples", minimum=0)


def share(part: int, whole: int) -> float:
    """A share, rounded; 0 of nothing."""
    return round(part / whole, 4) if whole else 0.0


def similarities(rows: Any, pairs: Sequence[Pair]) -> np.ndarray:
    """Cosine of each pair, (P,); rows: (n_items, n-grams), of length 1, or 0 for a title without any."""
    targets, similar = np.array(pairs).T
    found: np.ndarray = np.asarray(rows[targets].multiply(rows[similar]).sum(axis=1)).ravel()
    return found


def random_pairs(pairs: Sequence[Pair], n_items: int, seed: int) -> List[Pair]:
    """The same targets, each with an item drawn evenly from all others."""
    steps = np.random.default_rng(seed).integers(1, max(n_items, 2), size=len(pairs))
    return [(target, int(target + step) % n_items) for (target, _), step in zip(pairs, steps)]


def spread(values: np.ndarray) -> Dict[str, float]:
    """Mean and quartiles."""
    named = zip(("quarter", "median", "three quarters"), np.quantile(values, [0.25, 0.5, 0.75]))
    return {"mean": round(float(values.mean()), 4), **{name: round(float(value), 4) for name, value in named}}


def measure(dataset: Dataset, pairs: Sequence[Pair], rows: Any, seed: int) -> Dict[str, Any]:
    """The numbers of one set of pairs."""
    distinct, n_items = set(pairs), dataset.n_items
    targets, similar = {target for target, _ in pairs}, {item for _, item in pairs}
    chosen, random = similarities(rows, pairs), similarities(rows, random_pairs(pairs, n_items, seed))
    titles = dataset.titles_cn
    return {
        "pairs": len(pairs),
        "distinct pairs": len(distinct),
        "of one item with itself": sum(target == item for target, item in pairs),
        "given both ways": sum((item, target) in distinct for target, item in distinct if target != item),
        "share of identical titles": share(sum(titles[a] == titles[b] for a, b in pairs), len(pairs)),
        "share of items that are in a pair": share(len(targets | similar), n_items),
        "share of items that are a target": share(len(targets), n_items),
        "share of items that are chosen": share(len(similar), n_items),
        "text similarity of pairs": spread(chosen),
        "text similarity of random pairs": spread(random),
        "share above 95 % of random pairs": share(int((chosen > np.quantile(random, 0.95)).sum()), len(pairs)),
    }


def overlap(pairs: Sequence[Pair], others: Sequence[Pair]) -> Dict[str, Any]:
    """What two sets have in common; a pair counts once, whichever way it is given."""
    mine, theirs = ({frozenset(pair) for pair in some} for some in (pairs, others))
    shared_targets = {target for target, _ in pairs} & {target for target, _ in others}
    same = {target for target, item in set(pairs) & set(others)}
    return {
        "pairs of this set": len(mine),
        "pairs of the other": len(theirs),
        "in both": len(mine & theirs),
        "share of this set": share(len(mine & theirs), len(mine)),
        "share of the other": share(len(mine & theirs), len(theirs)),
        "Jaccard": share(len(mine & theirs), len(mine | theirs)),
        "targets of both": len(shared_targets),
        "targets with a choice in common": len(same),
    }


def verdicts_of(folder: Path) -> Dict[str, int]:
    """Counts of questions by verdict, from summary.json; none for pairs that were not chosen here."""
    path = folder / "summary.json"
    summary: Mapping[str, int] = read_json(path).get("summary", {}) if path.is_file() else {}
    return {name: count for name, count in summary.items() if name.startswith("verdict ")}


def cover_data(dataset: Dataset, item: int, side: int = COVER_SIDE, form: str = "JPEG") -> Optional[str]:
    """The cover, made small, as a data URI; None where there is none that decodes.

    Args:
        side: pixels that it fits into.
        form: JPEG or WEBP.
    """
    if dataset.covers is None:
        return None
    try:
        with Image.open(cover_path(dataset.covers, item)) as image:
            small = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    small.thumbnail((side, side))
    data = io.BytesIO()
    small.save(data, form, quality=80)
    return f"data:image/{form.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


def cover_tag(dataset: Dataset, item: int) -> str:
    """The cover as part of the page; a word where there is none that decodes, nothing where there are no covers."""
    if dataset.covers is None:
        return ""
    data = cover_data(dataset, item)
    return f'<img alt="" src="{data}">' if data else '<small class="none">no cover</small>'


def item_cell(dataset: Dataset, item: int) -> str:
    """An item with its cover and titles."""
    titles = "<br>".join(
        html.escape(title) for title in dict.fromkeys((dataset.titles_cn[item], dataset.titles_en[item]))
    )
    return f"<td>{cover_tag(dataset, item)}{titles}<br><small>item {item}</small></td>"


def table(title: str, numbers: Mapping[str, Any]) -> str:
    """Name and number, a line each; what is itself a mapping becomes several lines."""
    flat: Dict[str, Any] = {}
    for name, value in numbers.items():
        flat.update({f"{name}: {part}": v for part, v in value.items()} if isinstance(value, dict) else {name: value})
    lines = [f'<tr><td>{html.escape(name)}</td><td class="n">{value:,}</td></tr>' for name, value in flat.items()]
    return f"<h2>{html.escape(title)}</h2>\n<table>\n" + "\n".join(lines) + "\n</table>\n" if flat else ""


def examples_table(dataset: Dataset, pairs: Sequence[Pair], rows: Any, count: int, seed: int) -> str:
    """Some of the distinct pairs, drawn by seed."""
    distinct = list(dict.fromkeys(pairs))
    places = np.sort(np.random.default_rng(seed).permutation(len(distinct))[:count])
    shown = [distinct[place] for place in places]
    if not shown:
        return ""
    lines = [
        f'<tr>{item_cell(dataset, target)}{item_cell(dataset, item)}<td class="n">{cosine:.2f}</td></tr>'
        for (target, item), cosine in zip(shown, similarities(rows, shown))
    ]
    head = "<tr><th>target</th><th>chosen as similar</th><th>text similarity</th></tr>"
    return f"<h2>Examples, drawn at random</h2>\n<table class=pairs>\n{head}\n" + "\n".join(lines) + "\n</table>\n"


def run(settings: Settings) -> Dict[str, Any]:
    """Measure, write, print; returns the numbers. Raises `UserError` for pairs that are not there or not readable."""
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    folder = pairs_dir(settings.dataset_dir, settings.strategy)
    pairs = read_pairs(pairs_path(folder, "id"), dataset.n_items)
    rows = TfidfSelector(dataset.titles_cn, 0.0).rows
    report: Dict[str, Any] = {
        "verdicts": verdicts_of(folder),
        "pairs": measure(dataset, pairs, rows, settings.seed),
    }
    if settings.against is not None:
        if settings.against == settings.strategy:
            raise UserError(f"setting 'against' names the same pairs as strategy: {settings.against}")
        others = read_pairs(pairs_path(pairs_dir(settings.dataset_dir, settings.against), "id"), dataset.n_items)
        report[f"overlap with {settings.against}"] = overlap(pairs, others)
    title = f"Pairs of {settings.dataset}: {settings.strategy}"
    body = "".join(table(name.capitalize(), numbers) for name, numbers in report.items())
    body += examples_table(dataset, pairs, rows, settings.examples, settings.seed)
    page = f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
    page += '<meta name="viewport" content="width=device-width">\n'
    page += f"<style>{STYLE}</style>\n<h1>{html.escape(title)}</h1>\n{body}</html>\n"
    with exclusive(folder):
        write_json(folder / "pair_report.json", {"strategy": settings.strategy, **report})
        write_text(folder / "pair_report.html", page)
    for name, numbers in report.items():
        for key, value in numbers.items():
            print(f"{name:24} {key:36} {value}")
    print(f"written: {folder / 'pair_report.html'}")
    return report


def main(argv: Optional[List[str]] = None) -> None:
    """Command line."""
    run(parse(Settings, __doc__, None, argv, redoes=False).settings)


if __name__ == "__main__":
    run_script(main)
