"""DPO and a reward model on pairs, all 134.5 M weights, 4 pairs a step, against TRL; and a prompt computed once for
its eight responses against our own plain rows.

A pair is a GSM8K question with its own answer and the next row's. Both sides see the same token ids in the same order.
Each side runs in a process of its own (so that its peak memory is its own), in turns; the first steps are discarded.
Our reference is asked once before training; that time is spread over our steps. TRL's own form of it (`precompute`) is
measured too, without its time.

    python -m benchmarks.preference                  the table
    python -m benchmarks.preference --steps 2 --discard 1      a quick look
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from . import measure

PAIRS, LEARNING_RATE, MAX_LENGTH, BETA = 4, 1e-6, 2048, 0.1
PROMPT, RESPONSES, RESPONSE, GROUPS = 512, 8, 64, 2
"""The tree's case: tokens of a prompt, responses to it, tokens of each, and groups a step."""

AIMS = {"dpo": (5.0, 0.5), "reward": (3.0, 0.6)}
"""Against TRL's `bf16=True`: at least so many times as fast, with at most this share of its memory."""

Ids = list[int]


def pairs(steps: int) -> list[tuple[Ids, Ids, Ids]]:
    """Prompt, its own answer, the next row's."""
    data = measure.questions(steps * PAIRS + 1)
    return [(p, a, b) for (p, a), (_, b) in pairwise(data)]


def report(times: list[float], losses: list[float], discard: int) -> None:
    measure.tell(seconds_per_step=statistics.fmean(times[discard:]), losses=losses, seconds=times)


def ours(kind: str, steps: int, discard: int, precision: str, tokens: int) -> None:
    from nurture.methods import DPO, Reward
    from nurture.models.heads import add_score_head
    from nurture.models.layouts import choose_layout, set_layout
    from nurture.train import reference
    from nurture.train.precision import choose_precision
    from nurture.types import Batch, Group, Response

    measure.as_in_a_run()
    cpu = torch.device("cpu")
    model = measure.model(choose_precision(precision, cpu))
    groups = [
        Group(np.array(p), tuple(Response(np.array(x), np.ones(len(x), bool), rank=r) for r, x in ((1, a), (2, b))))
        for p, a, b in pairs(steps)
    ]
    asking = 0.0
    if kind == "dpo":
        layout = choose_layout(model, 1024).layout
        set_layout(model, layout)
        started = time.perf_counter()
        groups = reference.attach(groups, reference.ask(model, layout, groups, tokens, cpu))
        asking = (time.perf_counter() - started) / steps
    else:
        add_score_head(model, 1)
    role, method = ("policy", DPO(beta=BETA)) if kind == "dpo" else ("reward", Reward())
    batches = [Batch(tuple(groups[k * PAIRS : (k + 1) * PAIRS])) for k in range(steps)]
    done = list(measure.our_steps(role, model, method, batches, LEARNING_RATE, tokens))
    report([seconds + asking for seconds, _ in done], [loss for _, loss in done], discard)


def trl(kind: str, steps: int, discard: int, bf16: bool, precompute: bool) -> None:
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, Qwen2Config
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    data, clock, tokenizer = pairs(steps), measure.clock(), measure.tokenizer()
    both: dict[str, Any] = dict(  # noqa: C408
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=bf16, max_length=MAX_LENGTH, max_steps=steps,
        per_device_train_batch_size=PAIRS, learning_rate=LEARNING_RATE, lr_scheduler_type="constant", logging_steps=1,
        save_strategy="no", report_to="none", train_sampling_strategy="sequential", disable_tqdm=True,
        gradient_checkpointing=False, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer: Any
    if kind == "dpo":
        words = [[tokenizer.decode(ids) for ids in one] for one in data]
        rows = Dataset.from_list([{"prompt": p, "chosen": a, "rejected": b} for p, a, b in words])
        config = DPOConfig(beta=BETA, precompute_ref_log_probs=precompute, **both)
        ref = None if precompute else measure.model(torch.float32)  # the same weights: one seed
        trainer = DPOTrainer(
            measure.model(torch.float32), ref, args=config, train_dataset=rows, processing_class=tokenizer,
            callbacks=[clock],
        )  # fmt: skip
        seen = [(r["prompt_ids"], r["chosen_ids"], r["rejected_ids"]) for r in trainer.train_dataset]
        assert seen == data, "TRL tokenised the rows in another way"
    else:
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(
            Qwen2Config(**measure.QWEN2_134M, num_labels=1), dtype=torch.float32
        )
        rows = Dataset.from_list([{"chosen_ids": p + a, "rejected_ids": p + b} for p, a, b in data])
        trainer = RewardTrainer(
            model, args=RewardConfig(**both), train_dataset=rows, processing_class=tokenizer, callbacks=[clock]
        )
    trainer.train()
    report(clock.times, clock.losses, discard)


def layout(kind: str, steps: int, discard: int, precision: str, tokens: int) -> None:
    """A reward model on rankings of eight, in one of our layouts."""
    from nurture.methods import Reward
    from nurture.models.heads import add_score_head
    from nurture.train.precision import choose_precision
    from nurture.types import Batch, Group, Response

    measure.as_in_a_run()
    draw = np.random.default_rng(0)
    model = measure.model(choose_precision(precision, torch.device("cpu")))
    add_score_head(model, 1)

    def group() -> Group:
        ids = [draw.integers(0, 16384, RESPONSE) for _ in range(RESPONSES)]
        ranked = tuple(Response(x, np.ones(RESPONSE, bool), rank=i + 1) for i, x in enumerate(ids))
        return Group(draw.integers(0, 16384, PROMPT), ranked)

    batches = [Batch(tuple(group() for _ in range(GROUPS))) for _ in range(steps)]
    done = list(measure.our_steps("reward", model, Reward(), batches, LEARNING_RATE, tokens, kind))
    report([seconds for seconds, _ in done], [loss for _, loss in done], discard)


def table(steps: int, discard: int, rounds: int, cases: list[str]) -> None:
    from nurture.train.precision import choose_precision

    dtype = choose_precision("auto", torch.device("cpu"))
    unit = "bf16" if dtype == torch.bfloat16 else "fp32"
    results: dict[str, Any] = {"matrix_rate": measure.matmul_rate(dtype)}
    for kind in (case for case in ("dpo", "reward") if case in cases):
        peers = {"bf16=True": ["--bf16"]}
        if kind == "dpo":
            peers["bf16=True, precompute_ref_log_probs=True"] = ["--bf16", "--precompute"]
        if unit == "fp32":  # here the peer, too, is fastest in fp32
            peers["fp32"] = []
        fast, lean = AIMS[kind]
        both = ["--steps", str(steps), "--discard", str(discard)]
        for name, flags in peers.items():
            runs = [
                measure.in_turns("benchmarks.preference", ["ours", kind, *both], ["trl", kind, *both, *flags])
                for _ in range(rounds)
            ]
            (ours_, own_peak), (theirs, peak) = (
                [statistics.median(r[side][key] for r in runs) for key in ("seconds_per_step", "peak_bytes")]
                for side in (0, 1)
            )
            ratio = statistics.median(b["seconds_per_step"] / a["seconds_per_step"] for a, b in runs)
            results[f"{kind}, TRL {name}"] = {
                "ours": ours_, "peer": theirs, "ratio": ratio, "memory_ratio": own_peak / peak, "peak_bytes": own_peak,
            }  # fmt: skip
            aim = f" (aim: {fast:g} x, {lean:.0%})" if name == "bf16=True" else ""
            print(f"{kind}: ours ({unit}) {ours_:.2f} s a step, {own_peak / 1e9:.2f} GB; TRL {name} {theirs:.2f} s, "
                  f"{peak / 1e9:.2f} GB  ->  {ratio:.2f} x as fast, {own_peak / peak:.0%} of the memory{aim}",
                  flush=True)  # fmt: skip
    if "tree" in cases:
        results["tree"] = _tree(steps, discard, rounds)
    measure.write("preference", results)


def _tree(steps: int, discard: int, rounds: int) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {"tree": [], "rows": []}
    for _ in range(rounds):
        sides = [["layout", kind, "--steps", str(steps), "--discard", str(discard)] for kind in found]
        for kind, run in zip(found, measure.in_turns("benchmarks.preference", *sides), strict=True):
            found[kind].append(run)
    tree, rows = (statistics.median(r["seconds_per_step"] for r in runs) for runs in found.values())
    lean, wide = (statistics.median(r["peak_bytes"] for r in runs) for runs in found.values())
    tokens = RESPONSES * (PROMPT + RESPONSE) / (PROMPT + RESPONSES * RESPONSE)
    print(
        f"prompt of {PROMPT}, {RESPONSES} responses of {RESPONSE}: tree {tree:.2f} s, rows {rows:.2f} s  ->  "
        f"{rows / tree:.2f} x as fast, {lean / wide:.0%} of the memory (tokens: {tokens:.2f} x; aim {0.8 * tokens:.2f})"
    )
    return {"ours": tree, "peer": rows, "ratio": rows / tree, "memory_ratio": lean / wide, "aim": 0.8 * tokens}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", nargs="?", choices=["ours", "trl", "layout"])
    parser.add_argument("kind", nargs="?", choices=["dpo", "reward", "tree", "rows"])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--discard", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cases", nargs="+", default=["dpo", "reward", "tree"], choices=["dpo", "reward", "tree"])
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--tokens", type=int, default=4096, help="of a micro-batch of ours")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--precompute", action="store_true")
    a = parser.parse_args()
    if a.side == "ours":
        ours(a.kind, a.steps, a.discard, a.precision, a.tokens)
    elif a.side == "trl":
        trl(a.kind, a.steps, a.discard, a.bf16, a.precompute)
    elif a.side == "layout":
        layout(a.kind, a.steps, a.discard, a.precision, a.tokens)
    else:
        table(a.steps, a.discard, a.rounds, a.cases)


if __name__ == "__main__":
    main()
