"""Says what is wrong with the environment, the machine or a data set, and how to mend it; exit 1 if anything is.

    python -m common.doctor [DATASET] [datasets_dir=DIR] [features_dir=DIR] [finetune_dir=DIR]

Reads the installed packages, the hardware and the data set's files; writes nothing. It runs on a bare Python too:
whatever needs a package is imported after the package was found.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from common.doctor_origin import check_record, covers_left_out, item_fields, where_from
from common.environment import RUN, Finding, check_environment
from common.errors import UserError, nearest

LEAST_MEMORY, LEAST_DISK = 2, 2  # GiB; the quickstart runs in these
INTER_HEADER = "user_id:token\titem_id_list:token_seq\titem_id:token"
FOLDERS = ("datasets_dir", "features_dir", "finetune_dir")
NEEDED = {"Python", "numpy", "torch", "omegaconf", "pillow", "tqdm", "safetensors"}  # to look at device and data


def check_machine(datasets_dir: Path) -> List[Finding]:
    """CPU cores, memory, and the disk that ``datasets_dir`` lies on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    existing = next(folder for folder in (datasets_dir, *datasets_dir.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 2**30
    cure = "" if free >= LEAST_DISK else "free some, or point datasets_dir, results_dir and features_dir elsewhere"
    disk = Finding("disk", f"{free:.1f} GiB free for {datasets_dir}", cure)
    return [Finding("CPU cores", str(cores)), check_memory(), disk]


def check_memory() -> Finding:
    """Memory, and how much of it is free where the system tells (Linux)."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) / 2**20
    except (OSError, KeyError, ValueError):
        return Finding("memory", f"{total:.1f} GiB")
    cure = "" if free >= LEAST_MEMORY else "end other programs, or use a machine with more"
    return Finding("memory", f"{total:.1f} GiB, {free:.1f} GiB free", cure)


def kernels_serve(capability: Tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether a torch built for ``architectures`` (sm_70, compute_90, …) has code for a GPU of that capability."""
    for architecture in architectures:
        kind, _, digits = architecture.partition("_")
        digits = digits.rstrip("af")
        built = (int(digits[:-1]), int(digits[-1]))
        same_major = built[0] == capability[0] and built[1] <= capability[1]
        if same_major or (kind == "compute" and built <= capability):
            return True
    return False


def check_compute() -> List[Finding]:
    """The device and the precision that ``device=auto precision=auto`` choose."""
    try:
        import torch

        from common.device import pick_compute
    except (ImportError, OSError) as error:
        return [Finding("torch", f"does not import: {error}", "install it again: pip install --force-reinstall torch")]
    try:
        compute = pick_compute()
    except UserError as error:
        return [from_error("device", error)]
    if compute.device.type == "cpu":
        return [Finding("device", f"cpu, precision {compute.precision}, {torch.get_num_threads()} threads")]
    findings = []
    for index in range(torch.cuda.device_count()):
        name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
        precision = pick_compute(f"cuda:{index}").precision
        serves = kernels_serve(capability, torch.cuda.get_arch_list())
        cure = "" if serves else "install the set in constraints/v100.txt (docs/environments.md)"
        what = f"{name}, precision {precision}" if serves else f"{name}: torch {torch.__version__} has no code for it"
        findings.append(Finding(f"device cuda:{index}", what, cure))
    return findings


def from_error(subject: str, error: UserError) -> Finding:
    """A fault from an error, whose message ends in its cure."""
    detail, _, cure = str(error).partition("; ")
    return Finding(subject, detail, cure or "make it again, or correct it")


def finding_of(subject: str, check: Callable[..., str], *arguments: Any) -> Finding:
    """What ``check(*arguments)`` says, or the fault that it raises."""
    try:
        return Finding(subject, check(*arguments))
    except UserError as error:
        return from_error(subject, error)


def check_dataset(name: str, folders: Dict[str, Path]) -> Iterator[Finding]:
    """Every file of a data set: sequences and titles, covers, pairs, encoders, features, RecBole's files."""
    from common.dataset import items_path, load_dataset, sequences_path
    from common.item_fields import item_fields_path

    folder = folders["datasets_dir"] / name
    try:
        dataset = load_dataset(folder, name)
    except UserError as error:
        yield from_error("sequences, titles", error)
        if not (sequences_path(folder).is_file() and items_path(folder, name).is_file()):
            yield from where_from(name)
        return
    interactions = sum(map(len, dataset.sequences))
    yield Finding(
        "sequences, titles", f"{len(dataset.users)} users, {dataset.n_items} items, {interactions} interactions"
    )
    yield from check_record(folder, name, [len(sequence) for sequence in dataset.sequences], dataset.n_items)
    if item_fields_path(folder, name).exists():
        yield finding_of("item fields", item_fields, folder, name, dataset.n_items)
    if dataset.covers is None:
        yield Finding("covers", "none: text alone (modalities=[text])", absent=True)
    else:
        yield finding_of("covers", whole_covers, dataset)
    yield from check_pairs(folder / "pairs", dataset.n_items)
    yield from check_encoders(folder / "encoders", folders.get("finetune_dir", Path("finetune_llm")) / name)
    yield from check_features(folders.get("features_dir", folder), name, dataset.n_items)
    for more in sorted({path.parent for path in folder.glob(f"*/{name}_*_stage1.pth")}):  # of a variant, an ablation
        yield from check_features(more, name, dataset.n_items)
    yield from check_inter(folder / "recbole" / name, name, len(dataset.users))


def whole_covers(dataset: Any) -> str:
    """Open every cover of a `common.dataset.Dataset` but those that the preparation left out.

    Raises:
        UserError: lists those that are missing or do not decode.
    """
    from common.dataset import check_covers

    left_out = covers_left_out(dataset.folder)
    check_covers(dataset, left_out)
    told = f"; {len(left_out)} items have none (missing_covers=zero)" if left_out else ""
    return f"{dataset.n_items - len(left_out)} in {dataset.covers}{told}"


def check_pairs(folder: Path, n_items: int) -> Iterator[Finding]:
    """The pairs that each strategy chose."""
    found = sorted(folder.glob("*/item_pairs_id.txt"))
    if not found:
        yield Finding("pairs", "not there yet: llm_driven_sample.py makes them", absent=True)
    for path in found:
        yield finding_of(f"pairs {path.parent.name}", count_pairs, path, n_items)


def count_pairs(path: Path, n_items: int) -> str:
    """Count the lines ``target,similar`` of a file of pairs.

    Raises:
        UserError: not readable, or a line that is not two items of the data set.
    """
    from common.files import read_text

    lines = read_text(path).splitlines()
    for number, line in enumerate(lines, start=1):
        ids = line.split(",")
        if len(ids) != 2 or not all(part.strip().isdecimal() and int(part) < n_items for part in ids):
            raise UserError(f"{path}:{number}: '{line[:40]}' is not two items of the data set; make the pairs again")
    return f"{len(lines)} pairs"


def check_inter(folder: Path, name: str, n_users: int) -> Iterator[Finding]:
    """RecBole's three benchmark files: all there or none, each with its header and columns."""
    paths = {split: folder / f"{name}.{split}.inter" for split in ("train", "valid", "test")}
    again = f"run stage2_sequence_preference_learning/recbole_process.py -d {name} --force"
    if not any(path.exists() for path in paths.values()):
        yield Finding("RecBole files", "not there yet: recbole_process.py makes them", absent=True)
        return
    for split, path in paths.items():
        expected = None if split == "train" else n_users
        yield finding_of(f"RecBole {split}", inter_rows, path, expected, again)


def inter_rows(path: Path, expected: Optional[int], again: str) -> str:
    """Count the rows of an ``.inter`` file.

    Raises:
        UserError: not readable, another header, a row that has not three columns, or another count than expected.
    """
    from common.files import read_text

    header, *rows = read_text(path).splitlines() or [""]
    if header != INTER_HEADER:
        raise UserError(f"{path}:1: the header is not {INTER_HEADER!r}; {again}")
    for number, row in enumerate(rows, start=2):
        if row.count("\t") != 2:
            raise UserError(f"{path}:{number}: not three columns parted by tabs; {again}")
    if expected is not None and len(rows) != expected:
        raise UserError(f"{path}: {len(rows)} rows, the data set has {expected} users; {again}")
    return f"{len(rows)} rows"


def check_features(folder: Path, name: str, n_items: int) -> Iterator[Finding]:
    """Stage 1's text and image features."""
    from common.features import MODALITIES, features_path

    scripts = {"text": "use_finetune_bert.py", "image": "use_finetune_swinbase.py"}
    for modality in MODALITIES:
        path = features_path(folder, name, modality)
        if path.exists():
            yield finding_of(f"{modality} features", feature_table, path, n_items)
        else:
            yield Finding(f"{modality} features", f"not there yet: {scripts[modality]} makes {path}", absent=True)


def feature_table(path: Path, n_items: int) -> str:
    """Load one table of features.

    Raises:
        UserError: see `common.features.load_features`.
    """
    from common.features import load_features

    rows, width = load_features(path, n_items).shape
    return f"{rows} items, {width} wide, in {path.parent}"


def check_encoders(made: Path, finetuned: Path) -> Iterator[Finding]:
    """The encoders that stage 1 made from a config, and those that it fine-tuned."""
    kinds = ("bert", "bert-small-*", "swin", "swin-small-*")
    found = sorted(path for top in (made, finetuned) for kind in kinds for path in top.rglob(kind) if path.is_dir())
    if not found:
        yield Finding("encoders", f"not there yet: sft_content_encoder.py makes them in {finetuned}", absent=True)
    for path in found:
        yield finding_of(f"encoder {path.name}", encoder_weights, path)


def encoder_weights(folder: Path) -> str:
    """Open an encoder in Hugging Face format.

    Raises:
        UserError: a file is missing or cut short.
    """
    from safetensors import SafetensorError, safe_open

    from common.files import read_json

    read_json(folder / "config.json")
    weights = folder / "model.safetensors"
    try:
        with safe_open(weights, framework="pt") as file:
            return f"{len(file.keys())} tensors in {folder}"
    except (OSError, SafetensorError) as error:
        raise UserError(f"{weights}: {error}; run sft_content_encoder.py --force, or copy the folder again") from error


def report(title: str, findings: Iterable[Finding]) -> int:
    """Print findings under a title, each as soon as it is known, and return the number of faults."""
    print(title)
    faults = 0
    for finding in findings:
        mark = "FAULT" if finding.cure else "-" if finding.absent else "ok"
        print(f"  {mark:<6} {finding.subject:<19} {finding.detail}", flush=True)
        if finding.cure:
            faults += 1
            print(f"  {'':<6} {'':<19} cure: {finding.cure}")
    return faults


def read_words(words: Sequence[str]) -> Tuple[str, Dict[str, Path]]:
    """The data set's name, if one is given, and the folders.

    Raises:
        UserError: an unknown setting, or more than one data set.
    """
    names = [word for word in words if "=" not in word]
    folders = {"datasets_dir": Path("datasets")}
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key not in FOLDERS:
            raise UserError(f"unknown setting '{key}'{nearest(key, FOLDERS)}")
        if equals:
            folders[key] = Path(value)
    if len(names) > 1 or any(name.startswith("-") for name in names):
        raise UserError(f"usage: python -m common.doctor [DATASET] [{'=DIR] ['.join(FOLDERS)}=DIR]")
    return (names[0] if names else ""), folders


def main(words: Sequence[str]) -> int:
    """Check everything, and return the exit status."""
    if set(words) & {"-h", "--help"}:
        print(__doc__.strip())
        return 0
    try:
        name, folders = read_words(words)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    datasets_dir = folders["datasets_dir"]
    environment = check_environment(RUN)
    faults = report("Environment", environment)
    incomplete = any(finding.cure and finding.subject in NEEDED for finding in environment)
    machine = check_machine(datasets_dir)
    faults += report("Machine", machine if incomplete else [*machine, *check_compute()])
    if incomplete:
        print("Device and data were not looked at: mend the environment first, or let 'make environment' make one.")
    elif name:
        faults += report(f"Data set {name}", check_dataset(name, folders))
    else:
        prepared = sorted(path.parent.name for path in datasets_dir.glob("*/sequential_data.txt"))
        print(f"Data sets in {datasets_dir}: {', '.join(prepared) or 'none yet'} (name one to have it checked)")
    print("all is well" if not faults else f"{faults} fault{'s' if faults > 1 else ''}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
