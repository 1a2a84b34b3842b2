"""Run the commands of docs/claims.md again and print which of the README's numbers hold.

    python -m reproduce.claims --quick                      # what runs within minutes on two cores, as CI does
    python -m reproduce.claims data_dir=DIR                 # also what needs these data sets (hours)

Each section of docs/claims.md has a line of conditions, shell commands and tables. A table names numbers of a printed
table: its first header cell is the start of the printed table's title (## TITLE), or that table's first header cell; a
row is found by its first cells, joined by ", ". Under the header `output`, a row is a regular expression instead, whose
group is the number. Commands run in the repository's folder, with the given key=value as environment variables;
finished runs are not repeated. Exit code 1 if a number does not hold.
"""

from __future__ import annotations

from common.start import run_script

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence

from common.errors import UserError, nearest
from common.files import read_text
from common.settings import REPOSITORY, Parser

CLAIMS = REPOSITORY / "docs" / "claims.md"
MARKUP = re.compile(r"\*\*|`|</?u>|\\(?=[<[|\]])")
NUMBER = re.compile(r"[+-]?(?:\d[\d,]*)?\.?\d+")


@dataclass
class Grid:
    """A Markdown table under a title."""

    title: str
    header: List[str]
    rows: List[List[str]] = field(default_factory=list)


@dataclass
class Section:
    """Claims that share their commands."""

    title: str
    commands: str
    conditions: Dict[str, str]  # of Quick, Needs, Time, Tolerance
    grids: List[Grid]

    def holds(self, found: float, expected: float) -> bool:
        """Whether a number is within the tolerance, which is absolute or in per cent."""
        text = self.conditions["Tolerance"]
        tolerance = float(text.split()[0]) * (abs(expected) / 100 if text.endswith("%") else 1)
        return abs(found - expected) <= tolerance + 1e-9


def number(text: str) -> Optional[float]:
    """The first number of a cell, such as 1200 of ``**1,200** ± 3``."""
    match = NUMBER.search(text.replace("−", "-"))
    return float(match[0].replace(",", "")) if match else None


def grids(text: str) -> List[Grid]:
    """The Markdown tables of a text, without markup."""
    found: List[Grid] = []
    title, before = "", ""
    for line in text.splitlines():
        if line.startswith("## "):
            title = line[3:].strip()
        if line.startswith("|"):
            cells = [MARKUP.sub("", cell).strip() for cell in line.strip().strip("|").split(" |")]
            if not before.startswith("|"):
                found.append(Grid(title, cells))
            elif not set(line) <= set("|-: "):
                found[-1].rows.append(cells)
        before = line
    return found


def sections(path: Path) -> List[Section]:
    """The sections of docs/claims.md.

    Raises:
        UserError: a section has no commands, no tolerance or no time.
    """
    found = []
    for part in read_text(path).split("\n## ")[1:]:
        title = part.partition("\n")[0]
        commands = re.search(r"```bash\n(.*?)```", part, re.DOTALL)
        line = re.search(r"^((?:Quick|Needs|Time)\b.*)\.$", part, re.MULTILINE)
        conditions = dict(entry.partition(": ")[::2] for entry in line[1].split("; ")) if line else {}
        if not commands or not {"Time", "Tolerance"} <= set(conditions):
            raise UserError(f"{path}: {title}: add commands, and a line such as: Time: 2 minutes; Tolerance: 0.01.")
        found.append(Section(title, commands[1], conditions, grids(part)))
    return found


def measured(claimed: Grid, row: Sequence[str], column: int, output: str) -> Optional[float]:
    """The number that the commands printed for a cell of a table of claims."""
    name = claimed.header[0]
    if name == "output":
        match = re.search(row[0], output, re.MULTILINE)
        return number(match[1]) if match else None
    for printed in grids(output):
        if (printed.title.startswith(name) or printed.header[0] == name) and claimed.header[column] in printed.header:
            place = printed.header.index(claimed.header[column])
            for cells in printed.rows:
                if any(", ".join(cells[:n]) == row[0] for n in (1, 2, 3)):
                    return number(cells[place])
    return None


def run(section: Section, environment: Mapping[str, str]) -> str:
    """Run the commands in bash, show and return what they print; a failure is printed, and its numbers are missing."""
    command = ["bash", "-euo", "pipefail", "-c", section.commands]
    lines = []
    with subprocess.Popen(command, cwd=REPOSITORY, env=dict(environment), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            print(f"  {line}", end="", flush=True)
            lines.append(line)
    if process.returncode:
        lines.append(f"the commands failed: exit code {process.returncode}\n")
    return "".join(lines)


def check(section: Section, output: str) -> List[str]:
    """A line for each number, ✓ or ✗."""
    lines = []
    for grid in section.grids:
        for row in grid.rows:
            for column, cell in enumerate(row[1:], 1):
                expected = number(cell)
                if expected is None:
                    continue
                found = measured(grid, row, column, output)
                mark = "✓" if found is not None and section.holds(found, expected) else "✗"
                shown = "not printed" if found is None else f"{found:g}"
                name = f"{row[0]}, {grid.header[column]}"
                lines.append(f"{mark} {name}: {shown}; claimed {expected:g} ± {section.conditions['Tolerance']}")
    return lines


def main(argv: Optional[List[str]] = None) -> None:
    """Run the sections whose conditions are met; print all numbers at the end."""
    parser = Parser(__doc__)
    parser.add_argument("words", nargs="*", metavar="key=value", help="folders of data sets, by the names in claims.md")
    parser.add_argument("--quick", action="store_true", help="only the sections marked Quick")
    arguments = parser.parse_intermixed_args(argv)
    every = sections(CLAIMS)
    given = dict(word.partition("=")[::2] for word in arguments.words)
    needed = [section.conditions["Needs"].split()[0] for section in every if "Needs" in section.conditions]
    for key in given:
        if key not in needed:
            raise UserError(f"'{key}' is not in {CLAIMS}{nearest(key, needed)}; known: {', '.join(needed)}")
    environment = {**os.environ, "PYTHON": sys.executable, **given}
    for name, first in (("PATH", Path(sys.executable).parent), ("PYTHONPATH", REPOSITORY)):
        environment[name] = os.pathsep.join([str(first), *filter(None, [os.environ.get(name)])])
    summary = []
    for section in every:
        needs, stated = section.conditions.get("Needs"), section.conditions["Time"]
        why = f"needs {needs}" if needs and needs.split()[0] not in given else ""
        if arguments.quick and "Quick" not in section.conditions:
            why = "not quick"
        summary.append(f"\n{section.title} ({stated})")
        if why:
            summary.append(f"– skipped: {why}")
            continue
        print(f"== {section.title} ({stated})", flush=True)
        started = time.perf_counter()
        summary += check(section, run(section, environment))
        summary[-1] += f"\n  {(time.perf_counter() - started) / 60:.1f} minutes"
    print("\n".join(summary))
    failed = sum(line.startswith("✗") for line in summary)
    if failed:
        raise UserError(f"{failed} of {sum(line[0] in '✓✗' for line in summary)} numbers do not hold")


if __name__ == "__main__":
    run_script(main)
