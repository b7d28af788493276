"""Drawing 64 new tokens after prompts of 64: our sampler against transformers' `model.generate`.

Same weights, same dtype, each side in a process of its own, in turns; medians over the rounds, and the median of each
pair's ratio. The prompts of a batch have one length, so the peer pads nothing. Both draw at temperature 1 without
filters (what reinforcement learning needs; ours also returns the log-probabilities), and once more greedily.

`limit_ratio` is the share of the machine's memory bandwidth, measured right before, that reading the weights and the
cache once a step would need at the speed reached. At one row that is the limit; at many rows arithmetic is.

    python -m benchmarks.sampler                     the table
    python -m benchmarks.sampler --cases "1 x 64"    some cases
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from . import measure

PROMPT, NEW = 64, 64
QWEN2_5M = {
    "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    name: str
    rows: int
    changes: dict[str, int]
    temperature: float
    target: float


CASES = [
    Case(f"{rows} x {NEW}, {size}, {how}", rows, changes, temperature, target)
    for rows, size, changes, target in ((64, "4.7 M", QWEN2_5M, 3.0), (16, "134.5 M", {}, 3.0), (1, "134.5 M", {}, 2.0))
    for how, temperature in (("sampled", 1.0), ("greedy", 0.0))
]


def build(case: Case) -> Any:
    from nurture.train.precision import choose_precision

    return measure.model(choose_precision("auto", torch.device("cpu")), **case.changes).eval()


def prompts(case: Case, vocabulary: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocabulary, (case.rows, PROMPT))


def ours(model: Any, case: Case) -> Callable[[], None]:
    from nurture.models.fused import fuse
    from nurture.models.layouts import choose_layout
    from nurture.protocols import Request, Sampling
    from nurture.rollout.sampler import LocalSampler

    fuse(model)  # as every model that is loaded
    choice = choose_layout(model, PROMPT + NEW)
    assert choice.layout == "tree", choice.reason
    sampler = LocalSampler(model, layout=choice.layout)
    requests = [Request(p, key=f"prompt {i}") for i, p in enumerate(prompts(case, model.config.vocab_size))]
    sampling = Sampling(max_tokens=NEW, temperature=case.temperature)

    def run() -> None:
        samples = sampler.sample(requests, sampling)
        assert sum(len(s.ids) for s in samples) == case.rows * NEW

    return run


def peer(model: Any, case: Case) -> Callable[[], None]:
    ids = torch.from_numpy(prompts(case, model.config.vocab_size))
    how = {"do_sample": True, "top_k": 0, "top_p": 1.0} if case.temperature else {"do_sample": False}

    def run() -> None:
        mask = torch.ones_like(ids)
        out = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, eos_token_id=None, pad_token_id=0, **how)
        assert out.shape == (case.rows, PROMPT + NEW)

    return run


SIDES = {"ours": ours, "peer": peer}


def bandwidth(seconds: float = 2.0) -> float:
    """Bytes a second of reading a tensor far larger than the caches."""
    big = torch.ones(128 * 2**20)
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < seconds:
        before = time.perf_counter()
        big.sum()
        best = min(best, time.perf_counter() - before)
    return big.numel() * big.element_size() / best


def bytes_per_step(model: Any, case: Case) -> float:
    """Every weight once (an embedding that is not also the output matrix is only looked up in), and the cache at its
    mean length."""
    config, size = model.config, model.dtype.itemsize
    embedding = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    weights = sum(p.numel() for p in model.parameters()) - embedding
    width = config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * width
    return size * (weights + case.rows * token * (PROMPT + NEW / 2))


def run(side: str, case: Case, rounds: int) -> None:
    if side == "ours":
        measure.as_in_a_run()
    once = SIDES[side](build(case), case)
    once()
    seconds: list[float] = []
    for _ in range(rounds):
        measure.await_turn()
        before = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - before)
    measure.tell(seconds=seconds)


def compare(case: Case, rounds: int) -> dict[str, Any]:
    sides = ([side, "--cases", case.name, "--rounds", str(rounds)] for side in SIDES)
    ours_, theirs = measure.in_turns("benchmarks.sampler", *sides)
    model, limit = build(case), bandwidth()
    fast, slow = (statistics.median(r["seconds"]) for r in (ours_, theirs))
    return {
        "ours": case.rows * NEW / fast,
        "peer": case.rows * NEW / slow,
        "ratio": statistics.median(b / a for a, b in zip(ours_["seconds"], theirs["seconds"], strict=True)),
        "memory_ratio": ours_["peak_bytes"] / theirs["peak_bytes"],
        "limit_ratio": bytes_per_step(model, case) * NEW / fast / limit,
        "target": case.target,
        "dtype": str(model.dtype).removeprefix("torch."),
        "bandwidth_gb": limit / 1e9,
        "seconds": {"ours": ours_["seconds"], "peer": theirs["seconds"]},
    }


def table(cases: list[Case], rounds: int) -> None:
    print(f"{'case':32} {'ours':>9} {'generate':>9}  tokens/s   ratio (target)   memory   bandwidth reached")
    results: dict[str, Any] = {}
    for case in cases:
        r = results[case.name] = compare(case, rounds)
        print(f"{case.name:32} {r['ours']:9.0f} {r['peer']:9.0f}  {r['dtype']:8} {r['ratio']:7.2f} ({case.target:.0f})"
              f"        {r['memory_ratio']:6.0%}   {r['limit_ratio']:.0%} of {r['bandwidth_gb']:.0f} GB/s",
              flush=True)  # fmt: skip
    measure.write("sampler", results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", nargs="?", choices=list(SIDES), help="run one side alone")
    parser.add_argument("--cases", default="", help="only cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=7)
    a = parser.parse_args()
    cases = [case for case in CASES if a.cases in case.name]
    if a.side is None:
        table(cases, a.rounds)
        return
    run(a.side, next(c for c in cases if c.name == a.cases), a.rounds)


if __name__ == "__main__":
    main()
