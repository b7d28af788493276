"""Nurture from Python: the same verbs as the command line.

from nurture import api
api.train("sft", ["model=Qwen/Qwen3-0.6B", "data=rows.jsonl", "out=runs/mine"])
for piece in api.chat_session("runs/mine/model").reply("Hello!"):
    print(piece, end="")
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError, did_you_mean
from .recipe import Recipe, Stage, load_recipe, references, stage_from, take, take_flag

if TYPE_CHECKING:
    from rich.console import Console

    from .evaluate.best_of import BestOf
    from .evaluate.exam import Exam
    from .evaluate.selftest import Check
    from .evaluate.talk import Speaker
    from .export import Exported
    from .protocols import Sampling
    from .records import Message


def run(
    recipe: Path | str,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    *,
    dry_run: bool = False,
    fresh: bool = False,
    console: Console | None = None,
) -> dict[str, Path]:
    """Run every stage of a recipe file; returns the finished models by stage name (empty after a dry run)."""
    from .run import run_recipe

    loaded = load_recipe(recipe, overrides)
    out = out or Path("runs") / loaded.name
    if dry_run:
        _dry_run(loaded, console or _console())
        return {}
    return run_recipe(loaded, out, console or _console(), fresh=fresh)


def train(
    method: str, overrides: Sequence[str] = (), *, dry_run: bool = False, console: Console | None = None
) -> Path | None:
    """One stage without a file: `train("sft", ["model=…", "data=…", "out=…"])`; returns the finished model."""
    from .run import run_stage

    stage, folder, fresh = read_words(method, overrides)
    if dry_run:
        _show_setup(stage, str(folder), {}, console or _console())
        return None
    return run_stage(stage, folder, console or _console(), fresh=fresh)


def read_words(method: str, words: Sequence[str]) -> tuple[Stage, Path, bool]:
    """The words after `nurture train METHOD`: the stage, its folder (`out=`), and whether to begin again (`fresh=`)."""
    out, rest = take(words, "out")
    fresh, rest = take_flag(rest, "fresh")
    return stage_from(method, rest), Path(out or f"runs/{method.rpartition(':')[2].lower()}"), fresh


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


# What a stage cannot be set up without. (An earlier stage's answers, too, but those are told apart: `_show_setup`.)
AWAITED = ("model.tokenizer", "ref", "teacher", "reward", "critic", "oracle")


def _dry_run(recipe: Recipe, console: Console) -> None:
    """What each stage would do. A stage that starts from an earlier one is shown with that one's own start, whose
    shapes it shares. One that has an earlier one for a judge, a critic, a reference or a teacher has to wait for it."""
    from .run import check_ahead
    from .show import header

    check_ahead(recipe)
    starts: dict[str, Any] = {}
    for name, stage in recipe.stages.items():
        model = stage.model
        while isinstance(model, str) and model in starts:
            model = starts[model]
        starts[name] = model
        title = f"stage {name} of {recipe.name}"
        used = {word for key, word in references(stage) if key in AWAITED}
        if awaited := [earlier for earlier in recipe.stages if earlier in used]:
            what = {"needs": ", ".join(awaited), "dry run": "what it needs is trained by then; nothing was loaded"}
            header(console, f"{stage.method.name} in {title}", what)
            continue
        shown = stage.model_copy(update={"model": model})
        _show_setup(shown, title, {}, console)


def _show_setup(stage: Stage, title: str, stages: Mapping[str, Path], console: Console) -> None:
    from .play import describe as describe_game
    from .play import is_game
    from .setup import describe, example, set_up
    from .show import header
    from .trackers import require_trackers
    from .train.processes import Processes

    require_trackers(stage.track)
    if is_game(stage):
        header(console, f"{stage.method.name} in {title}", describe_game(stage) | {"dry run": "nothing was played"})
        return
    if drawn := [f"{s.draw.n} answers by {s.draw.model} to each task of {s.path}" for s in stage.data if s.draw]:
        what = {"data": "\n".join(drawn), "dry run": "what it learns from is drawn when the run begins"}
        header(console, f"{stage.method.name} in {title}", what)
        return
    setup = set_up(stage, Processes(), stages=stages)
    facts = describe(setup, stage.processes) | {"dry run": "nothing was trained or written"}
    header(console, f"{stage.method.name} in {title}", facts, example=example(setup, colour=console.is_terminal))


def quickstart(
    overrides: Sequence[str] = (), out: Path | None = None, *, fresh: bool = False, console: Console | None = None
) -> dict[str, Path]:
    """The lab's base model becomes an assistant, measured before and after; returns the models by stage name."""
    return run("quickstart", overrides, out or Path("runs/quickstart"), fresh=fresh, console=console)


def best_of(
    model: str,
    data: str,
    reward: Any,
    out: Path | str,
    plan: BestOf | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    console: Console | None = None,
) -> dict[str, int]:
    """Answer tasks several times, score the answers with any reward and write what `plan` keeps of them:
    `best_of("runs/sft/model", "lab/prompts", "lab", "good.jsonl", BestOf(n=16, keep="all", above=0.8))`. Returns how
    many there were of everything."""
    from .evaluate.best_of import BestOf, write_best_of

    told = console or _console()
    return write_best_of(model, data, reward, Path(out), plan or BestOf(), told, device=device, precision=precision)


def compare(
    models: Sequence[str], overrides: Sequence[str] = (), out: Path | None = None, *, console: Console | None = None
) -> dict[str, Any]:
    """Models side by side on the lab's test, with paired tests: `compare(["lab", "runs/sft/model"], ["n=500"])`. Of
    reward models it is how often they agree with the oracle.

    The words are the fields of `evaluate.exam.Exam`, `device` and `precision`. With `out` a page and `report.json` are
    written there. Returns what stands in the latter.
    """
    from .compare import compare_models, compare_reward_models
    from .models.load import resolve_model
    from .models.vet import is_reward_model

    exam, where = read_exam(overrides)
    judges = [name for name in models if is_reward_model(resolve_model(name, {}))]
    if judges and len(judges) < len(models):
        raise InputError(f"{judges[0]} is a reward model; compare it with others that are.")
    if judges and (idle := [word for word in overrides if word.partition("=")[0] not in ("data", "n", *where)]):
        raise InputError(f"{idle[0]}: a reward model answers nothing; data=…, n=…, device=… and precision=… are left.")
    compared = compare_reward_models if judges else compare_models
    device, precision = where.get("device", "auto"), where.get("precision", "auto")
    return compared(
        models, out, console or _console(), title="comparison", exams=[exam], device=device, precision=precision
    )


def read_exam(words: Sequence[str]) -> tuple[Exam, dict[str, str]]:
    """`data=lab/reasoning n=100 samples=16 temperature=1.0 device=cpu` as an exam and where to sit it."""
    from pydantic import TypeAdapter, ValidationError

    from .evaluate.exam import Exam

    known = (*(f.name for f in fields(Exam)), "device", "precision")
    settings: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in known:
            raise InputError(
                f"{word!r} is no setting of an exam; there are {', '.join(known)}.{did_you_mean(key, known)}"
            )
        settings[key] = value
    where = {key: settings.pop(key) for key in ("device", "precision") if key in settings}
    try:
        exam = TypeAdapter(Exam).validate_python(settings)
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        raise InputError(f"{key} must be a number, not {settings[key]!r}.") from None
    if exam.samples < 1 or exam.max_tokens < 1 or exam.temperature < 0:
        raise InputError("samples and max_tokens must be at least 1, and temperature at least 0.")
    if exam.samples > 1 and exam.temperature == 0:
        raise InputError("samples=… of one model at temperature 0 are all the same; set temperature=1.")
    return exam, where


def evaluate(model: str, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Loss, perplexity and token accuracy of a model on a file: `evaluate("runs/sft/model", ["data=rows.jsonl"])`; with
    how many rows these are of, how many had to be left out, and how many were cut to fit.

    The words are those of `train sft` (or, with `method=lm`, of `train lm`).
    """
    from .evaluate.held_out import evaluate_loss
    from .models.load import resolve_model
    from .models.roles import LocalRoles
    from .models.vet import is_reward_model
    from .setup import set_up
    from .train.optim import AdamW
    from .train.processes import Processes

    method, words = take(overrides, "method")
    stage = stage_from(method or "sft", [f"model={model}", *words])
    try:
        setup = set_up(stage, Processes())
    except InputError as error:
        if is_reward_model(resolve_model(model, {})):
            raise InputError(f"{error} A reward model is measured on comparisons, with --pairs FILE.") from None
        raise
    loaded = setup.loaded.model
    roles = LocalRoles({"policy": loaded}, {"policy": setup.layout.layout}, AdamW([]), Processes())
    groups = setup.first_epoch
    metrics = evaluate_loss(roles, stage.method, groups, tokens=setup.tokens_per_micro, device=setup.device)
    reports = setup.reports
    counted = {
        "rows": len(groups),
        "left_out": sum(r.dropped_long + r.dropped_masked + sum(r.rejected.values()) for r in reports),
        "cut": sum(r.truncated + r.cut_prompts for r in reports),
        "trained_tokens": sum(r.trained_tokens for r in reports),
    }
    return {name.removeprefix("eval/"): value for name, value in metrics.items()} | counted


def evaluate_reward(model: str, pairs: Path | str, *, device: str = "auto", precision: str = "auto") -> dict[str, Any]:
    """How often a reward model gives the chosen answer of a comparison the strictly higher score."""
    from .evaluate.reward_bench import reward_bench
    from .evaluate.scoring import load_reward_model

    return reward_bench(load_reward_model(model, device=device, precision=precision), pairs)


def chat_session(
    model: str,
    *,
    system: str = "",
    max_tokens: int = 512,
    temperature: float = 0.7,
    top_p: float = 1.0,
    seed: int = 42,
    device: str = "auto",
    precision: str = "auto",
) -> ChatSession:
    """Load a model to talk to."""
    from .evaluate.talk import Speaker
    from .protocols import Sampling

    speaker = Speaker(device, precision, seed)
    speaker.switch(model)
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)
    return ChatSession(speaker, sampling, system)


@dataclass
class ChatSession:
    """A conversation with a model. History is kept until `reset`."""

    speaker: Speaker
    sampling: Sampling
    system_text: str = ""
    history: list[Message] = field(default_factory=list["Message"])

    def reset(self) -> None:
        self.history.clear()

    def system(self, text: str) -> None:
        """Set the system message and begin a new conversation."""
        self.system_text = text
        self.reset()

    def switch(self, model: str) -> None:
        """Go on with another model. Adapters of one kind on one base share it: the base is not loaded again."""
        self.speaker.switch(model)

    def reply(self, text: str) -> Generator[str, None, None]:
        """The answer, piece by piece as it is drawn. A reply that is not read to its end stays in the history as far as
        it was read."""
        from dataclasses import replace

        import numpy as np

        from .models.layouts import choose_layout
        from .protocols import Request, Sample
        from .records import Message
        from .rollout.sampler import LocalSampler

        system = [Message("system", self.system_text)] if self.system_text else []
        turn = Message("user", text)
        model, template = self.speaker.model, self.speaker.template
        prompt = template.encode_prompt([*system, *self.history, turn])
        tokenizer, sampling = template.tokenizer, replace(self.sampling, stop_ids=template.stop_ids)
        layout = choose_layout(model, len(prompt) + sampling.max_tokens).layout
        sampler = LocalSampler(model, layout=layout)
        key = f"turn {len(self.history)}"
        ids: list[int] = []
        shown = ""
        stream = sampler.stream([Request(np.asarray(prompt), key=key)], sampling)
        try:
            for event in stream:
                if isinstance(event, Sample):
                    ids = [int(i) for i in event.ids if int(i) not in sampling.stop_ids]
                else:
                    ids.append(event[2])
                    if event[2] in sampling.stop_ids:
                        ids.pop()
                now = str(tokenizer.decode(ids, skip_special_tokens=True))
                if isinstance(event, Sample) or not now.endswith("\ufffd"):  # half a character waits for its other half
                    yield now[len(shown) :]
                    shown = now
        finally:
            self.history += [turn, Message("assistant", shown)]


def export(
    model: Path | str, out: Path | str | None = None, *, merge: bool = False, dtype: str | None = None
) -> Exported:
    """A plain model in a folder of its own, from an adapter (`merge=True`) or in another number format."""
    from .export import FORMATS, export

    if dtype not in (None, *FORMATS):
        raise InputError(f"--dtype {dtype}: must be one of {', '.join(FORMATS)}.{did_you_mean(dtype, FORMATS)}")
    folder = Path(model)
    ending = "merged" if merge else dtype or "copy"
    where = Path(out) if out is not None else folder.with_name(f"{folder.name}-{ending}")
    return export(str(model), where, merged=merge, dtype=dtype)  # pyright: ignore[reportArgumentType]


def selftest(model: str = "tiny", **settings: Any) -> list[Check]:
    """The checks of our own test suite on one model and this machine; `tiny` is a fresh random one."""
    from .evaluate.selftest import run_checks

    return run_checks(model, **settings)


def schema() -> str:
    """The JSON schema of a recipe."""
    from .recipe import json_schema

    return json.dumps(json_schema(), indent=1)
