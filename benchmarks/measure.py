"""What the benchmarks share: the model, the rows, the machine's own limits, and the table they print."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
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
    done = subprocess.run([sys.executable, "-m", module, *args], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{module} {' '.join(args)} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


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
