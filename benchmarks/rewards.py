"""Rewards a second, and what the sandbox costs a run.

The sandbox's overhead is the time of a run of an empty program, from the request to the answer; beside it what a bare
`fork` and exit of the same warm process costs in the same minute, which nothing built on fork can go below, and what a
new `python -I -S` costs, which is what a sandbox without a warm server pays.

    python -m benchmarks.rewards
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

import nurture
from nurture.lab.datasets import open_dataset
from nurture.protocols import Answer, Scored
from nurture.records import Task
from nurture.rewards import reward_from, score_all
from nurture.sandbox import Limits, Sandbox, run_asserts, run_stdio

from . import measure

SECONDS = 2.0
"""How long each reward is measured."""
GOOD = "<think>3+4=7. 7+8=15.</think><answer>15</answer>"

FORK = """
import sys; sys.path.insert(0, {root!r})
import gc, os, time
from nurture.sandbox import inside, server
inside.load_common_modules(); gc.disable(); gc.freeze()
times = []
for _ in range(400):
    started = time.perf_counter()
    pid = os.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
    times.append(time.perf_counter() - started)
print(times)
"""


def rate(reward: Any, answers: list[Answer]) -> float:
    """Answers a second, through the contract."""
    made = reward_from(reward)
    assert all(isinstance(o, Scored) for o in score_all(made, answers))
    scored, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        score_all(made, answers)
        scored += len(answers)
    return scored / (time.perf_counter() - started)


def times_of(run: Callable[[], Any], rounds: int) -> str:
    """Median and best, in milliseconds. On a busy machine only the best says what the work itself takes."""
    times: list[float] = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return milliseconds(times)


def milliseconds(times: list[float]) -> str:
    return f"{statistics.median(times) * 1e3:.2f} (best {min(times) * 1e3:.2f})"


def rules() -> dict[str, float]:
    answers = [Answer(Task((), "15"), GOOD, tokens=40)] * 512
    lab = [Answer(task, str(task.answer)) for task in open_dataset("lab/prompts")[:512]]
    both = {"name": "sum", "of": {"right": {"name": "number", "where": "answer"}, "form": "format"}}
    asked: dict[str, tuple[Any, list[Answer]]] = {
        "exact": ({"name": "exact", "where": "answer"}, answers),
        "number": ({"name": "number", "where": "answer"}, answers),
        "regex": ({"name": "regex", "pattern": r"<answer>\s*-?\d+\s*</answer>"}, answers),
        "format": ("format", answers),
        "language": ("language", answers),
        "repetition": ("repetition", answers),
        "number + format": (both, answers),
        "lab": ("lab", lab),
    }
    return {name: rate(reward, some) for name, (reward, some) in asked.items()}


def sandbox(rounds: int = 400) -> dict[str, str]:
    limits, box = Limits(), Sandbox(1)
    worker = box._all[0]
    program, tests = "def add(a, b):\n    return a + b", ["assert add(1, 2) == 3"]
    run_stdio(worker, "", [("", "")], limits)
    run_asserts(worker, program, "", tests, limits)
    root = str(Path(nurture.__file__).parents[1])
    forked = subprocess.run(
        [sys.executable, "-I", "-S", "-c", FORK.format(root=root)], capture_output=True, text=True, check=True
    )
    found = {
        "bare fork, ms": milliseconds(json.loads(forked.stdout)),
        "empty program, ms": times_of(lambda: run_stdio(worker, "", [("", "")], limits), rounds),
        "program with one assertion, ms": times_of(lambda: run_asserts(worker, program, "", tests, limits), rounds),
        "processor time of the empty program, ms": f"{processor_time(box, limits, rounds) * 1e3:.2f}",
        "new python -I -S, ms": times_of(lambda: subprocess.run([sys.executable, "-I", "-S", "-c", ""]), 20),
    }
    box.close()
    return found


def processor_time(box: Sandbox, limits: Limits, rounds: int) -> float:
    """Seconds of processor time a run: here, in the server and in its children. Little depends on what else runs."""
    worker = box._all[0]
    server = psutil.Process(box.pids[0])

    def spent() -> float:
        return time.process_time() + sum(server.cpu_times()[:4])

    before = spent()
    for _ in range(rounds):
        run_stdio(worker, "", [("", "")], limits)
    return (spent() - before) / rounds


def judged() -> dict[str, float]:
    """Through the whole reward, on two workers."""
    code = Task((), info={"tests": [f"assert add({i}, {i}) == {2 * i}" for i in range(5)]})
    script = Task((), info={"tests": [{"input": f"{i} {i}", "output": str(2 * i)} for i in range(5)]})
    answers = [Answer(code, "```python\ndef add(a, b):\n    return a + b\n```")] * 64
    scripts = [Answer(script, "```python\nprint(sum(map(int, input().split())))\n```")] * 64
    maths = [Answer(Task((), r"\frac{1}{2}"), "So the answer is $0.5$.")] * 32
    reward = {"name": "code", "workers": 2}
    return {
        "code: answers with 5 assertions": rate(reward, answers),
        "code: answers with 5 inputs": rate(reward, scripts),
        "maths": rate({"name": "maths", "workers": 2}, maths),
    }


def table() -> None:
    results = {"answers a second": rules() | judged(), "sandbox": sandbox()}
    for title, rows in results.items():
        print(title)
        for name, value in rows.items():
            print(f"  {name:34} {value if isinstance(value, str) else format(value, ',.0f'):>24}")
    measure.write("rewards", results)


if __name__ == "__main__":
    table()
