"""Reductions whose precision and order are stated."""

from collections.abc import Iterable

import torch
from torch import Tensor


def global_norm(tensors: Iterable[Tensor]) -> float:
    """The Euclidean norm over all tensors together, summed in at least fp32."""
    norms = [torch.linalg.vector_norm(t, dtype=torch.promote_types(t.dtype, torch.float32)) for t in tensors]
    return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0
