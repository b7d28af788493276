"""Causal attention within many segments of one long row, for CPUs, with a backward pass of its own.

torch's fused kernel would be called once per segment, and its backward pass is slow for segments of some tens or
hundreds of tokens. Here segments of like length are padded to one size and multiplied together; a long one is cut into
pieces, rows of queries that need not see the keys behind them. No tensor of probabilities is ever much larger than
`SCORES`; those of short segments are kept for the backward pass, those of long ones are computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..core.shapes import spare

QUERIES = 128
"""The queries of one segment in a piece."""
SCORES = 2**19
"""About how many scores a piece may have: few enough that they are still in the cache for the next operation."""
KEPT = 256
"""Where a query sees no more keys than this on average, its probabilities are kept: about as many numbers as its layer
keeps of a token anyway, and a quarter of the time of the backward pass."""
WIDTHS = 8
"""Segments are padded to a multiple of this, for the reason in `core/shapes.py`."""
WASTE = 2**16
"""A segment joins a longer one's block if padding it costs no more scores than this: about what the operations of a
block of its own would cost."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Queries a to b of each segment of a block."""

    places: slice
    """Where its queries are among the padded ones, `[kv_heads, segments, heads that share a key, b - a]`."""
    mask: Tensor
    """Added to the scores: `[1, heads that share a key * (b - a), prefix + b]`."""


@dataclass(frozen=True, slots=True)
class Block:
    """Segments of like length; each attends causally to itself and to all of the one prefix."""

    prefix: tuple[int, int]
    batch: int
    """Key heads times segments."""
    places: slice
    """Where its keys are among the padded ones, `[kv_heads, segments, prefix + longest]`."""
    pieces: list[Piece]


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """How the attention of one row is computed, for all of its layers. Rows are counted as `token * heads + head`."""

    blocks: list[Block]
    queries: Tensor
    """The row of the query at each padded place."""
    padding: Tensor | None
    """`[places, 1]`: which places of queries are padding, if any are."""
    from_queries: Tensor
    """The place of each row of queries."""
    keys: Tensor
    from_keys: Tensor
    """The same for keys; a key's own place, not those where it is part of a prefix."""
    keep: bool
    """Whether the probabilities are kept for the backward pass."""


def lay_work(
    lengths: Sequence[int], parent: Sequence[int], heads: int, kv_heads: int, dtype: torch.dtype, device: torch.device
) -> Work:
    """Segment i has `lengths[i]` tokens and attends to itself causally and to all of segment `parent[i]` (-1: none)."""
    stops = list(accumulate(lengths))
    starts = torch.tensor([0, *stops[:-1]])
    sizes = torch.tensor(lengths)
    shared = heads // kv_heads
    key_head = torch.arange(kv_heads)[:, None, None]
    head = (key_head * shared + torch.arange(shared))[:, :, :, None]  # [kv_heads, 1, shared, 1]
    blocks: list[Block] = []
    queries: list[Tensor] = []
    padding: list[Tensor] = []
    keys: list[Tensor] = []
    from_queries = torch.empty(stops[-1] * heads, dtype=torch.long)
    from_keys = torch.empty(stops[-1] * kv_heads, dtype=torch.long)
    query_place = key_place = 0
    for prefix_segment, members in _alike(lengths, parent, heads):
        first, size = starts[members][:, None], sizes[members][:, None]
        width = _padded(lengths[members[0]])
        prefix = (0, 0)
        if prefix_segment >= 0:
            prefix = (stops[prefix_segment] - lengths[prefix_segment], stops[prefix_segment])
        before = prefix[1] - prefix[0]
        # Padding repeats a segment's last token: it may be anything finite, since causality hides it from all before.
        own = first + torch.minimum(torch.arange(width), size - 1)
        seen = torch.cat([torch.arange(*prefix).expand(len(members), before), own], 1)
        rows = (seen * kv_heads + key_head).flatten()
        places = key_place + torch.arange(len(rows)).view(kv_heads, len(members), -1)
        is_own = (torch.arange(before + width) >= before) & (torch.arange(before + width) < before + size)
        is_own = is_own.expand(kv_heads, -1, -1)
        from_keys[rows.view_as(places)[is_own]] = places[is_own]
        block = Block(prefix, kv_heads * len(members), slice(key_place, key_place + len(rows)), [])
        keys.append(rows)
        key_place += len(rows)
        for a in range(0, width, QUERIES):
            b = min(a + QUERIES, width)
            rows = own[:, None, a:b] * heads + head  # [kv_heads, segments, shared, b - a]
            places = query_place + torch.arange(rows.numel()).view_as(rows)
            real = (torch.arange(a, b) < size)[:, None].expand_as(rows)
            from_queries[rows[real]] = places[real]
            hidden = torch.ones(b - a, before + b, dtype=torch.bool).triu(before + a + 1)
            mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf).repeat(shared, 1)[None]
            block.pieces.append(Piece(slice(query_place, query_place + rows.numel()), mask.to(device)))
            queries.append(rows.flatten())
            padding.append(~real.flatten())
            query_place += rows.numel()
        blocks.append(block)
    padded = torch.cat(padding)
    scores = sum(p.mask.numel() * block.batch for block in blocks for p in block.pieces)
    return Work(
        blocks,
        torch.cat(queries).to(device),
        padded[:, None].to(device) if padded.any() else None,
        from_queries.to(device),
        torch.cat(keys).to(device),
        from_keys.to(device),
        keep=scores <= KEPT * stops[-1] * heads,
    )


def _alike(lengths: Sequence[int], parent: Sequence[int], heads: int) -> list[tuple[int, list[int]]]:
    """Segments of like length behind the same prefix, the longest first."""
    out: list[tuple[int, list[int]]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (parent[i], -lengths[i], i)):
        if out and out[-1][0] == parent[i]:
            members = out[-1][1]
            width, before = _padded(lengths[members[0]]), lengths[parent[i]] if parent[i] >= 0 else 0
            alone = _padded(lengths[i])
            waste = heads * (width * (before + width) - alone * (before + alone))
            scores = (len(members) + 1) * heads * min(QUERIES, width) * (before + width)
            if waste <= WASTE and scores <= SCORES:
                members.append(i)
                continue
        out.append((parent[i], [i]))
    return out


def _padded(length: int) -> int:
    return length + spare(length, WIDTHS)


def attend(query: Tensor, key: Tensor, value: Tensor, scaling: float, work: Work) -> Tensor:
    """`query [1, heads, N, D]`, `key` and `value` `[1, kv_heads, N, D]` -> `[1, heads, N, D]`."""
    apply: Callable[..., Tensor] = _Attend.apply  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return apply(query, key, value, scaling, work)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float, work: Work) -> Tensor:
        ctx.scaling, ctx.work = scaling, work
        kept: list[Tensor] = []
        keep = work.keep and any(ctx.needs_input_grad)
        q, k, v = _rows(query, work.queries), _rows(key, work.keys), _rows(value, work.keys)
        out = q.new_empty(len(q), v.shape[-1])
        for block in work.blocks:
            ks, vs = _of(k, block.places, block), _of(v, block.places, block)
            for piece in block.pieces:
                seen = piece.mask.shape[-1]
                p = _probabilities(_of(q, piece.places, block), ks[:, :seen], scaling, piece)
                torch.bmm(p, vs[:, :seen], out=_of(out, piece.places, block))
                kept += [p] if keep else []
        ctx.save_for_backward(query, key, value, *kept)
        return _tokens(out, work.from_queries, query)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value, *kept = ctx.saved_tensors
        known = iter(kept)
        scaling: float = ctx.scaling
        work: Work = ctx.work
        q, k, v = _rows(query, work.queries), _rows(key, work.keys), _rows(value, work.keys)
        do = _rows(grads[0], work.queries)
        if work.padding is not None:
            do.masked_fill_(work.padding, 0.0)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for block in work.blocks:
            ks, vs, dks, dvs = (_of(x, block.places, block) for x in (k, v, dk, dv))
            for piece in block.pieces:
                qs, dos, dqs = (_of(x, piece.places, block) for x in (q, do, dq))
                seen = piece.mask.shape[-1]
                p = next(known) if work.keep else _probabilities(qs, ks[:, :seen], scaling, piece)
                dvs[:, :seen].baddbmm_(p.mT, dos)
                ds = torch.ops.aten._softmax_backward_data(torch.bmm(dos, vs[:, :seen].mT), p, -1, p.dtype)
                dks[:, :seen].baddbmm_(ds.mT, qs, alpha=scaling)
                dqs.baddbmm_(ds, ks[:, :seen], beta=0, alpha=scaling)
        d_key, d_value = _tokens(dk, work.from_keys, key), _tokens(dv, work.from_keys, value)
        for block in work.blocks:
            start, stop = block.prefix
            if stop > start:  # a prefix receives the sum over its segments
                for to, places in ((d_key, dk), (d_value, dv)):
                    of = _of(places, block.places, block)[:, : stop - start]
                    to[0, :, start:stop] += of.unflatten(0, (to.shape[1], -1)).sum(1)
        return _tokens(dq, work.from_queries, query), d_key, d_value, None, None


def _probabilities(queries: Tensor, keys: Tensor, scaling: float, piece: Piece) -> Tensor:
    scores = torch.baddbmm(piece.mask, queries, keys.mT, alpha=scaling)
    # For bf16, the softmax that widens its input is twice as fast as the one that does not.
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)


def _rows(x: Tensor, rows: Tensor) -> Tensor:
    """`[1, heads, N, D] -> [places, D]`."""
    return x[0].transpose(0, 1).reshape(-1, x.shape[-1]).index_select(0, rows)


def _tokens(x: Tensor, places: Tensor, like: Tensor) -> Tensor:
    """`[places, D] -> [1, heads, N, D]`, of the heads and tokens of `like`."""
    return x.index_select(0, places).view(1, like.shape[2], like.shape[1], x.shape[-1]).transpose(1, 2)


def _of(x: Tensor, places: slice, block: Block) -> Tensor:
    """The places of one block or piece, `[batch, tokens, D]`, a view."""
    return x[places].view(block.batch, -1, x.shape[-1])
