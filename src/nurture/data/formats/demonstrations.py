"""Answers to imitate, and plain text: conversations, completions, texts."""

from __future__ import annotations

from ...records import Completion, Conversation, Message, Text
from .format import Fault, Format, Row, answer, assistant, items, optional_string, string, user
from .turns import conversation, read_turns


def messages(row: Row, origin: str) -> Conversation:
    """OpenAI chat: `{"messages": [{"role": ..., "content": ...}, ...], "tools": [...]}`."""
    return conversation(read_turns(row["messages"], "messages"), origin, row.get("tools"))


def sharegpt(row: Row, origin: str) -> Conversation:
    """`{"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}], "system": ...}`."""
    turns = read_turns(row["conversations"], "conversations")
    return conversation(turns, origin, row.get("tools"), optional_string(row, "system"))


def rounds(row: Row, origin: str) -> Conversation:
    """`{"conversation": [{"human": ..., "assistant": ...}, ...]}` (ms-swift), or messages under that name."""
    listed = items(row["conversation"], "conversation", "rounds")
    if not any(isinstance(one, dict) and "human" in one for one in listed):
        return conversation(
            read_turns(listed, "conversation"), origin, row.get("tools"), optional_string(row, "system")
        )
    turns: list[Message] = []
    for i, one in enumerate(listed):
        if not isinstance(one, dict) or not {"human", "assistant"} <= set(one):
            raise Fault("WRONG_TYPE", f"'conversation[{i}]' must have the keys human and assistant.")
        turns += user(string(one["human"], f"conversation[{i}].human"))
        turns += assistant(answer(one["assistant"], f"conversation[{i}].assistant"))
    return conversation(tuple(turns), origin, row.get("tools"), optional_string(row, "system"))


def asked(row: Row, prompt: str, extra: str = "") -> tuple[Message, ...]:
    """The system message, earlier [question, answer] pairs and the question; `extra` follows it behind a line break."""
    turns: list[Message] = []
    if system := optional_string(row, "system") or optional_string(row, "system_prompt"):
        turns.append(Message("system", system))
    history = row.get("history") or []
    for i, pair in enumerate(items(history, "history", "[question, answer] pairs")):
        if not (isinstance(pair, list) and len(pair) == 2):
            raise Fault("WRONG_TYPE", f"'history[{i}]' must be a [question, answer] pair.")
        turns += user(string(pair[0], f"history[{i}][0]")) + assistant(answer(pair[1], f"history[{i}][1]"))
    parts = [string(row[prompt], prompt), optional_string(row, extra) if extra else ""]
    question = "\n".join(part for part in parts if part)
    if not question.strip():
        raise Fault("EMPTY_PROMPT", f"{prompt!r} is empty; say what was asked.")
    return (*turns, Message("user", question))


def alpaca(row: Row, origin: str) -> Conversation:
    """The user says `instruction` and `input`, joined by a line break; `output` is the answer; `history` holds earlier
    [question, answer] pairs."""
    return conversation(asked(row, "instruction", "input") + assistant(answer(row["output"], "output")), origin)


def dolly(row: Row, origin: str) -> Conversation:
    """The user says `instruction` and `context`; `response` is the answer."""
    return conversation(asked(row, "instruction", "context") + assistant(answer(row["response"], "response")), origin)


def query_response(row: Row, origin: str) -> Conversation:
    """ms-swift: `query` is asked, `response` the answer."""
    return conversation(asked(row, "query") + assistant(answer(row["response"], "response")), origin)


def question_response(row: Row, origin: str) -> Conversation:
    """OpenOrca: `question` is asked, `response` the answer."""
    return conversation(asked(row, "question") + assistant(answer(row["response"], "response")), origin)


def question_answer(row: Row, origin: str) -> Conversation:
    """`question` is asked, `answer` the answer to imitate."""
    return conversation(asked(row, "question") + assistant(answer(row["answer"], "answer")), origin)


def prompt_completion(row: Row, origin: str) -> Completion | Conversation:
    """Two strings are raw text; two lists of messages are one conversation."""
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        turns = read_turns(prompt, "prompt") + read_turns(completion, "completion")
        return conversation(turns, origin, row.get("tools"))
    return Completion(string(prompt, "prompt"), answer(completion, "completion"), origin)


def ultrachat(row: Row, origin: str) -> Conversation:
    """`{"data": [...]}`: what the user and the assistant say in turn, beginning with the user."""
    said = items(row["data"], "data", "strings")
    turns = (Message(("user", "assistant")[i % 2], string(text, f"data[{i}]")) for i, text in enumerate(said))
    return conversation(tuple(turns), origin)


def self_instruct(row: Row, origin: str) -> list[Conversation]:
    """An instruction with instances `{"input": ..., "output": ...}`, each a conversation as in Alpaca."""
    instances = items(row["instances"], "instances", "instances")
    if not instances:
        raise Fault("NO_ASSISTANT", "'instances' is empty, so there is nothing to learn; add one.")
    found: list[Conversation] = []
    for i, instance in enumerate(instances):
        if not isinstance(instance, dict) or "output" not in instance:
            raise Fault("WRONG_TYPE", f"'instances[{i}]' must be an object with input and output.")
        one = {"instruction": row["instruction"], "input": instance.get("input"), "output": instance["output"]}
        found.append(alpaca(one, origin))
    return found


def text(row: Row, origin: str) -> Text:
    """Plain text to continue."""
    return Text(answer(row["text"], "text"), origin)


def _strings(row: Row) -> bool:
    return isinstance(row["data"], list) and all(isinstance(said, str) for said in row["data"])


BESIDE = ("system", "tools")

FORMATS = (
    Format("messages", "conversation", ("messages",), ("tools",), messages, turns=("messages",)),
    Format("sharegpt", "conversation", ("conversations",), BESIDE, sharegpt, turns=("conversations",)),
    Format("rounds", "conversation", ("conversation",), BESIDE, rounds, turns=("conversation",)),
    Format(
        "prompt_completion",
        "conversation",
        ("prompt", "completion"),
        ("tools",),
        prompt_completion,
        turns=("prompt", "completion"),
    ),
    Format("alpaca", "conversation", ("instruction", "output"), ("input", "system", "history"), alpaca),
    Format("dolly", "conversation", ("instruction", "response"), ("context", "system", "history"), dolly),
    Format("query_response", "conversation", ("query", "response"), ("system", "history"), query_response),
    Format("question_response", "conversation", ("question", "response"), ("system_prompt",), question_response),
    Format("question_answer", "conversation", ("question", "answer"), ("system",), question_answer),
    Format("ultrachat", "conversation", ("data",), (), ultrachat, _strings),
    Format("self_instruct", "conversation", ("instruction", "instances"), (), self_instruct),
    Format("text", "text", ("text",), (), text),
)
