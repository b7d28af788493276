"""Tokenised data kept between runs: the same as made anew, never of something else, bounded, safe beside other runs."""

import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from nurture.api_data import load_template
from nurture.data import cache
from nurture.data.cache import cache_folder, code_files, key_of
from nurture.data.judged import Judging
from nurture.data.prepare import prepare
from nurture.data.prepared import Wishes
from nurture.data.template import CHATML, Template, ensure_chat
from nurture.records import Completion, Conversation, Message, Pair, Ranking, Rating, Steps, Text


@pytest.fixture
def template(make_tokenizer):
    tokenizer = make_tokenizer(eos_token="<|endoftext|>")
    ensure_chat(tokenizer)
    return Template(tokenizer)


def user(text):
    return (Message("user", text),)


def answer(text):
    return (Message("assistant", text),)


KINDS = {
    "conversation": [Conversation((*user("Hi"), *answer("Hello. " * n)), origin=f"f:{n}") for n in (1, 2, 90)],
    "text": [Text("One. Two. " * 30, "a"), Completion("One", ", two", "b")],
    "pair": [Pair(user("Hi"), answer("Hello."), answer(f"{n}"), 0.1 * n, f"f:{n}") for n in range(3)],
    "ranking": [Ranking(user("Hi"), (answer("a"), answer("b"), answer("c")), (2, 1, 2), "f:1")],
    "rating": [Rating(user("Hi"), answer(f"{n}"), {"overall": n / 3}, f"f:{n}") for n in range(4)],
    "steps": [Steps(user("Hi"), ("One.", "Two."), (1.0, 0.25), "f:1")],
}


def same(one, other):
    """Every field, down to the bytes and types of the arrays."""
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name == "groups":
            for g, h in zip(a, b, strict=True):
                assert (g.key, g.margin, g.prompt.dtype) == (h.key, h.margin, h.prompt.dtype)
                assert g.prompt.tobytes() == h.prompt.tobytes()
                for r, s in zip(g.responses, h.responses, strict=True):
                    for part in fields(r):
                        x, y = getattr(r, part.name), getattr(s, part.name)
                        if isinstance(x, np.ndarray):
                            assert x.dtype == y.dtype and x.tobytes() == y.tobytes()
                        else:
                            assert x == y and type(x) is type(y)
        elif field.name != "cached":
            assert str(a) == str(b)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_kept_is_what_is_made(kind, template, tmp_path):
    def prepared(folder):
        return prepare(KINDS[kind], template, max_length=40, on_long="drop", cache=folder)

    anew, first = prepared(None), prepared(tmp_path / "tokens")
    again = prepared(tmp_path / "tokens")
    assert (first.cached, again.cached.startswith("tokens from an earlier run: ")) == ("", True)
    same(anew, first)
    same(anew, again)


def test_whatever_the_tokens_depend_on_is_in_the_name(template, make_tokenizer, monkeypatch):
    records, wishes = KINDS["conversation"], Wishes(40)
    other_tokenizer = make_tokenizer("<|odd|>", eos_token="<|endoftext|>")
    ensure_chat(other_tokenizer)
    keys = [
        key_of(records, template, wishes),
        key_of(records[:2], template, wishes),
        key_of(records[::-1], template, wishes),
        key_of([replace(records[0], origin="g:1"), *records[1:]], template, wishes),
        key_of([replace(records[0], tools=({"name": "f"},)), *records[1:]], template, wishes),
        *(key_of(records, template, other) for other in (
            replace(wishes, max_length=41), replace(wishes, train_on="all"), replace(wishes, on_long="cut"),
            replace(wishes, judging=Judging(scale=(0.0, 1.0))), replace(wishes, on_bad_row="quarantine"),
        )),
        key_of(records, Template(template.tokenizer, CHATML + " "), wishes),
        key_of(records, Template(other_tokenizer), wishes),
    ]  # fmt: skip
    monkeypatch.setattr(cache, "code_digest", lambda: "another version of the code")
    keys.append(key_of(records, template, wishes))
    assert len(set(keys)) == len(keys)


@pytest.mark.long
def test_it_is_the_same_name_in_another_process():
    code = (
        "from nurture.data.cache import code_digest, tokenizer_digest\n"
        "from nurture.api_data import load_template\n"
        "print(code_digest(), tokenizer_digest(load_template('lab')))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=True)
    assert done.stdout.split() == [cache.code_digest(), cache.tokenizer_digest(load_template("lab"))]


def test_all_code_that_makes_tokens_counts():
    """Whatever of the package is loaded when records are prepared is among the files whose content is in the name; but
    for the hook that `import nurture` sets, which waits for peft."""
    code = (
        "import sys, nurture.data.prepare\n"
        "print(*[m.__file__ for n, m in sys.modules.items() if n.startswith('nurture.')], sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    loaded = {path for path in map(Path, done.stdout.split()) if path.name != "with_peft.py"}
    assert any(path.name == "fit.py" for path in loaded) and loaded <= set(code_files())


def test_a_damaged_file_is_as_good_as_none(template, tmp_path):
    def prepared():
        return prepare(KINDS["conversation"], template, max_length=40, cache=tmp_path)

    prepared()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:40], b"", whole[:60] + bytes([whole[60] ^ 1]) + whole[61:]):
        path.write_bytes(damaged)
        assert prepared().cached == ""
        assert path.read_bytes() == whole


def test_files_unused_for_longest_go_first(template, tmp_path, monkeypatch):
    def prepared(length):
        return prepare(KINDS["conversation"], template, max_length=length, cache=tmp_path)

    prepared(40)
    (first,) = tmp_path.iterdir()
    size = first.stat().st_size
    monkeypatch.setattr(cache, "LIMIT", int(3.5 * size))
    for length in (41, 42):
        prepared(length)
    for age, path in enumerate(sorted(tmp_path.iterdir(), key=lambda p: p == first)):
        os.utime(path, (1e9 - age, 1e9 - age))  # the first is the oldest
    assert prepared(40).cached  # and of use again
    prepared(43)
    assert first.exists() and len(list(tmp_path.iterdir())) == 3
    monkeypatch.setattr(cache, "LIMIT", 10)
    prepared(44)
    assert len(list(tmp_path.iterdir())) == 3  # what is larger than all may be is not kept


def test_a_folder_that_cannot_be_written_is_said_and_stops_nothing(template, tmp_path):
    (tmp_path / "file").write_text("")
    prepared = prepare(KINDS["conversation"], template, max_length=40, cache=tmp_path / "file" / "tokens")
    assert prepared.groups and "could not be kept" in prepared.cached


def test_runs_at_the_same_time(template, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    anew = prepare(KINDS["conversation"], template, max_length=40)

    def one(_):
        return cache.through(tmp_path, KINDS["conversation"], template, Wishes(40), lambda: anew)

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(one, range(64)):
            same(anew, found)
    assert len(list(tmp_path.iterdir())) == 1


def test_where_it_is(monkeypatch):
    monkeypatch.setenv("NURTURE_CACHE", "")
    assert cache_folder("tokens") is None
    monkeypatch.setenv("NURTURE_CACHE", "/a")
    assert cache_folder("tokens") == Path("/a/tokens")
    monkeypatch.delenv("NURTURE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_folder("tokens") == Path("/b/nurture/tokens")
