"""Reward models: a number that says how good an answer is, learnt from what people said."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator

from ..core.preference import MOST_TIED, log_sigmoid, plackett_luce
from ..types import Asks, Batch, Group, Loss, Quantity, RoleScores, Scores, Tally, tally
from .method import Method
from .pairs import NotNegative, Positive, watch_still


class Reward(Method):
    """A reward model from comparisons, rankings or ratings. Ouyang et al. 2022, arXiv:2203.02155, eq. 1.

        pair      L = -log sigmoid( s_w - s_l - margin )
        ranking   L = the mean of that over its pairs, C(K, 2) without ties, or -log p(ranking) with ranking: listwise
        rating    L = ( s - rating )^2                          per criterion

    The score s is a linear function of the hidden state at the last token of an answer, its stop token, which has seen
    all of it. Bradley and Terry (1952) say that the better of two answers wins with probability sigmoid(s_w - s_l); the
    loss is minus the log of what that gives the answer that did win. So only differences of scores mean something. The
    head starts at zero and the loss at log 2 = 0.6931: a coin.

    A head starts from nothing. `scored_by: likelihood` has none: the score is beta times the mean log-probability that
    the model itself gives to the tokens of the answer, and the language model's sense of a right answer is where it
    begins (the reward of SimPO, Meng et al. 2024, arXiv:2405.14734, eq. 4).

    The kind of the data chooses the loss, and kinds may be mixed. All pairs of a ranking stay together and weigh as
    much as one pair: shuffled apart, a reward model overfits them within an epoch. Ratings may name several criteria;
    each gets a head of its own, and one number is made of them by `weights`, or by a `gate` that comes first.
    """

    name: Literal["reward"] = "reward"  # pyright: ignore[reportIncompatibleVariableOverride]
    scored_by: Literal["head", "likelihood"] = "head"
    """A linear head at the end of the answer, or how likely the model finds the answer, token by token. Ratings need a
    head: a log-probability is never above 0, and has no scale of theirs."""
    beta: Positive = 2.0
    """What a nat of mean log-probability is worth, with `scored_by: likelihood`."""
    ranking: Literal["pairs", "listwise"] = "pairs"
    """What a ranking of K answers says: every pair by itself, or the order as a whole (Plackett-Luce; of equal ranks
    all orders count the same, and at most 12 answers may share one). Two answers are a pair with its margin in both."""
    center_rewards_coefficient: NotNegative = 0.0
    """Weight of (s_w + s_l)^2, which keeps scores near 0 where comparisons leave their level open; 0.01 is usual
    (Eisenstein et al. 2023, arXiv:2312.09244)."""
    rating: Literal["linear", "bounded"] = "linear"
    """Predict a rating by the score itself, or by a sigmoid of it that cannot leave the scale."""
    scale: tuple[float, float] = (0.0, 1.0)
    """The lowest and the highest rating there is; any other rating is an error."""
    criteria: Annotated[tuple[str, ...], Field(min_length=1)] = ("overall",)
    """What ratings judge: a head for each. Comparisons and rankings judge `overall`, and need just one."""
    missing: Literal["error", "skip"] = "error"
    """A row that rates only some of the criteria is an error, or teaches only those."""
    weights: tuple[float, ...] = ()
    """How the criteria add up to one number; by default all the same."""
    gate: str | None = None
    """A criterion that comes first: an answer whose score on it is below `gate_at` gets that score, lowered by the
    width of the scale, so that nothing outweighs it (harmless before helpful). Behind a gate scores off the scale count
    as its nearest end, since a promise about all scores needs an end to them."""
    gate_at: float | None = None
    """Where the gate opens; by default in the middle of the scale."""
    lm_coef: NotNegative = 0.0
    """Weight of the language-modelling loss on the preferred answers, per token: it keeps the trunk a language model
    while it learns to judge. Ratings prefer no answer, so it needs comparisons."""

    roles: ClassVar = {"reward": ("score",)}
    trained: ClassVar = "reward"
    scope: ClassVar = "group"
    data: ClassVar = "pair"
    accepts: ClassVar = ("ranking", "rating")
    default_learning_rate: ClassVar = 1e-5
    metrics: ClassVar = {
        "loss": "per comparison: -log of the probability given to what people said, log 2 = 0.693 for a coin; per "
        "rating: squared error",
        "accuracy": "share of pairs whose better answer has the higher score; equal scores count as wrong",
        "margin": "score of the better answer minus that of the worse one, in nats of odds",
        "score": "mean score of all answers; comparisons leave its level open",
        "nll": "negative log-probability per token of the preferred answers (with lm_coef)",
    }

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.criteria)) < len(self.criteria):
            raise ValueError("criteria: each may be named once")
        if self.scored_by == "likelihood" and len(self.criteria) > 1:
            raise ValueError("scored_by: a likelihood is one number; name one criterion, or use a head")
        if self.scored_by == "likelihood" and self.gate is not None:
            raise ValueError("gate: a likelihood has no scale on which a gate could open; use a head")
        if self.weights and len(self.weights) != len(self.criteria):
            raise ValueError(f"weights: there are {len(self.weights)} for {len(self.criteria)} criteria")
        if self.gate is not None and self.gate not in self.criteria:
            raise ValueError(f"gate: {self.gate!r} is none of the criteria {', '.join(self.criteria)}")
        if not self.scale[0] < self.scale[1]:
            raise ValueError("scale: must be the lowest rating, then the highest")
        if self.gate is not None:
            self._refuse_a_leaky_gate()
        return self

    def _refuse_a_leaky_gate(self) -> None:
        """The least that an open gate is worth must not be less than what a closed one comes to at most."""
        low, high = self.scale
        if not low < self.gate_opens <= high:
            raise ValueError(
                f"gate_at: {self.gate_opens:g} is not on the scale, above {low:g} and at most {high:g}, so the gate "
                "would be always open or always closed; choose a rating between them"
            )
        if not min(self.weighted_by) >= 0:
            raise ValueError(
                "weights: behind a gate none may be negative, or a higher rating would count as a lower one"
            )
        least = sum(
            weight * (self.gate_opens if criterion == self.gate else low)
            for criterion, weight in zip(self.criteria, self.weighted_by, strict=True)
        )
        closed = self.gate_opens - (high - low)
        if not least >= closed:
            raise ValueError(
                f"weights: an answer that passes the gate could be worth {least:g}, less than the {closed:g} of one "
                "that does not; choose weights that add up to 1"
            )

    @property
    def gate_opens(self) -> float:
        """Where that is on the scale."""
        return (self.scale[0] + self.scale[1]) / 2 if self.gate_at is None else self.gate_at

    @property
    def weighted_by(self) -> tuple[float, ...]:
        return self.weights or (1 / len(self.criteria),) * len(self.criteria)

    @property
    def asks(self) -> Asks:
        return {"reward": tuple(dict.fromkeys((*self.judged_by, *(("logp",) if self.lm_coef else ()))))}

    @property
    def judged_by(self) -> tuple[Quantity, ...]:
        return ("logp",) if self.scored_by == "likelihood" else ("score",)

    def scores(self, said: RoleScores, batch: Batch) -> torch.Tensor:
        if self.scored_by == "head":
            return said.score
        return (self.beta * batch.sum_per_response(said.logp) / batch.own_tokens)[:, None]

    def counts(self, batch: Batch) -> dict[str, float]:
        return {
            "comparisons": float(len(self._compared(batch))),
            "ratings": float((~batch.ratings.isnan()).sum()),
            "tokens": float(batch.own_tokens[self._preferred(batch)].sum()),
        }

    def refuses(self, groups: Sequence[Group]) -> str | None:
        if self.scored_by == "likelihood" and any(r.scores for g in groups for r in g.responses):
            return "scored_by: a likelihood is never above 0 and cannot learn ratings; take a head, or comparisons."
        if self.lm_coef and not any(r.rank for g in groups for r in g.responses):
            return "lm_coef: ratings say of no answer that it is preferred; leave lm_coef out, or add comparisons."
        if self.ranking == "listwise":
            for group in groups:
                tied = max(Counter(r.rank for r in group.responses if r.rank is not None).values(), default=0)
                if tied > MOST_TIED:
                    return (
                        f"{group.key} TIED {tied} answers share one rank, and an order as a whole can have {MOST_TIED} "
                        "there at most; take ranking: pairs, which leaves ties out, or drop some of them."
                    )
        return None

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        score = self.scores(scores.reward, batch)  # [R, C]
        sums: dict[str, torch.Tensor] = {}
        stats: dict[str, Tally] = {"score": tally(score)}
        totals: list[tuple[torch.Tensor, int]] = []
        if compared := self._compared(batch):
            s = score[:, 0]
            better, worse = s.index_select(0, batch.better), s.index_select(0, batch.worse)
            margin = better - worse
            if self.ranking == "listwise":
                parts = torch.split(s, [len(g.responses) for g in batch.groups])
                said = [order_loss(parts[i], ranks, batch.groups[i].margin) for i, ranks in compared.items()]
                total = torch.stack(said).sum()
            else:
                total = (-log_sigmoid(margin - batch.margin) * batch.pair_weight).sum()
            centre = ((better + worse).square() * batch.pair_weight).sum()
            sums["comparisons"] = total + self.center_rewards_coefficient * centre
            stats |= {"accuracy": tally((margin > 0).float()), "margin": tally(margin)}
            totals.append((total.detach(), len(compared)))
        if batch.ratings.numel():
            assert self.scored_by == "head", "`refuses` keeps ratings from a likelihood"
            errors = (self.rated(score) - batch.ratings)[~batch.ratings.isnan()].square()
            sums["ratings"] = errors.sum()
            totals.append((sums["ratings"].detach(), errors.numel()))
        stats["loss"] = (torch.stack([t for t, _ in totals]).sum() if totals else 0.0, sum(n for _, n in totals))
        if self.lm_coef:
            preferred = self._preferred(batch)
            nll = -batch.sum_per_response(scores.reward.logp).index_select(0, preferred).sum()
            sums["tokens"] = self.lm_coef * nll
            stats["nll"] = (nll.detach(), int(batch.own_tokens[preferred].sum()))
        return Loss(sums or {"comparisons": score.sum() * 0}, stats)

    def after_step(self, state: dict[str, Any], stats: Mapping[str, float]) -> dict[str, Any]:
        if not math.isfinite(stats.get("margin", math.nan)):
            return state  # nothing was compared
        state = {**state, "steps": state.get("steps", 0) + 1}
        return watch_still(state, stats, stats["margin"], "all answers get the same score", "the model is a coin")

    def rated(self, score: torch.Tensor) -> torch.Tensor:
        """`[R, C]` the ratings that scores stand for."""
        low, high = self.scale
        return low + (high - low) * score.sigmoid() if self.rating == "bounded" else score

    def judge(self, score: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self.combined(self.rated(score))

    def combined(self, rated: torch.Tensor) -> torch.Tensor:
        """`[R, C]` ratings, a model's or people's -> `[R]` what they come to (nan where one that counts is)."""
        low, high = self.scale
        if self.gate is not None:
            rated = rated.clamp(low, high)
        total = (rated * torch.tensor(self.weighted_by, dtype=rated.dtype, device=rated.device)).sum(1)
        if self.gate is None:
            return total
        first = rated[:, self.criteria.index(self.gate)]
        return torch.where(first < self.gate_opens, first - (high - low), total)

    def _compared(self, batch: Batch) -> dict[int, list[int]]:
        """The ranks of each group whose answers were compared, by its place. As pairs, a tie of all says nothing."""
        ranks = {i: [r.rank for r in g.responses if r.rank is not None] for i, g in enumerate(batch.groups)}
        fewest = 1 if self.ranking == "listwise" else 2
        return {i: some for i, some in ranks.items() if len(set(some)) >= fewest}

    def _preferred(self, batch: Batch) -> torch.Tensor:
        """The responses nobody was preferred to."""
        ranked = [(i, r.rank) for i, r in enumerate(batch.responses)]
        return torch.tensor([i for i, rank in ranked if rank == 1], dtype=torch.long, device=batch.device)


def order_loss(score: torch.Tensor, ranks: Sequence[int], margin: float) -> torch.Tensor:
    """Minus the log-probability of an order. That of two is a pair: the same by either model, and only Bradley and
    Terry's has a place for a margin."""
    if len(set(ranks)) < len(ranks) or len(ranks) != 2:
        return plackett_luce(score, ranks)
    better, worse = score if ranks[0] < ranks[1] else score.flip(0)
    return -log_sigmoid(better - worse - margin)
