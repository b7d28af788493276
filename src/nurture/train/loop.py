"""The one loop: language modelling, SFT, reward models, DPO, PPO, GRPO.

It yields a `Step` after every update and calls nobody back; logging, saving, evaluating and stopping are written around
it as `for step in train(...)`.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from ..errors import InputError
from ..methods import Method
from ..protocols import Roles
from ..types import Batch, Stats, Step
from .faults import failpoint
from .guard import is_out_of_memory


@dataclass
class Budget:
    """Tokens per micro-batch. It halves when memory runs out; the global batch stays. Part of the checkpoint."""

    tokens: int


class Stopped(Exception):
    """Raised inside a step when a stop was asked for; the unfinished step is discarded."""


def train(
    roles: Roles,
    method: Method,
    batches: Iterable[Batch],
    *,
    learning_rate: Callable[[int], float],
    budget: Budget,
    first_step: int = 1,
    stop: Callable[[], bool] = lambda: False,
    phase: Callable[[str, int], None] = lambda name, step: None,
) -> Iterator[Step]:
    """One update per batch. `stop` is asked before every micro-batch; `phase` is told what the step is doing."""
    for number, batch in enumerate(batches, first_step):
        phase("forward-backward", number)

        def interrupted(step: int = number) -> bool:
            phase("forward-backward", step)  # a sign of life with every micro-batch
            return stop()

        try:
            counts, batch = roles.all_sum(method.counts(batch)), method.taught(batch)
            stats, objective, halvings = _accumulate(roles, method, batch, counts, budget, interrupted)
        except Stopped:
            roles.discard()
            return
        phase("reduce", number)
        rate = learning_rate(number)
        stats = stats.summed(roles.all_sum)
        failpoint("step.before_update")
        skipped: Literal["", "loss", "gradient"] = ""
        if math.isfinite(roles.all_sum({"objective": objective})["objective"]):
            update = roles.step(rate)
            if not math.isfinite(update["grad_norm"]):
                skipped = "gradient"
        else:
            roles.discard()
            update, skipped = {"grad_norm": math.nan}, "loss"
        sizes = roles.all_sum({"tokens": batch.num_tokens, "trained_tokens": batch.num_own})
        metrics = {**stats.means(), **update, "learning_rate": rate, **sizes}
        yield Step(number, metrics, skipped, halvings)


def _accumulate(
    roles: Roles,
    method: Method,
    batch: Batch,
    counts: dict[str, float],
    budget: Budget,
    stop: Callable[[], bool],
) -> tuple[Stats, float, int]:
    """Gradients, statistics and objective of one batch, micro-batch by micro-batch; begun again with micro-batches of
    half the size when memory runs out."""
    halvings = 0
    while True:
        try:
            return *_micro_batches(roles, method, batch, counts, budget.tokens, stop), halvings
        except Exception as error:
            pieces = batch.split(budget.tokens, method.scope)
            half = max(piece.num_tokens for piece in pieces) // 2
            if not is_out_of_memory(error):
                raise
            if len(batch.split(half, method.scope)) == len(pieces):
                raise InputError(
                    f"Out of memory in a micro-batch that cannot be halved ({2 * half} tokens). Try "
                    "gradient_checkpointing: true, a shorter max_length, or precision: bf16."
                ) from error
        # Out here the exception is gone, and with it its traceback and the tensors its frames hold.
        roles.discard()
        gc.collect()
        budget.tokens = half
        halvings += 1


def _micro_batches(
    roles: Roles, method: Method, batch: Batch, counts: dict[str, float], tokens: int, stop: Callable[[], bool]
) -> tuple[Stats, float]:
    stats, objective = Stats(), 0.0
    for micro in batch.split(tokens, method.scope):
        if stop():
            raise Stopped
        failpoint("step.micro")
        loss = method.loss(micro, roles.score(micro, method.asks))
        total = loss.divided_by(counts)
        roles.backward(total)
        stats.add(loss.stats)
        objective += float(total.detach())
    return stats, objective
