"""`nurture explain` says all that a method's page says."""

import inspect
import json

import pytest
from rich.console import Console, RenderableType

from nurture.adapters import ADAPTERS
from nurture.envs import ENVS
from nurture.errors import InputError
from nurture.explain import explain, list_methods
from nurture.methods import METHODS
from nurture.recipe import SECTIONS, Stage, own_fields
from nurture.rewards.registry import ELSEWHERE, REWARDS, reward_class
from nurture.runs import METRICS


def told(content: RenderableType, width: int = 100) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(content)
    return capture.get()


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_told_whole(method):
    kind = METHODS[method]
    text = told(explain(method), width=10_000)
    for paragraph in (inspect.getdoc(kind) or "").split("\n\n"):
        assert words(paragraph) in words(text)
    for name in own_fields(kind):
        field = kind.model_fields[name]
        written = field.default if isinstance(field.default, str) else json.dumps(field.default)
        assert f"{name} = {written}" in text and words(field.description or "?") in text
    own_answers = {n: m for n, m in METRICS.items() if n.startswith("rollout/") and n != "rollout/explained_variance"}
    general = {n: m for n, m in METRICS.items() if "/" not in n} | (own_answers if kind.data == "task" else {})
    for name, meaning in {**kind.metrics, **general}.items():
        assert f"{name} " in text and meaning in text
    assert "batch_size" not in text


@pytest.mark.parametrize(
    ("method", "logged", "never"),
    [
        ("sft", {"eval/token_accuracy", "eval/perplexity", "eval/loss"}, {"rollout/score", "eval/score"}),
        ("kto", {"eval/loss", "grad_norm"}, {"eval/token_accuracy", "eval/perplexity", "rollout/kl"}),
        ("grpo", {"rollout/score", "eval/score"}, {"eval/loss", "rollout/explained_variance"}),
        ("ppo", {"rollout/explained_variance"}, {"eval/loss"}),
    ],
)
def test_metrics_are_those_that_such_a_run_writes(method, logged, never):
    page = told(explain(method))
    assert all(name in page for name in logged) and not any(name in page for name in never)


def test_everything_has_every_field_of_a_stage_with_its_default():
    text = told(explain("sft", everything=True), width=10_000)
    for name, field in Stage.model_fields.items():
        assert name == "method" or (f"{name} = " in text and words(field.description or "?") in text)
    for section, kind in SECTIONS.items():
        assert all(f"{section}.{name} = " in text for name in kind.model_fields), section
    assert "batch_size = 16" in text and "schedule = cosine" in text and "data = (must be given)" in text
    assert "learning_rate = (the method's own)" in text and "gradient_checkpointing = false" in text


def test_it_fits_a_terminal_and_keeps_its_equations():
    text = told(explain("sft", everything=True), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "    L = - sum_t  log p(y_t | x, y_<t)  /  number of trained tokens" in text


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_is_told_as_a_method_is(adapter):
    kind = ADAPTERS[adapter]
    text = told(explain(adapter), width=10_000)
    for paragraph in (inspect.getdoc(kind) or "").split("\n\n"):
        assert words(paragraph) in words(text)
    for name in own_fields(kind):
        assert f"{name} = " in text and words(kind.model_fields[name].description or "?") in text
    assert f"adapter={adapter}" in text and (not kind.peft_type or kind.peft_type in text)


@pytest.mark.parametrize("env", ENVS)
def test_an_environment_is_told_as_a_method_is(env):
    text = told(explain(env), width=10_000)
    assert words(inspect.getdoc(ENVS[env]) or "?") in words(text)
    assert "max_turns = 4" in text and f"speaks as  {ENVS[env].role}" in text and f"{{name: {env}, " in text


def test_the_list_names_every_method_adapter_reward_and_environment():
    text = told(list_methods())
    assert all(name in text for name in (*METHODS, *ADAPTERS, *REWARDS, *ELSEWHERE, *ENVS))
    assert "Supervised fine-tuning on demonstrations" in text


@pytest.mark.parametrize("reward", [*REWARDS, *ELSEWHERE])
def test_a_reward_is_told_as_a_method_is(reward):
    kind = reward_class(reward)
    text = told(explain(reward), width=10_000)
    for paragraph in (inspect.getdoc(kind) or "").split("\n\n"):
        assert words(paragraph) in words(text)
    for name in own_fields(kind):
        assert f"{name} = " in text and words(kind.model_fields[name].description or "?") in text
    assert f"{{name: {reward}, ...}}" in text


def test_code_of_ones_own_has_a_page_too(tmp_path):
    (tmp_path / "explained_rewards.py").write_text(
        "from functools import lru_cache\n"
        "from pathlib import Path\n"
        "from nurture.methods import SFT\n"
        "from nurture.rewards import Reward\n"
        "class Short(Reward):\n"
        "    'Worth 1 for a short answer.'\n"
        "    name: str = 'short'\n"
        "    most: int = 20\n"
        "    'The longest one that is short.'\n"
        "    place: Path = Path('here')\n"
        "class Bare(Short):\n"
        "    most: int = 3\n"
        "class Mine(SFT):\n"
        "    'As sft.'\n"
        "def worth(answers):\n"
        "    'As much as it has letters.'\n"
        "quick = lru_cache(worth)\n"
        "class User:\n"
        "    'Asks once more.'\n"
        "    role = 'user'\n"
        "WORD = 'word'\n"
    )
    file = f"{tmp_path}/explained_rewards.py"
    page = told(explain(f"{file}:Short"), width=10_000)
    assert "Worth 1 for a short answer." in page and f"{{name: {file}:Short, ...}}" in page
    assert 'place = "here"' in page and "(It has no docstring.)" in told(explain(f"{file}:Bare"), width=10_000)
    assert "As much as it has letters." in told(explain(f"{file}:quick"), width=10_000)
    assert "most = 20" in page and "The longest one that is short." in page
    assert "Metrics" in told(explain(f"{file}:Mine"), width=10_000)
    page = told(explain(f"{file}:worth"), width=10_000)
    assert "As much as it has letters." in page and f"reward={file}:worth" in page
    page = told(explain(f"{file}:User"), width=10_000)
    assert "Asks once more." in page and f"env={{name: {file}:User, max_turns: 4}}" in page and "speaks as" in page
    with pytest.raises(InputError, match=r"is no subclass of .*Method or .*Reward, no function and no environment"):
        explain(f"{file}:WORD")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sfd", r"'sfd' has no page. Did you mean 'sft'\? There are lm, sft"),
        ("lorra", "Did you mean 'lora'"),
        ("maths2", "Did you mean 'maths'"),
        ("DAPO", "DAPO is grpo with other fields: nurture explain grpo"),
        ("rest", "a recipe of several stages, recipes/rest.yaml"),
    ],
)
def test_what_has_no_page_is_an_error_that_says_where_to_look(name, told):
    with pytest.raises(InputError, match=told):
        explain(name)
