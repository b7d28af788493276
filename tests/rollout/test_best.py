"""Best of n against plain sorting."""

import random

import pytest

from nurture.errors import InputError
from nurture.evaluate.best_of import BestOf
from nurture.protocols import Failed, Scored, Unscorable
from nurture.records import Conversation, Message, Task
from nurture.rollout.best import Candidates, best_of, kept, pair, ranking

TASKS = [Task((Message("user", f"question {i}"),), origin=f"tasks:{i}") for i in range(20)]


def played(n=6, seed=0):
    """Texts that are numbers, with repetitions; each is worth its number, 0 cannot be scored and 1 fails."""
    draw = random.Random(seed)
    drawn = [[str(draw.randrange(8)) for _ in range(n)] for _ in TASKS]
    asked = []

    def judge(answers):
        asked.extend((a.task.origin, a.text) for a in answers)
        kinds = {"0": Unscorable("no"), "1": Failed("no")}
        return [kinds.get(a.text, Scored(float(a.text))) for a in answers]

    found = best_of(TASKS, lambda tasks, n: drawn, judge, n)
    assert len(asked) == len(set(asked)), "the same answer is scored once"
    return drawn, found


def test_candidates_are_the_different_scored_answers_best_first():
    drawn, found = played()
    for texts, one in zip(drawn, found, strict=True):
        expected = sorted({int(t) for t in texts} - {0, 1}, reverse=True)
        assert [int(t) for t in one.texts] == expected and list(one.scores) == expected and one.drawn == 6


def test_spaces_around_an_answer_make_no_other_answer():
    """A judge may see them; the sides of a pair that differ in nothing else are refused by the data reader."""
    found = Candidates.of(TASKS[0], [(" yes", 0.5), ("yes", 1.0), ("yes ", 0.0)], 3)
    assert found.texts == ("yes",) and found.scores == (1.0,) and pair(found) == ranking(found) == []
    found = Candidates.of(TASKS[0], [(" yes", 0.5), ("no", 0.1), ("yes", 0.2)], 3)
    assert found.texts == (" yes", "no") and found.scores == (0.5, 0.1)


def test_what_is_kept():
    drawn, found = played()
    for texts, one in zip(drawn, found, strict=True):
        values = sorted({int(t) for t in texts} - {0, 1}, reverse=True)
        said = [int(r.messages[-1].content) for r in kept(one, "all", 4, 2)]
        assert said == [v for v in values if v > 4][:2]
        assert [int(r.messages[-1].content) for r in kept(one, "best")] == values[:1]
        assert all(isinstance(r, Conversation) and r.origin == one.task.origin for r in kept(one, "all", 4))
        pairs = kept(one, "pairs")
        assert len(pairs) == (len(values) > 1)
        for row in pairs:
            assert int(row.chosen[0].content) == values[0] and int(row.rejected[0].content) == values[-1]
            assert row.margin == values[0] - values[-1] and row.prompt == one.task.prompt
        for row in kept(one, "rankings"):
            assert row.ranks == tuple(range(1, len(values) + 1)) and row.scores == tuple(map(float, values))


def test_equal_scores():
    found = best_of(TASKS[:1], lambda tasks, n: [["a", "b", "c"]], lambda answers: [Scored(1.0)] * 3, 3)[0]
    assert found.texts == ("a", "b", "c") and not pair(found) and not ranking(found)
    assert kept(found, "best")[0].messages[-1].content == "a", "of equals the one drawn first"
    mixed = best_of(TASKS[:1], lambda tasks, n: [["a", "b", "c"]], lambda x: [Scored(0), Scored(1), Scored(0)], 3)[0]
    assert ranking(mixed)[0].ranks == (1, 2, 2)


def test_plans_that_make_no_sense():
    for fields, told in [
        ({"keep": "bets"}, "Did you mean 'best'?"),
        ({"keep": "pairs", "most": 1}, "set keep to all, or leave it out"),
        ({"keep": "all", "most": 0}, "most: must be at least 1, not 0."),
        ({"n": 0}, "n: must be at least 1, not 0."),
        ({"temperature": 0.0}, "temperature: must be more than 0"),
    ]:
        with pytest.raises(InputError, match=told.replace("?", r"\?")):
            BestOf(**fields)
    with pytest.raises(InputError, match="at least one answer"):
        best_of(TASKS, lambda tasks, n: [], lambda answers: [], 0)
