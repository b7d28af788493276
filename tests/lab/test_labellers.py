import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nurture.errors import InputError
from nurture.lab.answers import draw_answers
from nurture.lab.datasets import open_dataset
from nurture.lab.draw import Draw
from nurture.lab.grading import words_of
from nurture.lab.labellers import CRITERIA, LABELLERS, labeller
from nurture.lab.oracle import grade
from nurture.records import Task

TASKS = [task for task in open_dataset("lab/prompts", 3, 1400) if isinstance(task, Task)]
PAIRS = [(task, *draw_answers(task, Draw("pair", i), 2)) for i, task in enumerate(TASKS)]
everyone = pytest.mark.parametrize("name", LABELLERS)


def _truth(task: Task, first: str, second: str) -> float:
    return grade(task, second).overall - grade(task, first).overall


@everyone
def test_agreement_with_their_own_opinion_is_the_stated_accuracy(name: str):
    judge = LABELLERS[name]
    told = [(t, a, b) for t, a, b in PAIRS if judge.opinion(t, a) != judge.opinion(t, b)]
    right = sum((judge.compare(t, a, b) > 0) == (judge.opinion(t, b) > judge.opinion(t, a)) for t, a, b in told)
    error = math.sqrt(judge.accuracy * (1 - judge.accuracy) / len(told))
    assert abs(right / len(told) - judge.accuracy) < 4 * error


def test_the_careful_agree_with_the_oracle_and_the_random_clicker_does_not():
    differ = [(t, a, b) for t, a, b in PAIRS if _truth(t, a, b)]
    agreement = {
        name: sum((judge.compare(t, a, b) > 0) == (_truth(t, a, b) > 0) for t, a, b in differ) / len(differ)
        for name, judge in LABELLERS.items()
    }
    assert agreement["careful"] > 0.95 and abs(agreement["random_clicker"] - 0.5) < 0.06
    assert agreement["random_clicker"] < agreement["prefers_long"] < agreement["careful"]
    assert agreement["random_clicker"] < agreement["prefers_polite"] < agreement["careful"]


@everyone
def test_judgements_do_not_depend_on_order_and_are_repeatable(name: str):
    judge = LABELLERS[name]
    for task, first, second in PAIRS[:300]:
        verdict = judge.compare(task, first, second, 5)
        assert verdict == -judge.compare(task, second, first, 5) == judge.compare(task, first, second, 5)
        assert judge.compare(task, first, first) == 0
    seeds = {seed: tuple(judge.compare(*pair, seed) for pair in PAIRS[:200]) for seed in (1, 2)}
    assert seeds[1] != seeds[2]


def test_biases_show_where_the_truth_is_level():
    """Among answers the oracle cannot tell apart, each bias wins nearly always; the careful see a tie."""
    for name in ("prefers_long", "prefers_polite"):
        judge = LABELLERS[name]
        level = [(t, a, b) for t, a, b in PAIRS if not _truth(t, a, b) and judge.bias(a) != judge.bias(b)]
        followed = sum((judge.compare(t, a, b) > 0) == (judge.bias(b) > judge.bias(a)) for t, a, b in level)
        assert len(level) > 30 and followed / len(level) > 0.85
    long, short = "word " * 40, "word"
    assert LABELLERS["prefers_long"].bias(long) > LABELLERS["prefers_long"].bias(short)
    assert len(words_of(long)) == 40


def test_the_strict_give_all_or_nothing():
    judge = LABELLERS["strict"]
    for task, answer, _ in PAIRS[:300]:
        assert judge.opinion(task, answer) == float(grade(task, answer).overall == 1.0)


@everyone
def test_ratings_are_quarters_of_every_criterion_and_centre_on_the_truth(name: str):
    judge = LABELLERS[name]
    ratings = [(judge.rate(task, answer), grade(task, answer)) for task, answer, _ in PAIRS]
    assert all(
        set(scores) == set(CRITERIA) and set(scores.values()) <= {0, 0.25, 0.5, 0.75, 1} for scores, _ in ratings
    )
    near = sum(abs(scores["honest"] - truth.honest) <= 0.25 for scores, truth in ratings) / len(ratings)
    assert near > 0.85 if judge.attention > 0.5 and not judge.harsh else near < 1.0


@given(st.sampled_from(sorted(LABELLERS)), st.sampled_from(PAIRS), st.integers(2, 6))
def test_rankings_put_the_better_opinion_first(name: str, pair, n: int):
    judge, (task, *_) = LABELLERS[name], pair
    answers = draw_answers(task, Draw("rank", n), n)
    ranks = judge.rank(task, answers)
    assert len(ranks) == n and min(ranks) == 1
    assert all(rank == 1 + sum(other < rank for other in ranks) for rank in ranks)
    if name == "careful" and ranks == judge.rank(task, answers, 1) == judge.rank(task, answers, 2):
        opinions = [judge.opinion(task, answer) for answer in answers]
        assert ranks == tuple(1 + sum(o > mine for o in opinions) for mine in opinions)


def test_an_unknown_labeller_is_named_with_its_likely_meaning():
    with pytest.raises(InputError, match="Did you mean 'careful'"):
        labeller("carefull")
