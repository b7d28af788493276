"""Reductions whose precision and order are stated."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

vector_norm: Callable[..., Tensor] = torch.linalg.vector_norm  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def global_norm(tensors: Iterable[Tensor]) -> float:
    """The Euclidean norm over all tensors together, summed in at least fp32."""
    norms = [vector_norm(t, dtype=torch.promote_types(t.dtype, torch.float32)) for t in tensors]
    return float(vector_norm(torch.stack(norms))) if norms else 0.0
