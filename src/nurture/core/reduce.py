"""Reductions whose precision and order are stated."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from .. import kernels

vector_norm: Callable[..., Tensor] = torch.linalg.vector_norm  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def global_norm(tensors: Iterable[Tensor]) -> float:
    """The Euclidean norm over all tensors together, summed in at least fp32."""
    norms = [_norm(t) for t in tensors]
    return float(vector_norm(torch.stack(norms))) if norms else 0.0


def _norm(t: Tensor) -> Tensor:
    if t.is_contiguous() and kernels.serves(t):
        squares = torch.empty((), dtype=torch.float64)
        kernels.call("squares_bf16", t, squares, t.numel())
        return squares.sqrt().to(torch.float32)
    return vector_norm(t, dtype=torch.promote_types(t.dtype, torch.float32))
