"""What people write down, before any tokenizer has seen it. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `train` overrides, for this turn alone, whether its tokens carry loss."""

    role: str
    content: str
    name: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str | None = None
    train: bool | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A dialogue to imitate. `origin` says where the row came from (`file:line`)."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and its continuation as raw text, with no chat template around them."""

    prompt: str
    completion: str
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text to continue."""

    text: str
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, the better one first; `margin` says by how much, where that is known."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    margin: float | None = None
    origin: str = ""
    labeller: str = ""
    """Who said so, where that is known (so in what follows)."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Several answers to one prompt; `ranks[i]` is the place of answer i, 1 is best, equal numbers are ties. `scores`
    are what it was ranked by, where that is known; the higher the better."""

    prompt: tuple[Message, ...]
    responses: tuple[tuple[Message, ...], ...]
    ranks: tuple[int, ...]
    origin: str = ""
    scores: tuple[float, ...] | None = None
    labeller: str = ""


@dataclass(frozen=True, slots=True)
class Rating:
    """One answer with one score per criterion (a single score is the criterion `overall`)."""

    prompt: tuple[Message, ...]
    response: tuple[Message, ...]
    scores: Mapping[str, float]
    origin: str = ""
    labeller: str = ""


@dataclass(frozen=True, slots=True)
class Steps:
    """A chain of reasoning cut into steps, each with a label (1 right, 0 wrong; values between are soft labels)."""

    prompt: tuple[Message, ...]
    steps: tuple[str, ...]
    labels: tuple[float, ...]
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt and whatever its grader needs (the answer, tests, constraints)."""

    prompt: tuple[Message, ...]
    answer: Any = None
    family: str = ""
    info: Mapping[str, Any] = field(default_factory=dict[str, Any])
    origin: str = ""


Record = Conversation | Completion | Text | Pair | Ranking | Rating | Steps | Task
