"""Overlap with evaluation sets, against looking for every stretch of words in every text."""

from hypothesis import given
from hypothesis import strategies as st

from nurture.data.quality.overlap import overlap

TEXTS = st.lists(st.lists(st.sampled_from("abc"), max_size=7).map(" ".join), max_size=5)


def holds(text, gram):
    return any(tuple(text[i : i + len(gram)]) == gram for i in range(len(text) - len(gram) + 1))


@given(TEXTS, TEXTS)
def test_overlap_against_a_plain_search(training, evaluation):
    n = 3
    found = overlap(training, evaluation, n)
    for place, text in enumerate(evaluation):
        said = text.split()
        grams = {tuple(said[i : i + n]) for i in range(max(len(said) - n + 1, 1))} if said else set()
        held = [gram for gram in grams if any(holds(row.split(), gram) for row in training)]
        assert found.coverage[place] == (len(held) / len(grams) if grams else 0)
        for row, other in enumerate(training):
            assert (place in found.touched.get(row, ())) == any(holds(other.split(), gram) for gram in grams)


def test_a_short_question_is_found_within_a_longer_text():
    found = overlap(["So, what is the capital of France? Paris.", "other"], ["What is the capital of France?", "Who?"])
    assert (found.evaluated, found.any, found.whole, found.touched) == (2, 1, 1, {0: (0,)})


def test_thirteen_words_by_default():
    words = [f"w{i}" for i in range(20)]
    assert overlap([" ".join(words[:12])], [" ".join(words)]).any == 0
    shared = overlap([" ".join(words[:13])], [" ".join(words)])
    assert (shared.any, shared.whole, shared.coverage) == (1, 0, (1 / 8,))
