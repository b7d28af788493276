"""From the columns people use to our records: one function a format, one table that lists them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import DataError, InputError, did_you_mean
from ..records import ROLES, Completion, Conversation, Message, Record, Text

Kind = Literal["conversation", "text"]


class Fault(Exception):
    """What is wrong with one row; the reader knows where the row is."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code, self.message = code, message


@dataclass(frozen=True, slots=True)
class Format:
    """`required` columns tell the format; `convert` makes a record of a row that has them."""

    name: str
    kind: Kind
    required: tuple[str, ...]
    optional: tuple[str, ...]
    convert: Callable[[Mapping[str, Any], str], Record]

    @property
    def columns(self) -> tuple[str, ...]:
        return self.required + self.optional


# ---- one function a format ----


def messages(row: Mapping[str, Any], origin: str) -> Conversation:
    """OpenAI chat: `{"messages": [{"role": ..., "content": ...}, ...], "tools": [...]}`."""
    return _conversation(_messages(row["messages"], "messages"), origin, row.get("tools"))


def prompt_completion(row: Mapping[str, Any], origin: str) -> Completion | Conversation:
    """Two strings are raw text; two lists of messages are one conversation."""
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        turns = _messages(prompt, "prompt") + _messages(completion, "completion")
        return _conversation(turns, origin, row.get("tools"))
    prompt = _string(prompt, "prompt")
    return Completion(prompt, _answer(completion, "completion"), origin)


def alpaca(row: Mapping[str, Any], origin: str) -> Conversation:
    """The user says `instruction` and `input`, joined by a line break; `output` is the answer; `history` holds earlier
    [question, answer] pairs."""
    turns: list[Message] = []
    if system := _string(row.get("system") or "", "system"):
        turns.append(Message("system", system))
    history = row.get("history") or []
    if not isinstance(history, list):
        raise Fault("WRONG_TYPE", f"'history' must be a list of [question, answer] pairs, found {_kind(history)}.")
    for i, pair in enumerate(history):
        if not (isinstance(pair, list) and len(pair) == 2):
            raise Fault("WRONG_TYPE", f"'history[{i}]' must be a [question, answer] pair.")
        turns.append(Message("user", _string(pair[0], f"history[{i}][0]")))
        turns.append(Message("assistant", _answer(pair[1], f"history[{i}][1]")))
    instruction, extra = _string(row["instruction"], "instruction"), _string(row.get("input") or "", "input")
    turns.append(Message("user", "\n".join(part for part in (instruction, extra) if part)))
    turns.append(Message("assistant", _answer(row["output"], "output")))
    return _conversation(tuple(turns), origin, None)


def text(row: Mapping[str, Any], origin: str) -> Text:
    """Plain text to continue."""
    return Text(_answer(row["text"], "text"), origin)


FORMATS: tuple[Format, ...] = (
    Format("messages", "conversation", ("messages",), ("tools",), messages),
    Format("prompt_completion", "conversation", ("prompt", "completion"), ("tools",), prompt_completion),
    Format("alpaca", "conversation", ("instruction", "output"), ("input", "system", "history"), alpaca),
    Format("text", "text", ("text",), (), text),
)
"""In the order in which they are tried where a row has the columns of several."""


# ---- recognising ----


def named(name: str) -> Format:
    for known in FORMATS:
        if known.name == name:
            return known
    names = [f.name for f in FORMATS]
    raise InputError(f"format {name!r} is not known; there are {', '.join(names)}.{did_you_mean(name, names)}")


def detect(rows: Iterable[Mapping[str, Any]], wants: Kind, source: str) -> Format:
    """The format whose required columns most rows have; ties go to the wanted kind, then to the table's order."""
    seen, fits = Counter[str](), Counter[str]()
    for row in rows:
        seen.update(row.keys())
        fits.update(f.name for f in FORMATS if all(c in row for c in f.required))
    if not fits:
        found = ", ".join(repr(c) for c, _ in seen.most_common(20)) or "none"
        known = "; ".join(f"{f.name} ({', '.join(f.required)})" for f in FORMATS)
        raise DataError(
            source,
            "UNKNOWN_FORMAT",
            f"has the columns {found}, those of no known format: {known}. Name yours with format= and columns=.",
        )
    wanted_first = sorted(FORMATS, key=lambda f: f.kind != wants)
    return max(wanted_first, key=lambda f: fits[f.name])  # max keeps the first of equals


def rename(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The row under our names; `columns` maps our name to theirs."""
    theirs = {their: our for our, their in columns.items()}
    return {theirs.get(c, c): v for c, v in row.items() if c in theirs or c not in columns}


def convert(row: Mapping[str, Any], origin: str, format: Format) -> Record:
    """A record, or a `Fault`."""
    refuse_misspelt(row, format.columns, "column")
    missing = [c for c in format.required if c not in row]
    if missing:
        other = next((f for f in FORMATS if f is not format and all(c in row for c in f.required)), None)
        if other:
            raise Fault(
                "MIXED_FORMATS", f"is a row of format {other.name} in a file of format {format.name}; split it."
            )
        raise Fault("MISSING_FIELD", f"has no {' and no '.join(map(repr, missing))}; add it or remove the row.")
    for column in format.required:
        if row[column] is None:
            raise Fault("NULL_FIELD", f"{column!r} is null; give it a value or remove the row.")
    return format.convert(row, origin)


def ignored_columns(row: Mapping[str, Any], format: Format) -> list[str]:
    """Columns, and keys inside messages, that the format does not read."""
    extra = [c for c in row if c not in format.columns]
    if format.name in ("messages", "prompt_completion"):
        for column in format.required:
            turns = row.get(column)
            if isinstance(turns, list):
                keys = {k for turn in turns if isinstance(turn, dict) for k in turn if k not in MESSAGE_KEYS}
                extra += [f"{column}[].{k}" for k in sorted(keys)]
    return extra


def refuse_misspelt(found: Iterable[str], known: Sequence[str], what: str) -> None:
    """A name that is nearly a known one, which is itself absent, is a slip of the pen and no column to ignore.

    Near is a distance of 2 (swapped neighbours count 1), for names shorter than six letters 1: `note` is not `name`.
    """
    from rapidfuzz.distance import OSA

    found = set(found)
    unknown = sorted(found.difference(known))
    absent = [k for k in known if k not in found]
    for name in unknown:
        for near in absent:
            if OSA.distance(name, near) <= (2 if len(near) >= 6 else 1):
                raise Fault("MISSPELT_COLUMN", f"has a {what} {name!r}, which looks like {near!r}; rename it.")


# ---- messages ----

MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", "train")


def _messages(value: object, column: str) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise Fault("WRONG_TYPE", f"{column!r} must be a list of messages, found {_kind(value)}.")
    return tuple(_message(turn, f"{column}[{i}]") for i, turn in enumerate(value))


def _message(turn: object, place: str) -> Message:
    if not isinstance(turn, dict):
        raise Fault("WRONG_TYPE", f"{place!r} must be an object with role and content, found {_kind(turn)}.")
    refuse_misspelt(turn, MESSAGE_KEYS, f"key in {place}")
    role = turn.get("role")
    if role is None:
        raise Fault("MISSING_ROLE", f"{place!r} does not say who speaks; add a role: {', '.join(ROLES)}.")
    if not isinstance(role, str):
        raise Fault("WRONG_TYPE", f"'{place}.role' must be a string, found {_kind(role)}.")
    if role not in ROLES:
        raise Fault(
            "UNKNOWN_ROLE", f"'{place}.role' is {role!r}; roles are {', '.join(ROLES)}.{did_you_mean(role, ROLES)}"
        )
    calls = _tool_calls(turn.get("tool_calls"), f"{place}.tool_calls")
    if calls and role != "assistant":
        raise Fault("WRONG_TYPE", f"{place!r}: only the assistant calls tools, not the {role}.")
    name, call_id, train = turn.get("name"), turn.get("tool_call_id"), turn.get("train")
    if train is not None and not isinstance(train, bool):
        raise Fault("WRONG_TYPE", f"'{place}.train' must be true or false, found {_kind(train)}.")
    return Message(
        role=role,
        content=_content(turn, place, may_be_absent=bool(calls)),
        name=None if name is None else _string(name, f"{place}.name"),
        tool_calls=calls,
        tool_call_id=None if call_id is None else _string(call_id, f"{place}.tool_call_id"),
        train=train,
    )


def _content(turn: Mapping[str, Any], place: str, may_be_absent: bool) -> str:
    content = turn.get("content")
    if content is None:
        if may_be_absent:
            return ""
        if "content" in turn:
            raise Fault("NULL_FIELD", f"'{place}.content' is null; write what the {turn['role']} says.")
        raise Fault("MISSING_FIELD", f"{place!r} has no 'content'; write what the {turn['role']} says.")
    if isinstance(content, list):
        return "".join(_text_part(part, f"{place}.content[{i}]") for i, part in enumerate(content))
    return _string(content, f"{place}.content")


def _text_part(part: object, place: str) -> str:
    if isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    kind = repr(part.get("type")) if isinstance(part, dict) else _kind(part)
    raise Fault("WRONG_TYPE", f'{place!r} must be {{"type": "text", "text": ...}}, found {kind}; only text is read.')


def _tool_calls(value: object, place: str) -> tuple[Mapping[str, Any], ...]:
    """The calls, with `arguments` as an object: OpenAI writes it as a JSON string, chat templates expect the object."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise Fault("WRONG_TYPE", f"{place!r} must be a list of calls, found {_kind(value)}.")
    calls: list[Mapping[str, Any]] = []
    for i, call in enumerate(value):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Fault("WRONG_TYPE", f"'{place}[{i}]' must be a call with a function name and arguments.")
        arguments = _parsed(function.get("arguments", {}), f"{place}[{i}].arguments")
        if not isinstance(arguments, dict):
            raise Fault("WRONG_TYPE", f"'{place}[{i}].arguments' must be an object, found {_kind(arguments)}.")
        outside = {k: v for k, v in call.items() if k != "function" and v is not None} if function is not call else {}
        calls.append({"type": "function", **outside, "function": {**function, "arguments": arguments}})
    return tuple(calls)


def _conversation(turns: tuple[Message, ...], origin: str, tools: object) -> Conversation:
    for i, turn in enumerate(turns):
        if turn.role == "system" and i > 0:
            if turns[0].role == "system":
                raise Fault("SECOND_SYSTEM", f"message {i} is a second system message; keep one, at the start.")
            raise Fault("LATE_SYSTEM", f"the system message is message {i}; it must be the first.")
        if turn.role == "assistant" and not turn.tool_calls and not turn.content.strip():
            raise Fault("EMPTY_ANSWER", f"message {i}, of the assistant, is empty; it would teach silence.")
    if not any(turn.role == "assistant" for turn in turns):
        raise Fault("NO_ASSISTANT", "has no assistant message, so there is nothing to learn; add an answer.")
    tools = _parsed(tools, "tools") if tools else []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise Fault("WRONG_TYPE", f"'tools' must be a list of function schemas, found {_kind(tools)}.")
    return Conversation(turns, tuple(tools), origin)


# ---- values ----


def _answer(value: object, place: str) -> str:
    answer = _string(value, place)
    if not answer.strip():
        raise Fault("EMPTY_ANSWER", f"{place!r} is empty; it would teach silence.")
    return answer


def _string(value: object, place: str) -> str:
    if value is None:
        raise Fault("NULL_FIELD", f"{place!r} is null; give it a value or remove the row.")
    if not isinstance(value, str):
        raise Fault("WRONG_TYPE", f"{place!r} must be a string, found {_kind(value)}.")
    return value


def _parsed(value: object, place: str) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise Fault("WRONG_TYPE", f"{place!r} is a string that is not JSON ({error}).") from None


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), f"the number {value}" if isinstance(value, int | float) else type(value).__name__)
