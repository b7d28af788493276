"""From responses with rewards to batches a loss can learn from. The same three steps for a language model and for a
pole: what the roles say of the rollout, what the method makes of it, and how often it is gone through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..core.advantages import explained_variance
from ..core.random import numpy_generator
from ..core.ratios import truncated_weight
from ..errors import InputError
from ..methods import Online
from ..protocols import Roles
from ..train.processes import Processes
from ..types import Batch, Group

NAMES: Mapping[tuple[str, str], str] = {
    ("policy", "logp"): "logp_old",
    ("policy", "kl"): "kl",
    ("ref", "logp"): "logp_ref",
    ("value", "value"): "value",
}
"""Under which name of a `Response` a role's answer is recorded."""


@torch.no_grad()
def record(
    batch: Batch, roles: Roles, method: Online, tokens: int = 1 << 62, processes: Processes | None = None
) -> Batch:
    """The rollout with what each role says of it now, before any update, `tokens` at a time. Several processes that
    have the same batch share the work."""
    if not method.records:
        return batch
    processes = processes or Processes()
    rank, world = processes.rank, processes.world_size
    asked = [(role, str(ask)) for role, asks in method.records.items() for ask in asks]
    found = {NAMES[ask]: torch.zeros(batch.num_own, device=batch.device) for ask in asked}
    for piece in batch.pieces(min(tokens, -(-batch.num_tokens // world)))[rank::world]:
        scores = roles.score(piece.batch, method.records)
        for role, quantity in asked:
            found[NAMES[role, quantity]][piece.own] = scores[role][quantity].float()
    processes.all_sum_tensors(list(found.values()))  # each token is in one piece, and so in one process
    roles.discard()
    return batch.recording(**found)


def advantages(batch: Batch, method: Online, state: Mapping[str, Any]) -> Batch:
    """The rollout with advantages, weighted by the truncated importance ratio where the method asks for it: a weight
    that is not negative passes through the clipped surrogate unchanged, so it may stand in the advantage."""
    batch = method.advantage(batch, state)
    if method.importance_cap is None:
        return batch
    assert batch.logp_old is not None
    if batch.logp_sampler is None:
        raise InputError("importance_cap needs the sampler's log-probabilities, and this sampler gives none.")
    weight = truncated_weight(batch.logp_old, batch.logp_sampler, method.importance_cap)
    return batch.recording(adv=batch.adv * weight)


def check_parts(method: Online, batch_size: int) -> None:
    """Every mini-batch needs a prompt."""
    if batch_size < method.num_mini_batches:
        raise InputError(
            f"num_mini_batches: {method.num_mini_batches} is more than the {batch_size} prompts of the rollout; "
            "lower it, or raise batch_size."
        )


def updates(batch: Batch, method: Online, seed: int, rollout: int, mixed: Sequence[Group] = ()) -> Iterator[Batch]:
    """`num_iterations` times the rollout's groups in a new order, cut into `num_mini_batches` batches; the groups
    `mixed` in (demonstrations, texts) are dealt out alike. A function of (seed, rollout)."""
    parts = method.num_mini_batches
    for iteration in range(method.num_iterations):
        if parts == 1:
            yield Batch(batch.groups + tuple(mixed), batch.device) if mixed else batch
            continue
        draw = numpy_generator(seed, "mini-batches", rollout, iteration)
        order = draw.permutation(batch.num_groups)
        # Groups may have been left out: where a part would be empty, some are gone through twice.
        order = np.array_split(np.resize(order, max(len(order), parts)), parts)
        extra = np.array_split(draw.permutation(len(mixed)), parts)
        for chosen, others in zip(order, extra, strict=True):
            yield Batch(tuple(batch.groups[i] for i in chosen) + tuple(mixed[i] for i in others), batch.device)


def distance(batch: Batch) -> torch.Tensor | None:
    """`[T]` nats from the reference, where a reference was asked: exact, or log p - log p_ref of the token. (Where the
    policy's log-probabilities were not recorded, the sampler's are the same up to rounding.)"""
    if batch.kl is not None:
        return batch.kl
    logp = batch.logp_sampler if batch.logp_old is None else batch.logp_old
    return None if logp is None or batch.logp_ref is None else logp - batch.logp_ref


def rollout_metrics(batch: Batch, priced: Batch) -> dict[str, float]:
    """What every rollout logs besides the method's own statistics (`runs.METRICS` says what each means). `priced` is
    what became of it with advantages, which may be less: answers that were cut off can be left out."""
    score, lengths = batch.score, np.array(batch.own_lengths)
    spread = [{r.score for r in g.responses} for g in batch.groups]
    metrics = {
        "rollout/score": float(score.mean()),
        "rollout/score_std": float(score.std(correction=0)),
        "rollout/length": float(lengths.mean()),
        "rollout/truncated": float(np.mean([r.truncated for r in batch.responses])),
    }
    if any(len(g.responses) > 1 for g in batch.groups):
        metrics["rollout/no_signal"] = float(np.mean([len(scores) == 1 for scores in spread]))
    if any(r.value is not None for r in priced.responses):
        metrics["rollout/explained_variance"] = explained_variance(priced.value, priced.ret)
    if (nats := distance(batch)) is not None:
        metrics["rollout/kl"] = float(batch.sum_per_response(nats).mean())
    return metrics
