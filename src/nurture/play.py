"""A stage whose data is a game: `{method: ppo, model: mlp, data: gym/CartPole-v1}`.

The run folder is that of any other run. A game is over in minutes, so there are no checkpoints: a run that was
interrupted begins again, and ends as it would have.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text
from safetensors.torch import save

from . import recipe as recipes
from .control.dqn import DQN, QPlayer
from .control.learn import Player, mean_score, tensors
from .errors import InputError, Interrupted
from .files import replace_synced
from .methods import Online
from .recipe import DIGEST_IGNORES, GAME, Stage
from .report import write_report
from .show import Progress, header, quantity
from .train.guard import StopSignals
from .train.journal import Journal
from .train.memory import peak_bytes
from .train.optim import learning_rate
from .train.precision import deterministic
from .train.replace import forget

NETWORK = "mlp"
GREEDY_EPISODES = 100

MEANT = (
    "method",
    "model",
    "data",
    "steps",
    "batch_size",
    "learning_rate",
    "schedule",
    "warmup",
    "max_grad_norm",
    "seed",
)
"""The fields of a stage that a game heeds; setting another is an error."""
WATCHED = ("alarms", "deadline", "stop_limit")
"""Fields that change no weights and still mean nothing to a game: nobody judges its answers."""


def is_game(stage: Stage) -> bool:
    return any(source.path.startswith(GAME) for source in stage.data)


def play_stage(stage: Stage, player: Player | QPlayer, out: Path, console: Console) -> Path:
    """Let the `player_of` the stage learn its game in the run folder `out`; returns its `model/`."""
    folder, inputs = out / "model", {"config": recipes.config_digest(stage)}
    if (out / "finished.json").exists() and json.loads((out / "finished.json").read_text()) == inputs:
        console.print(Text(f"{out} is finished already; fresh=true runs it again."))
        return folder
    assert stage.steps is not None
    replace_synced(out / "config.yaml", recipes.to_yaml(stage).encode())
    forget(out)
    journal = Journal(out)
    journal.cut_back({})
    facts = describe(stage)
    header(console, f"{stage.method.name} in {out}", facts)
    journal.emit("start", {**facts, "steps": stage.steps, "config_digest": recipes.config_digest(stage)})
    _learn(stage, stage.steps, player, journal, console)
    _save(stage, player, folder)
    journal.emit("finish", {"step": stage.steps, "model": str(folder)})
    write_report(out)
    replace_synced(out / "finished.json", (json.dumps(inputs, indent=1) + "\n").encode())
    return folder


def player_of(stage: Stage) -> Player | QPlayer:
    """The networks and the game, or one sentence on what is missing for them."""
    if len(stage.data) != 1:
        raise InputError("data: a game is learnt alone; keep one gym/ environment.")
    if stage.model != NETWORK:
        raise InputError(
            f"model: {stage.model!r} cannot play {stage.data[0].path}; a game is played by model: {NETWORK}."
        )
    if stage.steps is None:
        raise InputError("steps is missing. A game has no epochs: say how many updates to make.")
    for name, field in Stage.model_fields.items():
        meant = name in MEANT or (name in DIGEST_IGNORES and name not in WATCHED)
        value = getattr(stage, name)
        if not meant and value is not None and value != field.get_default(call_default_factory=False):
            raise InputError(f"{name} means nothing to {stage.data[0].path}; leave it out.")
    if stage.processes != 1:
        raise InputError("processes: a game is learnt by one process.")
    env = stage.data[0].path.removeprefix(GAME)
    deterministic()
    if isinstance(stage.method, DQN):
        player = QPlayer(env, stage.method, stage.seed, stage.batch_size)
    elif isinstance(stage.method, Online):
        if stage.method.sets_aside:
            raise InputError("oversample, refills: a game never repeats a start state; leave them out.")
        player = Player(env, stage.method, stage.seed, stage.batch_size)
    else:
        raise InputError(
            f"method {stage.method.name!r} learns from rows, not from a game; try ppo, reinforce or actor-critic."
        )
    player.roles.max_grad_norm = stage.max_grad_norm
    return player


def describe(stage: Stage) -> dict[str, str]:
    player = player_of(stage)
    size = sum(p.numel() for p in player.roles.optimizer.parameters.values())
    return {
        "model": f"{', '.join(player.roles.networks)}: networks of {quantity(size)} weights together",
        "data": stage.data[0].path,
        "steps": f"{stage.steps:,} updates",
        "learning rate": f"{stage.learning_rate:g}, {stage.schedule}, warm-up {stage.warmup:g}",
        "seed": str(stage.seed),
    }


def _learn(stage: Stage, steps: int, player: Player | QPlayer, journal: Journal, console: Console) -> None:
    began, seen, memory = time.monotonic(), 0.0, 0

    def rate(n: int) -> float:
        return learning_rate(n, steps, stage.learning_rate, stage.schedule, stage.warmup)

    with StopSignals() as signals, Progress(stage.method.name, steps, console=console) as progress:
        for step in player.learn(steps, rate):
            metrics, last = {**step.metrics, "skipped": int(bool(step.skipped))}, step.number == steps
            seen += metrics["tokens"]
            if last:
                metrics["eval/score"] = mean_score(player.greedy(GREEDY_EPISODES))
                journal.emit("eval", {"step": steps, "eval/score": metrics["eval/score"], "episodes": GREEDY_EPISODES})
                progress.say(f"{GREEDY_EPISODES} greedy episodes: mean score {metrics['eval/score']:.1f}")
            journal.metrics(step.number, metrics)
            speed, memory = seen / (time.monotonic() - began), peak_bytes(torch.device("cpu"))
            progress.update(
                step.number,
                {**metrics, "reward": metrics.get("rollout/score", 0.0)},
                tokens_per_second=speed,
                memory=memory,
            )
            if signals.requested is not None:
                journal.emit("stop", {"step": step.number, "signal": signals.requested.name})
                number = signals.requested
                raise Interrupted(f"Stopped by {number.name}; the same command begins the game again.", int(number))
    seconds = round(time.monotonic() - began, 3)
    journal.emit(
        "timing", {"step": steps, "seconds": seconds, "tokens_per_second": round(seen / seconds, 2), "memory": memory}
    )


def _save(stage: Stage, player: Player | QPlayer, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    config = {
        "model_type": NETWORK,
        "env": stage.data[0].path,
        "hidden_size": player.hidden,
        "method": stage.method.name,
    }
    replace_synced(folder / "model.safetensors", save(tensors(player.roles.networks)))
    replace_synced(folder / "config.json", (json.dumps(config, indent=1) + "\n").encode())
