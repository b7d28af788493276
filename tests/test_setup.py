"""What is decided, and what is refused, before a run's first step; and that none of it writes a file."""

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from rich.console import Console

from nurture import run
from nurture import setup as setting_up
from nurture.data.batches import batches
from nurture.data.load import write_rejected
from nurture.data.template import CHATML
from nurture.errors import InputError, Interrupted
from nurture.models import load as loading
from nurture.models.load import train_tokenizer
from nurture.models.roles import LocalRoles
from nurture.models.save import save_model
from nurture.recipe import stage_from
from nurture.setup import describe, set_up
from nurture.train.lock import lock_run
from nurture.train.optim import AdamW
from nurture.train.processes import Processes
from nurture.types import Batch

MODEL = [
    f"model.config.{k}={v}"
    for k, v in {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256,
    }.items()
]  # fmt: skip
LLAMA = [*MODEL, "model.config.model_type=llama"]
GPT2 = ["model.config.n_embd=32", "model.config.n_layer=2", "model.config.n_head=4"]
FRESH = [*LLAMA, "model.tokenizer.vocab_size=300"]


def rows_file(path, count, bad=()):
    """Questions and answers; those of the numbers in `bad` have no answer."""
    with path.open("w") as file:
        for i in range(count):
            turns = [("user", f"What is {i} plus 1?"), ("assistant", f"It is {i + 1}.")][: 1 if i in bad else 2]
            file.write(json.dumps({"messages": [{"role": role, "content": said} for role, said in turns]}) + "\n")
    return path


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """A stage from words, in an empty working folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return lambda *words, method="sft": stage_from(method, ["device=cpu", "batch_size=4", *words])


def test_a_later_run_uses_the_tokens_of_an_earlier_one_and_says_so(tmp_path, stage, monkeypatch):
    path = rows_file(tmp_path / "rows.jsonl", 20)
    anew = set_up(stage(*FRESH, f"data={path}"), Processes())
    monkeypatch.setenv("NURTURE_CACHE", str(tmp_path / "cache"))
    first, again = (set_up(stage(*FRESH, f"data={path}"), Processes()) for _ in range(2))
    told = ["tokens from an earlier run" in describe(setup)["data"] for setup in (anew, first, again)]
    assert told == [False, False, True] and again.reports[0].to_json()["cached"]
    for setup in (first, again):
        assert [(g.key, g.prompt.tobytes(), g.responses[0].ids.tobytes(), g.responses[0].mask.tobytes())
                for g in setup.train] == [
            (g.key, g.prompt.tobytes(), g.responses[0].ids.tobytes(), g.responses[0].mask.tobytes())
            for g in anew.train
        ]  # fmt: skip
    rows_file(path, 21)
    assert "tokens from an earlier run" not in describe(set_up(stage(*FRESH, f"data={path}"), Processes()))["data"]


def test_rows_that_cannot_be_tokenised_come_back_with_those_that_cannot_be_read(tmp_path, stage):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"{i}?", "chosen": f"{i}.", "rejected": "No." if i != 7 else "7. "} for i in range(300)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    setup = set_up(stage(*FRESH, f"data={path}", "on_bad_row=quarantine", method="reward"), Processes())
    assert [(r.where, r.code) for r in setup.rejected] == [(f"{path}:301:2", "BAD_JSON"), (f"{path}:8", "EQUAL")]
    (report,) = setup.reports
    assert (report.rows, report.kept, report.rejected) == (301, 299, {"BAD_JSON": 1, "EQUAL": 1})
    assert json.loads(setup.rejected[1].raw) == rows[7] and len(setup.train) == 299


@pytest.mark.parametrize("held_out", [False, True])
def test_rows_set_aside_in_several_sources_come_back_together_and_nothing_is_written(tmp_path, stage, held_out):
    a, b = rows_file(tmp_path / "a.jsonl", 200, {3}), rows_file(tmp_path / "b.jsonl", 300, {0, 9})
    sources = [f"data={a}", f"eval.data={b}"] if held_out else [f"data=[{a},{b}]"]
    setup = set_up(stage(*FRESH, *sources, "on_bad_row=quarantine"), Processes())
    assert [(row.where, row.code) for row in setup.rejected] == [
        (f"{a}:4", "NO_ASSISTANT"), (f"{b}:1", "NO_ASSISTANT"), (f"{b}:10", "NO_ASSISTANT"),
    ]  # fmt: skip
    assert len(setup.train) + len(setup.held_out) == 497
    assert not list(Path.cwd().iterdir()) and sorted(p.name for p in tmp_path.iterdir()) == [
        "a.jsonl",
        "b.jsonl",
        "here",
    ]
    write_rejected(tmp_path / "rejected.jsonl", setup.rejected)
    written = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert [w["where"] for w in written] == [row.where for row in setup.rejected]
    assert [json.loads(w["raw"])["messages"][0]["content"] for w in written] == [
        "What is 3 plus 1?", "What is 0 plus 1?", "What is 9 plus 1?",
    ]  # fmt: skip


def test_without_bad_rows_nothing_is_set_aside(tmp_path, stage):
    assert set_up(stage(*FRESH, f"data={rows_file(tmp_path / 'a.jsonl', 20)}"), Processes()).rejected == []


def test_conversations_give_a_fresh_model_our_template_and_text_gives_it_none(tmp_path, stage):
    chat = rows_file(tmp_path / "chat.jsonl", 20)
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"{i} and 1 is {i + 1}."}) + "\n" for i in range(20)))
    plain = set_up(stage(*FRESH, f"data={text}", method="lm"), Processes())
    assert plain.loaded.tokenizer.chat_template is None
    model = tmp_path / "model"
    save_model(
        plain.loaded.model, plain.loaded.tokenizer, model, state=None, dtype=torch.float32, card="",
        original_dropout=None,
    )  # fmt: skip
    assert not (model / "chat_template.jinja").exists()
    for words in (FRESH, [f"model={model}"]):  # from nothing, and from what was pretrained on text
        made = set_up(stage(*words, f"data={chat}"), Processes())
        assert made.loaded.tokenizer.chat_template == CHATML
        assert made.loaded.new_tokens == () and made.template.has_markers
        assert made.trained_parameters == made.parameters


def test_a_tokenizer_that_would_be_read_otherwise_is_refused_before_training(tmp_path, stage, monkeypatch):
    from tokenizers import pre_tokenizers

    def other(texts, size):
        tokenizer = train_tokenizer(texts, size)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        return tokenizer

    monkeypatch.setattr(loading, "train_tokenizer", other)
    data = f"data={rows_file(tmp_path / 'a.jsonl', 20)}"
    set_up(stage(*FRESH, data), Processes())
    with pytest.raises(InputError, match=r"'qwen2' model.* with another pre_tokenizer"):
        set_up(stage(*FRESH, "model.config.model_type=qwen2", data), Processes())


def test_processes_on_one_machine_share_its_memory(tmp_path, stage, monkeypatch):
    asked = stage(*FRESH, f"data={rows_file(tmp_path / 'a.jsonl', 20)}")
    whole = set_up(asked, Processes())
    monkeypatch.setattr(setting_up, "total_bytes", lambda device: int(2.5 * whole.memory.total))

    class Four(Processes):
        world_size = 4

    alone, shared = set_up(asked, Processes()), set_up(asked, Four())
    assert alone.tokens_per_micro == whole.tokens_per_micro > shared.tokens_per_micro
    assert 4 * shared.memory.total <= setting_up.MEMORY_SHARE * 2.5 * whole.memory.total
    assert alone.memory == whole.memory


def test_a_place_where_no_run_folder_can_be_is_one_sentence(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for folder, reason in [
        (file, "it is a file"),
        (file / "run", "Not a directory"),
        (Path("/dev/null/run"), "Not a "),
    ]:
        message = rf"^{folder} cannot be a run folder \({reason}.*choose another"
        with pytest.raises(InputError, match=message), lock_run(folder):
            pass
    assert file.read_text() == "mine"


def test_sources_are_mixed_by_weight_and_cap(tmp_path, stage):
    a, b = rows_file(tmp_path / "a.jsonl", 40), rows_file(tmp_path / "b.jsonl", 10)
    plain = set_up(stage(*FRESH, f"data=[{a},{b}]"), Processes())
    assert plain.mixture is None and len(plain.train) == 50
    mixed = set_up(stage(*FRESH, f"data=[{{path: {a}, cap: 10}},{{path: {b}, weight: 3}}]"), Processes())
    # Rates 10 and 3 · 10 share the 20 places of an epoch: 5 rows of a, each row of b once or twice.
    counts = Counter(group.key.partition(":")[0] for group in mixed.first_epoch)
    assert counts == {"a.jsonl": 5, "b.jsonl": 15} and len({group.key for group in mixed.first_epoch}) == 15
    assert "75.0% of an epoch, 15 of its 10 rows" in setting_up.describe(mixed)["mixture"]


def test_every_epoch_of_a_mixture_takes_other_rows(tmp_path, stage):
    """Over four epochs each of the 40 rows of `a`, of which an epoch takes 10, comes once; each of `b` four times."""
    a, b = rows_file(tmp_path / "a.jsonl", 40), rows_file(tmp_path / "b.jsonl", 10)
    words = [f"data=[{{path: {a}, cap: 10}},{b}]", "epochs=4", "batch_size=8"]
    mixed = set_up(stage(*FRESH, *words), Processes())
    assert mixed.steps == 10 and len(mixed.shown) == 50
    made = batches(mixed.train, batch_size=8, seed=mixed.stage.seed, steps=10, mixture=mixed.mixture)
    keys = [group.key for batch in made for group in batch.groups]
    assert Counter(keys) == {f"a.jsonl:{i + 1}": 1 for i in range(40)} | {f"b.jsonl:{i + 1}": 4 for i in range(10)}
    for epoch in range(4):
        taken = Counter(key.partition(":")[0] for key in keys[20 * epoch : 20 * (epoch + 1)])
        assert taken == {"a.jsonl": 10, "b.jsonl": 10}
    once = set_up(stage(*FRESH, *words, "epochs=1"), Processes())
    assert {once.train[i].key for i in once.shown} == set(keys[:20]) | set(keys[20:24]) and once.steps == 3


def test_held_out_rows_are_no_part_of_a_mixture(tmp_path, stage):
    a, b = rows_file(tmp_path / "a.jsonl", 40), rows_file(tmp_path / "b.jsonl", 10)
    data = f"data=[{{path: {a}, cap: 10}},{{path: {b}, weight: 3}}]"
    mixed = set_up(stage(*FRESH, data, "eval.share=0.2", "steps=50"), Processes())
    held = [group.key for group in mixed.held_out]
    assert len(held) == len(set(held)) == 10  # a fifth of the 50 rows, each once
    trained = {mixed.train[i].key for i in mixed.shown}
    assert not trained & set(held) and len(mixed.train) == 40


def test_sources_are_levelled_by_a_temperature(tmp_path, stage):
    a, b = rows_file(tmp_path / "a.jsonl", 40), rows_file(tmp_path / "b.jsonl", 10)
    mixed = set_up(stage(*FRESH, f"data=[{a},{b}]", "mix_temperature=2.0"), Processes())
    # Rates √40 and √10, which is 2 to 1, share the 50 places of an epoch.
    assert Counter(group.key.partition(":")[0] for group in mixed.first_epoch) == {"a.jsonl": 33, "b.jsonl": 17}
    with pytest.raises(InputError, match="data is one source"):
        stage(*FRESH, f"data={a}", "mix_temperature=2.0")


def test_tasks_of_a_source_are_balanced(tmp_path, stage):
    names = ["sum"] * 30 + ["sort"] * 6 + [7] * 4
    rows = [{"instruction": f"Do {i}.", "output": f"It is {i + 1}.", "category": name} for i, name in enumerate(names)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f"data={{path: {path}, task_column: category, cap: 5}}"
    mixed = set_up(stage(*FRESH, source), Processes())
    tasks = Counter(names[int(group.key.partition(":")[2]) - 1] for group in mixed.first_epoch)
    assert tasks == {"sum": 5, "sort": 5, 7: 4}
    told = setting_up.describe(mixed)
    assert f"1. {path}, sum: 35.7% of an epoch, 5 of its 30 rows" in told["mixture"] and "ignored" not in told["data"]
    equal = set_up(stage(*FRESH, source, "mix_temperature=1e9"), Processes())
    counted = Counter(names[int(group.key.partition(":")[2]) - 1] for group in equal.first_epoch)
    assert sorted(counted.values()) == [4, 5, 5]
    again = set_up(stage(*FRESH, source), Processes())
    assert [group.key for group in again.first_epoch] == [group.key for group in mixed.first_epoch]


def test_tasks_of_prompts_are_balanced_and_a_row_without_one_is_named(tmp_path, stage):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"{i} + 1?", "answer": str(i + 1), "family": "ab"[i < 6]} for i in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [*FRESH, "reward=exact", "batch_size=2", "max_completion_length=8"]
    source = f"{{path: {path}, task_column: family, cap: 2}}"
    mixed = set_up(stage(*words, f"data={source}", method="grpo"), Processes())
    asked = [rows[int(group.key.rpartition(":")[2]) - 1] for group in mixed.first_epoch]
    assert Counter(row["family"] for row in asked) == {"a": 2, "b": 2}
    del rows[3]["family"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"rows\.jsonl:4 MISSING_FIELD has no 'family', the task_column"):
        set_up(stage(*words, f"data={source}", method="grpo"), Processes())


def test_evaluation_rows_are_not_mixed(tmp_path, stage):
    a = rows_file(tmp_path / "a.jsonl", 4)
    with pytest.raises(InputError, match="evaluation uses every row once"):
        stage(*FRESH, f"data={a}", f"eval.data={{path: {a}, cap: 2}}")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_dropout_drops_also_where_it_is_one_of_attention(tmp_path, stage, kind):
    """What a model says in training differs from time to time, and in evaluation does not."""
    rows = rows_file(tmp_path / "rows.jsonl", 20)
    model = LLAMA if kind == "llama" else ["model.config.model_type=gpt2", *GPT2]
    words = (*model, "model.tokenizer.vocab_size=300", f"data={rows}")
    with_it, without = set_up(stage(*words, "dropout=0.5"), Processes()), set_up(stage(*words), Processes())
    assert (without.layout.layout, with_it.layout.layout) == ("tree", "rows") and "0.5" in with_it.layout.reason
    for setup, same in ((without, True), (with_it, False)):
        setup.loaded.model.train()
        roles, batch = LocalRoles(setup.cast.models, setup.cast.layouts, AdamW([]), Processes()), Batch(setup.train[:4])
        for training in (True, False):
            setup.loaded.model.train(training)
            twice = [roles.score(batch, {"policy": ("logp",)}).policy.logp for _ in range(2)]
            assert torch.equal(*twice) == (same or not training)
    with pytest.raises(InputError, match=r"layout: tree is not exact for this model .*0\.5 drops"):
        set_up(stage(*words, "dropout=0.5", "layout=tree"), Processes())


def test_a_model_without_any_dropout_refuses_it(tmp_path, stage):
    mamba = ["model.config.model_type=mamba", "model.config.hidden_size=32", "model.config.num_hidden_layers=2"]
    words = (*mamba, "model.tokenizer.vocab_size=300", f"data={rows_file(tmp_path / 'rows.jsonl', 20)}")
    with pytest.raises(InputError, match="dropout: MambaForCausalLM has no dropout layers; leave dropout out"):
        set_up(stage(*words, "dropout=0.5"), Processes())


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)])
def test_a_signal_before_the_first_step_is_told_and_leaves_nothing(tmp_path, stage, monkeypatch, sent, code):
    settled = run._set_up_run

    def interrupted(*args):
        settled(*args)
        os.kill(os.getpid(), sent)
        time.sleep(100)

    known = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs do not have
    out, before = tmp_path / "run", [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    monkeypatch.setattr(run, "_set_up_run", interrupted)
    wanted = stage(*FRESH, f"data={rows_file(tmp_path / 'rows.jsonl', 20)}")
    try:
        with pytest.raises(Interrupted, match=r"Stopped before the first step of .*run; give the same command") as told:
            run.run_stage(wanted, out, Console(quiet=True))
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before
    finally:
        signal.signal(signal.SIGINT, known)
    assert told.value.exit_code == code and not out.exists()
