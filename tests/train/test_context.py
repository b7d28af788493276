"""What may change between a checkpoint and its resumption, and what it costs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nurture.errors import InputError
from nurture.train.checkpoint import CheckpointStore
from nurture.train.context import Context, check_context, promise_after, refuse

CONFIG: dict[str, Any] = {
    "learning_rate": 0.001,
    "method": {"name": "sft", "train_on": "assistant"},
    "checkpoint": {"every": 5},
    "targets": ["q", "v"],
}
THEN = Context.here(CONFIG, {"train": "a" * 64}, torch.device("cpu"))


@pytest.fixture
def manifest(tmp_path: Path) -> Any:
    path = CheckpointStore(tmp_path).save(1, {}, {}, THEN)
    return json.loads((path / "manifest.json").read_bytes())


def lines(differences: list[Any]) -> list[str]:
    return [f"{d} [{d.effect}]" for d in differences]


def test_here_names_this_machine():
    assert THEN.versions["torch"] == torch.__version__.split("+")[0] or THEN.versions["torch"] == torch.__version__
    assert THEN.threads == torch.get_num_threads() and THEN.device.startswith("cpu ") and THEN.promise == "A"


def test_the_same_context_differs_in_nothing(manifest: Any):
    again = Context.here(json.loads(json.dumps(CONFIG)), {"train": "a" * 64}, torch.device("cpu"))
    assert check_context(manifest, again) == []
    assert promise_after("A", []) == ("A", "")
    refuse([], Path("run"))


def test_a_changed_configuration_is_refused_with_a_readable_diff(manifest: Any):
    changed = {**CONFIG, "learning_rate": 0.002, "method": {"name": "sft"}, "targets": ["q"], "seed": "1"}
    differences = check_context(manifest, replace(THEN, config=changed))
    assert sorted(lines(differences)) == [
        "learning_rate: 0.001 -> 0.002 [refused]",
        'method.train_on: "assistant" -> (absent) [refused]',
        'seed: (absent) -> "1" [refused]',
        'targets: ["q", "v"] -> ["q"] [refused]',
    ]
    with pytest.raises(InputError, match="other settings") as error:
        refuse(differences, Path("runs/x"))
    assert "runs/x" in str(error.value) and "\n  learning_rate: 0.001 -> 0.002" in str(error.value)


def test_values_of_another_type_are_another_value(manifest: Any):
    changed = {**CONFIG, "learning_rate": "0.001", "checkpoint": {"every": True}}
    assert lines(check_context(manifest, replace(THEN, config=changed))) == [
        "checkpoint.every: 5 -> true [refused]",
        'learning_rate: 0.001 -> "0.001" [refused]',
    ]


def test_changed_data_is_refused(manifest: Any):
    differences = check_context(manifest, replace(THEN, data={"train": "b" * 64}))
    assert [(d.key, d.effect) for d in differences] == [("data.train", "refused")]
    differences = check_context(manifest, replace(THEN, data={"train": "b" * 64}), allowed=["data"])
    assert [(d.key, d.effect) for d in differences] == [("data.train", "weaker")]


def test_allowed_keys_pass_at_a_price_and_harmless_ones_at_none(manifest: Any):
    changed = {**CONFIG, "learning_rate": 0.002, "checkpoint": {"every": 7}}
    differences = check_context(manifest, replace(THEN, config=changed), ["learning_rate"], ["checkpoint"])
    refuse(differences, Path("run"))
    assert lines(differences) == ["checkpoint.every: 5 -> 7 [harmless]", "learning_rate: 0.001 -> 0.002 [weaker]"]
    promise, why = promise_after("A", differences)
    assert promise == "C" and "learning_rate: 0.001 -> 0.002" in why and "checkpoint.every" not in why
    assert promise_after("A", differences[:1]) == ("A", "")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"threads": THEN.threads + 1}, f"threads: {THEN.threads} -> {THEN.threads + 1} [weaker]"),
        ({"world_size": 2}, "world_size: 1 -> 2 [weaker]"),
        ({"device": "cpu x"}, f'device: "{THEN.device}" -> "cpu x" [weaker]'),
        (
            {"versions": {**THEN.versions, "torch": "9.9"}},
            f'versions.torch: "{THEN.versions["torch"]}" -> "9.9" [weaker]',
        ),
    ],
)
def test_another_machine_lowers_the_promise(manifest: Any, change: dict[str, Any], line: str):
    differences = check_context(manifest, replace(THEN, **change))
    assert lines(differences) == [line]
    refuse(differences, Path("run"))
    promise, why = promise_after("A", differences)
    assert promise == "C" and str(differences[0]) in why
    assert promise_after("C", differences) == ("C", "")
