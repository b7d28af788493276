"""The same pairs as the plain loop over all pairs finds, with `rouge-score` and with an LCS of our own."""

import json
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nurture.data.quality.duplicates import exact_duplicates, near_duplicates, similar_pairs
from nurture.data.quality.minhash import jaccard, minhash_pairs, shingles
from nurture.data.quality.view import instruction_of
from nurture.data.quality.words import words
from nurture.lab.datasets import open_dataset

SHARED = Path(__file__).parents[3].parent / "shared" / "data"


def lcs(a, b):
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b):
            before, row[j + 1] = row[j + 1], before + 1 if x == y else max(row[j + 1], row[j])
    return row[-1]


def plain_loop(texts, threshold):
    said = [words(text) for text in texts]
    out = {}
    for i, j in combinations(range(len(texts)), 2):
        if said[i] and said[j]:
            f = Fraction(2 * lcs(said[i], said[j]), len(said[i]) + len(said[j]))
            if f >= threshold:
                out[i, j] = float(f)
    return out


def found(texts, threshold=0.7):
    pairs = similar_pairs(texts, threshold)
    return dict(zip(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True), pairs.score.tolist(), strict=True))


SENTENCES = st.lists(st.lists(st.sampled_from(["a", "b", "c", "dd", "我", "é"]), max_size=9).map(" ".join), max_size=12)


@given(SENTENCES, st.sampled_from([Fraction(1, 2), Fraction(7, 10), Fraction(9, 10), Fraction(1)]))
@settings(max_examples=200)
def test_the_pairs_of_the_plain_loop(texts, threshold):
    assert found(texts, float(threshold)) == pytest.approx(plain_loop(texts, threshold))


@pytest.mark.long
def test_the_pairs_of_the_plain_loop_on_instructions():
    texts = [instruction_of(record) for record in open_dataset("lab/demonstrations", n=700)]
    want = plain_loop(texts, Fraction(7, 10))
    assert len(want) > 50
    assert found(texts) == pytest.approx(want)


@pytest.mark.parity
@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of real data, ../shared/data, is absent")
def test_the_pairs_that_rouge_score_finds_on_real_instructions():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    with (SHARED / "self_instruct_seed_tasks.jsonl").open(encoding="utf-8") as file:
        texts = [json.loads(line)["instruction"] for line in file]
    with (SHARED / "tinker_conversations.jsonl").open(encoding="utf-8") as file:
        texts += [json.loads(line)["messages"][-2]["content"] for line in file]
    want = {}
    for (i, a), (j, b) in combinations(enumerate(texts), 2):
        f = scorer.score(a, b)["rougeL"].fmeasure
        if f > 0.7 - 1e-9:  # floating point puts an exact 0.7 on either side
            want[i, j] = f
    got = found(texts)
    assert len(want) > 20 and got == pytest.approx(want)


def test_a_score_of_exactly_the_threshold_counts():
    assert found(["a b c d e f g x y z", "a b c d e f g u v w"]) == {(0, 1): 0.7}
    assert found(["a b c d e f x y z u", "a b c d e f p q v w"]) == {}


def test_more_words_than_bits():
    """Frequent words are bits, rarer ones lists; a text must be found by both."""
    many = [f"w{i}" for i in range(700)]
    texts = [" ".join(many[i : i + 20]) for i in range(0, 680, 4)]
    assert found(texts) == pytest.approx(plain_loop(texts, Fraction(7, 10)))


def test_chinese_is_not_empty():
    assert found(["请把这句话翻译成英文。", "请把这个句话翻译成英文"]) == pytest.approx({(0, 1): 20 / 21})
    assert found(["今天天气很好", "我喜欢吃苹果"]) == {}


def test_long_texts_of_many_different_words():
    one = " ".join(f"u{i}" for i in range(3000))
    assert found([one, one + " more", "other"]) == pytest.approx({(0, 1): 6000 / 6001})


@given(SENTENCES)
def test_near_duplicates_grow_a_pool(texts):
    kept: list[int] = []
    for i in range(len(texts)):
        if not any((0, 1) in plain_loop([texts[k], texts[i]], Fraction(7, 10)) for k in kept):
            kept.append(i)
    removed = near_duplicates(texts)
    assert sorted(removed) == [i for i in range(len(texts)) if i not in kept]
    assert set(removed.values()) <= set(kept)


def test_exact_duplicates():
    assert exact_duplicates(["Hi there!", "other", "hi  there", "…", "…", "?"]) == {2: 0, 4: 3}


def test_minhash_finds_copies_with_small_changes_and_says_how_alike():
    base = [" ".join(f"t{k}w{i}" for i in range(100)) for k in range(20)]
    changed = [text + " the end" for text in base]  # 96 5-grams, and 98
    pairs = minhash_pairs([*base, *changed])
    assert list(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)) == [(i, i + 20) for i in range(20)]
    assert pairs.score == pytest.approx([96 / 98] * 20)


def test_jaccard_of_shingles():
    a, b = shingles("a b c d e f"), shingles("b c d e f g")
    assert len(a) == len(b) == 2 and jaccard(a, b) == pytest.approx(1 / 3)
    assert len(shingles("a b")) == 1 and len(shingles("")) == 0
