"""Recipes: what is written is what is read, and what cannot be read is told in one sentence."""

import json
import math
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nurture.errors import InputError
from nurture.methods import METHODS, SFT
from nurture.recipe import (
    ALSO_CALLED,
    DIGEST_IGNORES,
    SECTIONS,
    FreshModel,
    Recipe,
    Stage,
    config_digest,
    diff,
    json_schema,
    load_recipe,
    load_stage,
    own_fields,
    stage_from,
    take,
    to_yaml,
)
from nurture.yaml12 import read_yaml

TWO_STAGES = """\
name: demo
stages:
  sft:
    method: sft
    train_on: last
    model: some/model
    data: rows.jsonl
    learning_rate: 1e-4
  more: {method: lm, model: sft, data: [a.jsonl, {path: b.jsonl, format: text}]}
compare: [lab, sft, more]
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_recipe(written(tmp_path, text), overrides)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{tmp_path}/", "")


def refused_words(*words: str) -> str:
    with pytest.raises(InputError) as caught:
        stage_from("sft", words)
    return str(caught.value)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_recipe_reads_its_stages_in_order_with_the_fields_of_the_method_beside_them(tmp_path):
    recipe = load_recipe(written(tmp_path, TWO_STAGES))
    assert list(recipe.stages) == ["sft", "more"]
    assert recipe.stages["sft"].method == SFT(train_on="last")
    assert recipe.stages["sft"].learning_rate == 1e-4
    assert [source.path for source in recipe.stages["more"].data] == ["a.jsonl", "b.jsonl"]
    assert recipe.stages["more"].data[1].format == "text"


def test_overrides_reach_any_depth_and_replace_what_is_there(tmp_path):
    words = ["stages.sft.model.config.model_type=qwen2", "stages.sft.model.config.hidden_size=64"]
    words += ["stages.sft.model.tokenizer.vocab_size=512", "stages.sft.train_on=all", "stages.more.checkpoint.every=5"]
    recipe = load_recipe(written(tmp_path, TWO_STAGES), words)
    model = recipe.stages["sft"].model
    assert isinstance(model, FreshModel)
    assert model.config == {"model_type": "qwen2", "hidden_size": 64}
    assert not isinstance(model.tokenizer, str) and model.tokenizer.vocab_size == 512
    assert recipe.stages["sft"].method == SFT(train_on="all")
    assert recipe.stages["more"].checkpoint.every == 5


@pytest.mark.parametrize(
    ("word", "value"),
    [("1e-4", 1e-4), ("1E3", 1000.0), ("2.", 2.0), (".5", 0.5), ("5", 5.0), ("0.1e+1", 1.0)],
)
def test_numbers_are_those_people_write(word, value):
    assert stage_from("sft", ["data=x", f"learning_rate={word}"]).learning_rate == value


def test_words_of_yaml_1_1_are_only_words(tmp_path):
    """In YAML 1.1 these are false, 8, a date and 90."""
    path = written(tmp_path, "a: no\nb: 010\nc: 2024-01-01\nd: 1:30\ne: true\nf: ~\ng: 0x10\nh: -.inf\ni: '5'\n")
    value = read_yaml(path).value
    assert value == {
        "a": "no",
        "b": 10,
        "c": "2024-01-01",
        "d": "1:30",
        "e": True,
        "f": None,
        "g": "0x10",
        "h": -math.inf,
        "i": "5",
    }


def test_take_takes_the_last_word_and_leaves_the_others():
    assert take(["a=1", "out=x", "b=2", "out=y=z"], "out") == ("y=z", ["a=1", "b=2"])
    assert take(["a=1"], "out") == (None, ["a=1"])
    assert take(["outer=1"], "out") == (None, ["outer=1"])


def test_a_method_of_ones_own_joins_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "mine_for_recipe_test.py").write_text(
        "from nurture.methods import SFT\nclass Mine(SFT):\n    'Mine.'\n    strength: float = 1.5\n    'How strong.'\n"
        "class Clashing(SFT):\n    steps: int = 3\nclass Other: pass\n"
    )
    monkeypatch.chdir(tmp_path)
    stage = stage_from("mine_for_recipe_test:Mine", ["data=x", "strength=2.5", "train_on=all"])
    assert type(stage.method).__name__ == "Mine"
    assert stage.method.model_dump() == {"name": "sft", "train_on": "all", "strength": 2.5}
    (tmp_path / "config.yaml").write_text(to_yaml(stage))
    assert load_stage(tmp_path / "config.yaml") == stage
    for name, fault in [
        ("mine_for_recipe_test:Nine", "has no 'Nine'. Did you mean 'Mine'?"),
        ("mine_for_recipe_test:Other", "names no subclass of nurture.methods.Method"),
        ("mine_for_recipe_test:Clashing", "its field 'steps' is also a field of every stage"),
        ("not_there_at_all:Mine", "no module named 'not_there_at_all'"),
    ]:
        with pytest.raises(InputError, match=re.escape(fault)):
            stage_from(name, ["data=x"])


def test_the_learning_rate_is_the_methods_own_where_none_is_given(tmp_path, monkeypatch):
    (tmp_path / "rate_for_recipe_test.py").write_text(
        "from typing import ClassVar\nfrom nurture.methods import SFT\n"
        "class Fast(SFT):\n    default_learning_rate: ClassVar[float] = 0.5\n"
    )
    monkeypatch.chdir(tmp_path)
    assert stage_from("rate_for_recipe_test:Fast", ["data=x", "model=y"]).learning_rate == 0.5
    assert stage_from("rate_for_recipe_test:Fast", ["data=x", "learning_rate=0.25"]).learning_rate == 0.25


def test_an_adapter_that_learns_on_keeps_the_learning_rate_of_its_kind(tmp_path):
    """A folder by what it says of itself, an earlier stage by what it declares."""
    fresh = stage_from("sft", ["data=x", "model=y", "adapter=lora"]).learning_rate
    assert fresh == 10 * stage_from("sft", ["data=x", "model=y"]).learning_rate
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert stage_from("sft", ["data=x", f"model={tmp_path}"]).learning_rate == fresh
    assert stage_from("sft", ["data=x", f"model={tmp_path}", "learning_rate=0.25"]).learning_rate == 0.25
    path = tmp_path / "two.yaml"
    path.write_text(
        "name: two\nstages:\n  a: {method: sft, model: y, data: x, adapter: {name: lora, r: 4}}\n"
        "  b: {method: sft, model: a, data: x}\n  c: {method: sft, model: b, data: x}\n"
        "  d: {method: sft, model: c, data: x, learning_rate: 0.5}\n"
    )
    stages = load_recipe(path).stages
    assert [stages[name].learning_rate for name in "abcd"] == [fresh, fresh, fresh, 0.5]
    path.write_text(f"name: two\nstages:\n  a: {{method: sft, model: {tmp_path}, data: x}}\n"
                    "  b: {method: sft, model: a, data: x}\n")  # fmt: skip
    assert [stage.learning_rate for stage in load_recipe(path).stages.values()] == [fresh, fresh]
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "PREFIX_TUNING"}')
    (tmp_path / "nurture_adapter.json").write_text('{"adapter": {"name": "ptuning_v2"}}')
    new = stage_from("sft", ["data=x", "model=y", "adapter=ptuning_v2"]).learning_rate
    assert stage_from("sft", ["data=x", f"model={tmp_path}"]).learning_rate == new


# --- refusing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("learning_rat: 1", "sft.learning_rat is not a field of a stage or of 'sft'. Did you mean 'learning_rate'?"),
        ("lr: 1", "sft.lr is not a field of a stage or of 'sft'. Here it is called 'learning_rate'."),
        ("train_onn: last", "sft.train_onn is not a field of a stage or of 'sft'. Did you mean 'train_on'?"),
        ("train_on: lst", "sft.train_on must be 'assistant', 'last' or 'all', not 'lst'. Did you mean 'last'?"),
        ("checkpoint: {evry: 5}", "sft.checkpoint.evry is not a field of checkpoint. Did you mean 'every'?"),
        ("steps: ten", "sft.steps must be a valid integer, not 'ten'."),
        ("steps: 0", "sft.steps must be greater than or equal to 1, not 0."),
        ("batch_size: true", "sft.batch_size must be a valid integer, not true."),
        ("batch_size: 1.5", "sft.batch_size must be a valid integer, not 1.5."),
        ("gradient_checkpointing: 1", "sft.gradient_checkpointing must be a valid boolean, not 1."),
        ("dropout: 1.0", "sft.dropout must be less than 1, not 1.0."),
        ("eval: 5", "sft.eval must be a mapping of keys to values, not 5."),
        ("eval: {data: x, share: 0.1}", "sft.eval: data and share are both set; keep the one"),
        ("eval: {every: 5}", "sft.eval: every is set but there is nothing to evaluate on"),
        ("checkpoint: {keep: 1}", "sft.checkpoint.keep must be greater than or equal to 2, not 1."),
        ("model: {config: {}, tokenizer: x}", "sft.model.config must name its architecture in 'model_type'"),
        ("model: {config: {model_type: qwen2}}", "sft.model.tokenizer is missing."),
        ("model: 5", "sft.model must be the name of a model"),
        ("track: [wandbb]", "not 'wandbb'. Did you mean 'wandb'?"),
        ("schedule:", "sft.schedule must be 'cosine', 'linear' or 'constant', not empty."),
    ],
)
def test_a_wrong_field_is_told_with_its_line_its_path_and_what_to_do(tmp_path, line, told):
    text = f"name: demo\nstages:\n  sft:\n    method: sft\n    data: rows.jsonl\n    {line}\n"
    message = refused(tmp_path, text)
    assert message.startswith("recipe.yaml:6: stages.sft.") and told in message
    assert "\n" not in message and message.endswith((".", "?"))


def test_every_fault_is_told_at_once_each_on_its_own_line(tmp_path):
    stages = "  a: {method: sft, data: x, stpes: 3}\n  b: {method: sftt, data: x, beta: 1}\n  c: {data: x}\n"
    text = f"name: demo\nstages:\n{stages}"
    lines = refused(tmp_path, text).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("recipe.yaml:3: stages.a.stpes is not a field") and "Did you mean 'steps'?" in lines[0]
    assert lines[1].startswith("recipe.yaml:4: stages.b.method: 'sftt' is not a method. Did you mean 'sft'?")
    assert lines[2].startswith("recipe.yaml:5: stages.c.method is missing.")


JUDGED = """name: x
stages:
  a: {{method: sft, data: x}}
  r: {{method: reward, data: x}}
  b:
    {0}
    method: ppo
    data: lab/prompts
"""
JUDGES = "name: x\nstages: {a: {method: reward, data: x}}\ncompare: [a]\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "recipe.yaml: is empty."),
        ("- a\n- b\n", "recipe.yaml: is not a mapping of keys to values."),
        ("name: x\nname: y\n", "recipe.yaml:2: name is given twice, first on line 1; keep one."),
        ("name: [x\n", "recipe.yaml:2:1: not YAML:"),
        ("a: &a {b: *a}\n", "recipe.yaml:1: a value cannot contain itself."),
        ("a: !!python/object/apply:os.system [ls]\n", "recipe.yaml:1:"),
        ("a: !!python/name:os.system\n", "means nothing here"),
        ("? {a: b}\n: c\n", "recipe.yaml:1: a key must be one word."),
        ("name: a/b\nstages: {a: {method: sft, data: x}}\n", "recipe.yaml:1: name must be one word of letters"),
        ("name: x\nstages: {}\n", "recipe.yaml:2: stages"),
        ("name: x\nstages: {lab: {method: sft, data: x}}\n", "recipe.yaml:2: stages: 'lab' is the name of the"),
        ("name: x\nstages: {../a: {method: sft, data: x}}\n", "must be one word of letters"),
        ("name: x\nstage: {}\n", "recipe.yaml:2: stage is not a field of a recipe. Did you mean 'stages'?"),
        ("name: x\nstages: {a: {method: sft, data: x, model: a}}\n", "recipe.yaml:2: stages.a.model names itself"),
        (
            "name: x\nstages: {a: {method: sft, data: x, model: b}, b: {method: sft, data: x}}\n",
            "stages.a.model names 'b', which comes later",
        ),
        (
            "name: x\nstages: {abc: {method: sft, data: x}}\ncompare: [abd]\n",
            "recipe.yaml:3: compare: 'abd' is no stage and no model. Did",
        ),
        (JUDGED.format("reward: {name: model, model: a}"), "recipe.yaml:6: stages.b.reward: 'a' is a language model"),
        (JUDGED.format("reward: {name: model, model: lab}"), "stages.b.reward: 'lab' is a language model and gives no"),
        (JUDGED.format("reward: {name: local-judge, model: r}"), "stages.b.reward: 'r' is a reward model and cannot"),
        (JUDGED.format("oracle: {name: model, model: a}"), "recipe.yaml:6: stages.b.oracle: 'a' is a language model"),
        (JUDGED.format("critic: a"), "recipe.yaml:6: stages.b.critic: 'a' is a language model and gives no scores"),
        (JUDGED.format("steps: 3\n    epochs: 2"), "recipe.yaml:6: stages.b: steps and epochs are both set; keep one"),
        (
            JUDGES + "compare_rewards: {both: {name: sum, of: {a: {name: model, model: aa}}}}",
            "compare_rewards.both: 'aa' is no stage and no model. Did you mean 'a'?",
        ),
        (JUDGES + "compare_rewards: {a: number}", "'a' is the name of a stage; call the reward something else"),
        (JUDGES + "compare_rewards: {b: {name: model, model: lab}}", "'lab' is a language model and gives no scores"),
        (JUDGES + "compare_rewards: {b: {name: local-judge, model: a}}", "'a' is a reward model and cannot be asked"),
        (JUDGES + "compare_rewards: {b: numbr}", "'numbr' is not a reward. Did you mean 'number'?"),
        (JUDGES.replace("compare: [a]", "") + "compare_rewards: {b: number}", "name one in 'compare'"),
        ("name: x\nstages: {a: {method: sft, data: x, processes: 2}, b: {method: sft, data: x}}\n", "same 'processes'"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text, told):
    assert told in refused(tmp_path, text)


def test_files_that_cannot_be_read(tmp_path):
    for path, told in [
        (tmp_path / "none.yaml", "there is no such file"),
        (tmp_path, "cannot be read"),
    ]:
        with pytest.raises(InputError, match=told):
            load_recipe(path)
    (tmp_path / "utf16.yaml").write_bytes("name: x".encode("utf-16"))
    with pytest.raises(InputError, match=r"utf16.yaml: not UTF-8 \(byte 1\)"):
        load_recipe(tmp_path / "utf16.yaml")


MERGED = """\
first: &first {steps: 3, data: {path: a, cap: 5}}
other: &other
  steps: 4
  seed: 1
one: {<<: *first, steps: 9}
later: {steps: 9, <<: *first}
both: {<<: [*first, *other], '<<': text}
whole: {<<: *first, data: {cap: 1}}
chain: {<<: {<<: *other, data: b}}
"""


def test_a_mapping_takes_over_the_keys_of_another(tmp_path):
    path = tmp_path / "merged.yaml"
    path.write_text(MERGED)
    tree = read_yaml(path)
    both = tree.value.pop("both")
    assert tree.value == {key: value for key, value in yaml.safe_load(MERGED).items() if key != "both"}
    assert both == {"steps": 3, "data": {"path": "a", "cap": 5}, "seed": 1, "<<": "text"}
    tree.value["one"]["data"]["cap"] = 6
    assert tree.value["first"]["data"]["cap"] == tree.value["later"]["data"]["cap"] == 5
    assert tree.where(("one", "steps")).endswith(":5") and tree.where(("later", "steps")).endswith(":6")
    assert tree.where(("one", "data", "cap")).endswith(":1") and tree.where(("both", "seed")).endswith(":4")
    assert tree.where(("both", "steps")).endswith(":1") and tree.where(("whole", "data", "path")).endswith(":8")
    path.write_text("a: &a {data: {cap: 1}}\nb: &b {data: {path: x}}\nc: {<<: [*a, *b]}\n")
    nested = read_yaml(path)
    assert nested.value["c"] == {"data": {"cap": 1}} and nested.where(("c", "data", "path")).endswith(":1")
    for text, told in [
        ("a: {<<: 3}", "merged.yaml:1: << takes the keys of another mapping, such as <<: *name."),
        ("a: &a\n  <<: *a\n", "merged.yaml:1: a value cannot contain itself."),
        ("a: &a {}\nc: {<<: *a, <<: *a}", "merged.yaml:2: << is given twice; write <<: [*one, *other]."),
        ("a: &a {b: 1}\nc: {<<: *a, d: 1, d: 2}", "merged.yaml:2: c.d is given twice, first on line 2; keep one."),
    ]:
        path.write_text(text)
        with pytest.raises(InputError) as caught:
            read_yaml(path)
        assert str(caught.value).removeprefix(f"{tmp_path}/") == told


def test_words_that_are_no_settings(tmp_path):
    assert "learning_rat is not a field of a stage or of 'sft'. Did you mean 'learning_rate'?" in refused_words(
        "data=x", "learning_rat=1"
    )
    assert refused_words("steps") == "'steps' is no setting; write key=value, such as learning_rate=1e-4."
    assert "is no setting" in refused_words("a..b=1")
    assert "steps and epochs are both set; keep one" in refused_words("data=x", "steps=3", "epochs=2")
    taken_back = stage_from("sft", ["data=x", "epochs=2", "steps=3", "epochs=null"])
    assert (taken_back.steps, taken_back.epochs) == (3, 1) and "epochs" not in taken_back.model_fields_set
    assert "data is missing. What to learn from" in refused_words("model=some/model")
    assert "data is a list; set it as a whole" in refused_words("data=[a, b]", "data.path=c")
    assert "the method is already given" in refused_words("method=lm")
    assert "not YAML" in refused_words("data=[a")
    message = refused(tmp_path, TWO_STAGES, "stages.stf.steps=3")
    assert message == "stages.stf.steps=3: the recipe has no stage 'stf'. Did you mean 'sft'?"
    assert refused(tmp_path, TWO_STAGES, "stages.sft.steps=x").startswith("stages.sft.steps must be a valid integer")


def test_what_other_tools_call_a_field_leads_to_ours():
    for theirs, ours in ALSO_CALLED.items():
        assert f"Here it is called '{ours}'." in refused_words("data=x", f"{theirs}=1")
        first, _, rest = ours.partition(".")
        assert first in Stage.model_fields and (not rest or rest in SECTIONS[first].model_fields)


# --- writing ----------------------------------------------------------------------------------------------------------

WORDS = st.one_of(
    st.sampled_from(
        ["no", "<<", "1e4", "0123", "null", "~", "2024-01-01", "a: b", "1:30", "#x", "é\u2028", "x\ny", " x "]
    ),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1),
)  # fmt: skip


@settings(max_examples=60)
@given(
    path=WORDS,
    prompts=st.lists(WORDS, max_size=3),
    rate=st.floats(0, 1e3),
    clip=st.one_of(st.none(), st.floats(1e-12, 1e12)),
    columns=st.dictionaries(WORDS, WORDS, max_size=2),
    steps=st.one_of(st.none(), st.integers(1, 10**12)),
    share=st.floats(0, 1, exclude_max=True),
)
def test_a_written_stage_reads_back_as_the_same(tmp_path_factory, path, prompts, rate, clip, columns, steps, share):
    stage = Stage(
        method=SFT(train_on="last"),
        data=[path, {"path": "b", "columns": columns}],  # pyright: ignore[reportArgumentType]
        learning_rate=rate,
        max_grad_norm=clip,
        steps=steps,
        eval={"share": share},  # pyright: ignore[reportArgumentType]
        samples={"prompts": prompts},  # pyright: ignore[reportArgumentType]
    )
    file = tmp_path_factory.mktemp("stage") / "config.yaml"
    file.write_text(to_yaml(stage), encoding="utf-8", newline="")
    again = load_stage(file)
    assert again == stage
    assert to_yaml(again) == to_yaml(stage)
    assert Stage.model_validate(json.loads(stage.model_dump_json())) == stage


def test_a_written_recipe_reads_back_as_the_same(tmp_path):
    recipe = load_recipe(written(tmp_path, TWO_STAGES))
    assert load_recipe(written(tmp_path, to_yaml(recipe))) == recipe


def test_other_yaml_readers_see_the_same_words(tmp_path):
    stage = stage_from("sft", ["data='no'", "model='1e4'", "learning_rate=2e-5"])
    theirs = yaml.safe_load(to_yaml(stage))
    assert (theirs["data"], theirs["model"], theirs["learning_rate"]) == ("no", "1e4", 2e-5)


OTHER_VALUES = {
    "method": "lm", "train_on": "last", "model": "other", "data": "other", "steps": "7", "epochs": "3",
    "batch_size": "3", "learning_rate": "0.5", "schedule": "linear", "adapter": "{name: freeze}",
    "warmup": "7", "weight_decay": "0.5", "beta1": "0.5", "beta2": "0.5",
    "max_grad_norm": "7", "dropout": "0.5", "max_length": "7", "on_long": "cut", "on_bad_row": "quarantine",
    "device": "cpu", "precision": "fp32", "layout": "rows", "tokens_per_micro": "7", "gradient_checkpointing": "true",
    "processes": "2", "seed": "7", "nonfinite": "raise", "checkpoint": "{every: 7}", "eval": "{share: 0.5}",
    "samples": "{count: 7}", "track": "[wandb]", "ref": "other", "precompute_ref_log_probs": "false",
    "reward": "number", "optimizer": "adamw_8bit", "mix_temperature": "2.0",
    "oracle": "number", "alarms": "{window: 7}", "critic": "other", "ptx_data": "other", "env": "calculator",
    "teacher": "other", "deadline": "7", "stop_limit": "0.2",
}  # fmt: skip
KNOWN = {
    "mix_temperature": ("sft", ["data=[x,y]"]),
    "reward": ("grpo", ["data=x", "reward=exact"]), "oracle": ("grpo", ["data=x", "reward=exact"]),
    "critic": ("ppo", ["data=x", "reward=exact"]), "env": ("grpo", ["data=x", "reward=exact"]),
    "ptx_data": ("ppo", ["data=x", "reward=exact", "ptx_coef=1", "ptx_data=y"]),
    "teacher": ("distill", ["data=x", "teacher=y"]),
}  # fmt: skip
"""The methods and words that some fields need beside them."""


@pytest.mark.parametrize("key", [*Stage.model_fields, "train_on"])
def test_the_digest_names_what_the_result_depends_on_and_the_diff_says_what_changed(key):
    method = "dpo" if "ref" in key else "sft"
    method, known = KNOWN.get(key, (method, ["data=x"]))
    base = stage_from(method, known)
    if key == "method":
        changed = stage_from("lm", ["data=x"])
    else:
        changed = stage_from(method, [*known, f"{key}={OTHER_VALUES[key]}"])
    assert changed != base
    same = key in DIGEST_IGNORES
    assert (config_digest(changed) == config_digest(base)) == same
    assert (diff(base, changed) == []) == same
    assert same or any(line.startswith(key) for line in diff(base, changed))


def test_the_diff_reads_like_a_sentence():
    old, new = (stage_from("sft", ["data=x", f"learning_rate={rate}"]) for rate in ("1e-3", "2e-3"))
    assert diff(old, new) == ["learning_rate: 0.001 -> 0.002"]


# --- the declaration --------------------------------------------------------------------------------------------------


def test_every_field_is_documented_and_no_method_takes_a_stages_word():
    for section in (Stage, Recipe, *SECTIONS.values()):
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name} has no docstring"
    for method in METHODS.values():
        assert not set(own_fields(method)) & set(Stage.model_fields)
        assert all(method.model_fields[name].description for name in own_fields(method))


def test_the_schema_knows_every_field_and_its_references_hold():
    schema = json.loads(json.dumps(json_schema()))
    forms = schema["properties"]["stages"]["additionalProperties"]["oneOf"]
    assert len(forms) == len(METHODS) + 1
    for name, method in METHODS.items():
        form = schema["$defs"][f"Stage.{name}"]
        assert set(form["properties"]) == {*Stage.model_fields, *own_fields(method)}
        assert form["properties"]["method"]["const"] == name
        assert all("description" in p or "$ref" in p for p in form["properties"].values())
        assert sorted(form["required"]) == ["data", "method"]

    def references(node):
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"].removeprefix("#/$defs/")
            for below in node.values():
                yield from references(below)
        elif isinstance(node, list):
            for below in node:
                yield from references(below)

    assert set(references(schema)) <= set(schema["$defs"])


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml")), ids=lambda p: p.stem
)
def test_the_recipes_that_come_with_the_project_parse(path):
    recipe = load_recipe(path)
    assert recipe.stages and Recipe.model_validate(recipe.model_dump()) == recipe


def test_a_stage_on_the_lab_says_nothing_it_need_not():
    bare = stage_from("sft")
    assert bare.model == "lab" and [s.path for s in bare.data] == ["lab/demonstrations"]
    assert (bare.learning_rate, bare.epochs, bare.batch_size) == (5e-4, 1, 32)
    told = stage_from("sft", ["data=rows.jsonl", "learning_rate=1e-4", "steps=5"])
    assert [s.path for s in told.data] == ["rows.jsonl"] and told.learning_rate == 1e-4 and told.steps == 5
    other = stage_from("sft", ["model=some/model", "data=rows.jsonl"])
    assert (other.learning_rate, other.epochs, other.batch_size) == (2e-5, 1, 16)


def test_a_recipe_of_the_package_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe("quickstart") == load_recipe("recipes/quickstart.yaml")
    (tmp_path / "quickstart").write_text("name: mine\nstages: {a: {method: sft, data: x}}\n")
    assert load_recipe("quickstart").name == "mine"
