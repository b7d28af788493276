"""Roles over models: what the loop scores, differentiates and updates.

*Scores are leaves.* `score` computes each role's numbers and hands the method detached copies; a loss is differentiated
with respect to those copies; `backward` then goes on role by role with that role's own graph. So a method may mix roles
as it likes, one role's machinery never sees another's, and a batch too large for one pass is simply scored again, piece
by piece, inside `backward`: exact, in bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..adapters import Companion
from ..adapters.attached import active, adapter_parameters
from ..core.logp import Against, selected_logp
from ..core.reduce import global_norm
from ..types import Ask, Asks, Batch, Divergence, Piece, RoleScores, Scores, comparison
from .heads import is_encoder, output_head, score_head
from .layouts import LAY, Layout, classify, hidden_states


class Optimizer(Protocol):
    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]: ...

    def step(self, gradients: Mapping[str, Tensor], learning_rate: float, scale: float) -> None: ...


class Reducer(Protocol):
    """Sums over processes; `train/processes.py` has one for a single process and one for many."""

    world_size: int

    def all_sum(self, values: Mapping[str, float]) -> dict[str, float]: ...
    def all_sum_tensors(self, tensors: list[Tensor]) -> None: ...


@dataclass(slots=True)
class _Live:
    """What `backward` needs of one scored piece: the leaves the method saw, and the graph or the way to it again."""

    role: str
    quantities: tuple[Ask, ...]
    batch: Batch
    leaves: RoleScores
    outputs: RoleScores | None
    """None where the graph was not kept: the forward pass is run again, piece by piece."""
    rng: Tensor
    """The generator's state before the forward pass, so that a second one drops the same activations."""


class LocalRoles:
    """Roles in this process: a model for each, of which those the optimiser holds parameters of are trained.

    A `ref` without a model is read from the batch: its log-probs were computed once, before training. Several roles
    may share a model: `adapters` says with which of its adapters each of them computes (None: with none of them).
    Everything of a role, its forward and its backward pass with all that is computed again there, happens while its
    adapter is the active one.
    """

    def __init__(
        self,
        models: Mapping[str, PreTrainedModel],
        layouts: Mapping[str, Layout],
        optimizer: Optimizer,
        processes: Reducer,
        *,
        max_grad_norm: float | None = 1.0,
        tokens_per_pass: int = 1 << 62,
        temperature: float = 1.0,
        companion: Companion | None = None,
        adapters: Mapping[str, str | None] | None = None,
    ):
        self.models, self.layouts, self.optimizer, self.processes = models, layouts, optimizer, processes
        self.max_grad_norm, self.temperature = max_grad_norm, temperature
        self.tokens_per_pass, self.companion = tokens_per_pass, companion
        self.adapters = dict(adapters or {})
        self._live: list[_Live] = []
        self._sums: dict[str, Tensor] = {}  # fp32 sums over micro-batches, for parameters of a narrower format

    # -- scoring ------------------------------------------------------------------------------------------------

    def score(self, batch: Batch, asks: Asks) -> Scores:
        self._live.clear()
        scores = Scores()
        for role, quantities in asks.items():
            if role == "ref" and role not in self.models:
                assert quantities == ("logp",), f"log-probs are all that is kept of a reference, not {quantities}"
                assert batch.logp_ref is not None, "the reference's log-probs were not computed for this batch"
                scores[role] = RoleScores(logp=batch.logp_ref)
                continue
            trains = torch.is_grad_enabled() and self._trains(role)
            # On a shared base the memory is that of one role: the graph of the first is kept, the others run again.
            alone = role not in self.adapters or all(live.outputs is None for live in self._live)
            whole = alone and batch.num_tokens <= self.tokens_per_pass
            rng = torch.get_rng_state()
            with torch.set_grad_enabled(trains and whole):
                outputs = self._forward(role, quantities, batch)
            leaves = RoleScores({q: t.detach() for q, t in outputs.items()})
            if trains:
                for quantity in set(leaves) - {"hit"}:
                    leaves[quantity].requires_grad_()
                self._live.append(_Live(role, quantities, batch, leaves, outputs if whole else None, rng))
            scores[role] = leaves
        return scores

    def _trains(self, role: str) -> bool:
        model, adapter = self.models[role], self.adapters.get(role)
        if role in self.adapters:
            return adapter is not None and any(p.requires_grad for p in adapter_parameters(model, adapter).values())
        return any(p.requires_grad for p in model.parameters())

    @contextmanager
    def _as(self, role: str) -> Iterator[None]:
        """The role's model as the role computes with it."""
        if role not in self.adapters:
            yield
            return
        with active(self.models[role], self.adapters[role]):
            yield

    def _forward(self, role: str, quantities: tuple[Ask, ...], batch: Batch) -> RoleScores:
        pieces = batch.pieces(self.tokens_per_pass)
        if len(pieces) == 1:
            return self._pass(role, quantities, batch)
        out: dict[str, Tensor] = {}
        for piece in pieces:
            for quantity, values in self._pass(role, quantities, piece.batch).items():
                size = len(batch.scored) if quantity == "score" else batch.num_own
                whole = out.setdefault(quantity, values.new_empty(size, *values.shape[1:]))
                whole[_places(piece, quantity)] = values
        return RoleScores(out)

    def _pass(self, role: str, quantities: tuple[Ask, ...], batch: Batch) -> RoleScores:
        with self._as(role):
            return self._quantities(role, quantities, batch)

    def _quantities(self, role: str, quantities: tuple[Ask, ...], batch: Batch) -> RoleScores:
        laid = LAY[self.layouts[role]](batch)
        model, adapter = self.models[role], self.adapters.get(role)
        if is_encoder(model):
            assert set(quantities) == {"score"}, "an encoder has nothing else to say"
            return RoleScores(score=classify(model, laid))
        everywhere = hidden_states(model, laid)
        out = RoleScores()
        if "score" in quantities:
            out["score"] = score_head(model, adapter)(everywhere.index_select(0, laid.ends))
        if set(quantities) == {"score"}:
            return out
        # index_select, not [at]: the backward of plain indexing is not deterministic where many responses read one row.
        hidden = everywhere.index_select(0, laid.at)
        if "value" in quantities:
            out["value"] = score_head(model, adapter)(hidden)[:, 0]
        if set(quantities) <= {"score", "value"}:
            return out
        head = output_head(model).at(self.temperature)
        asked = comparison(quantities)
        against = None if asked is None else self._against(asked, batch, tokens=len(head.weight))
        selected = selected_logp(
            hidden, head, batch.target, entropy="entropy" in quantities, hit="hit" in quantities, against=against
        )
        everything = {
            "logp": selected.logp, "hit": selected.hit, "entropy": selected.entropy,
            "kl": selected.divergence, "divergence": selected.divergence,
        }  # fmt: skip
        out.update({str(q): t for q in quantities if (t := everything.get(str(q))) is not None})
        return out

    def _against(self, asked: Divergence, batch: Batch, tokens: int) -> Against:
        """What the other role says of the same batch, without a graph and without dropout."""
        model = self.models[asked.role]
        with torch.no_grad(), self._as(asked.role), _in_evaluation(model):
            laid = LAY[self.layouts[asked.role]](batch)
            hidden = hidden_states(model, laid).index_select(0, laid.at)
            head = output_head(model).at(self.temperature).first(tokens)
        return Against(hidden, head, asked.beta, asked.temperature)

    # -- learning -----------------------------------------------------------------------------------------------

    def backward(self, loss: Tensor) -> None:
        loss.backward()
        self._widen()
        for live in self._live:
            gradients = {q: leaf.grad for q, leaf in live.leaves.items() if leaf.grad is not None}
            with self._as(live.role):
                self._backward(live, gradients)
        self._live.clear()

    def _backward(self, live: _Live, gradients: Mapping[str, Tensor]) -> None:
        if live.outputs is not None:
            torch.autograd.backward([live.outputs[q] for q in gradients], list(gradients.values()))
            live.outputs = None
            return
        with torch.random.fork_rng():
            torch.set_rng_state(live.rng)
            for piece in live.batch.pieces(self.tokens_per_pass):
                outputs = self._pass(live.role, live.quantities, piece.batch)
                torch.autograd.backward(
                    [outputs[q] for q in gradients],
                    [g.index_select(0, _places(piece, q)) for q, g in gradients.items()],
                )
                self._widen()

    def _widen(self) -> None:
        """Move gradients of narrow formats into fp32 sums before more is added to them. The last ones stay where they
        are: a step of a single micro-batch never makes a second copy."""
        for name, parameter in self.optimizer.parameters.items():
            if parameter.grad is None or parameter.grad.dtype in (torch.float32, torch.float64):
                continue
            if name in self._sums:
                self._sums[name] += parameter.grad
            else:
                self._sums[name] = parameter.grad.float()
            parameter.grad = None

    def gradients(self) -> dict[str, Tensor]:
        """The gradient of each trained parameter that has one, summed over the micro-batches so far."""
        if self._sums:
            self._widen()
        grads = {n: p.grad for n, p in self.optimizer.parameters.items() if p.grad is not None}
        return grads | self._sums

    def step(self, learning_rate: float) -> dict[str, float]:
        told: dict[str, float] = {}
        if self.companion is not None:
            penalty = self.companion.penalty()
            (penalty / self.processes.world_size).backward()  # the same on every rank, and once in their sum
            told["penalty"] = float(penalty.detach())
        gradients = self.gradients()
        if self.processes.world_size > 1:
            # What has a gradient on any rank is summed over all of them; what has none anywhere stays untouched.
            parameters = self.optimizer.parameters
            present = torch.tensor([float(name in gradients) for name in parameters], device=self._device)
            self.processes.all_sum_tensors([present])
            names = [name for name, ranks in zip(parameters, present.tolist(), strict=True) if ranks]
            zeros = {n: torch.zeros_like(parameters[n]) for n in names if n not in gradients}
            gradients = {n: (gradients | zeros)[n].float() for n in names}
            self.processes.all_sum_tensors(list(gradients.values()))
        norm = global_norm(gradients.values())
        if norm == norm and norm != float("inf"):
            clip = self.max_grad_norm is not None and norm > self.max_grad_norm
            scale = self.max_grad_norm / (norm + 1e-6) if clip and self.max_grad_norm is not None else 1.0
            if self.companion is not None:
                self.companion.before_update(gradients, scale)
            self.optimizer.step(gradients, learning_rate, scale)
            if self.companion is not None:
                told |= self.companion.after_update()
        self.discard()
        return {"grad_norm": norm, **told}

    @property
    def _device(self) -> torch.device:
        return next(iter(self.optimizer.parameters.values())).device

    def discard(self) -> None:
        self._live.clear()
        self._sums.clear()
        for parameter in self.optimizer.parameters.values():
            parameter.grad = None

    def all_sum(self, values: Mapping[str, float]) -> dict[str, float]:
        return self.processes.all_sum(values)


@contextmanager
def _in_evaluation(model: PreTrainedModel) -> Iterator[None]:
    """A model that another role may be learning through."""
    if not model.training:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()


def _places(piece: Piece, quantity: str) -> Tensor:
    """Where what a piece says of a quantity stands in the whole batch."""
    return piece.scored if quantity == "score" else piece.own
