"""Words in every script; of ASCII text those of `rouge-score`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nurture.data.quality.words import normal_form, words


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Don't stop_now, 3.5%!", ["don", "t", "stop", "now", "3", "5"]),
        ("我喜欢 Python。", ["我", "喜", "欢", "python"]),
        ("カタカナとひらがな", list("カタカナとひらがな")),
        ("나는 학교에 갑니다.", ["나는", "학교에", "갑니다"]),
        ("Straße ﬁne ＡＢＣ", ["strasse", "fine", "abc"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("Привет, мир", ["привет", "мир"]),
        ("ไทย", ["ไ", "ท", "ย"]),
        ("مرحبا بالعالم", ["مرحبا", "بالعالم"]),
        ("…!?", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


@pytest.mark.parity
@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_words_are_those_of_rouge_score(text):
    tokenize = pytest.importorskip("rouge_score.tokenize").tokenize
    assert words(text) == tokenize(text, stemmer=None)


@given(st.text())
def test_normal_form_ignores_space_and_case_of_ascii(text):
    if text.isascii():
        assert normal_form(text.upper()) == normal_form(f"  {text} ") or not words(text)
