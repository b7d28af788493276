"""A run folder as its readers see it: what its files mean, and how the runs below a folder stand.

The names below are the contract that `docs/run-folder.md` spells out; nothing is written under a name not listed here.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

METRICS: Mapping[str, str] = {
    "step": "number of the update, from 1",
    "learning_rate": "the rate this update was made with",
    "grad_norm": "global norm of the gradient before clipping; NaN where the update was skipped",
    "tokens": "tokens of the whole global batch, each prompt once; without groups that have no gradient (GRPO, RLOO)",
    "trained_tokens": "those of them that carried loss",
    "skipped": "1 where the loss or the gradient was not finite and nothing was updated",
    "eval/loss": "the loss on held-out rows, no dropout",
    "eval/perplexity": "exp(eval/loss), or exp(eval/nll) where the method tells that apart from its loss",
    "eval/token_accuracy": "share of held-out tokens that were the model's first choice",
    "eval/score": "mean score of greedy episodes at the end of a game",
    "rollout/score": "mean score of a response in the batch: what the rewards say, before any KL penalty",
    "rollout/oracle": "mean of the second judge's scores, from whom nothing is learnt: should rise with rollout/score",
    "rollout/part/NAME": "mean of the part NAME of a combined reward",
    "rollout/score_std": "standard deviation of the scores over the rollout",
    "rollout/length": "mean number of tokens the policy wrote per response",
    "rollout/turns": "mean number of the policy's turns per response, where an env answers between them",
    "rollout/truncated": "share of responses cut off at max_completion_length",
    "rollout/no_signal": "share of groups whose scores are all equal, so that comparing within them teaches nothing",
    "rollout/explained_variance": "1 - Var(return - value) / Var(return): 1 for a critic that knows the returns, 0 for "
    "one that knows only their mean",
    "rollout/responses": "responses drawn, those of groups set aside or left over included",
    "rollout/unscored": "responses that no reward could be given for; they are left out",
    "rollout/failed": "those of them whose reward raised, was late or was no number; the others cannot be judged",
    "rollout/empty_groups": "groups in which no response could be scored; they are left out",
    "rollout/refilled": "groups without signal that were set aside for others",
    "rollout/surplus": "groups with signal that were drawn beyond the batch, and left out",
    "rollout/kl": "mean over responses of the distance from the reference in nats per response (k1, summed; with "
    "`full` in the reward exact)",
}
"""What the engine writes to `metrics.jsonl`; a method adds its own (`Method.metrics`)."""

EVENTS: Mapping[str, str] = {
    "start": "a process takes the run up: the facts shown before training, trained_parameters, promise, config_digest",
    "example": "the first example, decoded, what carries loss between ⟦ and ⟧: text",
    "resume": "the run goes on from a checkpoint: step, promise, differences (what has changed since)",
    "checkpoint_saved": "a checkpoint was written: step, path",
    "checkpoint_failed": "a checkpoint could not be written and the run goes on, or ends: step, reason",
    "checkpoint_rejected": "a damaged checkpoint was passed over: path, reason",
    "eval": "an evaluation was made: step and its metrics",
    "best": "the lowest evaluation loss so far: step, eval/loss",
    "out_of_memory": "micro-batches were halved after running out of memory: step, tokens_per_micro",
    "reference": "the reference was asked once about every answer: answers (groups of them), tokens, seconds",
    "rollout": "a rollout and its updates are done: step, seconds (of each of sample, reward, score, train)",
    "unscored": "responses of a rollout have no score: step, answers, reasons (the five given most often)",
    "alarm": "learning from its own answers goes wrong, said once: step, alarm, reason",
    "remark": "the method noticed a known trouble, said once: step, about, reason",
    "reward_card": "a reward model was judged (reward_card.json): step, verdict, reason",
    "nonfinite": "an update was skipped, its loss or gradient was not finite: step",
    "samples_failed": "no samples could be drawn: step, reason",
    "timing": "how fast it goes: step, seconds, tokens_per_second (both since the start), memory (peak bytes)",
    "stop": "the run ended before its last step: step, signal or alarm; or error and exit_code",
    "ranks": "the final rank of each matrix of an adapter that shares a budget out: ranks",
    "finish": "the run is complete: step (of the weights kept), model",
}
"""What `events.jsonl` may hold. Every row has `event` and `time` (Unix seconds)."""

State = Literal["running", "finished", "interrupted", "failed", "damaged"]


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file of a run; none where there is no file. A last line that is still being written, or was
    cut by a crash, is left out; a broken line anywhere else is an error."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    for number, line in enumerate(lines, start=1):
        try:
            if line:
                yield json.loads(line)
        except ValueError:
            if number < len(lines):
                raise InputError(f"{path}:{number}: not a JSON row; the file was changed by hand or damaged.") from None


@dataclass(frozen=True, slots=True)
class Run:
    """How a run stands. `step` of `steps`, the last training loss, seconds of work over all its resumptions."""

    folder: Path
    method: str
    state: State
    step: int
    steps: int | None
    loss: float | None
    seconds: float
    num_bytes: int


def list_runs(folder: Path) -> list[Run]:
    """Every run at or below a folder, by path."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder.")
    found: list[Run] = []
    for path in sorted(folder.rglob("config.yaml")):
        inside = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in inside)  # a run that is just being replaced
        if (path.parent / "events.jsonl").exists() and not hidden:
            try:
                found.append(read_run(path.parent))
            except InputError:  # one damaged folder hides no other
                found.append(Run(path.parent, "?", "damaged", 0, None, None, 0.0, _num_bytes(path.parent)))
    return found


def read_run(folder: Path) -> Run:
    step, loss = 0, None
    for row in rows_of(folder / "metrics.jsonl"):
        step, loss = row["step"], float(row["loss"]) if "loss" in row else loss
    events = list(rows_of(folder / "events.jsonl"))
    state, seconds = state_of(folder, events), _seconds(events)
    return Run(folder, _method(folder), state, step, _steps(events), loss, seconds, _num_bytes(folder))


def _steps(events: list[dict[str, Any]]) -> int | None:
    """How many steps the run is to make: the number that the fact `steps` of its start begins with."""
    told = next((str(event.get("steps", "")) for event in reversed(events) if event["event"] == "start"), "")
    found = re.match(r"[\d,]+", told)
    return int(found[0].replace(",", "")) if found else None


def state_of(folder: Path, events: list[dict[str, Any]]) -> State:
    last = next((e for e in reversed(events) if e["event"] in ("start", "resume", "stop", "finish")), None)
    if last is not None and last["event"] == "finish":
        return "finished"
    if is_locked(folder):
        return "running"
    if last is None or last["event"] in ("start", "resume"):
        return "interrupted"
    return "failed" if "error" in last else "interrupted"


def is_locked(folder: Path) -> bool:
    """Whether a living process holds the folder. Looks at the kernel's lock only where the file names a process that
    lives, so that looking never gets in the way of one that is about to take it."""
    path = folder / ".lock"
    try:
        said = json.loads(path.read_bytes() or b"{}")
        if "pid" not in said:
            return False
        if said["host"] != socket.gethostname():
            return True
        os.kill(said["pid"], 0)
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except (BlockingIOError, PermissionError):
        return True
    except (OSError, ValueError):
        return False


def _seconds(events: list[dict[str, Any]]) -> float:
    """Time between the first and the last event of each start or resumption, added up."""
    total, began, last = 0.0, None, 0.0
    for event in events:
        if event["event"] in ("start", "resume") or began is None:
            total += last - began if began is not None else 0.0
            began = event["time"]
        last = event["time"]
    return total + (last - began if began is not None else 0.0)


def _method(folder: Path) -> str:
    from .yaml12 import read_yaml

    return str(read_yaml(folder / "config.yaml").value.get("method", "?"))


def _num_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def runs_table(runs: list[Run], folder: Path) -> Table:
    """The runs for a terminal."""
    from rich.table import Table

    from .files import readable_size
    from .show import duration

    colours = {"running": "cyan", "finished": "green", "interrupted": "yellow"}
    table = Table(
        "run", "method", "state", "step", "loss", "time", "size", box=None, pad_edge=False, header_style="bold"
    )
    for column in table.columns[3:]:
        column.justify = "right"
    for run in runs:
        name = str(run.folder.relative_to(folder)) if run.folder != folder else run.folder.name
        steps = f"{run.step}/{run.steps}" if run.steps is not None else str(run.step)
        loss = f"{run.loss:.4f}" if run.loss is not None else ""
        state = f"[{colours.get(run.state, 'red')}]{run.state}[/]"
        table.add_row(name, run.method, state, steps, loss, duration(run.seconds), readable_size(run.num_bytes))
    return table
