"""Labellers who judged the same answers: how far they agree, and who judges like nobody else.

Only what several people judged tells good labellers from bad ones. So a data set of comparisons wants an overlap, and a
column `labeller`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from ..errors import InputError
from ..records import Message, Pair, Ranking, Rating, Record

Item = tuple[str, str, str]
"""A prompt and two answers to it, in the order of the alphabet."""
Votes = dict[Item, dict[str, int]]
"""What each labeller said of an item: 1 for the first answer, -1 for the second, 0 for a tie."""

KAPPA = 0.4
"""Agreement beyond chance that is called moderate from here on (Landis and Koch 1977)."""
FEW = 20
"""Shared items below which nothing is said of a labeller."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """A labeller beside the majority of the others, on the items where these have one. `kappa` is Cohen's: 0 is
    chance, 1 is always the same."""

    labeller: str
    items: int
    shared: int
    same: int
    kappa: float

    @property
    def agreement(self) -> float:
        return self.same / self.shared if self.shared else float("nan")


def votes(records: Iterable[Record]) -> Votes:
    """Every two answers that a labeller compared: in a pair, in a ranking, or by rating both."""
    found: Votes = defaultdict(dict)
    rated: dict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
    for record in records:
        match record:
            case Pair(prompt, chosen, rejected, labeller=who) if who:
                _vote(found, who, _text(prompt), _text(chosen), _text(rejected), 1)
            case Ranking(prompt, responses, ranks, labeller=who) if who:
                for (a, place), (b, other) in combinations(zip(responses, ranks, strict=True), 2):
                    _vote(found, who, _text(prompt), _text(a), _text(b), (place < other) - (place > other))
            case Rating(prompt, response, scores, labeller=who) if who:
                rated[who, _text(prompt)].append((_text(response), sum(scores.values()) / len(scores)))
            case _:
                pass
    for (who, prompt), answers in rated.items():
        for (a, score), (b, other) in combinations(answers, 2):
            _vote(found, who, prompt, a, b, (score > other) - (score < other))
    return found


def _vote(found: Votes, who: str, prompt: str, first: str, second: str, vote: int) -> None:
    if first != second:
        item = (prompt, first, second) if first < second else (prompt, second, first)
        found[item][who] = vote if first < second else -vote


def _text(messages: Sequence[Message]) -> str:
    return "\n".join(f"{m.role}: {m.content}" for m in messages)


def agreements(found: Votes) -> list[Agreement]:
    """Each labeller beside the others, best first."""
    items: Counter[str] = Counter()
    beside: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for said in found.values():
        everyone = sum(said.values())
        for who, vote in said.items():
            items[who] += 1
            if others := everyone - vote:
                beside[who].append((vote, 1 if others > 0 else -1))
    told = [
        Agreement(who, items[who], len(both), sum(a == b for a, b in both), cohen_kappa(both))
        for who, both in ((who, beside[who]) for who in items)
    ]
    return sorted(told, key=lambda one: (-one.kappa, one.labeller))


def cohen_kappa(both: Sequence[tuple[int, int]]) -> float:
    """How far two labellers agree beyond chance: (same - chance) / (1 - chance). Cohen 1960."""
    n = len(both)
    same = sum(a == b for a, b in both) / n if n else 0.0
    first, second = Counter(a for a, _ in both), Counter(b for _, b in both)
    chance = sum(first[vote] * second[vote] for vote in first) / n**2 if n else 0.0
    return (same - chance) / (1 - chance) if chance < 1 else float(n > 0)


def fleiss_kappa(found: Iterable[Sequence[int]]) -> float:
    """How far many labellers agree beyond chance, from the votes on each item. Fleiss 1971; items may have been judged
    by different numbers of labellers, and count as often as they have pairs of votes."""
    same = pairs = 0
    all_votes: Counter[int] = Counter()
    for said in found:
        if len(said) < 2:
            continue
        counts = Counter(said)
        same += sum(n * (n - 1) for n in counts.values())
        pairs += len(said) * (len(said) - 1)
        all_votes.update(counts)
    if not pairs:
        return float("nan")
    total = all_votes.total()
    chance = sum((n / total) ** 2 for n in all_votes.values())
    return (same / pairs - chance) / (1 - chance) if chance < 1 else 1.0


def screen(records: Sequence[Record], least: float) -> tuple[list[Record], list[Agreement]]:
    """The records without those of labellers whose kappa is below `least`, and who these were.

    One at a time, the worst first: with them gone, the majority is a better one, and the others are judged anew. What
    nobody signed is kept, and so are labellers with too few shared items to tell.
    """
    out: list[Agreement] = []
    left = votes(records)
    while True:
        told = [one for one in agreements(left) if one.shared >= FEW]
        if len(told) < 2:
            raise InputError(
                f"screen: no two labellers judged {FEW} of the same comparisons, so nobody can be compared; have some "
                "rows judged by several people, with a column 'labeller'."
            )
        worst = told[-1]
        if worst.kappa >= least:
            break
        if len(told) == 2:
            raise InputError(
                f"screen: of the labellers {told[0].labeller} and {worst.labeller} one is wrong too often (kappa "
                f"{worst.kappa:.2f}), and nobody else can say which; lower screen, or have more people label."
            )
        out.append(worst)
        for said in left.values():
            said.pop(worst.labeller, None)
    names = {one.labeller for one in out}
    return [record for record in records if getattr(record, "labeller", "") not in names], out
