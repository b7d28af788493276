"""Rates of what is told by wording and form alone: refusals, rude words, tidy form, kinds of answers.

Word lists are English and short: they find what they name and nothing else, and say how often, not how bad.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise

from .view import Turn

REFUSALS = (
    r"i(?: am|'m)? (?:very |so |really )?sorry,? (?:but )?(?:i|as)\b",
    r"i(?: am|'m) (?:unable|not able|not allowed|not permitted|afraid)",
    r"i (?:can't|cannot|can not|won't|will not|must not|could not|couldn't) (?:help|assist|do that|answer|provide"
    r"|comply|fulfil|fulfill|support|write|create|give|share|tell|discuss|generate|say|engage)",
    r"i (?:must|have to) (?:decline|refuse)",
    r"as an? (?:ai|artificial|language model|assistant)\b",
    r"(?:it is|it's|that is|that's|it would be) (?:not |in)(?:appropriate|ethical)",
    r"against my (?:programming|guidelines|policy|principles)",
)
TOXIC = (
    r"idiots?|morons?|imbeciles?|stupid|dumb(?:ass)?|retard(?:ed|s)?|losers?|scum|vermin|bastards?|bitch(?:es)?|whores?"
    r"|sluts?|assholes?|arseholes?|dickheads?|motherfuck\w*|fuck\w*|shit(?:ty|s)?|bullshit|crap|cunts?|wankers?|pigheads?"
    r"|kill yourself|shut up|go to hell|i hate you"
    r"|hate (?:all )?(?:jews|muslims|christians|blacks|whites|women|men|gays)"
)
_REFUSAL = re.compile("|".join(REFUSALS))
_TOXIC = re.compile(rf"\b(?:{TOXIC})\b")

HEAD = 300
"""Characters of an answer within which a refusal is looked for: a later `I cannot help` is part of a story."""


def refuses(answer: str) -> bool:
    return _REFUSAL.search(answer[:HEAD].lower().replace("’", "'")) is not None


def toxic_words(text: str) -> list[str]:
    return _TOXIC.findall(text.lower())


# ---- form ----

FAULTS = {
    "does not alternate": "user and assistant do not take turns",
    "ends on the user": "the last turn is not the assistant's",
    "empty turn": "a turn without text",
    "edge white space": "a turn begins or ends with white space",
    "open code block": "a ``` that is never closed",
    "HTML tags": "tags such as <div> outside code blocks",
    "control tokens": "<|…|>, [INST] and their like inside the text",
    "broken letters": "the replacement character or UTF-8 read as Latin-1",
    "repeats a stretch": "the same 20 or more characters four times in a row",
}
"""What is amiss in the form of a dialogue."""

_HTML = re.compile(
    r"</?(?:div|span|p|br|li|ul|ol|a|td|tr|table|b|i|h[1-6]|img|script|strong|em)(?:\s+[\w-]+=[^<>]*)?\s*/?>", re.I
)
_CONTROL = re.compile(r"<\|[\w ]{1,30}\|>|\[/?INST\]|<</?SYS>>|</?s>")
_BROKEN = re.compile("\ufffd|Ã[\u0080-\u00bf]|â€")
_REPEATED = re.compile(r"(.{20,200}?)\1{3}", re.S)
_CODE = re.compile(r"```.*?(?:```|\Z)", re.S)


def faults(turns: Sequence[Turn]) -> list[str]:
    """Which of `FAULTS` a dialogue has."""
    texts = [text for _, text in turns]
    said = [role for role, _ in turns if role in ("user", "assistant")]
    code = any("```" in text for text in texts)
    plain = [_CODE.sub("", text) for text in texts] if code else texts
    found = {
        "does not alternate": said[:1] == ["assistant"] or any(a == b for a, b in pairwise(said)),
        "ends on the user": said[-1:] == ["user"] and "assistant" in said,
        "empty turn": any(not text.strip() for text in texts),
        "edge white space": any(text != text.strip() for text in texts if text.strip()),
        "open code block": code and any(text.count("```") % 2 for text in texts),
        "HTML tags": any("<" in text and _HTML.search(text) for text in plain),
        "control tokens": any(("<" in t or "[" in t) and _CONTROL.search(t) for t in texts),
        "broken letters": any(not text.isascii() and _BROKEN.search(text) for text in texts),
        "repeats a stretch": any(len(text) >= 80 and _repeats(text) for text in texts),
    }
    return [name for name in FAULTS if found[name]]


def _repeats(text: str) -> bool:
    """A repetition shows as a long text that says little, so the costly search is for those alone."""
    pieces = [text[i : i + 20] for i in range(0, len(text) - 20, 5)]
    return len(set(pieces)) < 0.8 * len(pieces) and _REPEATED.search(text) is not None


FORMS = ("number", "one word", "sentence", "paragraphs", "list", "code", "JSON", "table", "tagged", "empty")
_LIST = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.M)
_TABLE = re.compile(r"^\s*\|.*\|\s*$", re.M)
_TAGGED = re.compile(r"<(think|answer|tool_call|reasoning|scratchpad)>.*</\1>", re.S)
_NUMBER = re.compile(r"[-+]?[$€£]?\d[\d.,]*\s*%?")


def form_of(answer: str) -> str:
    """The kind of answer by its looks: one of `FORMS`."""
    text = answer.strip()
    if not text:
        return "empty"
    if _NUMBER.fullmatch(text):
        return "number"
    if "```" in text:
        return "code"
    if "<" in text and _TAGGED.search(text):
        return "tagged"
    if text[0] in "{[" and _is_json(text):
        return "JSON"
    if len(_TABLE.findall(text)) >= 2:
        return "table"
    if len(_LIST.findall(text)) >= 2:
        return "list"
    if len(text.split()) == 1:
        return "one word"
    return "paragraphs" if "\n" in text else "sentence"


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), (dict, list))
    except ValueError:
        return False
