"""Templates over rows: what they render, what they refuse."""

from collections import Counter

import pytest

from nurture.data.instruct import Template, build
from nurture.errors import DataError, InputError

CHOICES = "bad ||| good"
PLAIN = Template("{{ review }}\nGood or bad? ||| {{ answer_choices | choice(label) }}", CHOICES, name="plain")
LISTED = Template("Judge: {{ review }} ||| {{ answer_choices[label] }}", CHOICES, options=True, name="listed")
TURNED = Template("Write a {{ answer_choices[label] }} review. ||| {{ review }}", CHOICES, turned=True, name="turned")
ROW = {"review": "What a film!", "label": 1}


def test_rendering():
    assert PLAIN.render(ROW) == ("What a film!\nGood or bad?", "good")
    assert LISTED.render(ROW) == ("Judge: What a film!\nOptions:\n- bad\n- good", "good")
    assert TURNED.render(ROW) == ("Write a good review.", "What a film!")


def test_choices_may_be_columns():
    template = Template("{{ q }} ||| {{ answer_choices[answer] }}", "{{ a }} ||| {{ b }}")
    assert template.render({"q": "Which?", "a": "this", "b": "that", "answer": 0}) == ("Which?", "this")


def test_most_frequent():
    template = Template("{{ q }} ||| {{ (answers | most_frequent)[0] }}")
    assert template.render({"q": "Who?", "answers": ["A", "B", "B"]}) == ("Who?", "B")


def test_rows_and_templates_become_conversations():
    rows = [(f"f:{i}", {"review": f"film {i}", "label": i % 2}) for i in range(60)]
    built = build(rows, [PLAIN, LISTED, TURNED], per_row=2, seed=1)
    assert len(built.conversations) == sum(built.counts.values()) == 120
    assert all(count > 20 for count in built.counts.values()) and built.turned == built.counts["turned"]
    assert Counter(c.origin for c in built.conversations) == {f"f:{i}": 2 for i in range(60)}
    assert len({c.messages for c in built.conversations}) == 120
    assert build(rows, [PLAIN, LISTED, TURNED], per_row=2, seed=1) == built
    assert build(rows[:10], [PLAIN, LISTED, TURNED], per_row=2, seed=1).conversations == built.conversations[:20]


@pytest.mark.parametrize(
    "template, row, code",
    [
        (PLAIN, {"review": "A"}, "TEMPLATE_FAILED"),
        (PLAIN, {"review": "A", "label": 2}, "TEMPLATE_FAILED"),
        (TURNED, {"review": " ", "label": 1}, "EMPTY_RENDERING"),
        (Template("{{ q }} ||| {{ a }}", "yes ||| no", options=True), {"q": "?", "a": "maybe"}, "NOT_A_CHOICE"),
        (Template("{{ q.__class__.__mro__ }} ||| a"), {"q": "?"}, "TEMPLATE_FAILED"),
        (Template("{{ q.append(1) }} ||| a"), {"q": []}, "TEMPLATE_FAILED"),
    ],
)
def test_a_row_that_does_not_fit(template, row, code):
    with pytest.raises(DataError, match=f"f:7 {code}"):
        template.render(row, "f:7")


@pytest.mark.parametrize("source", ["no border", "a ||| b ||| c", "{{ q ||| a", "{% if %} ||| a"])
def test_a_template_that_is_none(source):
    with pytest.raises(InputError):
        Template(source)


def test_a_build_that_cannot_be():
    with pytest.raises(InputError, match="at least one template"):
        build([], [])
    with pytest.raises(InputError, match="from 1 to 1"):
        build([], [PLAIN], per_row=2)
