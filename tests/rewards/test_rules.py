import json
import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nurture.errors import InputError
from nurture.protocols import Answer, Failed, Scored, Unscorable
from nurture.records import Message, Task
from nurture.rewards import reward_from


def worth(reward, text, gold=None, **info):
    outcome = reward_from(reward).one(Answer(Task((Message("user", "?"),), gold, "", info), text))
    return outcome.value if isinstance(outcome, Scored) else type(outcome)


ANSWER = {"name": "exact", "where": "answer"}


@pytest.mark.parametrize(
    "reward, text, gold, value",
    [
        ("exact", " Paris\n", "Paris", 1), ("exact", "paris", "Paris", 0), ("exact", "Paris.", "Paris", 0),
        ({"name": "exact", "case_sensitive": False}, "PARIS", "paris", 1),
        ("exact", "b", ["a", "b"], 1), ("exact", "4", 4, 1), ("exact", "x", None, Unscorable),
        ({"name": "exact", "where": "answer"}, "<think>4</think><answer> 5 </answer>", "5", 1),
        (ANSWER, "<think>t</think><answer>5</answer>", "<think>w</think><answer>5</answer>", 1),
        ({"name": "exact", "where": "answer"}, "5", "5", 0),
        ({"name": "exact", "where": "answer"}, "<answer>5</answer><answer>6</answer>", "5", 0),
        ({"name": "exact", "where": "boxed"}, r"\boxed{1} so \boxed{\frac{1}{2}}", r"\frac{1}{2}", 1),
        ({"name": "exact", "where": "boxed"}, r"\boxed{1", "1", 0),
        ({"name": "regex", "pattern": r"\bcat\b"}, "a cat", None, 1),
        ({"name": "regex", "pattern": r"cat"}, "dog", None, 0),
        ({"name": "regex", "pattern": "cat", "whole": True}, "a cat", None, 0),
        ({"name": "regex", "pattern": "a.*b", "whole": True}, "a\nb", None, 1),
        ("number", "so 3 + 4 = 7.", "7", 1), ("number", "It is $1,000.00!", "1000", 1), ("number", "72.0", "72", 1),
        ("number", "10-3=7", 7, 1),
        ("number", "-7", "7", 0), ("number", "x7", "7", 0), ("number", "1e3", "1000", 1),
        ("number", "no", "7", 0), ("number", "7", "none", Unscorable), ("number", "7", "5 + 2 = 7\n#### 7", 1),
        ("number", "6,250", "6250", 1),
        ("number", "0.3333", "1", 0), ("number", ".5", "0.5", 1), ("number", "7 8", "7", 0),
        ({"name": "number", "tolerance": 0.01}, "3.14", "3.141", 1),
        ({"name": "number", "tolerance": 0.01}, "3.2", "3.141", 0),
        ({"name": "number", "where": "answer"}, "<answer>7</answer> 8", "7", 1),
        ("choice", "B", "B", 1),
        ("choice", "(B)", "B", 1), ("choice", "B. Paris", "B", 1), ("choice", "B) Paris", "(B)", 1),
        ("choice", "I think the answer is B, surely", "B", 1), ("choice", "Answer: C", "B", 0),
        ("choice", "A dog is what it is", "A", 0), ("choice", "The answer is A or B... the answer is B", "B", 0),
        ("choice", "A) x\nB) y\nC) z", "B", 0), ("choice", "B", "E", Unscorable), ("choice", "b", "B", 0),
        ({"name": "choice", "letters": "ABCDE"}, "E", "E", 1),
        ({"name": "choice", "where": "boxed"}, r"\boxed{B}", "B", 1),
    ],
)  # fmt: skip
def test_verdicts(reward, text, gold, value):
    assert worth(reward, text, gold) == value


def test_a_pattern_that_runs_away_is_no_wrong_answer():
    outcome = reward_from({"name": "regex", "pattern": r"(a|a)+$"}).one(Answer(Task((), None), "a" * 40 + "b"))
    assert outcome == Failed("the pattern searched one answer for more than 0.2 s", "TIMEOUT")


def test_a_bad_pattern_is_told_at_once():
    with pytest.raises(InputError, match=r"reward 'regex': pattern: is no regular expression"):
        reward_from({"name": "regex", "pattern": "(a"})


@settings(max_examples=60)
@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9),
    st.text(max_size=20),
)
def test_a_number_is_its_value_however_it_is_written(number, before):
    written = f"{before} it is {number:,}"
    assert worth("number", written, str(number)) == 1
    assert worth("number", written, str(number + 1)) == 0


@settings(max_examples=60)
@given(st.text(max_size=60), st.one_of(st.text(max_size=10), st.integers(), st.none()))
def test_rules_are_total(text, gold):
    for reward in ("exact", "number", "choice", "format", "language", "repetition", {"name": "regex", "pattern": "a+"}):
        assert worth(reward, text, gold) in (Unscorable,) or -1 <= worth(reward, text, gold) <= 1


GSM8K = Path(__file__).parents[2].parent / "shared/data/gsm8k_train.jsonl"


@pytest.mark.skipif(not GSM8K.exists(), reason="GSM8K is not there")
def test_gsm8k_gold_answers():
    """Every worked solution is right by its own final line, and wrong by a number one larger."""
    with GSM8K.open() as file:
        golds = [json.loads(line)["answer"] for line in file]
    for gold in golds:
        final = Decimal(re.search(r"#### (\S+)", gold)[1].replace(",", ""))
        assert worth("number", gold, str(final)) == 1, gold
        assert worth("number", gold, str(final + 1)) == 0, gold
