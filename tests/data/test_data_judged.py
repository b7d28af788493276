"""Judged answers as groups: one prompt, every answer once, marks at the right tokens, and bad rows by name."""

import re

import numpy as np
import pytest

from nurture.data.judged import Judging, add_unrelated, fault_of
from nurture.data.prepare import prepare, split_eval
from nurture.data.template import Template, ensure_chat
from nurture.errors import InputError
from nurture.models.load import train_tokenizer
from nurture.records import Conversation, Message, Pair, Ranking, Rating, Steps


@pytest.fixture(scope="module")
def template():
    words = ["What is 2 + 2?", "It is 4.", "I do not know.", "Step one: add.", "Who are you? A small model."] * 30
    tokenizer = train_tokenizer(words, 400)
    ensure_chat(tokenizer)
    return Template(tokenizer)


def user(text):
    return (Message("user", text),)


def answer(text):
    return (Message("assistant", text),)


def pair(i=0, better="It is 4.", worse="I do not know.", **more):
    return Pair(user(f"What is {i} + 2?"), answer(better), answer(worse), **{"origin": f"rows.jsonl:{i}", **more})


def groups_of(records, template, **settings):
    return prepare(records, template, max_length=200, **settings).groups


def test_a_pair_is_one_prompt_and_two_answers_as_the_template_writes_them(template):
    (group,) = groups_of([pair(margin=0.5)], template)
    for response, text in zip(group.responses, ["It is 4.", "I do not know."], strict=True):
        alone = template.encode(Conversation((*user("What is 0 + 2?"), *answer(text))))
        whole = np.concatenate([group.prompt, response.ids])
        assert whole.tolist() == [*alone.prompt.tolist(), *alone.responses[0].ids.tolist()]
        assert response.mask.tolist() == alone.responses[0].mask.tolist()
    assert [(r.rank, r.label) for r in group.responses] == [(1, 1.0), (2, 0.0)] and group.margin == 0.5


def test_only_the_answer_is_its_own_however_often_the_assistant_spoke_before(template):
    before = (*user("Who are you?"), *answer("A small model."), *user("What is 2 + 2?"))
    (group,) = groups_of([Pair(before, answer("It is 4."), answer("Step one: add."))], template)
    own = [template.tokenizer.decode(r.ids[r.mask].tolist()) for r in group.responses]
    assert own == ["It is 4.<|im_end|>", "Step one: add.<|im_end|>"]


def test_the_score_is_read_at_the_stop_token(template):
    from nurture.types import Batch

    batch = Batch(tuple(groups_of([pair(), pair(1)], template)))
    ids = [int(r.ids[end[0]]) for r, end in zip(batch.responses, batch.ends, strict=True)]
    assert set(ids) == {template.tokenizer.convert_tokens_to_ids("<|im_end|>")}


def test_a_ranking_keeps_its_ties(template):
    texts = ("It is 4.", "I do not know.", "Step one: add.")
    (group,) = groups_of([Ranking(user("What is 2 + 2?"), tuple(map(answer, texts)), (2, 1, 2))], template)
    assert [r.rank for r in group.responses] == [2, 1, 2]


@pytest.mark.parametrize(
    ("ranks", "dense"), [((2, 3, 3), [1, 2, 2]), ((4, 1, 2), [3, 1, 2]), ((3, 1, 1), [2, 1, 1]), ((5, 5, 5), [1, 1, 1])]
)
@pytest.mark.parametrize("rates", [False, True])
def test_ranks_begin_at_1_and_have_no_gaps(ranks, dense, rates, template):
    texts = tuple(map(answer, ("It is 4.", "I do not know.", "Step one: add.")))
    row = Ranking(user("What is 2 + 2?"), texts, ranks, scores=tuple(-float(r) for r in ranks))
    (group,) = groups_of([row], template, judging=Judging(rates_rankings=rates))
    assert [r.rank for r in group.responses] == dense


def test_ratings_of_one_prompt_come_together_in_the_order_of_the_criteria(template):
    said = [{"harmless": 1.0, "helpful": 0.25}, {"helpful": 0.5, "harmless": 0.0}]
    rows = [
        Rating(user("What is 2 + 2?"), answer(t), s) for t, s in zip(("It is 4.", "I do not know."), said, strict=True)
    ]
    rows.append(Rating(user("Who are you?"), answer("A small model."), said[0]))
    groups = groups_of(rows, template, judging=Judging(("helpful", "harmless"), (0.0, 1.0)))
    assert [[r.scores for r in g.responses] for g in groups] == [[(0.25, 1.0), (0.5, 0.0)], [(0.25, 1.0)]]


def test_every_step_ends_at_its_last_token(template):
    steps = ("Step one: add.", "It is 4.", "Step one: add.")
    (group,) = groups_of([Steps(user("What is 2 + 2?"), steps, (1.0, 0.5, 0.0))], template)
    (response,) = group.responses
    for end, count in zip(response.step_ends, (1, 2, 3), strict=True):
        assert template.tokenizer.decode(response.ids[: end + 1].tolist()) == "\n".join(steps[:count])
    assert response.step_labels == (1.0, 0.5, 0.0)


def test_a_row_may_rate_only_some_criteria_where_that_is_said(template):
    rows = [
        Rating(user("What is 2 + 2?"), answer("It is 4."), {"helpful": 1.0, "harmless": 0.5}),
        Rating(user("Who are you?"), answer("A small model."), {"harmless": 1.0}),
    ]
    with pytest.raises(InputError, match=r"CRITERIA has no rating for 'helpful'; it has harmless.*missing: skip"):
        groups_of(rows, template, judging=Judging(("helpful", "harmless")))
    whole, part = groups_of(rows, template, judging=Judging(("helpful", "harmless"), partly=True))
    assert whole.responses[0].scores == (1.0, 0.5)
    assert np.isnan(part.responses[0].scores[0]) and part.responses[0].scores[1] == 1.0
    fault = fault_of(rows[1], Judging(("honest", "helpful"), partly=True))
    assert fault is not None and fault.code == "CRITERIA"


def test_a_thumb_is_a_rating_of_the_whole(template):
    (group,) = groups_of([Rating(user("Who are you?"), answer("A small model."), {"desirable": 1.0})], template)
    assert group.responses[0].scores == (1.0,) and group.responses[0].label == 1.0


def test_a_rating_from_somewhere_on_is_a_wanted_answer(template):
    row = Rating(user("Who are you?"), answer("A small model."), {"overall": 0.7})
    for wanted_from, label in ((0.5, 1.0), (0.7, 1.0), (0.8, 0.0)):
        (group,) = groups_of([row], template, judging=Judging(wanted_from=wanted_from))
        assert group.responses[0].label == label


def test_scores_of_a_ranking_are_ratings_where_ratings_are_wanted(template):
    texts = tuple(map(answer, ("It is 4.", "I do not know.")))
    row = Ranking(user("What is 2 + 2?"), texts, (1, 2), scores=(0.9, 0.2))
    assert [r.scores for r in groups_of([row], template)[0].responses] == [(), ()]
    rated = groups_of([row], template, judging=Judging(rates_rankings=True))[0].responses
    assert [r.scores for r in rated] == [(0.9,), (0.2,)] and [r.rank for r in rated] == [1, 2]


def test_all_that_was_said_of_one_prompt_is_on_one_side(template):
    rows = [pair(i, origin=f"rows.jsonl:{3 * i + k}", labeller=str(k)) for i in range(20) for k in range(3)]
    groups = groups_of(rows, template)
    assert [g.labeller for g in groups[:3]] == ["0", "1", "2"]
    train, held_out = split_eval(groups, 0.2, seed=1)
    assert len(train) == 48 and len(held_out) == 12
    assert not {g.prompt.tobytes() for g in train} & {g.prompt.tobytes() for g in held_out}


BAD = [
    (pair(better="It is 4.", worse="It is 4. "), "EQUAL", "are the same"),
    (pair(margin=float("nan")), "MARGIN", "must be a number"),
    (Ranking(user("x"), (answer("a"),), (1,), origin="f:1"), "ALONE", "a ranking of 1 says nothing"),
    (Ranking(user("x"), (answer("a"), answer("b")), (1,), origin="f:1"), "RANKS", "2 answers have 1 ranks"),
    (Ranking(user("x"), (answer("a"), answer("a")), (1, 2), origin="f:1"), "EQUAL", "twice with different ranks"),
    (Rating(user("x"), answer("a"), {"overall": 1.5}, origin="f:1"), "SCALE", r"rated 1.5, outside \[0, 1\]"),
    (
        Rating(user("x"), answer("a"), {"helpful": 1.0}, origin="f:1"),
        "CRITERIA",
        "no rating for 'overall'; it has helpful",
    ),
    (Steps(user("x"), ("a", "b"), (1.0,), origin="f:1"), "LABELS", "2 steps have 1 labels"),
    (Steps(user("x"), (), (), origin="f:1"), "LABELS", "0 steps have 0 labels"),
    (Steps(user("x"), ("a",), (2.0,), origin="f:1"), "LABELS", "labelled 2"),
]


@pytest.mark.parametrize(("record", "code", "told"), BAD, ids=lambda x: x if isinstance(x, str) else "")
def test_a_judgement_that_says_nothing_is_refused(record, code, told, template):
    fault = fault_of(record, Judging(scale=(0.0, 1.0)))
    assert fault is not None and fault.code == code and re.search(told, fault.message)
    assert str(fault).startswith(record.origin)
    with pytest.raises(InputError, match=f"{code} .*\ndata: 1 of 1 rows are bad"):
        prepare([record], template, max_length=200, judging=Judging(scale=(0.0, 1.0)))


def test_judged_answers_are_not_cut(template):
    with pytest.raises(InputError, match="would change answers that were judged"):
        prepare([pair()], template, max_length=10, on_long="cut")
    assert prepare([pair(), pair(1, better="It is 4. " * 90)], template, max_length=100).dropped_long == 1


def test_unrelated_answers_are_those_of_other_prompts_and_the_same_every_time(template):
    groups = groups_of([pair(i, worse=f"I do not know {i}.") for i in range(6)], template)
    more = add_unrelated(groups, 200, seed=1)
    answers = {r.ids.tobytes(): g.key for g in groups for r in g.responses if r.ids.tobytes() != b"" and r.rank == 2}
    for before, after in zip(groups, more, strict=True):
        *judged, other = after.responses
        assert tuple(judged) == before.responses and other.label is None and other.rank is None
        assert answers.get(other.ids.tobytes()) != before.key
    again = add_unrelated(groups, 200, seed=1)
    assert all(np.array_equal(a.responses[-1].ids, b.responses[-1].ids) for a, b in zip(more, again, strict=True))
    with pytest.raises(InputError, match="no answer to another prompt"):
        add_unrelated(groups[:1], 200, seed=1)


def test_a_comparison_is_about_one_criterion():
    told = Pair((Message("user", "?"),), (Message("assistant", "a"),), (Message("assistant", "b"),), origin="f:3")
    assert fault_of(told, Judging()) is None
    fault = fault_of(told, Judging(criteria=("helpful", "harmless")))
    assert fault is not None and fault.code == "CRITERIA" and "which of the criteria" in str(fault)


def test_a_method_that_goes_by_one_rating_says_how_to_name_it():
    rated = Rating(user("x"), answer("a"), {"helpful": 1.0}, origin="f:3")
    fault = fault_of(rated, Judging(chosen=False))
    assert fault is not None and "goes by 'overall' alone" in str(fault) and "in criteria" not in str(fault)
