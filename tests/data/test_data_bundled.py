"""The data sets that come with the package."""

import re

import pytest

from nurture.data import bundled_grammar as grammar
from nurture.data.bundled import bundled_path
from nurture.data.load import load_records
from nurture.errors import InputError


def test_they_are_what_their_grammar_writes():
    assert bundled_path("bundled/stories").read_text(encoding="utf-8") == grammar.written(grammar.stories())
    assert bundled_path("bundled/chat").read_text(encoding="utf-8") == grammar.written(grammar.chat())


def test_they_load_whole_and_are_small():
    stories = load_records("bundled/stories", wants="text")
    chat = load_records("bundled/chat", wants="conversation")
    assert stories.report.kept >= 400 and chat.report.kept >= 250
    assert not stories.report.ignored and not chat.report.ignored
    assert sum(bundled_path(f"bundled/{name}").stat().st_size for name in ("stories", "chat")) < 300_000
    assert len({r.text for r in stories.records}) == len(stories.records)
    assert len({r.messages for r in chat.records}) == len(chat.records)


def test_every_sum_is_right():
    rows = [*(r["text"] for r in grammar.stories()), *(m["content"] for r in grammar.chat() for m in r["messages"])]
    sums = [m for row in rows for m in re.findall(r"(\w+) plus (\w+) is (\w+)\.", row)]
    assert len(sums) > 100
    value = grammar.NUMBERS.index
    assert all(value(a.lower()) + value(b) == value(c) for a, b, c in sums)


def test_chat_speaks_in_the_words_of_the_stories():
    told = set(re.findall(r"\w+", " ".join(r["text"] for r in grammar.stories()).lower()))
    answers = [m["content"] for r in grammar.chat() for m in r["messages"] if m["role"] == "assistant"]
    said = set(re.findall(r"\w+", " ".join(answers).lower()))
    assert len(said - told) <= 6, said - told


def test_an_unknown_name_lists_the_known():
    with pytest.raises(InputError, match=r"bundled/chat, bundled/stories.*Did you mean 'bundled/stories'"):
        bundled_path("bundled/story")
