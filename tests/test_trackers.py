"""Exporters: absent, they say how to get them; present, they hold the run's own numbers, also after a resumption."""

import importlib.util
import json

import pytest

from nurture.errors import InputError
from nurture.trackers import MODULES, OPENERS, open_trackers

CONFIG = {"method": "sft", "steps": 4, "model": "lab"}
PACKAGES = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb", "mlflow": "mlflow"}


def installed(name: str) -> bool:
    return importlib.util.find_spec(PACKAGES[name]) is not None


@pytest.mark.parametrize("name", PACKAGES)
def test_a_tracker_that_is_not_installed_names_its_extra_and_nothing_is_opened(tmp_path, name):
    if installed(name):
        pytest.skip(f"{name} is installed")
    with pytest.raises(InputError, match=rf'{name} is not installed; pip install "nurture-llm\[{name}\]"'):
        open_trackers([*[other for other in PACKAGES if installed(other)], name], tmp_path, CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_every_tracker_of_a_recipe_has_an_opener_and_an_extra():
    import tomllib
    from pathlib import Path
    from typing import get_args

    from nurture.recipe import Tracker

    extras = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert set(get_args(Tracker)) == set(OPENERS) == set(MODULES)
    assert set(get_args(Tracker)) <= set(extras["optional-dependencies"])


def test_none_asked_for_none_opened(tmp_path):
    assert open_trackers([], tmp_path, CONFIG) == []
    assert list(tmp_path.iterdir()) == []


def log_and_resume(name: str, folder, *, resumed_from: int = 2) -> None:
    """Steps 1 to 3, a crash after the checkpoint of step 2, then steps 3 and 4."""
    (tracker,) = open_trackers([name], folder, CONFIG)
    for step in (1, 2, 3):
        tracker.log(step, {"loss": 10.0 / step, "eval/loss": float(step)})
    tracker.close()
    (tracker,) = open_trackers([name], folder, CONFIG, first_step=resumed_from + 1)
    for step in (3, 4):
        tracker.log(step, {"loss": 10.0 / step, "eval/loss": float(step)})
    tracker.close()


def test_tensorboard_reads_back_the_curve_of_a_resumed_run(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_and_resume("tensorboard", tmp_path)
    reader = EventAccumulator(str(tmp_path / "tensorboard"))
    reader.Reload()
    assert set(reader.Tags()["scalars"]) == {"loss", "eval/loss"}
    curve = [(row.step, row.value) for row in reader.Scalars("loss")]
    assert [step for step, _ in curve] == [1, 2, 3, 4]
    assert [value for _, value in curve] == pytest.approx([10.0, 5.0, 10 / 3, 2.5])


def test_mlflow_reads_back_one_run_with_its_parameters(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    log_and_resume("mlflow", tmp_path)
    number = json.loads((tmp_path / "trackers.json").read_text())["mlflow"]
    client = mlflow.MlflowClient()
    run = client.get_run(number)
    assert run.info.status == "FINISHED" and run.data.params == {"method": "sft", "steps": "4", "model": "lab"}
    curve = {metric.step: metric.value for metric in client.get_metric_history(number, "eval/loss")}
    assert curve == {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}
    assert len(client.search_runs([run.info.experiment_id])) == 1


def test_wandb_keeps_one_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log_and_resume("wandb", tmp_path)
    number = json.loads((tmp_path / "trackers.json").read_text())["wandb"]
    folders = list((tmp_path / "wandb").glob("offline-run-*"))
    assert folders and all(folder.name.endswith(number) for folder in folders)


def test_trackio_keeps_one_run(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    log_and_resume("trackio", tmp_path)
    assert json.loads((tmp_path / "trackers.json").read_text())["trackio"].startswith(tmp_path.name)
