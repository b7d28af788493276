"""Prompts whose answers can be checked, and prompts alone."""

from __future__ import annotations

from typing import Any

from ...records import Message, Task
from .format import Fault, Format, Row, items, kind_of, optional_string, parsed, string, user
from .turns import read_prompt

GSM8K_MARK = "####"


def task(row: Row, origin: str) -> Task:
    """verifiers, and ours: `prompt`, `answer`, and `family` (or `task`) and `info` for the grader."""
    return Task(_asked(row, "prompt"), row["answer"], _family(row), _info(row), origin)


def question_task(row: Row, origin: str) -> Task:
    """verifiers: `question`, `answer`, and `task` and `info` for the grader."""
    return Task(_asked(row, "question"), row["answer"], _family(row), _info(row), origin)


def problem_task(row: Row, origin: str) -> Task:
    """`problem` and `answer`, as many sets of mathematics have them; a `solution` is kept for the grader."""
    info = _info(row) | ({"solution": row["solution"]} if row.get("solution") is not None else {})
    return Task(_asked(row, "problem"), row["answer"], _family(row), info, origin)


def solution_task(row: Row, origin: str) -> Task:
    """TRL's verifiable prompts: `prompt` and `solution`, which the grader compares with."""
    return Task(_asked(row, "prompt"), row["solution"], _family(row), _info(row), origin)


def prompt_only(row: Row, origin: str) -> Task:
    """A prompt alone: for reward models and judges, who need no answer."""
    return Task(_asked(row, "prompt"), None, _family(row), _info(row), origin)


def verl(row: Row, origin: str) -> Task:
    """verl: `data_source` names the grader, `reward_model.ground_truth` is the answer."""
    model = row["reward_model"]
    if not isinstance(model, dict) or "ground_truth" not in model:
        raise Fault("WRONG_TYPE", "'reward_model' must be an object with a ground_truth.")
    info = {k: v for k, v in model.items() if k != "ground_truth" and v is not None}
    for column in ("ability", "extra_info"):
        if row.get(column) is not None:
            info[column] = row[column]
    prompt = read_prompt(row["prompt"], "prompt")
    return Task(prompt, model["ground_truth"], string(row["data_source"], "data_source"), info, origin)


def rlvr(row: Row, origin: str) -> Task:
    """open-instruct: `messages`, `ground_truth`, and in `dataset` the grader's name."""
    prompt = read_prompt(row["messages"], "messages")
    family, info = row.get("dataset"), {}
    if isinstance(family, list):  # several graders, each with its own ground truth
        family, info = "", {"datasets": family}
    return Task(prompt, row["ground_truth"], "" if family is None else string(family, "dataset"), info, origin)


def gsm8k(row: Row, origin: str) -> Task:
    """GSM8K: the answer is what stands behind ####, without the commas in its number; the working is kept."""
    worked = string(row["answer"], "answer")
    number = worked.rpartition(GSM8K_MARK)[2].strip().replace(",", "")
    if GSM8K_MARK not in worked or not number:
        raise Fault("NO_ANSWER", f"'answer' does not end with {GSM8K_MARK} and the number.")
    return Task(user(string(row["question"], "question")), number, "gsm8k", {"solution": worked}, origin)


def code_tests(row: Row, origin: str) -> Task:
    """AceCode: a question and the assertions its program must pass."""
    tests = [string(t, f"test_cases[{i}]") for i, t in enumerate(items(row["test_cases"], "test_cases", "strings"))]
    return Task(_asked(row, "question"), None, _family(row) or "code", {"tests": tests}, origin)


def _asked(row: Row, column: str) -> tuple[Message, ...]:
    """The prompt with the system message beside it."""
    prompt = read_prompt(row[column], column)
    system = optional_string(row, "system") or optional_string(row, "system_prompt")
    if system and prompt[0].role == "system":
        raise Fault("SECOND_SYSTEM", "'system' and the prompt both have a system message; keep one.")
    return (Message("system", system), *prompt) if system else prompt


def _family(row: Row) -> str:
    return optional_string(row, "family") or optional_string(row, "task")


def _info(row: Row) -> dict[str, Any]:
    info = parsed(row.get("info"), "info")
    if info is None:
        return {}
    if not isinstance(info, dict):
        raise Fault("WRONG_TYPE", f"'info' must be an object, found {kind_of(info)}.")
    return info


def _is_gsm8k(row: Row) -> bool:
    return isinstance(row["answer"], str) and f"\n{GSM8K_MARK} " in row["answer"]


BESIDE = ("family", "task", "info", "system", "system_prompt")

FORMATS = (
    Format(
        "verl", "task", ("data_source", "prompt", "reward_model"), ("ability", "extra_info"), verl, turns=("prompt",)
    ),
    Format("rlvr", "task", ("messages", "ground_truth"), ("dataset",), rlvr, turns=("messages",)),
    Format("gsm8k", "task", ("question", "answer"), (), gsm8k, _is_gsm8k),
    Format("code_tests", "task", ("question", "test_cases"), ("family", "task"), code_tests),
    Format("problem_task", "task", ("problem", "answer"), (*BESIDE, "solution"), problem_task),
    Format("solution_task", "task", ("prompt", "solution"), BESIDE, solution_task, turns=("prompt",)),
)
PLAIN = (
    Format("task", "task", ("prompt", "answer"), BESIDE, task, turns=("prompt",)),
    Format("question_task", "task", ("question", "answer"), BESIDE, question_task),
    Format("prompt_only", "task", ("prompt",), BESIDE, prompt_only, turns=("prompt",)),
)
"""Tried after the demonstrations, which have the same columns."""
