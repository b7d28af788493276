"""Records to groups: lengths, what is dropped or cut and counted, what is refused, what is shown and held out."""

from io import StringIO
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from nurture.data.load import load_records
from nurture.data.prepare import prepare, show_example, split_eval
from nurture.data.template import TURN_END, Template, ensure_chat
from nurture.errors import InputError
from nurture.records import Completion, Conversation, Message, Text
from nurture.types import Batch, Group, Response


@pytest.fixture(scope="module")
def template(make_tokenizer):
    tokenizer = make_tokenizer(eos_token="<|endoftext|>")
    ensure_chat(tokenizer)
    return Template(tokenizer)


def talk(question, answer, name="row", train=None):
    return Conversation((Message("user", question), Message("assistant", answer, train=train)), origin=name)


SHORT, LONG = talk("Hi", "Hello.", "short"), talk("Hi", "Hello. " * 60, "long")
LONG_PROMPT = talk("Hi " * 60, "Hello.", "long prompt")
MASKED = talk("Hi", "Hello.", "masked", train=False)


def decoded(template, group, trained=False):
    ids = [group.prompt] if not trained else []
    ids += [r.ids[r.mask] if trained else r.ids for r in group.responses]
    return template.tokenizer.decode(np.concatenate(ids).tolist())


def test_long_rows_are_dropped_and_counted(template):
    prepared = prepare([SHORT, LONG, LONG_PROMPT, MASKED, SHORT], template, max_length=32)
    assert [g.key for g in prepared.groups] == ["short", "short"]
    assert (prepared.dropped_long, prepared.dropped_masked, prepared.truncated) == (2, 1, 0)
    assert prepared.tokens == sum(g.num_tokens for g in prepared.groups)
    assert prepared.trained_tokens == Batch(tuple(prepared.groups)).num_own


def test_a_row_of_exactly_max_length_fits(template):
    length = template.encode(SHORT).length
    assert prepare([SHORT], template, max_length=length).dropped_long == 0
    with pytest.raises(InputError, match="1 are longer"):
        prepare([SHORT], template, max_length=length - 1)


def test_a_cut_answer_has_no_stop_token(template):
    prepared = prepare([SHORT, LONG, LONG_PROMPT], template, max_length=32, on_long="cut")
    assert [g.key for g in prepared.groups] == ["short", "long"]
    assert (prepared.dropped_long, prepared.truncated) == (1, 1)
    whole = template.encode(LONG)
    cut = prepared.groups[1]
    assert cut.length == 32 and np.array_equal(
        cut.responses[0].ids, whole.responses[0].ids[: len(cut.responses[0].ids)]
    )
    assert TURN_END not in decoded(template, cut, trained=True)
    assert decoded(template, prepared.groups[0], trained=True) == "Hello." + TURN_END


def test_long_rows_as_an_error_are_listed(template):
    with pytest.raises(InputError) as caught:
        prepare([SHORT, *[LONG] * 30], template, max_length=32, on_long="error")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("long TOO_LONG has ") and lines[20] == "... and 10 more" and "30 of 31 rows" in lines[21]


def test_sets_that_teach_nothing_or_no_end_are_refused(template, make_tokenizer):
    with pytest.raises(InputError, match=r"ALL_MASKED .*of 2 rows 0 are longer than max_length=32, 2 have no token"):
        prepare([MASKED, MASKED], template, max_length=32)
    with pytest.raises(InputError, match=r"ALL_MASKED .*of 1 rows 1 are longer"):
        prepare([LONG], template, max_length=32)
    with pytest.raises(InputError, match="NO_STOP"):
        prepare([LONG, LONG], template, max_length=32, on_long="cut")
    # A template that spells its control tokens while the tokenizer has none of them.
    unknown = Template(make_tokenizer(eos_token="<|endoftext|>"))
    with pytest.raises(InputError, match="NO_STOP"):
        prepare([SHORT], unknown, max_length=64)


def test_completions_keep_the_prompts_own_ids(template, make_tokenizer):
    metaspace = Template(make_tokenizer(metaspace=True, eos_token="</s>"))
    for made in (template, metaspace):
        tokenizer = made.tokenizer
        for prompt, answer in [("One, two", ", three."), ("Hello", " world"), ("", "One"), ("Count:\n", "\n\nOne")]:
            (group,) = prepare([Completion(prompt, answer, "row")], made, max_length=99).groups
            (response,) = group.responses
            assert group.prompt.tolist() == tokenizer.encode(prompt)
            assert response.mask.all() and response.ids[-1] == tokenizer.eos_token_id
            whole = tokenizer.decode([*group.prompt.tolist(), *response.ids[:-1].tolist()])
            assert whole == prompt + answer or (made is metaspace and "\n" in prompt)


def test_a_completion_of_a_sentencepiece_tokenizer_begins_without_a_space(make_tokenizer):
    tokenizer = make_tokenizer(metaspace=True, eos_token="</s>")
    (group,) = prepare([Completion("One, t", "wo", "row")], Template(tokenizer), max_length=99).groups
    assert tokenizer.decode([*group.prompt.tolist(), *group.responses[0].ids[:-1].tolist()]) == "One, two"
    assert tokenizer.encode("wo") != group.responses[0].ids[:-1].tolist()  # which would read "One, t wo"


@settings(max_examples=40)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80), max_length=st.integers(2, 12))
def test_windows_predict_every_token_of_a_document_but_the_first(template, text, max_length):
    tokenizer = template.tokenizer
    prepared = prepare([Text(text, "doc")], template, max_length=max_length)
    ids = [*tokenizer.encode(text), tokenizer.eos_token_id]
    said = [int(i) for g in prepared.groups for i in g.responses[0].ids]
    assert said == ids
    assert prepared.trained_tokens == len(ids) - 1
    assert Batch(tuple(prepared.groups)).target.tolist() == ids[1:]
    assert all(g.length <= max_length for g in prepared.groups)
    assert all(g.prompt.tolist() == [p.responses[0].ids[-1]] for p, g in pairwise(prepared.groups))
    assert [g.key for g in prepared.groups] == [f"doc#{i}" for i in range(len(prepared.groups))]


def test_a_tokenizer_that_frames_documents_itself_ends_them_once(make_tokenizer):
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer(bos_token="<s>", eos_token="</s>")
    ends = [(t, tokenizer.convert_tokens_to_ids(t)) for t in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<s> $A </s>", special_tokens=ends)
    made = Template(tokenizer)
    (window,) = prepare([Text("One.", "doc")], made, max_length=99).groups
    assert tokenizer.decode(window.responses[0].ids.tolist()) == "<s>One.</s>"
    (group,) = prepare([Completion("One", ".", "row")], made, max_length=99).groups
    assert tokenizer.decode(group.prompt.tolist()) == "<s>One"
    assert tokenizer.decode(group.responses[0].ids.tolist()) == ".</s>"


def test_records_of_several_kinds_keep_their_order(template):
    records = [Text("One. " * 30, "a"), SHORT, Completion("One", ", two", "c"), Text("Two.", "d")]
    keys = [g.key.partition("#")[0] for g in prepare(records, template, max_length=32).groups]
    assert list(dict.fromkeys(keys)) == ["a", "short", "c", "d"]


def test_the_report_adds_up(template, tmp_path):
    import json

    path = tmp_path / "rows.jsonl"
    rows = [[{"role": m.role, "content": m.content} for m in r.messages] for r in (SHORT, LONG, SHORT)]
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    loaded = load_records(path, wants="conversation")
    report = prepare(loaded.records, template, max_length=32).report(loaded.report)
    assert (report.kept, report.prepared, report.dropped_long) == (3, 2, 1)
    assert report.to_json()["trained_tokens"] == report.trained_tokens > 0
    text = "\n".join(report.lines())
    assert "3 rows of format messages, 3 kept" in text and "1 rows dropped: longer than max_length" in text


def test_the_example_shows_what_is_trained(template):
    group = template.encode(talk("Wie heißt du?", "naïve 🙂"))
    shown = show_example(group, template.tokenizer)
    assert shown.plain == template.tokenizer.decode([*group.prompt.tolist(), *group.responses[0].ids.tolist()])
    green = [shown.plain[span.start : span.end] for span in shown.spans if span.style == "green"]
    assert green == ["naïve 🙂<|im_end|>"]
    plain = show_example(group, template.tokenizer, colour=False)
    assert "assistant\n⟦naïve 🙂<|im_end|>⟧\n" in plain.plain and not plain.spans
    console = Console(record=True, no_color=True, width=200, file=StringIO())
    console.print(show_example(template.encode(talk("[bold]x[/bold]", "Yes.")), template.tokenizer))
    assert "[bold]x[/bold]" in console.export_text()


def numbered(keys):
    return [Group(np.arange(2), (Response(np.arange(3), np.ones(3, bool)),), key) for key in keys]


def test_the_held_out_split_depends_on_keys_and_seed_alone():
    groups = numbered([f"rows.jsonl:{i}" for i in range(100)])
    train, held_out = split_eval(groups, 0.2, seed=1)
    assert (len(train), len(held_out)) == (80, 20)
    assert sorted(g.key for g in train + held_out) == sorted(g.key for g in groups)
    assert [g.key for g in train] == [g.key for g in groups if g in train]
    _, held_out_again = split_eval(groups[::-1], 20, seed=1)
    assert {g.key for g in held_out_again} == {g.key for g in held_out}
    assert {g.key for g in split_eval(groups, 20, seed=2)[1]} != {g.key for g in held_out}
    assert split_eval(groups, 0, seed=1) == (groups, [])
    with pytest.raises(InputError, match="hold out 100 of 100"):
        split_eval(groups, 100, seed=1)


def test_windows_of_one_text_are_on_one_side():
    groups = numbered([f"doc#1.jsonl:{i}#{k}" for i in range(20) for k in range(3)])
    train, held_out = split_eval(groups, 0.25, seed=0)
    assert len(held_out) == 15
    assert not {g.key.rpartition("#")[0] for g in train} & {g.key.rpartition("#")[0] for g in held_out}


def test_rows_of_a_file_with_a_hash_in_its_name_are_told_apart():
    train, held_out = split_eval(numbered([f"notes #2.jsonl:{i}" for i in range(20)]), 0.25, seed=0)
    assert (len(train), len(held_out)) == (15, 5)
