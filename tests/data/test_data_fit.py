"""Rows longer than max_length made to fit: what is cut, what is whole, what is counted; and rows set aside."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nurture.data.judged import Judging
from nurture.data.load import load_records, set_aside
from nurture.data.prepare import prepare
from nurture.data.template import Template, ensure_chat
from nurture.errors import InputError
from nurture.records import Conversation, Message, Pair


@pytest.fixture(scope="module")
def template(make_tokenizer):
    tokenizer = make_tokenizer(eos_token="<|endoftext|>")
    ensure_chat(tokenizer)
    return Template(tokenizer)


def talk(*said, name="row", system=""):
    roles = ("user", "assistant") * len(said)
    turns = tuple(Message(role, text) for role, text in zip(roles, said, strict=False))
    return Conversation((Message("system", system), *turns) if system else turns, origin=name)


def trained(template, groups):
    return [template.tokenizer.decode(r.ids[r.mask].tolist()) for g in groups for r in g.responses]


SHORT = talk("Hi", "Hello.", name="short")


def test_a_prompt_loses_its_beginning_and_the_answer_nothing(template):
    long = talk("Hi " * 60, "Hello.", name="long")
    endless = talk("Hi", "Hello. " * 60, name="endless")
    prepared = prepare([SHORT, long, endless], template, max_length=32, on_long="cut_prompt")
    assert [g.key for g in prepared.groups] == ["short", "long"]
    assert (prepared.cut_prompts, prepared.truncated, prepared.dropped_long) == (1, 0, 1)
    whole, cut = template.encode(long), prepared.groups[1]
    assert cut.length == 32 and cut.prompt.tolist() == whole.prompt[-len(cut.prompt) :].tolist()
    assert cut.responses[0].ids.tolist() == whole.responses[0].ids.tolist()


def test_the_token_that_begins_every_text_is_kept(make_tokenizer):
    tokenizer = make_tokenizer("<s>", bos_token="<s>", eos_token="<|endoftext|>")
    ensure_chat(tokenizer)
    template = Template(tokenizer, "{{ '<s>' }}" + tokenizer.chat_template)
    (group,) = prepare([talk("Hi " * 60, "Hello.")], template, max_length=32, on_long="cut_prompt").groups
    assert group.length == 32 and group.prompt[0] == tokenizer.bos_token_id
    assert (
        group.prompt[1:].tolist()
        == template.encode(talk("Hi " * 60, "Hello.")).prompt[1 - len(group.prompt) :].tolist()
    )


def test_judged_answers_keep_theirs(template):
    pair = Pair((Message("user", "Hi " * 60),), (Message("assistant", "Hello."),), (Message("assistant", "No."),))
    (group,) = prepare([pair], template, max_length=32, on_long="cut_prompt").groups
    assert group.length == 32 and trained(template, [group]) == ["Hello.<|im_end|>", "No.<|im_end|>"]
    with pytest.raises(InputError, match="on_long: split would change"):
        prepare([pair], template, max_length=32, on_long="split")


SAID = st.text("ab c", min_size=1, max_size=12).map(lambda text: text + ".")


@settings(max_examples=25)
@given(st.lists(SAID, min_size=2, max_size=12).filter(lambda said: len(said) % 2 == 0), st.integers(60, 120))
def test_pieces_of_a_dialogue_train_every_answer_once(template, said, max_length):
    whole = talk(*said, system="Be kind.")
    prepared = prepare([SHORT, whole], template, max_length=max_length, on_long="split")
    pieces = [g for g in prepared.groups if g.key != "short"]
    assert prepared.dropped_long == prepared.dropped_pieces == prepared.truncated == 0
    assert all(g.length <= max_length for g in pieces)
    answers = "".join(trained(template, pieces))
    assert answers == "".join(text + "<|im_end|>" for text in said[1::2])
    assert prepared.split == (template.encode(whole).length > max_length) == (len(pieces) > 1)
    # A piece is what transformers itself makes of its turns.
    at = 0
    for piece in pieces:
        ids = [*piece.prompt.tolist(), *piece.responses[0].ids.tolist()]
        count = "".join(trained(template, [piece])).count("<|im_end|>")
        turns = whole.messages[:1] + whole.messages[1 + at : 1 + at + 2 * count]
        rows = [{"role": m.role, "content": m.content} for m in turns]
        assert ids == template.tokenizer.apply_chat_template(rows, return_dict=False)
        at += 2 * count


def test_a_round_too_long_by_itself_is_dropped_and_counted(template):
    whole = talk("a", "Hello.", "b", "Hello. " * 60, "c", "No.")
    prepared = prepare([whole, talk("d", "Hello. " * 60, name="one")], template, max_length=32, on_long="split")
    assert trained(template, prepared.groups) == ["Hello.<|im_end|>", "No.<|im_end|>"]
    assert (prepared.split, prepared.dropped_pieces, prepared.dropped_long) == (1, 1, 1)


def test_pieces_train_what_the_whole_would(template):
    whole = talk(*("Hi", "Hello. Hello. Hello.") * 4)
    last = prepare([SHORT, whole], template, max_length=40, on_long="split", train_on="last")
    assert trained(template, last.groups[1:]) == ["Hello. Hello. Hello.<|im_end|>"]
    assert last.split == 1 and last.dropped_pieces >= 1


def test_rows_that_cannot_be_tokenised_are_set_aside_as_they_were_written(template, tmp_path):
    rows = [{"prompt": f"{i}?", "response": f"{i}.", "score": i / 400} for i in range(300)]
    rows[7]["score"] = 3
    rows[9]["response"] = "SHOUT"
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_records(path, wants="rating")
    refusing = Template(template.tokenizer, "{% for m in messages %}{% if m.content == 'SHOUT' %}"
                        "{{ raise_exception('no shouting') }}{% endif %}{% endfor %}" + template.source)  # fmt: skip
    judging = Judging(scale=(0.0, 1.0))
    with pytest.raises(InputError) as caught:
        prepare(loaded.records, refusing, max_length=99, judging=judging)
    assert str(caught.value).splitlines()[-1].startswith("data: 2 of 300 rows are bad (1 SCALE, 1 TEMPLATE).")
    prepared = prepare(loaded.records, refusing, max_length=99, judging=judging, on_bad_row="quarantine")
    report = prepared.report(loaded.report)
    assert (report.rows, report.kept, report.rejected) == (300, 298, {"SCALE": 1, "TEMPLATE": 1})
    assert report.prepared == sum(len(g.responses) for g in prepared.groups) == 298
    aside = set_aside(prepared.rejected, str(path))
    assert [(r.where, r.code, json.loads(r.raw)) for r in aside] == [
        (f"{path}:8", "SCALE", rows[7]),
        (f"{path}:10", "TEMPLATE", rows[9]),
    ]
    many = [replace(r, scores={"overall": 3.0}) if i % 50 == 0 else r for i, r in enumerate(loaded.records)]
    with pytest.raises(InputError, match="only where at most 1%"):
        prepare(many, template, max_length=99, judging=judging, on_bad_row="quarantine")


def test_one_record_of_a_row_takes_the_row_with_it(template, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"{i}?", "responses": ["a", "b", "c"], "ranks": [1, 2, 3]} for i in range(150)]
    rows[5]["responses"] = ["a", " a", "c"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_records(path, wants="pair")
    assert loaded.report.records == 450
    prepared = prepare(loaded.records, template, max_length=99, on_bad_row="quarantine")
    report = prepared.report(loaded.report)
    assert (report.kept, report.records, report.prepared, report.rejected) == (149, 447, 447, {"EQUAL": 1})
    assert len(prepared.groups) == 447 and np.all([g.key != "rows.jsonl:6#0" for g in prepared.groups])
