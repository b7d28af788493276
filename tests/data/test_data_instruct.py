"""Templates over rows: what they render, what they refuse."""

import json
from collections import Counter

import pytest
from typer.testing import CliRunner

from nurture.cli import app
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


TASKS = """
reviews:
  data: {reviews}
  templates:
    - name: is it good
      source: "{{{{ review }}}} Good or bad? ||| {{{{ answer_choices | choice(label) }}}}"
      choices: bad ||| good
      options: true
    - {{source: "Write a {{{{ answer_choices | choice(label) }}}} review. ||| {{{{ review }}}}", choices: bad ||| good,
       turned: true}}
sums:
  data: {sums}
  templates: ["{{{{ a }}}} + {{{{ b }}}}? ||| {{{{ a + b }}}}"]
"""


@pytest.fixture
def tasks(tmp_path):
    reviews, sums = tmp_path / "reviews.jsonl", tmp_path / "sums.jsonl"
    rows = [{"review": f"Film {i} was fine.", "label": i % 2} for i in range(300)]
    reviews.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sums.write_text("".join(json.dumps({"a": i, "b": 1}) + "\n" for i in range(50)))
    path = tmp_path / "tasks.yaml"
    path.write_text(TASKS.format(reviews=reviews, sums=sums))
    return path


def instruct(*words):
    return CliRunner().invoke(app, ["data", "instruct", *map(str, words)])


def test_a_file_of_tasks_becomes_a_mixture(tasks, tmp_path):
    out = tmp_path / "out.jsonl"
    done = instruct(tasks, out, "--cap", 100)
    assert done.exit_code == 0, done.output
    turns = [[m["content"] for m in json.loads(line)["messages"]] for line in out.read_text().splitlines()]
    of_sums = [(asked, said) for asked, said in turns if "+" in asked]
    # In proportion to min(rows, cap): 100 of the reviews, all 50 sums, none of them twice.
    assert len(turns) == 150 and sorted(of_sums) == sorted((f"{i} + 1?", f"{i + 1}") for i in range(50))
    assert "reviews: 66.7% of an epoch, 100 of its 300 rows" in done.output
    asked = [asked for asked, _ in turns if "+" not in asked]
    assert len(set(map(str, turns))) == 150 and any(a.startswith("Write a ") for a in asked)
    assert any(a.endswith("Good or bad?\nOptions:\n- bad\n- good") for a in asked)
    before = out.read_bytes()
    assert instruct(tasks, out, "--cap", 100).exit_code == 0 and out.read_bytes() == before
    assert instruct(tasks, out, "--cap", 100, "--seed", 1).exit_code == 0 and out.read_bytes() != before
    assert instruct(tasks, out, "--per-row", 1, "--temperature", 1e9, "--size", 200).exit_code == 0
    assert sum("?" in line and "+" in line for line in out.read_text().splitlines()) == 100


@pytest.mark.parametrize(
    "written, told",
    [
        ("reviews: 3", "must be a mapping"),
        ("r: {data: x.jsonl, template: []}", "Did you mean 'templates'"),
        ("r: {data: x.jsonl, templates: []}", "at least one template"),
        ("r: {data: x.jsonl, templates: [{source: a ||| b, turnd: true}]}", "Did you mean 'turned'"),
        ("r: {data: x.jsonl, templates: [{source: a ||| b, turned: 1}]}", "turned must be true or false"),
        ("r: {data: x.jsonl, templates: [3]}", "must be a text"),
        ("r: {templates: [a ||| b]}", "data must name a file"),
        ("r: {data: x.jsonl, templates: [a ||| b]}", "MISSING_FILE"),
    ],
)
def test_a_file_of_tasks_that_is_none(written, told, tmp_path):
    path = tmp_path / "tasks.yaml"
    path.write_text(written)
    with pytest.raises(InputError, match=told):
        CliRunner().invoke(app, ["data", "instruct", str(path), str(tmp_path / "o.jsonl")], catch_exceptions=False)


def test_a_build_that_cannot_be():
    with pytest.raises(InputError, match="at least one template"):
        build([], [])
    with pytest.raises(InputError, match="from 1 to 1"):
        build([], [PLAIN], per_row=2)
