"""How good a set of pairs is: an HTML page, and the same numbers as JSON. A second set can be compared with it.

    python stage1_content_modality_semantic_alignment/pair_report.py -d Bili_Food
    python stage1_content_modality_semantic_alignment/pair_report.py -d Bili_Food strategy=glm against=tfidf

Reads   <datasets_dir>/<D>/pairs/<strategy>/item_pairs_id.txt, summary.json (for the verdicts), titles, covers.
        For published pairs, put their item_pairs_id.txt into pairs/<any name>/, or use audit_pairs.py.
Writes  <datasets_dir>/<D>/pairs/<strategy>/pair_report.html (self-contained), pair_report.json

Text similarity is the cosine of TF-IDF vectors of character n-grams, as in selector=tfidf. It shows how much the
selector follows the words of the titles, not how good its choices are. Random pairs have the same targets, each with an
item drawn from all others.
"""

from __future__ import annotations

from common.start import run_script

import base64
import html
import io
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from common.covers import CoverError, cover_files, read_cover
from common.dataset import Dataset, covers_path, load_dataset
from common.files import read_json, write_json, write_text
from common.settings import SeedSettings, parse, setting
from stage1_content_modality_semantic_alignment.audit_pairs import Numbers, audit, share, verdict
from stage1_content_modality_semantic_alignment.llm.pairs import Pair, pairs_path, read_pairs
from stage1_content_modality_semantic_alignment.llm.selectors import TfidfSelector
from stage1_content_modality_semantic_alignment.settings import pairs_dir

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
class Settings(SeedSettings):
    """Settings of this report; the seed draws random pairs and examples."""

    strategy: str = setting("paper", "the pairs: the strategy of llm_driven_sample.py")
    against: Optional[str] = setting(None, "another strategy to compare with")
    examples: int = setting(10, "pairs to show with titles and covers", minimum=0)


# --- numbers ---


def similarities(rows: Any, pairs: Sequence[Pair]) -> np.ndarray:
    """Cosine of each pair, (P,); rows: sparse (n_items, n-grams), of length 1, or 0 for a title without n-grams."""
    targets, similar = np.array(pairs).T
    found: np.ndarray = np.asarray(rows[targets].multiply(rows[similar]).sum(axis=1)).ravel()
    return found


def random_pairs(pairs: Sequence[Pair], n_items: int, seed: int) -> List[Pair]:
    """The same targets, each with an item drawn uniformly from all others."""
    steps = np.random.default_rng(seed).integers(1, max(n_items, 2), size=len(pairs))
    return [(target, int(target + step) % n_items) for (target, _), step in zip(pairs, steps)]


def distribution(name: str, values: np.ndarray) -> Numbers:
    """Mean and quartiles."""
    quartiles = zip(("quarter", "median", "three quarters"), np.quantile(values, [0.25, 0.5, 0.75]))
    found = {"mean": values.mean(), **dict(quartiles)}
    return {f"{name}: {part}": round(float(value), 4) for part, value in found.items()}


def measure(dataset: Dataset, pairs: Sequence[Pair], rows: Any, seed: int) -> Numbers:
    """The numbers of one set of pairs; rows: see `similarities`."""
    chosen, random = (similarities(rows, some) for some in (pairs, random_pairs(pairs, dataset.n_items, seed)))
    titles = dataset.titles_cn
    return {
        **audit(dataset, pairs),
        "share of identical titles": share(sum(titles[a] == titles[b] for a, b in pairs), len(pairs)),
        **distribution("text similarity of pairs", chosen),
        **distribution("text similarity of random pairs", random),
        "share above 95 % of random pairs": share(int((chosen > np.quantile(random, 0.95)).sum()), len(pairs)),
    }


def overlap(pairs: Sequence[Pair], others: Sequence[Pair]) -> Numbers:
    """What two sets have in common; the two orders of a pair count as one."""
    mine, theirs = ({frozenset(pair) for pair in some} for some in (pairs, others))
    shared_targets = {target for target, _ in pairs} & {target for target, _ in others}
    same = {target for target, _ in set(pairs) & set(others)}
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


# --- page ---


def cover_data(dataset: Dataset, item: int, side: int = COVER_SIDE, form: str = "JPEG") -> Optional[str]:
    """A thumbnail of at most ``side`` × ``side`` pixels as a data URI (JPEG or WEBP); None without a readable cover."""
    try:
        small = read_cover(*cover_files(covers_path(dataset.folder), [item]))
    except CoverError:
        return None
    small.thumbnail((side, side))
    data = io.BytesIO()
    small.save(data, form, quality=80)
    return f"data:image/{form.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


def item_cell(dataset: Dataset, item: int) -> str:
    """An item with its cover, if the data set has covers, and its titles."""
    cover = ""
    if dataset.covers is not None:
        data = cover_data(dataset, item)
        cover = f'<img alt="" src="{data}">' if data else '<small class="none">no cover</small>'
    titles = "<br>".join(map(html.escape, dict.fromkeys((dataset.titles_cn[item], dataset.titles_en[item]))))
    return f"<td>{cover}{titles}<br><small>item {item}</small></td>"


def numbers_table(title: str, numbers: Numbers) -> str:
    """A name and a number per line."""
    rows = [f'<tr><td>{html.escape(name)}</td><td class="n">{value:,}</td></tr>' for name, value in numbers.items()]
    return "\n".join([f"<h2>{html.escape(title)}</h2>", "<table>", *rows, "</table>\n"]) if rows else ""


def examples_table(dataset: Dataset, pairs: Sequence[Pair], rows: Any, count: int, seed: int) -> str:
    """Some of the distinct pairs, drawn by seed; rows: see `similarities`."""
    distinct = list(dict.fromkeys(pairs))
    shown = [distinct[place] for place in np.sort(np.random.default_rng(seed).permutation(len(distinct))[:count])]
    if not shown:
        return ""
    lines = [
        f'<tr>{item_cell(dataset, target)}{item_cell(dataset, item)}<td class="n">{cosine:.2f}</td></tr>'
        for (target, item), cosine in zip(shown, similarities(rows, shown))
    ]
    head = "<tr><th>target</th><th>chosen as similar</th><th>text similarity</th></tr>"
    return "\n".join(["<h2>Examples, drawn at random</h2>", "<table class=pairs>", head, *lines, "</table>\n"])


def run(settings: Settings) -> Dict[str, Numbers]:
    """Measure, write and print; returns the numbers."""
    dataset = load_dataset(settings.dataset_dir, settings.dataset)
    folder = pairs_dir(settings.dataset_dir, settings.strategy)
    pairs = read_pairs(pairs_path(folder, "id"), dataset.n_items)
    rows = TfidfSelector(dataset.titles_cn, 0.0).rows
    made = folder / "summary.json"  # pairs from elsewhere have none
    summary: Numbers = read_json(made).get("summary", {}) if made.is_file() else {}
    verdicts = {name: count for name, count in summary.items() if name.startswith("verdict ")}
    report = {"verdicts": verdicts, "pairs": measure(dataset, pairs, rows, settings.seed)}
    if settings.against is not None:
        others = read_pairs(pairs_path(pairs_dir(settings.dataset_dir, settings.against), "id"), dataset.n_items)
        report[f"overlap with {settings.against}"] = overlap(pairs, others)

    title = html.escape(f"Pairs of {settings.dataset}: {settings.strategy}")
    page = f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n'
    page += f'<meta name="viewport" content="width=device-width">\n<style>{STYLE}</style>\n<h1>{title}</h1>\n'
    page += f"<p>{verdict(report['pairs']).capitalize()}.</p>\n"
    page += "".join(numbers_table(name.capitalize(), numbers) for name, numbers in report.items())
    page += examples_table(dataset, pairs, rows, settings.examples, settings.seed) + "</html>\n"
    write_json(folder / "pair_report.json", {"strategy": settings.strategy, **report})
    write_text(folder / "pair_report.html", page)
    for name, numbers in report.items():
        for key, value in numbers.items():
            print(f"{name:24} {key:46} {value}")
    print(f"verdict: {verdict(report['pairs'])}; written: {folder / 'pair_report.html'}")
    return report


def main(argv: Optional[List[str]] = None) -> None:
    """Command line."""
    run(parse(Settings, __doc__, None, argv, has_force=False).settings)


if __name__ == "__main__":
    run_script(main)
