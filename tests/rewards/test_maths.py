import pytest

from nurture.protocols import Answer, Scored, Unscorable
from nurture.records import Task
from nurture.rewards import reward_from, score_all
from nurture.sandbox.kernel import missing_here

pytest.importorskip("math_verify")
pytestmark = pytest.mark.skipif(bool(missing_here()), reason=f"the sandbox needs {missing_here()}")


def scored(gold, *texts, **fields):
    reward = reward_from({"name": "maths", "workers": 1, "seconds": 3, **fields})
    return score_all(reward, [Answer(Task((), gold), text) for text in texts], stop_limit=1.0)


@pytest.mark.parametrize(
    "gold, right, wrong",
    [
        (
            r"\frac{1}{2}",
            ["$0.5$", r"So \boxed{\frac{2}{4}}.", "the answer is 1/2"],
            ["$0.25$", "", "one half", r"\boxed{2}"],
        ),
        ("42", ["42", r"\boxed{42}", "$42.0$"], ["43", "-42"]),
        (7, ["$x = 7$"], ["$x = 8$"]),
        (r"2\sqrt{2}", [r"$\sqrt{8}$"], [r"$\sqrt{2}$"]),
        ("(1, 2]", ["$(1,2]$"], ["$[1,2]$"]),
        (r"\{1, 2\}", [r"$\{2, 1\}$"], [r"$\{1\}$"]),
        ("x^2 + 2x + 1", ["$(x+1)^2$"], ["$x^2+1$"]),
    ],
)
def test_equality(gold, right, wrong):
    found = scored(gold, *right, *wrong, seconds=30)  # of a busy machine; what takes long on purpose is below
    assert [o.value for o in found] == [1.0] * len(right) + [0.0] * len(wrong), found


def test_where():
    assert [o.value for o in scored("5", "<think>4</think><answer>5</answer>", "5", where="answer")] == [1, 0]
    assert [o.value for o in scored("5", r"\boxed{5} and not 6", "5", where="boxed")] == [1, 0]
    assert scored(r"\frac12", r"<answer>\frac{1}{2}</answer>", where="answer")[0].value == 1


def test_gold_answers_that_cannot_be_read():
    for gold in (None, "", "$ $", True):
        (found,) = scored(gold, "5")
        assert isinstance(found, Unscorable) and found.code == "NO_GOLD"


@pytest.mark.parametrize(
    "attack",
    [
        "$9^{9^{9^{9}}}$",
        "9**9**9**9",
        r"\boxed{10^{10^{10}}!}",
        "$" + "(" * 3000 + "1" + ")" * 3000 + "$",
        r"$\int_0^1 \sin(\sin(\sin(\sin(x^{x^x})))) dx$",
        "$" + "1+" * 20_000 + "1$",
        "__import__('os').system('touch {mark}')",
        "$__import__('os').system('touch {mark}')$",
        r"\boxed{__import__('os')._exit(0)}",
        "the answer is open('{mark}', 'w')",
    ],
)
def test_attacks_are_wrong_answers(attack, tmp_path):
    mark = tmp_path / "mark"
    (found,) = scored("3", attack.replace("{mark}", str(mark)))
    assert isinstance(found, Scored) and found.value == 0.0, found
    assert found.code in ("", "TIMEOUT", "KILLED")
    assert not mark.exists()
    assert scored("3", "$3$")[0].value == 1.0, "and the next comparison works"


def test_its_process_has_no_rights():
    """Whatever symbolic mathematics might be brought to run, it runs behind the locks."""
    from nurture.sandbox import Limits, shared_sandbox

    box = shared_sandbox(1, mathematics=True)
    (ended,) = box.map(lambda w, _: w.judges.run("look", None, Limits()), [None])
    assert ended.output == b"[]"
