"""Which runs differ by their seed alone, or by one setting alone, whatever lies between: features, encoders, pairs."""

from pathlib import Path
from typing import Any, Dict, List

import pytest

from common.files import checksum, recipe, record, write_json, write_text
from reproduce import test as test_script
from reproduce.lineage import lineage_of_run
from reproduce.report_page.sensitivity import of_rows
from reproduce.rows import Row


def step(file: Path, name: str, settings: Dict[str, Any], inputs: Dict[str, Path]) -> Path:
    """A file that a step made, with its record; its content is that of what made it."""
    made_from = recipe(name, settings, inputs)
    write_text(file, str(sorted((n, e["sha256"]) for n, e in made_from["inputs"].items())) + str(settings))
    record(file.with_suffix(".json"), made_from, {"made": file})
    return file


def features(home: Path, seed: int, losses: List[str]) -> Path:
    """Pairs drawn by the seed, encoders fine-tuned on them, text features."""
    pairs = step(home / "pairs.txt", "llm_driven_sample", {"asked_of": {"selector": "random", "seed": seed}}, {})
    encoder = step(home / "bert.bin", "sft_content_encoder", {"seed": seed, "losses": losses}, {"pairs": pairs})
    return step(home / "text.pth", "text_features", {"pooling": "cls"}, {"model": encoder})


def run_of(home: Path, seed: int, text: Path, **settings: Any) -> test_script.Run:
    """A run of SICSRec with an ID encoder of the same seed and width."""
    shared = {"seed": seed, "hidden_size": settings.get("hidden_size", 256)}
    started_from = home / "ID_SeqEncoder" / "D" / f"{shared}" / "best.pth"
    write_text(started_from, str(shared))
    write_json(started_from.with_name("made.json"), {"settings": shared, "inputs": {}})
    write_json(started_from.with_name("metrics.json"), {"model": "ID_SeqEncoder"})
    inputs = {"text": text, "id_encoder": started_from}
    made = {"settings": {**shared, **settings}, "inputs": recipe("", {}, inputs)["inputs"]}
    folder = home / "SICSRec" / "D" / f"{seed}{settings}{checksum(text)[:8]}"
    write_json(folder / "made.json", made)
    result = {"model": "SICSRec", "test": {"ndcg@10": seed / 10 + len(settings)}}
    return test_script.Run(folder, made, result)


def test_features_of_each_seed_are_of_one_kind_and_other_features_of_another(tmp_path: Path) -> None:
    all_losses = [run_of(tmp_path, seed, features(tmp_path / f"a{seed}", seed, ["t2t", "i2i"])) for seed in (1, 2)]
    fewer = run_of(tmp_path, 1, features(tmp_path / "b1", 1, ["t2t"]))
    assert all_losses[0].made_from["inputs"]["text"]["sha256"] != all_losses[1].made_from["inputs"]["text"]["sha256"]
    assert all_losses[0].kind() == all_losses[1].kind() != fewer.kind()


def test_features_without_a_record_or_made_again_since_count_by_their_content(tmp_path: Path) -> None:
    text = features(tmp_path / "a", 1, ["t2t"])
    before = run_of(tmp_path, 1, text)
    kind = before.kind()
    features(tmp_path / "a", 2, ["t2t"])  # by another seed in the same place
    assert before.kind() != kind and before.made_from["inputs"]["text"]["sha256"] in before.kind()
    text.with_suffix(".json").unlink()
    write_text(text.with_name("other.json"), "no JSON")
    assert before.made_from["inputs"]["text"]["sha256"] in before.kind()


def test_what_no_seed_shaped_is_its_content_wherever_it_lies(tmp_path: Path) -> None:
    """Of two copies of a file, one with the record of a step that knows no seed."""
    told = step(tmp_path / "a" / "text.pth", "text_features", {"pooling": "cls"}, {})
    bare = tmp_path / "b" / "text.pth"
    write_text(bare, told.read_text())
    assert run_of(tmp_path, 1, told).kind() == run_of(tmp_path, 2, bare).kind()


def test_a_sweep_holds_runs_on_the_same_features_with_id_encoders_of_their_own_width(tmp_path: Path) -> None:
    """Two values of hidden_size, two seeds each; a run on other features is none of them."""
    texts = {seed: features(tmp_path / f"a{seed}", seed, ["t2t", "i2i"]) for seed in (1, 2)}
    narrow = [run_of(tmp_path, seed, text, hidden_size=8) for seed, text in texts.items()]
    wide = [run_of(tmp_path, seed, text, hidden_size=16) for seed, text in texts.items()]
    other = run_of(tmp_path, 3, features(tmp_path / "b", 3, ["t2t"]), hidden_size=16)
    runs = [*narrow, *wide, other]
    row = Row("all", "D", [], [run.folder for run in runs], [run.result for run in runs])
    (sweep,) = of_rows([row], "test")
    assert (sweep.setting, sweep.values) == ("hidden_size", [8, 16])
    assert sweep.means == pytest.approx([1.15, 1.15])


def test_scores_from_elsewhere_are_of_one_kind_where_their_names_differ_by_the_seed(tmp_path: Path) -> None:
    def kind(seed: int, file: str) -> str:
        write_text(tmp_path / file, file)
        made = {"settings": {"seed": seed}, "inputs": recipe("", {}, {"scores": tmp_path / file})["inputs"]}
        return test_script.Run(tmp_path, made, {"model": "Scores"}).kind()

    assert kind(7, "mine-7-test.npy") == kind(8, "mine-8-test.npy") != kind(8, "yours-8-test.npy")
    assert kind(7, "a17.npy") != kind(8, "a18.npy")  # 17 is no seed 7


def test_settings_younger_than_a_run_have_their_default(tmp_path: Path) -> None:
    made: Dict[str, Any] = {"settings": {"seed": 1}, "inputs": {}}
    younger = {"settings": {"seed": 1, "alpha": 0.2}, "inputs": {}}
    other = {"settings": {"seed": 1, "alpha": 0.3}, "inputs": {}}
    old, same, differs = (lineage_of_run("SICSRec", tmp_path, told) for told in (made, younger, other))
    assert old == same != differs
