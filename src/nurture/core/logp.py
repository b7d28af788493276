"""Log-probabilities of chosen tokens without ever holding `[tokens x vocabulary]`.

One pass over the output matrix, in chunks of rows, gives the log-probability, the entropy, the exact divergence from
another model's distribution, and whether the token was the likeliest. A row's log-probability falls with the logits by
`p`, less 1 at the token; how much that weighs, the backward pass brings as a factor. So the forward pass carries the
gradient back through the matrix at once, while the logits are at hand, and keeps `[tokens x hidden]`. A matrix that is
itself trained needs the logits again: those of the first chunk are kept, `KEPT_BYTES` of them, and the others are
computed twice. So are all where the entropy or the divergence is learnt from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from .. import kernels
from .kl import divergence, divergence_slope
from .products import weight_gradient
from .shapes import ROWS, spare

CHUNK_BYTES = 64 * 2**20
"""Size of the logits of one chunk of rows, as they come out of the matrix product, where they are not kept."""
KEPT_BYTES = 192 * 2**20
"""How much may be kept for the gradient of the matrix: logits of so many rows, which are then one chunk."""
BLOCK_BYTES = 2 * 2**20
"""Size of the fp32 logits that are worked on at a time: little enough to stay in the processor's cache from one
operation to the next."""


@dataclass(frozen=True, slots=True)
class Head:
    """`logits = softcap * tanh((hidden @ weight.T + bias) * scale / softcap)`, without the parts a model lacks.

    A sampling temperature belongs to `scale` (after the softcap: to `temperature`), so that log-probabilities are
    those of the distribution that was sampled from.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0

    def at(self, temperature: float) -> Head:
        return replace(self, temperature=temperature)

    def first(self, tokens: int) -> Head:
        """The head of the first so many tokens: models of one vocabulary fill up their tables to different sizes."""
        if len(self.weight) == tokens:
            return self
        return replace(self, weight=self.weight[:tokens], bias=None if self.bias is None else self.bias[:tokens])

    def logits(self, hidden: Tensor) -> Tensor:
        """`[T, H] -> [T, V]`, in at least fp32 after the matrix product."""
        return self.shaped(self.product(hidden))

    def product(self, hidden: Tensor) -> Tensor:
        return torch.nn.functional.linear(hidden, self.weight, self.bias)

    def shaped(self, product: Tensor) -> Tensor:
        z = product if product.dtype == torch.float64 else product.float()
        if self.scale != 1.0:
            z = z * self.scale
        if self.softcap is not None:
            z = self.softcap * torch.tanh(z / self.softcap)
        return z if self.temperature == 1.0 else z / self.temperature

    def backward(self, grad: Tensor, logits: Tensor) -> Tensor:
        """The gradient at `logits(...)` carried back to the matrix product, in place."""
        if self.temperature != 1.0:
            grad = grad.div_(self.temperature)
        if self.softcap is not None:
            capped = logits if self.temperature == 1.0 else logits * self.temperature
            grad = grad.mul_(1.0 - (capped / self.softcap).square())
        return grad if self.scale == 1.0 else grad.mul_(self.scale)


@dataclass(frozen=True, slots=True, eq=False)
class Against:
    """Another model's distribution p' at the same rows, and which divergence from it is asked for."""

    hidden: Tensor
    head: Head
    beta: float = 1.0
    """1 for KL(p || p'), 0 for KL(p' || p), between them Jensen and Shannon's (`core.kl.divergence`)."""
    temperature: float = 1.0
    """Divides the logits of both first: above 1 the distributions are flatter."""

    def log_probs(self, chunk: slice) -> Callable[[slice], Tensor]:
        """Those of p' at some rows of a chunk."""
        product = self.head.product(self.hidden[chunk])
        return lambda here: self.flattened(torch.log_softmax(self.head.shaped(product[here]), 1))

    def flattened(self, log_p: Tensor) -> Tensor:
        return log_p if self.temperature == 1 else torch.log_softmax(log_p / self.temperature, 1)


@dataclass(frozen=True, slots=True)
class Selected:
    """`[T]` each. What was not asked for is None."""

    logp: Tensor
    entropy: Tensor | None = None
    divergence: Tensor | None = None
    hit: Tensor | None = None


def selected_logp(
    hidden: Tensor,
    head: Head,
    target: Tensor,
    *,
    entropy: bool = False,
    hit: bool = False,
    against: Against | None = None,
) -> Selected:
    """`log softmax(head.logits(hidden))[target]` for `hidden [T, H]`, `target [T]`; differentiable in `hidden`, the
    head's weight and its bias.

    `entropy` adds `H(p)`, `hit` whether the target has the largest logit, `against` the divergence from another model
    over the whole vocabulary (differentiable in p only).
    """
    asks, rows = (entropy, against is not None, hit), len(target)
    if more := spare(rows):
        hidden, target = pad(hidden, (0, 0, 0, more)), pad(target, (0, more))
        against = None if against is None else replace(against, hidden=pad(against.hidden, (0, 0, 0, more)))
    apply: Callable[..., tuple[Tensor, ...]] = _Selected.apply  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    logp, *rest = apply(hidden, head.weight, head.bias, target, head, asks, against, torch.is_grad_enabled())
    return Selected(logp[:rows], *(x[:rows] if wanted else None for x, wanted in zip(rest, asks, strict=True)))


def _chunks(rows: int, vocabulary: int, itemsize: int, first: int) -> Iterator[slice]:
    """Of up to `first` bytes, then of up to `CHUNK_BYTES`."""
    start, room = 0, first
    while start < rows:
        size = max(1, room // (vocabulary * itemsize))
        size -= size % ROWS if size > ROWS else 0
        yield slice(start, min(start + size, rows))
        start, room = start + size, CHUNK_BYTES


def _blocks(chunk: slice, vocabulary: int, itemsize: int) -> Iterator[tuple[slice, slice]]:
    """Rows of the whole, and where they are in their chunk."""
    size = max(1, BLOCK_BYTES // (vocabulary * itemsize))
    for i in range(chunk.start, chunk.stop, size):
        j = min(i + size, chunk.stop)
        yield slice(i, j), slice(i - chunk.start, j - chunk.start)


def _nobody(here: slice) -> Tensor:
    raise AssertionError("no other model was given")


class _Selected(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        head: Head,
        asks: tuple[bool, bool, bool],
        against: Against | None,
        learns: bool,
    ) -> tuple[Tensor, ...]:
        want_entropy, _, want_hit = asks
        need_hidden, *need_head = ctx.needs_input_grad[:3]
        # Whoever asks for a divergence wants its gradient, which is not prepared.
        learns = learns and against is None and (need_hidden or any(need_head))
        rows, dtype = len(target), torch.float64 if hidden.dtype == torch.float64 else torch.float32
        lse, logp = hidden.new_empty(rows, dtype=dtype), hidden.new_empty(rows, dtype=dtype)
        entropy = hidden.new_empty(rows if want_entropy else 0, dtype=dtype)
        apart = hidden.new_empty(rows if against else 0, dtype=dtype)
        hit = hidden.new_empty(rows if want_hit else 0, dtype=dtype)
        back = torch.empty_like(hidden) if learns and need_hidden else None
        kept: list[Tensor | None] = []
        prepared: list[bool] = []
        ctx.first = KEPT_BYTES if learns and any(need_head) else CHUNK_BYTES
        for c in _chunks(rows, weight.shape[0], hidden.itemsize, ctx.first):
            product, other = head.product(hidden[c]), against.log_probs(c) if against else _nobody
            fits = sum(d.nbytes for d in kept if d is not None) + product.nbytes <= KEPT_BYTES
            learn = learns and (fits or not any(need_head))
            blocks = _blocks(c, weight.shape[0], dtype.itemsize)
            if head.softcap is None and not against and kernels.serves(product):
                told = [x[c] if len(x) else None for x in (entropy, hit)]
                factor = head.scale / head.temperature
                kernels.call(
                    "softmax_bf16", product, target[c], lse[c], logp[c], *told, *product.shape, int(learn), factor
                )
                blocks = ()
            for r, here in blocks:
                z = head.shaped(product[here])
                chosen, top = z.gather(1, target[r, None]).squeeze(1), z.amax(1, keepdim=True)
                below = z - top if head.softcap is not None else z.sub_(top)
                powers = below.exp() if want_entropy or against else below.exp_()
                total = powers.sum(1, keepdim=True)
                log_total = total.log()
                lse[r] = (top + log_total).squeeze(1)
                logp[r] = chosen - lse[r]
                if want_hit:
                    hit[r] = (chosen >= top.squeeze(1)).to(dtype)
                if want_entropy:
                    entropy[r] = (log_total - (powers * below).sum(1, keepdim=True) / total).squeeze(1)
                if against:
                    apart[r] = divergence(against.flattened(below - log_total), other(here), against.beta)
                if learn:  # the gradient takes the logits' place
                    d = powers.div_(total).scatter_add_(1, target[r, None], total.new_full((len(total), 1), -1.0))
                    product[here] = head.backward(d, z)
            if learn and back is not None:
                torch.mm(product, weight, out=back[c])
            kept.append(product if learn and any(need_head) else None)
            prepared.append(learn)
        ctx.save_for_backward(hidden, weight, bias, target, lse, entropy, back, *kept)
        ctx.head, ctx.against, ctx.prepared = head, against, prepared
        ctx.mark_non_differentiable(hit)
        ctx.set_materialize_grads(False)
        return logp, entropy, apart, hit

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, g_logp: Tensor | None, g_entropy: Tensor | None, g_apart: Tensor | None, g_hit: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, target, lse, entropy, back, *kept = ctx.saved_tensors
        head: Head = replace(ctx.head, weight=weight, bias=bias)
        against: Against | None = ctx.against
        need_hidden, need_weight, need_bias, *_ = ctx.needs_input_grad
        d_hidden = torch.empty_like(hidden) if need_hidden else None
        # Summed over chunks in at least fp32: bf16 sums over chunks would lose what the chunks add.
        wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        chunks = list(_chunks(len(target), weight.shape[0], hidden.itemsize, ctx.first))
        d_weight = torch.zeros_like(weight, dtype=wide) if need_weight and len(chunks) > 1 else None
        d_bias = torch.zeros_like(bias, dtype=wide) if need_bias else None
        g_logp = torch.zeros_like(lse) if g_logp is None else g_logp
        g_entropy = None if g_entropy is None or not g_entropy.any() else g_entropy
        for c, d, prepared in zip(chunks, kept, ctx.prepared, strict=True):
            x = hidden[c]
            if prepared and g_entropy is None:
                factor = -g_logp[c, None]
                if d_hidden is not None:
                    d_hidden[c] = back[c] * factor
                if d is None:  # the head is frozen
                    continue
                x = (x * factor).to(x.dtype)
                if d_bias is not None:
                    d_bias += (d * factor).sum(0)
            else:
                d = head.product(x)
                other = against.log_probs(c) if against else _nobody
                for r, here in _blocks(c, weight.shape[0], lse.dtype.itemsize):  # the gradient takes the logits' place
                    z = head.shaped(d[here])
                    q: Tensor = z - lse[r, None]
                    p = q.exp()
                    dz = p * -g_logp[r, None]
                    if g_entropy is not None:  # dH/dz = -p (log p + H)
                        dz -= p * (q + entropy[r, None]) * g_entropy[r, None]
                    if against and g_apart is not None:
                        slope = divergence_slope(against.flattened(q), other(here), against.beta)
                        dz += slope.mul_(g_apart[r, None] / against.temperature)
                    dz.scatter_add_(1, target[r, None], g_logp[r, None].to(dz.dtype))
                    d[here] = head.backward(dz, z)
                if d_hidden is not None:
                    torch.mm(d, weight, out=d_hidden[c])
                if d_bias is not None:
                    d_bias += d.sum(0, dtype=wide)
            if need_weight and d_weight is None:
                d_weight = weight_gradient(d, x)
            elif d_weight is not None and d.dtype == wide:
                d_weight.addmm_(d.T, x)
            elif d_weight is not None:
                d_weight += weight_gradient(d, x)
        return (
            d_hidden,
            None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None else d_bias.to(bias.dtype),
            None,
            None,
            None,
            None,
            None,
        )
