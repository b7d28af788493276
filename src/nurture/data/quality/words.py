"""Text to words, in every script.

The usual tokenizer of ROUGE keeps the letters a–z and the digits, so that a Chinese sentence becomes nothing at all.
Here a word is a run of letters and digits of any script. Scripts that put no spaces between words (Chinese characters,
kana, Thai, Lao, Burmese, Khmer) count one word per character; Korean has spaces, and its words stay whole. Of ASCII
text the words are exactly those of the `rouge-score` library without its stemmer.
"""

from __future__ import annotations

import re
import unicodedata

HAN = "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
HANGUL = "\u1100-\u11ff\u3130-\u318f\uac00-\ud7ff"
UNSPACED = f"{HAN}{KANA}\u0e01-\u0e4e\u0e80-\u0ece\u1000-\u103f\u1780-\u17d3"
MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u08d3-\u08ff\u0900-\u0963\u0981-\u0d63"
"""Signs written on or between letters (accents, points, Indic vowels), which are part of the word around them."""

_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+(?:[{MARKS}]+[^\W_{UNSPACED}]*)*")
_ASCII_WORD = re.compile("[a-z0-9]+")


def words(text: str) -> list[str]:
    """The words of a text, without regard to case and to the width of letters (NFKC)."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def normal_form(text: str) -> str:
    """Equal for texts that differ in case, width of letters, white space and punctuation only. A text without words
    stands for itself."""
    return " ".join(words(text)) or " ".join(text.split())
