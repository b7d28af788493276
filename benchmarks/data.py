"""How long data files take and how much memory: `python -m benchmarks.data`.

A file of Alpaca rows is read, checked, converted and measured; a larger one is streamed. CPU seconds are what our own
process used, so that they mean the same beside other work; memory is the most it ever held.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from . import measure

VERBS = {
    "load": "from nurture.data.load import load_records; load_records(path, wants='conversation')",
    "check": "from nurture.api_data import check; check(path)",
    "convert": "from nurture.api_data import convert; convert(path, path + '.out.jsonl', 'openai')",
    "stats": "from nurture.api_data import read\nfrom nurture.data.quality.stats import measure\n"
    "measure({'rows': list(read(path))})",
}

STREAMED = ("check", "convert")
"""What is to need no more memory for a larger file."""

CHILD = """
import resource, sys, time
path = sys.argv[1]
start = time.perf_counter()
{verb}
usage = resource.getrusage(resource.RUSAGE_SELF)
# ru_maxrss would count the parent, from which this process was forked.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(usage.ru_utime + usage.ru_stime, time.perf_counter() - start, peak * 1024)
"""


def write_alpaca(path: Path, rows: int, answer: int = 40) -> None:
    """Rows of random words, `answer` of them in each answer."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(5000)]
    with path.open("w") as file:
        for made in range(rows):
            row = {
                "instruction": " ".join(draw.choices(words, k=12)),
                "input": " ".join(draw.choices(words, k=8)) if made % 2 else "",
                "output": " ".join(draw.choices(words, k=answer)),
            }
            file.write(json.dumps(row) + "\n")


def write_again(path: Path, out: Path, size: int) -> int:
    """The rows of a file over and over, until there are enough bytes; how often. (No reader remembers a row.)"""
    rows = path.read_bytes()
    times = -(-size // len(rows))
    with out.open("wb") as file:
        for _ in range(times):
            file.write(rows)
    return times


def measured(verb: str, path: Path) -> tuple[float, float, float]:
    """CPU seconds (the start of Python with them), seconds of the work, bytes."""
    command = [sys.executable, "-c", CHILD.format(verb=VERBS[verb]), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    cpu, wall, memory = map(float, done.stdout.split())
    return cpu, wall, memory


def table(folder: Path, rows: int, answer: int, stream: int) -> None:
    path = folder / "alpaca.jsonl"
    write_alpaca(path, rows, answer)
    print(f"{rows:,} Alpaca rows, {path.stat().st_size / 1e6:.0f} MB")
    for verb in VERBS:
        cpu, wall, memory = measured(verb, path)
        print(f"  {verb:<8} {cpu:6.1f} CPU s  {wall:6.1f} s  {memory / 1e6:6.0f} MB", flush=True)
    if stream:
        long = folder / "stream.jsonl"
        made = rows * write_again(path, long, stream)
        print(f"{made:,} rows, {long.stat().st_size / 1e6:.0f} MB")
        for verb in STREAMED:
            cpu, wall, memory = measured(verb, long)
            print(f"  {verb:<8} {cpu:6.1f} CPU s  {wall:6.1f} s  {memory / 1e6:6.0f} MB", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--answer", type=int, default=40, help="words of an answer; more make fewer rows of a file")
    parser.add_argument("--stream", type=int, default=1_000_000_000, help="bytes of the streamed file; 0 for none")
    chosen = parser.parse_args()
    print(f"machine: {measure.machine()}\n", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        table(Path(temporary), chosen.rows, chosen.answer, chosen.stream)
