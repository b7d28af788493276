"""The composition root: a stage of a recipe becomes a run folder with a model in it.

    lock -> set_up -> newest checkpoint -> for step in train(...): write, evaluate, save -> model/ -> report.html

A run that was stopped, by whatever, goes on when the same command is given again, and ends bit for bit as it would
have ended.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.text import Text
from safetensors import SafetensorError
from transformers import PreTrainedModel

from . import recipe as recipes
from .adapters.adapter import ROLE
from .adapters.attached import active
from .compare import compare_models, compare_reward_models
from .core.random import stream_key
from .data.batches import apart, batches, rank_share
from .data.load import write_rejected
from .draw import Drawing
from .envs import speaker
from .errors import Alarmed, InputError, Interrupted, NumericsError, NurtureError, RewardLost
from .evaluate.exam import Exam
from .evaluate.held_out import evaluate_loss
from .evaluate.reward_card import reward_card
from .files import digest_of, replace_synced
from .methods import Online
from .models.cast import CRITIC, start_of
from .models.heads import classifier, has_score_head, tables_of
from .models.layouts import Layout, choose_layout, set_layout
from .models.roles import LocalRoles
from .models.save import finish_replacing, model_card, save_adapter, save_model
from .play import is_game, play_stage, player_of
from .protocols import Answer, Outcome, Request, Sample, Sampler, Sampling
from .recipe import DIGEST_IGNORES, Alarms, Recipe, Stage
from .records import Message
from .report import write_report
from .rewards import Reward, score_all
from .rollout.alarms import ringing
from .rollout.conversation import several_turns
from .rollout.loop import Draw, Rollouts, single_turn
from .runs import rows_of
from .setup import Setup, config_json, describe, example, set_up
from .show import Progress, header, printable
from .trackers import open_trackers, require_trackers
from .train import reference
from .train import replace as replace_run
from .train.checkpoint import Checkpoint, CheckpointStore, SaveFailed
from .train.context import Context, check_context, promise_after, refuse
from .train.faults import failpoint
from .train.guard import NonFinite, StopSignals, Terminated, is_out_of_memory, signals_raise
from .train.heartbeat import REWARD_LOST, heartbeat
from .train.journal import Journal
from .train.lock import lock_run
from .train.loop import Budget, Stopped, train
from .train.memory import forget_peak, peak_bytes
from .train.optim import OPTIMIZERS, learning_rate
from .train.precision import choose_device
from .train.processes import Processes, from_environment
from .types import Batch, Group, Response, Step

FAR = 5.0
"""Times `kl_target` at which the alarm for the distance rings, where nothing else is said."""

TIMING_SECONDS = 10.0
"""How often a `timing` event is written."""


def run_recipe(recipe: Recipe, out: Path, console: Console, *, fresh: bool = False) -> dict[str, Path]:
    """Every stage in order, each in its own folder under `out`; returns the models by stage name."""
    began = time.monotonic()
    models: dict[str, Path] = {}
    check_ahead(recipe)
    first = next(iter(recipe.stages.values()))
    with from_environment(choose_device(first.device)) as processes:
        for name, stage in recipe.stages.items():
            models[name] = _run_locked(stage, out / name, console, processes, models, fresh)
        if recipe.compare and processes.rank == 0:
            alive: Callable[[], None] = lambda: heartbeat("compare", 0)  # noqa: E731
            alive()
            stages = {name: stage.method.name for name, stage in recipe.stages.items()}
            exams = [Exam(data, n=recipe.compare_tasks) for data in recipe.compare_data]
            if recipe.compares_rewards:
                compare_reward_models(
                    recipe.compare, out, console, title=recipe.name, models=models,
                    rewards=recipe.compare_rewards, exams=exams, device=first.device, precision=first.precision,
                    alive=alive,
                )  # fmt: skip
            else:
                compare_models(
                    recipe.compare, out, console, title=recipe.name, models=models, stages=stages,
                    parents={name: str(stage.model) for name, stage in recipe.stages.items()},
                    recipe=recipes.to_yaml(recipe), began=began, exams=exams,
                    device=first.device, precision=first.precision, alive=alive,
                )  # fmt: skip
        processes.barrier()
    return models


def check_ahead(recipe: Recipe) -> None:
    """What a later stage or the comparison would not know or could not compute is no news for the middle of a run."""
    for data in recipe.compare_data if recipe.compare else ():
        Exam(data, n=1).tasks()
    rewards = {f"compare_rewards.{name}": reward for name, reward in recipe.compare_rewards.items()}
    for name, stage in recipe.stages.items():
        rewards |= {f"stages.{name}.{key}": reward for key, reward in recipes.rewards_of(stage)}
    for key, reward in rewards.items():
        try:
            reward.check()
        except InputError as error:
            raise InputError(f"{key}: {error}") from None


def run_stage(
    stage: Stage, out: Path, console: Console, *, stages: Mapping[str, Path] | None = None, fresh: bool = False
) -> Path:
    """Train one stage in the folder `out` and return its `model/`."""
    with from_environment(choose_device(stage.device)) as processes:
        return _run_locked(stage, out, console, processes, stages or {}, fresh)


def _run_locked(
    stage: Stage, out: Path, console: Console, processes: Processes, stages: Mapping[str, Path], fresh: bool
) -> Path:
    writes = processes.rank == 0
    console = console if writes else Console(quiet=True)
    with lock_run(out) if writes else contextlib.nullcontext():
        with signals_raise():
            try:
                require_trackers(stage.track)
                if writes:
                    replace_run.recover(out)
                    if fresh:
                        replace_run.set_aside(out)
                processes.barrier()
                _refuse_other_config(stage, out)
                game = player_of(stage) if is_game(stage) else None
                run = None if game else _set_up_run(stage, out, console, processes, stages)
            except BaseException as error:
                if writes:
                    _leave_no_trace(out)
                if isinstance(error, KeyboardInterrupt):
                    told = f"Stopped before the first step of {out}; give the same command to go on."
                    by = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
                    raise Interrupted(told, by) from None
                raise
        if run is None:
            assert game is not None, "what is no run is a game"
            return play_stage(stage, game, out, console)
        try:
            return run.finish()
        except Exception as error:
            ending = _as_sentence(error, out)
            if ending is None:
                raise
            if not isinstance(error, Interrupted):  # which has said so itself
                with contextlib.suppress(OSError):  # the disk may be what failed
                    run.journal.emit("stop", {"error": str(ending), "exit_code": ending.exit_code})
            if ending is error:
                raise
            raise ending from error


def _set_up_run(stage: Stage, out: Path, console: Console, processes: Processes, stages: Mapping[str, Path]) -> _Run:
    """A run that nothing is known to stop."""
    heartbeat("draw", 0)
    say: Callable[[str], None] = lambda text: console.print(Text(printable(text)))  # noqa: E731
    drawn = Drawing(stage, out, stages, processes, say).sources()
    heartbeat("set-up", 0)
    forget_peak(choose_device(stage.device))
    run = _Run(stage, out, console, set_up(stage, processes, stages=stages, drawn=drawn), processes)
    run.check()
    return run


def _as_sentence(error: Exception, out: Path) -> NurtureError | None:
    """The error of the machine (a full disk, no memory) as one of ours; None for a fault of the program."""
    if isinstance(error, NurtureError):
        return error
    if isinstance(error, SafetensorError):  # a tensor file that could not be written: the disk
        return InputError(f"{out}: {error}. What was saved before is intact; make room, and the same command goes on.")
    if is_out_of_memory(error):
        return InputError(
            "Out of memory outside a micro-batch; try precision: bf16 or a smaller model. What was saved is intact."
        )
    if isinstance(error, OSError) and error.errno is not None:
        where = error.filename or out
        return InputError(f"{where}: {error.strerror}. What was saved before is intact; the same command goes on.")
    return None


def _leave_no_trace(out: Path) -> None:
    """A run that ended before it began leaves nothing behind, and nothing replaced."""
    replace_run.put_back(out)
    if not (out / "config.yaml").exists():
        (out / ".lock").unlink(missing_ok=True)
        if not any(out.iterdir()):
            out.rmdir()


def _refuse_other_config(stage: Stage, out: Path) -> None:
    """Before anything is loaded: a folder begun with other settings is not touched."""
    path = out / "config.yaml"
    if path.exists() and (changes := recipes.diff(recipes.load_stage(path), stage)):
        listed = "".join(f"\n  {change}" for change in changes)
        raise InputError(
            f"{out} was begun with other settings; restore them, choose another out=, or start again with fresh=true:"
            + listed
        )


@dataclass
class _Run:
    """One stage on its way through its steps."""

    stage: Stage
    out: Path
    console: Console
    setup: Setup
    processes: Processes
    done: int = 0
    """The last step that is done."""
    tokens_seen: int = 0
    best: dict[str, float] | None = None
    """`{"step": …, "eval/loss": …}` of the lowest evaluation loss so far."""
    method_state: dict[str, Any] = field(default_factory=dict[str, Any])
    progress: Progress | None = None
    stopping: Callable[[], bool] = lambda: False
    """Whether a signal has asked for an end."""
    rollouts: Rollouts | None = None
    """Of a method that learns from its own answers."""
    history: list[Mapping[str, float]] = field(default_factory=list[Mapping[str, float]])
    """The metrics at the end of each rollout, for the alarms."""
    alarms: dict[str, str] = field(default_factory=dict[str, str])
    """Those that have rung, with what they said."""
    alarmed: str = ""
    """What the alarm said that ends the run."""
    finished: bool = False
    """Whether the folder holds the whole run already."""
    unscored: bool = False
    """Whether it was said already that some answers have no score."""

    def __post_init__(self):
        stage, setup = self.stage, self.setup
        writes = self.processes.rank == 0
        self.journal = Journal(self.out if writes else None)
        self.store = CheckpointStore(self.out / "checkpoints", stage.checkpoint.keep)
        adapter, cast, trained = stage.adapter, setup.cast, setup.cast.trained
        rates = adapter.rates(trained) if adapter else {}
        if (ratio := getattr(stage.method, "critic_lr_ratio", 1.0)) != 1.0:
            rates = rates | {name: ratio * rates.get(name, 1.0) for name in cast.critic}
        tables = {id(table) for model in cast.models.values() for table in tables_of(model)}
        self.optimizer = OPTIMIZERS[stage.optimizer](
            trained.items(), beta1=stage.beta1, beta2=stage.beta2, weight_decay=stage.weight_decay, rates=rates,
            tables={name for name, parameter in trained.items() if id(parameter) in tables},
        )  # fmt: skip
        self.companion = adapter.companion(setup.loaded.model, self.optimizer, setup.steps) if adapter else None
        if setup.ref is not None and not stage.asks_reference_once:
            cast.models["ref"], cast.layouts["ref"] = setup.ref.model, self._ref_layout()
        self.roles = LocalRoles(
            cast.models, cast.layouts, self.optimizer, self.processes, max_grad_norm=stage.max_grad_norm,
            tokens_per_pass=setup.tokens_per_micro if stage.method.scope == "batch" else 1 << 62,
            temperature=stage.method.temperature if isinstance(stage.method, Online) else 1.0,
            companion=self.companion, adapters=cast.adapters,
        )  # fmt: skip
        if isinstance(stage.method, Online):
            self.rollouts = self._rollouts(stage.method)
        self.budget = Budget(setup.tokens_per_micro)
        self.nonfinite = NonFinite(setup.steps, stage.nonfinite)
        world = self.processes.world_size
        self.context = Context.here(config_json(stage), setup.data_digests(), setup.device, world)

    def check(self) -> None:
        """What would stop it later, found before anything is written: a folder begun under other conditions, a disk
        that cannot hold what will be saved."""
        self.finished = self._is_finished()
        if self.finished:
            return
        if (before := self.store.newest_context()) is not None:
            refuse(check_context({"context": before}, self.context, harmless=DIGEST_IGNORES), self.out)
        stage, loaded = self.stage, self.setup.loaded
        if self.processes.rank == 0 and stage.checkpoint.on_save_error == "stop":
            saved = self.setup.cast.trained.values() if loaded.is_peft else loaded.model.parameters()
            self.store.require_room(
                sum(tensor.nbytes for tensor in self._tensors().values()),
                saves=-(-self.setup.steps // stage.checkpoint.every),
                besides=sum(parameter.nbytes for parameter in saved),
            )

    # -- the story ----------------------------------------------------------------------------------------------

    def finish(self) -> Path:
        """From wherever the folder stands to a finished model."""
        model = self.out / "model"
        if self.finished:
            self._say(f"{self.out} is finished already; fresh=true runs it again.")
            return model
        if self.processes.rank == 0:
            finish_replacing(model)
        self.processes.barrier()
        self._begin()
        if self.stage.asks_reference_once:
            self._ask_reference()
        with StopSignals() as signals:
            step = self._resume()
            step = self._train(step, signals)
        heartbeat("finish", step)
        if self.processes.rank == 0:
            self._write_model(model)
        self.processes.barrier()
        return model

    def _begin(self) -> None:
        if self.processes.rank == 0:
            replace_synced(self.out / "config.yaml", recipes.to_yaml(self.stage).encode())
            replace_run.forget(self.out)
            if self.setup.rejected:
                write_rejected(self.out / "rejected.jsonl", self.setup.rejected)
            reports = [r.to_json() for r in [*self.setup.reports, *self.setup.eval_reports]]
            replace_synced(self.out / "data_report.json", (json.dumps(reports, indent=1) + "\n").encode())
        facts = describe(self.setup, self.processes.world_size)
        title = f"{self.stage.method.name} in {self.out}"
        header(self.console, title, facts, example=example(self.setup, colour=self.console.is_terminal))
        self.journal.emit(
            "start",
            {
                **facts,
                "steps": self.setup.steps,
                "trained_parameters": self.setup.trained_parameters,
                "promise": self.context.promise,
                "config_digest": recipes.config_digest(self.stage),
            },
        )
        self.journal.emit("example", {"text": example(self.setup, colour=False).plain})

    def _ref_layout(self) -> Layout:
        setup = self.setup
        if setup.ref is None:
            return setup.layout.layout
        choice = choose_layout(setup.ref.model, setup.longest, self.stage.layout)
        set_layout(setup.ref.model, choice.layout)
        return choice.layout

    def _ask_reference(self) -> None:
        """Its log-probs of every answer, from the run folder or computed now; after that nobody needs it. (The policy
        is its own reference as long as nothing is restored into it.)"""
        setup, path = self.setup, self.out / "ref_logp.safetensors"
        model, layout = (setup.ref or setup.loaded).model, self._ref_layout()
        shown = setup.shown
        groups = [*(setup.train[place] for place in shown), *setup.held_out]
        context, adapter = self.context, self.stage.adapter
        where = [context.versions, context.device, context.threads, adapter and adapter.model_dump(mode="json")]
        how = f"{setup.dtype} {layout} {setup.tokens_per_micro} {digest_of(where)}"
        key = reference.content_key(setup.ref_digest or setup.loaded.digest, how, groups)
        if self.processes.rank == 0 and reference.kept(path, key) is None:
            if (logp := reference.cached(key)) is not None:
                self._say("What the reference says of the answers is known from an earlier run.")
            else:
                logp = self._asked(model, layout, groups)
                reference.cache(key, logp)
            reference.keep(path, key, logp)
        self.processes.barrier()
        logp = reference.kept(path, key)
        assert logp is not None, "rank 0 has just written it"
        groups = reference.attach(groups, logp)
        for place, group in zip(shown, groups, strict=False):
            setup.train[place] = group
        setup.held_out = groups[len(shown) :]
        setup.ref = None

    def _asked(self, model: PreTrainedModel, layout: Layout, groups: Sequence[Group]) -> reference.Logp:
        setup = self.setup
        self._say(f"Asking the reference about {sum(len(g.responses) for g in groups):,} answers.")
        began = time.monotonic()
        adapter = ROLE if setup.ref else start_of(setup.loaded, fresh=self.stage.adapter is not None)
        with active(model, adapter):
            logp = reference.ask(
                model, layout, groups, setup.tokens_per_micro, setup.device, alive=lambda: heartbeat("reference", 0)
            )
        seconds = round(time.monotonic() - began, 3)
        self.journal.emit("reference", {"answers": len(groups), "tokens": len(logp), "seconds": seconds})
        return logp

    def _resume(self) -> int:
        """The last step done, after restoring everything as it was then."""
        if self.processes.rank == 0:
            self.store.sweep()
        self.processes.barrier()
        found = self.store.load_newest()
        if found is None:
            self.journal.cut_back({})
            self._samples(0)
            return 0
        for rejected in found.rejected:
            self._say(f"Passing over a damaged checkpoint: {rejected}")
            self.journal.emit("checkpoint_rejected", {"path": str(rejected.path), "reason": rejected.reason})
        differences = check_context(found.manifest, self.context, harmless=DIGEST_IGNORES)
        refuse(differences, self.out)
        promise, why = promise_after(found.manifest["context"]["promise"], differences)
        self.context = replace(self.context, promise=promise)
        self._restore(found)
        self._say(f"Going on after step {found.step} from {found.path}.")
        if why:
            self._say(why)
        self.journal.emit(
            "resume", {"step": found.step, "promise": promise, "differences": [str(d) for d in differences]}
        )
        return found.step

    def _train(self, step: int, signals: StopSignals) -> int:
        stage, setup, alone = self.stage, self.setup, self.processes.world_size == 1
        trackers = self._trackers(step)
        clock = _Clock(self.tokens_seen)
        self.stopping, self.done = lambda: signals.requested is not None, step
        with contextlib.ExitStack() as open_:
            for tracker in trackers:
                open_.callback(tracker.close)
            self.progress = open_.enter_context(
                Progress(stage.method.name, setup.steps, first=step, console=self.console)
            )
            open_.enter_context(self._kept_when_rewards_are_lost())
            for update in train(
                self.roles,
                stage.method,
                self._batches(step),
                learning_rate=lambda n: learning_rate(
                    n, setup.steps, stage.learning_rate, stage.schedule, stage.warmup
                ),
                budget=self.budget,
                first_step=step + 1,
                # One process may leave a step half done. Several must agree, which they do after it.
                stop=(lambda: self.stopping() and self._at_border(self.done)) if alone else (lambda: False),
                phase=heartbeat,
            ):
                failpoint("step.after_update")
                self.done = step = update.number
                self._after_update(update, clock, trackers)
                if self.processes.any((self.stopping() or bool(self.alarmed)) and self._at_border(step)):
                    break
        self.progress = None
        if step < setup.steps:
            self._save(step, must=True)
            if self.alarmed:
                self.journal.emit("stop", {"step": step, "alarm": self.alarmed})
                raise Alarmed(f"Stopped by an alarm. {self.alarmed} The same command goes on without asking again.")
            self.journal.emit("stop", {"step": step, "signal": signals.requested.name if signals.requested else None})
            raise signals.interrupted(self.nonfinite.last_checkpoint or self.out)
        return step

    @contextlib.contextmanager
    def _kept_when_rewards_are_lost(self) -> Iterator[None]:
        """Rollouts begin at borders: what was learnt until then is whole. Several processes lose rewards together."""
        try:
            yield
        except RewardLost:
            if self.done:
                self._save(self.done)
            heartbeat(REWARD_LOST, self.done)
            raise

    def _after_update(self, update: Step, clock: _Clock, trackers: list[Any]) -> None:
        step, stage, last = update.number, self.stage, update.number == self.setup.steps
        self.tokens_seen += int(update.metrics["tokens"])
        metrics: dict[str, float] = {**update.metrics, "skipped": int(bool(update.skipped))}
        split, spent = "", dict[str, float]()
        if self.rollouts is not None:
            self.rollouts.laps.lap("train")
            split, spent = str(self.rollouts.laps), dict(self.rollouts.laps.seconds)
            metrics |= self.rollouts.metrics
            if self._at_border(step - 1):
                for row in self.rollouts.samples:
                    self.journal.sample(step, row)
                self._tell_unscored(step, self.rollouts.unscored)
        best_before = self.best
        said_before = set(self.method_state.get("remarks", ()))
        self.method_state = stage.method.after_step(self.method_state, update.metrics)
        metrics |= {name: self.method_state[name] for name in stage.method.metrics if name in self.method_state}
        for name, sentence in self.method_state.get("remarks", {}).items():
            if name not in said_before:
                self._say(f"Step {step}: {sentence}")
                self.journal.emit("remark", {"step": step, "about": name, "reason": sentence})
        if self.processes.any(update.halvings > 0):
            tokens = self.budget.tokens = self._least(self.budget.tokens)
            self._say(f"Out of memory at step {step}: micro-batches of {tokens:,} tokens from here on, same batch.")
            self.journal.emit("out_of_memory", {"step": step, "tokens_per_micro": tokens})
        if self.setup.held_out and (last or (stage.eval.every and step % stage.eval.every == 0)):
            metrics |= self._evaluate(step)
        self.journal.metrics(step, metrics)
        failpoint("run.after_metrics")
        self._track(trackers, step, metrics | {f"seconds/{name}": seconds for name, seconds in spent.items()})
        if last or (stage.samples.every and step % stage.samples.every == 0):
            self._samples(step)
        rate = clock.rate(self.tokens_seen)
        memory = peak_bytes(self.setup.device)
        if clock.due() or last:
            facts = {"step": step, "seconds": clock.seconds(), "tokens_per_second": rate, "memory": memory}
            self.journal.emit("timing", facts)
        if self.progress:
            reward = {"reward": metrics["rollout/score"]} if "rollout/score" in metrics else {}
            self.progress.update(step, metrics | reward, tokens_per_second=rate, memory=memory, split=split)
        if update.skipped:
            self._say(f"Step {step}: the {update.skipped} is not finite; nothing was updated.")
            self.journal.emit("nonfinite", {"step": step})
        if self.rollouts is not None and self._at_border(step):
            self.journal.emit("rollout", {"step": step, "seconds": {n: round(s, 3) for n, s in spent.items()}})
            self._watch(step, metrics)
        self.nonfinite.observe(update.skipped != "loss", not update.skipped, step)
        is_best = self.best is not best_before
        if last or (is_best and stage.eval.keep_best) or self._saves_after(step):
            saved = self._save(step)
            if is_best and stage.eval.keep_best and not saved:
                self.best = best_before  # best is only what can be loaded again
        if self.best is not best_before:
            self.journal.emit("best", self.best)
        heartbeat("between steps", step)

    # -- pieces -------------------------------------------------------------------------------------------------

    def _batches(self, done: int) -> Iterator[Batch]:
        """This process's share of every global batch after step `done`."""
        stage, processes = self.stage, self.processes
        if self.rollouts is not None:
            first = done // self.rollouts.method.updates_per_rollout
            with contextlib.suppress(Stopped):  # asked for while a rollout was drawn: nothing of it is kept
                made = self.rollouts.batches(lambda: self.method_state, first)
                for batch in islice(made, self.setup.steps - done):
                    whole = batch if batch.num_groups >= processes.world_size else apart(batch)
                    yield rank_share(whole, processes.rank, processes.world_size)
            return
        chosen = batches(
            self.setup.train, batch_size=stage.batch_size, seed=stage.seed, start_step=done, steps=self.setup.steps,
            mixture=self.setup.mixture,
        )  # fmt: skip
        for number, batch in enumerate(chosen, done + 1):
            if self.setup.random:
                torch.manual_seed(stream_key(stage.seed, "dropout", number, processes.rank) >> 1)
            yield rank_share(batch, processes.rank, processes.world_size).to(self.setup.device)

    def _rollouts(self, method: Online) -> Rollouts:
        from .rollout.sampler import LocalSampler

        stage, setup = self.stage, self.setup
        tokenizer, reward = setup.loaded.tokenizer, stage.reward
        assert reward is not None, "recipe.py asks for one"

        def decode(ids: Sequence[int]) -> str:
            return str(tokenizer.decode(list(ids)))

        def judge(reward: Reward, stop_limit: float, answers: Sequence[Answer]) -> list[Outcome]:
            return score_all(reward, answers, stage.deadline, stop_limit, self._alive("reward"))

        draw: Draw = partial(self._draw, LocalSampler(setup.loaded.model, layout=setup.layout.layout))
        if (env := stage.env) is not None:
            world = speaker(env.name)
            draw = several_turns(
                draw, lambda request: world(request.task), decode, setup.template.encode_turn, env.max_turns
            )
        return Rollouts(
            setup.prompts, draw, partial(judge, reward, stage.stop_limit), self.roles, method, decode, stage.batch_size,
            stage.seed, stop_ids=setup.template.stop_ids,
            oracle=partial(judge, stage.oracle, 1.0) if stage.oracle else None,  # may fail: nothing is learnt from it
            mixed=self._mixed, mixture=setup.mixture, tokens=setup.tokens_per_micro, device=setup.device,
            processes=self.processes,
        )  # fmt: skip

    def _mixed(self, rollout: int) -> Sequence[Group]:
        """The demonstrations beside a rollout: as many as it has prompts, in the order of their own epochs."""
        if not self.setup.mixed_in:
            return ()
        size, seed = self.stage.batch_size, stream_key(self.stage.seed, "ptx") >> 1
        (batch,) = batches(self.setup.mixed_in, batch_size=size, seed=seed, start_step=rollout, steps=rollout + 1)
        return batch.groups

    def _draw(self, sampler: Sampler, requests: Sequence[Request], sampling: Sampling) -> list[list[Response]]:
        """Answers by the policy as it is now."""
        model = self.setup.loaded.model
        training = model.training
        model.eval()
        try:
            return single_turn(sampler, self._alive("rollout"))(requests, sampling)
        finally:
            model.train(training)

    def _alive(self, phase: str) -> Callable[[], None]:
        """To be called again and again while a rollout is made: a sign of life, and a way out."""

        def alive() -> None:
            heartbeat(phase, self.done)
            if self.processes.world_size == 1 and self.stopping():
                raise Stopped

        return alive

    def _tell_unscored(self, step: int, unscored: Counter[tuple[str, str]]) -> None:
        """What could not be scored, with the reasons given most often; aloud the first time."""
        if not unscored:
            return
        told = [{"kind": kind, "reason": reason, "answers": n} for (kind, reason), n in unscored.most_common(5)]
        self.journal.emit("unscored", {"step": step, "answers": unscored.total(), "reasons": told})
        if not self.unscored:
            self.unscored = True
            most = told[0]
            self._say(
                f"Step {step}: {unscored.total()} answers have no score and are left out, most often because of this: "
                f"{most['reason']} (rollout/unscored counts them, events.jsonl says why)."
            )

    def _watch(self, step: int, metrics: Mapping[str, float]) -> None:
        """Say which alarms ring for the first time."""
        self.history.append(metrics)
        for name, sentence in ringing(self.history, self._limits()).items():
            if name in self.alarms:
                continue
            self.alarms[name] = sentence
            self._say(f"Alarm {name} at step {step}: {sentence}")
            self.journal.emit("alarm", {"step": step, "alarm": name, "reason": sentence})
            if name in self.stage.alarms.stop:
                self.alarmed = f"{name}: {sentence}"

    def _limits(self) -> Alarms:
        """Of the alarms: a policy that is to stay at a distance has gone far at several times that."""
        alarms, target = self.stage.alarms, getattr(self.stage.method, "kl_target", None)
        if target is None or "kl" in alarms.model_fields_set:
            return alarms
        return alarms.model_copy(update={"kl": FAR * target})

    def _at_border(self, step: int) -> bool:
        """Whether a run can go on after this step: not in the middle of a rollout, which is not kept."""
        return self.rollouts is None or step % self.rollouts.method.updates_per_rollout == 0

    def _saves_after(self, step: int) -> bool:
        """Every so many updates, or at the end of the rollout that such an update is part of."""
        every, updates = self.stage.checkpoint.every, self.rollouts.method.updates_per_rollout if self.rollouts else 1
        return self._at_border(step) and step % every < min(updates, every)

    def _evaluate(self, step: int) -> dict[str, float]:
        heartbeat("evaluate", step)
        p, model = self.processes, self.setup.loaded.model
        training = model.training
        model.eval()  # no dropout
        metrics = evaluate_loss(
            self.roles, self.stage.method, self.setup.held_out, tokens=self.budget.tokens, device=self.setup.device,
            share=lambda batch: rank_share(batch, p.rank, p.world_size), alive=lambda: heartbeat("evaluate", step),
        )  # fmt: skip
        model.train(training)
        self.journal.emit("eval", {"step": step, **metrics})
        loss = metrics["eval/loss"]
        if math.isfinite(loss) and (self.best is None or loss < self.best["eval/loss"]):
            self.best = {"step": step, "eval/loss": loss}
        return metrics

    def _samples(self, step: int) -> None:
        """Answers to a few prompts, written by rank 0 for people to read."""
        asked = self.stage.samples
        if self.processes.rank != 0 or (asked.count == 0 and not asked.prompts):
            return
        if self.stage.method.trained != "policy" or self.setup.layout.layout == "seq2seq":  # it writes nothing here
            return
        from .rollout.sampler import LocalSampler

        heartbeat("sample", step)
        template, tokenizer, model = self.setup.template, self.setup.loaded.tokenizer, self.setup.loaded.model
        if self.stage.method.data == "text":
            prompts = [np.asarray(tokenizer(text)["input_ids"]) for text in asked.prompts]
        else:
            prompts = [template.encode_prompt([Message("user", text)]) for text in asked.prompts]
        for group in (self.setup.held_out or self.setup.first_epoch)[: asked.count]:
            prompts.append(group.prompt if len(group.prompt) > 1 else group.responses[0].ids[:8])
        longest = max(map(len, prompts)) + asked.max_tokens
        training = model.training
        model.eval()
        sampler = LocalSampler(model, layout=choose_layout(model, longest).layout)
        settings = Sampling(max_tokens=asked.max_tokens, temperature=0.0, stop_ids=template.stop_ids)
        samples: list[Sample] = []
        try:
            for event in sampler.stream([Request(p, key=str(i)) for i, p in enumerate(prompts)], settings):
                heartbeat("sample", step)
                if isinstance(event, Sample):
                    samples.append(event)
        except (NumericsError, InputError) as error:  # the training's own checks decide whether the run goes on
            self.journal.emit("samples_failed", {"step": step, "reason": str(error)})
            samples.clear()
        model.train(training)
        for sample in sorted(samples, key=lambda sample: sample.request):
            prompt = prompts[sample.request]
            words = {"prompt": tokenizer.decode(prompt.tolist()), "response": tokenizer.decode(sample.ids.tolist())}
            self.journal.sample(step, {**words, "reason": sample.reason})

    def _trackers(self, step: int) -> list[Any]:
        if self.processes.rank != 0 or not self.stage.track:
            return []
        return open_trackers(self.stage.track, self.out, config_json(self.stage), first_step=step + 1)

    # -- saving and restoring -----------------------------------------------------------------------------------

    def _save(self, step: int, must: bool = False) -> bool:
        """A checkpoint of everything, by rank 0; the others wait. Whether it was written."""
        heartbeat("save", step)
        path = None
        if self.processes.rank == 0:
            protect = [int(self.best["step"])] if self.best and self.stage.eval.keep_best else []
            try:
                path = self.store.save(step, self._tensors(), self._state(), self.context, protect)
                self.nonfinite.last_checkpoint = path
                self.journal.emit("checkpoint_saved", {"step": step, "path": str(path)})
            except SaveFailed as error:
                self.journal.emit("checkpoint_failed", {"step": step, "reason": str(error)})
                if must or self.stage.checkpoint.on_save_error == "stop":
                    raise
                self._say(f"{error} Training goes on without this checkpoint.")
        return self.processes.any(path is not None)

    def _least(self, tokens: int) -> int:
        """The least of all ranks' numbers."""
        ranks = {str(rank): 0.0 for rank in range(self.processes.world_size)}
        return int(min(self.processes.all_sum(ranks | {str(self.processes.rank): float(tokens)}).values()))

    def _track(self, trackers: list[Any], step: int, metrics: dict[str, float]) -> None:
        """Send metrics elsewhere. What goes wrong there is said once and does not end the training."""
        for tracker in list(trackers):
            try:
                tracker.log(step, metrics)
            except Exception as error:
                trackers.remove(tracker)
                self._say(f"{type(tracker).__name__} failed and gets no more metrics: {error}")

    def _tensors(self) -> dict[str, torch.Tensor]:
        if self.companion is None:
            return self.optimizer.tensors()
        return self.optimizer.tensors() | {f"adapter.{n}": t for n, t in self.companion.tensors().items()}

    def _state(self) -> dict[str, Any]:
        return {
            "updates": self.optimizer.updates,
            "tokens_seen": self.tokens_seen,
            "tokens_per_micro": self.budget.tokens,
            "best": self.best,
            "nonfinite": self.nonfinite.state(),
            "method": self.method_state,
            "alarms": self.alarms,
            "lengths": self.journal.lengths(),
        }

    def _restore(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state
        self.optimizer.load(checkpoint.tensors, state["updates"])
        if self.companion is not None:
            own = {n.removeprefix("adapter."): t for n, t in checkpoint.tensors.items() if n.startswith("adapter.")}
            self.companion.load(own, state["updates"])
        self.tokens_seen, self.best, self.method_state = state["tokens_seen"], state["best"], state["method"]
        self.budget.tokens = state["tokens_per_micro"]
        self.nonfinite.restore(state["nonfinite"])
        self.nonfinite.last_checkpoint = checkpoint.path
        self.journal.cut_back(state["lengths"])
        if self.rollouts is not None:
            self.alarms = state["alarms"]
            rows = rows_of(self.out / "metrics.jsonl")
            # (Rank 0 may not have cut the file back yet.)
            self.history = [r for r in rows if r["step"] <= checkpoint.step and self._at_border(r["step"])]

    def _write_model(self, folder: Path) -> None:
        """`model/`: the best checkpoint where one was kept, else the last weights."""
        failpoint("run.before_model")
        setup, stage = self.setup, self.stage
        weights, step = {n: t for n, t in self.optimizer.master.items() if not n.startswith(CRITIC)}, setup.steps
        if self.best and stage.eval.keep_best and self.best["step"] != setup.steps:
            step = int(self.best["step"])
            kept = self.store.load(step).tensors
            weights = {name: kept[f"master.{name}"] for name in weights}
        loaded, model, reward = setup.loaded, setup.loaded.model, None
        evaluated = {row["step"]: row["eval/loss"] for row in rows_of(self.out / "metrics.jsonl") if "eval/loss" in row}
        results: dict[str, Any] = {"eval/loss": evaluated[step]} if step in evaluated else {}
        attached = loaded.is_peft
        if stage.method.trained == "reward":
            results |= self._judge_reward_model(weights, step)
            reward = stage.method.model_dump(mode="json") | {"template": setup.template.hash}
            if not attached and not has_score_head(model):
                model.config.reward = reward
            elif not attached:
                model.config.pad_token_id = loaded.tokenizer.pad_token_id
                model = classifier(model, getattr(stage.method, "criteria", ("overall",)), reward)
                known = model.state_dict()
                weights = {name: tensor for name, tensor in weights.items() if name in known}
        card = model_card(
            self.out.resolve().name,
            base_model=None if isinstance(stage.model, recipes.FreshModel) else loaded.base or loaded.source,
            method=stage.method.name,
            data=[r.source for r in setup.reports],
            settings=config_json(stage),
            results=results,
            library="peft" if attached else "transformers",
            judges=has_score_head(setup.loaded.model),
        )
        if attached:
            value = {"name": "reward", "criteria": ["value"], "template": setup.template.hash}
            save_adapter(
                loaded, folder, state=weights, card=card, stop_ids=setup.template.stop_ids, reward=reward,
                value=value if "value" in setup.cast.adapters else None,
            )  # fmt: skip
        else:
            save_model(
                model, loaded.tokenizer, folder, state=weights, dtype=loaded.saved_dtype, card=card,
                original_dropout=loaded.original_dropout, stop_ids=setup.template.stop_ids,
            )  # fmt: skip
        if self.companion is not None:
            self.journal.emit("ranks", {"ranks": self.companion.ranks()})
        failpoint("run.before_finished")
        self.journal.emit("finish", {"step": step, "model": str(folder)})
        heartbeat("report", step)
        write_report(self.out)
        replace_synced(self.out / "finished.json", (json.dumps(self._inputs(), indent=1) + "\n").encode())

    def _judge_reward_model(self, weights: dict[str, torch.Tensor], step: int) -> dict[str, str]:
        """The reward card of the weights that are kept: whether this model is good enough to be learnt from. Returns
        what of it the model's own card says."""
        heartbeat("reward card", step)
        self.optimizer.set_model(weights)
        setup = self.setup
        card = reward_card(
            self.roles, self.stage.method, setup.held_out, setup.template, tokens=self.budget.tokens,
            device=setup.device, on_the_lab=any(s.path.startswith("lab/") for s in self.stage.data),
            alive=lambda: heartbeat("reward card", step),
        )  # fmt: skip
        replace_synced(self.out / "reward_card.json", (json.dumps(card, indent=1, allow_nan=False) + "\n").encode())
        self.journal.emit("reward_card", {"step": step, "verdict": card["verdict"], "reason": card["reason"]})
        told = f"{card['verdict']}: {card['reason']}"
        self._say(f"Reward card: {told}")
        return {"reward card": told}

    def _say(self, sentence: str) -> None:
        if self.progress:
            self.progress.say(sentence)
        else:
            self.console.print(Text(printable(sentence)), soft_wrap=True)

    def _inputs(self) -> dict[str, Any]:
        """What the finished model is a function of."""
        return {"config": recipes.config_digest(self.stage), "data": digest_of(self.setup.data_digests())}

    def _is_finished(self) -> bool:
        path = self.out / "finished.json"
        if not path.exists() or not (self.out / "model").is_dir():
            return False
        if json.loads(path.read_text()) == self._inputs():
            return True
        ways = "choose another out=, or start again with fresh=true"
        raise InputError(f"{self.out} was made from other data or another model; {ways}.")


class _Clock:
    """Speed since this process began training."""

    def __init__(self, tokens: int):
        self.began = self.last = time.monotonic()
        self.tokens = tokens

    def seconds(self) -> float:
        return round(time.monotonic() - self.began, 3)

    def rate(self, tokens: int) -> float:
        return round((tokens - self.tokens) / max(1e-9, time.monotonic() - self.began), 2)

    def due(self) -> bool:
        now = time.monotonic()
        if now - self.last < TIMING_SECONDS:
            return False
        self.last = now
        return True
