"""Audit of pairs, published ones too: what they hold, and whether they give test labels away (switch S1).

    python stage1_content_modality_semantic_alignment/audit_pairs.py -d Bili_Food item_pairs_id.txt

Reads   FILE: one target,similar of zero-based item ids per line; <datasets_dir>/<D>/sequential_data.txt and titles
Prints  the numbers that pair_report.py shows too, and a verdict; exit code 1 if test labels leak

An item may be one user's test label and in the train parts of others, so that a target is a test label proves
nothing. Each pair is therefore counted at the first line that explains it: an item with itself; both items are in
the train part of one user; the target is a user's validation label, the answer before it; the target is a user's
test label, the answer before it. Pairs of the last line can only come from test labels. Pairs of similar titles,
chosen without any history, had up to 3 % of these on three data sets; pairs from whole histories had 6 % to 84 %.
"""

from __future__ import annotations

from common.start import run_script

import argparse
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Union

from common.dataset import Dataset, load_dataset
from common.settings import CommonSettings, parse
from stage1_content_modality_semantic_alignment.llm.pairs import Pair, read_pairs

Numbers = Dict[str, Union[int, float]]

LEAK = 0.05  # share of pairs that can only come from test labels
COMMONEST = 3  # answers to list
TEST_ONLY = "only from a test label"


def share(part: int, whole: int) -> float:
    """A share, rounded; 0 of nothing."""
    return round(part / whole, 4) if whole else 0.0


def audit(dataset: Dataset, pairs: Sequence[Pair]) -> Numbers:
    """The numbers that need no titles; see the head of this file.

    An answer is outside of the history if no user has it before the target; where test labels leak, if no user has it
    before the target as the test label. An item with itself is not counted there.
    """
    sequences = [sequence.tolist() for sequence in dataset.sequences]
    first: Dict[int, Dict[int, int]] = {}  # item → user → place of its first occurrence
    for user, sequence in enumerate(sequences):
        for place, item in enumerate(sequence):
            first.setdefault(item, {}).setdefault(user, place)

    def origins(target: int, answer: int) -> Dict[str, bool]:
        """What a pair may come from, the likeliest first, and whether the answer precedes the target anywhere."""
        found = {"from a train part": False, "only from a validation label": False, TEST_ONLY: False, "before": False}
        for user in first.get(target, {}).keys() & first.get(answer, {}).keys():
            sequence, place = sequences[user], first[answer][user]
            labels = len(sequence) - 2
            found["from a train part"] |= max(place, first[target][user]) < labels
            found["only from a validation label"] |= sequence[-2] == target and place < labels
            found[TEST_ONLY] |= sequence[-1] == target and place < labels + 1
            found["before"] |= target in sequence[place + 1 :]
        return found

    counts = Counter(pairs)
    found = {pair: origins(*pair) for pair in counts if pair[0] != pair[1]}
    explained: Counter[str] = Counter()
    for pair, origin in found.items():
        explained[next((name for name, yes in origin.items() if yes), "nothing")] += counts[pair]
    numbers: Numbers = {"pairs": len(pairs), TEST_ONLY: explained[TEST_ONLY]}
    history = TEST_ONLY if leaking(numbers) else "before"
    outside: Counter[int] = Counter()  # of an answer
    for pair, origin in found.items():
        outside[pair[1]] += 0 if origin[history] else counts[pair]

    tests, validations = ({sequence[place] for sequence in sequences} for place in (-1, -2))
    targets, answers = {target for target, _ in pairs}, Counter(answer for _, answer in pairs)
    numbers = {
        "pairs": len(pairs),
        "distinct pairs": len(counts),
        "repeated pairs": len(pairs) - len(counts),
        "of one item with itself": sum(count for (item, target), count in counts.items() if item == target),
        "given both ways": sum((item, target) in counts for target, item in counts if target != item),
        "target is a test label": sum(target in tests for target, _ in pairs),
        "target is a validation label": sum(target in validations for target, _ in pairs),
        **{origin: explained[origin] for origin in ("from a train part", "only from a validation label", TEST_ONLY)},
        "answer outside of the history": sum(outside.values()),
    }
    for item, count in answers.most_common(COMMONEST):
        numbers[f"answer is item {item}"] = count
        numbers[f"answer is item {item}, outside of the history"] = outside[item]
    numbers["share of items that are in a pair"] = share(len(targets | set(answers)), dataset.n_items)
    numbers["share of items that are a target"] = share(len(targets), dataset.n_items)
    numbers["share of items that are chosen"] = share(len(answers), dataset.n_items)
    for name, place in (("last train item", -3), ("test label", -1)):
        users = sum(sequence[place] in targets for sequence in sequences)
        numbers[f"share of users whose {name} is a target"] = share(users, len(sequences))
    return numbers


def leaking(numbers: Numbers) -> bool:
    """Whether test labels leak, by the numbers of `audit`."""
    return numbers[TEST_ONLY] >= LEAK * numbers["pairs"]


def verdict(numbers: Numbers) -> str:
    """One sentence about test labels, by the numbers of `audit`."""
    part = f"{numbers[TEST_ONLY]:,} of {numbers['pairs']:,} pairs can only come from a test label"
    return f"test labels leak: {part}" if leaking(numbers) else f"no sign that test labels leak: {part}"


def pairs_file(word: str) -> Path:
    """``FILE`` of the command line."""
    if "=" in word and not Path(word).exists():
        raise argparse.ArgumentTypeError("give FILE before the settings")
    return Path(os.path.expanduser(word))


def main(argv: Optional[List[str]] = None) -> None:
    """Command line."""
    file = (("file",), {"type": pairs_file, "metavar": "FILE", "help": "the pairs: one target,similar per line"})
    parsed = parse(CommonSettings, __doc__, None, argv, [file], has_force=False)
    dataset = load_dataset(parsed.settings.dataset_dir, parsed.settings.dataset)
    numbers = audit(dataset, read_pairs(parsed.arguments.file, dataset.n_items))
    for name, value in numbers.items():
        print(f"{name:50} {value}")
    print(f"verdict: {verdict(numbers)}")
    sys.exit(1 if leaking(numbers) else 0)


if __name__ == "__main__":
    run_script(main)
