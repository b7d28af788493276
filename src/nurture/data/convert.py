"""Records back to rows: ours, OpenAI's, TRL's or ShareGPT's. What a form cannot hold is refused, never left out."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

from ..errors import InputError
from ..files import sync
from ..records import Completion, Conversation, Message, Pair, Ranking, Rating, Record, Steps, Task, Text
from .formats import Fault
from .formats.turns import as_openai, as_ours
from .load import MOST_BAD, SHOWN, OnBadRow, Reading, refuse_bad, rejected_file
from .quality.view import all_messages
from .report import DataReport
from .rows import BadRow

Form = Literal["nurture", "openai", "trl", "sharegpt"]
FORMS: tuple[Form, ...] = get_args(Form)
OUT_SUFFIXES = (".jsonl", ".jsonl.gz", ".json")


def convert_file(
    reading: Reading,
    out: Path,
    to: Form,
    *,
    on_bad_row: OnBadRow = "error",
    max_bad_fraction: float = MOST_BAD,
) -> DataReport:
    """Write the records of a source to `out`: all of the file or nothing of it. Rows that are set aside go to
    `<out>.rejected.jsonl`. Memory does not grow with the file."""
    write = WRITERS[to]
    first: list[BadRow] = []
    kind: type | None = None
    with whole_file(out) as put, rejected_file(out.with_name(out.name + ".rejected.jsonl")) as reject:
        for found in reading:
            if isinstance(found, BadRow):
                first += [found] if len(first) < SHOWN else []
                if on_bad_row == "quarantine":
                    reject(found)
                continue
            for record in found:
                kind = kind or type(record)
                put(_written(record, write, kind))
        refuse_bad(reading.name, reading.rows, first, reading.rejected, on_bad_row, max_bad_fraction)
    return reading.report


def _written(record: Record, write: Callable[[Any], dict[str, Any]], kind: type) -> dict[str, Any]:
    try:
        if type(record) is not kind:
            raise Fault("MIXED_KINDS", f"is a {type(record).__name__} among {kind.__name__} records; split the file.")
        return write(record)
    except Fault as fault:
        raise InputError(f"{record.origin} {fault.code} {fault.message} Nothing was written.") from None


@contextmanager
def whole_file(out: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Rows go to a file beside `out`, which is moved into its place when all are there."""
    name = out.name.lower()
    if not name.endswith(OUT_SUFFIXES):
        raise InputError(f"{out} has no extension that is written here: {', '.join(OUT_SUFFIXES)}.")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with _text(draft, name.endswith(".gz")) as file:
            array, first = name.endswith(".json"), True

            def put(row: Mapping[str, Any]) -> None:
                nonlocal first
                before = "" if not array else "[\n" if first else ",\n"
                first = False
                file.write(before + json.dumps(row, ensure_ascii=False, allow_nan=False) + ("" if array else "\n"))

            yield put
            if array:
                file.write("[]\n" if first else "\n]\n")
        sync(draft)
        os.replace(draft, out)
        sync(out.parent)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _text(path: Path, compressed: bool) -> Iterator[TextIO]:
    if not compressed:
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file
        return
    # Without a name and a time inside, equal rows are equal bytes.
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as file,
    ):
        yield file


# ---- ours: everything a record holds but its origin ----


def as_nurture(record: Record) -> dict[str, Any]:
    match record:
        case Conversation(messages, tools):
            return {"messages": _messages(messages)} | ({"tools": list(tools)} if tools else {})
        case Completion(prompt, completion):
            return {"prompt": prompt, "completion": completion}
        case Text(text):
            return {"text": text}
        case Pair(prompt, chosen, rejected, margin):
            row = {"prompt": _messages(prompt), "chosen": _messages(chosen), "rejected": _messages(rejected)}
            return (row if margin is None else row | {"margin": margin}) | _labeller(record)
        case Ranking(prompt, responses, ranks):
            row = {"prompt": _messages(prompt), "responses": [_messages(r) for r in responses], "ranks": list(ranks)}
            return (row if record.scores is None else row | {"scores": list(record.scores)}) | _labeller(record)
        case Rating(prompt, response, scores):
            row = {"prompt": _messages(prompt), "response": _messages(response), "scores": dict(scores)}
            return row | _labeller(record)
        case Steps(prompt, steps, labels):
            return {"prompt": _messages(prompt), "steps": list(steps), "labels": list(labels)}
        case Task(prompt, answer, family, info):
            row = {"prompt": _messages(prompt), "answer": answer}
            return row | ({"family": family} if family else {}) | ({"info": dict(info)} if info else {})


def _labeller(record: Pair | Ranking | Rating) -> dict[str, str]:
    return {"labeller": record.labeller} if record.labeller else {}


def _messages(turns: Sequence[Message]) -> list[dict[str, Any]]:
    return [as_ours(m) for m in turns]


# ---- OpenAI: chat and preference tuning ----


def as_openai_row(record: Record) -> dict[str, Any]:
    match record:
        case Conversation(messages, tools):
            return {"messages": [as_openai(m) for m in messages]} | ({"tools": list(tools)} if tools else {})
        case Pair(labeller=who) if who:
            raise _cannot("OpenAI's preferences", "who labelled them")
        case Pair(prompt, chosen, rejected, None):
            return {
                "input": {"messages": [as_openai(m) for m in prompt]},
                "preferred_output": [as_openai(m) for m in chosen],
                "non_preferred_output": [as_openai(m) for m in rejected],
            }
        case Pair():
            raise _cannot("OpenAI's preferences", "a margin")
        case _:
            raise _cannot("OpenAI's form", f"a {type(record).__name__}")


# ---- TRL: the columns of its trainers ----


def as_trl(record: Record) -> dict[str, Any]:
    for message in all_messages(record):
        if message.train is not None:
            raise _cannot("TRL's form", "which messages are trained")
    match record:
        case Conversation() | Completion() | Text() | Pair():
            return as_nurture(record)
        case Rating(prompt, response, scores):
            if set(scores) != {"desirable"} or scores["desirable"] not in (0, 1):
                raise _cannot("TRL's form", f"the criteria {', '.join(scores)}, only desirable 1 or 0")
            return {
                "prompt": _messages(prompt), "completion": _messages(response), "label": bool(scores["desirable"]),
                **_labeller(record),
            }  # fmt: skip
        case Steps(prompt, steps, labels):
            if [m.role for m in prompt] != ["user"] or prompt[0].name is not None:
                raise _cannot("TRL's steps", "a prompt of more than one user message")
            if not set(labels) <= {0, 1}:
                raise _cannot("TRL's steps", "labels between 0 and 1")
            return {"prompt": prompt[0].content, "completions": list(steps), "labels": [bool(v) for v in labels]}
        case Task(prompt, answer, family, info):
            if answer is None:
                raise _cannot("TRL's form", "a task without an answer")
            row = {"prompt": _messages(prompt), "solution": answer}
            return row | ({"family": family} if family else {}) | ({"info": dict(info)} if info else {})
        case Ranking():
            raise _cannot("TRL's form", "a ranking; its pairs can be written (--as pair)")


# ---- ShareGPT, as LLaMA-Factory reads it ----

SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}


def as_sharegpt(record: Record) -> dict[str, Any]:
    match record:
        case Pair(labeller=who) | Rating(labeller=who) if who:
            raise _cannot("ShareGPT's form", "who labelled them")
        case Conversation(messages, tools):
            row: dict[str, Any] = {"conversations": [_said(m) for m in messages]}
            return row | ({"tools": json.dumps(tools, ensure_ascii=False)} if tools else {})
        case Pair(prompt, (chosen,), (rejected,), None):
            return {
                "conversations": [_said(m) for m in prompt], "chosen": _said(chosen), "rejected": _said(rejected)
            }  # fmt: skip
        case Pair():
            raise _cannot("ShareGPT's form", "a margin, or answers of several messages")
        case Rating(prompt, (response,), scores) if set(scores) == {"desirable"} and scores["desirable"] in (0, 1):
            return {"conversations": [_said(m) for m in (*prompt, response)], "label": bool(scores["desirable"])}
        case _:
            raise _cannot("ShareGPT's form", f"this {type(record).__name__}")


def _said(message: Message) -> dict[str, str]:
    for what, there in (
        ("a name beside the role", message.name is not None),
        ("the id of a call", message.tool_call_id is not None),
        ("whether a message is trained", message.train is not None),
        ("text beside a call", bool(message.tool_calls and message.content)),
    ):
        if there:
            raise _cannot("ShareGPT's form", what)
    if not message.tool_calls:
        return {"from": SPEAKERS[message.role], "value": message.content}
    for call in message.tool_calls:
        if set(call) != {"type", "function"} or call["type"] != "function":
            raise _cannot("ShareGPT's form", "the id of a call")
        if set(call["function"]) != {"name", "arguments"}:
            raise _cannot("ShareGPT's form", "more of a call than its name and arguments")
    calls = [call["function"] for call in message.tool_calls]
    return {"from": "function_call", "value": json.dumps(calls if len(calls) > 1 else calls[0], ensure_ascii=False)}


WRITERS: dict[Form, Callable[[Any], dict[str, Any]]] = {
    "nurture": as_nurture,
    "openai": as_openai_row,
    "trl": as_trl,
    "sharegpt": as_sharegpt,
}


def _cannot(form: str, what: str) -> Fault:
    return Fault("CANNOT_EXPRESS", f"{form} cannot hold {what}; write --to nurture.")
