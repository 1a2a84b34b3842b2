"""Checks the environment, the machine and the files of a data set; exit 1 if anything is wrong.

    python -m reproduce.doctor [DATASET] [datasets_dir=DIR] [features_dir=DIR] [finetune_dir=DIR]

Each line is marked "ok", "later" (another step makes it) or "WRONG". Nothing is written. It starts without any package
installed; what needs packages is imported after they were found.
"""

from __future__ import annotations

from common.start import run_script

import glob
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from common.errors import UserError, nearest

REPOSITORY = Path(__file__).resolve().parents[1]
LEAST_MEMORY, LEAST_DISK = 3, 2  # GiB, enough for the quickstart, which trains two models at a time
SFT = "sft_content_encoder"
SETTINGS = ("datasets_dir", "features_dir", "finetune_dir")


class Report:
    """Prints one line per check and counts what is wrong."""

    def __init__(self) -> None:
        self.wrong = 0

    def line(self, mark: str, subject: str, detail: str) -> None:
        """Print a line; ``mark`` is ``ok``, ``later`` or ``WRONG``."""
        self.wrong += mark == "WRONG"
        print(f"  {mark:<6} {subject:<16} {detail}", flush=True)

    def require(self, good: bool, subject: str, detail: str) -> None:
        """Print ``ok`` or ``WRONG``."""
        self.line("ok" if good else "WRONG", subject, detail)

    def check(self, subject: str, detail: object, load: Callable[..., Any], *arguments: Any) -> None:
        """Call ``load(*arguments)`` and print ``detail``, or the message of the `UserError` that it raises."""
        try:
            load(*arguments)
            self.line("ok", subject, str(detail))
        except UserError as error:
            self.line("WRONG", subject, str(error))


def read_requirements(file: Path) -> List[str]:
    """The requirements in a file, without comments and options."""
    lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("-")]


def installed_version(package: str) -> Optional[str]:
    """The installed version, or None; a package that was removed in part counts as missing."""
    try:
        return metadata.version(package) or None
    except (metadata.PackageNotFoundError, KeyError):
        return None


def check_packages(report: Report) -> bool:
    """Compare Python and the packages with requirements.txt; returns whether all packages are installed."""
    report.require((3, 9) <= sys.version_info[:2] <= (3, 12), "Python", f"{platform.python_version()}; 3.9 to 3.12")
    missing = 0
    for requirement in read_requirements(REPOSITORY / "requirements.txt"):
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        found = installed_version(name)
        if found and admits(requirement, found):
            report.line("ok", name, f"{found:<12} ({requirement})")
        else:
            missing += not found
            report.line("WRONG", name, f"{found or 'not installed'}; run: pip install '{requirement}'")
    return not missing


def admits(requirement: str, version: str) -> bool:
    """Whether a requirement such as ``numpy>=1.20,<2`` admits a version; not checked without packaging."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return True
    return Requirement(requirement).specifier.contains(version, prereleases=True)


def find_project() -> None:
    """Import the project's packages as a script does that is started by its path.

    Raises:
        UserError: they cannot be imported, or another checkout is imported.
    """
    packages = sorted(path.parent for path in REPOSITORY.glob("*/__init__.py") if path.parent.name != "benchmarks")
    code = "import importlib, sys\nfor name in sys.argv[1:]: print(importlib.import_module(name).__path__[0])"
    command = [sys.executable, "-c", code, *(package.name for package in packages)]
    run = subprocess.run(command, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if run.stdout.splitlines() != list(map(str, packages)):
        raise UserError(f"scripts do not import the packages of {REPOSITORY}; run: pip install -e {REPOSITORY}")


def check_machine(report: Report, datasets_dir: Path) -> None:
    """Memory, and free disk space for ``datasets_dir``, in GiB."""
    if Path("/proc/meminfo").exists():  # Linux
        (line,) = re.findall(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"))
        memory = int(line) / 2**20
        report.require(memory >= LEAST_MEMORY, "memory", f"{memory:.1f} GiB available, {LEAST_MEMORY} needed")
    existing = next(folder for folder in (datasets_dir, *datasets_dir.absolute().parents) if folder.exists())
    disk = shutil.disk_usage(existing).free / 2**30
    report.require(disk >= LEAST_DISK, "disk", f"{disk:.1f} GiB free for {datasets_dir}, {LEAST_DISK} needed")


def check_device(report: Report) -> None:
    """The device and the precision that ``device=auto precision=auto`` choose, and whether torch has code for it."""
    try:
        import torch

        from common.compute import pick_compute
    except (ImportError, OSError) as error:
        report.line("WRONG", "torch", f"cannot be imported: {error}; run: pip install --force-reinstall torch")
        return
    if not torch.cuda.is_available():
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        report.line("ok", "device", f"cpu, {cores} cores, precision {pick_compute('cpu').precision}")
    for index in range(torch.cuda.device_count()):
        device, name = f"cuda:{index}", torch.cuda.get_device_name(index)
        try:
            (torch.ones(1, device=device) + 1).item()
            report.line("ok", device, f"{name}, precision {pick_compute(device).precision}")
        except RuntimeError as error:  # such as: no kernel image is available
            reason = f"{name}: torch {torch.__version__} does not run on it: {str(error).splitlines()[0]}"
            advice = "if it has no code for it, run: make environment CONSTRAINTS=constraints/v100.txt"
            report.line("WRONG", device, f"{reason}; {advice} (docs/environments.md)")


def check_dataset(report: Report, name: str, folders: Dict[str, Path]) -> None:
    """Load every file of a data set: sequences, titles, fields, covers, pairs, encoders and features."""
    from transformers import BertModel, SwinForImageClassification

    from common.covers import check_covers
    from common.dataset import load_dataset, sequences_path
    from common.features import MODALITIES, features_path, load_features
    from common.files import read_json
    from common.item_fields import item_fields_path, read_item_fields
    from common.text_encoders import load_encoder
    from importers.known_datasets import known_counts, origins_of
    from stage1_content_modality_semantic_alignment.llm.pairs import read_pairs

    home = folders["datasets_dir"] / name
    try:
        data = load_dataset(home, name)
    except UserError as error:
        report.line("WRONG", "data set", str(error))
        for source, origin in ({} if sequences_path(home).exists() else origins_of(name)).items():
            counts = known_counts(name, source)
            report.line("later", f"source={source}", f"{origin}; {counts}" if counts else origin)
        return
    n_items, interactions = data.n_items, len(data.items)
    report.line("ok", "data set", f"{len(data.users)} users, {n_items} items, {interactions} interactions")
    fields, record = item_fields_path(home, name), home / "prepare.json"
    if fields.exists():
        report.check("item fields", fields, read_item_fields, home, name, n_items)
    missing = {entry["item"] for entry in read_json(record).get("missing_covers", [])} if record.exists() else set()
    if data.covers is None:
        report.line("later", "covers", "none, so only titles can be used: modalities=[text]")
    else:
        report.check("covers", f"{n_items - len(missing)} in {data.covers}", check_covers, data, missing)
    encoders = folders.get("finetune_dir", Path("finetune_llm")) / name
    features, strategy = folders.get("features_dir", home / "features"), "." if "features_dir" in folders else "*"
    text, image = (str(features_path(Path(strategy), glob.escape(name), modality)) for modality in MODALITIES)
    swin, new = SwinForImageClassification, ("pooler.",)
    steps: List[Tuple[str, Path, str, str, Callable[[Path], Any]]] = [
        ("pairs", home / "pairs", "*/item_pairs_id.txt", "llm_driven_sample", lambda path: read_pairs(path, n_items)),
        ("bert encoder", encoders, "64/*/bert", SFT, lambda path: load_encoder(BertModel, str(path), "bert", new)),
        ("swin encoder", encoders, "64/*/swin", SFT, lambda path: load_encoder(swin, str(path), "swin", new)),
        ("text features", features, text, "use_finetune_bert", lambda path: load_features(path, n_items)),
        ("image features", features, image, "use_finetune_swinbase", lambda path: load_features(path, n_items)),
    ]
    for subject, folder, pattern, script, load in steps:
        paths = sorted(folder.glob(pattern))
        if not paths:
            report.line("later", subject, f"made by {script}.py: {folder / pattern}")
        for path in paths:
            report.check(subject, path, load, path)


def read_words(words: Sequence[str]) -> Tuple[str, Dict[str, Path]]:
    """The data set's name ("" if none is given) and the folders.

    Raises:
        UserError: an unknown setting or option, or more than one data set.
    """
    names = [word for word in words if "=" not in word]
    given = dict(word.split("=", 1) for word in words if "=" in word)
    for key in given:
        if key not in SETTINGS:
            raise UserError(f"unknown setting '{key}'{nearest(key, SETTINGS)}")
    if len(names) > 1 or any(name.startswith("-") for name in names):
        raise UserError(f"usage: python -m reproduce.doctor [DATASET] [{'=DIR] ['.join(SETTINGS)}=DIR]")
    folders = {"datasets_dir": "datasets", **given}
    return "".join(names), {key: Path(os.path.expanduser(folder)) for key, folder in folders.items()}


def main(argv: Optional[List[str]] = None) -> None:
    """Run all checks; exit 1 if anything is wrong."""
    words = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(words):
        print((__doc__ or "").strip())
        return
    name, folders = read_words(words)
    report = Report()
    print("Environment")
    complete = check_packages(report)
    report.check("this project", REPOSITORY, find_project)
    check_machine(report, folders["datasets_dir"])
    if not complete:
        print("Packages are missing, so device and data were not checked. Run: make environment")
        sys.exit(1)
    check_device(report)
    if name:
        print(f"Data set {name}")
        check_dataset(report, name, folders)
    print(f"{report.wrong} wrong" if report.wrong else "Nothing is wrong.")
    sys.exit(1 if report.wrong else 0)


if __name__ == "__main__":
    run_script(main)
