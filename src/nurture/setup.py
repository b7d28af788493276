"""Everything a stage needs before its first step: model, data, layout, memory. Building it trains and writes
nothing, so a dry run is exactly this."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from .adapters.attached import train_on
from .core.logp import CHUNK_BYTES
from .data.batches import steps_in
from .data.formats import Fault
from .data.formats.serve import SERVES
from .data.judged import Judging, add_unrelated
from .data.labellers import screen
from .data.load import load_records, numbered
from .data.mix import Mixture, Part, mix
from .data.prepare import Prepared, prepare, set_aside, show_example, split_eval
from .data.read import BadRow
from .data.report import DataReport
from .data.template import Template, ensure_chat
from .errors import InputError
from .evaluate.ready import make_ready
from .methods import Online
from .methods.method import Data
from .models.heads import add_score_head
from .models.layouts import Choice, check_virtual, choose_layout, set_layout
from .models.load import LoadedModel, attach_adapter, embed_new_tokens, load_model, parameter_count, resolve_model
from .models.save import refuse_changed_tokenizer
from .recipe import FreshModel, Source, Stage
from .records import Message, Record, Task, Text
from .rewards import reward_name
from .rollout.loop import Prompt
from .train.memory import Estimate, available_bytes, estimate, keep_pages, total_bytes
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
    held_out: list[Group]
    reports: list[DataReport]
    eval_reports: list[DataReport]
    rejected: list[BadRow]
    """Rows of all sources that were set aside."""
    layout: Choice
    steps: int
    tokens_per_micro: int
    memory: Estimate
    ref: LoadedModel | None = None
    """The reference where it is another model than the start; None once its log-probs are kept."""
    ref_digest: str = ""
    mixture: Mixture | None = None
    prompts: Sequence[Prompt] = ()
    """What a method that learns from its own answers is asked; `train` then holds groups without an answer yet."""

    @property
    def parameters(self) -> int:
        return parameter_count(self.loaded.model)

    @property
    def trained_parameters(self) -> int:
        return sum(p.numel() for p in self.loaded.model.parameters() if p.requires_grad)

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
        return {"model": self.loaded.digest} | ref | rows


def set_up(stage: Stage, processes: Processes, *, stages: Mapping[str, Path] | None = None) -> Setup:
    """Load, tokenise, decide. `stages` maps finished stages to their models."""
    stages = stages or {}
    if isinstance(stage.method, Online):
        _refuse_for_rollouts(stage)
    keep_pages()
    device = choose_device(stage.device)
    deterministic()
    quantized = stage.adapter is not None and stage.adapter.quantized
    # What is stored in 4 bits is computed in bf16, as the method has it, also where bf16 is no faster.
    dtype = choose_precision("bf16" if quantized and stage.precision == "auto" else stage.precision, device)
    if stage.batch_size < processes.world_size:
        raise InputError(f"batch_size: {stage.batch_size} is less than processes: {processes.world_size}.")

    records, reports, rejected = _read(stage.data, stage)
    loaded = _load(stage, stages, records, dtype, device)
    tokenizer = loaded.tokenizer
    if stage.method.data != "text" and ensure_chat(tokenizer):
        loaded = replace(loaded, new_tokens=(*loaded.new_tokens, *embed_new_tokens(loaded.model, tokenizer)))
    refuse_changed_tokenizer(loaded.model, tokenizer)
    if stage.method.trained == "reward":
        _give_head(loaded, getattr(stage.method, "criteria", ("overall",)), stage)
    template = Template(tokenizer)

    prompts: list[Prompt] = []
    if isinstance(stage.method, Online):
        asked, reports = _prompts(stage, loaded, template, records, reports)
        mixture = _mixture(stage, asked)
        prompts = _mixed(asked, mixture)
        train = [Group(p.ids, (), p.key) for p in prompts]
        assert stage.reward is not None, "recipe.py asks for one"
        make_ready(stage.reward, template, stages=stages, device=stage.device, precision=stage.precision)
    else:
        parts, reports = _prepare(stage, loaded, template, records, reports, rejected)
        mixture = _mixture(stage, parts)
        train = _mixed(parts, mixture)
    held_out: list[Group] = []
    eval_reports: list[DataReport] = []
    if stage.eval.data:
        eval_records, eval_reports, eval_rejected = _read(stage.eval.data, stage)
        rejected += eval_rejected
        parts, eval_reports = _prepare(stage, loaded, template, eval_records, eval_reports, rejected)
        held_out = _mixed(parts, None)
    elif stage.eval.share:
        train, held_out = split_eval(train, stage.eval.share, stage.seed)
    if stage.method.unrelated:
        longest = stage.max_length or _positions(loaded)
        train = add_unrelated(train, longest, stage.seed)
        held_out = add_unrelated(held_out, longest, stage.seed) if held_out else held_out
    if stage.method.scope == "batch" and processes.world_size > 1:
        raise InputError(f"processes: method {stage.method.name!r} looks at the whole batch at once; set processes: 1.")
    per_rollout = stage.method.updates_per_rollout if isinstance(stage.method, Online) else 1
    steps = stage.steps or steps_in(len(train), stage.batch_size, stage.epochs) * per_rollout

    loaded = _adapt(stage, loaded, steps)
    model = loaded.model
    longest = _answer_room(stage) + max(g.length for g in [*train, *held_out])
    layout = choose_layout(model, longest, stage.layout)
    set_layout(model, layout.layout)
    check_virtual(model, layout.layout, stage.gradient_checkpointing)
    if stage.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()  # transformers recomputes only in training mode; without dropout the modes are otherwise the same
    largest = longest if prompts else max(g.num_tokens for g in [*train, *held_out])
    tokens, memory = _micro_batch(stage, loaded, device, dtype, largest, processes.world_size)
    ref = _load_ref(stage, stages, loaded, dtype, device) if stage.ref is not None else None
    return Setup(
        stage, device, dtype, loaded, template, train, held_out, reports, eval_reports, rejected, layout, steps, tokens,
        memory, ref, ref.digest if ref else "", mixture, prompts,
    )  # fmt: skip


def describe(setup: Setup, processes: int = 1) -> dict[str, str]:
    """The facts a person wants to see before a run, in reading order."""
    stage = setup.stage
    precision = str(setup.dtype).removeprefix("torch.")
    trained, everything = setup.trained_parameters, setup.parameters
    share = "" if trained == everything else f" ({trained / everything:.4%})"
    adapter = {} if setup.loaded.adapter is None else {"adapter": setup.loaded.adapter.words()}
    facts = {
        "model": f"{setup.loaded.source} ({type(setup.loaded.model).__name__})",
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
        facts["reference"] = f"{source}, {how}"
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
    size, groups = setup.stage.batch_size, len(setup.train)
    mean = sum(g.num_tokens for g in setup.train) / groups
    return {
        "batch": f"{size} groups per update = about {size * mean:,.0f} tokens, in micro-batches of at most "
        f"{setup.tokens_per_micro:,}",
        "steps": f"{setup.steps:,} updates = {setup.steps * size / groups:.2f} passes over {groups:,} groups",
    }


def _rollout_lines(setup: Setup, method: Online) -> dict[str, str]:
    size, prompts, updates = setup.stage.batch_size, len(setup.prompts), method.updates_per_rollout
    rollouts = -(-setup.steps // updates)
    assert setup.stage.reward is not None
    critic = {"critic": "a copy of the model with a value head, all of it trained along"}
    return {
        "rollout": f"{size} prompts with {method.num_generations} answers each, of at most "
        f"{method.max_completion_length} tokens, learnt from in {updates} update{'s' * (updates > 1)} in micro-batches "
        f"of at most {setup.tokens_per_micro:,} tokens",
        "steps": f"{setup.steps:,} updates, {rollouts:,} rollouts = {rollouts * size / prompts:.2f} passes over "
        f"{prompts:,} prompts",
        "reward": reward_name(setup.stage.reward),
        **(critic if "value" in method.roles else {}),
    }


def example(setup: Setup, colour: bool) -> Any:
    """One decoded training example with its mask, as rich text."""
    return show_example(setup.train[0], setup.loaded.tokenizer, colour)


def _memory_line(setup: Setup) -> str:
    m, free = setup.memory, available_bytes(setup.device)

    def gb(n: int) -> str:
        return f"{n / 1e9:.2f}"

    return (
        f"about {gb(m.total)} GB: weights {gb(m.weights)}, optimiser {gb(m.optimizer)}, gradients {gb(m.gradients)}, "
        f"activations {gb(m.activations)}; {gb(free)} GB free"
    )


def _read(sources: Sequence[Source], stage: Stage) -> tuple[list[list[Record]], list[DataReport], list[BadRow]]:
    """The records and the report of each source, and the rows of all that were set aside."""
    records: list[list[Record]] = []
    reports: list[DataReport] = []
    rejected: list[BadRow] = []
    for source in sources:
        if source.path.startswith("lab/"):
            found, report = _read_lab(source, stage)
        else:
            loaded = load_records(
                source.path,
                wants=_kinds(source, stage),
                on_bad_row=stage.on_bad_row,
                format=source.format,
                columns=source.columns,
            )
            found, report = loaded.records, loaded.report
            rejected += loaded.rejected
        if source.screen is not None:
            kept, left_out = screen(found, source.screen)
            of = Counter(getattr(record, "labeller", "") for record in found)
            report = replace(report, records=len(kept), screened={one.labeller: of[one.labeller] for one in left_out})
            found = kept
        records.append(found)
        reports.append(report)
    return records, reports, rejected


def _kinds(source: Source, stage: Stage) -> tuple[Data, ...]:
    """The kinds of record that may come from this source, the first of them first."""
    kinds = (stage.method.data, *stage.method.accepts)
    if source.kind is None:
        return kinds
    if source.kind not in kinds:
        name = stage.method.name
        raise InputError(f"data: kind is {source.kind}, but method {name!r} learns from {' or '.join(kinds)}.")
    return (source.kind,)


def _read_lab(source: Source, stage: Stage) -> tuple[list[Record], DataReport]:
    """A data set of the lab. It is a pure function of its name, so its rows are its digest."""
    from .lab.datasets import open_dataset

    name, kinds = source.path, _kinds(source, stage)
    records = list(open_dataset(name))
    digest = hashlib.sha256("\n".join(map(repr, records)).encode()).hexdigest()
    report = DataReport(name, "lab", len(records), len(records), sha256=digest)
    kind: Any = type(records[0]).__name__
    if kind.lower() in kinds:
        return records, report
    serving = SERVES.get((kind.lower(), source.kind)) if source.kind else None
    if serving is None:
        learns = " or ".join(word.capitalize() for word in kinds)
        raise InputError(f"data: {name} holds {kind} records, but method {stage.method.name!r} learns from {learns}.")
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


def _load(
    stage: Stage, stages: Mapping[str, Path], records: list[list[Record]], dtype: torch.dtype, device: torch.device
) -> LoadedModel:
    if not isinstance(stage.model, FreshModel):
        source = resolve_model(stage.model, stages)
        reward = stage.method.trained == "reward"
        quantized = stage.adapter is not None and stage.adapter.quantized
        return load_model(
            source, dtype=dtype, device=device, dropout=stage.dropout, seed=stage.seed, reward=reward,
            quantized=quantized,
        )  # fmt: skip
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
    ref = load_model(resolve_model(stage.ref, stages), dtype=dtype, device=device, seed=stage.seed)
    if ensure_chat(ref.tokenizer):
        embed_new_tokens(ref.model, ref.tokenizer)
    if ref.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise InputError(
            f"ref: {stage.ref} has another vocabulary than the model; a reference must read the same tokens."
        )
    ref.model.requires_grad_(False).eval()
    return ref


def _give_head(loaded: LoadedModel, criteria: tuple[str, ...], stage: Stage) -> None:
    """The score head of a reward model: its own where it was one already, else a new one."""
    model = loaded.model
    if not hasattr(model, "score"):
        add_score_head(model, len(criteria))
        return
    had = tuple(str(c) for c in (model.config.id2label or {}).values())
    if had != criteria:
        raise InputError(f"model: {stage.model} judges {', '.join(had)}, but criteria are {', '.join(criteria)}.")
    if getattr(stage.method, "lm_coef", 0) and model.get_output_embeddings() is None:
        raise InputError(
            f"lm_coef: {stage.model} is a reward model, which kept no output head; start from a language model."
        )


def _answer_room(stage: Stage) -> int:
    """Tokens kept free behind a prompt, for the answer that is still to be drawn."""
    return stage.method.max_completion_length if isinstance(stage.method, Online) else 0


def _refuse_for_rollouts(stage: Stage) -> None:
    """What would be silently meaningless for a method that learns from its own answers."""
    name = stage.method.name
    if stage.processes > 1:
        raise InputError(f"processes: method {name!r} draws its answers in one process; set processes: 1.")
    if stage.eval.data or stage.eval.share:
        raise InputError(
            f"eval: method {name!r} has no loss on given rows; leave eval out, watch rollout/score, and compare the "
            "models afterwards."
        )
    if stage.dropout or (stage.adapter is not None and stage.adapter.dropout):
        raise InputError(f"dropout: method {name!r} learns from probabilities as they were when it drew; set it to 0.")
    if stage.on_long == "cut":
        raise InputError("on_long: cut would take the end off a question; choose drop or error.")


def _positions(loaded: LoadedModel) -> int:
    return getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None) or 2048


def _adapt(stage: Stage, loaded: LoadedModel, steps: int) -> LoadedModel:
    """The model with what is trained of it: the adapter of the stage, or the one it came with, or all of it."""
    if stage.adapter is not None:
        if stage.method.trained == "reward" and stage.adapter.peft_type:
            raise InputError(
                f"adapter: a reward model is saved whole, with its head, and {stage.adapter.name} is not; train all "
                "weights (adapter: full), or some of them (adapter: freeze)."
            )
        loaded = attach_adapter(loaded, stage.adapter, steps=steps, seed=stage.seed)
    elif loaded.adapter is not None:
        train_on(loaded.model)
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
    stage: Stage,
    loaded: LoadedModel,
    template: Template,
    records: list[list[Record]],
    reports: list[DataReport],
    rejected: list[BadRow],
) -> tuple[list[list[Group]], list[DataReport]]:
    """The groups and the report of each source; what is set aside is added to `rejected`."""
    context = _context(stage, loaded)
    default = min(context, TEXT_WINDOW) if stage.method.data == "text" else context
    method = stage.method
    judging = Judging(
        getattr(method, "criteria", ("overall",)), getattr(method, "scale", None), getattr(method, "wanted_from", 0.5),
        method.data == "rating", getattr(method, "missing", "error") == "skip",
    )  # fmt: skip
    parts: list[list[Group]] = []
    done: list[DataReport] = []
    for some, report in zip(records, reports, strict=True):
        if stage.on_bad_row == "quarantine":
            some, bad = set_aside(some, judging)
            rejected += bad
            report = replace(report, dropped_bad=dict(Counter(row.code for row in bad)))
        prepared = prepare(
            some,
            template,
            train_on=getattr(stage.method, "train_on", "assistant"),
            max_length=stage.max_length or default,
            on_long=stage.on_long,
            judging=judging,
        )
        parts.append(prepared.groups)
        done.append(prepared.report(report))
    return parts, done


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
    stage: Stage, loaded: LoadedModel, template: Template, records: list[list[Record]], reports: list[DataReport]
) -> tuple[list[list[Prompt]], list[DataReport]]:
    """The tasks of each source as a sampler is given them, and its report. A prompt too long to leave room for an
    answer is dropped and counted, or an error."""
    whole, room = stage.max_length or _context(stage, loaded), _answer_room(stage)
    if room >= whole:
        raise InputError(f"max_completion_length: {room} leaves no room for a prompt in {whole} tokens.")
    parts: list[list[Prompt]] = []
    done: list[DataReport] = []
    for number, (some, report) in enumerate(zip(records, reports, strict=True)):
        tasks = [record for record in some if isinstance(record, Task)]
        found = [Prompt(t, template.encode_prompt(t.prompt), f"{number} {t.origin or i}") for i, t in enumerate(tasks)]
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
        done.append(Prepared(groups, len(some), 0, len(found) - len(kept), 0, tokens, 0).report(report))
    if not any(parts):
        raise InputError(f"data: every prompt is longer than {whole - room} tokens, which leave {room} for an answer.")
    return parts, done


T = TypeVar("T")


def _mixture(stage: Stage, parts: Sequence[Sequence[Any]]) -> Mixture | None:
    """How the sources are mixed, where any has a weight or a cap."""
    if all(source.weight == 1 and source.cap is None for source in stage.data):
        return None
    named = [f"{i + 1}. {source.path}" for i, source in enumerate(stage.data)]
    return Mixture(
        tuple(
            Part(name, len(groups), source.weight, source.cap)
            for name, groups, source in zip(named, parts, stage.data, strict=True)
        ),
        seed=stage.seed,
    )


def _mixed(parts: list[list[T]], mixture: Mixture | None) -> list[T]:
    """The groups (or prompts) of an epoch: all of all sources, or what the mixture takes of them."""
    if mixture is None:
        return [group for groups in parts for group in groups]
    return mix({part.name: groups for part, groups in zip(mixture.parts, parts, strict=True)}, mixture)


def _micro_batch(
    stage: Stage, loaded: LoadedModel, device: torch.device, dtype: torch.dtype, largest_group: int, processes: int
) -> tuple[int, Estimate]:
    """The most tokens per pass that fit the memory (and at least the largest group), and what they will need."""

    critic = "value" in stage.method.asks
    models = 1 + critic + (stage.has_reference and not stage.asks_reference_once)

    def needs(tokens: int) -> Estimate:
        return estimate(
            loaded.model.config,
            parameters=models * sum(p.nbytes for p in loaded.model.parameters()) // dtype.itemsize,
            trained=(1 + critic) * sum(p.numel() for p in loaded.model.parameters() if p.requires_grad),
            itemsize=dtype.itemsize,
            tokens=tokens,
            checkpointing=stage.gradient_checkpointing,
            chunk_bytes=CHUNK_BYTES,
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
