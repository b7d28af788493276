"""Supervised fine-tuning of a 134.5 M-parameter model, all weights, batch 8, on GSM8K rows, against TRL.

Both sides see the same token ids in the same order and train on the answers only. Each side runs in a process of its
own, step by step in turns; the first steps are discarded. `tokens/s` counts the rows' own tokens, never padding.

    python -m benchmarks.sft                         the table
    python -m benchmarks.sft --reference 20          also 20 steps of a plain fp32 loop, to compare the losses with
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from . import measure

BATCH, LEARNING_RATE, MAX_LENGTH = 8, 2e-5, 2048
TARGETS = "all-linear"
"""Where LoRA goes, on both sides (`benchmarks.lora`)."""


def examples(steps: int) -> list[tuple[list[int], list[int]]]:
    return measure.questions(steps * BATCH)


def step_tokens(data: list[tuple[list[int], list[int]]], step: int) -> int:
    return sum(len(p) + len(a) for p, a in data[step * BATCH : (step + 1) * BATCH])


def report(times: list[float], losses: list[float], tokens: list[int], discard: int) -> None:
    speed = sum(tokens[discard:]) / sum(times[discard:])
    measure.tell(tokens_per_second=speed, losses=losses, seconds=times)


def ours(steps: int, discard: int, precision: str, tokens: int, rank: int) -> None:
    from nurture.adapters.attached import attach
    from nurture.adapters.lora import LoRA
    from nurture.methods import SFT
    from nurture.train.precision import choose_precision
    from nurture.types import Batch, Group, Response

    measure.as_in_a_run()
    data = examples(steps)
    model = measure.model(choose_precision(precision, torch.device("cpu")))
    if rank:
        attach(model, LoRA(r=rank, lora_alpha=2 * rank, target_modules=TARGETS), measure.tokenizer(), steps=steps)

    def batches() -> Iterator[Batch]:
        for k in range(steps):
            rows = data[k * BATCH : (k + 1) * BATCH]
            yield Batch(tuple(Group(np.array(p), (Response(np.array(a), np.ones(len(a), bool)),)) for p, a in rows))

    times, losses = zip(*measure.our_steps("policy", model, SFT(), batches(), LEARNING_RATE, tokens), strict=True)
    report(list(times), list(losses), [step_tokens(data, k) for k in range(steps)], discard)


def trl(steps: int, discard: int, bf16: bool, packing: bool, rank: int) -> None:
    import tempfile

    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    data, clock = examples(steps), measure.clock()
    dataset = Dataset.from_list([{"input_ids": p + a, "completion_mask": [0] * len(p) + [1] * len(a)} for p, a in data])
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=bf16, packing=packing, max_length=MAX_LENGTH,
        per_device_train_batch_size=1 if packing else BATCH, max_steps=-1 if packing else steps, num_train_epochs=1,
        learning_rate=LEARNING_RATE, lr_scheduler_type="constant", logging_steps=1, save_strategy="no",
        report_to="none", train_sampling_strategy="sequential", completion_only_loss=True, disable_tqdm=True,
        gradient_checkpointing=False, dataloader_pin_memory=False,
    )  # fmt: skip
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS, task_type="CAUSAL_LM") if rank else None
    trainer = SFTTrainer(
        measure.model(torch.float32), args=config, train_dataset=dataset, processing_class=measure.tokenizer(),
        callbacks=[clock], peft_config=lora,
    )  # fmt: skip
    trainer.train()
    if packing:  # each packed row is one step; tokens are what it holds
        tokens = [sum(len(x) for x in [row["input_ids"]]) for row in trainer.train_dataset][: len(clock.times)]
    else:
        tokens = [step_tokens(data, k) for k in range(steps)]
    report(clock.times, clock.losses, tokens, discard)


def reference(steps: int) -> None:
    """A plain fp32 loop with torch's own parts, one row after the other."""
    data = examples(steps)
    model = measure.model(torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    losses: list[float] = []
    for k in range(steps):
        rows = data[k * BATCH : (k + 1) * BATCH]
        count, total = sum(len(a) for _, a in rows), 0.0
        for prompt, answer in rows:
            ids = torch.tensor([prompt + answer])
            labels = ids.clone()
            labels[0, : len(prompt)] = -100
            loss = model(ids, labels=labels).loss * len(answer) / count
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    print(json.dumps({"losses": losses}))


def table(steps: int, discard: int, rounds: int, reference_steps: int, *, rank: int = 0, name: str = "sft") -> None:
    from nurture.train.precision import choose_precision

    dtype = choose_precision("auto", torch.device("cpu"))
    unit = "bf16" if dtype == torch.bfloat16 else "fp32"
    peers = {"bf16=True": ["--bf16"], "bf16=True, packing=True": ["--bf16", "--packing"]}
    if unit == "fp32":  # here the peer, too, is fastest in fp32, so it is measured there as well
        peers |= {"fp32": [], "fp32, packing=True": ["--packing"]}
    pairs: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {name: [] for name in peers}
    for _ in range(rounds):
        for peer, flags in peers.items():
            # Where bf16 has no hardware a step of the peer takes minutes: one step is discarded, one measured.
            slow = unit == "fp32" and "bf16" in peer
            both = ["--steps", "2" if slow else str(steps), "--discard", "1" if slow else str(discard)]
            both += ["--rank", str(rank)]
            ours_, theirs = measure.in_turns("benchmarks.sft", ["ours", *both], ["trl", *both, *flags])
            pairs[peer].append((ours_, theirs))
    us = [ours_ for runs in pairs.values() for ours_, _ in runs]
    speed = statistics.median(r["tokens_per_second"] for r in us)
    peak = statistics.median(r["peak_bytes"] for r in us)
    limit = measure.matmul_rate(dtype)
    # 6 FLOP per token and parameter of the body (4 where it is frozen: no gradient of the weights); the output matrix
    # only where an own token is predicted.
    body, head = 134_543_808 - 49152 * 576, 49152 * 576
    data = examples(steps)
    own = sum(len(a) for _, a in data) / sum(len(p) + len(a) for p, a in data)
    reached = (4 if rank else 6) * (body + head * own) * speed / limit
    print(f"ours ({unit}): {speed:.1f} tokens/s, peak {peak / 1e9:.2f} GB, {reached:.0%} of the machine's matrix rate "
          f"({limit / 1e9:.0f} GFLOP/s)")  # fmt: skip
    results: dict[str, Any] = {"limit_ratio": reached, "ours": {"tokens_per_second": speed, "peak_bytes": peak}}
    for peer, runs in pairs.items():
        (fast, lean), (peer_fast, peer_lean) = (
            [statistics.median(r[side][key] for r in runs) for key in ("tokens_per_second", "peak_bytes")]
            for side in (0, 1)
        )
        ratio = statistics.median(a["tokens_per_second"] / b["tokens_per_second"] for a, b in runs)
        results[peer] = {
            "ours": fast, "peer": peer_fast, "ratio": ratio, "memory_ratio": lean / peer_lean, "limit_ratio": reached,
        }  # fmt: skip
        print(f"TRL {peer}: {peer_fast:.1f} tokens/s beside {fast:.1f}, peak {peer_lean / 1e9:.2f} GB  ->  "
              f"{ratio:.2f} x as fast, {lean / peer_lean:.0%} of the memory")  # fmt: skip
    if reference_steps:
        found, want = (
            measure.child("benchmarks.sft", side, "--steps", str(reference_steps), "--discard", "0")["losses"]
            for side in ("ours", "reference")
        )
        gap = max(abs(a / b - 1) for a, b in zip(found, want, strict=True))
        results["largest_relative_loss_gap"] = gap
        print(f"losses of {reference_steps} steps differ from a plain fp32 loop's by at most {gap:.3%}")
    measure.write(name, results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", nargs="?", choices=["ours", "trl", "reference"])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--discard", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--reference", type=int, default=0)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--tokens", type=int, default=4096, help="of a micro-batch of ours")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--rank", type=int, default=0, help="of LoRA; 0 trains all weights")
    a = parser.parse_args()
    if a.side == "ours":
        ours(a.steps, a.discard, a.precision, a.tokens, a.rank)
    elif a.side == "trl":
        trl(a.steps, a.discard, a.bf16, a.packing, a.rank)
    elif a.side == "reference":
        reference(a.steps)
    else:
        table(a.steps, a.discard, a.rounds, a.reference, rank=a.rank)


if __name__ == "__main__":
    main()
