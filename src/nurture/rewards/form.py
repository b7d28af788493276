"""Rules about how a response is written: its tags, its language, its length, its repetitions. None knows the answer."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .reward import Answer, Outcome, Reward, Rule, Scored, Unscorable


class Format(Rule):
    """1 where the response is `<think>…</think><answer>…</answer>` and nothing else, else 0. DeepSeek-AI 2025,
    arXiv:2501.12948, section 2.2.

    Each tag once and in order, something inside each part, only blanks between and around. A tag of the form inside a
    part, in whatever capitals or with blanks in it, fails.
    """

    name: Literal["format"] = "format"  # pyright: ignore[reportIncompatibleVariableOverride]
    tags: Annotated[tuple[Annotated[str, Field(pattern=r"^\w+$")], ...], Field(min_length=1)] = ("think", "answer")
    """The parts, in order."""

    def one(self, answer: Answer) -> Outcome:
        parts = _parts_pattern(self.tags).fullmatch(answer.text)
        if parts is None:
            return self.verdict(False, f"not in the form {''.join(f'<{t}>…</{t}>' for t in self.tags)}")
        for tag, part in zip(self.tags, parts.groups(), strict=True):
            if not part.strip():
                return self.verdict(False, f"nothing inside <{tag}>")
            if _any_tag(self.tags).search(part):
                return self.verdict(False, f"a tag inside <{tag}>")
        return self.verdict(True, "in the form")


@lru_cache
def _parts_pattern(tags: tuple[str, ...]) -> re.Pattern[str]:
    # Each part ends at the first closing tag, so that matching takes linear time.
    return re.compile(r"\s*" + r"\s*".join(rf"<{t}>((?:(?!</{t}>).)*+)</{t}>" for t in tags) + r"\s*", re.DOTALL)


@lru_cache
def _any_tag(tags: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"<\s*/?\s*(?:{'|'.join(tags)})\s*/?\s*>", re.IGNORECASE)


SCRIPTS: dict[str, tuple[str, ...]] = {
    "ar": ("ARABIC",),
    "de": ("LATIN",),
    "el": ("GREEK",),
    "en": ("LATIN",),
    "es": ("LATIN",),
    "fr": ("LATIN",),
    "he": ("HEBREW",),
    "hi": ("DEVANAGARI",),
    "ja": ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "CJK"),
    "ko": ("HANGUL",),
    "ru": ("CYRILLIC",),
    "th": ("THAI",),
    "zh": ("CJK",),
}
"""How the letters of a language are called in Unicode."""


@lru_cache(maxsize=1 << 16)
def _script(letter: str) -> str:
    return unicodedata.name(letter, "?").split(" ")[0]


class Language(Reward):
    """The share of words written in the target language's script. DeepSeek-AI 2025, arXiv:2501.12948, section 2.3.2.

    A mixture of English and Chinese is seen; languages that share a script (English and German) are not told apart.
    Each Chinese or Japanese letter counts as a word. Numbers are in no language; a response without words is worth 0.
    """

    name: Literal["language"] = "language"  # pyright: ignore[reportIncompatibleVariableOverride]
    language: Literal["ar", "de", "el", "en", "es", "fr", "he", "hi", "ja", "ko", "ru", "th", "zh"] = "en"
    """The language that should be used."""

    def one(self, answer: Answer) -> Outcome:
        wanted = SCRIPTS[self.language]
        words = _words(answer.text)
        if not words:
            return Scored(0.0, "no words")
        right = sum(all(_script(letter) in wanted for letter in word) for word in words)
        return Scored(right / len(words), f"{right} of {len(words)} words in {self.language}")


_WORD = re.compile(r"[^\W\d_]+")
_SINGLE = {"CJK", "HIRAGANA", "KATAKANA"}


def _words(text: str) -> list[str]:
    """Runs of letters; where a script has no blanks between words, its letters, and the runs between them."""
    words: list[str] = []
    for run in _WORD.findall(text):
        if run.isascii():
            words.append(run)
            continue
        current = ""
        for letter in run:
            if _script(letter) in _SINGLE:
                words += [current, letter] if current else [letter]
                current = ""
            else:
                current += letter
        words += [current] if current else []
    return words


Unit = Literal["tokens", "words", "characters"]


def length_of(answer: Answer, unit: Unit) -> int | None:
    if unit == "tokens":
        return answer.tokens
    return len(answer.text.split()) if unit == "words" else len(answer.text)


def _no_length() -> Outcome:
    return Unscorable("the number of its tokens is not known", "NO_LENGTH")


class Length(Rule):
    """1 where the response is neither shorter nor longer than asked, else 0."""

    name: Literal["length"] = "length"  # pyright: ignore[reportIncompatibleVariableOverride]
    at_least: Annotated[int, Field(ge=0)] = 1
    """The shortest length that is right."""
    at_most: Annotated[int, Field(ge=1)]
    """The longest length that is right."""
    unit: Unit = "tokens"
    """What is counted."""

    @model_validator(mode="after")
    def _in_order(self) -> Length:
        if self.at_least > self.at_most:
            raise ValueError(f"at_least ({self.at_least}) is above at_most ({self.at_most}); no length is right")
        return self

    def one(self, answer: Answer) -> Outcome:
        length = length_of(answer, self.unit)
        if length is None:
            return _no_length()
        return self.verdict(self.at_least <= length <= self.at_most, f"{length} {self.unit}")


class Overlong(Reward):
    """Soft overlong punishment. Yu et al. 2025 (DAPO), arXiv:2503.14476, eq. 13.

    0                                        up to  max_length - cache
    (max_length - cache - length) / cache    up to  max_length
    -1                                       beyond
    """

    name: Literal["overlong"] = "overlong"  # pyright: ignore[reportIncompatibleVariableOverride]
    max_length: Annotated[int, Field(ge=1)]
    """The length from which the punishment is full."""
    cache: Annotated[int, Field(ge=1)]
    """How many tokens before that it begins."""
    unit: Unit = "tokens"
    """What is counted."""

    @model_validator(mode="after")
    def _inside(self) -> Overlong:
        if self.cache > self.max_length:
            raise ValueError(f"cache ({self.cache}) is above max_length ({self.max_length})")
        return self

    def one(self, answer: Answer) -> Outcome:
        length = length_of(answer, self.unit)
        if length is None:
            return _no_length()
        free = self.max_length - self.cache
        value = 0.0 if length <= free else (free - length) / self.cache if length <= self.max_length else -1.0
        return Scored(value, f"{length} {self.unit}")


class Repetition(Reward):
    """A punishment for saying things again: `most * (1 - distinct n-grams / n-grams)`. Yeo et al. 2025,
    arXiv:2502.03373, appendix. Words are split at blanks, capitals do not count; a response of fewer than n words is
    worth 0."""

    name: Literal["repetition"] = "repetition"  # pyright: ignore[reportIncompatibleVariableOverride]
    n: Annotated[int, Field(ge=1)] = 3
    """Words in an n-gram."""
    most: Annotated[float, Field(le=0, allow_inf_nan=False)] = -1.0
    """The punishment if all were one n-gram."""

    def one(self, answer: Answer) -> Outcome:
        words = answer.text.lower().split()
        grams = [tuple(words[i : i + self.n]) for i in range(len(words) - self.n + 1)]
        if not grams:
            return Scored(0.0, f"fewer than {self.n} words")
        distinct = len(set(grams))
        return Scored(self.most * (1 - distinct / len(grams)), f"{distinct} of {len(grams)} {self.n}-grams distinct")
