"""Models side by side: the page, the numbers beside it, and what a second run of the same recipe does."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file

from nurture.api import _dry_run
from nurture.compare import _labels, compare_models
from nurture.comparison_page import Trained, _training
from nurture.errors import InputError
from nurture.evaluate.answers import Graded
from nurture.evaluate.exam import Exam, Examined, steps
from nurture.models.load import lab_model
from nurture.recipe import load_recipe
from nurture.run import run_recipe

RECIPE = f"""
name: tiny
stages:
  reader:
    method: lm
    model:
      config: {{model_type: llama, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2}}
      tokenizer: {lab_model()}
    data: bundled/stories
    steps: 2
    samples: {{count: 1, max_tokens: 4}}
  answerer: {{method: sft, model: reader, data: lab/demonstrations, steps: 2, samples: {{count: 1, max_tokens: 4}}}}
compare: [reader, answerer]
compare_data: [lab/test, lab/prompts-test]
compare_tasks: 28
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    (folder / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(folder / "recipe.yaml")
    console = Console(record=True, width=120, force_terminal=False)
    run_recipe(recipe, folder / "out", console)
    return recipe, folder / "out", console.export_text()


def test_the_report_has_a_summary_of_each_model_and_their_differences(done):
    _, out, _ = done
    report = json.loads((out / "report.json").read_text())
    assert list(report["models"]) == ["reader", "answerer"] and report["seconds"] > 0
    for measured in report["models"].values():
        for of in ("overall", "helpful", "honest", "harmless"):
            assert set(measured[of]) == {"mean", "se", "n"} and measured[of]["n"] == 28
        assert len(measured["families"]) == 14
    assert report["differences"]["answerer"]["versus"] == "reader"
    (also,) = report["also"].values()
    assert report["data"] == "lab/test" and list(also["models"]) == list(report["models"])


def test_each_model_is_held_against_what_it_was_trained_from():
    graded = [Graded(family="sort", level=1, task=i, prompt="", response="", helpful=1, honest=1, harmless=1,
                     overall=1, declines=False, reason="") for i in range(3)]  # fmt: skip
    lab, sft, dpo, grpo, other = (
        Examined(name, graded, parent)
        for name, parent in (("lab", ""), ("sft", "lab"), ("dpo", "sft"), ("grpo", "sft"), ("other", "elsewhere"))
    )
    assert steps([lab, sft, dpo, grpo, other]) == [(lab, sft), (sft, dpo), (sft, grpo), (lab, other)]


def test_every_file_is_on_the_page_of_the_run_folder(done):
    recipe, out, _ = done
    page = Path("docs/run-folder.md").read_text()
    for path in out.rglob("*"):
        name = path.relative_to(out)
        inside = name.relative_to(name.parts[0]) if name.parts[0] in recipe.stages else name
        top = inside.parts[0] if inside.parts else ""
        known = {"checkpoints": "`checkpoints/", "model": "`model/`", "eval": "`eval/"}
        assert not top or known.get(top, f"`{top}`") in page, name


@pytest.mark.long
def test_a_long_comparison_is_not_taken_for_a_hanging_one(done, monkeypatch):
    """The launcher ends a rank that shows no sign of life; with each answer comes one."""
    recipe, out, _ = done
    beats: list[str] = []
    monkeypatch.setattr("nurture.run.heartbeat", lambda phase, step: beats.append(phase))
    for kept in (out / "eval").iterdir():
        kept.unlink()
    run_recipe(recipe, out, Console(quiet=True))
    assert beats.count("compare") > 2 * 2 * 28


def test_a_judge_that_cannot_be_asked_is_told_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.delenv("NURTURE_TEST_KEY", raising=False)
    judge = "{name: judge, url: 'http://127.0.0.1:1/v1', model: m, key_env: NURTURE_TEST_KEY}"
    late = f"  late: {{method: grpo, model: answerer, data: lab/prompts, reward: {judge}, steps: 1}}\ncompare:"
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("compare:", late))
    recipe, quiet = load_recipe(tmp_path / "recipe.yaml"), Console(quiet=True)
    for go in (lambda: run_recipe(recipe, tmp_path / "out", quiet), lambda: _dry_run(recipe, quiet)):
        with pytest.raises(InputError, match=r"^stages\.late\.reward: .*NURTURE_TEST_KEY"):
            go()
    assert not (tmp_path / "out").exists()


def test_a_misspelt_data_set_is_told_before_anything_is_trained(done, tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("lab/prompts-test", "lab/prompt-test"))
    with pytest.raises(InputError, match=r"Did you mean .lab/prompts-test."):
        run_recipe(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "out", Console(quiet=True))
    assert not (tmp_path / "out").exists()


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        assert not any(name in ("src", "href") or name.startswith("on") for name, _ in attrs)


def test_the_page_is_whole_and_needs_nothing_else(done):
    page = (done[1] / "report.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.seen and page.rstrip().endswith("</html>")
    assert page.count('class="sample"') == 14 and page.count("<rect") == 8 and page.count("<polyline") >= 2
    for family in ("unanswerable", "harmful", "followup"):
        assert family in page


def test_what_each_stage_cost_is_measured(done):
    """Against the folders themselves: the tensors that were trained, and the bytes on the disk."""
    recipe, out, shown = done
    told = json.loads((out / "report.json").read_text())["stages"]
    assert list(told) == list(recipe.stages)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count('<circle class="bar') == 2 and "What each stage cost" in page
    for name, cost in told.items():
        weights = out / name / "model" / "model.safetensors"
        assert cost["saved_bytes"] == weights.stat().st_size
        assert cost["trained_parameters"] == sum(t.numel() for t in load_file(weights).values())
        assert cost["peak_bytes"] > 1e8 and cost["seconds"] > 0
        assert f"{cost['trained_parameters']:,}" in page and f"{cost['trained_parameters']:,}" in shown
        assert cost["overall"] == json.loads((out / "report.json").read_text())["models"][name]["overall"]


def test_a_person_sees_table_and_answers(done):
    shown = done[2]
    assert re.search(r"overall +28 ", shown) and "answerer − reader" in shown
    assert "arithmetic" in shown and shown.count("╭") >= 7


@pytest.mark.long
def test_the_same_command_again_trains_and_answers_nothing(done, monkeypatch):
    recipe, out, _ = done

    def fail(*_, **__):
        raise AssertionError("answered again")

    monkeypatch.setattr("nurture.evaluate.exam.draw_answers", fail)
    console = Console(record=True, width=120)
    before = json.loads((out / "report.json").read_text())
    run_recipe(recipe, out, console)
    after = json.loads((out / "report.json").read_text())
    assert after["models"] == before["models"] and "is finished already" in console.export_text()


def test_a_model_is_named_once(done):
    model = str(done[1] / "reader" / "model")
    with pytest.raises(InputError, match="to be compared twice"):
        compare_models([model, model], None, Console(quiet=True), title="x", exams=[Exam(n=2)])


def test_folders_of_one_name_are_told_apart():
    names = ["runs/a/ppo/model", "lab", "ppo", "ppo/model", "./ppo", "b/ppo"]
    assert list(_labels(names, {"ppo": Path("x")})) == ["runs-a-ppo", "lab", "ppo", "ppo-2", "ppo-3", "b-ppo"]
    assert _labels(["old/sft/model", "ppo"], {"sft": Path("x"), "ppo": Path("y")})["old-sft"] == "old/sft/model"
    assert list(_labels(["a/sft/model", "sft"], {})) == ["sft", "sft-2"]
    assert list(_labels(["."], {})) == ["."]


def test_stages_that_learnt_from_their_own_answers_stand_side_by_side(tmp_path):
    """Where each began and ended, and what both judges said at each distance: the figures of over-optimisation."""
    stages = []
    for name, far in (("near", 1.0), ("far", 4.0), ("blind", None)):
        rows = [
            {
                "step": i + 1,
                "loss": 9.0,
                "rollout/score": 0.1 * i,
                "rollout/oracle": 0.5 - 0.01 * i,
                "rollout/length": 7.0,
            }
            | ({"rollout/kl": far * i / 50} if far else {})
            for i in range(40)
        ]
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        stages.append(Trained(name, "grpo", tmp_path / name))
    page = _training(stages)
    rows = re.findall(r"<tr><th>(\w+)</th>(.*?)</tr>", page)
    cells = {name: re.findall(r"<td>(.*?)</td>", told) for name, told in rows}
    assert cells["near"] == ["0.45 → 3.45", "0.455 → 0.155", "0.09 → 0.69", "7 → 7"]
    assert cells["far"][2] == "0.36 → 2.76" and cells["blind"][2] == "–"
    assert "loss" not in page and page.count("<figure>") == 3 + 2
    across = page[page.index("oracle over the distance") :]
    assert across.count("<polyline") == 2, "whose distance nobody measured has no curve"
    assert not _training([])
