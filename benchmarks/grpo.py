"""One step of GRPO, 4 prompts with 8 answers of 64 tokens each, beta 0.04, against TRL's GRPOTrainer.

A step is everything: sampling, rewarding, the reference, the update of all weights. Both sides draw from the same
random model, which hardly ever stops by itself, answer the same GSM8K questions and are paid for the same thing, the
letters "e" in what they wrote. Each side runs in a process of its own, in turns; the first steps are discarded.

    python -m benchmarks.grpo                                     the table
    python -m benchmarks.grpo ours --size small --steps 2 --discard 1
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from typing import Any

import numpy as np
import torch

from . import measure

PROMPTS, ANSWERS, NEW, BETA, LEARNING_RATE = 4, 8, 64, 0.04, 1e-6

SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "hidden_size": 384, "intermediate_size": 1152, "num_hidden_layers": 4, "num_attention_heads": 6,
        "num_key_value_heads": 2,
    },
    "large": {},
}  # fmt: skip
"""Changes to the benchmarks' model: 25.8 M and 134.5 M parameters."""
NAMES = {"small": "25.8 M", "large": "134.5 M"}
PEER = {"small": "fp32", "large": "bf16"}
"""The format in which the peer is measured on each."""


def prompts(steps: int) -> list[str]:
    return [f"Question: {row['question']}\nAnswer:" for row in measure.rows(steps * PROMPTS)]


def pay(text: str) -> float:
    return float(text.count("e"))


def report(times: list[float], discard: int, **more: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": statistics.median(times[discard:]), "peak_bytes": peak, "steps": times, **more}))


def ours(size: str, steps: int, discard: int, precision: str) -> None:
    from nurture.methods import GRPO
    from nurture.models.fused import fuse
    from nurture.models.layouts import choose_layout, set_layout
    from nurture.models.roles import LocalRoles
    from nurture.protocols import Scored
    from nurture.records import Message, Task
    from nurture.rollout.loop import Prompt, Rollouts, single_turn
    from nurture.rollout.sampler import LocalSampler
    from nurture.train.loop import Budget, train
    from nurture.train.optim import AdamW
    from nurture.train.precision import choose_precision
    from nurture.train.processes import Processes

    measure.as_in_a_run()
    tokenizer = measure.tokenizer()
    dtype = choose_precision(precision, torch.device("cpu"))
    policy, reference = (measure.model(dtype, **SIZES[size]) for _ in range(2))
    layout = choose_layout(policy, 1024).layout
    models = {"policy": policy, "ref": reference.requires_grad_(False)}
    for model in models.values():
        set_layout(model, layout)
        fuse(model)
        model.eval()
    optimizer = AdamW(policy.named_parameters())
    roles = LocalRoles(models, dict.fromkeys(models, layout), optimizer, Processes())
    asked = [
        Prompt(Task((Message("user", text),)), np.array(tokenizer(text)["input_ids"]), str(i))
        for i, text in enumerate(prompts(steps))
    ]
    rollouts = Rollouts(
        asked, single_turn(LocalSampler(policy, layout=layout)), lambda answers: [Scored(pay(a.text)) for a in answers],
        roles, GRPO(num_generations=ANSWERS, max_completion_length=NEW, beta=BETA),
        lambda ids: str(tokenizer.decode(list(ids))), PROMPTS, seed=0,
    )  # fmt: skip
    measure.await_turn()
    times, last = [], time.perf_counter()
    updates = train(
        roles, rollouts.method, rollouts.batches(dict, 0, steps), learning_rate=lambda n: LEARNING_RATE,
        budget=Budget(4096),
    )  # fmt: skip
    for _ in updates:
        rollouts.laps.lap("train")
        times.append(time.perf_counter() - last)
        measure.await_turn()
        rollouts.laps.go_on()
        last = time.perf_counter()
    report(times, discard, **rollouts.laps.seconds, length=rollouts.metrics["rollout/length"])


def trl(size: str, steps: int, discard: int, precision: str) -> None:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            measure.await_turn()
            self.last = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter() - self.last)
            measure.await_turn()
            self.last = time.perf_counter()

    folder = tempfile.mkdtemp()  # the trainer makes its reference from the folder
    measure.model(torch.float32, **SIZES[size]).save_pretrained(folder)
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=precision == "bf16", beta=BETA, num_generations=ANSWERS,
        max_completion_length=NEW, per_device_train_batch_size=PROMPTS * ANSWERS, gradient_accumulation_steps=1,
        max_steps=steps, learning_rate=LEARNING_RATE, lr_scheduler_type="constant", logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True, gradient_checkpointing=False, shuffle_dataset=False,
        dataloader_pin_memory=False, model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip
    trainer = GRPOTrainer(
        folder, lambda completions, **_: [pay(text) for text in completions], config,
        Dataset.from_list([{"prompt": text} for text in prompts(steps)]), processing_class=measure.tokenizer(),
        callbacks=[Clock()],
    )  # fmt: skip
    trainer.train()
    logged = [row["completions/mean_length"] for row in trainer.state.log_history if "completions/mean_length" in row]
    report(times, discard, length=logged[-1])


def table(sizes: list[str], steps: int, discard: int, rounds: int) -> None:
    results: dict[str, Any] = {}
    parts = ("sample", "reward", "score", "train")
    for size in sizes:
        said = ("--size", size, "--steps", str(steps), "--discard", str(discard))
        runs: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
        for _ in range(rounds):
            # (Round by round: together, step by step, the two of the larger model hardly fit into 24 GB.)
            runs["ours"].append(measure.child("benchmarks.grpo", "ours", *said))
            runs["trl"].append(measure.child("benchmarks.grpo", "trl", *said, "--precision", PEER[size]))
        us, them = ({key: statistics.median(r[key] for r in runs[side]) for key in runs[side][0] if key != "steps"}
                    for side in ("ours", "trl"))  # fmt: skip
        for side, result in (("ours", us), ("trl", them)):
            kept = [run["steps"][discard:] for run in runs[side]]
            print(f"{side}: {' | '.join(' '.join(f'{step:.2f}' for step in run) for run in kept)} s", flush=True)
            result["seconds"] = statistics.median(step for run in kept for step in run)
        ratio, memory = them["seconds"] / us["seconds"], us["peak_bytes"] / them["peak_bytes"]
        split = ", ".join(f"{part} {us[part]:.2f}" for part in parts)
        print(f"{NAMES[size]}: ours {us['seconds']:.2f} s a step ({split}), peak {us['peak_bytes'] / 1e9:.2f} GB; TRL "
              f"({PEER[size]}) {them['seconds']:.2f} s, peak {them['peak_bytes'] / 1e9:.2f} GB  ->  {ratio:.2f} x as "
              f"fast, {memory:.0%} of the memory", flush=True)  # fmt: skip
        results[NAMES[size]] = {
            "ours": us["seconds"], "peer": them["seconds"], "ratio": ratio, "memory_ratio": memory,
            "peak_bytes": us["peak_bytes"], "split": {part: us[part] for part in parts},
            "mean_length": {"ours": us["length"], "peer": them["length"]},
        }  # fmt: skip
    measure.write("grpo", results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", nargs="?", choices=["ours", "trl"])
    parser.add_argument("--size", choices=list(SIZES), help="only this one")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--discard", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--precision", default="auto")
    a = parser.parse_args()
    if a.side == "ours":
        ours(a.size or "small", a.steps, a.discard, a.precision)
    elif a.side == "trl":
        trl(a.size or "small", a.steps, a.discard, a.precision)
    else:
        table([a.size] if a.size else list(SIZES), a.steps, a.discard, a.rounds)


if __name__ == "__main__":
    main()
