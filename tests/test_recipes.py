"""Every recipe we ship parses, and runs a few steps from end to end."""

import re
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console
from shorter import shorter

from nurture import api
from nurture.evaluate import exam, reward_card
from nurture.evaluate.answers import draw_answers as answers
from nurture.lab.datasets import DATASETS
from nurture.models.load import LAB
from nurture.recipe import load_recipe, to_yaml

RECIPES = sorted(Path("recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_parses_and_reads_back(path, tmp_path):
    recipe = load_recipe(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(to_yaml(recipe))
    assert load_recipe(copy) == recipe


LONG = ("adapters", "lab-base", "rlhf", "rest", "quickstart")
"""Many stages, or the whole corpus to read. (`test_quickstart.py` runs the quickstart.)"""


@pytest.fixture
def few_tasks(monkeypatch):
    """The lab's data sets, shorter, fewer questions to a reward model, and shorter answers in an exam."""
    sizes = {name: 112 for name in DATASETS if name not in ("lab/corpus", "lab/test")}
    monkeypatch.setattr(reward_card, "lab_agreement", partial(reward_card.lab_agreement, tasks=28))
    monkeypatch.setattr(exam, "draw_answers", lambda *asked, **how: answers(*asked, **how | {"max_tokens": 8}))
    with shorter(sizes | {"lab/prompts": 28, "lab/reasoning": 28}):
        yield


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow if path.stem in LONG else pytest.mark.long) for path in RECIPES],
    ids=lambda p: p.stem,
)
@pytest.mark.usefixtures("few_tasks")
def test_runs_a_few_steps(path, tmp_path):
    stages = load_recipe(path).stages
    if any(stage.model == "lab" for stage in stages.values()) and not (LAB / "model.safetensors").exists():
        pytest.skip("the lab's base model has no weights here")
    # (`steps` stands in for the recipe's own epochs, and a model of two steps has no answer above a threshold.)
    text = "".join(line for line in path.read_text().splitlines(True) if "epochs:" not in line)
    text = re.sub(r"above: [\d.]+", "above: -1", text).replace("max_completion_length: 96", "max_completion_length: 8")
    text = text.replace("{name: lab, labeller: careful}", "{name: regex, pattern: e}")
    text = text.replace("keep: pairs", "keep: pairs, reward: {name: regex, pattern: e}")
    short = tmp_path / path.name
    short.write_text(text)
    words = [f"stages.{name}.{word}" for name in stages for word in ("steps=2", "batch_size=4", "samples.max_tokens=4")]
    words += ["compare_tasks=14"] if load_recipe(path).compare else []
    models = api.run(short, words, tmp_path / "run", console=Console(quiet=True))
    assert list(models) == list(stages)
    for name, model in models.items():
        assert (model / "model.safetensors").exists() or (model / "adapter_model.safetensors").exists()
        assert (tmp_path / "run" / name / "report.html").exists()
    again = api.run(short, words, tmp_path / "run", console=Console(quiet=True))
    assert again == models


@pytest.mark.usefixtures("few_tasks")
@pytest.mark.parametrize("name", ["rlhf", "rest", "r1", "reward", "quickstart", "adapters"])
def test_a_dry_run_goes_through_every_stage(name, tmp_path, monkeypatch, capsys):
    """Also those that are judged, shown or drawn from by a stage that is not trained yet; and nothing is written."""
    if not (LAB / "model.safetensors").exists():
        pytest.skip("the lab's base model has no weights here")
    recipe = Path(f"recipes/{name}.yaml").resolve()
    monkeypatch.chdir(tmp_path)
    assert api.run(recipe, dry_run=True, console=Console(width=200)) == {}
    told = capsys.readouterr().out
    assert all(f"stage {stage} of {name}" in told for stage in load_recipe(recipe).stages)
    assert not list(tmp_path.iterdir())
