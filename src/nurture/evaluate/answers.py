"""A model's answers to tasks, and what the lab's oracle says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.template import Template, ensure_chat
from ..errors import InputError
from ..lab.grading import declines
from ..lab.oracle import grade
from ..models.layouts import choose_layout, is_decoder
from ..models.load import LoadedModel, embed_new_tokens, load_model, resolve_model
from ..protocols import Request, Sample, Sampling
from ..records import Task
from ..rollout.sampler import LocalSampler
from ..train.precision import choose_device, choose_precision
from .statistics import Estimate, estimate, pass_at_k

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CRITERIA = ("overall", "helpful", "honest", "harmless")
MAX_TOKENS = 96
"""The longest gold answer of the lab has under a hundred tokens."""


@dataclass(frozen=True, slots=True)
class Graded:
    """One answer to one task of the lab."""

    task: int
    family: str
    level: int
    prompt: str
    response: str
    overall: float
    helpful: float
    honest: float
    harmless: float
    declines: bool
    reason: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def open_to_talk(
    model: str,
    stages: Mapping[str, Path] | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    seed: int = 0,
) -> tuple[LoadedModel, Template]:
    """A model with a chat template (ours where it has none), ready to answer."""
    where = choose_device(device)
    dtype = choose_precision(precision, where)
    loaded = with_chat(load_model(resolve_model(model, stages or {}), dtype=dtype, device=where, seed=seed))
    return loaded, Template(loaded.tokenizer)


def with_chat(loaded: LoadedModel) -> LoadedModel:
    """The model with a chat template: its own, or ours with embeddings for what is new in it."""
    if not ensure_chat(loaded.tokenizer, plain=not is_decoder(loaded.model)):
        return loaded
    return replace(loaded, new_tokens=(*loaded.new_tokens, *embed_new_tokens(loaded.model, loaded.tokenizer)))


def draw_answers(
    model: PreTrainedModel,
    template: Template,
    tasks: Sequence[Task],
    *,
    samples: int = 1,
    temperature: float = 0.0,
    max_tokens: int = MAX_TOKENS,
    seed: int = 0,
    alive: Callable[[int], None] = lambda done: None,
) -> list[list[str]]:
    """For each task `samples` answers. Control tokens other than the last stop stay in the text: they are part of what
    the model said. `alive` is told how many answers are done."""
    requests = [Request(template.encode_prompt(t.prompt), samples, key=t.origin or str(i)) for i, t in enumerate(tasks)]
    longest = max(len(r.prompt) for r in requests) + max_tokens
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and longest > positions:
        raise InputError(f"a prompt with {max_tokens} tokens of answer is {longest} long; the model reads {positions}.")
    training = model.training
    model.eval()
    sampler = LocalSampler(model, layout=choose_layout(model, longest).layout)
    stops = template.stop_ids
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, stop_ids=stops, seed=seed)
    texts: list[list[str]] = [[""] * samples for _ in tasks]
    done = 0
    for event in sampler.stream(requests, sampling):
        if not isinstance(event, Sample):
            continue
        ids = [int(i) for i in event.ids]
        if ids and ids[-1] in stops:
            ids.pop()
        texts[event.request][event.k] = str(template.tokenizer.decode(ids))
        done += 1
        alive(done)
    model.train(training)
    return texts


def grade_answers(tasks: Sequence[Task], answers: Sequence[Sequence[str]]) -> list[Graded]:
    graded: list[Graded] = []
    for number, (task, texts) in enumerate(zip(tasks, answers, strict=True)):
        prompt = "\n".join(f"{m.role}: {m.content}" if len(task.prompt) > 1 else m.content for m in task.prompt)
        for text in texts:
            found = grade(task, text)
            graded.append(
                Graded(
                    number, task.family, int(task.info["level"]), prompt, text, found.overall, found.helpful,
                    found.honest, found.harmless, declines(text), found.reason,
                )
            )  # fmt: skip
    return graded


def per_task(graded: Sequence[Graded], value: Callable[[Graded], float]) -> list[float]:
    """The mean over each task's answers: answers to one task are not independent, tasks are."""
    sums: dict[int, list[float]] = {}
    for one in graded:
        sums.setdefault(one.task, []).append(value(one))
    return [sum(v) / len(v) for _, v in sorted(sums.items())]


def criterion(name: str) -> Callable[[Graded], float]:
    return lambda one: float(getattr(one, name))


def by_family(graded: Sequence[Graded]) -> dict[str, list[Graded]]:
    families: dict[str, list[Graded]] = {}
    for one in graded:
        families.setdefault(one.family, []).append(one)
    return dict(sorted(families.items()))


def summary(graded: Sequence[Graded]) -> dict[str, Any]:
    """Every criterion, the overall score of each family and level, how often what is declined, and how long answers
    are."""
    families = by_family(graded)
    levels: dict[str, Estimate] = {}
    for level in sorted({one.level for one in graded}):
        levels[str(level)] = estimate(per_task([g for g in graded if g.level == level], criterion("overall")))
    measured: dict[str, Any] = {name: estimate(per_task(graded, criterion(name))).to_json() for name in CRITERIA}
    measured["families"] = {
        name: estimate(per_task(some, criterion("overall"))).to_json() for name, some in families.items()
    }
    measured["levels"] = {level: found.to_json() for level, found in levels.items()}
    measured["declines"] = {
        name: estimate(per_task(families[name], lambda g: float(g.declines))).to_json()
        for name in ("harmful", "benign")
        if name in families
    }
    measured["words"] = estimate(per_task(graded, words)).to_json()
    return measured | passes(graded)


def words(answer: Graded) -> float:
    """How long an answer is."""
    return float(len(answer.response.split()))


def passes(graded: Sequence[Graded]) -> dict[str, Any]:
    """pass@k for k = 1, 2, 4 … where a task has several answers."""
    found = pass_values(graded)
    return {"pass_at": {str(k): estimate(values).to_json() for k, values in found.items()}} if found else {}


def pass_values(graded: Sequence[Graded]) -> dict[int, list[float]]:
    """For each k each task's pass@k; an answer with full marks is right. Nothing where tasks have one answer."""
    right: dict[int, list[bool]] = {}
    for one in graded:
        right.setdefault(one.task, []).append(one.overall > 0.999)
    drawn = min(len(v) for v in right.values())
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= drawn] if drawn > 1 else []
    return {k: [pass_at_k(len(v), sum(v), k) for _, v in sorted(right.items())] for k in ks}
