"""What a run is asked to do: a recipe of stages, read strictly from YAML and from words on the command line.

The written form is flat: the fields of a stage's method stand beside the stage's own, `{method: sft, train_on: last}`.
The classes below are the only declaration; YAML keys, overrides, the JSON schema and the studio's forms come from them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, cast

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from .adapters import ADAPTERS, Adapter, of_peft_type
from .envs import speaker
from .errors import InputError, did_you_mean
from .methods import METHODS, Method, Online
from .methods.method import Data
from .models.vet import is_reward_model
from .named import listed_or_named
from .rewards import AnyReward, Reward, reward_from, reward_name
from .rewards.local_judge import LocalJudge
from .rewards.model import ModelReward, models_in
from .types import roles_in
from .yaml12 import Dumper, Tree, read_yaml

DIGEST_IGNORES = ("track", "processes", "checkpoint", "samples", "alarms", "deadline", "stop_limit")
"""Stage fields that change nothing in the weights that come out."""

GAME = "gym/"
"""Data that begins so is a game, which rewards by itself."""

Whole = Annotated[int, Field(strict=True, ge=0)]
Count = Annotated[int, Field(strict=True, ge=1)]
NotNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, lt=1)]
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Epochs = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Text = Annotated[str, StringConstraints(strict=True, min_length=1)]
Name = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Tracker = Literal["tensorboard", "trackio", "wandb", "mlflow"]


class Section(BaseModel):
    """A part of a recipe: its fields are all there is, and none changes once read."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class NewTokenizer(Section):
    """A tokenizer learnt from the training data."""

    vocab_size: Count
    """How many tokens it knows."""


def _tokenizer(value: Any, _: ValidatorFunctionWrapHandler) -> str | NewTokenizer:
    if isinstance(value, NewTokenizer) or (isinstance(value, str) and value):
        return value
    if isinstance(value, Mapping):
        return NewTokenizer.model_validate(value)
    raise ValueError("must be the name of a model, or {vocab_size: ...} for a new one")


class FreshModel(Section):
    """A new model with random weights."""

    config: dict[str, Any]
    """A transformers configuration: `model_type`, and whatever is to differ from that type's defaults."""
    tokenizer: Annotated[str | NewTokenizer, WrapValidator(_tokenizer, json_schema_input_type=str | NewTokenizer)]
    """Whose tokenizer the model uses (an earlier stage, `lab`, a folder or a hub name), or `{vocab_size: ...}` for one
    learnt from the training data."""

    @field_validator("config")
    @classmethod
    def _names_its_type(cls, config: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(config.get("model_type"), str):
            raise ValueError("must name its architecture in 'model_type', such as model_type: qwen2")
        return config


def _reward(value: Any, _: ValidatorFunctionWrapHandler) -> Reward | None:
    try:
        return None if value is None else reward_from(value)
    except InputError as error:
        raise ValueError(str(error)) from None


OptionalReward = Annotated[
    SerializeAsAny[Reward] | None, WrapValidator(_reward, json_schema_input_type=str | dict[str, Any] | None)
]


Keep = Literal["best", "all", "pairs", "rankings"]
"""What to learn from of several answers to a task that were scored."""
KEPT: dict[str, Data] = {
    "best": "conversation", "all": "conversation", "pairs": "pair", "rankings": "ranking", "tasks": "task",
}  # fmt: skip
"""What is kept of drawn answers, and what record it makes."""


class Draw(Section):
    """Answers that a model gives to the tasks of a source before training begins, and which of them to learn from. They
    are drawn once, into the run folder; a later stage that asks for the same ones reads them there."""

    model: Text
    """Who answers: an earlier stage, `lab`, a folder or a hub name."""
    n: Count = 8
    """Answers per task."""
    tasks: Count | None = None
    """Only the first so many tasks of the source are answered."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Sampling temperature."""
    max_completion_length: Count = 256
    """The most tokens of an answer."""
    reward: OptionalReward = None
    """What the answers are worth; by default `lab`, where the tasks are the lab's."""
    keep: Literal[Keep, "tasks"] = "best"
    """`best`: the best answer to each task (rejection sampling). `all`: every different one (ReST). `pairs`: the best
    against the worst, where they differ (online DPO). `rankings`: every different one, in the order of their scores
    (reward models, `stable`). `tasks`: the tasks themselves, with their mean score as a measure of difficulty, for a
    method that learns from its own answers: the easier ones come first."""
    above: Finite | None = None
    """Only answers that score more than this; of pairs and rankings, the best one; of tasks, the mean."""
    below: Finite | None = None
    """Only tasks whose mean score is less than this: what is always solved teaches nothing."""
    most: Count | None = None
    """At most so many answers of one task (ReST-EM takes 10)."""

    @property
    def kind(self) -> Data:
        """What record the kept answers make."""
        return KEPT[self.keep]

    @model_validator(mode="after")
    def _fits(self) -> Draw:
        if self.below is not None and self.keep != "tasks":
            raise ValueError("below chooses tasks by their mean score; set keep: tasks, or leave it out")
        if self.most is not None and self.keep != "all":
            raise ValueError("most limits how many answers of a task are kept; set keep: all, or leave it out")
        return self

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _with_reward_name(handler(self), "reward", self.reward)


def _with_reward_name(written: dict[str, Any], key: str, reward: Reward | None) -> dict[str, Any]:
    """A reward in the form that reads back; nothing where there is none."""
    if reward is None:
        written.pop(key, None)
    else:
        written[key] |= {"name": reward_name(reward)}
    return written


class Source(Section):
    """Where rows come from."""

    path: Text
    """A file (JSON, JSONL, CSV, text, Parquet, Arrow), a folder, a pattern, `dataset_info.json#<name>`, a hub name
    (`owner/name#train`), `lab/<name>` or `bundled/<name>`."""
    format: Text | None = None
    """The form of the rows; by default it is recognised from their keys."""
    columns: dict[str, str] = {}
    """Which column of the file stands for which key of the format, where the names differ: `{prompt: question}`."""
    weight: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] = 1.0
    """How often rows of this source are taken in comparison with the other sources' rows."""
    cap: Count | None = None
    """A source of more rows counts as one of so many."""
    task_column: Text | None = None
    """The column that says of which task a row is. Each task is then mixed as a source of its own, with this weight and
    this cap."""
    kind: Data | None = None
    """Read its rows as this kind of record, such as the pairs of a ranking; by default as the kind they are, where the
    method learns from that."""
    screen: Annotated[float, Field(strict=True, ge=-1, le=1)] | None = None
    """Leave out labellers (column `labeller`) whose agreement with the majority of the others, as Cohen's kappa, is
    below this; 0.4 is usual."""
    draw: Draw | None = None
    """The rows are tasks: let a model answer them first, and learn from what it answered."""

    @model_validator(mode="after")
    def _has_a_judge(self) -> Source:
        if self.draw is not None and self.draw.reward is None:
            if not self.path.startswith("lab/"):
                raise ValueError("draw: reward is missing; say what the answers are worth, such as reward: number")
            object.__setattr__(self, "draw", self.draw.model_copy(update={"reward": reward_from("lab")}))
        return self

    @model_validator(mode="after")
    def _has_its_columns(self) -> Source:
        if self.task_column and self.draw is not None and self.draw.keep != "tasks":
            raise ValueError("task_column: what a model drew has no such column; leave draw or task_column out")
        if self.kind and self.draw is not None:
            raise ValueError("kind: what a model drew becomes what draw.keep says; leave kind out")
        return self

    @property
    def mixes(self) -> bool:
        """Whether its rows are not simply all taken."""
        return self.weight != 1 or self.cap is not None or self.task_column is not None


class Checkpoint(Section):
    """When to save, and what to keep."""

    every: Count = 100
    """Save after every so many updates; the last one is always saved."""
    keep: Annotated[int, Field(strict=True, ge=2)] = 2
    """How many checkpoints to keep. At least 2: the newest may be the one that a crash damages."""
    on_save_error: Literal["stop", "continue"] = "stop"
    """Whether a checkpoint that cannot be written (a full disk) ends the run or is only reported."""


def _sources(value: Any) -> Any:
    listed = cast("Sequence[Any]", value) if isinstance(value, (list, tuple)) else (value,)
    return tuple({"path": item} if isinstance(item, str) else item for item in listed)


Sources = Annotated[
    tuple[Source, ...],
    BeforeValidator(_sources, json_schema_input_type=str | Source | list[str | Source]),
]


class Eval(Section):
    """Measuring on rows that are not trained on."""

    data: Sources | None = None
    """Rows to evaluate on."""
    share: Share = 0
    """Instead of `data`: hold this share of the training rows out."""
    every: Count | None = None
    """Evaluate after every so many updates; by default only at the end."""
    keep_best: Flag = True
    """Keep the checkpoint with the lowest evaluation loss, however old it is."""

    @model_validator(mode="after")
    def _one_source(self) -> Eval:
        if self.data and self.share:
            raise ValueError("data and share are both set; keep the one that says what to evaluate on")
        if self.every and not self.data and not self.share:
            raise ValueError("every is set but there is nothing to evaluate on; set data, or share to hold rows out")
        if any(source.mixes for source in self.data or ()):
            raise ValueError("data: weight, cap and task_column mix training data; evaluation uses every row once")
        if any(source.draw for source in self.data or ()):
            raise ValueError("data: draw makes training data; evaluate on rows that nobody drew")
        return self


class Environment(Section):
    """Who answers the model between its turns."""

    name: Text
    """`calculator` (a turn that ends in `<calc>12*7</calc>` is answered with 84), or `package.module:Class` or
    `file.py:Class` for one of your own."""
    max_turns: Annotated[int, Field(strict=True, ge=2)] = 4
    """The most turns of the model in one response."""

    @field_validator("name")
    @classmethod
    def _is_one(cls, name: str) -> str:
        try:
            speaker(name)
        except InputError as error:
            raise ValueError(str(error)) from None
        return name


def _env(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Alarm = Literal["kl", "hacking", "no_signal", "length", "entropy", "sampler_gap"]
Bound = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Alarms(Section):
    """When to warn that learning from one's own answers goes wrong. Each looks at the mean of the last `window`
    rollouts and is told once; `null` switches it off."""

    window: Annotated[int, Field(strict=True, ge=2)] = 8
    """How many rollouts count as one look."""
    kl: Bound | None = 0.5
    """Nats per token from the reference beyond this: the model is becoming another one. By default five times ppo's
    `kl_target`, where there is one."""
    hacking: Bound | None = 5.0
    """The reward is above, and the oracle below, where they stood when the oracle was at its best, each by so many
    standard errors: the reward is being exploited."""
    no_signal: Bound | None = 0.8
    """More than this share of groups have equal scores: nothing is learnt from them."""
    length: Bound | None = 0.5
    """More than this share of answers are cut off at max_completion_length."""
    entropy: Bound | None = 0.1
    """The entropy has fallen below this share of what it began with: the policy no longer tries anything."""
    sampler_gap: Bound | None = 0.05
    """Sampler and trainer differ by more than this in the log-probability of a token."""
    stop: list[Alarm] = []
    """The alarms that end the run, with a checkpoint."""


class Samples(Section):
    """Answers the model writes now and then, for people to read."""

    prompts: Annotated[list[Text], Field(max_length=1000)] = []
    """Prompts of your own to answer."""
    count: Whole = 4
    """How many prompts to take from the data besides (held-out rows where there are any)."""
    every: Count | None = None
    """Write samples after every so many updates; by default before the first and after the last."""
    max_tokens: Count = 64
    """The most tokens of one answer."""


def _model(value: Any, _: ValidatorFunctionWrapHandler) -> str | FreshModel:
    if isinstance(value, FreshModel) or (isinstance(value, str) and value):
        return value
    if isinstance(value, Mapping):
        return FreshModel.model_validate(value)
    raise ValueError("must be the name of a model, or {config: ..., tokenizer: ...} for a fresh one")


def _method(value: Any, _: ValidatorFunctionWrapHandler) -> Method:
    if isinstance(value, Method):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"must be the name of a method, not {value!r}; its fields stand beside it")
    fields = dict(cast("Mapping[str, Any]", value))
    try:
        kind = method_class(str(fields.pop("name")))
    except InputError as error:
        raise ValueError(str(error)) from None
    return kind.model_validate(fields)


def _adapter(value: Any, _: ValidatorFunctionWrapHandler) -> Adapter | None:
    if value is None or isinstance(value, Adapter):
        return value
    fields: dict[str, Any] = {"name": value}
    if isinstance(value, Mapping):
        fields = dict(cast("Mapping[str, Any]", value))
    name = fields.get("name")
    if not isinstance(name, str):
        raise ValueError("must be the name of an adapter, or {name: ..., r: ...} with its fields")
    if name not in ADAPTERS:
        raise ValueError(f"{name!r} is not an adapter.{did_you_mean(name, ADAPTERS)} Known are {', '.join(ADAPTERS)}")
    return ADAPTERS[name].model_validate(fields)


def _own_reward(known: dict[str, Any]) -> Reward | None:
    """The lab grades its own tasks."""
    sources: tuple[Source, ...] = known["data"]
    learns = isinstance(known["method"], Online)
    return reward_from("lab") if learns and all(s.path.startswith("lab/") for s in sources) else None


def _own_oracle(known: dict[str, Any]) -> Reward | None:
    """The lab knows the truth about its tasks, whatever else they are judged by."""
    reward: Reward | None = known.get("reward")
    return _own_reward(known) if reward is not None and any(models_in(reward)) else None


AnyAdapter = Union[tuple(ADAPTERS.values())]  # pyright: ignore[reportInvalidTypeForm]  # noqa: UP007


def _learning_rate(known: dict[str, Any]) -> float:
    method: Method = known["method"]
    adapter = known.get("adapter") or _adapter_in(known.get("model"))
    return adapter.learning_rate(method.default_learning_rate) if adapter else method.default_learning_rate


def _adapter_in(model: Any) -> Adapter | None:
    """The kind of adapter that a folder holds, which learns on unless the stage names another."""
    if not isinstance(model, str) or not (written := Path(model).expanduser() / "adapter_config.json").is_file():
        return None
    ours = written.with_name("nurture_adapter.json")
    try:
        if ours.is_file():
            return ADAPTERS[json.loads(ours.read_bytes())["adapter"]["name"]]()
        kind = of_peft_type(json.loads(written.read_bytes())["peft_type"])
    except (OSError, ValueError, TypeError, KeyError):
        return None  # loading it will tell what is wrong
    return kind() if kind else None


class Stage(Section):
    """One training: a method, the model it starts from and the data it learns from."""

    method: Annotated[Method, WrapValidator(_method, json_schema_input_type=str)]
    """The method's name, or `package.module:Class` or `file.py:Class` for one of your own. Its own fields stand beside
    it."""
    model: Annotated[str | FreshModel, WrapValidator(_model, json_schema_input_type=str | FreshModel)] = "lab"
    """Where to start: an earlier stage, `lab`, a folder, a hub name, or `{config, tokenizer}` for a fresh model."""
    data: Sources
    """What to learn from: a file, `lab/<name>` or `bundled/<name>`; a list of these; or `{path, format, columns}`. With
    `model: lab` the method's own data set of the lab is the default."""
    mix_temperature: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] = 1.0
    """Above 1, small sources (and tasks, where a source has a `task_column`) are taken more often than in proportion to
    their size; a large one makes all equal."""
    reward: OptionalReward = Field(default_factory=_own_reward)
    """What answers are worth to a method that learns from its own: the name of a reward, or `{name: ..., fields}`. By
    default `lab`, where all data are the lab's."""
    oracle: OptionalReward = Field(default_factory=_own_oracle)
    """A second judge of the same answers that nothing is learnt from; where it falls while the reward rises, the reward
    is being exploited. By default `lab`, where all data are the lab's and the reward asks a model."""
    deadline: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Seconds in which the answers drawn at once must be judged; what is not judged by then has failed. By default 300,
    or more where a reward's own limits (the `seconds` of a program) add up to more."""
    stop_limit: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The share of rewards that may fail (raise, be late, be no number) before the run stops, to be gone on with."""
    env: Annotated[Environment | None, BeforeValidator(_env, json_schema_input_type=str | Environment | None)] = None
    """A tool or a user who answers the model between its turns, in a method that learns from its own answers: its name,
    or `{name: calculator, max_turns: 6}`. What it says is no part of what is learnt."""
    alarms: Alarms = Alarms()
    """When to warn that learning from one's own answers goes wrong, and when to stop."""
    ptx_data: Sources | None = None
    """Demonstrations to imitate beside every rollout, as many as it has prompts, weighed by ppo's `ptx_coef`."""
    critic: Text | None = None
    """The reward model that the critic starts as: an earlier stage or a folder; by default it starts as the model, with
    a new head."""
    ref: Text | None = None
    """The reference of methods that have one: an earlier stage, `lab`, a folder or a hub name; by default the model as
    it is before the first step."""
    precompute_ref_log_probs: Flag = True
    """Ask the reference once, before the first step, and keep only its log-probs (in `ref_logp.safetensors`); otherwise
    the reference stays in memory and is asked at every step."""
    teacher: Text | None = None
    """The model that a student learns from, of methods that have one; it stays as it is. An earlier stage, `lab`, a
    folder or a hub name, which must read the same tokens. Adapters of one kind on one base share that base."""
    adapter: Annotated[
        SerializeAsAny[Adapter] | None, WrapValidator(_adapter, json_schema_input_type=str | AnyAdapter | None)
    ] = None
    """What is trained: the name of an adapter, or `{name: lora, r: 16}`. By default all weights or, where `model` is an
    adapter itself, that one."""

    steps: Count | None = None
    """How many updates to make. Instead of `epochs`."""
    epochs: Annotated[Epochs, BeforeValidator(lambda value: value, json_schema_input_type=Epochs | None)] = 1
    """How often to go through the data; `null` takes back what was said before, for `steps` in its place."""
    batch_size: Count = 16
    """Groups (a prompt with its responses) per update, over all processes. How they are cut to fit the memory
    (`tokens_per_micro`) does not change the result."""

    learning_rate: NotNegative = Field(default_factory=_learning_rate)
    """The peak learning rate; by default the method's own, raised where an adapter learns best at more (also one that a
    folder or an earlier stage brings; of a hub name it is not known yet)."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup: NotNegative = 0.03
    """Length of the linear warm-up: a share of all updates where below 1, else a number of updates."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "muon"] = "adamw"
    """`adamw_8bit` keeps Adam's two averages in 8 bits through bitsandbytes: a quarter of their memory;
    `paged_adamw_8bit` (CUDA) also moves them to main memory where the device has no room. `muon` makes singular values
    of hidden updates equal, at AdamW's learning rates: fewer steps to train a whole model."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay of AdamW, on matrices only."""
    beta1: Share = 0.9
    """Adam's decay of the gradient average."""
    beta2: Share = 0.999
    """Adam's decay of the squared-gradient average."""
    max_grad_norm: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] | None = 1.0
    """Gradients with a larger global norm are scaled down to it; `null` never clips."""
    dropout: Share = 0.0
    """The probability in the model's own dropout layers. (Where these drop attention, the layout is `rows`.)"""

    max_length: Count | None = None
    """The most tokens of a prompt with its response, or of a window of text; by default what the model's positions
    allow, for text at most 2048."""
    on_long: Literal["drop", "error", "cut_prompt", "split", "cut"] = "drop"
    """A longer row is left out, or ends the run, or is made to fit: its prompt loses its beginning (`cut_prompt`), a
    dialogue is split before turns of the user (`split`), or its answer loses its end (`cut`). All of it is counted."""
    on_bad_row: Literal["error", "quarantine"] = "error"
    """A row that cannot be used ends the run, or goes to `rejected.jsonl` and is counted."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; `auto` takes a CUDA device where there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """The format of the arithmetic; `auto` is bf16 where the hardware multiplies matrices in it, else fp32. The
    optimiser's weights are fp32 either way."""
    layout: Literal["auto", "tree", "rows"] = "auto"
    """`tree` computes a prompt once for all its responses, `rows` once for each of them; `auto` takes the tree wherever
    it is exact."""
    tokens_per_micro: Count | None = None
    """The most tokens in one forward pass; by default what fits the memory."""
    gradient_checkpointing: Flag = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third more time."""
    processes: Count = 1
    """How many processes share the batch on this machine."""

    seed: Whole = 42
    """Names every random stream of the run."""
    nonfinite: Literal["skip", "raise"] = "skip"
    """A loss or gradient that is not a number: skip that update (three in a row end the run), or end the run."""

    checkpoint: Checkpoint = Checkpoint()
    """When to save, and what to keep."""
    eval: Eval = Eval()
    """Measuring on rows that are not trained on."""
    samples: Samples = Samples()
    """Answers the model writes now and then, for people to read."""
    track: Annotated[list[Tracker], Field(max_length=4)] = []
    """Where else to send the metrics; each needs its own extra, such as `nurture-llm[wandb]`."""

    @model_validator(mode="before")
    @classmethod
    def _gather_method(cls, value: Any) -> Any:
        """`{method: sft, train_on: last, ...}` -> `{method: {name: sft, train_on: last}, ...}`."""
        if not isinstance(value, Mapping):
            return cast(object, value)
        written = {
            key: value
            for key, value in cast("Mapping[str, Any]", value).items()
            if not (key == "epochs" and value is None)
        }
        name = written.get("method")
        if not isinstance(name, str):
            return written
        try:
            own = own_fields(method_class(name))
        except InputError:  # the field itself reports it; which words were the method's, nobody can say
            return {key: written[key] for key in written if key in cls.model_fields} | {"method": {"name": name}}
        method = {"name": name} | {key: written.pop(key) for key in own if key in written}
        return _lab_defaults(method_class(name), written) | {"method": method}

    @model_validator(mode="after")
    def _has_a_reference(self) -> Stage:
        if self.ref is not None and not self.has_reference:
            raise ValueError(f"ref is set, but method {self.method.name!r} has no reference; take it out")
        return self

    @model_validator(mode="after")
    def _has_a_teacher(self) -> Stage:
        if self.teacher is not None and not self.has_teacher:
            raise ValueError(f"teacher is set, but method {self.method.name!r} has no teacher; take it out")
        if self.teacher is None and self.has_teacher:
            raise ValueError(
                f"teacher is missing: method {self.method.name!r} learns from what another model says; name an earlier "
                "stage or a folder"
            )
        return self

    @model_validator(mode="after")
    def _has_a_reward(self) -> Stage:
        if self.reward is not None and not isinstance(self.method, Online):
            raise ValueError(
                f"reward is set, but method {self.method.name!r} does not learn from its own answers; take it out"
            )
        plays = any(source.path.startswith(GAME) for source in self.data)
        if self.reward is None and isinstance(self.method, Online) and not plays:
            raise ValueError(
                f"reward is missing: method {self.method.name!r} must be told what its answers are worth, such as "
                "reward: number"
            )
        return self

    @model_validator(mode="after")
    def _draws_what_it_learns_from(self) -> Stage:
        kinds = (self.method.data, *self.method.accepts)
        for source in self.data:
            if source.draw and source.draw.kind not in kinds:
                wanted = [f"keep: {keep}" for keep, kind in KEPT.items() if kind in kinds]
                fitting = f"set {' or '.join(wanted)}" if wanted else "take draw out"
                raise ValueError(
                    f"data: draw.keep is {source.draw.keep}, which method {self.method.name!r} cannot learn from; "
                    + fitting
                )
        return self

    @model_validator(mode="after")
    def _has_something_to_mix(self) -> Stage:
        if self.mix_temperature != 1 and len(self.data) == 1 and self.data[0].task_column is None:
            raise ValueError(
                "mix_temperature is set, but data is one source; give several, or name the task_column of this one"
            )
        return self

    @model_validator(mode="after")
    def _watches_its_own_answers(self) -> Stage:
        if self.oracle is not None and not isinstance(self.method, Online):
            raise ValueError(f"oracle is set, but method {self.method.name!r} draws no answers to watch; take it out")
        if self.env is not None and not isinstance(self.method, Online):
            raise ValueError(f"env is set, but method {self.method.name!r} draws no answers of its own; take it out")
        if self.critic is not None and "value" not in self.method.asks:
            raise ValueError(f"critic is set, but method {self.method.name!r} has no critic; take it out")
        if (self.ptx_data is not None) != bool(getattr(self.method, "ptx_coef", 0)):
            raise ValueError("ptx_data and ptx_coef belong together; ppo takes both, or neither")
        if any(source.mixes or source.draw for source in self.ptx_data or ()):
            raise ValueError("ptx_data: weight, cap, task_column and draw belong to data; here every row is taken")
        return self

    @property
    def has_reference(self) -> bool:
        """Whether the method compares with a reference model."""
        return "ref" in self._roles

    @property
    def has_teacher(self) -> bool:
        return "teacher" in self._roles

    @property
    def _roles(self) -> set[str]:
        """Those of the method: in its loss, or when a rollout is recorded."""
        asked = [self.method.asks, *([self.method.records] if isinstance(self.method, Online) else [])]
        return {role for asks in asked for role in roles_in(asks)}

    @property
    def asks_reference_once(self) -> bool:
        """Whether all it will be asked is known before the first step. What the model itself will answer is not."""
        return self.has_reference and self.precompute_ref_log_probs and not isinstance(self.method, Online)

    @model_validator(mode="after")
    def _one_length(self) -> Stage:
        if self.steps is not None and "epochs" in self.model_fields_set:
            raise ValueError("steps and epochs are both set; keep one, and set the other to null")
        return self

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The written form, which reads back as the same stage."""
        flat: dict[str, Any] = handler(self)
        flat["method"] = method_name(self.method)
        own = self.method.model_dump(mode="json")
        flat |= {key: own[key] for key in own_fields(type(self.method))}
        flat["data"] = _sources_written(self.data)
        flat["eval"]["data"] = _sources_written(self.eval.data) if self.eval.data else None
        if self.steps is not None:
            del flat["epochs"]
        for key in ("env", "teacher"):
            if flat[key] is None:
                del flat[key]
        flat["ptx_data"] = _sources_written(self.ptx_data) if self.ptx_data else None
        for key, reward in (("reward", self.reward), ("oracle", self.oracle)):
            flat = _with_reward_name(flat, key, reward)
        first = ("method", *own_fields(type(self.method)), "model", "data")
        return {key: flat[key] for key in (*first, *(key for key in flat if key not in first))}


def _lab_defaults(kind: type[Method], written: dict[str, Any]) -> dict[str, Any]:
    """What suits the lab's small model, for whatever a stage that starts from it leaves unsaid."""
    if written.get("model", "lab") != "lab":
        return written
    settings = {key: value for key, value in kind.lab_settings.items() if not (key == "epochs" and "steps" in written)}
    data = {"data": kind.lab_data} if kind.lab_data else {}
    return {**data, **settings, **written}


def _sources_written(sources: Sequence[Source]) -> Any:
    plain = [s.path if s == Source(path=s.path) else s.model_dump(mode="json") for s in sources]
    return plain[0] if len(plain) == 1 else plain


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Recipe(Section):
    """A name and one or more stages, run in order."""

    name: Name
    """Names the run; its folder is `runs/<name>` unless `out` says otherwise."""
    stages: Annotated[dict[Name, Stage], Field(min_length=1)]
    """The stages by name. A stage's `model` may name an earlier one."""
    compare: list[Text] = []
    """Models to compare at the end: stages, `lab`, folders or hub names. Of reward models it is how often they agree
    with the oracle."""
    compare_rewards: dict[Name, AnyReward] = {}
    """Rewards to compare beside reward models, by names of your choice: an ensemble of the stages, a judge, a rule."""
    compare_data: Annotated[
        list[Text], Field(min_length=1), BeforeValidator(_listed, json_schema_input_type=str | list[str])
    ] = ["lab/test"]
    """What they are compared on: one data set of the lab that holds tasks, or several."""
    compare_tasks: Count | None = None
    """How many of the tasks of each; by default all."""

    @model_validator(mode="after")
    def _stages_fit(self) -> Recipe:
        """Each builds on earlier ones only."""
        if "lab" in self.stages:
            raise ValueError("stages: 'lab' is the name of the embedded model; call the stage something else")
        names = list(self.stages)
        for at, (name, stage) in enumerate(self.stages.items()):
            for key, used in references(stage):
                if used in names[at:]:
                    fault = "itself" if used == name else f"{used!r}, which comes later"
                    raise ValueError(f"stages.{name}.{key} names {fault}; a stage can only build on earlier ones")
            if "learning_rate" not in stage.model_fields_set and (inherited := self._adapter_of(stage)):
                rate = inherited.learning_rate(stage.method.default_learning_rate)
                self.stages[name] = stage.model_copy(update={"learning_rate": rate})
        if len({stage.processes for stage in self.stages.values()}) > 1:
            raise ValueError("stages: all stages of a run share its processes; give each the same 'processes'")
        return self

    @model_validator(mode="after")
    def _judges_judge(self) -> Recipe:
        """A reward model gives scores, a language model answers, and neither does the other's work."""
        rewarding, names = self._reward_stages, {*self.stages, "lab"}
        rewards = {f"compare_rewards.{name}": reward for name, reward in self.compare_rewards.items()}
        for name, stage in self.stages.items():
            rewards |= {f"stages.{name}.{key}": reward for key, reward in rewards_of(stage)}
            if stage.critic in names - rewarding:
                raise ValueError(f"stages.{name}.critic: {stage.critic!r} is a language model and gives no scores")
        for key, reward in rewards.items():
            scoring, asked = set(models_in(reward, ModelReward)), set(models_in(reward, LocalJudge))
            if wrong := sorted(scoring & (names - rewarding)):
                raise ValueError(f"{key}: {wrong[0]!r} is a language model and gives no scores")
            if wrong := sorted(asked & rewarding):
                raise ValueError(f"{key}: {wrong[0]!r} is a reward model and cannot be asked in words")
        return self

    @model_validator(mode="after")
    def _comparison_fits(self) -> Recipe:
        models = {stage.model for stage in self.stages.values() if isinstance(stage.model, str)}
        inside = [
            (f"compare_rewards.{name}", word) for name, r in self.compare_rewards.items() for word in models_in(r)
        ]
        for key, word in [*(("compare", word) for word in self.compare), *inside]:
            if word not in {*self.stages, "lab", *models} and "/" not in word and not Path(word).exists():
                near = did_you_mean(word, (*self.stages, "lab"))
                raise ValueError(f"{key}: {word!r} is no stage and no model.{near}")
        if len(set(self.compare)) < len(self.compare):
            raise ValueError("compare: one is named twice; name each once")
        judges = [word for word in self.compare if self._is_reward_model(word)]
        if judges and len(judges) < len(self.compare):
            raise ValueError(f"compare: {judges[0]!r} is a reward model; compare it with others that are")
        if self.compare_rewards and not judges:
            raise ValueError("compare_rewards: they stand beside reward models; name one in 'compare'")
        if twice := self.compare_rewards.keys() & set(self.compare):
            raise ValueError(f"compare_rewards: {min(twice)!r} is the name of a stage; call the reward something else")
        return self

    @property
    def _reward_stages(self) -> set[str]:
        return {name for name, stage in self.stages.items() if stage.method.trained == "reward"}

    def _is_reward_model(self, word: str) -> bool:
        """A stage that becomes one, or a folder that holds one. (Of a hub name nobody knows before it is loaded.)"""
        return word in self._reward_stages if word in self.stages else is_reward_model(word)

    def _adapter_of(self, stage: Stage) -> Adapter | None:
        """The adapter of the model, of an earlier stage or a folder, that this stage goes on training."""
        if stage.adapter is not None or not isinstance(stage.model, str):
            return None
        before = self.stages.get(stage.model)
        return (before.adapter or self._adapter_of(before)) if before else _adapter_in(stage.model)

    @property
    def processes(self) -> int:
        return next(iter(self.stages.values())).processes

    @property
    def compares_rewards(self) -> bool:
        """Whether what is compared at the end are reward models."""
        return bool(self.compare) and self._is_reward_model(self.compare[0])


def rewards_of(stage: Stage) -> Iterator[tuple[str, Reward]]:
    """Everything that judges answers for a stage, each with its key."""
    if stage.reward is not None:
        yield "reward", stage.reward
    if stage.oracle is not None:
        yield "oracle", stage.oracle
    for draw in (source.draw for source in stage.data if source.draw):
        assert draw.reward is not None, "a source with draw has a reward"
        yield "data.draw.reward", draw.reward


def references(stage: Stage) -> Iterator[tuple[str, str]]:
    """The words of a stage that may name another one, each with its key."""
    if isinstance(stage.model, str):
        yield "model", stage.model
    elif isinstance(stage.model.tokenizer, str):
        yield "model.tokenizer", stage.model.tokenizer
    if stage.ref is not None:
        yield "ref", stage.ref
    if stage.teacher is not None:
        yield "teacher", stage.teacher
    if stage.critic is not None:
        yield "critic", stage.critic
    yield from ((key, name) for key, reward in rewards_of(stage) for name in models_in(reward))
    yield from (("data", source.path) for source in stage.data)
    yield from (("data.draw.model", source.draw.model) for source in stage.data if source.draw)
    yield from (("ptx_data", source.path) for source in stage.ptx_data or ())
    yield from (("eval.data", source.path) for source in stage.eval.data or ())


# --- methods by name --------------------------------------------------------------------------------------------------


def method_class(name: str) -> type[Method]:
    """`sft`, or `package.module:Class` or `file.py:Class` for a method of one's own."""
    found = listed_or_named("method", name, METHODS)
    if name in METHODS:
        return found
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise InputError(f"method {name!r} names no subclass of nurture.methods.Method.")
    if clash := [key for key in own_fields(found) if key in Stage.model_fields]:
        raise InputError(f"method {name!r}: its field {clash[0]!r} is also a field of every stage; rename it.")
    return found


def method_name(method: Method) -> str:
    """The word that `method_class` reads back."""
    kind = type(method)
    known = (name for name, listed in METHODS.items() if listed is kind)
    return next(known, f"{kind.__module__}:{kind.__qualname__}")


def own_fields(kind: type[BaseModel]) -> list[str]:
    return [key for key in kind.model_fields if key != "name"]


# --- reading and writing ----------------------------------------------------------------------------------------------


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe file with `stages.sft.learning_rate=1e-4` words laid over it."""
    tree = read_yaml(find_recipe(path))
    written = tree.value.get("stages")
    names = list(cast("Mapping[str, Any]", written)) if isinstance(written, Mapping) else []
    for word in overrides:
        keys = tree.lay_over(word)
        if keys[0] == "stages" and len(keys) > 2 and keys[1] not in names:
            raise InputError(f"{word}: the recipe has no stage {keys[1]!r}.{did_you_mean(keys[1], names)}")
    return _validated(Recipe, tree)


def find_recipe(path: Path | str) -> Path:
    """The file itself, or the recipe of that name that comes with the package (`quickstart`, `recipes/dpo.yaml`)."""
    path = Path(path)
    if path.exists() or path.parent not in (Path(), Path("recipes")) or path.suffix not in ("", ".yaml"):
        return path
    here = Path(__file__).parent
    shipped = next(f for f in (here / "recipes", here.parents[1] / "recipes", path.parent) if f.is_dir())
    found = shipped / f"{path.stem}.yaml"
    if not found.exists() and path.suffix == "":
        known = sorted(file.stem for file in shipped.glob("*.yaml"))
        raise InputError(
            f"{path}: there is no such file, and no recipe of that name comes with Nurture."
            f"{did_you_mean(str(path), known)}"
        )
    return found if found.exists() else path


def load_stage(path: Path | str) -> Stage:
    """The resolved configuration that a run folder keeps."""
    return _validated(Stage, read_yaml(Path(path)))


def stage_from(method: str, overrides: Sequence[str] = ()) -> Stage:
    """The stage of `nurture train METHOD key=value ...`."""
    method_class(method)
    tree = Tree({})
    for word in overrides:
        if tree.lay_over(word)[0] == "method":
            raise InputError(f"{word}: the method is already given, {method!r}.")
    tree.value["method"] = method
    return _validated(Stage, tree)


def take(words: Sequence[str], key: str) -> tuple[str | None, list[str]]:
    """Take the word `key=...` out of the words of a command: its value (the last one given), and the other words."""
    taken = [word for word in words if word.partition("=")[0] == key]
    return (taken[-1].partition("=")[2] if taken else None), [word for word in words if word not in taken]


def take_flag(words: Sequence[str], key: str) -> tuple[bool, list[str]]:
    """`take` for a word that is true or false (and false where it is absent)."""
    value, rest = take(words, key)
    if value not in (None, "true", "false"):
        raise InputError(f"{key}={value}: must be true or false.")
    return value == "true", rest


def to_yaml(section: Stage | Recipe) -> str:
    """The resolved configuration; reads back as the same."""
    return yaml.dump(section.model_dump(mode="json"), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def config_digest(stage: Stage) -> str:
    """Names everything in a stage that its result depends on."""
    spelling = json.dumps(_what_matters(stage), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(spelling.encode()).hexdigest()


def diff(old: Stage, new: Stage) -> list[str]:
    """What changed of that, as `learning_rate: 0.001 -> 0.002`. Empty exactly where the digests agree."""
    before, after = dict(_leaves(_what_matters(old))), dict(_leaves(_what_matters(new)))
    keys = [*before, *(key for key in after if key not in before)]
    absent = object()
    changed = [key for key in keys if before.get(key, absent) != after.get(key, absent)]
    return [f"{key}: {before.get(key, '(unset)')} -> {after.get(key, '(unset)')}" for key in changed]


def _what_matters(stage: Stage) -> dict[str, Any]:
    return {key: value for key, value in stage.model_dump(mode="json").items() if key not in DIGEST_IGNORES}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Leaves by dotted key, each in its JSON spelling (a string without its quotes). A list is one leaf."""
    if isinstance(value, Mapping) and value:
        for key, below in cast("Mapping[str, Any]", value).items():
            yield from _leaves(below, f"{path}.{key}" if path else key)
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)


def json_schema() -> dict[str, Any]:
    """The JSON schema of a recipe file: one form of stage for each method, and one for methods of one's own."""
    schema = Recipe.model_json_schema(mode="validation")
    definitions: dict[str, Any] = schema["$defs"]
    general: dict[str, Any] = definitions.pop("Stage")
    forms: list[dict[str, Any]] = []
    for name, kind in METHODS.items():
        own = kind.model_json_schema(mode="validation")
        definitions |= own.pop("$defs", {})
        properties = {key: value for key, value in own["properties"].items() if key != "name"}
        chosen = {"method": {"const": name, "description": own["description"].splitlines()[0]}}
        definitions[f"Stage.{name}"] = general | {"properties": general["properties"] | chosen | properties}
        forms.append({"$ref": f"#/$defs/Stage.{name}"})
    own_class = {"method": {"type": "string", "pattern": ":", "description": "package.module:Class or file.py:Class"}}
    user = general | {"properties": general["properties"] | own_class, "additionalProperties": True}
    definitions["Stage.user"] = user
    schema["properties"]["stages"]["additionalProperties"] = {"oneOf": [*forms, {"$ref": "#/$defs/Stage.user"}]}
    schema["properties"]["stages"].pop("patternProperties", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


# --- errors as sentences ----------------------------------------------------------------------------------------------

S = TypeVar("S", Stage, Recipe)

SECTIONS: Mapping[str, type[Section]] = {
    "checkpoint": Checkpoint,
    "eval": Eval,
    "samples": Samples,
    "alarms": Alarms,
    "env": Environment,
    "draw": Draw,
    "model": FreshModel,
    "tokenizer": NewTokenizer,
    "data": Source,
}

ALSO_CALLED = {
    "lr": "learning_rate",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "max_steps": "steps",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "batch_size",
    "max_seq_length": "max_length",
    "cutoff_len": "max_length",
    "lr_scheduler_type": "schedule",
    "warmup_ratio": "warmup",
    "warmup_steps": "warmup",
    "save_steps": "checkpoint.every",
    "save_total_limit": "checkpoint.keep",
    "eval_steps": "eval.every",
    "report_to": "track",
    "adam_beta1": "beta1",
    "adam_beta2": "beta2",
    "bf16": "precision",
    "dataset": "data",
    "model_name_or_path": "model",
}
"""What other tools call our fields."""


def _validated(kind: type[S], tree: Tree) -> S:
    try:
        return kind.model_validate(tree.value)
    except ValidationError as error:
        faults = [e for e in error.errors(include_url=False) if e["type"] != "default_factory_not_called"]
        raise InputError("\n".join(_sentence(kind, tree, fault) for fault in faults)) from None


def _sentence(kind: type[Stage] | type[Recipe], tree: Tree, fault: ErrorDetails) -> str:
    """`recipe.yaml:5: stages.sft.learning_rat is not a field of a stage or of 'sft'. Did you mean 'learning_rate'?`"""
    keys = _written_keys(tree, fault["loc"])
    about = re.match(r"[\w.-]+", str(fault.get("ctx", {}).get("error", "")))  # a fault between keys begins with one
    place = tree.where([*keys, *about[0].split(".")] if about else keys)
    return f"{place}: {_told(kind, tree, keys, fault)}" if place else _told(kind, tree, keys, fault)


def _told(kind: type[Stage] | type[Recipe], tree: Tree, keys: list[str], fault: ErrorDetails) -> str:
    path, value = ".".join(keys), fault["input"]
    match fault["type"]:
        case "extra_forbidden":
            owner, fields = _owner(kind, tree, keys)
            return f"{path} is not a field of {owner}.{_suggestion(keys[-1], fields)}"
        case "missing":
            _, fields = _owner(kind, tree, keys)
            about = fields[keys[-1]].description if keys[-1] in fields else None
            return f"{path} is missing.{' ' + ' '.join(about.split()) if about else ''}"
        case "value_error":
            text = str(fault.get("ctx", {}).get("error", ""))
            ending = "" if text.endswith((".", "?")) else "."
            return f"{path}{' ' if text.startswith('must') else ': ' if path else ''}{text}{ending}"
        case "literal_error":
            expected = str(fault.get("ctx", {})["expected"])
            near = did_you_mean(str(value), re.findall(r"'([^']*)'", expected))
            return f"{path} must be {expected}, not {_brief(value)}.{near}"
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"{path} must be a mapping of keys to values, not {_brief(value)}."
        case "string_pattern_mismatch":
            return f"{path} must be one word of letters, digits, '-' and '_', not {_brief(value)}."
        case _:
            message = re.sub(r"^\w+ should ", "must ", fault["msg"])
            return f"{path} {message}, not {_brief(value)}."


def _written_keys(tree: Tree, location: Sequence[int | str]) -> list[str]:
    """The keys as the person wrote them: a method's fields stand beside it, a single source is no list."""
    keys: list[str] = []
    value: Any = tree.value
    for at, part in enumerate(location):
        is_field_of_method = part == "method" and at + 1 < len(location)
        is_invented_index = isinstance(part, int) and not isinstance(value, list)
        if part == "[key]" or is_field_of_method or is_invented_index:
            continue
        keys.append(str(part))
        if isinstance(value, Mapping):
            value = cast("Mapping[Any, Any]", value).get(part)
        elif isinstance(value, list) and isinstance(part, int):
            value = cast("list[Any]", value)[part]
        else:
            value = None
    return keys


def _owner(kind: type[Stage] | type[Recipe], tree: Tree, keys: list[str]) -> tuple[str, Mapping[str, FieldInfo]]:
    """What a key would have to be a field of, and the fields that has."""
    inside, stage = keys[:-1], tree.value
    if kind is Recipe:
        if len(inside) < 2:
            return "a recipe", Recipe.model_fields
        stage, inside = tree.value["stages"][inside[1]], inside[2:]
    if not inside:
        name = stage.get("method")
        if not isinstance(name, str):
            return "a stage", Stage.model_fields
        return f"a stage or of {name!r}", {**Stage.model_fields, **method_class(name).model_fields}
    if inside == ["adapter"]:
        name = str(cast("Mapping[str, Any]", stage["adapter"]).get("name"))
        return f"adapter {name!r}", ADAPTERS[name].model_fields if name in ADAPTERS else {}
    section = next((key for key in reversed(inside) if key in SECTIONS), None)
    return inside[-1], SECTIONS[section].model_fields if section else {}


def _suggestion(word: str, known: Mapping[str, Any]) -> str:
    same = ALSO_CALLED.get(word, "")
    return f" Here it is called {same!r}." if same.split(".")[0] in known else did_you_mean(word, known)


def _brief(value: Any) -> str:
    text = "empty" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
