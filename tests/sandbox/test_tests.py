"""Honest programs are judged rightly, and broken tests are not held against them."""

import json
from pathlib import Path

import pytest

from nurture.sandbox import Limits, Sandbox, run_asserts, run_stdio
from nurture.sandbox.kernel import missing_here

pytestmark = pytest.mark.skipif(bool(missing_here()), reason=f"the sandbox needs {missing_here()}")


@pytest.fixture(scope="module")
def worker():
    box = Sandbox(1)
    yield box._all[0]
    box.close()


def asserts(worker, program, *tests, setup=""):
    return run_asserts(worker, program, setup, tests, Limits(seconds=5))


@pytest.mark.parametrize(
    "value",
    [
        "0", "-1.5", "True", "None", "''", "'é\\ud800'", "b'\\x00'", "[1, [2]]", "(1, (2,))", "{1, 2}",
        "frozenset([1])",
        "{1: {'a': (2,)}, (3, 4): [5]}", "1+2j", "10**5000", "float('inf')", "{}", "set()",
    ],
)  # fmt: skip
def test_values_come_back_as_they_were(worker, value):
    program = f"def f(x): return x\ndef g(): return {value}"
    same = f"assert f({value}) == {value} == g() and type(g()) is type({value})"
    assert asserts(worker, program, same).passed == (True,)


def test_classes_generators_attributes_and_exceptions(worker):
    program = """
from collections import Counter, deque, namedtuple
class Stack:
    def __init__(self): self.items = []; self.size = 0
    def push(self, x): self.items.append(x); self.size += 1; return self
    def pop(self): return self.items.pop()
def count(n):
    for i in range(n): yield i
def bad(): raise KeyError("gone")
P = namedtuple("P", "x y")
def point(): return P(1, 2)
def letters(s): return Counter(s)
def total(stack): return sum(stack.items)
LIMIT = 7
"""
    tests = [
        "s = Stack(); s.push(1).push(2); assert s.pop() == 2 and s.size == 2 and s.items == [1]",
        "assert total(Stack().push(4)) == 4",
        "assert list(count(3)) == [0, 1, 2]",
        "try:\n    bad()\nexcept KeyError:\n    pass\nelse:\n    assert False",
        "assert point() == (1, 2)",
        "assert letters('aab') == {'a': 2, 'b': 1}",
        "assert LIMIT == 7",
        "assert close(0.1 + 0.2, 0.3)",
    ]
    tested = asserts(worker, program, *tests, setup="import math\ndef close(a, b): return math.isclose(a, b)")
    assert tested.passed == (True,) * len(tests), tested.reason


def test_iterators_and_texts(worker):
    program = """
from itertools import count
class Bag:
    def __init__(self, *items): self.items = items
    def __iter__(self): return iter(self.items)
    def __str__(self): return 'Bag of ' + ', '.join(map(str, self.items))
    def __repr__(self): return f'Bag{self.items}'
class Countdown:
    def __init__(self, n): self.n = n
    def __iter__(self): return self
    def __next__(self):
        if self.n == 0: raise StopIteration
        self.n -= 1
        return self.n
def evens(): return (2 * i for i in count())
def breaks():
    yield 1
    raise KeyError('gone')
"""
    tests = [
        "assert str(Bag(1, 2)) == f'{Bag(1, 2)}' == 'Bag of 1, 2' and repr(Bag(1, 2)) == 'Bag(1, 2)'",
        "assert list(Bag(1, 2)) == [1, 2] and 2 in Bag(1, 2) and 3 not in Bag(1, 2)",
        "g = evens(); assert next(g) == 0 and next(g) == 2 and next(g) == 4",
        "assert list(islice(evens(), 4)) == [0, 2, 4, 6]",
        "assert [n for n in Countdown(3)] == [2, 1, 0] and next(Countdown(0), 'over') == 'over'",
        "found = []\ntry:\n    for x in breaks(): found.append(x)\nexcept KeyError:\n    assert found == [1]",
    ]
    tested = asserts(worker, program, *tests, setup="from itertools import islice")
    assert tested.passed == (True,) * len(tests), tested.reason


YES = """
class Yes:
    def __eq__(self, other): return True
    def __hash__(self): return 3
    def __lt__(self, other): return True
    def __bool__(self): return True
    def __contains__(self, other): return True
    def __len__(self): return 3
    def __getitem__(self, i): return self
    def __iter__(self): return iter([self] * 3)
    def __str__(self): return self
    def __add__(self, other): return other
def f(x=0): return Yes()
"""


@pytest.mark.parametrize(
    "test",
    [
        "f() == 3", "f() == [1]", "[f()] == [[1]]", "5 in f()", "len(f()) == 3", "str(f()) == '3'", "f()[0] == 3",
        "f() < 3", "{3: 1}[f()]", "f() is True", "list(f()) == [1, 1, 1]", "f() + 1 == 1", "f()[0] * f()[1] == 6",
        "len(f()) == 3 and all(isclose(a, b) for a, b in zip(f(), [1, 2, 3]))",
        "sorted(f()) == [1, 2, 3] and all(f()[i] <= f()[i + 1] for i in range(2))",
    ],
)  # fmt: skip
def test_an_object_that_is_like_everything_is_like_nothing(worker, test):
    assert asserts(worker, YES, f"assert {test}", setup="from math import isclose").passed == (False,)


@pytest.mark.parametrize(
    ("program", "test"),
    [
        # Long enough, and with nothing in it that could be wrong.
        ("class A:\n    def __len__(self): return 2\n    def __iter__(self): return iter(())\ndef f(x): return A()",
         "r = f([1, 2]); assert len(r) == 2 and all(isclose(a, b) for a, b in zip(r, [2, 4]))"),
        # Another answer to each question.
        ("class A:\n    def __init__(self): self.n = [6, 1, 2, 3]\n    def __getitem__(self, i): return self.n.pop()\n"
         "def f(x): return A()", "r = f(6); assert r[0] * r[1] == 6 and r[0] > 1 and r[1] > 1"),
        # Ends the loop that would have looked.
        ("def f(*x): raise StopIteration", "assert all(map(lambda c: f(c) == 2 * c, [1, 2]))"),
        ("def f(*x): raise StopIteration", "for a, b in zip(map(f, [1, 2]), [2, 4]): assert a == b"),
    ],
)  # fmt: skip
def test_what_is_wrong_as_a_whole_is_not_right_in_every_part(worker, program, test):
    assert asserts(worker, program, test, setup="from math import isclose").passed == (False,)


def test_reasons(worker):
    assert (
        "ZeroDivisionError: division by zero in: assert f() == 1"
        in asserts(worker, "def f(): return 1 / 0", "assert f() == 1").reason
    )
    assert "SyntaxError" in asserts(worker, "def f(:", "assert f() == 1").reason
    assert "name 'f' is not defined" in asserts(worker, "def g(): pass", "assert f() == 1").reason
    assert asserts(worker, "def f(): return 1", "assert f() == 2", "assert f() == 1").passed == (False, True)


def test_broken_tests_are_not_the_programs_fault(worker):
    for setup, test in (("", "assert f( == 1"), ("import no_such_module", "assert f() == 1"), ("", "f(lambda: 1)")):
        assert asserts(worker, "def f(x=0): return 1", test, setup=setup).unscorable


def test_scripts(worker):
    program = "import sys\nfor line in sys.stdin:\n    print(sum(map(int, line.split())), end='  \\n')"
    tests = [("1 2\n3 4\n", "3\n7\n"), ("5 6", "11"), ("1 2\n3 4\n", "3\n"), ("1 2\n", "3\n7\n"), ("x", "0")]
    tested = run_stdio(worker, program, tests, Limits(seconds=5))
    assert tested.passed == (True, True, False, False, False)
    main = "def go(): print(input()[::-1])\nif __name__ == '__main__': go()"
    assert run_stdio(worker, main, [("abc", "cba")], Limits(seconds=5)).passed == (True,)
    big = "1 " * 200_000
    assert run_stdio(worker, "print(len(input().split()))", [(big, "200000")], Limits(seconds=5)).passed == (True,)


def test_dataclasses_and_recursion(worker):
    program = "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
    program += "def f(n): return 0 if n == 0 else 1 + f(n - 1)"
    assert asserts(worker, program, "assert P(3).x == 3", "assert f(500) == 500").passed == (True, True)


SAMPLE = Path(__file__).parents[2].parent / "shared/data/acecode_sample.jsonl"


@pytest.mark.skipif(not SAMPLE.exists(), reason="the open-instruct sample is not there")
def test_verdicts_of_other_people(worker):
    """Programs of several models with the pass rates that their authors measured (a few import
    packages that they had; ours have the standard library)."""
    rows = [json.loads(line) for line in SAMPLE.open()]
    seen, elsewhere = set(), []
    for row in rows:
        for inference in row["inferences"]:
            tested = asserts(worker, inference["completion"], *row["test_cases"])
            if "No module named" in tested.reason:
                elsewhere.append(inference["completion_id"])
                continue
            rate = sum(tested.passed) / len(tested.passed)
            assert rate == pytest.approx(inference["pass_rate"], abs=1e-6), (inference["completion_id"], tested.reason)
            seen.add(rate)
    assert len(seen) > 1 and len(elsewhere) < 5, (seen, elsewhere)
