"""Messages as people write them: OpenAI's `role`/`content`, ShareGPT's `from`/`value`, and their names for roles."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ...errors import did_you_mean
from ...records import ROLES, Conversation, Message
from .format import Fault, Row, items, kind_of, parsed, refuse_misspelt, string

ALIASES = {
    "human": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "bot": "assistant", "model": "assistant", "developer": "system", "observation": "tool",
    "function": "tool", "function_response": "tool", "function_call": "assistant",
}  # fmt: skip
"""Other names of our roles. `function_call` is an assistant turn whose text is the call, as JSON."""

KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", "train", "weight")
SHAREGPT_KEYS = ("from", "value", "train", "weight")
OTHER_WORDS = {"role": "from", "content": "value"}


def read_turns(value: object, column: str) -> tuple[Message, ...]:
    """The messages of a list; which keys they use is seen message by message."""
    return tuple(_message(turn, f"{column}[{i}]") for i, turn in enumerate(items(value, column, "messages")))


def read_answer(value: object, column: str) -> tuple[Message, ...]:
    """An answer as a string, as one message or as a list of them. It ends with something the assistant said."""
    if isinstance(value, str):
        turns = (Message("assistant", value),)
    elif isinstance(value, dict):
        turns = (_message(value, column),)
    elif isinstance(value, list):
        turns = read_turns(value, column)
    else:
        raise Fault(
            "NULL_FIELD" if value is None else "WRONG_TYPE",
            f"{column!r} must be an answer, a string or messages, found {kind_of(value)}.",
        )
    check_answer(turns, column)
    return turns


def read_prompt(value: object, column: str) -> tuple[Message, ...]:
    """A prompt as a string (the user's turn) or as messages."""
    turns = read_turns(value, column) if isinstance(value, list) else (Message("user", string(value, column)),)
    if not any(turn.content.strip() for turn in turns):
        raise Fault("EMPTY_PROMPT", f"{column!r} is empty; say what was asked.")
    check_system(turns)
    return turns


def check_answer(turns: tuple[Message, ...], column: str) -> None:
    if not any(turn.role == "assistant" for turn in turns):
        raise Fault("NO_ASSISTANT", f"{column!r} has no assistant message, so there is no answer in it.")
    check_spoken(turns)


def check_system(turns: tuple[Message, ...]) -> None:
    for i, turn in enumerate(turns):
        if turn.role == "system" and i > 0:
            if turns[0].role == "system":
                raise Fault("SECOND_SYSTEM", f"message {i} is a second system message; keep one, at the start.")
            raise Fault("LATE_SYSTEM", f"the system message is message {i}; it must be the first.")


def check_spoken(turns: tuple[Message, ...]) -> None:
    for i, turn in enumerate(turns):
        if turn.role == "assistant" and not turn.tool_calls and not turn.content.strip():
            raise Fault("EMPTY_ANSWER", f"message {i}, of the assistant, is empty; it would teach silence.")


def conversation(turns: tuple[Message, ...], origin: str, tools: object = None, system: str = "") -> Conversation:
    """A checked dialogue. `system` is a system message written beside it."""
    if system:
        turns = (Message("system", system), *turns)
    check_system(turns)
    check_spoken(turns)
    if not any(turn.role == "assistant" for turn in turns):
        raise Fault("NO_ASSISTANT", "has no assistant message, so there is nothing to learn; add an answer.")
    return Conversation(turns, read_tools(tools), origin)


def read_tools(value: object) -> tuple[Mapping[str, Any], ...]:
    found = parsed(value, "tools") if value else []
    if not isinstance(found, list) or not all(isinstance(tool, dict) for tool in found):
        raise Fault("WRONG_TYPE", f"'tools' must be a list of function schemas, found {kind_of(found)}.")
    return tuple(found)


def unread_keys(row: Row, columns: Iterable[str]) -> list[str]:
    """Keys inside messages that nothing reads, as `messages[].key`."""
    extra: list[str] = []
    for column in columns:
        turns = row.get(column)
        if isinstance(turns, list):
            keys = {k for turn in turns if isinstance(turn, dict) for k in turn if k not in KEYS + SHAREGPT_KEYS}
            extra += [f"{column}[].{k}" for k in sorted(keys)]
    return extra


def rename_turns(value: object, names: Mapping[str, str]) -> object:
    """Messages under our names: `names` maps `role` and `content` to their keys and `role.user`, … to their words."""
    keys = {names[key]: key for key in ("role", "content") if key in names}
    words = {theirs: key.removeprefix("role.") for key, theirs in names.items() if key.startswith("role.")}

    def rename(turn: object) -> object:
        if not isinstance(turn, dict):
            return turn
        # A renamed key pushes one of ours that was there aside.
        renamed: dict[Any, Any] = {keys.get(k, k): v for k, v in turn.items() if k in keys or k not in keys.values()}
        for key in ("role", "from"):
            word = renamed.get(key)
            if isinstance(word, str):
                renamed[key] = words.get(word, word)
        return renamed

    return [rename(turn) for turn in value] if isinstance(value, list) else rename(value)


def _message(turn: object, place: str) -> Message:
    if not isinstance(turn, dict):
        raise Fault("WRONG_TYPE", f"{place!r} must be an object with role and content, found {kind_of(turn)}.")
    sharegpt = "role" not in turn and "content" not in turn and ("from" in turn or "value" in turn)
    refuse_misspelt(turn, SHAREGPT_KEYS if sharegpt else KEYS, f"key in {place}")
    role_key, text_key = ("from", "value") if sharegpt else ("role", "content")
    word = turn.get(role_key)
    if word is None:
        raise Fault("MISSING_ROLE", f"{place!r} does not say who speaks; add a {role_key}: {', '.join(ROLES)}.")
    if not isinstance(word, str):
        raise Fault("WRONG_TYPE", f"'{place}.{role_key}' must be a string, found {kind_of(word)}.")
    role = ALIASES.get(word, word)
    if role not in ROLES:
        names = f"roles are {', '.join(ROLES)} (also {', '.join(ALIASES)})"
        own = did_you_mean(word, [*ROLES, *ALIASES]) or f" Name yours as in columns: {{role.user: {word}}}."
        raise Fault("UNKNOWN_ROLE", f"'{place}.{role_key}' is {word!r}; {names}.{own}")
    calls = _tool_calls(turn.get("tool_calls"), f"{place}.tool_calls")
    if calls and role != "assistant":
        raise Fault("WRONG_TYPE", f"{place!r}: only the assistant calls tools, not the {role}.")
    if word == "function_call":
        calls, text = _written_call(turn.get(text_key), f"{place}.{text_key}"), ""
    else:
        text = _content(turn, place, text_key, word, may_be_absent=bool(calls))
    name, call_id = turn.get("name"), turn.get("tool_call_id")
    return Message(
        role=role,
        content=text,
        name=None if name is None else string(name, f"{place}.name"),
        tool_calls=calls,
        tool_call_id=None if call_id is None else string(call_id, f"{place}.tool_call_id"),
        train=_train(turn, place),
    )


def _train(turn: Mapping[str, Any], place: str) -> bool | None:
    """Ours, `train`, or OpenAI's `weight` of 0 or 1."""
    train, weight = turn.get("train"), turn.get("weight")
    if train is not None and not isinstance(train, bool):
        raise Fault("WRONG_TYPE", f"'{place}.train' must be true or false, found {kind_of(train)}.")
    if weight is None:
        return train
    if isinstance(weight, bool) or weight not in (0, 1):
        raise Fault("WRONG_TYPE", f"'{place}.weight' must be 0 or 1, found {weight!r}.")
    if train is not None and train != bool(weight):
        raise Fault("WRONG_TYPE", f"{place!r}: 'train' and 'weight' contradict each other; keep one.")
    return bool(weight)


def _content(turn: Mapping[str, Any], place: str, key: str, role: str, may_be_absent: bool) -> str:
    content = turn.get(key)
    if content is None:
        if may_be_absent:
            return ""
        if key in turn:
            raise Fault("NULL_FIELD", f"'{place}.{key}' is null; write what the {role} says.")
        raise Fault("MISSING_FIELD", f"{place!r} has no {key!r}; write what the {role} says.")
    if isinstance(content, list):
        return "".join(_text_part(part, f"{place}.{key}[{i}]") for i, part in enumerate(content))
    return string(content, f"{place}.{key}")


def _text_part(part: object, place: str) -> str:
    if isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    kind = repr(part.get("type")) if isinstance(part, dict) else kind_of(part)
    raise Fault("WRONG_TYPE", f'{place!r} must be {{"type": "text", "text": ...}}, found {kind}; only text is read.')


def _written_call(value: object, place: str) -> tuple[Mapping[str, Any], ...]:
    """ShareGPT's call: `{"name": ..., "arguments": {...}}` in a string, or a list of them."""
    calls = parsed(string(value, place), place)
    return _tool_calls(calls if isinstance(calls, list) else [calls], place)


def _tool_calls(value: object, place: str) -> tuple[Mapping[str, Any], ...]:
    """The calls, with `arguments` as an object: OpenAI writes it as a JSON string, chat templates expect the object."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise Fault("WRONG_TYPE", f"{place!r} must be a list of calls, found {kind_of(value)}.")
    calls: list[Mapping[str, Any]] = []
    for i, call in enumerate(value):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Fault("WRONG_TYPE", f"'{place}[{i}]' must be a call with a function name and arguments.")
        arguments = parsed(function.get("arguments", {}), f"{place}[{i}].arguments")
        if not isinstance(arguments, dict):
            raise Fault("WRONG_TYPE", f"'{place}[{i}].arguments' must be an object, found {kind_of(arguments)}.")
        outside = {k: v for k, v in call.items() if k != "function" and v is not None} if function is not call else {}
        calls.append({"type": "function", **outside, "function": {**function, "arguments": arguments}})
    return tuple(calls)


def as_turn(message: Message) -> dict[str, Any]:
    """A message as chat templates take it: who says what, and the calls. (Whether it is trained is no part of it.)"""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_calls:
        turn["tool_calls"] = [dict(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def as_ours(message: Message) -> dict[str, Any]:
    """Everything a message holds."""
    return as_turn(message) | ({} if message.train is None else {"train": message.train})


def as_openai(message: Message) -> dict[str, Any]:
    """A message as OpenAI's chat interface writes it: arguments as a JSON string, `weight` for what is trained."""
    turn = as_turn(message) | ({} if message.train is None else {"weight": int(message.train)})
    if message.tool_calls:
        turn["tool_calls"] = [_call_as_openai(call) for call in message.tool_calls]
    return turn


def _call_as_openai(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}
