"""Two answers to one prompt, the better one named."""

from __future__ import annotations

import re

from ...records import Message, Pair
from .demonstrations import asked
from .format import Fault, Format, Row, answer, assistant, number, optional_string, string, user
from .turns import check_answer, check_system, read_answer, read_prompt, read_turns

Turns = tuple[Message, ...]


def pair(row: Row, origin: str) -> Pair:
    """TRL with the prompt beside the answers: strings (a user's and two assistant's turns) or messages. Answers that
    begin with the prompt, as UltraFeedback's binarised ones do, are freed of it."""
    prompt = read_prompt(row["prompt"], "prompt")
    chosen, rejected = (_without(prompt, row[c], c) for c in ("chosen", "rejected"))
    return _pair(prompt, chosen, rejected, origin, row)


def pair_implicit(row: Row, origin: str) -> Pair:
    """TRL with the prompt inside both answers: what they have in common at their start. Of messages that are whole
    ones, of strings whole words; the common words are the user's turn."""
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, list) and isinstance(rejected, list):
        return _split(read_turns(chosen, "chosen"), read_turns(rejected, "rejected"), origin, row)
    better, worse = answer(chosen, "chosen"), answer(rejected, "rejected")
    shorter = min(len(better), len(worse))
    common = next((i for i in range(shorter) if better[i] != worse[i]), shorter)
    common = better.rfind(" ", 0, common) + 1
    if not better[:common].strip():
        raise Fault("NO_PROMPT", "'chosen' and 'rejected' have no beginning in common; add a 'prompt'.")
    turns = [assistant(answer(s[common:], c)) for s, c in ((better, "chosen"), (worse, "rejected"))]
    return _pair(user(better[:common].rstrip()), turns[0], turns[1], origin, row)


def hh_rlhf(row: Row, origin: str) -> Pair:
    """Anthropic's strings: turns after "\\n\\nHuman:" and "\\n\\nAssistant:", the prompt in both."""
    chosen, rejected = (hh_turns(string(row[c], c), c) for c in ("chosen", "rejected"))
    return _split(chosen, rejected, origin, row)


def response_jk(row: Row, origin: str) -> Pair:
    """Stack Exchange pairs: `response_j` was preferred to `response_k`."""
    chosen, rejected = (assistant(answer(row[c], c)) for c in ("response_j", "response_k"))
    return _pair(asked(row, "question"), chosen, rejected, origin, row)


def pair_instruction(row: Row, origin: str) -> Pair:
    """LLaMA-Factory's ranking in Alpaca's columns."""
    return _pair(asked(row, "instruction", "input"), *_answers(row), origin, row)


def pair_question(row: Row, origin: str) -> Pair:
    """`question` (and `system`) with `chosen` and `rejected`, as DPO sets derived from Orca have them."""
    return _pair(asked(row, "question"), *_answers(row), origin, row)


def pair_input(row: Row, origin: str) -> Pair:
    """`input` (and `system`) with `chosen` and `rejected`."""
    return _pair(asked(row, "input"), *_answers(row), origin, row)


def pair_conversations(row: Row, origin: str) -> Pair:
    """LLaMA-Factory's ranking in ShareGPT's: the conversation so far, and one turn each for `chosen` and `rejected`."""
    prompt = read_turns(row["conversations"], "conversations")
    if system := optional_string(row, "system"):
        prompt = (Message("system", system), *prompt)
    return _pair(prompt, *_answers(row), origin, row)


def rejected_response(row: Row, origin: str) -> Pair:
    """ms-swift: messages with the preferred answer, and what is said instead of the last one."""
    return _other_answer(row, "rejected_response", origin)


def rejected_messages(row: Row, origin: str) -> Pair:
    """ms-swift: messages with the preferred answer, and messages with the other."""
    chosen, rejected = (read_turns(row[c], c) for c in ("messages", "rejected_messages"))
    return _split(chosen, rejected, origin, row)


def openai_preference(row: Row, origin: str) -> Pair:
    """OpenAI's preference tuning: `{"input": {"messages": [...]}, "preferred_output": [...], ...}`."""
    given = row["input"]
    if not isinstance(given, dict) or "messages" not in given:
        raise Fault("WRONG_TYPE", "'input' must be an object with messages.")
    chosen, rejected = (read_answer(row[c], c) for c in ("preferred_output", "non_preferred_output"))
    return _pair(read_prompt(given["messages"], "input.messages"), chosen, rejected, origin, row)


_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def hh_turns(text: str, column: str) -> Turns:
    """The turns of a transcript in Anthropic's style."""
    marks = list(_SPEAKER.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        raise Fault("WRONG_TYPE", f"{column!r} must begin with 'Human:' or 'Assistant:' behind two line breaks.")
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return tuple(
        Message("user" if mark[1] == "Human" else "assistant", text[mark.end() : end].strip())
        for mark, end in zip(marks, ends, strict=True)
    )


def _answers(row: Row) -> tuple[Turns, Turns]:
    return read_answer(row["chosen"], "chosen"), read_answer(row["rejected"], "rejected")


def _without(prompt: Turns, value: object, column: str) -> Turns:
    """An answer without the prompt it may begin with."""
    if not isinstance(value, list):
        return read_answer(value, column)
    turns = read_turns(value, column)
    if turns[: len(prompt)] == prompt:
        turns = turns[len(prompt) :]
    elif turns and turns[0].role in ("system", "user"):
        raise Fault("PROMPTS_DIFFER", f"{column!r} begins with another prompt than 'prompt'; they must be the same.")
    check_answer(turns, column)
    return turns


def _split(chosen: Turns, rejected: Turns, origin: str, row: Row) -> Pair:
    """The messages both begin with are the prompt. It ends before the assistant's turn, so that both answer it."""
    common = 0
    while common < min(len(chosen), len(rejected)) and chosen[common] == rejected[common]:
        common += 1
    if chosen == rejected:
        raise Fault("SAME_ANSWERS", "'chosen' and 'rejected' are the same, so nothing is preferred; remove the row.")
    rest = chosen[common:], rejected[common:]
    if common == 0:
        raise Fault("NO_PROMPT", "'chosen' and 'rejected' have no message in common at their start; add a 'prompt'.")
    if any(not turns or turns[0].role != "assistant" for turns in rest):
        raise Fault("PROMPTS_DIFFER", f"the answers part at message {common}, before an answer; they need one prompt.")
    return _pair(chosen[:common], *rest, origin, row)


def _other_answer(row: Row, column: str, origin: str) -> Pair:
    turns = read_turns(row["messages"], "messages")
    if len(turns) < 2 or turns[-1].role != "assistant":
        raise Fault("NO_ASSISTANT", "'messages' must end with the preferred answer, of the assistant.")
    check_answer(turns[-1:], "messages")
    return _pair(turns[:-1], turns[-1:], read_answer(row[column], column), origin, row)


def _pair(prompt: Turns, chosen: Turns, rejected: Turns, origin: str, row: Row) -> Pair:
    check_system(prompt)
    for turns, column in ((chosen, "chosen"), (rejected, "rejected")):
        check_answer(turns, column)
    if chosen == rejected:
        raise Fault("SAME_ANSWERS", "the two answers are the same, so nothing is preferred; remove the row.")
    margin = row.get("margin")
    return Pair(prompt, chosen, rejected, None if margin is None else number(margin, "margin"), origin)


def _is_hh(row: Row) -> bool:
    return all(isinstance(row[c], str) and _SPEAKER.match(row[c].lstrip(" ")) for c in ("chosen", "rejected"))


ANSWERS = ("chosen", "rejected")
ASKED = ("system", "history", "margin")

FORMATS = (
    Format("pair", "pair", ("prompt", *ANSWERS), ("margin",), pair, turns=("prompt", *ANSWERS)),
    Format("hh_rlhf", "pair", ANSWERS, ("margin",), hh_rlhf, _is_hh),
    Format("pair_implicit", "pair", ANSWERS, ("margin",), pair_implicit, turns=ANSWERS),
    Format("pair_instruction", "pair", ("instruction", *ANSWERS), ("input", *ASKED), pair_instruction),
    Format("pair_question", "pair", ("question", *ANSWERS), ASKED, pair_question),
    Format("pair_input", "pair", ("input", *ANSWERS), ASKED, pair_input),
    Format(
        "pair_conversations",
        "pair",
        ("conversations", *ANSWERS),
        ("system", "margin"),
        pair_conversations,
        turns=("conversations", *ANSWERS),
    ),
    Format(
        "rejected_response",
        "pair",
        ("messages", "rejected_response"),
        ("margin",),
        rejected_response,
        turns=("messages",),
    ),
    Format(
        "rejected_messages",
        "pair",
        ("messages", "rejected_messages"),
        ("margin",),
        rejected_messages,
        turns=("messages", "rejected_messages"),
    ),
    Format("response_jk", "pair", ("question", "response_j", "response_k"), (), response_jk),
    Format(
        "openai_preference",
        "pair",
        ("input", "preferred_output", "non_preferred_output"),
        (),
        openai_preference,
        turns=("preferred_output", "non_preferred_output"),
        unread=lambda row: [f"input.{k}" for k in row["input"] if k != "messages"],
    ),
)
