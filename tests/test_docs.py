"""What the pages say can be typed: every command in them parses, every file and link they name exists."""

import argparse
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nurture.cli import app
from nurture.methods import METHODS
from nurture.recipe import load_recipe, method_class, stage_from, take
from nurture.runs import METRICS

PAGES = [Path("README.md"), *sorted(Path("docs").rglob("*.md")), Path("benchmarks/README.md")]
COMMANDS = sorted(
    {
        (page.name, re.split(r" {2,}| · ", line.strip())[0].partition("#")[0].strip())
        for page in PAGES
        for block in re.findall(r"```\w*\n(.*?)```", page.read_text(), re.DOTALL)
        for line in block.splitlines()
        if line.strip().startswith("nurture ")
    }
)


@pytest.mark.parametrize("page, command", COMMANDS, ids=lambda x: str(x)[:60])
def test_a_command_of_the_pages_parses(page, command):
    name, *words = shlex.split(command)[1:]
    group = name in {group.name for group in app.registered_groups}
    shown = CliRunner().invoke(app, [name, *words[:1], "--help"] if group else [name, "--help"])
    assert shown.exit_code == 0, f"{page}: nurture {name} is no command"
    for option in (w for w in words if w.startswith("--")):
        assert option in shown.output, f"{page}: {command}: {option}"
    settings = [w for w in words if re.fullmatch(r"[\w.]+=[^…]+", w)]
    if name == "train" and words[0] in METHODS and settings:
        _, settings = take(settings, "out")
        _, settings = take(settings, "fresh")
        stage_from(words[0], settings)


BENCHMARKS = sorted(
    {
        (name, arguments.strip())
        for page in PAGES
        for name, arguments in re.findall(
            r"(?:python -m benchmarks\.(?=\w)|`(?=\w+ --))(\w+)( [^`#\n]*)?[`#\n]", page.read_text()
        )
        if (file := Path(f"benchmarks/{name}.py")).exists()
        and (arguments.strip() or "parse_args" in file.read_text())  # what takes none would run
    }
)


class Parsed(Exception):
    """A benchmark has understood its arguments."""


@pytest.mark.filterwarnings("ignore:.*found in sys.modules after import:RuntimeWarning")
@pytest.mark.parametrize("name, arguments", BENCHMARKS)
def test_a_benchmark_of_the_pages_parses(name, arguments, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def stop(parser, *given):
        parse(parser, *given)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.setattr(sys, "argv", [name, *shlex.split(arguments)])
    with pytest.raises(Parsed):
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_files_of_ours_that_are_named_exist(page):
    for name in re.findall(r"`((?:src|tests|docs|recipes|benchmarks)/[\w./-]+)", page.read_text()):
        if not name.startswith("benchmarks/out/"):  # what a benchmark writes
            assert Path(name).exists(), f"{page}: {name}"


EXPLAINED = {
    **{name: f"methods/{name}.md" for name in ("ppo", "grpo", "distill")},
    "rloo": "methods/grpo.md", "reinforce++": "methods/grpo.md", "sft": "methods/rest.md",
    "nurture.control.dqn:DQN": "control.md",
}  # fmt: skip


@pytest.mark.parametrize("name", EXPLAINED)
def test_the_page_of_a_method_explains_each_metric_it_logs(name):
    page = Path("docs", EXPLAINED[name]).read_text()
    of_rollouts = {metric for metric in METRICS if metric.startswith("rollout/")}
    of_critics = {"rollout/explained_variance"}
    general = {"ppo": of_critics, "grpo": of_rollouts - of_critics}.get(name, set())  # whose page the other one names
    told = set(re.findall(r"`([\w/]+)`", page))
    assert not {*method_class(name).metrics, *general} - told


def test_the_recipe_of_its_page_is_one(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", Path("docs/recipes.md").read_text(), re.DOTALL)
    (tmp_path / "assistant.yaml").write_text(text)
    stages = load_recipe(tmp_path / "assistant.yaml").stages
    first, second = stages["judge"], stages["judge-2"]
    assert second.seed == 1 and second == first.model_copy(update={"seed": 1})
    assert {path.name for path in Path("recipes").glob("*.yaml")} - set(
        re.findall(r"\[`([\w-]+\.yaml)`\]", Path("docs/recipes.md").read_text())
    ) == {"demo.yaml"}
