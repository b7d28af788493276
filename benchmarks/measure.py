"""What the benchmarks share: the model, the rows, the machine's own limits, and the table they print."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

ROWS = Path("../shared/data/gsm8k_train.jsonl")
"""GSM8K's training rows (`question`, `answer`), from openai/grade-school-math."""
OUT = Path(__file__).parent / "out"

QWEN2_134M = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True, "max_position_embeddings": 2048,
}  # fmt: skip


def rows(number: int) -> list[dict[str, str]]:
    if not ROWS.exists():
        sys.exit(f"This benchmark reads {ROWS} (GSM8K's train.jsonl); put it there.")
    with ROWS.open() as f:
        return [json.loads(line) for line, _ in zip(f, range(number), strict=False)]


def tokenizer() -> Any:
    """A byte-level BPE learnt from the rows: about as many tokens a row as a real model's."""
    from nurture.models.load import train_tokenizer

    return train_tokenizer([f"{r['question']}\n{r['answer']}" for r in rows(4000)], 16384)


def model(dtype: torch.dtype, **changes: Any) -> Any:
    from transformers import AutoModelForCausalLM, Qwen2Config

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(Qwen2Config(**(QWEN2_134M | changes)), dtype=dtype)


def questions(number: int) -> list[tuple[list[int], list[int]]]:
    """Token ids of a prompt and its answer, with the stop token, of the first rows."""
    encode, chosen = tokenizer(), rows(number)
    prompts = encode([f"Question: {r['question']}\nAnswer:" for r in chosen])["input_ids"]
    answers = encode([f" {r['answer']}<|endoftext|>" for r in chosen])["input_ids"]
    return list(zip(prompts, answers, strict=True))


def our_steps(
    role: str, model: Any, method: Any, batches: Iterable[Any], rate: float, tokens: int, layout: Any = "auto"
) -> Iterator[tuple[float, float]]:
    """(seconds, loss) of each of our own steps, as a run makes them."""
    from nurture.models.fused import fuse
    from nurture.models.layouts import choose_layout, set_layout
    from nurture.models.roles import LocalRoles
    from nurture.train.loop import Budget, train
    from nurture.train.optim import AdamW
    from nurture.train.processes import Processes

    chosen = choose_layout(model, 1024, layout).layout
    set_layout(model, chosen)
    fuse(model)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    roles = LocalRoles({role: model}, {role: chosen}, AdamW(trained), Processes())
    await_turn()
    last = time.perf_counter()
    for step in train(roles, method, batches, learning_rate=lambda n: rate, budget=Budget(tokens)):
        now = time.perf_counter()
        yield now - last, step.metrics["loss"]
        await_turn()
        last = time.perf_counter()


def as_in_a_run() -> None:
    """What a run sets for the process before it loads anything."""
    from nurture.train.memory import keep_few_kernels, keep_pages
    from nurture.train.precision import deterministic

    keep_pages()
    keep_few_kernels()
    deterministic()


def clock() -> Any:
    """A callback for TRL's trainers that keeps the seconds and the loss of every step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.times: list[float] = []
            self.losses: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            await_turn()
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.times.append(time.perf_counter() - self.started)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **__: Any) -> None:
            if logs and "loss" in logs:
                self.losses.append(float(logs["loss"]))

    return Clock()


def tell(**measured: Any) -> None:
    """What a side found, and the peak memory of its process, on its last line."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak_bytes": peak, **measured}))


def matmul_rate(dtype: torch.dtype, seconds: float = 2.0) -> float:
    """FLOP/s of a large matrix product: the most that training could reach on this machine."""
    a, b = torch.randn(2048, 2048).to(dtype), torch.randn(2048, 2048).to(dtype)
    for _ in range(3):
        a @ b
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        a @ b
        rounds += 1
    return 2 * 2048**3 * rounds / (time.perf_counter() - started)


def child(module: str, *args: str) -> dict[str, Any]:
    """Run one side in a process of its own (so that its peak memory is its own) and read its last line."""
    return in_turns(module, list(args))[0]


TURNS = "NURTURE_BENCHMARK_IN_TURNS"
READY = "@ready"


def await_turn() -> None:
    """What a side calls before each of its steps. It waits until the other has done as many."""
    if TURNS in os.environ:
        print(READY, flush=True)
        sys.stdin.readline()


def in_turns(module: str, *sides: list[str]) -> list[dict[str, Any]]:
    """Like `child` for several sides, which take turns step by step: a machine that others use as well may be half as
    fast a minute later, and is not a second later."""
    running: list[subprocess.Popen[str]] = []
    last: list[str] = []  # what each said when it ended; nothing as long as it waits for its turn
    with tempfile.TemporaryFile("w+") as said:
        for args in sides:
            command = [sys.executable, "-m", module, *args]
            pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": said, "text": True}
            running.append(subprocess.Popen(command, env=os.environ | {TURNS: "1"}, **pipes))
            last.append(_until_ready(running[-1]))
        while not all(last):
            for i, process in enumerate(running):
                if not last[i]:
                    assert process.stdin is not None
                    process.stdin.write("\n")
                    process.stdin.flush()
                    last[i] = _until_ready(process)
        for args, process in zip(sides, running, strict=True):
            if process.wait():
                said.seek(0)
                sys.exit(f"{module} {' '.join(args)} failed:\n{said.read()[-4000:]}")
    return [json.loads(line) for line in last]


def _until_ready(process: subprocess.Popen[str]) -> str:
    """Reads on until the process waits for its turn, or ends: then its last line."""
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        if line.strip() == READY:
            return ""
        last = line.strip() or last
    return last or "null"


def machine() -> dict[str, Any]:
    import transformers

    from nurture.train.precision import cpu_features

    with open("/proc/cpuinfo") as f:
        names = [line.split(":")[1].strip() for line in f if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(), "features": sorted(cpu_features()),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "transformers": transformers.__version__,
    }  # fmt: skip


def write(name: str, results: dict[str, Any]) -> None:
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **results}, indent=1) + "\n")
    print(f"written to {path}")
