"""Whole runs in which a model learns from another one: on one base, from a copy, stopped and resumed, refused."""

import math
import shutil

import pytest
import torch
from adapted import CARD, CPU, SHAPE
from families import scale_up
from rewound import rewound
from rich.console import Console
from shorter import shorter

from nurture.errors import InputError
from nurture.export import export
from nurture.models.load import LAB, load_model
from nurture.models.save import save_model
from nurture.recipe import config_digest, load_recipe, load_stage, stage_from
from nurture.run import run_stage
from nurture.runs import rows_of

QUIET = Console(quiet=True)
SHORT = ("data=lab/demonstrations", "precision=fp32", "warmup=0", "samples.count=0", "device=cpu", "batch_size=4")
LORA = "adapter={name: lora, r: 4}"
FEW = {"lab/demonstrations": 24, "lab/ratings": 24}


@pytest.fixture(autouse=True)
def few_rows():
    with shorter(FEW):
        yield


def random_model(folder, seed=0, tokenizer=str(LAB), **shape):
    config = {"model_type": "qwen2", **SHAPE, **shape}
    spec = {"config": config, "tokenizer": tokenizer}
    made = load_model(spec, dtype=torch.float32, device=CPU, seed=seed, texts=["one two three"] * 9)
    scale_up(made.model, 2.0)
    save_model(made.model, made.tokenizer, folder, state=None, dtype=torch.float32, card=CARD, original_dropout=None)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random model with the lab's tokenizer, in a folder."""
    return random_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def teacher(base, tmp_path_factory):
    """An adapter on the base that has learnt something."""
    with shorter(FEW):
        return run("sft", base, tmp_path_factory.mktemp("teacher"), LORA, "steps=6", "learning_rate=2e-2")[0]


def run(method, model, out, *words):
    folder = run_stage(stage_from(method, [f"model={model}", *SHORT, *words]), out, QUIET)
    return folder, list(rows_of(out / "metrics.jsonl"))


def facts(out):
    return next(event for event in rows_of(out / "events.jsonl") if event["event"] == "start")


@pytest.mark.long
def test_an_adapter_on_the_same_base_teaches_as_a_model_of_its_own(base, teacher, tmp_path):
    merged = export(str(teacher), tmp_path / "merged", merged=True).folder
    words = (LORA, "steps=8", "learning_rate=1e-2", "eval.share=0.2")
    _, shared = run("distill", base, tmp_path / "shared", *words, f"teacher={teacher}")
    _, apart = run("distill", base, tmp_path / "apart", *words, f"teacher={merged}")
    assert "a second adapter on the student's base" in facts(tmp_path / "shared")["teacher"]
    assert "a model of its own" in facts(tmp_path / "apart")["teacher"]
    for one, other in zip(shared, apart, strict=True):
        assert one["divergence"] == pytest.approx(other["divergence"], rel=1e-3, abs=1e-6)
    assert shared[-1]["divergence"] < 0.6 * shared[0]["divergence"]
    assert shared[-1]["eval/perplexity"] == pytest.approx(math.exp(shared[-1]["eval/nll"]))
    assert shared[0]["loss"] == shared[0]["divergence"]
    kept = sorted(path.name for path in (tmp_path / "shared" / "model").iterdir())
    assert "adapter_model.safetensors" in kept and "teacher" not in kept, "the student is what is saved"


@pytest.mark.long
@pytest.mark.parametrize("adapter", [LORA, "adapter=full"], ids=["lora", "full"])
def test_it_resumes_byte_for_byte(base, teacher, tmp_path, adapter):
    words = (adapter, "steps=4", "checkpoint.every=2", "learning_rate=1e-2", f"teacher={teacher}", "dropout=0.1")
    run("distill", base, tmp_path / "whole", *words)
    again = rewound(tmp_path / "whole", tmp_path / "again", 2)
    run("distill", base, again, *words)
    weights = "model.safetensors" if adapter == "adapter=full" else "adapter_model.safetensors"
    for file in ("metrics.jsonl", f"model/{weights}"):
        assert (again / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


@pytest.mark.long
def test_another_teacher_under_the_same_name_is_no_resumption(base, teacher, tmp_path):
    own = tmp_path / "teacher"
    shutil.copytree(teacher, own)
    words = (LORA, "steps=4", "checkpoint.every=2", f"teacher={own}")
    run("distill", base, tmp_path / "run", *words)
    other, _ = run("sft", base, tmp_path / "other", LORA, "steps=1", "learning_rate=2e-2")
    shutil.copy(other / "adapter_model.safetensors", own)
    with pytest.raises(InputError, match="was made from other data or another model"):
        run("distill", base, tmp_path / "run", *words)
    again = rewound(tmp_path / "run", tmp_path / "again", 2)
    with pytest.raises(InputError, match="teacher"):
        run("distill", base, again, *words)


def test_a_teacher_of_another_shape(base, tmp_path):
    """Wider, deeper, and with a table filled up further."""
    big = random_model(tmp_path / "big", seed=1, hidden_size=64, intermediate_size=96, num_hidden_layers=3)
    _, rows = run("distill", base, tmp_path / "run", "steps=8", "learning_rate=1e-2", f"teacher={big}")
    assert rows[-1]["divergence"] < rows[0]["divergence"]


def test_what_the_stage_must_say(tmp_path):
    with pytest.raises(InputError, match="teacher is missing: method 'distill' learns from what another model says"):
        stage_from("distill")
    with pytest.raises(InputError, match="teacher is set, but method 'sft' has no teacher; take it out"):
        stage_from("sft", ["teacher=lab"])
    with pytest.raises(InputError, match="ref is set, but method 'distill' has no reference"):
        stage_from("distill", ["teacher=lab", "ref=lab"])
    stage = stage_from("distill", ["teacher=some/model", "divergence=jsd", "beta=0.1"])
    assert (stage.learning_rate, stage.teacher, stage.has_reference) == (5e-4, "some/model", False)
    assert config_digest(stage) != config_digest(stage_from("distill", ["teacher=other", "divergence=jsd", "beta=0.1"]))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: x\nstages:\n  a: {method: distill, teacher: b}\n  b: {method: sft}\n")
    with pytest.raises(InputError, match=r"stages\.a\.teacher names 'b', which comes later"):
        load_recipe(recipe)
    assert "teacher" not in stage_from("sft").model_dump()


def test_a_teacher_that_cannot_teach_is_refused(base, teacher, tmp_path):
    def refused(match, *words, model=base):
        with pytest.raises(InputError, match=match):
            run("distill", model, tmp_path / "run", "steps=1", *words)
        assert not (tmp_path / "run").exists()

    other = random_model(tmp_path / "other", tokenizer={"vocab_size": 300})
    refused("other has another vocabulary than the model; a teacher must read the same tokens", f"teacher={other}")
    refused("is the model itself, which has nothing to learn from it", f"teacher={base}", LORA)
    short = random_model(tmp_path / "short", max_position_embeddings=24)
    refused(r"reads 24 tokens and the longest row has \d+; set max_length: 24", f"teacher={short}")
    refused("nobody' is no stage of this recipe and no folder", "teacher=./nobody")
    judge, _ = run("reward", base, tmp_path / "judge", LORA, "data=lab/ratings", "steps=1")
    refused("is a reward model, which scores texts and cannot write any", f"teacher={judge}", LORA)
    known = load_model(base, dtype=torch.float32, device=CPU, seed=0)
    known.model.resize_token_embeddings(known.model.config.vocab_size + 7)
    padded = tmp_path / "padded"
    save_model(known.model, known.tokenizer, padded, state=None, dtype=torch.float32, card=CARD, original_dropout=None)
    told = r"has logits for \d+ tokens and the model for \d+; take a teacher with more"
    refused(told, f"teacher={base}", model=padded)
    _, rows = run("distill", base, tmp_path / "fine", "steps=1", f"teacher={padded}")
    assert rows[0]["divergence"] == pytest.approx(0, abs=1e-6), "which is the same model but for its table"


def test_a_model_may_hold_on_to_itself(base, tmp_path):
    """With `sft_coef` the teacher may be the start: it learns the answers and stays near what it was."""
    words = ("steps=6", "learning_rate=1e-2", f"teacher={base}", LORA, "sft_coef=1.0")
    _, rows = run("distill", base, tmp_path / "run", *words)
    assert rows[0]["divergence"] == pytest.approx(0, abs=1e-6) and rows[-1]["divergence"] > 0
    assert rows[0]["loss"] == pytest.approx(rows[0]["nll"], abs=1e-5)
    assert load_stage(tmp_path / "run" / "config.yaml").teacher == str(base)


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_it_learns_on_answers_that_were_drawn(base, teacher, tmp_path, who):
    """The teacher's (Kim and Rush 2016), or the student's own, as GKD has it."""
    answers = {"teacher": teacher, "student": base}[who]
    draw = f"draw: {{model: {answers}, n: 2, tasks: 6, keep: all, max_completion_length: 6}}"
    words = (f"data={{path: lab/prompts, {draw}}}", LORA, "steps=6", "learning_rate=1e-2", f"teacher={teacher}")
    _, rows = run("distill", base, tmp_path / "run", *words)
    assert rows[-1]["divergence"] < rows[0]["divergence"]
    assert (tmp_path / "run" / "drawn-0.jsonl").exists()
