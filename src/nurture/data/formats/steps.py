"""Reasoning cut into steps, each judged."""

from __future__ import annotations

from collections.abc import Callable

from ...records import Steps
from .format import Fault, Format, Row, equally_long, items, kind_of, number, string, user, yes_or_no
from .turns import read_prompt

MARK = "ки"
"""What Math-Shepherd writes after every step; its labels stand in its place."""


def steps(row: Row, origin: str) -> Steps:
    """Ours: `prompt`, `steps`, `labels` between 0 and 1."""
    texts, labels = equally_long(row, "steps", "labels", ("strings", "numbers"))
    shares = [number(float(v) if isinstance(v, bool) else v, f"labels[{i}]") for i, v in enumerate(labels)]
    return _steps(row, "steps", texts, shares, origin)


def trl_stepwise(row: Row, origin: str) -> Steps:
    """TRL: `prompt`, `completions` (one string a step), `labels` (true or false)."""
    texts, labels = equally_long(row, "completions", "labels", ("strings", "labels"))
    return _steps(row, "completions", texts, [yes_or_no(v, f"labels[{i}]") for i, v in enumerate(labels)], origin)


def prm800k(row: Row, origin: str) -> list[Steps]:
    """PRM800K: the chosen steps lead on; every other completion ends a chain of its own. A rating of 1 is right, 0 and
    -1 are not; a step that a labeller wrote is right; one without a rating has no label and ends its chain unread."""
    question, label = row["question"], row["label"]
    if not isinstance(question, dict) or not isinstance(label, dict):
        raise Fault("WRONG_TYPE", "'question' and 'label' must be objects.")
    prompt = user(string(question.get("problem"), "question.problem"))
    before: list[str] = []
    labels: list[float] = []
    found: list[Steps] = []
    for i, step in enumerate(items(label.get("steps"), "label.steps", "steps")):
        place = f"label.steps[{i}]"
        if not isinstance(step, dict):
            raise Fault("WRONG_TYPE", f"{place!r} must be an object, found {kind_of(step)}.")
        chosen = step.get("chosen_completion")
        on: tuple[str, float] | None = None
        for k, completion in enumerate(items(step.get("completions") or [], f"{place}.completions", "completions")):
            text = string(completion.get("text"), f"{place}.completions[{k}].text")
            judged = completion.get("rating")
            if judged is None:
                continue
            right = float(number(judged, f"{place}.completions[{k}].rating") == 1)
            if k == chosen:
                on = text, right
            else:
                found.append(Steps(prompt, (*before, text), (*labels, right), origin))
        if chosen is None and (human := step.get("human_completion")):
            written = human.get("text") if isinstance(human, dict) else human
            on = string(written, f"{place}.human_completion"), 1.0
        if on is None:
            break
        before.append(on[0])
        labels.append(on[1])
    else:
        if before:
            found.append(Steps(prompt, tuple(before), tuple(labels), origin))
    if not found:
        raise Fault("NO_STEPS", "has no step with a rating, so there is nothing to learn; remove the row.")
    return found


def math_shepherd(row: Row, origin: str) -> Steps:
    """Math-Shepherd: `input` is the question and steps with a mark behind each, `label` the same with + or -."""
    text, label = string(row["input"], "input"), string(row["label"], "label")
    *pieces, rest = text.split(MARK)
    if not pieces:
        raise Fault("NO_STEPS", f"'input' has no mark {MARK!r} behind a step.")
    first = pieces[0].find("Step 1:")
    if first < 0:
        raise Fault("NO_PROMPT", "'input' does not say 'Step 1:', so its question cannot be told from its steps.")
    question, pieces[0] = pieces[0][:first].strip(), pieces[0][first:]
    signs: list[float] = []
    at = 0
    for i, piece in enumerate([*(text.split(MARK)[:-1])]):
        at += len(piece)
        if label[at - len(piece) : at] != piece or label[at : at + 1] not in ("+", "-"):
            raise Fault("LABELS_DIFFER", f"'label' is not 'input' with + or - in place of mark {i + 1}.")
        signs.append(float(label[at] == "+"))
        at += 1
    if label[at:].strip() != rest.strip():
        raise Fault("LABELS_DIFFER", "'label' does not end as 'input' does.")
    if not question:
        raise Fault("EMPTY_PROMPT", "'input' has no question before its steps.")
    return Steps(user(question), tuple(piece.strip() for piece in pieces), tuple(signs), origin)


def _steps(row: Row, column: str, texts: list[object], labels: list[float], origin: str) -> Steps:
    if not texts:
        raise Fault("NO_STEPS", f"{column!r} is empty, so there is nothing to learn; remove the row.")
    said = tuple(string(text, f"{column}[{i}]") for i, text in enumerate(texts))
    for i, label in enumerate(labels):
        if not 0 <= label <= 1:
            raise Fault("WRONG_TYPE", f"'labels[{i}]' must be between 0 and 1, found {label}.")
    return Steps(read_prompt(row["prompt"], "prompt"), said, tuple(labels), origin)


def _is_prm800k(row: Row) -> bool:
    return isinstance(row["question"], dict) and isinstance(row["label"], dict) and "steps" in row["label"]


def _is_shepherd(row: Row) -> bool:
    return isinstance(row["input"], str) and MARK in row["input"]


def _unlabelled(column: str) -> Callable[[Row], bool]:
    """Whether a row has a prompt and its steps and no labels. (A number of steps is something else.)"""

    def holds(row: Row) -> bool:
        said = row.get(column)
        listed = isinstance(said, list) and bool(said) and all(isinstance(step, str) for step in said)
        written = isinstance(said, str) and said.lstrip()[:1] == "["
        return "prompt" in row and "labels" not in row and (listed or written)

    return holds


FORMATS = (
    Format(
        "steps", "steps", ("prompt", "steps", "labels"), (), steps, turns=("prompt",), unjudged=_unlabelled("steps")
    ),
    Format(
        "trl_stepwise",
        "steps",
        ("prompt", "completions", "labels"),
        (),
        trl_stepwise,
        turns=("prompt",),
        unjudged=_unlabelled("completions"),
    ),
    Format("prm800k", "steps", ("question", "label"), (), prm800k, _is_prm800k),
    Format("math_shepherd", "steps", ("input", "label"), ("task",), math_shepherd, _is_shepherd),
)
