"""Keys and values of what was read before, and the two attention plans that fill and read them.

A prompt is read once (`PrefillPlan`) for all of its responses; each response then holds one row of the cache, and all
rows advance together by one token (`DecodePlan`). Active rows are rows 0 to B-1, so that every view is a slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..models.layouts import TreePlan, softcapped


@dataclass(slots=True)
class PrefillPlan:
    """Prompts packed one after another in a single row, each attending causally to itself alone.

    Their keys and values, `[kv_heads, tokens, D]` a layer, stay here until every response has taken its copy. Virtual
    tokens are the root that stands before each of them.
    """

    lengths: Sequence[int]
    root: Sequence[tuple[Tensor, Tensor]] = ()
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    chains: TreePlan = field(init=False)

    def __post_init__(self):
        self.chains = TreePlan(list(self.lengths), [-1] * len(self.lengths), self.root)

    @property
    def spans(self) -> list[tuple[int, int]]:
        stops = list(accumulate(self.lengths))
        return list(zip([0, *stops], stops, strict=False))

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, softcap: float | None
    ) -> Tensor:
        assert layer == len(self.keys), "layers attend once each, in order"
        self.keys.append(key[0])
        self.values.append(value[0])
        return self.chains.attend(layer, query, key, value, scaling, softcap)


class KeyValueCache:
    """Keys and values, `[rows, kv_heads, capacity, D]` a layer, in one allocation. The capacity doubles when a row
    outgrows it, up to `most`, the length that no row can exceed.

    The shape of a layer is that of the first prompt written to it, so no architecture needs to be known here.
    """

    def __init__(self, rows: int, capacity: int, most: int):
        self.rows, self.capacity, self.most = rows, min(capacity, most), most
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def write_prompt(self, prefill: PrefillPlan, prompt: int, rows: slice) -> None:
        """Copy the keys and values of one prefilled prompt, with its root before it, to the front of some rows."""
        a, b = prefill.spans[prompt]
        n = prefill.root[0][0].shape[2] if prefill.root else 0
        if not self.keys:
            self.keys = [self._new(k) for k in prefill.keys]
            self.values = [self._new(v) for v in prefill.values]
        self.reserve(n + b - a)
        for i, (stored, new) in enumerate(((self.keys, prefill.keys), (self.values, prefill.values))):
            for layer, (to, source) in enumerate(zip(stored, new, strict=True)):
                to[rows, :, n : n + b - a] = source[:, a:b]
                if n:
                    to[rows, :, :n] = prefill.root[layer][i]

    def move(self, source: int, to: int, length: int) -> None:
        for stored in (*self.keys, *self.values):
            stored[to, :, :length] = stored[source, :, :length]

    def reserve(self, length: int) -> None:
        """Make room for rows of this length."""
        if length <= self.capacity:
            return
        assert length <= self.most, f"a row of {length} tokens in a cache whose rows were to hold at most {self.most}"
        old = self.capacity
        while self.capacity < length:
            self.capacity = min(2 * self.capacity, self.most)
        for stored in (self.keys, self.values):
            for layer, tensor in enumerate(stored):
                stored[layer] = self._new(tensor[0])
                stored[layer][:, :, :old] = tensor

    def _new(self, like: Tensor) -> Tensor:
        # Zeros, since a place that is masked out still enters a product: 0 times whatever memory held may be NaN.
        return like.new_zeros((self.rows, like.shape[0], self.capacity, like.shape[-1]))


class DecodePlan:
    """One new token for each active row: row i stands at position `lengths[i]` and attends to all up to itself."""

    def __init__(self, cache: KeyValueCache, lengths: Sequence[int], dtype: torch.dtype, device: torch.device):
        self.cache, self.rows, self.longest = cache, len(lengths), max(lengths) + 1
        self.positions = torch.tensor(lengths, device=device)[:, None]
        self.ragged, self.dtype = min(lengths) + 1 < self.longest, dtype
        self._places: dict[int, Tensor] = {}
        self._masks: dict[tuple[int, torch.dtype], Tensor] = {}

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, softcap: float | None
    ) -> Tensor:
        keys = self._append(self.cache.keys[layer], key)
        values = self._append(self.cache.values[layer], value)
        # Heads that share a key head become queries of one sequence: nothing is repeated.
        grouped = query.reshape(self.rows, key.shape[1], -1, query.shape[-1])
        if softcap is None and query.device.type == "cpu":
            out = self._products(layer, grouped, scaling)
        else:
            mask = self._mask(self.longest, self.dtype) if self.ragged else None
            if softcap is not None:
                out = softcapped(grouped, keys, values, scaling, softcap, mask)
            else:
                out = scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scaling)
        return out.reshape(self.rows, -1, 1, value.shape[-1])

    def _products(self, layer: int, query: Tensor, scaling: float) -> Tensor:
        """For the few queries of a step the CPU's fused kernel takes several times as long in bf16, and as long in
        fp32. The products go over the whole capacity: a slice of it would be copied first, which costs more."""
        keys, values = (x[: self.rows] for x in (self.cache.keys[layer], self.cache.values[layer]))
        mask = self._mask(self.cache.capacity, torch.promote_types(query.dtype, torch.float32))
        scores = torch.add(mask, torch.matmul(query, keys.mT), alpha=scaling)
        return torch.matmul(scores.softmax(-1).to(query.dtype), values)

    def _mask(self, places: int, dtype: torch.dtype) -> Tensor:
        """To add to the scores of the first `places`: -inf where a row has nothing yet."""
        if (places, dtype) not in self._masks:
            beyond = torch.arange(places, device=self.positions.device) > self.positions
            mask = torch.zeros(beyond.shape, dtype=dtype, device=beyond.device).masked_fill_(beyond, -torch.inf)
            self._masks[places, dtype] = mask[:, None, None]
        return self._masks[places, dtype]

    def _append(self, stored: Tensor, new: Tensor) -> Tensor:
        heads, width = new.shape[1], new.shape[-1]
        stored.view(-1, width).index_copy_(0, self._place(heads), new.reshape(-1, width))
        return stored[: self.rows, :, : self.longest]

    def _place(self, heads: int) -> Tensor:
        """Where each (row, head) of the new token goes in a layer seen as `[rows * heads * capacity, D]`."""
        if heads not in self._places:
            device = self.positions.device
            row = torch.arange(self.rows, device=device)[:, None]
            head = torch.arange(heads, device=device)
            self._places[heads] = ((row * heads + head) * self.cache.capacity + self.positions).flatten()
        return self._places[heads]
