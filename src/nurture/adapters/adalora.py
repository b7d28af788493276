"""AdaLoRA: LoRA whose rank goes where it matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from ..errors import InputError
from .adapter import ROLE, Adapter, Count, Learner, NotNegative, Positive, Share, Targets
from .targets import check_targets

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel


class AdaLoRA(Adapter):
    """Adaptive budget allocation for LoRA. Zhang et al. 2023, arXiv:2303.10512, algorithm 1.

        W + P diag(lambda) Q,      L + gamma * mean of ||P'P - I||_F and ||Q Q' - I||_F

    P, lambda and Q stand for a singular value decomposition of the update. Every step scores each triplet (one lambda
    with its column of P and row of Q) by smoothed sensitivity times uncertainty (eq. 8 to 11); the budget of triplets
    over all matrices falls along a cubic from `init_r` to `target_r` a matrix (eq. 12), and the lambdas of those beyond
    it are set to zero. A masked triplet goes on learning and may come back until the last `tfinal` steps, in which the
    ranks are final. Saved are the triplets that are left.
    """

    name: Literal["adalora"] = "adalora"  # pyright: ignore[reportIncompatibleVariableOverride]
    init_r: Count = 12
    """The rank of every matrix at first."""
    target_r: Count = 8
    """The mean rank at the end."""
    lora_alpha: Positive = 16
    """The update is scaled by `lora_alpha / init_r`."""
    lora_dropout: Share = 0.0
    """The probability of dropping an input of Q."""
    target_modules: Targets = "all-linear"
    """Which matrices get an update: `all-linear` (all but the output head), a list of module names, or a regular
    expression over them."""
    tinit: NotNegative = 0.1
    """How long all ranks stay as they begin: a share of all updates where below 1, else a number of updates."""
    tfinal: NotNegative = 0.3
    """How long the final ranks are trained: a share of all updates where below 1, else a number of updates."""
    deltaT: Count = 1
    """Updates between two allocations."""
    beta1: Share = 0.85
    """Decay of the average of the sensitivities."""
    beta2: Share = 0.85
    """Decay of the average of their uncertainty."""
    orth_reg_weight: NotNegative = 0.5
    """gamma, the weight of the orthogonality term."""

    mergeable: ClassVar = True
    peft_type: ClassVar = "ADALORA"
    faster: ClassVar = 25.0
    fastest: ClassVar = 5e-4

    @model_validator(mode="after")
    def _shrinks(self) -> AdaLoRA:
        if self.target_r > self.init_r:
            raise ValueError(f"target_r {self.target_r} is more than init_r {self.init_r}; the rank can only shrink")
        return self

    @property
    def dropout(self) -> float:
        return self.lora_dropout

    def phases(self, steps: int) -> tuple[int, int]:
        """The last step of the first phase, and the one at which the ranks become final."""
        first, final = (round(t * steps) if t < 1 else int(t) for t in (self.tinit, self.tfinal))
        if first >= steps - final:
            raise InputError(
                f"adapter: tinit ({first} updates) and tfinal ({final}) leave no update of {steps} in which ranks "
                "could change; train longer or shorten them."
            )
        return first, steps - final

    def config(self, model: PreTrainedModel, steps: int) -> PeftConfig:
        from peft import AdaLoraConfig

        targets = check_targets(model, self.target_modules, rank=self.init_r, field="init_r")
        first, final = self.phases(steps)
        return AdaLoraConfig(
            task_type="CAUSAL_LM", init_r=self.init_r, target_r=self.target_r, lora_alpha=self.lora_alpha,  # pyright: ignore[reportArgumentType]
            lora_dropout=self.lora_dropout, target_modules=targets, tinit=first, tfinal=steps - final,
            total_step=steps, deltaT=self.deltaT, beta1=max(self.beta1, 1e-6), beta2=max(self.beta2, 1e-6),
            orth_reg_weight=self.orth_reg_weight,
        )  # fmt: skip

    def companion(self, model: PreTrainedModel, learner: Learner, steps: int) -> RankBudget:
        first, final = self.phases(steps)
        return RankBudget(self, learner, first, final)


@dataclass(frozen=True, slots=True)
class _Triplets:
    """The names of one matrix's parameters."""

    e: str
    a: str
    b: str

    @property
    def names(self) -> tuple[str, str, str]:
        return self.e, self.a, self.b


class RankBudget:
    """Algorithm 1 over the masters of the optimiser: an `adapters.Companion`."""

    def __init__(self, adapter: AdaLoRA, learner: Learner, first: int, final: int):
        self.adapter, self.learner, self.first, self.final = adapter, learner, first, final
        end = f".lora_E.{ROLE}"
        stems = [name.removesuffix(end) for name in learner.parameters if name.endswith(end)]
        self.matrices = [_Triplets(*(f"{stem}.lora_{part}.{ROLE}" for part in "EAB")) for stem in stems]
        names = [name for matrix in self.matrices for name in matrix.names]
        self.sensitivity = {n: torch.zeros_like(learner.master[n]) for n in names}
        self.uncertainty = {n: torch.zeros_like(learner.master[n]) for n in names}
        self.kept = {m.e: torch.ones_like(learner.master[m.e], dtype=torch.bool) for m in self.matrices}
        self.updates = 0
        self.initial = sum(mask.numel() for mask in self.kept.values())
        self.target = adapter.target_r * len(self.matrices)

    def penalty(self) -> Tensor:
        parameters, terms = self.learner.parameters, list[Tensor]()
        for m in self.matrices:
            for p in (parameters[m.a].float(), parameters[m.b].float().T):
                terms.append(torch.linalg.matrix_norm(p @ p.T - torch.eye(len(p), device=p.device)))
        return self.adapter.orth_reg_weight * torch.stack(terms).mean()

    @torch.no_grad()
    def before_update(self, gradients: Mapping[str, Tensor], scale: float) -> None:
        if self.updates + 1 > self.final:
            return
        beta1, beta2 = self.adapter.beta1, self.adapter.beta2
        for name, smooth in self.sensitivity.items():
            now = (self.learner.master[name] * gradients[name].float() * scale).abs()  # eq. 8
            smooth.mul_(beta1).add_(now, alpha=1 - beta1)  # eq. 9
            self.uncertainty[name].mul_(beta2).add_((now - smooth).abs(), alpha=1 - beta2)  # eq. 10

    def budget(self, update: int) -> int:
        """Eq. 12."""
        if update <= self.first:
            return self.initial
        if update >= self.final:
            return self.target
        left = 1 - (update - self.first) / (self.final - self.first)
        return int(self.target + (self.initial - self.target) * left**3)

    @torch.no_grad()
    def after_update(self) -> dict[str, float]:
        self.updates += 1
        t = self.updates
        if t == self.final or (self.first < t < self.final and t % self.adapter.deltaT == 0):
            self._allocate(self.budget(t))
            self._mask()
        elif t > self.final:
            self._mask()
        return {"rank_budget": float(self.budget(t)), "rank": float(sum(self.ranks().values()))}

    def ranks(self) -> dict[str, int]:
        """The rank of each matrix as last allocated."""
        return {e.removesuffix(f".lora_E.{ROLE}"): int(mask.sum()) for e, mask in self.kept.items()}

    def tensors(self) -> dict[str, Tensor]:
        kinds = {"sensitivity": self.sensitivity, "uncertainty": self.uncertainty, "kept": self.kept}
        return {f"{kind}.{name}": t for kind, tensors in kinds.items() for name, t in tensors.items()}

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        for name, own in self.tensors().items():
            own.copy_(tensors[name])
        self.updates = updates

    def _allocate(self, budget: int) -> None:
        """Keep the best triplets of all matrices together, exactly as many as the budget; of equals the earlier."""
        scores = [self._score(m) for m in self.matrices]
        order = torch.argsort(torch.cat(scores), descending=True, stable=True)
        keep = torch.zeros(self.initial, dtype=torch.bool, device=order.device)
        keep[order[:budget]] = True
        for m, mask in zip(self.matrices, keep.split([len(s) for s in scores]), strict=True):
            self.kept[m.e].copy_(mask[:, None])

    def _score(self, m: _Triplets) -> Tensor:
        """Eq. 7 with eq. 11: one number for each triplet of a matrix."""
        e, a, b = (self.sensitivity[n] * self.uncertainty[n] for n in m.names)
        return e.flatten() + a.mean(1) + b.mean(0)

    def _mask(self) -> None:
        for name, mask in self.kept.items():
            master, parameter = self.learner.master[name], self.learner.parameters[name]
            master.mul_(mask)
            if parameter.data is not master:
                parameter.data.copy_(master)


def rank_pattern(state: Mapping[str, Tensor], init_r: int, role: str = ROLE) -> dict[str, Sequence[bool]]:
    """Which of `init_r` triplets of each matrix are left, in peft's form: a lambda of zero adds nothing. (A matrix with
    fewer was loaded, and goes on with those it has.)"""
    end = f".lora_E.{role}"
    lambdas = {n.removesuffix(f".{role}"): t.flatten() for n, t in state.items() if n.endswith(end)}
    return {
        name: (t != 0).tolist() if len(t) == init_r else [i < len(t) for i in range(init_r)]
        for name, t in lambdas.items()
    }
