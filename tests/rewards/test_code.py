"""The whole way from an answer's text to a reward, in the real sandbox."""

import pytest

from nurture.errors import InputError
from nurture.protocols import Answer, Failed, Scored, Unscorable
from nurture.records import Message, Task
from nurture.rewards import reward_from, score_all
from nurture.sandbox import worker
from nurture.sandbox.kernel import missing_here

needs_sandbox = pytest.mark.skipif(bool(missing_here()), reason=f"the sandbox needs {missing_here()}")

ASSERTS = Task((Message("user", "Write add."),), info={"tests": ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]})
SCRIPT = Task((), info={"tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "5 5\n", "output": "10"}]})
FENCED = "<think>```python\ndef add(a, b): return 0\n```</think>"
FENCED += "Here:\n```python\ndef add(a, b):\n    return a + b\n```\nDone."


def scored(task, *texts, **fields):
    reward = reward_from({"name": "code", "workers": 2, "seconds": 3, **fields})
    return score_all(reward, [Answer(task, text) for text in texts], stop_limit=1.0)


@needs_sandbox
def test_assertions():
    found = scored(ASSERTS, FENCED, "def add(a, b): return 3", "def add(a, b):", "I cannot.", "while True: pass")
    assert [o.value for o in found] == [1, 0, 0, 0, 0]
    assert found[0].reason == "2 of 2 tests passed"
    assert found[1].reason.startswith("1 of 2 tests passed; AssertionError in: assert add(-1, 1) == 0")
    assert [o.code for o in found] == ["", "", "", "", "TIMEOUT"]
    assert [o.value for o in scored(ASSERTS, FENCED, "def add(a, b): return 3", partial=True)] == [1, 0.5]


@needs_sandbox
def test_scripts():
    found = scored(SCRIPT, "```\nprint(sum(map(int, input().split())))\n```", "print(3)", "print(1 / 0)")
    assert [o.value for o in found] == [1, 0, 0] and "exit code 1 in test 1" in found[2].reason


@needs_sandbox
def test_order_is_kept_over_many_workers():
    texts = [f"def add(a, b): return a + b + {i % 3 and 1}" for i in range(40)]
    assert [o.value for o in scored(ASSERTS, *texts)] == [float(i % 3 == 0) for i in range(40)]


@needs_sandbox
def test_a_program_has_the_memory_it_was_promised_and_no_more():
    large = "def add(a, b):\n    held = bytearray(300 << 20)\n    return a + b"
    assert [scored(ASSERTS, large, memory_mb=mb)[0].value for mb in (1024, 128)] == [1, 0]


@needs_sandbox
@pytest.mark.parametrize("tests", [None, [], "assert 1", [1], [{"input": "1"}], ["assert add(1, 2) == 3", {}]])
def test_tasks_without_tests(tests):
    (found,) = scored(Task((), info={} if tests is None else {"tests": tests}, origin="t.jsonl:1"), FENCED)
    assert (
        isinstance(found, Unscorable) and found.code == "NO_GOLD" and found.reason.startswith("t.jsonl:1 has no tests")
    )


@needs_sandbox
def test_broken_tests():
    (found,) = scored(Task((), info={"tests": ["assert add(1, 2"]}), FENCED)
    assert isinstance(found, Unscorable) and found.code == "TESTS"


@needs_sandbox
def test_a_lost_server_is_no_wrong_answer(monkeypatch):
    def lost(*_, **__):
        raise worker.SandboxLost("the sandbox's server was lost (it ended)")

    monkeypatch.setattr(worker.Server, "begin", lost)
    (found,) = scored(ASSERTS, FENCED)
    assert found == Failed("the sandbox's server was lost (it ended)", "SANDBOX")


def test_a_machine_without_locks_refuses_and_other_rewards_run(monkeypatch):
    """What a kernel without Landlock answers, from the one place that asks it."""
    monkeypatch.setattr("nurture.sandbox.kernel.landlock_abi", lambda: 0)
    worker._shared.cache_clear()
    for name in ("code", "maths"):
        reward = reward_from({"name": name})
        for use in (reward.check, lambda reward=reward: score_all(reward, [Answer(ASSERTS, FENCED)])):
            with pytest.raises(InputError, match=r"needs .*(Landlock|Linux|processor).*this machine does not have"):
                use()
    assert score_all(reward_from("exact"), [Answer(Task((), "a"), "a")]) == [Scored(1.0, "right")]
    worker._shared.cache_clear()


@needs_sandbox
def test_a_combination_checks_its_parts(monkeypatch):
    monkeypatch.setattr("nurture.sandbox.kernel.landlock_abi", lambda: 0)
    worker._shared.cache_clear()
    with pytest.raises(InputError, match="Landlock"):
        reward_from({"name": "gate", "gate": "format", "reward": "code"}).check()
    worker._shared.cache_clear()
