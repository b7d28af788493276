"""Rollouts of a language model as an iterator of batches: draw, reward, record, and go through it.

    for step in train(roles, method, rollouts.batches(...), ...)

Nothing here remembers anything: the prompts of rollout k, what is drawn for them and how the updates are cut are
functions of (seed, k) and the weights. So a run that goes on after rollout k, from the weights it had then, ends as one
that was never stopped. Checkpoints belong on these borders, every `method.updates_per_rollout` updates.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ..core.random import numpy_generator, stream_key
from ..data.batches import epoch_size, sample_order
from ..data.mix import Mixture
from ..errors import InputError, RewardLost
from ..methods import Online
from ..protocols import Answer, Outcome, Request, Roles, Sample, Sampler, Sampling, Scored, Unscorable
from ..records import Message, Task
from ..train.processes import Processes
from ..types import CPU, Batch, Group, Ids, Response
from .laps import Laps
from .record import advantages, check_parts, distance, record, rollout_metrics, updates

Judge = Callable[[Sequence[Answer]], Sequence[Outcome]]
"""One outcome per answer, in their order."""
Draw = Callable[[Sequence[Request], Sampling], list[list[Response]]]
"""For each request its `n` responses."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A task as the sampler is given it. `key` names it for the random streams. `ease` is the mean score of answers to
    it, where that was measured."""

    task: Task
    ids: Ids
    key: str
    ease: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A prompt, its responses that could be scored, and what became of all of them."""

    prompt: Prompt
    responses: tuple[Response, ...]
    samples: tuple[dict[str, Any], ...]

    @property
    def has_signal(self) -> bool:
        """Whether comparing the responses teaches anything."""
        return len({r.score for r in self.responses}) > 1

    def to_json(self) -> dict[str, Any]:
        """For another process. (A float32 written as JSON reads back as the same.)"""

        def plain(r: Response) -> dict[str, Any]:
            logp = None if r.logp_sampler is None else r.logp_sampler.tolist()
            rest = {"score": r.score, "truncated": r.truncated}
            return {"ids": r.ids.tolist(), "mask": r.mask.tolist(), "logp_sampler": logp, **rest}

        return {"responses": [plain(r) for r in self.responses], "samples": self.samples}

    @classmethod
    def from_json(cls, prompt: Prompt, written: Mapping[str, Any]) -> Scene:
        def response(r: Mapping[str, Any]) -> Response:
            logp = None if r["logp_sampler"] is None else np.array(r["logp_sampler"], np.float32)
            ids, mask = np.array(r["ids"], np.int64), np.array(r["mask"], bool)
            return Response(ids, mask, r["score"], truncated=r["truncated"], logp_sampler=logp)

        return cls(prompt, tuple(map(response, written["responses"])), tuple(written["samples"]))


@dataclass
class Rollouts:
    """`batch_size` prompts a rollout, `method.num_generations` responses each.

    A response that cannot be scored is left out of its group, and a group without any is left out of the rollout; both
    are counted. With `method.oversample` more prompts are asked, and with `method.refills` others afterwards: groups
    whose scores are all equal are set aside for them; what is still missing then is filled up with those set aside, so
    that a rollout keeps its size. In the first epoch prompts whose `ease` is known come in its order, easiest first.

    Several processes share the prompts of a rollout; each ends up with all of it, since advantages may need it whole.
    """

    prompts: Sequence[Prompt]
    draw: Draw
    judge: Judge
    roles: Roles
    method: Online
    decode: Callable[[Sequence[int]], str]
    batch_size: int
    seed: int
    stop_ids: tuple[int, ...] = ()
    oracle: Judge | None = None
    """A second judge, from whom nothing is learnt."""
    mixed: Callable[[int], Sequence[Group]] = lambda rollout: ()
    """Groups to imitate beside rollout k (PPO-ptx)."""
    mixture: Mixture | None = None
    """Which of the prompts an epoch asks; without it, all."""
    tokens: int = 1 << 62
    """The most tokens in one pass of recording."""
    device: torch.device = CPU
    processes: Processes = field(default_factory=Processes)
    laps: Laps = field(default_factory=Laps)
    """Where the time of the newest rollout went: `sample`, `reward` and `score` here, `train` by whoever trains."""
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    """Of the newest rollout: `rollout_metrics`, and how many responses and groups came to nothing."""
    unscored: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """What kept responses of the newest rollout from being scored: `("failed", reason)` or `("unscorable", reason)`."""
    samples: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Every response of the newest batch: prompt, response, score with its reason, length, KL."""

    def __post_init__(self):
        check_parts(self.method, self.batch_size)
        if not self.prompts:
            raise InputError("data: no task to learn from is left.")

    def batches(
        self, state: Callable[[], Mapping[str, Any]], first: int = 0, last: int | None = None
    ) -> Iterator[Batch]:
        """The updates of rollouts number `first` (from 0) up to `last`. `state` is asked for the method's own state at
        the border before each."""
        rollout = first
        while last is None or rollout < last:
            batch = self.rollout(rollout, state())
            for part in updates(batch, self.method, self.seed, rollout, self.mixed(rollout)):
                self.laps.go_on()
                yield part
            rollout += 1

    def rollout(self, number: int, state: Mapping[str, Any]) -> Batch:
        """Rollout number `number` with everything recorded."""
        self.laps.begin()
        scenes, counts = self._scenes(number)
        groups = tuple(Group(s.prompt.ids, s.responses, s.prompt.key) for s in scenes)
        batch = record(Batch(groups, self.device), self.roles, self.method, self.tokens, self.processes)
        priced = advantages(batch, self.method, state)
        self.samples = [{"rollout": number, **row} for row in _with_kl(scenes, batch)]
        self.metrics = {**rollout_metrics(batch, priced), **_judged(self.samples), **counts}
        self.laps.lap("score")
        return priced

    def _scenes(self, number: int) -> tuple[list[Scene], dict[str, float]]:
        kept: list[Scene] = []
        aside: list[Scene] = []
        asked = drawn = empty = 0
        self.unscored.clear()
        for chosen in self._choices(number):
            missing = self.batch_size - len(kept)
            if missing <= 0:
                break
            some = chosen[: self._asked(missing)]
            for scene in self._shared(some, asked, number):
                drawn += len(scene.samples)
                self.unscored.update((row["unscored"], row["reason"]) for row in scene.samples if "unscored" in row)
                empty += not scene.responses
                if scene.responses:
                    (kept if scene.has_signal or not self.method.sets_aside else aside).append(scene)
            asked += len(some)
        if not kept and not aside:
            ((_, reason), _) = self.unscored.most_common(1)[0]
            raise RewardLost(
                f"no response of rollout {number} could be scored, most often because of this: {reason}. Mend the "
                "reward or the data, and resume."
            )
        batch = (kept + aside)[: self.batch_size]
        surplus = max(0, len(kept) - self.batch_size)
        counts = {
            "rollout/responses": float(drawn),
            "rollout/unscored": float(self.unscored.total()),
            "rollout/failed": float(sum(n for (kind, _), n in self.unscored.items() if kind == "failed")),
            "rollout/empty_groups": float(empty),
            "rollout/refilled": float(len(kept) + len(aside) - len(batch) - surplus),
            "rollout/surplus": float(surplus),
        }
        return batch, counts

    def _choices(self, number: int) -> Iterator[list[Prompt]]:
        """The prompts of a rollout in the order of their epoch, with others by chance for groups that teach nothing,
        then only others for each refill; as many as an empty batch would ask."""
        n = epoch_size(len(self.prompts), self.mixture)
        places = [divmod(number * self.batch_size + i, n) for i in range(self.batch_size)]
        orders = {epoch: self._order(epoch) for epoch in {epoch for epoch, _ in places}}
        asked = range(n) if self.mixture is None else self.mixture.order(places[0][0]).tolist()

        def others(count: int, *time: int) -> list[Prompt]:
            order = numpy_generator(self.seed, "refill", number, *time).permutation(n)
            return [self.prompts[asked[order[i % n]]] for i in range(count)]

        size = self._asked(self.batch_size)
        turn = [self.prompts[orders[epoch][place]] for epoch, place in places]
        yield turn + others(size - self.batch_size)
        for refill in range(self.method.refills):
            yield others(size, refill)

    def _asked(self, missing: int) -> int:
        """How many prompts are asked for so many groups. (100 * 1.1 is a little over 110.)"""
        return math.ceil(round(missing * self.method.oversample, 6))

    def _order(self, epoch: int) -> Sequence[int]:
        order: list[int] = sample_order(self.seed, epoch, len(self.prompts), self.mixture).tolist()
        return order if epoch else sorted(order, key=lambda i: -(self.prompts[i].ease or 0.0))

    def _shared(self, prompts: Sequence[Prompt], before: int, number: int) -> list[Scene]:
        """What became of each prompt, of which `before` were asked before them; each process plays its part."""
        rank, world = self.processes.rank, self.processes.world_size
        mine = range(rank, len(prompts), world)

        def play() -> list[Scene]:
            return self._play([prompts[i] for i in mine], [before + i for i in mine], number) if mine else []

        if world == 1:
            return play()
        try:
            own: dict[str, Any] = {"scenes": [scene.to_json() for scene in play()]}
        except RewardLost as error:  # told to the others, so that all end here, and can save together
            own = {"lost": str(error)}
        told = self.processes.gather(own)
        if lost := [of_rank["lost"] for of_rank in told if "lost" in of_rank]:
            raise RewardLost(lost[0])
        scenes = [iter(of_rank["scenes"]) for of_rank in told]
        return [Scene.from_json(prompt, next(scenes[i % world])) for i, prompt in enumerate(prompts)]

    def _play(self, prompts: Sequence[Prompt], places: Sequence[int], number: int) -> list[Scene]:
        method = self.method
        sampling = Sampling(
            max_tokens=method.max_completion_length, temperature=method.temperature, stop_ids=self.stop_ids,
            seed=stream_key(self.seed, "rollout", number) >> 1,
        )  # fmt: skip
        # The place is part of the name: a prompt that comes twice in a rollout is answered anew.
        requests = [
            Request(p.ids, method.num_generations, f"{p.key} {i}", task=p.task)
            for i, p in zip(places, prompts, strict=True)
        ]
        drawn = self.draw(requests, sampling)
        self.laps.lap("sample")
        answers = [self._answer(p, r) for p, responses in zip(prompts, drawn, strict=True) for r in responses]
        outcomes = list(self.judge(answers))
        truths: Sequence[Outcome | None] = self.oracle(answers) if self.oracle else [None] * len(answers)
        self.laps.lap("reward")
        assert len(outcomes) == len(truths) == len(answers), "a judge gives one outcome per answer"
        told = iter(zip(answers, outcomes, truths, strict=True))
        return [
            self._scene(p, [(r, *next(told)) for r in responses]) for p, responses in zip(prompts, drawn, strict=True)
        ]

    def _answer(self, prompt: Prompt, response: Response) -> Answer:
        tokens = int(response.mask.sum())
        if isinstance(response, Dialogue):
            return Answer(prompt.task, response.turns[-1].content, response.turns, tokens)
        return Answer(prompt.task, self.decode(spoken(response, self.stop_ids)), tokens=tokens)

    def _scene(self, prompt: Prompt, told: list[tuple[Response, Answer, Outcome, Outcome | None]]) -> Scene:
        scored: list[Response] = []
        rows: list[dict[str, Any]] = []
        text = self.decode(prompt.ids.tolist())
        for response, answer, outcome, truth in told:
            row: dict[str, Any] = {
                "prompt": text,
                "response": self.decode(spoken(response, self.stop_ids)),
                "tokens": answer.tokens,
                "reason": outcome.reason,
            }
            if answer.messages:
                row["turns"] = sum(message.role == "assistant" for message in answer.messages)
            if isinstance(truth, Scored):
                row["oracle"] = truth.value
            if parts := {name: part.value for name, part in outcome.parts.items() if isinstance(part, Scored)}:
                row["parts"] = parts
            if isinstance(outcome, Scored):
                scored.append(replace(response, score=outcome.value))
                row["score"] = outcome.value
            else:
                row["unscored"] = "unscorable" if isinstance(outcome, Unscorable) else "failed"
            rows.append(row)
        return Scene(prompt, tuple(scored), tuple(rows))


@dataclass(frozen=True, slots=True, eq=False)
class Dialogue(Response):
    """A response of several turns, with what they say as text for rewards to read. The last one is the model's."""

    turns: tuple[Message, ...] = ()


def single_turn(sampler: Sampler, alive: Callable[[], None] = lambda: None) -> Draw:
    """Each response is one turn: what the sampler drew, token for token. `alive` is called after every token."""

    def draw(requests: Sequence[Request], sampling: Sampling) -> list[list[Response]]:
        done: list[Sample] = []
        for event in sampler.stream(requests, sampling):
            alive()
            if isinstance(event, Sample):
                done.append(event)
        out: list[list[Response]] = [[] for _ in requests]
        for sample in sorted(done, key=lambda s: (s.request, s.k)):
            out[sample.request].append(response_of(sample))
        return out

    return draw


def response_of(sample: Sample) -> Response:
    own = np.ones(len(sample.ids), bool)
    return Response(sample.ids, own, truncated=sample.reason == "length", logp_sampler=sample.logp)


def spoken(response: Response, stop_ids: Sequence[int]) -> list[int]:
    """The ids without the stop token that ended them."""
    ids: list[int] = response.ids.tolist()
    return ids[:-1] if ids and ids[-1] in stop_ids else ids


def _judged(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The means of what the oracle and the parts of a combined reward said, and of how often the model spoke."""
    said: dict[str, list[float]] = {}
    for row in rows:
        if "score" in row:
            parts = {f"rollout/part/{name}": value for name, value in row.get("parts", {}).items()}
            oracle = {"rollout/oracle": row["oracle"]} if "oracle" in row else {}
            turns = {"rollout/turns": row["turns"]} if "turns" in row else {}
            for name, value in (parts | oracle | turns).items():
                said.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in said.items()}


def _with_kl(scenes: Sequence[Scene], batch: Batch) -> list[dict[str, Any]]:
    """The rows of all responses; those that were scored with their distance from the reference, where it is known."""
    nats = distance(batch)
    kl = None if nats is None else iter(batch.sum_per_response(nats).tolist())
    return [{**row, "kl": next(kl)} if kl is not None and "score" in row else row for s in scenes for row in s.samples]
