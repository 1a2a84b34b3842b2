"""Settings: what wins, what is refused and how, and that each YAML fits the script that it belongs to."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adrec.settings import ADRecSettings
from common.errors import UserError
from common.settings import REPOSITORY, ComputeSettings, as_dict, build, parse, setting, split_overrides, to_yaml

STAGE1, STAGE2 = "stage1_content_modality_semantic_alignment", "stage2_sequence_preference_learning"


@dataclass
class Example(ComputeSettings):
    """One field of each kind."""

    alpha: float = setting(0.2, "weight of the second task", minimum=0, maximum=1)
    rank: int = setting(4, "rank of the maps", minimum=1)
    shuffle: bool = setting(True, "whether rows are shuffled")
    run: Optional[str] = setting(None, "name of the run")
    modalities: List[str] = setting(["text", "image"], "features in use", choices=("text", "image"), may_be_empty=False)
    search_space: Dict[str, Any] = setting({"alpha": [0.1, 0.2]}, "values to search")
    ranks: List[int] = setting([1, 2], "ranks to compare")


def built(*overrides: str, **keywords: Any) -> Example:
    return build(Example, split_overrides(overrides), **keywords)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def refusal(*overrides: str, **keywords: Any) -> str:
    with pytest.raises(UserError) as caught:
        built(*overrides, **keywords)
    return str(caught.value)


def test_command_line_wins_over_yaml_and_yaml_over_defaults(tmp_path: Path) -> None:
    write(tmp_path / "Food.yaml", "alpha: 0.5\nrank: 8\n")
    settings = built("dataset=Food", "rank=2", config_dir=tmp_path)
    assert (settings.alpha, settings.rank, settings.shuffle) == (0.5, 2, True)
    assert built("dataset=Other", config_dir=tmp_path).alpha == 0.2


def test_a_named_config_file_takes_the_place_of_the_data_sets(tmp_path: Path) -> None:
    write(tmp_path / "Food.yaml", "alpha: 0.5\n")
    mine = write(tmp_path / "mine.yaml", "rank: 9\n")
    settings = built("dataset=Food", config_dir=tmp_path, config_file=mine)
    assert (settings.alpha, settings.rank) == (0.2, 9)


def test_defaults_are_not_shared_between_runs() -> None:
    built().modalities.append("sound")
    assert built().modalities == ["text", "image"]


def test_a_mapping_is_replaced_not_merged() -> None:
    assert built("search_space={rank: [2, 4]}").search_space == {"rank": [2, 4]}


@pytest.mark.parametrize(
    "name", ["007", "on", "No", "2024-01-01", "1_0", "0x1f", "a-b.c", "1.10", "1e3", "a #b", "5 # c"]
)
def test_a_name_stays_as_it_was_typed(name: str) -> None:
    assert built(f"run={name}").run == name


@pytest.mark.parametrize("key", ["datasets_dir", "run"])
def test_the_home_folder_is_written_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    written, there = {key: "~/d ?%41#"}, f"{tmp_path}/d ?%41#"
    file = write(tmp_path / "mine.yaml", f'{key}: "{written[key]}"\n')
    found = [build(Example, written), built(f"{key}={written[key]}"), built(config_file=file)]
    if key == "datasets_dir":
        found.append(parse(Example, None, argv=["--config=~/mine.yaml"]).settings)
    assert [getattr(settings, key) for settings in found] == [there] * len(found)
    assert built("run=a~/b").run == "a~/b"


@pytest.mark.parametrize("word", ["~", "~/"])
def test_the_home_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Path(built(f"datasets_dir={word}").datasets_dir) == tmp_path


def test_numbers_booleans_and_null_are_read() -> None:
    settings = built("alpha=1e-3", "rank=7", "shuffle=no", "run=null", "modalities=[text]")
    assert (settings.alpha, settings.rank, settings.shuffle, settings.run) == (0.001, 7, False, None)
    assert settings.modalities == ["text"]


WRONG_TYPES = "rank=two rank=1.5 rank=true rank=null alpha=high shuffle=maybe modalities=text seed="


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("alhpa=1", "unknown setting 'alhpa'; did you mean 'alpha'?"),
        ("zzzzzz=1", "unknown setting 'zzzzzz' (--help"),
        *((word, f"setting '{word.partition('=')[0]}'") for word in WRONG_TYPES.split()),
        *((word, "it must be") for word in ("alpha=1.01", "alpha=-0.1", "alpha=nan", "rank=0", "seed=-1")),
        *((word, "it must be one of: ") for word in ("precision=fp64", "modalities=[text, sound]")),
        ("modalities=[]", "empty; give one or more of: text, image"),
        ("modalities=[text, text]", "give each value once"),
        ("modalities=text", "must be a list, as in modalities=[text]"),
        ("datasets_dir=", "setting 'datasets_dir' is empty; give a folder, or leave it out"),
        ("dataset=", "setting 'dataset' is empty"),
        *((word, "is not a setting: write key=value") for word in ("rank", "=3")),
        *(
            (f"dataset={name}", f"dataset={name}: not the name of a folder")
            for name in ("a/b", "..", ".hidden", "/abs")
        ),
    ],
)
def test_a_word_that_is_refused_says_why(word: str, message: str) -> None:
    assert message in refusal(word)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modalites: [text]", "unknown setting 'modalites'; did you mean 'modalities'?"),
        ("rank: two", "setting 'rank'"),
        ("ranks: [two]", "setting 'ranks': .*'two' of type 'str' could not be converted"),
        ("- a\n- b", "not a YAML mapping"),
        ("just words", "unknown setting 'just words'"),
        ("alpha: [0.1", "not a YAML mapping"),
        ("alpha: 0.1\nalpha: 0.2", "not a YAML mapping"),
        ("run: ${nowhere}", "not a YAML mapping"),
        ("run: ???", "not a YAML mapping"),
        ("alpha: 0.5\nrun: a: b", "not a YAML mapping: .* line 2, column 7; put text that holds .* in quotes"),
    ],
)
def test_a_faulty_yaml_is_refused_with_the_files_name(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path / "Food.yaml", f"{text}\n")
    assert re.match(f"{file}: {message}.*$", refusal(config_file=file))


def test_a_missing_or_binary_config_file_is_refused(tmp_path: Path) -> None:
    assert "no such settings file" in refusal(config_file=tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "binary.yaml" in refusal(config_file=tmp_path / "binary.yaml")


def test_an_empty_yaml_leaves_the_defaults(tmp_path: Path) -> None:
    assert built(config_file=write(tmp_path / "Food.yaml", "")) == Example()


def test_a_setting_given_twice_is_refused() -> None:
    assert "given twice" in refusal("rank=1", "rank=2")
    with pytest.raises(UserError, match="given twice"):
        parse(Example, None, argv=["-d", "Food", "dataset=Dance"])


def test_parse_takes_settings_before_and_after_options(tmp_path: Path) -> None:
    run = parse(Example, None, argv=["rank=2", "-d", "Food", "--force", "alpha=0.7"])
    assert (run.settings.dataset, run.settings.rank, run.settings.alpha, run.force) == ("Food", 2, 0.7, True)


def test_parse_refuses_an_unknown_option_in_a_line_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(Example, None, argv=["--forse", "rank=2"])
    told = capsys.readouterr().err
    assert caught.value.code == 2 and told.count("\n") == 1
    assert "--forse; did you mean '--force'?" in told


@pytest.mark.parametrize("name", ["a" * 151, "面" * 51])
def test_a_name_of_a_folder_has_a_longest_length(tmp_path: Path, name: str) -> None:
    told = f"dataset={name * 2}: too long for the name of a folder; use at most 150 bytes"
    assert told in refusal(f"dataset={name * 2}", config_dir=tmp_path)
    assert "too long" in refusal(f"dataset={name}")
    assert built(f"dataset={name[:-1]}").dataset == name[:-1]


settings_strategy = st.builds(
    Example,
    seed=st.integers(0, 2**40),
    alpha=st.floats(0, 1),
    rank=st.integers(1, 99),
    shuffle=st.booleans(),
    run=st.none() | st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="$?")),
    modalities=st.lists(st.sampled_from(["text", "image"]), min_size=1, unique=True),
    search_space=st.dictionaries(st.sampled_from(["alpha", "rank"]), st.lists(st.floats(0, 1), min_size=1)),
)


@given(settings_strategy)
def test_printed_settings_fed_back_give_the_same(tmp_path_factory: pytest.TempPathFactory, settings: Example) -> None:
    file = write(tmp_path_factory.mktemp("printed") / "printed.yaml", to_yaml(settings))
    assert built(config_file=file) == settings


def test_print_config_prints_what_a_run_would_use_and_stops(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(Example, None, argv=["-d", "Food", "rank=2", "run=007", "--print-config"])
    assert caught.value.code == 0
    printed = write(tmp_path / "printed.yaml", capsys.readouterr().out)
    assert parse(Example, None, argv=["--config", str(printed)]).settings == built("dataset=Food", "rank=2", "run=007")


def test_help_lists_every_setting_with_its_default_and_choices(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(Example, "What it does.", argv=["--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    for name, default in as_dict(Example()).items():
        assert f"  {name} = {'null' if default is None else default}" in shown
    assert "[auto | fp32 | fp16 | bf16]" in shown and "What it does." in shown


def schema_of(file: Path) -> Any:
    """The schema of the script that a YAML belongs to: its folder is named after the script, or the model."""
    package, _, owner = file.relative_to(REPOSITORY).parts[:3]
    if package == "adrec":
        return ADRecSettings
    if package == STAGE1:
        return importlib.import_module(f"{package}.{owner}").Settings
    scripts = {"ID_SeqEncoder": "id_encoder_main1", "Content_SeqEncoder": "content_encoder_main1"}
    return importlib.import_module(f"{package}.{scripts.get(owner, 'SICSRec_main1')}").Settings


PLACES = (f"{STAGE1}/configs/**/*.yaml", f"{STAGE2}/props/**/*.yaml", "adrec/props/*.yaml")
YAMLS = sorted(file for place in PLACES for file in REPOSITORY.glob(place))


@pytest.mark.parametrize("file", YAMLS, ids=lambda file: "-".join(file.relative_to(REPOSITORY).parts[2:]))
def test_each_yaml_fits_its_script(file: Path) -> None:
    settings = build(schema_of(file), {"dataset": file.stem}, config_dir=file.parent)
    assert settings.dataset == file.stem
