"""Tables as Markdown, LaTeX, CSV and one HTML page."""

from __future__ import annotations

import csv
import hashlib
import html
import io
import re
from dataclasses import dataclass, field
from typing import List, Sequence


@dataclass(frozen=True)
class Cell:
    """Text, whether it is the best or the second of its column, and the anchor of the runs behind it."""

    text: str
    mark: str = ""  # best or second
    anchor: str = ""


@dataclass(frozen=True)
class Table:
    """A title, a header, rows of cells, and remarks."""

    title: str
    header: List[str]
    rows: List[List[Cell]]
    notes: List[str] = field(default_factory=list)


def name_part(*words: str) -> str:
    """Words as a part of a file's name; with a digest where that takes signs away, or all but the first word."""
    full = re.sub(r"[^\w.=-]+", "-", "-".join(words)).strip("-")
    if full == "-".join(words) and len(full) <= 60:
        return full
    digest = hashlib.sha256(repr(words).encode()).hexdigest()[:8]
    return f"{full if len(full) <= 50 else words[0]}-{digest}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up as plain text too."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]) + "\n"


def _marked(cell: Cell, best: str, second: str, text: str) -> str:
    form = {"best": best, "second": second}.get(cell.mark, "{}")
    return form.format(text)


def markdown(tables: Sequence[Table]) -> str:
    """Best in bold, second underlined; a row's name leads to its runs."""
    parts = []
    for table in tables:
        rows = [table.header]
        for row in table.rows:
            cells = [
                _marked(cell, "**{}**", "<u>{}</u>", re.sub(r"<(?=\S)|[\[\]]", r"\\\g<0>", cell.text)) for cell in row
            ]
            if row[0].anchor:
                cells[0] = f"[{cells[0]}](#{row[0].anchor})"
            rows.append([cell.replace("|", "\\|") for cell in cells])
        parts.append("\n".join([f"## {table.title}\n", aligned(rows), *(f"{note}  " for note in table.notes)]))
    return "\n".join(parts)


_TEX = str.maketrans(
    {
        **{c: "\\" + c for c in "&%$#_{}"},
        "\\": "\\textbackslash{}",
        "^": "\\textasciicircum{}",
        "~": "\\textasciitilde{}",
        "±": "$\\pm$",
        "≤": "$\\le$",
        "→": "$\\to$",
        "<": "$<$",
        ">": "$>$",
        "…": "\\dots{}",
        "–": "--",
    }
)


def latex(tables: Sequence[Table]) -> str:
    """booktabs; needs \\usepackage{booktabs}."""
    parts = []
    for table in tables:
        lines = [f"% {table.title}", f"\\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}", "\\toprule"]
        lines += [" & ".join(h.translate(_TEX) for h in table.header) + " \\\\", "\\midrule"]
        for row in table.rows:
            cells = []
            for cell in row:
                text = cell.text.translate(_TEX)
                wrap = {"best": "\\textbf{", "second": "\\underline{"}.get(cell.mark)
                cells.append(f"{wrap}{text}}}" if wrap else text)
            lines.append(" & ".join(cells) + " \\\\")
        parts.append("\n".join([*lines, "\\bottomrule", "\\end{tabular}", *(f"% {note}" for note in table.notes)]))
    return "\n\n".join(parts) + "\n"


def as_csv(tables: Sequence[Table]) -> str:
    """One after another, each row led by its table's title."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for table in tables:
        writer.writerow(["table", *table.header])
        writer.writerows([table.title, *(cell.text for cell in row)] for row in table.rows)
    return out.getvalue()


STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:90rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;display:block;overflow-x:auto}td,th{padding:.25rem .7rem;text-align:right;
border-bottom:1px solid #ddd;white-space:nowrap}td:first-child,th:first-child{text-align:left}
a{color:inherit;text-decoration:none}a:hover{text-decoration:underline}code{font-size:.9em;overflow-wrap:anywhere}"""


def page(title: str, tables: Sequence[Table], runs: str) -> str:
    """One HTML page; each cell leads to its runs. ``runs`` is HTML."""
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"]
    parts += [
        "<meta name=viewport content='width=device-width'>",
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>",
    ]
    for table in tables:
        parts.append(f"<h2>{html.escape(table.title)}</h2><table><tr>")
        parts += [f"<th>{html.escape(h)}" for h in table.header]
        for row in table.rows:
            parts.append("<tr>")
            for cell in row:
                text = _marked(cell, "<b>{}</b>", "<u>{}</u>", html.escape(cell.text))
                parts.append(f"<td><a href='#{cell.anchor}'>{text}</a>" if cell.anchor else f"<td>{text}")
        parts.append("</table>" + "".join(f"<p>{html.escape(note)}" for note in table.notes))
    return "\n".join([*parts, runs])
