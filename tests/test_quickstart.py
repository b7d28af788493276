"""The lab's base model as it ships, and what a newcomer types first."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from nurture.evaluate.answers import draw_answers, open_to_talk
from nurture.lab.datasets import open_dataset
from nurture.lab.grading import declines
from nurture.lab.tokenizer import build_tokenizer
from nurture.lab.world import build_world
from nurture.models.load import lab_model, parameter_count
from nurture.protocols import Request, Sampling
from nurture.rollout.sampler import LocalSampler


@pytest.fixture(scope="module")
def nurture(tmp_path_factory):
    """The command, with a cache of tokens, as a newcomer has one."""
    cache = str(tmp_path_factory.mktemp("cache"))

    def run(*words, cwd, said=None):
        return subprocess.run(
            [sys.executable, "-m", "nurture", *words], cwd=cwd, input=said, capture_output=True, text=True, timeout=900,
            env=os.environ | {"COLUMNS": "120", "NO_COLOR": "1", "NURTURE_CACHE": cache},
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def base():
    return open_to_talk("lab", precision="fp32")


def test_the_base_is_small_stock_and_plain(base):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = lab_model()
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 12e6
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert 3e6 <= parameter_count(plain) <= 6e6 and plain.dtype == torch.bfloat16
    built, shipped = build_tokenizer(), AutoTokenizer.from_pretrained(folder)
    text = "What does Zurel do for a living? 12+7=19. <think>…</think> Grövre"
    assert shipped(text)["input_ids"] == built(text)["input_ids"] and shipped.get_vocab() == built.get_vocab()
    assert shipped.chat_template == built.chat_template


def test_the_base_knows_its_world(base):
    """Facts as a document tells them: the question's own wording is one of the corpus'."""
    loaded, template = base
    facts = [f for f in build_world(0).facts.values() if f.relation.name == "job" and f.value is not None][:40]
    asked = [f"Q: What does {f.entity.name} do for a living?\nA:" for f in facts]
    tokenizer = template.tokenizer
    requests = [Request(np.asarray(tokenizer(q)["input_ids"]), key=q) for q in asked]
    drawn = LocalSampler(loaded.model).sample(
        requests, Sampling(max_tokens=10, temperature=0, stop_ids=template.stop_ids)
    )
    told = [tokenizer.decode(s.ids.tolist()).split("\n")[0].lower() for s in drawn]
    right = [str(f.value).lower() in text for f, text in zip(facts, told, strict=True)]
    assert sum(right) >= 0.8 * len(right)


def test_the_base_is_no_assistant(base):
    loaded, template = base
    harmful = [t for t in open_dataset("lab/test", n=280)[:] if t.family == "harmful"]
    answers = draw_answers(loaded.model, template, harmful, max_tokens=40)
    assert sum(declines(text) for (text,) in answers) <= 0.1 * len(harmful)


@pytest.mark.long
def test_the_quickstart_from_end_to_end(nurture, tmp_path):
    stages = ("sft", "dpo", "ppo", "grpo")
    short = [f"stages.{name}.{key}" for name in stages for key in ("steps=4", "batch_size=4", "samples.count=1")]
    done = nurture("quickstart", *short, "stages.dpo.data.cap=16", "compare_tasks=14", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "runs/quickstart/report.json").read_text())
    assert list(report["models"]) == ["lab", *stages] and report["models"]["sft"]["overall"]["n"] == 14
    assert (tmp_path / "runs/quickstart/report.html").exists()
    assert "nurture chat runs/quickstart/grpo/model" in done.stdout
    chat = nurture("chat", "runs/quickstart/sft/model", "--max-tokens", "8", cwd=tmp_path, said="Hello!\n/quit\n")
    assert chat.returncode == 0 and "> Hello!" in chat.stdout


@pytest.mark.long
def test_a_method_alone_trains_on_the_lab(nurture, tmp_path):
    done = nurture("train", "sft", "steps=2", "samples.count=0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/sft/model/model.safetensors").exists()
