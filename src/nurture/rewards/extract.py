r"""Where in a response its answer stands: in all of it, in `<answer>…</answer>`, or in the last `\boxed{…}`."""

from __future__ import annotations

import re
from typing import Literal

Where = Literal["text", "answer", "boxed"]

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_FENCE = re.compile(r"^```[^\n`]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def answer_in(text: str, where: Where) -> str | None:
    """The answer, or nothing where the response has none in that place. Two different `<answer>` are none: nobody can
    say which is meant."""
    if where == "text":
        return text.strip()
    if where == "boxed":
        return last_boxed(text)
    found = {inner.strip() for inner in _ANSWER.findall(text)}
    return found.pop() if len(found) == 1 else None


def gold_in(gold: str, where: Where) -> str:
    """A gold answer may be written in the asked form or stand alone."""
    return answer_in(gold, where) or gold.strip()


def last_boxed(text: str) -> str | None:
    r"""What is in the last `\boxed{…}`, braces counted."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    depth, inside = 0, start + len(r"\boxed")
    for place in range(inside, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[inside + 1 : place].strip()
    return None


def last_code(text: str) -> str:
    """The last fenced block after the thinking; where there is none, all of what follows the thinking."""
    said = text.rpartition("</think>")[2]
    blocks = _FENCE.findall(said)
    return blocks[-1] if blocks else said
