"""Preparation from NineRec's raw files and from prepared ones."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Dict

import pytest
from read_only import read_only
from tiny import make_tiny_dataset, tiny_cover, tiny_sequences, tiny_titles

from common.covers import check_covers
from common.dataset import load_dataset, read_times, times_path
from common.errors import UserError
from importers import covers
from importers.kinds import KINDS
from stage1_content_modality_semantic_alignment import prepare_dataset
from stage1_content_modality_semantic_alignment.prepare_dataset import Settings, main, run


def prepare(folder: Path, name: str, force: bool = False, **changes: Any) -> Path:
    run(Settings(dataset=name, datasets_dir=str(folder / "datasets"), **changes), force)
    return folder / "datasets" / name


def contents(home: Path) -> Dict[str, str]:
    """Every file but records and locks, by checksum."""
    files = [path for path in home.rglob("*") if path.is_file() and path.name not in ("prepare.json", ".lock")]
    return {str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# NineRec


def make_ninerec(folder: Path, name: str = "Raw", covers: str = "cover", header: bool = False) -> Path:
    """Two users, rows grouped by user but not in time order; item v9 was seen by nobody."""
    folder.mkdir(parents=True)
    pairs = ["u5,v3,30", "u5,v1,10", "u5,v2,20", "u1,v4,7", "u1,v2,7", "u1,v3,5", "u1,v1,9"]
    (folder / f"{name}_pair.csv").write_text("\n".join(["user,item,timestamp"] * header + pairs) + "\n")
    rows = ["v1,一,one", "v9,九,nine", 'v2,,"two, ""2"""', "v3,三,three", "v4,四,four"]
    (folder / f"{name}_item.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    if covers:
        (folder / f"{name}_{covers}").mkdir()
        for number in (1, 2, 3, 4):
            tiny_cover(number).save(folder / f"{name}_{covers}" / f"v{number}.jpg")
    return folder


@pytest.mark.parametrize("covers, header", [("cover", False), ("cover1", True)])
def test_ninerec_ids_time_order_and_covers(tmp_path: Path, covers: str, header: bool) -> None:
    raw = make_ninerec(tmp_path / "raw" / "Raw", covers=covers, header=header)
    home = prepare(tmp_path, "Raw", data_dir=str(tmp_path / "raw"))
    assert (home / "item_ids.csv").read_text() == "id,original_id\n0,v3\n1,v1\n2,v2\n3,v4\n"
    assert (home / "user_ids.csv").read_text() == "id,original_id\n0,u5\n1,u1\n"
    assert (home / "sequential_data.txt").read_text() == "0 1 2 0\n1 0 3 2 1\n"
    dataset = load_dataset(home, "Raw")
    assert read_times(dataset).tolist() == [10, 20, 30, 5, 7, 7, 9]
    assert dataset.titles_cn == ["三", "一", 'two, "2"', "四"]
    for item, original in enumerate(["v3", "v1", "v2", "v4"]):
        assert (home / "covers" / f"{item}.jpg").read_bytes() == (
            raw / f"Raw_{covers}" / f"{original}.jpg"
        ).read_bytes()


def test_times_go_with_prepared_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And their ties are counted. A data set that is replaced by one without times has none."""
    home = prepare(tmp_path / "a", "Raw", data_dir=str(make_ninerec(tmp_path / "raw")))
    copy = prepare(tmp_path / "b", "Raw", data_dir=str(home))
    assert contents(copy) == {name: sha for name, sha in contents(home).items() if "_ids" not in name}
    assert capsys.readouterr().out.count("at the same time as another one of the user: 28.6%") == 2  # 2 of 7
    assert json.loads((copy / "prepare.json").read_text())["statistics"]["ties"] == 2 / 7
    times_path(home).unlink()
    assert not times_path(prepare(tmp_path / "b", "Raw", data_dir=str(home))).exists()
    assert "no times" in capsys.readouterr().out


def test_covers_are_copied_where_they_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another disk")

    make_ninerec(tmp_path / "raw")
    monkeypatch.setattr(os, "link", refuse)
    check_covers(load_dataset(prepare(tmp_path, "Raw", data_dir=str(tmp_path / "raw")), "Raw"))


@pytest.mark.parametrize(
    "name, text, place",
    [
        (
            "Raw_pair.csv",
            "u,v1,1\nu,v2,late\n",
            "Raw_pair.csv:2: the time cannot be read .column 'timestamp' is 'late'",
        ),
        ("Raw_pair.csv", "user,item,timestamp\n", "Raw_pair.csv:1: holds no interactions"),
        (
            "Raw_item.csv",
            "v1,a,b\nv3,e,f\nv4,g,h\n",
            "Raw_pair.csv:3: item v2 has no row in .*Raw_item.csv; .*missing_titles=drop",
        ),
        ("Raw_item.csv", "v1,a\n", "Raw_item.csv:1: 2 columns instead of 3"),
    ],
)
def test_ninerec_faults_name_file_and_line(tmp_path: Path, name: str, text: str, place: str) -> None:
    raw = make_ninerec(tmp_path / "raw")
    (raw / name).write_text(text)
    with pytest.raises(UserError, match=place):
        prepare(tmp_path, "Raw", data_dir=str(raw))
    assert not (tmp_path / "datasets" / "Raw" / "sequential_data.txt").exists()


def test_blank_titles_are_kept_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = make_ninerec(tmp_path / "raw")
    (raw / "Raw_item.csv").write_text("v1,a,b\nv2, , \nv3,e,f\nv4,g,h\n")
    home = prepare(tmp_path, "Raw", data_dir=str(raw))
    assert "with title 75.0% (0 items have the same in both languages; 1 are blank)" in capsys.readouterr().out
    data = load_dataset(home, "Raw")
    assert sorted(title.strip() for title in data.titles_en) == ["", "b", "f", "h"]


def test_missing_covers_stop_or_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = make_ninerec(tmp_path / "raw")
    (raw / "Raw_cover" / "v1.jpg").unlink()
    (raw / "Raw_cover" / "v4.jpg").write_text("no picture")
    with pytest.raises(UserError, match=r"2 of 4 covers cannot be used(.|\n)*v1.jpg: missing(.|\n)*v4.jpg: does not"):
        prepare(tmp_path, "Raw", data_dir=str(raw))
    home = prepare(tmp_path, "Raw", data_dir=str(raw), missing_covers="zero")
    assert "with cover 50.0%" in capsys.readouterr().out
    assert sorted(path.name for path in (home / "covers").glob("*.jpg")) == ["0.jpg", "2.jpg"]
    listed = json.loads((home / "prepare.json").read_text())["missing_covers"]
    assert [(entry["item"], entry["original_id"]) for entry in listed] == [(1, "v1"), (3, "v4")]
    tiny_cover(1).save(raw / "Raw_cover" / "v1.jpg")
    tiny_cover(4).save(raw / "Raw_cover" / "v4.jpg")
    check_covers(load_dataset(prepare(tmp_path, "Raw", data_dir=str(raw)), "Raw"))


def test_raw_covers_are_never_taken_from_where_they_are_written(tmp_path: Path) -> None:
    home = make_ninerec(tmp_path / "datasets" / "Raw", covers="")
    (home / "covers").mkdir()
    tiny_cover(1).save(home / "covers" / "v1.jpg")
    with pytest.raises(UserError, match="is where this step writes its covers"):
        prepare(tmp_path, "Raw", covers_dir=str(home / "covers"))
    with pytest.raises(UserError, match="covers that this step did not make"):
        prepare(tmp_path, "Raw")
    assert (home / "covers" / "v1.jpg").is_file()


# prepared files


def test_prepared_files_are_copied_as_they_are(tmp_path: Path) -> None:
    source = make_tiny_dataset(tmp_path / "given")
    home = prepare(tmp_path, "Tiny", data_dir=str(tmp_path / "given"))
    copied = contents(home)
    assert copied.pop("covers/.made_by_prepare_dataset")
    assert copied == contents(source)
    dataset = load_dataset(home, "Tiny")
    assert [sequence.tolist() for sequence in dataset.sequences] == tiny_sequences()
    assert (dataset.titles_cn, dataset.titles_en) == tiny_titles()


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.files and name != "prepared"])
def test_prepared_files_are_found_beside_a_part_of_another_kind(tmp_path: Path, kind: str) -> None:
    """The folder of SICSRec's authors has .inter files, and covers in Tiny_cover."""
    source = make_tiny_dataset(tmp_path / "given")
    (source / "covers").rename(source / "Tiny_cover")
    of_kind = KINDS[kind].files
    assert of_kind is not None
    *some, _ = next(iter(of_kind(source, "Tiny"))).values()
    for path in some:
        path.parent.mkdir(exist_ok=True)
        path.write_text("user_id:token\titem_id_list:token_seq\titem_id:token\n1\t2\t3\n")
    home = prepare(tmp_path, "Tiny", data_dir=str(tmp_path / "given"))
    assert json.loads((home / "prepare.json").read_text())["settings"]["source"] == "prepared"
    check_covers(load_dataset(home, "Tiny"))


def test_prepared_files_already_in_place_are_checked_and_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_tiny_dataset(tmp_path / "datasets")
    before = contents(home)
    prepare(tmp_path, "Tiny")
    assert contents(home) == before
    prepare(tmp_path, "Tiny")
    assert "is up to date" in capsys.readouterr().out
    (home / "sequential_data.txt").write_text("0 1 2\n")
    with pytest.raises(UserError, match="sequential_data.txt:1: user 0 has 2 items"):
        prepare(tmp_path, "Tiny")


def test_covers_that_a_user_adds_are_taken_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tiny_dataset(tmp_path / "given", covers=False)
    home = prepare(tmp_path, "Tiny", data_dir=str(tmp_path / "given"))
    assert "no covers: text only" in capsys.readouterr().out
    make_tiny_dataset(tmp_path / "other")
    (tmp_path / "other" / "Tiny" / "covers").rename(home / "covers")
    prepare(tmp_path, "Tiny", data_dir=str(tmp_path / "given"))
    assert "with cover 100.0%" in capsys.readouterr().out
    prepare(tmp_path, "Tiny", data_dir=str(tmp_path / "given"))
    assert "up to date" in capsys.readouterr().out
    check_covers(load_dataset(home, "Tiny"))


def test_covers_made_here_go_when_the_source_has_none(tmp_path: Path) -> None:
    make_tiny_dataset(tmp_path / "with")
    make_tiny_dataset(tmp_path / "without", covers=False)
    home = prepare(tmp_path, "Tiny", data_dir=str(tmp_path / "with"))
    assert (home / "covers").is_dir()
    prepare(tmp_path, "Tiny", data_dir=str(tmp_path / "without"))
    assert not (home / "covers").exists()
    assert len(list((tmp_path / "with" / "Tiny" / "covers").iterdir())) == 15


@pytest.mark.parametrize(("there", "missing"), [("item", "pair"), ("pair", "item")])
def test_a_file_that_is_missing_beside_another_is_named(tmp_path: Path, there: str, missing: str) -> None:
    (tmp_path / f"Raw_{there}.csv").write_text("1,2,3\n")
    message = f"Raw_{missing}.csv: no such file; ninerec needs it beside Raw_{there}.csv"
    with pytest.raises(UserError, match=message):
        prepare(tmp_path, "Raw", data_dir=str(tmp_path))


def test_no_files_and_wrong_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no files of Nothing; set data_dir=FOLDER.*Known names.*Nothing_pair.csv"):
        prepare(tmp_path, "Nothing")
    assert not (tmp_path / "datasets").exists()
    make_tiny_dataset(tmp_path / "given")
    with pytest.raises(UserError, match="elsewhere: no such folder or LMDB"):
        prepare(tmp_path, "Tiny", data_dir=str(tmp_path / "given"), covers_dir=str(tmp_path / "elsewhere"))


def test_known_counts_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tiny_dataset(tmp_path / "given", name="Bili_Food", covers=False)
    prepare(tmp_path, "Bili_Food", data_dir=str(tmp_path / "given"))
    assert "warning: Bili_Food of the kind prepared is known with 6,549 users" in capsys.readouterr().out


# it keeps its word


def test_second_run_is_skipped_and_force_and_changes_redo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tiny_dataset(tmp_path / "given")
    command = ["-d", "Tiny", f"datasets_dir={tmp_path}/datasets", f"data_dir={tmp_path}/given"]
    main(command)
    assert "users 12  items 15" in capsys.readouterr().out
    home = tmp_path / "datasets" / "Tiny"
    before = contents(home)
    for again in (command, command[:-1]):
        with read_only(tmp_path):
            main(again)
        assert capsys.readouterr().out == f"prepare_dataset: {home} is up to date\n"
    main([*command, "--force"])
    assert "users 12" in capsys.readouterr().out
    assert contents(home) == before
    (home / "covers" / "4.jpg").unlink()
    main(command)
    assert "the covers in" in capsys.readouterr().out
    assert contents(home) == before


def test_interrupted_before_the_record_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny_dataset(tmp_path / "given")
    chosen: Dict[str, Any] = {"data_dir": str(tmp_path / "given")}
    home = prepare(tmp_path, "Tiny", **chosen)
    before = contents(home)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    for module, step in ((covers, "link"), (prepare_dataset, "_copy"), (prepare_dataset, "record")):
        with monkeypatch.context() as patch:
            patch.setattr(module, step, stop)
            with pytest.raises(KeyboardInterrupt):
                prepare(tmp_path, "Tiny", force=True, **chosen)
        assert not (home / "prepare.json").exists()
        assert (home / "sequential_data.txt").exists() == (step == "record"), "nothing passes for a whole data set"
    prepare(tmp_path, "Tiny", **chosen)
    assert contents(home) == before
