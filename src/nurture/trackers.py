"""Optional exporters: the metrics of a run, sent on to another tool while `metrics.jsonl` stays the source of truth.

Each is its own extra and imported only when a recipe asks for it (`track: [tensorboard]`). The ids by which the tools
know a run are kept in its folder (`trackers.json`), so that a resumed run goes on with the same curves.
"""

from __future__ import annotations

import importlib
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from .errors import InputError
from .files import replace_synced

FILE = "trackers.json"

PROJECT = "nurture"
"""What the tools file our runs under."""


class Tracker(Protocol):
    """Takes the metrics of each step."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def open_trackers(
    names: Sequence[str], folder: Path, config: Mapping[str, Any], *, first_step: int = 1
) -> list[Tracker]:
    """The trackers of a run, by name. All of them are looked for before the first is opened. What a tool has of the run
    from `first_step` on (the steps after the checkpoint that a resumed run repeats) it is told anew."""
    modules = {name: _module(name) for name in names}
    return [OPENERS[name](modules[name], folder, config, first_step) for name in names]


def require_trackers(names: Sequence[str]) -> None:
    """Before anything is begun: every tracker that is asked for is installed."""
    for name in names:
        _module(name)


MODULES = {"tensorboard": "torch.utils.tensorboard", "trackio": "trackio", "wandb": "wandb", "mlflow": "mlflow"}


def _module(name: str) -> Any:
    try:
        return importlib.import_module(MODULES[name])
    except ImportError:
        remedy = f'pip install "nurture-llm[{name}]"'
        raise InputError(f"track: {name} is not installed; {remedy}, or leave it out.") from None


class TensorBoard:
    """Event files in the run folder: `tensorboard --logdir runs`."""

    def __init__(self, module: Any, folder: Path, config: Mapping[str, Any], first_step: int):
        self._writer = module.SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)
        if first_step == 1:
            self._writer.add_text("config", f"```json\n{json.dumps(config, indent=2)}\n```")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Wandb:
    def __init__(self, module: Any, folder: Path, config: Mapping[str, Any], first_step: int):
        self._run = module.init(
            project=PROJECT,
            name=folder.name,
            id=_remembered(folder, "wandb", secrets.token_hex(8)),
            dir=str(folder),
            config=dict(config),
            resume="allow",
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """Trackio knows a run by its name."""

    def __init__(self, module: Any, folder: Path, config: Mapping[str, Any], first_step: int):
        name = _remembered(folder, "trackio", f"{folder.name}-{secrets.token_hex(4)}")
        self._run = module.init(project=PROJECT, name=name, config=dict(config), resume="allow")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """Through the client, which leaves the process-wide "active run" of other code alone."""

    def __init__(self, module: Any, folder: Path, config: Mapping[str, Any], first_step: int):
        self._entities = importlib.import_module("mlflow.entities")
        self._client = module.MlflowClient()
        known = _read(folder).get("mlflow")
        if known:
            self._run_id = known
            self._client.update_run(known, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name(PROJECT)
        number = experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
        self._run_id = self._client.create_run(number, run_name=folder.name).info.run_id
        _remembered(folder, "mlflow", self._run_id)
        for key, value in config.items():
            self._client.log_param(self._run_id, key, value if isinstance(value, str) else json.dumps(value))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        # MLflow allows no other signs in a name than these; ours use letters, `_` and `/`.
        values = [self._entities.Metric(name, value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self._run_id, metrics=values)

    def close(self) -> None:
        self._client.set_terminated(self._run_id)


OPENERS = {"tensorboard": TensorBoard, "trackio": Trackio, "wandb": Wandb, "mlflow": MLflow}


def _remembered(folder: Path, name: str, fresh: str) -> str:
    """The id kept for a tracker, or this fresh one from now on."""
    known = _read(folder)
    if name not in known:
        known[name] = fresh
        replace_synced(folder / FILE, json.dumps(known, indent=2).encode())
    return known[name]


def _read(folder: Path) -> dict[str, str]:
    path = folder / FILE
    return json.loads(path.read_bytes()) if path.exists() else {}
