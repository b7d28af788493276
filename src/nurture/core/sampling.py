"""From logits to tokens: filters in the order of the field (temperature, top-k, top-p, min-p), and one draw per row."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import kernels

BLOCK = 256
"""The inverse CDF first finds a block of this many tokens, then the token within it."""


def filter_logits(
    logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> Tensor:
    """`[B, V] -> [B, V]` logits of the distribution to draw from; what a filter removes is -inf.

    Top-p (Holtzman et al. 2020, arXiv:1904.09751) keeps the fewest likeliest tokens that hold probability `top_p`;
    min-p (Nguyen et al. 2024, arXiv:2407.01082) keeps tokens at least `min_p` times as likely as the likeliest one.
    Each filter sees the distribution that the one before it left, and always keeps the likeliest token.
    """
    if temperature != 1.0:
        logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        smallest_kept = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
    if top_p < 1.0:
        ascending, order = logits.sort(dim=-1)
        removed = ascending.softmax(-1).cumsum(-1) <= 1.0 - top_p
        removed[..., -1] = False
        logits = logits.masked_fill(torch.zeros_like(removed).scatter(-1, order, removed), -torch.inf)
    if min_p > 0.0:
        probability = logits.softmax(-1)
        logits = logits.masked_fill(probability < min_p * probability.amax(-1, keepdim=True), -torch.inf)
    return logits


def draw(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse-CDF sampling: `[B, V]` logits and `[B]` numbers in [0, 1) -> `[B]` tokens and their log-probabilities.

    A row's result depends on nothing but its own logits and number, and a token of probability 0 is never drawn.
    """
    if _has_kernel(logits):
        return _by_kernel("draw_fp32", logits, uniform.double().contiguous())
    probability = logits.softmax(-1)
    blocks = _in_blocks(probability)
    block, rest = _invert(blocks.sum(-1), uniform)
    within, _ = _invert(blocks[torch.arange(len(blocks), device=blocks.device), block], rest)
    token = block * BLOCK + within
    return token, probability.gather(-1, token[:, None]).squeeze(-1).log()


def greedy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest token of each row and its log-probability."""
    if _has_kernel(logits):
        return _by_kernel("greedy_fp32", logits)
    best, token = logits.max(-1)
    return token, best - logits.logsumexp(-1)


def _has_kernel(logits: Tensor) -> bool:
    return logits.ndim == 2 and logits.is_contiguous() and kernels.serves(logits, formats=(torch.float32,))


def _by_kernel(name: str, logits: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    token, logp = torch.empty(len(logits), dtype=torch.long), torch.empty(len(logits))
    kernels.call(name, token, logp, logits, *others, *logits.shape)
    return token, logp


def _in_blocks(probability: Tensor) -> Tensor:
    """`[B, V] -> [B, blocks, BLOCK]`, with zeros after the last token."""
    rows, vocabulary = probability.shape
    padded: Tensor = torch.nn.functional.pad(probability, (0, -vocabulary % BLOCK))
    return padded.view(rows, -1, BLOCK)


def _invert(mass: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The first index at which the running sum of `[B, n]` masses exceeds `uniform` of its total, and how far into that
    index's own mass (a share in [0, 1)) the number fell."""
    running = mass.cumsum(-1, dtype=torch.float64)
    reach = (uniform.double() * running[:, -1])[:, None]
    # Rounding may put `reach` at the total itself: the first place where the total is attained holds the last mass.
    last = (running < running[:, -1:]).sum(-1, keepdim=True)
    index = torch.minimum(torch.searchsorted(running, reach, right=True), last)
    own = mass.gather(-1, index).double()
    share = (reach - (running.gather(-1, index) - own)) / own
    return index.squeeze(-1), share.squeeze(-1).clamp(0.0, 1.0)
