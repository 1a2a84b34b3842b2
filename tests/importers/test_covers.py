"""Covers of every form are decoded in the same way, wherever they come from."""

from __future__ import annotations

import base64
import io
import random
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import pytest
from PIL import Image
from test_prepare_dataset import prepare
from tiny import N_ITEMS, make_tiny_dataset

from common.covers import CoverError, check_covers, cover_fault, pictures_in, read_cover
from common.dataset import load_dataset
from common.errors import UserError
from common.files import read_json
from importers.covers import open_covers
from stage1_content_modality_semantic_alignment.image_encoders import read_covers
from stage1_content_modality_semantic_alignment.pair_report import cover_data

WHITE, DARK = 255, 60
GREY = np.full((16, 24), WHITE, np.uint8)  # what each picture below shows: white, with a dark lower left corner
GREY[8:, :8] = DARK
TRANSPOSED = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # EXIF orientation → the transposition that it undoes


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


def pictures() -> Dict[str, bytes]:
    grey, dark = Image.fromarray(GREY), Image.new("L", (24, 16), DARK)
    black, seven = (grey.point(lambda level, to=to: to if level == WHITE else level) for to in (0, 7))
    sixteen, keyed = GREY * np.uint16(257), np.where(GREY == WHITE, 9, DARK * 257).astype(np.uint16)
    alpha = Image.fromarray(255 - (GREY == WHITE) * np.uint8(255))
    found = {
        "RGBA": encoded(Image.merge("RGBA", [dark, dark, dark, alpha]), "PNG"),
        "LA": encoded(Image.merge("LA", [dark, alpha]), "PNG"),
        "WEBP": encoded(Image.merge("RGBA", [dark, dark, dark, alpha]), "WEBP", lossless=True),
        "key of RGB": encoded(Image.merge("RGB", [grey, dark, dark]), "PNG", transparency=(WHITE, DARK, DARK)),
        "key of L": encoded(seven, "PNG", transparency=7),
        "palette": encoded(black.convert("P"), "PNG", transparency=0),
        "16 bits": encoded(Image.fromarray(sixteen), "PNG"),
        "16 bits, key": encoded(Image.fromarray(keyed), "PNG", transparency=9),
        "16 bits, big-endian": encoded(Image.frombytes("I;16B", (24, 16), sixteen.astype(">u2").tobytes()), "TIFF"),
        "32 bits": encoded(Image.fromarray(GREY * np.int32(257)), "TIFF"),
        "CMYK": encoded(grey.convert("RGB").convert("CMYK"), "JPEG", quality=95),
    }
    for orientation, method in TRANSPOSED.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        for form in ("JPEG", "PNG"):
            found[f"EXIF {orientation} {form}"] = encoded(
                grey.transpose(Image.Transpose(method)), form, exif=exif.tobytes(), quality=95
            )
    return found


PICTURES = pictures()


def shows_it(pixels: Any) -> bool:
    array = np.asarray(pixels, dtype=int)
    return array.shape == (*GREY.shape, 3) and bool((abs(array - GREY[..., None]) < 12).all())


@pytest.mark.parametrize("name", PICTURES)
def test_every_form_gives_the_same_picture(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.jpg").write_bytes(PICTURES[name])
    assert shows_it(read_cover(PICTURES[name]))
    assert shows_it(read_cover(tmp_path / "x.jpg"))


def test_damaged_exif_data_turn_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for damaged in (b"Exif\0\0", b"Exif\0\0no TIFF at all", exif.tobytes()[:-8], exif.tobytes()[:20]):
        assert shows_it(read_cover(encoded(Image.fromarray(GREY), "JPEG", exif=damaged, quality=95)))


@pytest.mark.parametrize("name", ["RGBA", "WEBP", "16 bits", "32 bits", "palette", "CMYK"])
def test_damaged_pictures_are_faults_in_words_that_never_change(tmp_path: Path, name: str) -> None:
    random.seed(name)
    for _ in range(60):
        content = bytearray(PICTURES[name])
        for place in random.sample(range(len(content)), 8):
            content[place] = random.randrange(256)
        damaged = bytes(content[: random.randrange(len(content))])
        (tmp_path / "x.png").write_bytes(damaged)
        fault = cover_fault(damaged)
        assert fault == cover_fault(damaged) == cover_fault(tmp_path / "x.png")
        assert " at 0x" not in (fault or "")
    for missing in (None, tmp_path / "absent.jpg", tmp_path):
        with pytest.raises(CoverError, match="^missing$"):
            read_cover(missing)


def write_lmdb(path: Path, contents: Dict[str, bytes]) -> Path:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path), subdir=False, map_size=1 << 24) as environment, environment.begin(write=True) as writing:
        for name, content in contents.items():
            writing.put(name.encode(), content)
    return path


def suffix_of(content: bytes) -> str:
    return ".jpg" if content.startswith(b"\xff\xd8") else ".png"


@pytest.mark.parametrize("way", ["folder", "upper case", "scaled", "LMDB", "in place", "in place, upper case"])
def test_every_way_gives_the_same_picture(tmp_path: Path, way: str) -> None:
    given = tmp_path / ("datasets" if way.startswith("in place") else "given")
    source = make_tiny_dataset(given, covers=False)
    contents = dict(enumerate(random.Random(way).sample(list(PICTURES.values()), N_ITEMS)))
    changes: Dict[str, Any] = {} if way.startswith("in place") else {"data_dir": str(given)}
    if way == "LMDB":
        lmdb = write_lmdb(tmp_path / "covers.mdb", {str(item): content for item, content in contents.items()})
        changes["covers_dir"] = str(lmdb)
    else:
        (source / "covers").mkdir()
        for item, content in contents.items():
            suffix = suffix_of(content).upper() if "upper" in way else suffix_of(content)
            (source / "covers" / f"{item}{suffix}").write_bytes(content)
    if way == "scaled":
        changes["cover_side"] = 200
    dataset = load_dataset(prepare(tmp_path, "Tiny", **changes), "Tiny")
    assert dataset.covers is not None
    check_covers(dataset)
    assert all(shows_it(read_cover(path)) for path in pictures_in(dataset.covers).values())
    items, missing, pixels = read_covers(dataset.covers, range(N_ITEMS), 24, "stop")
    assert len(items) == N_ITEMS and pixels[:, 0, 20, 2].max() < 80 and pixels[:, 0, 2, 2].min() > 240
    for item in items:
        thumbnail = base64.b64decode((cover_data(dataset, item) or "").partition(",")[2])
        assert shows_it(read_cover(thumbnail))
    prepare(tmp_path, "Tiny", **changes)


def test_of_several_files_of_one_name_the_first_suffix_counts(tmp_path: Path) -> None:
    names: List[Tuple[str, str]] = [("1.png", "1.JPG"), ("2.WebP", "2.jpeg"), ("3.JPEG", "3.jpg"), ("4.Png", "4.txt")]
    for name in (name for pair in names for name in pair):
        (tmp_path / name).write_bytes(b"x")
    expected = {"1": "1.JPG", "2": "2.jpeg", "3": "3.jpg", "4": "4.Png"}
    assert {stem: file.name for stem, file in pictures_in(tmp_path).items()} == expected


@pytest.mark.parametrize("left", [0, 100, 4096, 5000, 8192, 20_000, 0.5, -4096, -1])
def test_an_lmdb_that_is_cut_short_stops_before_anything_is_written(tmp_path: Path, left: float) -> None:
    make_tiny_dataset(tmp_path / "given", covers=False)
    path = write_lmdb(tmp_path / "covers.lmdb", {str(item): bytes(9000) for item in range(N_ITEMS)})
    assert open_covers(path) is not None
    whole = path.read_bytes()
    path.write_bytes(whole[: int(left * len(whole)) if isinstance(left, float) else left])
    with pytest.raises(UserError, match=r"covers.lmdb: (not an LMDB|is cut short).*download it again"):
        prepare(tmp_path, "Tiny", data_dir=str(tmp_path / "given"), covers_dir=str(path), missing_covers="zero")
    assert not (tmp_path / "datasets").exists()


def test_faults_of_an_lmdb_are_recorded_in_the_same_words(tmp_path: Path) -> None:
    make_tiny_dataset(tmp_path / "given", covers=False)
    content = {"0": b"no picture", "1": PICTURES["RGBA"][:-30], "2": PICTURES["RGBA"], "3": b"", "4": PICTURES["CMYK"]}
    path = write_lmdb(tmp_path / "covers.lmdb", content)
    changes: Dict[str, Any] = {"data_dir": str(tmp_path / "given"), "covers_dir": str(path), "missing_covers": "zero"}
    record = prepare(tmp_path, "Tiny", **changes) / "prepare.json"
    faults = read_json(record)["missing_covers"]
    prepare(tmp_path, "Tiny", force=True, **changes)
    assert read_json(record)["missing_covers"] == faults
    assert [one["fault"].partition(":")[0] for one in faults] == ["does not decode"] * 3 + ["missing"] * 10
    assert (record.parent / "covers" / "4.jpg").read_bytes() == PICTURES["CMYK"], "a JPEG stays as it is"
    covers = open_covers(path)
    assert covers is not None and covers.find("x" * 1000) is None  # longer than any key
    path.write_bytes(path.read_bytes()[:8192] + bytes([7]) * (path.stat().st_size - 8192))
    with pytest.raises(UserError, match="covers.lmdb: .*damaged: .*; download it again"):
        prepare(tmp_path, "Tiny", **changes)
