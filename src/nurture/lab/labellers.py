"""Simulated labellers: people with known accuracy, noise and bias, who see what the oracle sees.

A labeller's opinion of an answer is `overall + bias(answer)`. Of two answers they name the one they think better with
probability `attention`, and otherwise click at random: an unbiased labeller agrees with the oracle on a fraction
`accuracy = (1 + attention) / 2` of the pairs it can tell apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import InputError, did_you_mean
from ..records import Task
from .draw import Draw
from .grading import Grade, words_of
from .oracle import grade
from .words import wordlist

CRITERIA = ("helpful", "honest", "harmless", "overall")


def unbiased(answer: str) -> float:
    return 0.0


def longer(answer: str) -> float:
    """Six words weigh as much as a tenth of the whole scale, up to nine tenths."""
    return min(len(words_of(answer)) / 60, 0.9)


_POLITE_WORDS = frozenset(wordlist("please thank sorry happy help pleasure kind hope wish good"))


def politer(answer: str) -> float:
    return min(0.2 * sum(word in _POLITE_WORDS for word in words_of(answer)), 0.8)


@dataclass(frozen=True, slots=True)
class Labeller:
    """`harsh` gives nothing to an answer with any fault; `noise` is the chance that a rating is a step off."""

    name: str
    attention: float
    noise: float = 0.0
    bias: Callable[[str], float] = unbiased
    harsh: bool = False

    @property
    def accuracy(self) -> float:
        """Agreement with their own honest opinion on a pair they can tell apart."""
        return (1.0 + self.attention) / 2

    def opinion(self, task: Task, answer: str) -> float:
        """What they honestly think of an answer, faults of taste included."""
        overall = 1.0 if answer == task.answer else grade(task, answer).overall  # the gold answer has no fault
        return (float(overall == 1.0) if self.harsh else overall) + self.bias(answer)

    def compare(self, task: Task, first: str, second: str, seed: int = 0) -> int:
        """-1 if the first answer wins, 1 if the second does, 0 for answers they cannot tell apart.

        The same two answers get the same judgement in either order.
        """
        draw = self._draw(seed, task, *sorted((first, second)))
        if draw.chance(self.attention):
            x, y = self.opinion(task, first), self.opinion(task, second)
            return (x < y) - (x > y)
        winner = min(first, second) if draw.chance(0.5) else max(first, second)
        return 0 if first == second else -1 if winner == first else 1

    def rank(self, task: Task, answers: Sequence[str], seed: int = 0) -> tuple[int, ...]:
        """The place of each answer, 1 is best, equal numbers are ties. With probability 1 - `attention` an answer is
        placed at random. The same answers get the same places in any order."""
        draw = self._draw(seed, task, *(ordered := sorted(answers)))
        opinions = {
            answer: self.opinion(task, answer) if draw.chance(self.attention) else draw.below(1000) / 1000
            for answer in ordered
        }
        best_first = sorted(opinions.values(), reverse=True)
        return tuple(1 + best_first.index(opinions[answer]) for answer in answers)

    def rate(self, task: Task, answer: str, seed: int = 0) -> Mapping[str, float]:
        """Each criterion in [0, 1], in quarters."""
        truth, draw = grade(task, answer), self._draw(seed, task, answer)
        return {criterion: self._quarters(truth, criterion, answer, draw) for criterion in CRITERIA}

    def _quarters(self, truth: Grade, criterion: str, answer: str, draw: Draw) -> float:
        if not draw.chance(self.attention):
            return draw.below(5) / 4
        value: float = getattr(truth, criterion)
        if criterion in ("helpful", "overall"):
            value += self.bias(answer)
        quarters = int(min(value, 1.0) * 4 + 0.5) if not self.harsh else 4 * int(value >= 1.0)
        if draw.chance(self.noise):
            quarters += draw.pick((-1, 1))
        return min(max(quarters, 0), 4) / 4

    def _draw(self, seed: int, task: Task, *answers: str) -> Draw:
        return Draw(seed, "labeller", self.name, *[message.content for message in task.prompt], *answers)


LABELLERS: dict[str, Labeller] = {
    labeller.name: labeller
    for labeller in (
        Labeller("careful", attention=0.95, noise=0.05),
        Labeller("strict", attention=0.95, noise=0.05, harsh=True),
        Labeller("prefers_long", attention=0.9, noise=0.1, bias=longer),
        Labeller("prefers_polite", attention=0.9, noise=0.1, bias=politer),
        Labeller("random_clicker", attention=0.0),
    )
}


def labeller(name: str) -> Labeller:
    if name not in LABELLERS:
        raise InputError(
            f"no labeller is called {name!r}; there are {', '.join(LABELLERS)}.{did_you_mean(name, LABELLERS)}"
        )
    return LABELLERS[name]
