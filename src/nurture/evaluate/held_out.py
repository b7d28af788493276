"""The training objective on rows that are not trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from ..methods import Method
from ..protocols import Roles
from ..types import Batch, Group, Stats


def evaluate_loss(
    roles: Roles,
    method: Method,
    groups: Sequence[Group],
    *,
    tokens: int,
    device: torch.device,
    share: Callable[[Batch], Batch] = lambda batch: batch,
    alive: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """`eval/loss`, the method's other statistics that its data has, and for methods that model text `eval/perplexity`,
    over all processes' shares of the groups. `alive` is called before each batch."""
    stats = Stats(dict.fromkeys(method.metrics, (0.0, 0)))  # a process without rows takes part in every sum
    with torch.no_grad():
        for batch in share(Batch(tuple(groups), device)).split(tokens, method.scope):
            alive()
            stats.add(method.loss(batch, roles.score(batch, method.asks)).stats)
    total = stats.summed(roles.all_sum)
    means = Stats({name: kept for name, kept in total.items() if kept[1]}).means()
    nll = means.get("nll", means.get("loss"))
    if nll is not None and method.data in ("conversation", "text"):
        means["perplexity"] = math.exp(min(nll, 700.0))
    return {f"eval/{name}": value for name, value in means.items()}
