"""reproduce.claims: which numbers hold, what is skipped, and that docs/claims.md has the README's numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import List

import pytest

from common.errors import UserError
from common.files import read_text
from common.settings import REPOSITORY
from reproduce import claims

PRINTED = r"""## T: test, masked

| model | seeds | HIT@10 | x |
|:--|--:|--:|--:|
| a | 3 | **0.1234 ± 0.5** | 1,200 |
| a\<b> | 3 | <u>−0.5</u> | 110× |

## T: against a

| model | metric | against | difference |
|---|---|---|---|
| b, ours | MRR | a | +0.0040 |

done: 7 runs
"""


def claimed(folder: Path, tables: str, conditions: str = "Time: 1 minute; Tolerance: 0.01.", more: str = "") -> Path:
    (folder / "printed").write_text(PRINTED, encoding="utf-8")
    path = folder / "claims.md"
    path.write_text(f"# Claims\n\n## One\n\n{conditions}\n\n```bash\ncat {folder}/printed{more}\n```\n\n{tables}\n")
    return path


def lines_of(path: Path) -> List[str]:
    (section,) = claims.sections(path)
    return claims.check(section, claims.run(section, {"PATH": "/usr/bin:/bin"}))


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ("| T: test | HIT@10 | x |\n|---|---|---|\n| a | .1230 | 1200 |\n| a<b> | -.5 | |", "✓✓✓"),
        ("| T: test | HIT@10 |\n|---|---|\n| a | .1130 |\n| a<b> | −.48 |", "✗✗"),
        ("| T: test | HIT@10 |\n|---|---|\n| b | .1 |\n\n| U | HIT@10 |\n|---|---|\n| a | .1234 |", "✗✗"),
        ("| T: test | MRR |\n|---|---|\n| a | .1234 |", "✗"),
        ("| model | x |\n|---|---|\n| a<b> | 110× |", "✓"),
        ("| T: against | difference |\n|---|---|\n| b, ours, MRR | +.0041 |", "✓"),
        ("| output | number |\n|---|---|\n| `^done: (\\d+)` | 7 |\n| `^gone: (\\d+)` | 7 |", "✓✗"),
    ],
)
def test_a_number_holds_within_the_tolerance(tmp_path: Path, tables: str, expected: str) -> None:
    assert "".join(line[0] for line in lines_of(claimed(tmp_path, tables))) == expected


@pytest.mark.parametrize(("tolerance", "mark"), [("0.05", "✗"), ("0.1", "✓"), ("9 %", "✗"), ("12 %", "✓")])
def test_a_tolerance_is_absolute_or_in_per_cent(tmp_path: Path, tolerance: str, mark: str) -> None:
    table = "| output | number |\n|---|---|\n| `(1)$` | 0.9 |"
    path = claimed(tmp_path, table, f"Quick; Time: 1 minute; Tolerance: {tolerance}.", "; echo 1")
    assert lines_of(path)[0][0] == mark


@pytest.mark.parametrize(
    ("conditions", "words", "expected"),
    [
        ("Quick; Time: 1 minute; Tolerance: 0.1.", ["--quick"], "✓ a, HIT@10: 0.1234; claimed 0.1 ± 0.1"),
        ("Time: 1 minute; Tolerance: 0.01.", ["--quick"], "– skipped: not quick"),
        ("Needs: data_dir (one file); Time: 9 hours; Tolerance: 0.1.", [], "– skipped: needs data_dir (one file)"),
        ("Needs: data_dir (one file); Time: 9 hours; Tolerance: 0.1.", ["data_dir=x"], "✓ a, HIT@10: 0.1234"),
    ],
)
def test_sections_whose_conditions_are_not_met_are_skipped(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    conditions: str,
    words: List[str],
    expected: str,
) -> None:
    table = "| T: test | HIT@10 |\n|---|---|\n| a | .1 |"
    monkeypatch.setattr(claims, "CLAIMS", claimed(tmp_path, table, conditions))
    claims.main(words)
    assert expected in capsys.readouterr().out


def test_numbers_that_do_not_hold_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = "| T: test | HIT@10 |\n|---|---|\n| a | .1234 |\n| a<b> | 9 |"
    monkeypatch.setattr(claims, "CLAIMS", claimed(tmp_path, table, more="; exit 3"))
    with pytest.raises(UserError, match="1 of 2 numbers do not hold"):
        claims.main([])
    with pytest.raises(UserError, match="'data_dri' is not in"):
        claims.main(["data_dri=x"])


def test_a_section_without_conditions_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="One: add commands, and a line such as"):
        claims.sections(claimed(tmp_path, "", "Time: 1 minute."))


def test_the_claims_hold_every_result_of_the_readme() -> None:
    results = read_text(REPOSITORY / "README.md").partition("## Results")[2].partition("\n## ")[0]
    known = [claims.number(cell) for s in claims.sections(claims.CLAIMS) for g in s.grids for r in g.rows for cell in r]
    for text in re.findall(r"(?<![\w.])\.\d{4}", results) + re.findall(r"(\d+) to (\d+) times", results):
        for one in [text] if isinstance(text, str) else text:
            assert float(one) in known, f"docs/claims.md has no claim for {one} in README.md"
    assert [section.title for section in claims.sections(claims.CLAIMS) if "Quick" in section.conditions]
