"""Same seed, same bytes, on any machine. (`python tests/lab/test_datasets.py` prints the digests.)"""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest

from nurture.errors import InputError
from nurture.lab.datasets import DATASETS, REASONING_LEVELS, open_dataset, task_of_all, written
from nurture.lab.families import FAMILIES
from nurture.lab.oracle import grade
from nurture.records import Conversation, Pair, Ranking, Rating, Steps, Task, Text

ROWS = 280
DIGESTS = {
    "lab/corpus": "54597e3e9645394a",
    "lab/demonstrations": "15b6ef695345a446",
    "lab/comparisons": "22eb3108b40b6d8b",
    "lab/votes": "0aca1d7120a102a4",
    "lab/rankings": "2cb041bca89d224e",
    "lab/ratings": "0ccecc4c165efc1d",
    "lab/steps": "e565c3fa10efe2d8",
    "lab/prompts-test": "71fb48f746094ec9",
    "lab/prompts": "729163899e1ce2bd",
    "lab/reasoning": "6c240e6d9938030a",
    "lab/reasoning-test": "1c5215f7b0a473c8",
    "lab/test": "c7132e7b24003364",
}
KINDS = {
    "lab/corpus": Text,
    "lab/demonstrations": Conversation,
    "lab/comparisons": Pair,
    "lab/votes": Pair,
    "lab/rankings": Ranking,
    "lab/ratings": Rating,
    "lab/steps": Steps,
    "lab/prompts": Task,
    "lab/prompts-test": Task,
    "lab/reasoning": Task,
    "lab/reasoning-test": Task,
    "lab/test": Task,
}
names = pytest.mark.parametrize("name", DATASETS)


def digest(name: str, seed: int = 0) -> str:
    """Over the rows as JSON, in the order in which their fields are declared."""
    hasher = hashlib.blake2b(digest_size=8)
    for row in open_dataset(name, seed, ROWS):
        hasher.update(json.dumps(asdict(row), ensure_ascii=False).encode() + b"\n")
    return hasher.hexdigest()


@names
def test_the_bytes_are_the_recorded_ones(name: str):
    assert digest(name) == DIGESTS[name]
    assert digest(name, 1) != DIGESTS[name]


@pytest.mark.long
@pytest.mark.parametrize("hash_seed", ["1", "4242"])
def test_the_bytes_do_not_depend_on_pythons_hash(hash_seed: str):
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    out = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == DIGESTS


@names
def test_rows_are_numbered_not_counted(name: str):
    """A row is the same in a longer data set, read alone, read backwards, and in the other order of data sets."""
    long, short = list(open_dataset(name, 2, 60)), list(open_dataset(name, 2, 25))
    assert long[:25] == short
    again = open_dataset.__wrapped__(name, 2, 61)
    assert [again[i] for i in reversed(range(25))] == short[::-1]
    assert again[-61:-36] == short and again[24] is again[24]
    assert [row.origin for row in short[:2]] == [f"{name}:1", f"{name}:2"]
    with pytest.raises(IndexError):
        again[61]


@names
def test_records_are_of_their_kind_and_vary(name: str):
    rows = open_dataset(name, 0, ROWS)
    assert all(type(row) is KINDS[name] for row in rows)
    assert len({json.dumps({**asdict(row), "origin": ""}) for row in rows}) > 0.8 * ROWS
    assert len(open_dataset(name)) == DATASETS[name].size


def test_demonstrations_end_with_the_assistant_and_hold_no_test_prompt():
    rows = [row for row in open_dataset("lab/demonstrations", 0, 4200) if isinstance(row, Conversation)]
    assert all(row.messages[-1].role == "assistant" and row.messages[0].role == "user" for row in rows)
    asked = {tuple(m.content for m in row.messages[:-1]) for row in rows}
    tested = {tuple(m.content for m in row.prompt) for row in open_dataset("lab/test") if isinstance(row, Task)}
    assert asked & tested == set()


def test_the_test_set_has_every_family_and_level_alike():
    rows = [row for row in open_dataset("lab/test") if isinstance(row, Task)]
    assert len(rows) >= 500
    counts = {name: [row.info["level"] for row in rows if row.family == name] for name in FAMILIES}
    for name, levels in counts.items():
        assert len(levels) == len(rows) // len(FAMILIES)
        assert set(levels) == set(FAMILIES[name].LEVELS)
    assert all(grade(row, row.answer).overall == 1.0 for row in rows)


def test_comparisons_put_the_better_first_with_the_careful_labellers_accuracy():
    """Their tasks are those of no demonstration; the prompt finds the task again to grade both by."""
    from nurture.lab.datasets import task_of_all

    right = 0
    for index, row in enumerate(open_dataset("lab/comparisons", 0, 1400)):
        assert isinstance(row, Pair)
        task = task_of_all(1_000_003, "practice", index, 0)
        assert task.prompt == row.prompt
        right += grade(task, row.chosen[0].content).overall > grade(task, row.rejected[0].content).overall
    assert 0.93 < right / 1400 < 0.99


def test_steps_are_right_up_to_the_first_slip():
    for row in open_dataset("lab/steps", 0, 600):
        assert isinstance(row, Steps)
        first_wrong = next((i for i, step in enumerate(row.steps) if not _adds_up(step)), len(row.steps))
        assert row.labels == tuple(float(i < first_wrong) for i in range(len(row.steps)))
        assert len(row.steps) >= 2
    labels = [row.labels[-1] for row in open_dataset("lab/steps", 0, 600) if isinstance(row, Steps)]
    assert 0.4 < sum(labels) / len(labels) < 0.6


def _adds_up(step: str) -> bool:
    left, right = step.removesuffix(".").split("=")
    operator = next(sign for sign in "+-*" if sign in left)
    x, y = map(int, left.split(operator))
    return {"+": x + y, "-": x - y, "*": x * y}[operator] == int(right)


def test_rankings_and_ratings_have_their_shapes():
    for row in open_dataset("lab/rankings", 0, 100):
        assert isinstance(row, Ranking) and len(row.responses) == len(row.ranks) == 4 and min(row.ranks) == 1
        assert len(set(row.responses)) == 4
    for row in open_dataset("lab/ratings", 0, 100):
        assert isinstance(row, Rating) and set(row.scores) == {"helpful", "honest", "harmless", "overall"}


def test_reasoning_is_graded_in_difficulty():
    levels = [row.info["level"] for row in open_dataset("lab/reasoning", 0, 50) if isinstance(row, Task)]
    assert levels[: len(REASONING_LEVELS)] == list(REASONING_LEVELS) and len(set(levels)) >= 3


def test_the_shipped_world_does_not_change_with_the_seed_of_the_rows():
    """Another row seed asks other questions about the same people; another world has other people."""
    said = {key: _words_of_prompts(*key) for key in ((0, 0), (1, 0), (0, 1))}
    names = {e.name for e in _people(0)}
    assert len(said[0, 0] & names) > 20 and len(said[1, 0] & names) > 20
    assert len(said[0, 1] & names) <= 2


def _words_of_prompts(seed: int, world: int) -> set[str]:
    rows = (row for row in open_dataset("lab/prompts", seed, 140, world) if isinstance(row, Task))
    return {word for row in rows for message in row.prompt for word in message.content.split()}


def _people(world: int):
    from nurture.lab.world import build_world

    return build_world(world).people


def test_unknown_names_and_empty_sizes_are_refused():
    with pytest.raises(InputError, match="Did you mean 'lab/demonstrations'"):
        open_dataset("lab/demonstration")
    with pytest.raises(InputError, match="n is 0"):
        open_dataset("lab/test", n=0)


@names
def test_written_rows_name_the_family_that_made_them(name: str):
    """Against the record's own family, and the tasks that judged answers were drawn for."""
    seeds = {"lab/demonstrations": 0, "lab/prompts": 2_000_003, "lab/test": 0}
    rows = list(zip(range(60), open_dataset(name), written(name), strict=False))
    for i, record, (origin, row) in rows:
        assert origin == record.origin
        if isinstance(record, Text):
            assert "family" not in row
        elif isinstance(record, Task):
            assert row["family"] == record.family
        elif isinstance(record, Steps):
            assert row["family"] == "arithmetic"
        else:
            split = "train" if name == "lab/demonstrations" else "practice"
            task = task_of_all(seeds.get(name, 1_000_003), split, i // 3 if name == "lab/votes" else i, 0)
            asked = tuple(m for m in record.messages if m.role == "user") if name in seeds else record.prompt
            assert row["family"] == task.family and asked[-1] == task.prompt[-1]


if __name__ == "__main__":
    print(json.dumps({name: digest(name) for name in DATASETS}, indent=4))


def test_what_is_practised_is_not_what_is_asked():
    """Of the kinds of prompts that people repeat (greetings, say) a few are the same."""
    pairs = (("lab/reasoning", "lab/reasoning-test", 0.0), ("lab/prompts", "lab/prompts-test", 0.02))
    for practised, asked, share in pairs:
        known = {row.prompt for row in open_dataset(practised)}
        again = [row for row in open_dataset(asked) if row.prompt in known]
        assert len(again) <= share * len(open_dataset(asked)), (asked, len(again))
