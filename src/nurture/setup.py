"""Everything a stage needs before its first step: model, data, layout, memory. Building it trains nothing
and writes nothing (but the cache of tokens), so a dry run is exactly this."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from .adapters.attached import train_on
from .core.logp import CHUNK_BYTES, KEPT_BYTES
from .data.batches import epoch_size, sample_order, steps_in
from .data.cache import cache_folder
from .data.formats import Fault, Kind
from .data.formats.serve import SERVES
from .data.judged import Judging, add_unrelated
from .data.labellers import screen
from .data.load import OnBadRow, load_records, numbered, set_aside
from .data.mix import Mixture, Part, by_task, tasks_of
from .data.prepare import prepare, show_example, split_eval
from .data.prepared import Prepared
from .data.read import BadRow, Row
from .data.report import DataReport
from .data.sources import open_source
from .data.template import Template
from .envs import speaker
from .errors import InputError
from .evaluate.answers import with_chat
from .evaluate.ready import make_ready
from .methods import Online
from .models.cast import CRITIC, Cast, assemble
from .models.heads import add_score_head, has_score_head, head_parameters, is_encoder, output_head, start_critic
from .models.layouts import Choice, check_virtual, choose_layout, is_seq2seq, set_layout
from .models.load import LoadedModel, attach_adapter, join, load_model, parameter_count, resolve_model
from .models.save import refuse_changed_tokenizer
from .recipe import FreshModel, Source, Stage
from .records import Conversation, Message, Record, Task, Text
from .rewards import reward_name
from .rollout.loop import Prompt
from .rollout.record import check_parts
from .runs import rows_of
from .train.memory import Estimate, available_bytes, estimate, keep_few_kernels, keep_pages, total_bytes
from .train.precision import choose_device, choose_precision, deterministic
from .train.processes import Processes
from .types import Group

MICRO_TOKENS = {"cpu": 4096, "cuda": 32768, "mps": 8192}
"""Tokens in one pass beyond which a pass gets no faster, by device."""

TEXT_WINDOW = 2048
"""Tokens of a window of text where nothing else is asked for: a model with 100,000 positions would fill the memory."""

MEMORY_SHARE = 0.6
"""How much of the machine's memory a run plans to use. (Of all of it, not of what is free at the moment: the size of a
micro-batch decides how sums are rounded, and a run started again must round the same.)"""


@dataclass
class Setup:
    """What `run` and `--dry-run` share."""

    stage: Stage
    device: torch.device
    dtype: torch.dtype
    loaded: LoadedModel
    template: Template
    train: list[Group]
    """Of a mixture all of its sources, one behind the other; an epoch takes of them what it does."""
    held_out: list[Group]
    reports: list[DataReport]
    eval_reports: list[DataReport]
    rejected: list[BadRow]
    """Rows of all sources that were set aside."""
    layout: Choice
    cast: Cast
    """The model in its roles: what learns, and what it is compared with where that is the model itself."""
    steps: int
    tokens_per_micro: int
    memory: Estimate
    ref: LoadedModel | None = None
    """The reference where it is another model than the start; None once its log-probs are kept."""
    ref_digest: str = ""
    mixture: Mixture | None = None
    prompts: Sequence[Prompt] = ()
    """What a method that learns from its own answers is asked; `train` then holds groups without an answer yet."""
    joined: Sequence[str] = ()
    """The reward models that share the model's base."""
    mixed_in: Sequence[Group] = ()
    """Demonstrations to imitate beside every rollout."""
    critic_digest: str = ""
    """Of the reward model that the critic starts as."""
    teacher: LoadedModel | None = None
    """Whom the student learns from: an adapter beside its own, or another model."""

    @property
    def parameters(self) -> int:
        """Of the model, and of a critic that is a copy of it."""
        copy = (p.numel() for name, p in self.cast.trained.items() if name.startswith(CRITIC))
        return parameter_count(self.loaded.model) + sum(copy)

    @property
    def trained_parameters(self) -> int:
        return sum(p.numel() for p in self.cast.trained.values())

    @property
    def first_epoch(self) -> Sequence[Group]:
        return self.train if self.mixture is None else [self.train[i] for i in self.mixture.order(0)]

    @property
    def shown(self) -> list[int]:
        """Places in `train` of what the steps will show."""
        n = len(self.train)
        epochs, rest = divmod(self.steps * self.stage.batch_size, epoch_size(n, self.mixture))
        if self.mixture is None and epochs:
            return list(range(n))
        orders = [sample_order(self.stage.seed, epoch, n, self.mixture).tolist() for epoch in range(epochs + 1)]
        return sorted({*orders.pop()[:rest]}.union(*orders))

    @property
    def random(self) -> bool:
        """Whether a forward pass in training drops anything."""
        adapter = self.loaded.adapter
        return self.stage.dropout > 0 or (adapter is not None and adapter.dropout > 0)

    @property
    def longest(self) -> int:
        return _answer_room(self.stage) + max(g.length for g in [*self.train, *self.held_out])

    def data_digests(self) -> dict[str, str]:
        """What the run's numbers depend on besides its configuration."""
        reports = {"data": self.reports, "eval": self.eval_reports}
        rows = {f"{kind}.{i}:{r.source}": r.sha256 for kind, some in reports.items() for i, r in enumerate(some)}
        ref = {"ref": self.ref_digest} if self.ref_digest else {}
        critic = {"critic": self.critic_digest} if self.critic_digest else {}
        teacher = {"teacher": self.teacher.digest} if self.teacher else {}
        return {"model": self.loaded.digest} | ref | critic | teacher | rows


def set_up(
    stage: Stage,
    processes: Processes,
    *,
    stages: Mapping[str, Path] | None = None,
    drawn: Mapping[int, Path] | None = None,
) -> Setup:
    """Load, tokenise, decide. `stages` maps finished stages to their models, `drawn` sources to what a model answered
    (`draw.py`)."""
    stages = stages or {}
    if isinstance(stage.method, Online):
        _refuse_for_rollouts(stage, stage.method)
    keep_pages()
    keep_few_kernels()
    device = choose_device(stage.device)
    deterministic()
    quantized = stage.adapter is not None and stage.adapter.quantized
    # What is stored in 4 bits is computed in bf16, as the method has it, also where bf16 is no faster.
    dtype = choose_precision("bf16" if quantized and stage.precision == "auto" else stage.precision, device)
    if stage.batch_size < processes.world_size:
        raise InputError(f"batch_size: {stage.batch_size} is less than processes: {processes.world_size}.")

    records, reports, rejected = _read(stage.data, stage, drawn)
    loaded = _load(stage, stages, records, dtype, device)
    if stage.dropout and loaded.original_dropout == {}:
        raise InputError(f"dropout: {type(loaded.model).__name__} has no dropout layers; leave dropout out.")
    tokenizer = loaded.tokenizer
    if stage.method.data != "text":
        loaded = with_chat(loaded)
    refuse_changed_tokenizer(loaded.model, tokenizer)
    if stage.method.trained == "reward":
        _give_head(loaded, getattr(stage.method, "criteria", ("overall",)), stage)
    template = Template(tokenizer)
    if stage.env is not None:
        template.refuse_lost_turns(speaker(stage.env.name).role)

    prompts: list[Prompt] = []
    mixed_in: list[Group] = []
    held_out: list[Group] = []
    if isinstance(stage.method, Online):
        asked, reports = _prompts(stage, loaded, template, records, reports, drawn or {})
        mixture, prompts = _mixed(stage, asked, lambda prompt: prompt.task.origin)
        train = [Group(p.ids, (), p.key) for p in prompts]
        mixed_in, more = _ptx(stage, loaded, template)
        reports += more
    else:
        parts, reports, unusable = _prepare(stage, stage.data, loaded, template, records, reports)
        rejected += unusable
        if stage.eval.share:
            parts, held_out = _hold_out(parts, stage)
        mixture, train = _mixed(stage, parts, lambda group: group.key)
    eval_reports: list[DataReport] = []
    if stage.eval.data:
        eval_records, eval_reports, eval_rejected = _read(stage.eval.data, stage)
        rejected += eval_rejected
        parts, eval_reports, unusable = _prepare(stage, stage.eval.data, loaded, template, eval_records, eval_reports)
        rejected += unusable
        held_out = [group for groups in parts for group in groups]
    if refused := stage.method.refuses([*train, *held_out]):
        raise InputError(refused)
    if stage.method.unrelated:
        longest = stage.max_length or _positions(loaded)
        train = add_unrelated(train, longest, stage.seed)
        held_out = add_unrelated(held_out, longest, stage.seed) if held_out else held_out
    if stage.method.scope == "batch" and processes.world_size > 1:
        raise InputError(f"processes: method {stage.method.name!r} looks at the whole batch at once; set processes: 1.")
    per_rollout = stage.method.updates_per_rollout if isinstance(stage.method, Online) else 1
    size = epoch_size(len(train), mixture)
    steps = stage.steps or steps_in(size, stage.batch_size, stage.epochs) * per_rollout

    loaded = _adapt(stage, loaded, steps)
    model = loaded.model
    longest = _answer_room(stage) + max(g.length for g in [*train, *held_out])
    layout = choose_layout(model, longest, stage.layout)
    set_layout(model, layout.layout)
    check_virtual(model, layout.layout, stage.gradient_checkpointing)
    if stage.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()  # transformers recomputes only in training mode; without dropout the modes are otherwise the same
    cast = assemble(
        loaded, layout.layout, stage.method.trained, critic="value" in stage.method.asks,
        fresh=stage.adapter is not None,
        ref=stage.has_reference and stage.ref is None and not stage.asks_reference_once,
        judge=Path(resolve_model(stage.critic, stages)) if stage.critic is not None else None,
    )  # fmt: skip
    joined: list[str] = []
    if stage.reward is not None:
        joined = make_ready(
            stage.reward, template, stages=stages, device=stage.device, precision=stage.precision,
            base=(loaded, layout.layout),
        )  # fmt: skip
    if stage.oracle is not None:
        make_ready(stage.oracle, template, stages=stages, device=stage.device, precision=stage.precision)
    teacher = None
    if stage.teacher is not None:
        teacher = _seat_teacher(stage, stages, cast, loaded, longest, dtype, device)
    largest = longest if prompts else max(g.num_tokens for g in [*train, *held_out])
    tokens, memory = _micro_batch(stage, cast, device, dtype, largest, processes.world_size)
    ref = _load_ref(stage, stages, loaded, dtype, device) if stage.ref is not None else None
    critic_digest = _start_critic(stage, stages, cast, template, dtype, device) if stage.critic is not None else ""
    return Setup(
        stage, device, dtype, loaded, template, train, held_out, reports, eval_reports, rejected, layout, cast, steps,
        tokens, memory, ref, ref.digest if ref else "", mixture, prompts, joined, mixed_in, critic_digest, teacher,
    )  # fmt: skip


def describe(setup: Setup, processes: int = 1) -> dict[str, str]:
    """The facts a person wants to see before a run, in reading order."""
    stage = setup.stage
    precision = str(setup.dtype).removeprefix("torch.")
    trained, everything = setup.trained_parameters, setup.parameters
    share = "" if trained == everything else f" ({trained / everything:.4%})"
    adapter = {} if setup.loaded.adapter is None else {"adapter": setup.loaded.adapter.words()}
    facts = {
        "model": f"{setup.loaded.source} ({type(setup.loaded.model).__name__})"
        + f", its adapter merged: {setup.loaded.merged}" * bool(setup.loaded.merged),
        **adapter,
        "parameters": f"{trained:,} of {everything:,} are trained{share}",
        "compute": f"{setup.device}, {precision}" + ("" if precision == "float32" else " with fp32 masters")
        + f", {torch.get_num_threads()} threads" * (setup.device.type == "cpu")
        + f", {processes} processes" * (processes > 1),
        "layout": f"{setup.layout.layout}: {setup.layout.reason}",
        **(_rollout_lines(setup, stage.method) if isinstance(stage.method, Online) else _batch_lines(setup)),
        "learning rate": f"{stage.learning_rate:g}, {stage.schedule}, warm-up {stage.warmup:g}",
        "memory": _memory_line(setup),
        "seed": str(stage.seed),
    }  # fmt: skip
    if stage.has_reference:
        source = setup.ref.source if setup.ref else "the model before the first step"
        how = "asked once, then only its log-probs are kept" if stage.asks_reference_once else "kept in memory"
        if setup.cast.adapters.get("ref", "") is None:
            how = "which is the base with the adapter off"
        facts["reference"] = f"{source}, {how}"
    if setup.teacher is not None:
        shares = "teacher" in setup.cast.adapters
        how = "a second adapter on the student's base" if shares else "a model of its own"
        facts["teacher"] = f"{setup.teacher.source}, {how}, which stays as it is"
    if stage.critic:
        what = "adapter and head" if setup.cast.judge else "all of it"
        facts["critic"] = f"starts as the reward model {stage.critic}, {what} trained along"
    if setup.held_out:
        facts["held out"] = f"{len(setup.held_out):,} groups"
    if setup.loaded.new_tokens:
        facts["new tokens"] = ", ".join(setup.loaded.new_tokens)
    if setup.mixture:
        facts["mixture"] = "\n".join(setup.mixture.lines())
    for i, report in enumerate(setup.reports):
        facts[f"data {i + 1}" if len(setup.reports) > 1 else "data"] = "\n".join(report.lines())
    return facts


def _batch_lines(setup: Setup) -> dict[str, str]:
    size, groups = setup.stage.batch_size, len(setup.first_epoch)
    mean = sum(g.num_tokens for g in setup.first_epoch) / groups
    return {
        "batch": f"{size} groups per update = about {size * mean:,.0f} tokens, in micro-batches of at most "
        f"{setup.tokens_per_micro:,}",
        "steps": f"{setup.steps:,} updates = {setup.steps * size / groups:.2f} passes over {groups:,} groups",
    }


def _rollout_lines(setup: Setup, method: Online) -> dict[str, str]:
    size, prompts, updates = setup.stage.batch_size, len(setup.first_epoch), method.updates_per_rollout
    rollouts = -(-setup.steps // updates)
    assert setup.stage.reward is not None
    shares = "value" in setup.cast.adapters
    how = "a second adapter with a value head on the same base" if shares else "a copy of the model with a value head"
    asked = f" (of {method.oversample:g} times as many)" if method.oversample > 1 else ""
    joined = f" ({', '.join(setup.joined)} on the model's own base)" if setup.joined else ""
    return {
        "rollout": f"{size} prompts{asked} with {method.num_generations} answers each, of at most "
        f"{method.max_completion_length} tokens, learnt from in {updates} update{'s' * (updates > 1)} in micro-batches "
        f"of at most {setup.tokens_per_micro:,} tokens",
        "steps": f"{setup.steps:,} updates, {rollouts:,} rollouts = {rollouts * size / prompts:.2f} passes over "
        f"{prompts:,} prompts",
        **({"env": f"{env.name}, at most {env.max_turns} turns of the model"} if (env := setup.stage.env) else {}),
        "reward": reward_name(setup.stage.reward) + joined,
        **({"critic": f"{how}, trained along"} if "value" in method.asks else {}),
    }


def example(setup: Setup, colour: bool) -> Any:
    """One decoded training example with its mask, as rich text."""
    return show_example(setup.first_epoch[0], setup.loaded.tokenizer, colour)


def _memory_line(setup: Setup) -> str:
    m, free = setup.memory, available_bytes(setup.device)

    def gb(n: int) -> str:
        return f"{n / 1e9:.2f}"

    return (
        f"about {gb(m.total)} GB: weights {gb(m.weights)}, optimiser {gb(m.optimizer)}, gradients {gb(m.gradients)}, "
        f"activations {gb(m.activations)}; {gb(free)} GB free"
    )


def _read(
    sources: Sequence[Source], stage: Stage, drawn: Mapping[int, Path] | None = None
) -> tuple[list[list[Record]], list[DataReport], list[BadRow]]:
    """The records and the report of each source, and the rows of all that were set aside. `drawn` are the rows that
    take the place of a source's own."""
    records: list[list[Record]] = []
    reports: list[DataReport] = []
    rejected: list[BadRow] = []
    learns = f"method {stage.method.name!r} learns from"
    for place, source in enumerate(sources):
        if source.draw is not None and source.draw.keep != "tasks":
            assert drawn is not None, "what a model has to answer first is drawn before the set-up"
            made = Source(path=str(drawn[place]))
            found, report, bad = read_source(made, (source.draw.kind,), stage.on_bad_row)
            report = replace(report, source=f"{source.path} answered by {source.draw.model}")
        else:
            kinds = (stage.method.data, *stage.method.accepts)
            found, report, bad = read_source(source, kinds, stage.on_bad_row, learns)
        if source.task_column in report.ignored:
            report = replace(report, ignored={c: n for c, n in report.ignored.items() if c != source.task_column})
        records.append(found)
        reports.append(report)
        rejected += bad
    return records, reports, rejected


def read_source(
    source: Source, kinds: tuple[Kind, ...], on_bad_row: OnBadRow, wanted_by: str = "what is wanted here is"
) -> tuple[list[Record], DataReport, list[BadRow]]:
    """Its records, of the first of these kinds that it has or serves as; their report; and the rows set aside."""
    if source.kind is not None:
        if source.kind not in kinds:
            raise InputError(f"data: kind is {source.kind}, but {wanted_by} {' or '.join(kinds)}.")
        kinds = (source.kind,)
    if source.path.startswith("lab/"):
        found, report = _read_lab(source, kinds, wanted_by)
        rejected: list[BadRow] = []
    else:
        loaded = load_records(
            source.path, wants=kinds, on_bad_row=on_bad_row, format=source.format, columns=source.columns
        )  # fmt: skip
        found, report, rejected = loaded.records, loaded.report, loaded.rejected
    if source.screen is not None:
        kept, left_out = screen(found, source.screen)
        of = Counter(getattr(record, "labeller", "") for record in found)
        report = replace(report, records=len(kept), screened={one.labeller: of[one.labeller] for one in left_out})
        found = kept
    return found, report, rejected


def _read_lab(source: Source, kinds: tuple[Kind, ...], wanted_by: str) -> tuple[list[Record], DataReport]:
    """A data set of the lab. It is a pure function of its name, so its rows are its digest. Where conversations are
    wanted, a task with its gold answer is one."""
    from .lab.datasets import open_dataset

    name = source.path
    records: list[Record] = list(open_dataset(name))
    if "conversation" in kinds:
        records = [_demonstration(r) if isinstance(r, Task) else r for r in records]
    digest = hashlib.sha256("\n".join(map(repr, records)).encode()).hexdigest()
    report = DataReport(name, "lab", len(records), len(records), sha256=digest)
    kind: Any = type(records[0]).__name__
    if kind.lower() in kinds:
        return records, report
    serving = SERVES.get((kind.lower(), source.kind)) if source.kind else None
    if serving is None:
        learns = " or ".join(word.capitalize() for word in kinds)
        raise InputError(f"data: {name} holds {kind} records, but {wanted_by} {learns}.")
    served: list[Record] = []
    cannot: Counter[str] = Counter()
    for record in records:
        try:
            served += numbered(list(serving.convert(record)))
        except Fault as fault:  # a ranking whose answers all tie makes no pair
            cannot[fault.code] += 1
    kept = len(records) - cannot.total()
    told = replace(report, kept=kept, rejected=dict(cannot), records=len(served), kind=kinds[0], served=serving.says)
    return served, told


def _demonstration(task: Task) -> Conversation:
    return Conversation((*task.prompt, Message("assistant", str(task.answer))), origin=task.origin)


def _load(
    stage: Stage, stages: Mapping[str, Path], records: list[list[Record]], dtype: torch.dtype, device: torch.device
) -> LoadedModel:
    if not isinstance(stage.model, FreshModel):
        source = resolve_model(stage.model, stages)
        reward = stage.method.trained == "reward"
        quantized = stage.adapter is not None and stage.adapter.quantized
        loaded = load_model(
            source, dtype=dtype, device=device, dropout=stage.dropout, seed=stage.seed, reward=reward,
            quantized=quantized, merged=stage.adapter is not None,
        )  # fmt: skip
        if is_seq2seq(loaded.model) and (reward or isinstance(stage.method, Online) or stage.method.data == "text"):
            raise InputError(
                f"model: {stage.model} is an encoder-decoder, which method {stage.method.name!r} cannot train; use sft "
                "or a method that learns from given answers."
            )
        writes = "logp" in stage.method.asks.get("reward", ())
        if is_encoder(loaded.model) and (stage.method.data == "steps" or writes):
            what = "reasoning steps as they come" if stage.method.data == "steps" else "answers it could write"
            raise InputError(
                f"model: {stage.model} is an encoder, which gives one score to a whole text and knows no {what}; start "
                "from a language model."
            )
        return loaded
    tokenizer = stage.model.tokenizer
    if isinstance(tokenizer, str):
        spec: Any = str(resolve_model(tokenizer, stages))
    else:
        spec = tokenizer.model_dump()
    texts = (_words(r) for rs in records for r in rs)
    model = {"config": stage.model.config, "tokenizer": spec}
    return load_model(model, dtype=dtype, device=device, dropout=stage.dropout, seed=stage.seed, texts=texts)


def _load_ref(
    stage: Stage, stages: Mapping[str, Path], policy: LoadedModel, dtype: torch.dtype, device: torch.device
) -> LoadedModel:
    """Another model as the reference. It must read the same tokens: their log-probs are subtracted one by one."""
    assert stage.ref is not None
    ref = with_chat(load_model(resolve_model(stage.ref, stages), dtype=dtype, device=device, seed=stage.seed))
    _refuse_other_tokens(f"ref: {stage.ref}", ref, policy, "reference")
    ref.model.requires_grad_(False).eval()
    return ref


def _refuse_other_tokens(name: str, other: LoadedModel, policy: LoadedModel, role: str) -> None:
    if other.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise InputError(f"{name} has another vocabulary than the model; a {role} must read the same tokens.")


def _seat_teacher(
    stage: Stage, stages: Mapping[str, Path], cast: Cast, student: LoadedModel, longest: int, dtype: torch.dtype,
    device: torch.device,
) -> LoadedModel:  # fmt: skip
    """The teacher among those who play: one more adapter on the student's base where it is such a one, else a model of
    its own."""
    assert stage.teacher is not None
    source, name = resolve_model(stage.teacher, stages), f"teacher: {stage.teacher}"
    teacher = join(student, source, "teacher", judges=False) if isinstance(source, Path) else None
    shares = teacher is not None
    if teacher is None:
        teacher = with_chat(load_model(source, dtype=dtype, device=device, seed=stage.seed))
        teacher.model.requires_grad_(False).eval()
    _refuse_other_tokens(name, teacher, student, "teacher")
    begins_as_it = stage.adapter is None or not (stage.adapter.quantized or stage.adapter.virtual)
    if teacher.digest == student.digest and begins_as_it and not getattr(stage.method, "sft_coef", 1):
        raise InputError(f"{name} is the model itself, which has nothing to learn from it; name another one.")
    room = _positions(teacher) - (teacher.adapter.num_virtual if teacher.adapter else 0)
    if longest > room:
        raise InputError(f"{name} reads {room} tokens and the longest row has {longest}; set max_length: {room}.")
    known, asked = (len(output_head(one.model).weight) for one in (teacher, student))
    if known < asked:
        raise InputError(f"{name} has logits for {known} tokens and the model for {asked}; take a teacher with more.")
    if shares:
        cast.adapters["teacher"], layout = "teacher", cast.layouts["policy"]
    else:
        layout = choose_layout(teacher.model, longest, stage.layout).layout
        set_layout(teacher.model, layout)
    cast.models["teacher"], cast.layouts["teacher"] = teacher.model, layout
    return teacher


def _start_critic(
    stage: Stage, stages: Mapping[str, Path], cast: Cast, template: Template, dtype: torch.dtype, device: torch.device
) -> str:
    """Have the critic begin as a reward model: what that says of a finished answer is what a critic should expect
    before it. Returns the digest of the reward model."""
    assert stage.critic is not None
    loaded = cast.judge
    if loaded is None:
        source = resolve_model(stage.critic, stages)
        loaded = load_model(source, dtype=dtype, device=device, seed=stage.seed, reward=True, merged=True)
        if not has_score_head(loaded.model):
            raise InputError(f"critic: {stage.critic} has no score head; a critic starts as a reward model.")
    if Template(loaded.tokenizer).hash != template.hash:
        raise InputError(f"critic: {stage.critic} has another chat template than the model; train both from one model.")
    if cast.judge is None:
        start_critic(cast.models["value"], loaded.model, loaded.source)
    return loaded.digest


def _give_head(loaded: LoadedModel, criteria: tuple[str, ...], stage: Stage) -> None:
    """The score head of a reward model: its own where it was one already, else a new one."""
    model = loaded.model
    if "score" not in stage.method.judged_by:
        if has_score_head(model):
            raise InputError(f"scored_by: {stage.model} has a head, and writes no text; start from a language model.")
        return
    if not has_score_head(model):
        add_score_head(model, len(criteria))
        return
    if loaded.criteria != criteria:
        raise InputError(
            f"model: {stage.model} judges {', '.join(loaded.criteria)}, but criteria are {', '.join(criteria)}."
        )
    if getattr(stage.method, "lm_coef", 0) and model.get_output_embeddings() is None:
        raise InputError(
            f"lm_coef: {stage.model} is a reward model, which kept no output head; start from a language model."
        )


def _ptx(stage: Stage, loaded: LoadedModel, template: Template) -> tuple[list[Group], list[DataReport]]:
    """The demonstrations or texts to imitate beside every rollout."""
    groups: list[Group] = []
    reports: list[DataReport] = []
    for source in stage.ptx_data or ():
        records, report, _ = read_source(source, ("conversation", "text"), "error")
        prepared = prepare(records, template, max_length=stage.max_length or _context(stage, loaded))
        groups += prepared.groups
        reports.append(prepared.report(report))
    return groups, reports


def _answer_room(stage: Stage) -> int:
    """Tokens kept free behind a prompt, for the answer that is still to be drawn."""
    return stage.method.max_completion_length if isinstance(stage.method, Online) else 0


def _refuse_for_rollouts(stage: Stage, method: Online) -> None:
    """What would be silently meaningless for a method that learns from its own answers."""
    check_parts(method, stage.batch_size)
    name = method.name
    least = stage.batch_size // method.num_mini_batches * method.num_generations
    if least < stage.processes:
        raise InputError(
            f"processes: an update of method {name!r} has as few as {least} answers, fewer than the "
            f"{stage.processes} processes; raise batch_size or lower num_mini_batches."
        )
    if method.sets_aside and method.num_generations == 1:
        raise InputError("oversample, refills: one answer to a prompt has none to differ from; raise num_generations.")
    if stage.eval.data or stage.eval.share:
        raise InputError(
            f"eval: method {name!r} has no loss on given rows; leave eval out, watch rollout/score, and compare the "
            "models afterwards."
        )
    if stage.dropout or (stage.adapter is not None and stage.adapter.dropout):
        raise InputError(f"dropout: method {name!r} learns from probabilities as they were when it drew; set it to 0.")
    if stage.on_long not in ("drop", "error"):
        raise InputError(f"on_long: {stage.on_long} would change what is asked; choose drop or error.")


def _positions(loaded: LoadedModel) -> int:
    return getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None) or 2048


def _adapt(stage: Stage, loaded: LoadedModel, steps: int) -> LoadedModel:
    """The model with what is trained of it: the adapter of the stage, or the one it came with, or all of it."""
    if stage.adapter is not None:
        loaded = attach_adapter(loaded, stage.adapter, steps=steps, seed=stage.seed)
    elif loaded.adapter is not None:
        train_on(loaded.model)
        if stage.method.trained == "reward":
            for parameter in head_parameters(loaded.model).values():
                parameter.requires_grad_(True)
    random = stage.dropout > 0 or (loaded.adapter is not None and loaded.adapter.dropout > 0)
    loaded.model.train(random)
    return loaded


def _words(record: Record) -> str:
    """The plain text of a record, for a tokenizer to learn from."""
    if isinstance(record, Text):
        return record.text
    said = [m for part in (getattr(record, name) for name in record.__slots__) for m in _messages(part)]
    if said:
        return "\n".join(m.content for m in said)
    return f"{getattr(record, 'prompt', '')}\n{getattr(record, 'completion', '')}"


def _messages(part: Any) -> list[Message]:
    """The messages in a field of a record, at any depth."""
    if isinstance(part, Message):
        return [part]
    return [m for inner in part for m in _messages(inner)] if isinstance(part, tuple) else []


def _prepare(
    stage: Stage, sources: Sequence[Source], loaded: LoadedModel, template: Template, records: list[list[Record]],
    reports: list[DataReport],
) -> tuple[list[list[Group]], list[DataReport], list[BadRow]]:  # fmt: skip
    """The groups and the report of each source, and the rows of all that could be read and not be tokenised."""
    context = _context(stage, loaded)
    default = min(context, TEXT_WINDOW) if stage.method.data == "text" else context
    method = stage.method
    judging = Judging(
        getattr(method, "criteria", ("overall",)), getattr(method, "scale", None), getattr(method, "wanted_from", 0.5),
        method.data == "rating", getattr(method, "missing", "error") == "skip", hasattr(method, "criteria"),
    )  # fmt: skip
    parts: list[list[Group]] = []
    done: list[DataReport] = []
    unusable: list[BadRow] = []
    for source, some, report in zip(sources, records, reports, strict=True):
        prepared = prepare(
            some,
            template,
            train_on=getattr(stage.method, "train_on", "assistant"),
            max_length=stage.max_length or default,
            on_long=stage.on_long,
            judging=judging,
            on_bad_row=stage.on_bad_row,
            cache=cache_folder("tokens"),
        )
        parts.append(prepared.groups)
        done.append(prepared.report(report))
        if prepared.rejected:
            unusable += set_aside(prepared.rejected, source.path)
    return parts, done, unusable


def _context(stage: Stage, loaded: LoadedModel) -> int:
    """The positions there are for tokens of the data."""
    context = _positions(loaded)
    adapter = stage.adapter or loaded.adapter
    if virtual := adapter.num_virtual if adapter is not None else 0:
        if virtual >= context:
            raise InputError(f"adapter: {virtual} virtual tokens leave no room in this model's {context} positions.")
        context -= virtual
    if stage.max_length is not None and stage.max_length > context:
        raise InputError(f"max_length: {stage.max_length} is more than the {context} positions this model has.")
    return context


def _prompts(
    stage: Stage,
    loaded: LoadedModel,
    template: Template,
    records: list[list[Record]],
    reports: list[DataReport],
    drawn: Mapping[int, Path],
) -> tuple[list[list[Prompt]], list[DataReport]]:
    """The tasks of each source as a sampler is given them, and its report. A prompt too long to leave room for an
    answer is dropped and counted, or an error. Of a source whose difficulty was measured only the tasks chosen then
    are left."""
    whole, room = stage.max_length or _context(stage, loaded), _answer_room(stage)
    if room >= whole:
        raise InputError(f"max_completion_length: {room} leaves no room for a prompt in {whole} tokens.")
    parts: list[list[Prompt]] = []
    done: list[DataReport] = []
    for number, (some, report) in enumerate(zip(records, reports, strict=True)):
        tasks = [record for record in some if isinstance(record, Task)]
        ease = {row["task"]: row["score"] for row in rows_of(drawn[number])} if number in drawn else {}
        if ease:
            some = tasks = [task for task in tasks if task.origin in ease]
            report = replace(report, records=len(tasks))
        found = [
            Prompt(t, template.encode_prompt(t.prompt), f"{number} {t.origin or i}", ease.get(t.origin))
            for i, t in enumerate(tasks)
        ]
        kept = [p for p in found if len(p.ids) + room <= whole]
        if stage.on_long == "error" and len(kept) < len(found):
            raise InputError(
                f"TOO_LONG {len(found) - len(kept)} of {len(found)} prompts in {report.source} are longer than "
                f"{whole - room} tokens, which leave {room} for an answer; lower max_completion_length, or say "
                "on_long: drop."
            )
        tokens = sum(len(p.ids) for p in kept)
        groups = [Group(p.ids, (), p.key) for p in kept]
        parts.append(kept)
        done.append(Prepared(groups, len(some), tokens, 0, dropped_long=len(found) - len(kept)).report(report))
    if not any(parts):
        raise InputError(f"data: every prompt is longer than {whole - room} tokens, which leave {room} for an answer.")
    return parts, done


T = TypeVar("T")


def _mixed(stage: Stage, parts: list[list[T]], origin: Callable[[T], str]) -> tuple[Mixture | None, list[T]]:
    """All groups (or prompts), one source behind the other, and what an epoch takes of them where any source has a
    weight, a cap or tasks, or all of them a temperature."""
    if stage.mix_temperature == 1 and not any(source.mixes for source in stage.data):
        return None, [item for items in parts for item in items]
    of: dict[str, list[T]] = {}
    asked: list[Part] = []
    for i, (source, items) in enumerate(zip(stage.data, parts, strict=True), start=1):
        named = {f"{i}. {source.path}": items}
        if source.task_column:
            said = dict(_column(source.path, source.task_column))
            tasks = tasks_of(said, source.task_column, map(origin, items))
            named = {f"{i}. {source.path}, {task}": some for task, some in by_task(items, tasks).items()}
        asked += [Part(name, len(some), source.weight, source.cap) for name, some in named.items()]
        of |= named
    mixture = Mixture(tuple(asked), stage.mix_temperature, seed=stage.seed)
    return mixture, [item for items in of.values() for item in items]


def _hold_out(parts: list[list[Group]], stage: Stage) -> tuple[list[list[Group]], list[Group]]:
    """(what is left of each source, what is held out of all)"""
    _, held_out = split_eval([group for groups in parts for group in groups], stage.eval.share, stage.seed)
    out = set(map(id, held_out))
    return [[group for group in groups if id(group) not in out] for groups in parts], held_out


def _column(path: str, column: str) -> Iterator[tuple[str, Any]]:
    if path.startswith("lab/"):
        from .lab.datasets import written

        yield from ((origin, row.get(column)) for origin, row in written(path))
    else:
        opened = open_source(path)
        yield from ((opened.origin(row), row.value.get(column)) for row in opened.scan() if isinstance(row, Row))


def _micro_batch(
    stage: Stage, cast: Cast, device: torch.device, dtype: torch.dtype, largest_group: int, processes: int
) -> tuple[int, Estimate]:
    """The most tokens per pass that fit the memory (and at least the largest group), and what they will need."""

    model = cast.models[stage.method.trained]
    weights = {id(p): p.nbytes for one in cast.models.values() for p in one.parameters()}
    held = sum(weights.values()) + (stage.ref is not None) * sum(p.nbytes for p in model.parameters())

    def needs(tokens: int) -> Estimate:
        return estimate(
            model.config,
            parameters=held // dtype.itemsize,
            trained=sum(p.numel() for p in cast.trained.values()),
            itemsize=dtype.itemsize,
            tokens=tokens,
            checkpointing=stage.gradient_checkpointing,
            head_bytes=3 * CHUNK_BYTES + KEPT_BYTES,
            average_bytes=1 if stage.optimizer.endswith("8bit") else 4,
        )

    if stage.tokens_per_micro is not None:
        return stage.tokens_per_micro, needs(max(stage.tokens_per_micro, largest_group))
    tokens = MICRO_TOKENS[device.type]
    room = total_bytes(device) * MEMORY_SHARE
    if device.type == "cpu":  # whose memory all processes share
        room /= processes
    while tokens > 256 and needs(max(tokens, largest_group)).total > room:
        tokens //= 2
    return tokens, needs(max(tokens, largest_group))


def config_json(stage: Stage) -> dict[str, Any]:
    return json.loads(stage.model_dump_json())
