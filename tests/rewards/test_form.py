import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nurture.errors import InputError
from nurture.protocols import Answer, Scored
from nurture.records import Task
from nurture.rewards import reward_from


def worth(reward, text, tokens=None):
    outcome = reward_from(reward).one(Answer(Task((), None), text, tokens=tokens))
    return outcome.value if isinstance(outcome, Scored) else outcome.code


@pytest.mark.parametrize(
    "text, value",
    [
        ("<think>a</think><answer>b</answer>", 1),
        ("  <think>a\nb</think>\n\n<answer>b</answer>\n", 1),
        ("<think>1 < 2 and <b>x</b></think><answer>b</answer>", 1),
        ("", 0),
        ("a", 0),
        ("<think></think><answer></answer>", 0),
        ("<think> </think><answer>b</answer>", 0),
        ("<think>a</think><answer>\n</answer>", 0),
        ("<answer>b</answer><think>a</think>", 0),
        ("<think>a</think>", 0),
        ("<answer>b</answer>", 0),
        ("<think>a</think> so <answer>b</answer>", 0),
        ("x<think>a</think><answer>b</answer>", 0),
        ("<think>a</think><answer>b</answer>.", 0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0),
        ("<think>a</think><think>b</think><answer>c</answer>", 0),
        ("<think>a<think>b</think></think><answer>c</answer>", 0),
        ("<think>a<answer>b</answer></think><answer>c</answer>", 0),
        ("<think>a</think><answer>b<answer>c</answer>", 0),
        ("<think>a</think><answer>b</ answer>c</answer>", 0),
        ("<think>a</THINK>x<think>b</think><answer>c</answer>", 0),
        ("<Think>a</Think><answer>c</answer>", 0),
        ("<think>a</think><answer>b</answer", 0),
        ("<think>a</think>\u200b<answer>b</answer>", 0),
    ],
)
def test_format(text, value):
    assert worth("format", text) == value


pieces = st.lists(
    st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "a", " ", "\n", "<", ">", "/"]), max_size=9
)


@settings(max_examples=60)
@given(pieces.map("".join))
def test_format_against_a_count(text):
    """By another route: split at tags, and look at what stands where."""
    import re

    cut = re.split(r"(</?(?:think|answer)>)", text)
    plain, tags = cut[::2], cut[1::2]
    right = tags == ["<think>", "</think>", "<answer>", "</answer>"]
    right = right and [bool(p.strip()) for p in plain] == [False, True, False, True, False]
    loose = re.findall(r"<\s*/?\s*(?:think|answer)\s*/?\s*>", text)
    assert worth("format", text) == float(right and len(loose) == 4)


def test_format_takes_linear_time():
    assert worth("format", "<think>" * 200_000) == 0
    assert worth("format", "<think>" + "a</think" * 200_000) == 0
    assert worth("format", " " * 400_000 + "<") == 0


def test_format_with_tags_of_ones_own():
    assert worth({"name": "format", "tags": ["plan"]}, "<plan>x</plan>") == 1


@pytest.mark.parametrize(
    "text, language, value",
    [
        ("all in English", "en", 1),
        ("half 一半", "en", 1 / 3),
        ("half 一半", "zh", 2 / 3),
        ("das ist schön", "en", 1),
        ("это мир", "ru", 1),
        ("это мир", "en", 0),
        ("12 + 3 = 15", "en", 0),
        ("", "en", 0),
        ("カタカナー", "ja", 1),
        ("mixеd", "en", 0),  # the e is Cyrillic
        ("한국어 text", "ko", 0.5),
    ],
)
def test_language(text, language, value):
    assert worth({"name": "language", "language": language}, text) == pytest.approx(value)


def test_length():
    window = {"name": "length", "at_least": 2, "at_most": 4}
    assert [worth(window, "", n) for n in (1, 2, 4, 5)] == [0, 1, 1, 0]
    assert worth(window, "a b c") == "NO_LENGTH"
    assert worth({**window, "unit": "words"}, "a b c") == 1
    assert worth({**window, "unit": "characters"}, "a b c") == 0
    with pytest.raises(InputError, match="no length is right"):
        reward_from({"name": "length", "at_least": 5, "at_most": 4})


@pytest.mark.parity
@settings(max_examples=60)
@given(st.integers(2, 60), st.integers(1, 60), st.integers(0, 150))
def test_overlong_is_trls(most, cache, length):
    rewards = pytest.importorskip("trl.rewards")
    if cache > most:
        return
    ours = worth({"name": "overlong", "max_length": most, "cache": cache}, "", length)
    assert ours == pytest.approx(rewards.get_soft_overlong_punishment(most, cache)([[0] * length])[0])


def test_overlong_by_hand():
    dapo = {"name": "overlong", "max_length": 20_480, "cache": 4096}  # the paper's own figures
    assert [worth(dapo, "", n) for n in (0, 16_384, 18_432, 20_480, 20_481)] == [0, 0, -0.5, -1, -1]


@pytest.mark.parity
@settings(max_examples=60)
@given(st.lists(st.integers(0, 3), max_size=12), st.integers(1, 4))
def test_repetition_is_trls(ids, n):
    rewards = pytest.importorskip("trl.rewards")
    ours = worth({"name": "repetition", "n": n, "most": -0.5}, " ".join(f"w{i}" for i in ids))
    assert ours == pytest.approx(rewards.get_repetition_penalty_reward(n, -0.5)([ids])[0])


def test_repetition_by_hand():
    assert worth("repetition", "a b c d") == 0
    assert worth("repetition", "a a a a a") == pytest.approx(-2 / 3)
    assert worth("repetition", "a b") == 0
