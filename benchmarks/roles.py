"""Memory of four roles on one base of 134.5 M parameters, against the actor alone and against GRPO: LoRA of rank 8, a
small batch.

All sides make the same steps on the same rows, each in a process of its own. `roles` is PPO: the reward model and the
reference score the batch, then actor and critic learn from it. `grpo` asks the reference alone, and `actor` learns from
the same rows with REINFORCE, which asks nobody. The peak counts the whole process, Python and torch included.

    python -m benchmarks.roles
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import measure

BATCH, RANK, TOKENS = 4, 8, 256
"""Rows, LoRA's rank, and the most tokens of a row."""
SIDES = ("actor", "grpo", "roles")


def side(name: str, steps: int, precision: str) -> None:
    from nurture.adapters.attached import attach, copy_adapter
    from nurture.adapters.lora import LoRA
    from nurture.methods import GRPO, PPO, Reinforce
    from nurture.models.cast import assemble
    from nurture.models.heads import add_score_head
    from nurture.models.layouts import choose_layout, set_layout
    from nurture.models.load import LoadedModel
    from nurture.models.roles import LocalRoles
    from nurture.rollout.record import advantages, record
    from nurture.train.loop import Budget, train
    from nurture.train.memory import keep_pages
    from nurture.train.optim import AdamW
    from nurture.train.precision import choose_precision
    from nurture.train.processes import Processes
    from nurture.types import Batch, Group, Response

    keep_pages()
    everyone = name == "roles"
    model = measure.model(choose_precision(precision, torch.device("cpu")))
    tokenizer, adapter = measure.tokenizer(), LoRA(r=RANK)
    attach(model, adapter, tokenizer, steps=steps)
    layout = choose_layout(model, TOKENS).layout
    set_layout(model, layout)
    loaded = LoadedModel(model, tokenizer, "fresh", "", adapter=adapter)
    cast = assemble(loaded, layout, "policy", critic=everyone, ref=name != "actor", fresh=True)
    if everyone:
        copy_adapter(model, "reward")
        add_score_head(model, 1, "reward")
        cast.models["reward"], cast.layouts["reward"], cast.adapters["reward"] = model, layout, "reward"
    roles = LocalRoles(cast.models, cast.layouts, AdamW(cast.trained.items()), Processes(), adapters=cast.adapters)
    methods: dict[str, Any] = {"actor": Reinforce(), "grpo": GRPO(), "roles": PPO(num_iterations=1)}
    method = methods[name]
    groups: list[Group] = []
    for row in measure.rows(BATCH):
        prompt, answer = (np.array(tokenizer(row[key])["input_ids"][: TOKENS // 2]) for key in ("question", "answer"))
        groups.append(Group(prompt, (Response(answer, np.ones(len(answer), bool), score=1.0),)))
    batch = Batch(tuple(groups))

    def batches() -> Iterator[Batch]:
        for _ in range(steps):
            scored = batch
            if everyone:
                with torch.no_grad():
                    said = roles.score(batch, {"reward": ("score",)}).reward.score[:, 0].tolist()
                rated = zip(batch.groups, said, strict=True)
                scored = Batch(tuple(replace(g, responses=(replace(g.responses[0], score=s),)) for g, s in rated))
            yield advantages(record(scored, roles, method), method, {})

    done = list(train(roles, method, batches(), learning_rate=lambda n: 1e-5, budget=Budget(1 << 30)))
    assert len(done) == steps and not any(step.skipped for step in done)
    # The most this process ever held; ru_maxrss would count the parent it was forked from.
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    weights = sum(p.nbytes for p in model.parameters())
    print(json.dumps({"peak_bytes": peak, "weights_bytes": weights, "tokens": batch.num_tokens}))


def table(steps: int, precision: str) -> None:
    found = {s: measure.child("benchmarks.roles", s, "--steps", str(steps), "--precision", precision) for s in SIDES}
    ratio, to_grpo = (found["roles"]["peak_bytes"] / found[other]["peak_bytes"] for other in ("actor", "grpo"))
    for name, one in found.items():
        peak, weights = one["peak_bytes"] / 1e9, one["weights_bytes"] / 1e9
        print(f"{name:6} peak {peak:.2f} GB, of which weights with their adapters {weights:.2f} GB")
    print(f"four roles need {ratio:.2f} times the memory of the actor alone and {to_grpo:.2f} times that of GRPO "
          f"({found['actor']['tokens']} tokens a step)")  # fmt: skip
    measure.write("roles", {**found, "ratio": ratio, "ratio_to_grpo": to_grpo})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", nargs="?", choices=SIDES)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--precision", default="auto")
    a = parser.parse_args()
    if a.side:
        side(a.side, a.steps, a.precision)
    else:
        table(a.steps, a.precision)


if __name__ == "__main__":
    main()
