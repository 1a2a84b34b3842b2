"""Tables as Markdown, LaTeX, CSV and HTML."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Callable, Dict, List, Sequence

import pandas as pd

BEST, SECOND = "best", "second"
LATEX = {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "±": r"$\pm$", "–": "--"}
LATEX.update({"≈": r"$\approx$", "₂": "$_2$", "−": "$-$"})
LATEX.update({sign: f"\\{sign}" for sign in "&%$#_{}"}, **{sign: f"${sign}$" for sign in "<>"})


@dataclass(frozen=True)
class Table:
    """A title, a frame of text, the marks (best, second or empty) of some columns, and notes."""

    title: str
    frame: pd.DataFrame
    marks: Dict[str, List[str]] = field(default_factory=dict)
    notes: List[str] = field(default_factory=list)

    def marked(self, escape: Callable[[str], str], best: str, second: str) -> pd.DataFrame:
        """The frame as markup; ``best`` and ``second`` are format strings for the marked cells."""
        forms = {BEST: best, SECOND: second, "": "{}"}
        columns = {}
        for name, column in self.frame.items():
            marks = self.marks.get(str(name), [""] * len(column))
            columns[escape(str(name))] = [forms[mark].format(escape(cell)) for cell, mark in zip(column, marks)]
        return pd.DataFrame(columns)


def mean_and_std(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation; of one value the value alone."""
    spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
    return f"{fmean(values):.4f}{spread}"


def best_and_second(values: Sequence[float]) -> List[str]:
    """Marks of a column; values that are equal as printed share a mark. NaN has none."""
    printed = [round(value, 4) for value in values]
    ranked = sorted({value for value in printed if value == value}, reverse=True)
    names = dict(zip(ranked, (BEST, SECOND)))
    return [names.get(value, "") for value in printed]


def markdown(tables: Sequence[Table]) -> str:
    """Best bold, second underlined."""

    def escape(text: str) -> str:
        return re.sub(r"<(?=\S)|[\[\]|]", r"\\\g<0>", text)

    parts = []
    for table in tables:
        frame = table.marked(escape, "**{}**", "<u>{}</u>")
        align = ["left", *["right"] * (frame.shape[1] - 1)]
        grid = frame.to_markdown(index=False, disable_numparse=True, colalign=align)
        parts.append("\n\n".join([f"## {table.title}", grid, *table.notes]))
    return "\n\n".join(parts) + "\n"


def latex(tables: Sequence[Table]) -> str:
    r"""Best bold, second underlined; needs \usepackage{booktabs}."""

    def escape(text: str) -> str:
        return "".join(LATEX.get(sign, sign) for sign in text)

    parts = []
    for table in tables:
        frame = table.marked(escape, r"\textbf{{{}}}", r"\underline{{{}}}")
        grid = frame.to_latex(index=False, escape=False, column_format="l" + "r" * (frame.shape[1] - 1))
        parts.append("\n".join([f"% {table.title}", *(f"% {note}" for note in table.notes), grid]))
    return "\n".join(parts)


def as_csv(tables: Sequence[Table]) -> str:
    """One table after another; the first column holds the table's title."""
    parts = []
    for table in tables:
        frame = table.frame.copy()
        frame.insert(0, "table", table.title)
        parts.append(frame.to_csv(index=False, lineterminator="\n"))
    return "\n".join(parts)


def as_html(table: Table) -> str:
    """A ``<table class="data">``; best bold, second underlined."""
    frame = table.marked(html.escape, "<b>{}</b>", "<u>{}</u>")
    return str(frame.to_html(index=False, escape=False, border=0, classes="data", justify="unset"))


STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:90rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;display:block;overflow-x:auto}td,th{padding:.25rem .7rem;text-align:right;
border-bottom:1px solid #ddd;white-space:nowrap}td:first-child,th:first-child{text-align:left}"""


def page(title: str, tables: Sequence[Table]) -> str:
    """An HTML page of tables."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>",
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style><h1>{html.escape(title)}</h1>",
    ]
    for table in tables:
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in table.notes)
        parts.append(f"<h2>{html.escape(table.title)}</h2>{as_html(table)}{notes}")
    return "\n".join(parts)
