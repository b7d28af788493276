"""The shapes that flow:  Group -> Batch -> Scores -> Loss -> Step.

A `Group` is one prompt and its n responses, tokenised: SFT is n = 1, DPO n = 2, a ranking n = K, GRPO n = G. That one
shape is why prompt sharing, K-choose-2 and group advantages need no special case. Every "own token" (a token of a
response that the model itself is to predict) has one place in the flat order of its batch: group by group, response
by response, left to right. All per-token tensors, `[T]`, are in that order, whatever layout the engine chose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, eq=False)
class Response:
    """Token ids that follow a prompt; `mask` marks the model's own (user and tool turns inside are not).

    What people said of it: its `rank` among the group (1 is best, equal numbers are ties), `scores` with one number per
    criterion (NaN where nobody rated it), `label` (1 wanted, 0 unwanted), and for each of `step_ends`, the indices of
    the last token of every step, a label in `step_labels`.

    The last fields are the record of a rollout, one number for each own token: the reward (where it does not come as
    one `score` at the end), what each role said before any update, and what the method made of it. `logp_ref` is also
    what a reference that is asked only once said of people's answers.
    """

    ids: Ids
    mask: Mask
    score: float | None = None
    rank: int | None = None
    label: float | None = None
    step_ends: tuple[int, ...] = ()
    truncated: bool = False
    """Cut off by a limit of length instead of ended by the model."""
    reward: NDArray[np.float32] | None = None
    logp_sampler: NDArray[np.float32] | None = None
    logp_old: NDArray[np.float32] | None = None
    logp_ref: NDArray[np.float32] | None = None
    kl: NDArray[np.float32] | None = None
    value: NDArray[np.float32] | None = None
    adv: NDArray[np.float32] | None = None
    ret: NDArray[np.float32] | None = None
    scores: tuple[float, ...] = ()
    step_labels: tuple[float, ...] = ()

    def __post_init__(self):
        assert self.ids.shape == self.mask.shape and self.ids.ndim == 1, "a response has one mask entry per token id"


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """One prompt and its responses. `key` names the sample in the data, for randomness, caches and error messages;
    `margin` says by how much the better response of a pair is better, where people said so."""

    prompt: Ids
    responses: tuple[Response, ...]
    key: str = ""
    margin: float = 0.0
    labeller: str = ""
    """Who compared the responses, where that is known."""

    @property
    def num_tokens(self) -> int:
        """Tokens when the prompt is laid out once."""
        return len(self.prompt) + sum(len(r.ids) for r in self.responses)

    @property
    def length(self) -> int:
        """The longest path from the first token of the prompt to the end of a response."""
        return len(self.prompt) + max((len(r.ids) for r in self.responses), default=0)


Scope = Literal["response", "group", "batch"]


class Piece(NamedTuple):
    """A part of a batch, and where its own tokens and its scores stand in the flat orders of the whole."""

    batch: Batch
    own: Tensor
    scored: Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Groups that share one forward pass, and the flat views a loss is written in."""

    groups: tuple[Group, ...]
    device: torch.device = CPU

    @cached_property
    def responses(self) -> tuple[Response, ...]:
        return tuple(r for g in self.groups for r in g.responses)

    @cached_property
    def owned(self) -> tuple[NDArray[np.intp], ...]:
        """For each response, the indices of its own tokens that something precedes (the very first token of an
        empty prompt has no position to be predicted from)."""
        starts = (0 if len(g.prompt) else 1 for g in self.groups for _ in g.responses)
        return tuple(np.flatnonzero(r.mask[s:]) + s for r, s in zip(self.responses, starts, strict=True))

    @cached_property
    def target(self) -> Tensor:
        """`[T]` the token predicted at each own position."""
        ids: list[Ids] = [r.ids[own] for r, own in zip(self.responses, self.owned, strict=True)]
        return self._tensor(np.concatenate(ids) if ids else np.zeros(0, np.int64))

    @cached_property
    def response(self) -> Tensor:
        """`[T]` the response each own token belongs to."""
        return self._tensor(np.repeat(np.arange(self.num_responses), [len(own) for own in self.owned]))

    @cached_property
    def group(self) -> Tensor:
        """`[R]` the group each response belongs to."""
        return self._tensor(np.repeat(np.arange(self.num_groups), [len(g.responses) for g in self.groups]))

    @cached_property
    def ends(self) -> tuple[NDArray[np.intp], ...]:
        """For each response, the indices of the tokens after which it is scored: the ends of its steps where it has
        steps, else its last own token (the stop token), whatever stands behind that."""
        return tuple(
            np.asarray(r.step_ends, np.intp)
            if r.step_ends
            else np.asarray([np.flatnonzero(r.mask)[-1] if r.mask.any() else len(r.ids) - 1], np.intp)
            for r in self.responses
        )

    @cached_property
    def scored(self) -> Tensor:
        """`[M]` the response each score belongs to: M = R, or for processes the number of steps."""
        return self._tensor(np.repeat(np.arange(self.num_responses), [len(ends) for ends in self.ends]))

    @cached_property
    def step_labels(self) -> Tensor:
        """`[M]` the label of each step."""
        return self._floats([label for r in self.responses for label in r.step_labels])

    @cached_property
    def labels(self) -> Tensor:
        """`[R]` 1 for a wanted response, 0 for an unwanted one, NaN where it is neither."""
        return self._floats([float("nan") if r.label is None else r.label for r in self.responses])

    @cached_property
    def ratings(self) -> Tensor:
        """`[R, C]` what people rated, NaN where they did not; C = 0 where nothing is rated."""
        width = max((len(r.scores) for r in self.responses), default=0)
        rows = [r.scores or (float("nan"),) * width for r in self.responses]
        return self._floats([x for row in rows for x in row]).view(len(rows), width)

    @cached_property
    def _pairs(self) -> tuple[list[int], list[int], list[float], list[float]]:
        better: list[int] = []
        worse: list[int] = []
        margin: list[float] = []
        weight: list[float] = []
        first = 0
        for g in self.groups:
            ranked = [(first + i, r.rank) for i, r in enumerate(g.responses) if r.rank is not None]
            pairs = [(i, j) for i, place in ranked for j, other in ranked if place < other]
            better += [i for i, _ in pairs]
            worse += [j for _, j in pairs]
            margin += [g.margin] * len(pairs)
            weight += [1 / len(pairs) for _ in pairs]
            first += len(g.responses)
        return better, worse, margin, weight

    @cached_property
    def better(self) -> Tensor:
        """`[P]` the better response of each pair: every two responses of a group with different ranks."""
        return self._tensor(np.asarray(self._pairs[0], np.int64))

    @cached_property
    def worse(self) -> Tensor:
        """`[P]` the worse response of each pair."""
        return self._tensor(np.asarray(self._pairs[1], np.int64))

    @cached_property
    def margin(self) -> Tensor:
        """`[P]` by how much people found the better one better; 0 where they did not say."""
        return self._floats(self._pairs[2])

    @cached_property
    def pair_weight(self) -> Tensor:
        """`[P]` 1 / the pairs of its group, which without ties is 1 / C(K, 2): a prompt counts once, however many
        responses were ranked."""
        return self._floats(self._pairs[3])

    @property
    def num_pairs(self) -> int:
        return len(self._pairs[0])

    @cached_property
    def own_tokens(self) -> Tensor:
        """`[R]` how many own tokens each response has, at least 1 (it divides)."""
        return self._tensor(np.maximum(self.own_lengths, 1))

    @cached_property
    def own_lengths(self) -> list[int]:
        """`[R]` how many own tokens each response has."""
        return [len(own) for own in self.owned]

    @cached_property
    def score(self) -> Tensor:
        """`[R]` the score of each response."""
        scores = [r.score for r in self.responses if r.score is not None]
        assert len(scores) == self.num_responses, "a response without a score is not part of a rollout"
        return torch.tensor(scores, dtype=torch.float32, device=self.device)

    @cached_property
    def reward(self) -> Tensor:
        """`[T]` the reward of each own token: as recorded, or the response's score at its last own token."""
        if (recorded := self._recorded("reward")) is not None:
            return recorded
        return self.per_token(self.score) * self.last

    @cached_property
    def last(self) -> Tensor:
        """`[T]` 1 at the last own token of each response, else 0."""
        ends = np.cumsum(self.own_lengths)[np.flatnonzero(self.own_lengths)] - 1
        last = self._zeros()
        last[self._tensor(ends)] = 1.0
        return last

    @cached_property
    def logp_sampler(self) -> Tensor | None:
        """`[T]` under the distribution that was sampled from, as the sampler computed it."""
        return self._recorded("logp_sampler")

    @cached_property
    def logp_old(self) -> Tensor | None:
        """`[T]` under the policy as it was before the first update on this rollout, as the trainer computes it."""
        return self._recorded("logp_old")

    @cached_property
    def logp_ref(self) -> Tensor | None:
        """`[T]` under the reference."""
        return self._recorded("logp_ref")

    @cached_property
    def kl(self) -> Tensor | None:
        """`[T]` exact KL(old policy || reference)."""
        return self._recorded("kl")

    @cached_property
    def value(self) -> Tensor:
        """`[T]` what the critic expected before the first update on this rollout."""
        recorded = self._recorded("value")
        return self._zeros() if recorded is None else recorded

    @cached_property
    def adv(self) -> Tensor:
        """`[T]` advantages."""
        recorded = self._recorded("adv")
        return self._zeros() if recorded is None else recorded

    @cached_property
    def ret(self) -> Tensor:
        """`[T]` returns: what the critic is to learn."""
        recorded = self._recorded("ret")
        return self._zeros() if recorded is None else recorded

    @cached_property
    def acted(self) -> Tensor:
        """`[T]` whether the own token was drawn by the policy in a rollout. False for demonstrations mixed in, which
        carry no record: their part of every recorded tensor is 0."""
        acted = [r.adv is not None for r in self.responses]
        return torch.tensor(acted, dtype=torch.bool, device=self.device).index_select(0, self.response)

    def _recorded(self, name: str) -> Tensor | None:
        """What the responses recorded under this name (0 for those that did not), or None where none of them did."""
        parts: list[NDArray[np.float32] | None] = [getattr(r, name) for r in self.responses]
        if all(part is None for part in parts):
            return None
        filled = [np.zeros(n, np.float32) if p is None else p for p, n in zip(parts, self.own_lengths, strict=True)]
        assert [len(p) for p in filled] == self.own_lengths, f"{name} has one number for each own token"
        return torch.as_tensor(np.concatenate(filled)).to(self.device)

    def _zeros(self) -> Tensor:
        return torch.zeros(self.num_own, device=self.device)

    def recording(self, **per_token: Tensor) -> Batch:
        """The same batch with `[T]` tensors written into its responses, by name."""
        cuts = np.cumsum(self.own_lengths)[:-1]
        columns = {n: np.split(t.detach().float().cpu().numpy(), cuts) for n, t in per_token.items()}
        told = iter([replace(r, **{n: c[i] for n, c in columns.items()}) for i, r in enumerate(self.responses)])
        groups = tuple(replace(g, responses=tuple(next(told) for _ in g.responses)) for g in self.groups)
        return Batch(groups, self.device)

    @property
    def num_groups(self) -> int:
        return len(self.groups)

    @property
    def num_responses(self) -> int:
        return sum(len(g.responses) for g in self.groups)

    @cached_property
    def num_own(self) -> int:
        """T: the tokens that carry loss."""
        return sum(len(own) for own in self.owned)

    @property
    def num_tokens(self) -> int:
        """Tokens laid out with each prompt once."""
        return sum(g.num_tokens for g in self.groups)

    def sum_per_response(self, per_token: Tensor) -> Tensor:
        """`[T] -> [R]` sums over the own tokens of each response."""
        return per_token.new_zeros(self.num_responses).index_add(0, self.response, per_token)

    def per_token(self, per_response: Tensor) -> Tensor:
        """`[R] -> [T]` each own token gets its response's value."""
        return per_response.index_select(0, self.response)

    def to(self, device: torch.device) -> Batch:
        return self if device == self.device else Batch(self.groups, device)

    def split(self, max_tokens: int, scope: Scope = "response") -> list[Batch]:
        """Pieces of at most `max_tokens` laid-out tokens (a single larger unit makes a piece of its own).

        The unit that must stay whole is the method's scope: one response with its prompt, one group, or all.
        First-fit over units sorted by length: pieces hold few, similar lengths and their number is near the least.
        """
        if scope == "batch":
            return [self]
        return [piece.batch for piece in self.pieces(max_tokens, scope)]

    def pieces(self, max_tokens: int, scope: Scope = "response") -> list[Piece]:
        """`split`, and for each piece where its own tokens and its scores stand in this batch's flat orders."""
        if not self.groups:
            return []
        if self.num_tokens <= max_tokens:
            own = torch.arange(self.num_own, device=self.device)
            return [Piece(self, own, torch.arange(len(self.scored), device=self.device))]
        units: list[Group] = []
        members: list[list[int]] = []  # the responses of each unit, by number in this batch
        response = 0
        for g in self.groups:
            numbers = range(response, response + len(g.responses))
            response += len(g.responses)
            if scope == "group":
                units.append(g)
                members.append(list(numbers))
            else:
                units += [Group(g.prompt, (r,), g.key, g.margin) for r in g.responses]
                members += [[n] for n in numbers]
        tokens: list[int] = np.cumsum([0, *(len(own) for own in self.owned)]).tolist()
        scores: list[int] = np.cumsum([0, *(len(ends) for ends in self.ends)]).tolist()
        out: list[Piece] = []
        for bin_ in first_fit([u.num_tokens for u in units], max_tokens):
            order = [n for i in bin_ for n in members[i]]
            own, scored = (
                self._tensor(np.concatenate([np.arange(starts[n], starts[n + 1]) for n in order]))
                for starts in (tokens, scores)
            )
            chosen = tuple(units[i] for i in bin_)
            # Groups that must stay whole stay apart, too: a sample that is twice in the batch is two groups.
            out.append(Piece(Batch(_rejoin(chosen) if scope == "response" else chosen, self.device), own, scored))
        return out

    def _tensor(self, values: NDArray[np.int64] | NDArray[np.intp]) -> Tensor:
        return torch.as_tensor(values, dtype=torch.long).to(self.device)

    def _floats(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32).to(self.device)


def _rejoin(units: Sequence[Group]) -> tuple[Group, ...]:
    """Single responses of one prompt that landed in the same piece share that prompt again."""
    joined: list[Group] = []
    for unit in units:
        if joined and joined[-1].prompt is unit.prompt:
            joined[-1] = Group(unit.prompt, joined[-1].responses + unit.responses, unit.key, unit.margin)
        else:
            joined.append(unit)
    return tuple(joined)


def first_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """First-fit-decreasing bins of indices; each bin's indices ascend. Ties are broken by index, so it is a pure
    function of its arguments."""
    bins: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        spot = next((b for b, free in enumerate(room) if free >= sizes[i]), None)
        if spot is None:
            spot = len(bins)
            bins.append([])
            room.append(capacity)
        bins[spot].append(i)
        room[spot] -= sizes[i]
    return [sorted(b) for b in bins]


Quantity = Literal["logp", "hit", "entropy", "kl", "value", "score"]
"""What a role can be asked for: `logp` `[T]` of each own token, `hit` `[T]` whether it was the likeliest token,
`entropy` `[T]` of its distribution, `kl` `[T]` KL(this role || ref) over the whole vocabulary, `value` `[T]` what it
expects where each own token is about to be written, `score` `[M, C]` of each response (or each step) per criterion."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """Asks for `divergence` `[T]`: how far this role is from another one over the whole vocabulary, where each own
    token is about to be written. No gradient goes to the other role."""

    role: str
    """The other one."""
    beta: float = 1.0
    """1 for KL(this || other), 0 for KL(other || this), between them the generalised Jensen-Shannon divergence."""
    temperature: float = 1.0
    """Divides the logits of both; what else is asked of this role stays as it is."""

    def __str__(self) -> str:
        return "divergence"


Ask = Quantity | Divergence
"""Its `str` is the name of the answer in `RoleScores`."""

Asks = Mapping[str, tuple[Ask, ...]]
"""role -> what is asked of it."""


def comparison(asked: tuple[Ask, ...]) -> Divergence | None:
    """The divergence that is among what is asked of a role; `kl` is that from the reference."""
    found = [Divergence("ref") if ask == "kl" else ask for ask in asked]
    found = [ask for ask in found if isinstance(ask, Divergence)]
    assert len(found) <= 1, "a role is compared with one other role at a time"
    return found[0] if found else None


def roles_in(asks: Asks) -> set[str]:
    """Every role that has to be there: those that are asked, and those that they are compared with."""
    compared = map(comparison, asks.values())
    return {*asks, *(found.role for found in compared if found is not None)}


class RoleScores(dict[str, Tensor]):
    """What one role said; `scores.policy.logp` reads like the paper."""

    def __getattr__(self, quantity: str) -> Tensor:
        try:
            return self[quantity]
        except KeyError:
            raise AttributeError(f"{quantity!r} was not asked of this role; asked were {sorted(self)}") from None


class Scores(dict[str, RoleScores]):
    """All that a method ever sees of a model: per-token numbers for each role it asked for."""

    def __getattr__(self, role: str) -> RoleScores:
        try:
            return self[role]
        except KeyError:
            raise AttributeError(f"role {role!r} was not asked for; asked were {sorted(self)}") from None


Tally = tuple[float | Tensor, int]
"""A statistic as (sum, count), so that micro-batches and processes add up exactly."""


def tally(values: Tensor, of: Tensor | None = None) -> Tally:
    """The sum and count of all values, or of those where the mask `of` is true."""
    if of is None:
        return values.detach().sum(dtype=torch.float64), values.numel()
    return values.detach().where(of, 0).sum(dtype=torch.float64), int(of.sum())


@dataclass(frozen=True)
class Loss:
    """Named terms, each a *sum* over the unit in its name (tokens, responses, pairs, groups), plus statistics.

    A loss never divides. The loop divides each term once by that unit's count over the whole global batch, so the
    objective cannot depend on how the batch was cut into micro-batches or spread over processes.
    """

    sums: Mapping[str, Tensor]
    stats: Mapping[str, Tally] = field(default_factory=dict[str, Tally])

    def divided_by(self, counts: Mapping[str, float]) -> Tensor:
        """The scalar to differentiate: each sum over its global count (a unit that never occurs contributes 0)."""
        missing = set(self.sums) - set(counts)
        assert not missing, f"counts() did not announce {sorted(missing)}"
        parts = [total / counts[unit] for unit, total in self.sums.items() if counts[unit]]
        return torch.stack(parts).sum() if parts else torch.stack([t * 0.0 for t in self.sums.values()]).sum()


class Stats(dict[str, tuple[float, int]]):
    """Running (sum, count) pairs over micro-batches; `means()` at the end of a step."""

    def add(self, stats: Mapping[str, Tally]) -> None:
        for name, (total, count) in stats.items():
            old_total, old_count = self.get(name, (0.0, 0))
            self[name] = (old_total + float(total), old_count + int(count))

    def summed(self, all_sum: Callable[[dict[str, float]], dict[str, float]]) -> Stats:
        """The same statistics over all processes."""
        flat: dict[str, float] = {}
        for name, (total, count) in self.items():
            flat[f"{name}/sum"], flat[f"{name}/count"] = total, float(count)
        flat = all_sum(flat)
        return Stats({name: (flat[f"{name}/sum"], int(flat[f"{name}/count"])) for name in self})

    def means(self) -> dict[str, float]:
        return {name: total / count if count else float("nan") for name, (total, count) in self.items()}


@dataclass(frozen=True)
class Step:
    """One update: its number (from 1) and every metric, none of which depends on the clock."""

    number: int
    metrics: Mapping[str, float]
    skipped: Literal["", "loss", "gradient"] = ""
    """What was not finite, so that nothing was updated."""
    halvings: int = 0
    """How often memory ran out in this step and the micro-batches were halved."""
