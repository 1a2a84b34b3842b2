"""One page about the results of suites: tables, curves, costs, items, pairs, and what each model recommends to whom.

    python -m reproduce.report quickstart
    python -m reproduce.report quickstart sensitivity dataset=ml-100k users=100 out=page.html

The other words are those of reproduce.run. The page is one HTML file that needs no network and no server.

Reads:  what reproduce.run recorded, the runs' folders, the prepared data set, pairs and features of stage 1
Writes: <results_dir>/suites/<suite>/report.html (report-<data set>-masked.html, as asked for), or out
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

from common.arguments import Parser
from common.errors import UserError, run_script
from common.files import check_folder, write_text
from common.settings import CommonSettings, build, help_of_settings, setting, split_overrides
from reproduce.report_page.page import html_of
from reproduce.run import asked_for
from reproduce.suite import suite_names


@dataclass
class Settings(CommonSettings):
    """Settings of the page; dataset and datasets_dir are the suites' words."""

    out: Optional[str] = setting(None, "the file to write; null: report.html in <results_dir>/suites/<suites>/")
    before_dir: Optional[str] = setting(
        None, "item features from before stage 1, {dataset} is filled in; null: <datasets_dir>/<D>/before_stage1"
    )
    users: int = setting(40, "users in the browser of recommendations, drawn", minimum=0)
    history: int = setting(20, "latest items of a user's history that are shown", minimum=0)
    pairs: int = setting(12, "pairs of each strategy that are shown, drawn", minimum=0)
    map_items: int = setting(800, "items in the map, drawn", minimum=0)
    covers: int = setting(600, "covers of a data set at most; other items are shown by their titles", minimum=0)
    seed: int = setting(2024, "seed of what is drawn", minimum=0)


SHARED = [f.name for f in dataclasses.fields(CommonSettings)]
OWN = [f.name for f in dataclasses.fields(Settings) if f.name not in SHARED]


def main(argv: Optional[List[str]] = None) -> None:
    """Collect and write."""
    parser = Parser(__doc__, help_of_settings(Settings, "settings of the page (key=value):", SHARED))
    parser.add_argument("words", nargs="+", metavar="SUITE | key=value", help=f"suites: {', '.join(suite_names())}")
    parser.add_argument(
        "--masked", action="store_true", help="test scores with the history masked (NineRec's protocol)"
    )
    arguments = parser.parse_intermixed_args(argv)
    names = list(dict.fromkeys(word for word in arguments.words if "=" not in word))
    words = [word for word in arguments.words if "=" in word]
    if not names:
        raise UserError(f"name a suite: {', '.join(suite_names())}, or a YAML of yours")
    values = split_overrides(words)
    settings = build(Settings, {key: values[key] for key in OWN if key in values})
    of_suites = [word for word in words if word.partition("=")[0] not in OWN]
    asked = [asked_for(name, of_suites, arguments, OWN) for name in names]
    together = "+".join(dict.fromkeys(one.suite.name for one in asked))
    home = Path(asked[0].results_dir) / "suites" / together
    path = check_folder(Path(settings.out), "out") if settings.out else home / f"report{asked[0].selection}.html"
    page = html_of(asked, settings, "test_masked" if arguments.masked else "test", path.parent)
    write_text(path, page)
    print(f"{path}: {len(page.encode()) / 1e6:.1f} MB")


if __name__ == "__main__":
    run_script(main)
