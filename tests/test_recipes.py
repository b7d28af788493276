"""Every recipe we ship parses, and runs a few steps from end to end."""

from pathlib import Path

import pytest
from rich.console import Console

from nurture import api
from nurture.models.load import LAB
from nurture.recipe import load_recipe, to_yaml

RECIPES = sorted(Path("recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_parses_and_reads_back(path, tmp_path):
    recipe = load_recipe(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(to_yaml(recipe))
    assert load_recipe(copy) == recipe


LONG = ("adapters", "lab-base")
"""Many stages, or the whole corpus to read."""


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] * (path.stem in LONG)) for path in RECIPES],
    ids=lambda p: p.stem,
)
def test_runs_a_few_steps(path, tmp_path):
    stages = load_recipe(path).stages
    if any(stage.model == "lab" for stage in stages.values()) and not (LAB / "model.safetensors").exists():
        pytest.skip("the lab's base model has no weights here")
    # (`steps` stands in for the recipe's own epochs.)
    text = "".join(line for line in path.read_text().splitlines(True) if "epochs:" not in line)
    short = tmp_path / path.name
    short.write_text(text)
    words = [f"stages.{name}.{word}" for name in stages for word in ("steps=2", "samples.max_tokens=4")]
    words += ["compare_tasks=14"] if load_recipe(path).compare else []
    models = api.run(short, words, tmp_path / "run", console=Console(quiet=True))
    assert list(models) == list(stages)
    for name, model in models.items():
        assert (model / "model.safetensors").exists() or (model / "adapter_model.safetensors").exists()
        assert (tmp_path / "run" / name / "report.html").exists()
    again = api.run(short, words, tmp_path / "run", console=Console(quiet=True))
    assert again == models
