"""Which groups make batch number k: a pure function of (seed, k), so a resumed run needs no state to go on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..core.random import numpy_generator
from ..types import Batch, Group

if TYPE_CHECKING:
    from .mix import Mixture


def sample_order(seed: int, epoch: int, n: int, mixture: Mixture | None = None) -> NDArray[np.int64]:
    """The samples of one epoch: all n in an order of its own, or what a mixture takes of them."""
    return numpy_generator(seed, "sample order", epoch).permutation(n) if mixture is None else mixture.order(epoch)


def epoch_size(n: int, mixture: Mixture | None = None) -> int:
    return n if mixture is None else mixture.total


def steps_in(n: int, batch_size: int, epochs: float) -> int:
    """Batches that show n samples `epochs` times; the last of them is filled up from the epoch after."""
    return math.ceil(n * epochs / batch_size)


def batches(
    groups: Sequence[Group],
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    steps: int | None = None,
    epochs: float | None = None,
    mixture: Mixture | None = None,
) -> Iterator[Batch]:
    """Batches number `start_step` (from 0) up to `steps`, or up to what `epochs` need.

    The epochs' orders are laid end to end and cut every `batch_size` samples. So every batch is full: the one in which
    an epoch ends is filled from the next epoch's order. Of a `mixture` the groups are its sources laid end to end, and
    each epoch takes of them what it does.
    """
    assert (steps is None) != (epochs is None), "say either steps or epochs"
    assert groups and batch_size > 0
    n, size = len(groups), epoch_size(len(groups), mixture)
    last = steps if steps is not None else steps_in(size, batch_size, epochs or 0)
    order, of_epoch = sample_order(seed, 0, n, mixture), 0
    for step in range(start_step, last):
        chosen: list[Group] = []
        for position in range(step * batch_size, (step + 1) * batch_size):
            epoch, place = divmod(position, size)
            if epoch != of_epoch:
                order, of_epoch = sample_order(seed, epoch, n, mixture), epoch
            chosen.append(groups[order[place]])
        yield Batch(tuple(chosen))


def apart(batch: Batch) -> Batch:
    """Each response in a group of its own, for methods whose loss is a sum over responses."""
    return Batch(tuple(replace(g, responses=(r,)) for g in batch.groups for r in g.responses), batch.device)


def rank_share(batch: Batch, rank: int, world_size: int) -> Batch:
    """The groups of a global batch that one process works on: longest first, each to the process with the fewest tokens
    so far. Every group goes to exactly one process; with few groups a process may get none."""
    load = [0] * world_size
    mine: list[int] = []
    for i in sorted(range(batch.num_groups), key=lambda i: (-batch.groups[i].num_tokens, i)):
        lightest = min(range(world_size), key=lambda r: (load[r], r))
        load[lightest] += batch.groups[i].num_tokens
        if lightest == rank:
            mine.append(i)
    return Batch(tuple(batch.groups[i] for i in sorted(mine)), batch.device)
