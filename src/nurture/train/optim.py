"""AdamW with fp32 masters, and the learning-rate schedule.

The model computes in its own format; what is learnt lives here in fp32. Each step goes parameter by parameter, Muon's a
few matrices at a time: the gradient is widened, the fused kernel updates master and moments in one pass over memory,
the model gets the rounded master. So no second full set of fp32 gradients ever exists.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from .. import kernels
from ..errors import InputError

Schedule = Literal["cosine", "linear", "constant"]


def learning_rate(step: int, steps: int, peak: float, schedule: Schedule, warmup: float) -> float:
    """The rate of step number `step` (from 1) of `steps`: linear warm-up, then the schedule's way down.

    `warmup` below 1 is a share of all steps, otherwise a number of steps. Cosine and linear end at 0 one step after the
    last, so that the last step still learns.
    """
    warm = round(warmup * steps) if warmup < 1 else int(warmup)
    if step <= warm:
        return peak * step / warm
    if schedule == "constant":
        return peak
    left = (steps - step + 1) / max(1, steps - warm)
    return peak * (left if schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left)))


class AdamW:
    """Decoupled weight decay, Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2. Decay applies to matrices
    only: norms, biases and other vectors keep their scale."""

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        rates: Mapping[str, float] | None = None,
        tables: Container[str] = (),
    ):
        """`tables` names the embeddings and output heads: matrices of which every row is a vector of its own."""
        self.parameters, self.tables = dict(parameters), tables
        self.beta1, self.beta2, self.eps, self.weight_decay = beta1, beta2, eps, weight_decay
        self.rates = rates or {}  # parameters that learn at a multiple of the learning rate
        self.updates = 0
        self.master = {n: p.data if p.dtype == torch.float32 else p.data.float() for n, p in self.parameters.items()}
        self.exp_avg = {n: self._average(m) for n, m in self.master.items()}
        self.exp_avg_sq = {n: self._average(m) for n, m in self.master.items()}

    def _average(self, master: Tensor) -> Tensor:
        return torch.zeros_like(master)

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], learning_rate: float, scale: float = 1.0) -> None:
        """One update with `gradients * scale` (what clipping asks for)."""
        self.updates += 1
        for name, parameter in self.parameters.items():
            if (gradient := gradients.get(name)) is None:
                continue
            master = self.master[name]
            decay = self.weight_decay if master.ndim >= 2 else 0.0
            rate = learning_rate * self.rates.get(name, 1.0)
            if self._has_kernel(parameter, gradient):
                self._update_all(name, gradient, rate, decay, scale)
                continue
            self._update(name, gradient.to(torch.float32), rate, decay, scale)
            if parameter.data is not master:
                parameter.data.copy_(master)

    def _has_kernel(self, parameter: Tensor, gradient: Tensor) -> bool:
        plain = type(self)._update is AdamW._update
        return plain and parameter.is_contiguous() and kernels.serves(parameter, gradient)

    def _update_all(self, name: str, gradient: Tensor, learning_rate: float, decay: float, scale: float) -> None:
        """Master, averages and the model's own weight in one pass over memory."""
        numbers = (
            learning_rate, decay, 1 - self.beta1, self.beta2, 1 - self.beta2, self.eps,
            1 - self.beta1**self.updates, 1 - self.beta2**self.updates, scale,
        )  # fmt: skip
        weight, master = self.parameters[name].data, self.master[name]
        update = (ctypes.c_float * len(numbers))(*numbers)
        averages = self.exp_avg[name], self.exp_avg_sq[name]
        kernels.call("adamw_bf16", weight, master, *averages, gradient.contiguous(), update, weight.numel())

    def _update(self, name: str, gradient: Tensor, learning_rate: float, decay: float, scale: float) -> None:
        master = self.master[name]
        fused = master.device.type in ("cpu", "cuda")
        if scale != 1.0 and not fused:
            gradient = gradient * scale
        adamw(
            [master], [gradient], [self.exp_avg[name]], [self.exp_avg_sq[name]], [],
            [torch.tensor(float(self.updates - 1), device=master.device)],  # the kernel counts this update itself
            # The fused kernel divides the gradient by grad_scale on its one way through memory.
            fused=fused, grad_scale=torch.tensor(1.0 / scale, device=master.device) if fused else None,
            amsgrad=False, beta1=self.beta1, beta2=self.beta2, eps=self.eps, maximize=False,
            lr=learning_rate, weight_decay=decay,
        )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """Everything learnt, by name, for a checkpoint (views, not copies)."""
        kinds = {"master": self.master, "exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}
        return {f"{kind}.{name}": t for kind, tensors in kinds.items() for name, t in tensors.items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """The inverse of `tensors()`; the model's parameters follow."""
        for name, own in self.tensors().items():
            own.copy_(tensors[name])
        for name, parameter in self.parameters.items():
            if parameter.data is not self.master[name]:
                parameter.data.copy_(self.master[name])
        self.updates = updates

    @torch.no_grad()
    def set_model(self, weights: Mapping[str, Tensor]) -> None:
        """Let the model compute with these weights; masters and moments stay as they are."""
        for name, parameter in self.parameters.items():
            if parameter.data is not self.master[name] or weights[name] is not self.master[name]:
                parameter.data = weights[name].to(parameter.device, parameter.dtype, copy=True)


class AdamW8bit(AdamW):
    """AdamW that keeps its two averages in 8 bits. Dettmers et al. 2022, arXiv:2110.02861, section 2.

    Every 256 numbers share a scale; what a code stands for is denser near zero. Tensors of fewer than 4096 numbers keep
    32 bits, as in bitsandbytes, whose kernels these are.
    """

    NAME, BLOCK, SMALLEST = "adamw_8bit", 256, 4096

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], **settings: Any):
        try:
            from bitsandbytes.functional import (
                create_dynamic_map,  # pyright: ignore[reportMissingImports, reportUnknownVariableType]
            )
        except ImportError:
            raise InputError(
                f"optimizer: {self.NAME} needs bitsandbytes, which is not installed; pip install "
                "'nurture-llm[quantized]', or use adamw."
            ) from None
        super().__init__(parameters, **settings)
        devices = {m.device for m in self.master.values()}
        if kinds := {d.type for d in devices} - {"cpu", "cuda"}:
            raise InputError(f"optimizer: adamw_8bit has no kernels for {kinds.pop()}; use adamw, or device: cpu.")
        self.codes = {d: [create_dynamic_map(signed=signed).to(d) for signed in (True, False)] for d in devices}
        packed = {n: m for n, m in self.master.items() if self.exp_avg[n].dtype == torch.uint8}
        blocks = {n: torch.zeros(-(-m.numel() // self.BLOCK), device=m.device) for n, m in packed.items()}
        self.exp_avg_scale, self.exp_avg_sq_scale = blocks, {n: b.clone() for n, b in blocks.items()}

    def _average(self, master: Tensor) -> Tensor:
        return (
            torch.zeros_like(master, dtype=torch.uint8) if master.numel() >= self.SMALLEST else super()._average(master)
        )

    def _update(self, name: str, gradient: Tensor, learning_rate: float, decay: float, scale: float) -> None:
        if name not in self.exp_avg_scale:
            super()._update(name, gradient, learning_rate, decay, scale)
            return
        from bitsandbytes.functional import (
            optimizer_update_8bit_blockwise,  # pyright: ignore[reportMissingImports, reportUnknownVariableType]
        )

        master = self.master[name]
        signed, unsigned = self.codes[master.device]
        optimizer_update_8bit_blockwise(
            "adam", gradient.contiguous(), master, self.exp_avg[name], self.exp_avg_sq[name], self.beta1, self.beta2,
            0.0, 0.0, self.eps, self.updates, learning_rate, signed, unsigned, self.exp_avg_scale[name],
            self.exp_avg_sq_scale[name], weight_decay=decay, gnorm_scale=scale,
        )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        scales = {"exp_avg_scale": self.exp_avg_scale, "exp_avg_sq_scale": self.exp_avg_sq_scale}
        return super().tensors() | {f"{kind}.{name}": t for kind, ts in scales.items() for name, t in ts.items()}


class PagedAdamW8bit(AdamW8bit):
    """AdamW8bit whose averages the CUDA driver moves to main memory, page by page, while the device has no room for
    them. Dettmers et al. 2023, arXiv:2305.14314, section 3.

    Averages of fewer than 100,000 numbers stay on the device, as in bitsandbytes, whose memory this is.
    """

    NAME, SMALLEST_PAGED = "paged_adamw_8bit", 100_000

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], **settings: Any):
        named = dict(parameters)
        if others := {p.device.type for p in named.values()} - {"cuda"}:
            raise InputError(
                f"optimizer: {self.NAME} moves memory between a CUDA device and the machine, and this run computes on "
                f"{others.pop()}; use adamw_8bit."
            )
        super().__init__(named.items(), **settings)

    def _average(self, master: Tensor) -> Tensor:
        if master.numel() < self.SMALLEST_PAGED:
            return super()._average(master)
        from bitsandbytes.functional import (
            fill,  # pyright: ignore[reportMissingImports, reportUnknownVariableType]
            get_paged,  # pyright: ignore[reportMissingImports, reportUnknownVariableType]
        )

        average: Tensor = get_paged(*master.shape, dtype=torch.uint8, device=master.device)
        fill(average, 0)
        return average

    def _update(self, name: str, gradient: Tensor, learning_rate: float, decay: float, scale: float) -> None:
        from bitsandbytes.functional import (
            prefetch_tensor,  # pyright: ignore[reportMissingImports, reportUnknownVariableType]
        )

        for average in (self.exp_avg[name], self.exp_avg_sq[name]):
            if getattr(average, "is_paged", False):
                prefetch_tensor(average)
        super()._update(name, gradient, learning_rate, decay, scale)

    def step(self, gradients: Mapping[str, Tensor], learning_rate: float, scale: float = 1.0) -> None:
        super().step(gradients, learning_rate, scale)
        torch.cuda.synchronize()  # pages move on their own time, and a checkpoint reads them next


class Muon(AdamW):
    """Momentum whose directions all get the same weight. Jordan et al. 2024, and Liu et al. 2025, arXiv:2502.16982.

    The update of a hidden matrix is its momentum with every singular value moved to about 1 (five Newton-Schulz steps),
    so that what few examples ask for is learnt as fast as what all ask for. Its size is scaled to AdamW's, whose
    learning rates and decays serve here too. Tables and vectors keep AdamW. No squares are kept for the matrices.
    """

    MOMENTUM, STEPS, COEFFICIENTS, SIZE = 0.95, 5, (3.4445, -4.7750, 2.0315), 0.2
    TOGETHER = 1 << 22
    """Matrices of one shape go through the Newton-Schulz steps together, up to so many numbers at once: small ones keep
    neither cores nor tiles busy one by one."""

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], **settings: Any):
        super().__init__(parameters, **settings)
        self.matrices = {n for n, m in self.master.items() if m.ndim == 2 and min(m.shape) > 1 and n not in self.tables}
        for name in self.matrices:
            del self.exp_avg_sq[name]

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], learning_rate: float, scale: float = 1.0) -> None:
        super().step({n: g for n, g in gradients.items() if n not in self.matrices}, learning_rate, scale)
        for names in self._alike(n for n in self.parameters if n in self.matrices and n in gradients):
            wide = torch.stack([_wide(self._momentum(n, gradients[n].to(torch.float32) * scale)) for n in names])
            for name, direction in zip(names, self._orthogonal(wide), strict=True):
                master, rate = self.master[name], learning_rate * self.rates.get(name, 1.0)
                rows, columns = master.shape
                master.mul_(1 - rate * self.weight_decay)
                size = self.SIZE * max(rows, columns) ** 0.5
                master.add_(direction if rows <= columns else direction.T, alpha=-rate * size)
                if (parameter := self.parameters[name]).data is not master:
                    parameter.data.copy_(master)

    def _alike(self, names: Iterable[str]) -> Iterator[list[str]]:
        """Names of matrices of one shape, turned or not, and of one device, a few at a time."""
        groups: dict[Any, list[str]] = {}
        for name in names:
            groups.setdefault((*sorted(self.master[name].shape), self.master[name].device), []).append(name)
        for (rows, columns, _), group in groups.items():
            size = max(1, self.TOGETHER // (rows * columns))
            yield from (group[i : i + size] for i in range(0, len(group), size))

    def _momentum(self, name: str, gradient: Tensor) -> Tensor:
        """Nesterov's: what the average will be, were the gradient to come once more."""
        return gradient.lerp(self.exp_avg[name].lerp_(gradient, 1 - self.MOMENTUM), self.MOMENTUM)

    def _orthogonal(self, wide: Tensor) -> Tensor:
        """`[N, rows, columns]` in bf16, each with singular values of about 1 in place of its own. Takes over `wide`."""
        a, b, c = self.COEFFICIENTS
        x = wide.div_(wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7))
        for _ in range(self.STEPS):
            gram = torch.bmm(x, x.mT)
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x


def _wide(matrix: Tensor) -> Tensor:
    return (matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T).to(torch.bfloat16)


OPTIMIZERS: dict[str, type[AdamW]] = {
    "adamw": AdamW, "adamw_8bit": AdamW8bit, "paged_adamw_8bit": PagedAdamW8bit, "muon": Muon,
}  # fmt: skip
