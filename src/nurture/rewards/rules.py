"""Rules that compare an answer with the task's own: exactly, by a pattern, by a number, by a choice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation, localcontext
from typing import Annotated, Literal

import regex
from pydantic import AfterValidator, Field

from .extract import Where, answer_in, gold_in
from .reward import Answer, Failed, Outcome, Rule, no_gold

PATTERN_SECONDS = 0.2
"""The longest one pattern may search one answer, in seconds of processor time."""


class Exact(Rule):
    """1 where the answer is the task's answer (or one of its answers), else 0. Blanks at the ends and runs of blanks do
    not count."""

    name: Literal["exact"] = "exact"  # pyright: ignore[reportIncompatibleVariableOverride]
    where: Where = "text"
    """Where the answer stands: all of the `text`, inside `<answer>` tags, or in the last `\\boxed{}`."""
    case_sensitive: bool = True
    """Whether capitals matter."""

    def one(self, answer: Answer) -> Outcome:
        golds = _golds(answer)
        if not golds:
            return no_gold(answer, "answer to compare with")
        found = answer_in(answer.text, self.where)
        if found is None:
            return self.verdict(False, f"no answer in {self.where!r}")
        right = self._plain(found) in {self._plain(gold_in(gold, self.where)) for gold in golds}
        return self.verdict(right, "right" if right else "another answer")

    def _plain(self, text: str) -> str:
        text = " ".join(text.split())
        return text if self.case_sensitive else text.casefold()


def _golds(answer: Answer) -> list[str]:
    gold = answer.task.answer
    listed = gold if isinstance(gold, Sequence) and not isinstance(gold, str) else [gold]
    return [str(g) for g in listed if isinstance(g, (str, int, float)) and not isinstance(g, bool)]


def _pattern(text: str) -> str:
    try:
        regex.compile(text)
    except regex.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return text


class Regex(Rule):
    """1 where the pattern matches the response, else 0."""

    name: Literal["regex"] = "regex"  # pyright: ignore[reportIncompatibleVariableOverride]
    pattern: Annotated[str, Field(min_length=1), AfterValidator(_pattern)]
    """A regular expression; a dot matches newlines too."""
    whole: bool = False
    """Whether it has to match the whole response rather than some part."""

    def one(self, answer: Answer) -> Outcome:
        match = regex.fullmatch if self.whole else regex.search
        try:
            found = match(self.pattern, answer.text, flags=regex.DOTALL, timeout=PATTERN_SECONDS) is not None
        except TimeoutError:
            return Failed(f"the pattern searched one answer for more than {PATTERN_SECONDS:g} s", "TIMEOUT")
        return self.verdict(found, "matches" if found else "does not match")


_NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+-]?\d{1,3})?(?![\d])|(?<![\w.])-?\.\d+")


class Number(Rule):
    """1 where the last number of the answer is the last number of the task's answer, else 0. `1,000`, `1000` and
    `1000.0` are one number; units and currency beside it do not matter."""

    name: Literal["number"] = "number"  # pyright: ignore[reportIncompatibleVariableOverride]
    where: Where = "text"
    """Where the answer stands: all of the `text`, inside `<answer>` tags, or in the last `\\boxed{}`."""
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """How far the two may be apart."""

    def one(self, answer: Answer) -> Outcome:
        golds = [number for gold in _golds(answer) if (number := last_number(gold_in(gold, self.where))) is not None]
        if not golds:
            return no_gold(answer, "number in its answer")
        text = answer_in(answer.text, self.where)
        found = None if text is None else last_number(text)
        if found is None:
            return self.verdict(False, f"no number in {self.where!r}")
        right = any(self._equal(found, gold) for gold in golds)
        return self.verdict(right, f"{_short(found)} is {'right' if right else f'not {_short(golds[0])}'}")

    def _equal(self, a: Decimal, b: Decimal) -> bool:
        if a == b:
            return True
        with localcontext(prec=50):
            return abs(a - b) <= Decimal(str(self.tolerance))


def _short(number: Decimal) -> str:
    text = str(number)
    return text if len(text) <= 30 else f"{text[:27]}..."


def last_number(text: str) -> Decimal | None:
    found = _NUMBER.findall(text)
    try:
        return Decimal(found[-1].replace(",", "")) if found else None
    except InvalidOperation:  # more digits than decimal holds
        return None


class Choice(Rule):
    """1 where the answer chooses the task's letter, and only that, else 0. A choice is a letter alone (`B`, `(B)`,
    `B.`), before an option's text (`B) Paris`), or after the words `answer is` or `answer:`."""

    name: Literal["choice"] = "choice"  # pyright: ignore[reportIncompatibleVariableOverride]
    where: Where = "text"
    """Where the answer stands: all of the `text`, inside `<answer>` tags, or in the last `\\boxed{}`."""
    letters: Annotated[str, Field(pattern="^[A-Z]{2,26}$")] = "ABCD"
    """The letters to choose from."""

    def one(self, answer: Answer) -> Outcome:
        gold = gold_in(str(answer.task.answer or ""), self.where).strip("(). ").upper()
        if len(gold) != 1 or gold not in self.letters:
            return no_gold(answer, f"letter of {self.letters} as its answer")
        text = answer_in(answer.text, self.where)
        chosen = set() if text is None else self.chosen(text)
        if len(chosen) != 1:
            return self.verdict(False, f"chooses {' and '.join(sorted(chosen))}" if chosen else "chooses nothing")
        right = chosen == {gold}
        return self.verdict(right, f"chooses {chosen.pop()}" + ("" if right else f", not {gold}"))

    def chosen(self, text: str) -> set[str]:
        letter = f"[{self.letters}]"
        forms = (
            rf"\A\s*\(?({letter})\)?[.:]?\s*\Z",
            rf"^\s*(?:\(({letter})\)|({letter})[).:])\s+\S",
            rf"(?i:answer\s*(?:is|:))\s*\(?({letter})\)?(?![\w'])",
        )
        found = [match for form in forms for match in re.finditer(form, text, re.MULTILINE)]
        return {group for match in found for group in match.groups() if group}


__all__ = ["Choice", "Exact", "Number", "Regex", "last_number"]
