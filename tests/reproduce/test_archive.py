"""Archives: tables from an archive are those of the runs, and an archive holds no history, text or path."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import List

import numpy as np
import pandas as pd
import pytest
from reported import results_of, words_of

from common.errors import UserError
from reproduce import archive, table
from reproduce.rows import ResultsSettings, read_results


@pytest.fixture(scope="module")
def archives(results: Path) -> Path:
    """A folder with the archive of the suite's results."""
    folder = results.parent / "archives"
    run = results.parent / "results" / "Pop" / "Tiny" / "Pop-1"
    (run / "train.log").write_text(f"Pop: {run}\n3 / 4 steps/s\n")
    archive.write(results_of(results), folder)
    return folder


@pytest.mark.parametrize("masked", [[], ["--masked"]])
def test_tables_from_an_archive_are_those_of_the_runs(
    results: Path, archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, masked: List[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(archive, "ARCHIVES", archives)
    table.main(words_of(results, *masked))
    home = Path("suites", "mine")
    stem = "table-masked" if masked else "table"
    before = (results.parent / "results" / home / f"{stem}.csv").read_text(encoding="utf-8")
    hidden = [(results.parent / name).rename(tmp_path / f"hidden-{name}") for name in ("results", "datasets")]
    try:
        archive.main(["table", str(results), *masked])
    finally:
        for folder in hidden:
            folder.rename(results.parent / folder.name.partition("-")[2])
    after = Path("results/archives/mine", home, f"{stem}.csv").read_text(encoding="utf-8")
    assert after == before.replace(f"{results.parent / 'results'}/", "results/archives/mine/")


def test_an_archive_names_no_item_of_a_user_and_no_path(results: Path, archives: Path, tmp_path: Path) -> None:
    folder = archive.unpack("mine", tmp_path, archives)
    run = folder / "Pop" / "Tiny" / "Pop-1"
    names = ["made.json", "metrics.json", "ranks.csv", "settings.yaml", "shown.npz", "train.log"]
    assert sorted(path.name for path in run.iterdir()) == names
    assert list(pd.read_csv(run / "ranks.csv")) == ["user", "rank", "rank_masked"]
    assert (run / "train.log").read_text() == "Pop: DIR/Pop-1\n3 / 4 steps/s\n"
    with np.load(folder / "suites" / "mine" / "Tiny.npz") as items:
        assert {name: len(items[name]) for name in items} == {"counts": 15, "thirds": 12, "lengths": 12}
    for path in folder.rglob("*"):
        assert path.is_dir() or str(results.parent).encode() not in path.read_bytes()


def test_an_archive_is_the_same_bytes_again_and_a_changed_one_is_refused(
    results: Path, archives: Path, tmp_path: Path
) -> None:
    path = archives / "mine.tar.xz"
    before = path.read_bytes()
    archive.write(results_of(results), archives)
    assert path.read_bytes() == before
    copies = Path(shutil.copytree(archives, tmp_path / "archives"))
    with pytest.raises(UserError, match="yours.tar.xz: no such archive; available: mine"):
        archive.unpack("yours", tmp_path, copies)
    (copies / path.name).write_bytes(before[:-1] + b"x")
    with pytest.raises(UserError, match="mine.tar.xz: its SHA-256 is not that of .*SHA256SUMS; restore"):
        archive.unpack("mine", tmp_path, copies)


@pytest.mark.parametrize("suite", [name.partition(".")[0] for name in archive.recorded(archive.ARCHIVES)])
def test_the_archives_of_the_repository_are_whole_and_small(suite: str, tmp_path: Path) -> None:
    folder = archive.unpack(suite, tmp_path, archive.ARCHIVES)
    results = read_results(suite, ResultsSettings(results_dir=str(folder)))
    for dataset in results.datasets:
        ranks = results.ranks(dataset)
        for row in results.of(dataset):
            assert np.allclose(ranks[row.name].gains("ndcg@10").mean(axis=1), row.values("test", "ndcg@10"))
    assert not [path for path in folder.rglob("*") if path.suffix in (".pth", ".npy")]
    assert sum(path.stat().st_size for path in archive.ARCHIVES.iterdir()) < 20e6
