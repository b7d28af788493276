"""A name in a recipe becomes a model and its tokenizer: from a folder, from the hub, or freshly initialised."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from ..adapters import Adapter
from ..adapters.attached import attach, attached, merge
from ..adapters.freeze import HEAD
from ..core.random import stream_key
from ..errors import InputError, did_you_mean
from .fused import fuse
from .heads import has_score_head, head_parameters, is_encoder, put_head, read_score_head, score_head
from .vet import (
    SEQ2SEQ,
    Vetted,
    has_tokenizer,
    model_digest,
    safetensors_header,
    vet,
    vet_adapter,
    vet_settings,
    vet_tokenizer,
)

__all__ = ["LoadedModel", "load_model", "model_digest", "parameter_count", "resolve_model", "train_tokenizer"]

LAB = Path(__file__).resolve().parents[1] / "lab" / "base"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w.-]+)?")
TOKENIZER_FILES = ["*.json", "*.jinja", "tokenizer.model", "spiece.model", "merges.txt", "vocab.txt"]
MODEL_FILES = [*TOKENIZER_FILES, "*.safetensors"]
HUB_SKIPPED = ["*/*", "consolidated*"]  # other formats of the same weights

END, PAD, TURN, TURN_END = CONTROL_TOKENS = ("<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>")

RANDOMNESS = re.compile(r"dropout|pdrop|layerdrop|drop_path|jitter_noise")
"""Names of configuration fields that make a forward pass random in training mode."""

LEGACY_FIELDS = {"rope_theta", "rope_scaling", "partial_rotary_factor", "sliding_window_pattern", "model_type", "dtype"}
"""Fields that transformers accepts and folds into others."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model in evaluation mode (training mode if dropout was asked for) and what is known of where it came from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    source: str
    digest: str
    new_tokens: tuple[str, ...] = ()
    """Tokens of the tokenizer that the checkpoint had no embedding for; each starts as the mean of the others."""
    unexpected: tuple[str, ...] = ()
    """Tensors in the checkpoint that this architecture has no place for."""
    saved_dtype: torch.dtype = torch.float32
    """The format the weights came in, and so are saved in; of a fresh model, the one it computes in."""
    original_dropout: Mapping[str, float] | None = None
    """The model's own dropout fields, by dotted path; `save_model` writes them back."""
    adapter: Adapter | None = None
    """What is trained of the model: attached to it or, of a folder that is an adapter, found there."""
    base: str = ""
    """Of a model with an adapter: where the model without it is, and its digest."""
    base_digest: str = ""
    merged: str = ""
    """The adapter that was added to the weights when they were loaded, in words."""
    from_4_bits: bool = False
    """Whether its matrices are kept in 4 bits, or were when an adapter on them was merged."""
    reward: Mapping[str, Any] | None = None
    """Of a reward model: how its scores are to be read."""

    @property
    def is_peft(self) -> bool:
        """Whether peft attached the adapter, and so its folder holds no model."""
        return self.adapter is not None and bool(self.adapter.peft_type)

    @property
    def criteria(self) -> tuple[str, ...]:
        """What a reward model judges, in the order of its scores."""
        if self.reward is not None:
            return tuple(self.reward.get("criteria", ("overall",)))
        return tuple(str(name) for name in (self.model.config.id2label or {}).values())


def resolve_model(name: str, stages: Mapping[str, Path]) -> Path | str:
    """What a name after `model:` means: a stage, then `lab`, then a path, then a hub name (returned as a string).

    A name that is two of the first three is an error (`./name` is always the path).
    """
    path = Path(name).expanduser()
    meanings = [
        what
        for what, holds in (
            ("a stage", name in stages),
            ("the lab's base model", name == "lab"),
            ("a path", path.exists()),
        )
        if holds
    ]
    if len(meanings) > 1:
        raise InputError(
            f"model {name!r} is both {' and '.join(meanings)}: rename the stage, or write ./{name} for the path."
        )
    if name in stages:
        return stages[name]
    if name == "lab":
        return lab_model()
    if meanings:
        return path
    near = [*stages, "lab"] if "/" not in name else []
    if path.parent.is_dir():
        near += [str(path.parent / p.name) if "/" in name else p.name for p in sorted(path.parent.iterdir())]
    hint = did_you_mean(str(path) if "/" in name else name, near)
    if not HUB_NAME.fullmatch(name) or (hint and "/" not in name):
        raise InputError(f"model {name!r} is no stage of this recipe and no folder.{hint}")
    return name


def lab_model() -> Path:
    """The folder of the base model that comes with the package."""
    if not LAB.is_dir():
        raise InputError("model 'lab' is not part of this installation: give a folder or a hub name.")
    return LAB


def load_model(
    source: str | Path | Mapping[str, Any],
    *,
    dtype: torch.dtype,
    device: torch.device,
    dropout: float = 0.0,
    seed: int,
    texts: Iterable[str] | None = None,
    reward: bool = False,
    quantized: bool = False,
    merged: bool = False,
) -> LoadedModel:
    """Load a folder or a hub name (`org/name` or `org/name@revision`), or make a fresh model from
    `{config: {model_type: …}, tokenizer: FOLDER, hub name or {vocab_size: n}}`; in the last case `texts` train the
    tokenizer. A folder that is a PEFT adapter is loaded onto its base; `merged` makes one plain model of the two. With
    `reward` the folder may also be a reward model; it then comes with its score head. `quantized` keeps the matrices in
    4 bits."""
    if isinstance(source, Mapping):
        loaded = _fresh(source, texts, dtype, dropout, seed)
    else:
        local = isinstance(source, Path) or Path(source).expanduser().exists()
        folder = Path(source).expanduser() if local else download(str(source))
        name = str(folder) if local else f"{str(source).partition('@')[0]}@{folder.name}"
        if (folder / "adapter_config.json").exists():
            if merged and quantized:
                raise InputError(f"{folder} is an adapter, and what stands on one is not kept in 4 bits: use lora.")
            loaded = _with_adapter(folder, name, dtype, device, dropout, seed, quantized, reward, plain=merged)
            return _merged(loaded) if merged else loaded
        loaded = _from_folder(folder, name, dtype, dropout, seed, reward, device if quantized else None)
    loaded.model.to(device)  # pyright: ignore[reportArgumentType]
    loaded.model.train(dropout > 0)
    fuse(loaded.model)
    return loaded


def download(name: str, files: Sequence[str] = MODEL_FILES) -> Path:
    """The hub's snapshot of a model in the local cache; only settings, safetensors and tokenizer files are fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    repository, _, revision = name.partition("@")
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=list(files), ignore_patterns=HUB_SKIPPED
        )
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise InputError(
            f"model {name!r} is no folder here and not in the local hub cache, and the hub cannot be reached "
            "(or HF_HUB_OFFLINE is set): give a local folder, or connect once."
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"model {name!r} is no folder here and could not be fetched from the hub: {reason}") from None
    return Path(folder)


def parameter_count(model: torch.nn.Module) -> int:
    """Numbers to learn; a tied weight counts once, a packed one as what it stands for."""
    return sum(getattr(p, "quant_state", p).shape.numel() for p in model.parameters())


def _with_adapter(
    folder: Path, name: str, dtype: torch.dtype, device: torch.device, dropout: float, seed: int, quantized: bool,
    reward: bool, plain: bool,
) -> LoadedModel:  # fmt: skip
    """A PEFT adapter on its base. A base that is an adapter itself is one model by then: what is stacked is merged.
    `plain` gives a base in 4 bits its matrices back, with the same values."""
    from ..adapters import folder as saved_adapters

    saved = saved_adapters.read(*vet_adapter(folder))
    head = saved_adapters.saved_head(folder)
    if head and not reward:
        raise InputError(f"{folder} is a reward model, which scores texts and cannot write any; use a language model.")
    source = lab_model() if saved.base == "lab" else saved.base_source()
    _refuse_circle(folder, source)
    quantized = quantized or saved.adapter.quantized
    base = load_model(
        source, dtype=dtype, device=device, dropout=dropout, seed=seed, quantized=quantized, reward=reward, merged=True
    )
    if saved.base_digest not in (None, base.digest):
        raise InputError(
            f"{folder} was trained on another base than {base.source}: its digest is {base.digest[:12]}, the adapter "
            f"notes {str(saved.base_digest)[:12]}; give back that base, or train the adapter again."
        )
    model, tokenizer, new_tokens = base.model, base.tokenizer, base.new_tokens
    if plain and quantized:
        with quiet():
            model.dequantize()
        # transformers leaves this at True, and peft then merges no (IA)3 that stands on it.
        model.is_loaded_in_4bit = False  # pyright: ignore[reportArgumentType]
    if has_tokenizer(folder):
        tokenizer = _tokenizer(vet_tokenizer(folder), model.config)
        new_tokens = embed_new_tokens(model, tokenizer)
    with _seeded(seed), _without_head(model):
        saved_adapters.put_saved(model, saved)
    if head and not put_head(model, head):
        raise InputError(f"{folder} does not fit the base {saved.base}: it has no place for the head {min(head)}.")
    model.train(dropout > 0)
    judges = saved.reward or (base.reward if has_score_head(model) else None)
    return replace(
        base, tokenizer=tokenizer, source=name, digest=_joint_digest(base.digest, folder), new_tokens=new_tokens,
        adapter=saved.adapter, base_digest=base.digest, reward=judges,
        from_4_bits=quantized or base.from_4_bits,
    )  # fmt: skip


def _refuse_circle(folder: Path, source: Path | str) -> None:
    """Follow adapters that stand on adapters down to a model."""
    from ..adapters import folder as saved_adapters

    seen = {folder.resolve()}
    while isinstance(source, Path) and (source / "adapter_config.json").exists():
        if source.resolve() in seen:
            raise InputError(f"{folder} is an adapter that stands on itself; correct base_model_name_or_path in it.")
        seen.add(source.resolve())
        saved = saved_adapters.read(*vet_adapter(source))
        source = lab_model() if saved.base == "lab" else saved.base_source()


def _merged(loaded: LoadedModel) -> LoadedModel:
    """One plain model of a base and its adapter, known by the folder of the adapter."""
    assert loaded.adapter is not None
    if not loaded.adapter.mergeable:
        raise InputError(
            f"{loaded.source}: {loaded.adapter.name} cannot be merged, since no change of the weights does what it "
            "does; use the adapter folder with its base."
        )
    base = str(Path(loaded.source).resolve()) if Path(loaded.source).exists() else loaded.source
    model = merge(loaded.model).requires_grad_(True)
    return replace(
        loaded,
        model=model,
        adapter=None,
        base=base,
        base_digest="",
        merged=" + ".join(filter(None, (loaded.merged, loaded.adapter.words()))),
    )


def _joint_digest(base: str, folder: Path) -> str:
    return hashlib.sha256(f"{base} {model_digest(folder)}".encode()).hexdigest()


@contextmanager
def _without_head(model: PreTrainedModel) -> Iterator[None]:
    """peft takes what stands on the layers for matrices of one; what is attached meanwhile does not touch it."""
    taken: list[tuple[torch.nn.Module, str, Any]] = []
    paths = dict.fromkeys(match[0] for name in head_parameters(model) if (match := HEAD.match(name)))
    for path in paths:
        owner, _, name = path.removesuffix(".").rpartition(".")
        parent = model.get_submodule(owner)
        taken.append((parent, name, parent._modules.pop(name)))
    try:
        yield
    finally:
        for parent, name, module in taken:
            parent._modules[name] = module


def join(loaded: LoadedModel, folder: Path, role: str, *, judges: bool) -> LoadedModel | None:
    """A saved adapter as one more role on a base that is in memory already; one that `judges` has a head as well. None
    where it cannot be: it is no adapter, or one of another kind or on another base."""
    from ..adapters import folder as saved_adapters

    held = attached(loaded.model)
    if held is None or held.start or not (folder / "adapter_config.json").exists():  # PiSSA has changed the base
        return None
    saved, head = saved_adapters.read(*vet_adapter(folder)), saved_adapters.saved_head(folder)
    theirs, ours = saved.adapter, loaded.adapter
    kind = held.peft.active_peft_config
    same = (
        ours is not None
        and saved.base_digest == loaded.base_digest
        and (theirs.peft_type, theirs.quantized) == (ours.peft_type, ours.quantized)
        and theirs.peft_type != "ADALORA"  # of which peft allows one to a base
        and saved.settings.get("trainable_token_indices") == getattr(kind, "trainable_token_indices", None)
    )
    if not same or set(head) != ({"score.weight"} if judges else set()) or not has_tokenizer(folder):
        return None
    with torch.random.fork_rng(devices=[]), _without_head(loaded.model):
        saved_adapters.put_saved(loaded.model, saved, role)
    if judges:
        put_head(loaded.model, head, role)
        score_head(loaded.model, role).requires_grad_(False)
    tokenizer = _tokenizer(vet_tokenizer(folder), loaded.model.config)
    return replace(
        loaded, tokenizer=tokenizer, source=str(folder), digest=_joint_digest(loaded.base_digest, folder),
        adapter=theirs, reward=saved.reward,
    )  # fmt: skip


def attach_adapter(loaded: LoadedModel, adapter: Adapter, *, steps: int, seed: int) -> LoadedModel:
    """The model with a new adapter, which trains for so many steps."""
    assert loaded.adapter is None, "what a new adapter stands on is loaded with merged=True"
    if loaded.from_4_bits and not adapter.peft_type:
        raise InputError(
            f"adapter: {adapter.name} trains weights, and those of {loaded.source} are of a base in 4 bits; put lora "
            "on it, or export it merged and train that."
        )
    if adapter.peft_type and not loaded.base:
        raise InputError(
            f"adapter: {adapter.name} is saved without its base, and a fresh model exists in this run alone; train all "
            "weights (adapter: full), or start from a saved model."
        )
    if is_encoder(loaded.model) and (adapter.virtual or adapter.quantized):
        raise InputError(f"adapter: {adapter.name} is not known on an encoder; use lora, bottleneck, freeze or full.")
    with _seeded(seed), _without_head(loaded.model) if adapter.peft_type else nullcontext():
        attach(loaded.model, adapter, loaded.tokenizer, steps=steps, new_tokens=loaded.new_tokens)
    return replace(loaded, adapter=adapter, base_digest=loaded.digest)


def _quantization(dtype: torch.dtype) -> Any:
    """4-bit NormalFloat with double quantisation, dequantised to the compute format."""
    from transformers import BitsAndBytesConfig

    try:
        import bitsandbytes  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(
            "adapter: qlora needs bitsandbytes, which is not installed; pip install 'nurture-llm[quantized]'."
        ) from None
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _from_folder(
    folder: Path,
    source: str,
    dtype: torch.dtype,
    dropout: float,
    seed: int,
    reward: bool = False,
    quantize_on: torch.device | None = None,
) -> LoadedModel:
    from safetensors import SafetensorError
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        AutoModelForSequenceClassification,
        GenerationConfig,
    )

    vetted = vet(folder, allow="reward" if reward else "causal")
    kind = AutoModelForCausalLM
    if vetted.architecture.endswith("ForSequenceClassification"):
        kind = AutoModelForSequenceClassification
    elif vetted.architecture in SEQ2SEQ.values():
        kind = AutoModelForSeq2SeqLM
    config = _config(vetted.folder / "config.json", vetted.config)
    saved_dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    original = _set_dropout(config, dropout)
    generation = GenerationConfig.from_dict(dict(vetted.generation)) if vetted.generation else None
    quantization: dict[str, Any] = {}
    if quantize_on is not None:
        quantization = {"quantization_config": _quantization(dtype), "device_map": {"": quantize_on}}
    try:
        with _seeded(seed), quiet():
            model, report = kind.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
                vetted.folder,
                config=config,
                generation_config=generation,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **quantization,
            )
    except (RuntimeError, ValueError, KeyError, OSError, SafetensorError) as error:
        why = _other_shape(kind, config, vetted) or _one_line(error)
        raise InputError(f"{folder} could not be loaded as {vetted.architecture}: {why}") from error
    new_head = vetted.architecture not in (vetted.config.get("architectures") or [vetted.architecture])
    if missing := sorted(name for name in report["missing_keys"] if not (new_head and HEAD.match(name))):
        raise InputError(
            f"{folder} lacks {len(missing)} weights that a {vetted.architecture} has ({_some(missing)}): "
            "the checkpoint is incomplete or of another architecture."
        )
    for parameter in model.parameters():  # out of the file's memory map, so the file may go and addresses are aligned
        if not hasattr(parameter, "quant_state"):
            parameter.data = parameter.data.clone()
    for module in model.modules() if quantize_on is not None else ():
        # On some CPUs bitsandbytes (0.50) would repack the weights, and round the constants of their blocks to bf16, in
        # the first pass without gradient: the base would not stay what it was.
        module.support_avx512bf16_for_cpu = False  # pyright: ignore[reportAttributeAccessIssue]
    unexpected = tuple(sorted(report["unexpected_keys"]))
    if reward and kind is AutoModelForSequenceClassification and not new_head:
        read_score_head(model)
    elif reward and "score.weight" in unexpected:
        read_score_head(model, _tensor(vetted.weights, "score.weight"))
    if not reward:  # what is learnt from it is no reward model
        vars(model.config).pop("reward", None)
    tokenizer = _tokenizer(vetted.folder, config)
    new_tokens = embed_new_tokens(model, tokenizer)
    base = "lab" if folder.resolve() == LAB else str(folder.resolve()) if source == str(folder) else source
    return LoadedModel(
        model, tokenizer, source, vetted.digest, new_tokens, unexpected, saved_dtype, original, base=base,
        reward=getattr(model.config, "reward", None),
    )  # fmt: skip


def _tensor(files: Iterable[Path], name: str) -> torch.Tensor:
    from safetensors import safe_open

    for file in files:
        with safe_open(file, "pt") as opened:
            if name in opened.keys():  # noqa: SIM118 (not a mapping)
                return opened.get_tensor(name)
    raise AssertionError(f"transformers saw {name} in {files}")


def _fresh(
    spec: Mapping[str, Any], texts: Iterable[str] | None, dtype: torch.dtype, dropout: float, seed: int
) -> LoadedModel:
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    _known_keys("model", spec, {"config", "tokenizer"})
    if not isinstance(spec.get("config"), Mapping) or "tokenizer" not in spec:
        raise InputError(
            "model: a fresh model needs `config: {model_type: …}` and `tokenizer: FOLDER, hub name or {vocab_size: n}`."
        )
    settings = vet_settings(Path("model.config"), spec["config"])
    model_type = str(settings.get("model_type"))
    if model_type not in CAUSAL:
        raise InputError(f"model.config.model_type {model_type!r} is unknown.{did_you_mean(model_type, CAUSAL)}")
    default = AutoConfig.for_model(model_type)
    _known_keys("model.config", settings, {*default.to_dict(), *default.attribute_map, *LEGACY_FIELDS})
    tokenizer = _fresh_tokenizer(spec["tokenizer"], texts, default)
    size = len(tokenizer)
    if settings.setdefault("vocab_size", size) != size:
        raise InputError(
            f"model.config.vocab_size is {settings['vocab_size']} but the tokenizer has {size}: leave it out."
        )
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        settings.setdefault(token, getattr(tokenizer, token))
    config = _config(Path("model.config"), settings)
    original = _set_dropout(config, dropout)
    # Initialised in fp32 and rounded, so that the same seed gives the same model in every precision.
    with _seeded(seed), quiet():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        if dtype != torch.float32:
            values = model.state_dict()
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
            model.load_state_dict(values)
    if model.generation_config is not None and TURN_END in tokenizer.get_vocab():
        ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(TURN_END)]
        model.generation_config.eos_token_id = [i for i in dict.fromkeys(ends) if i is not None]
    identity = json.dumps([settings, seed, tokenizer.backend_tokenizer.to_str()], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()
    return LoadedModel(model, tokenizer, f"fresh {model_type}", digest, saved_dtype=dtype, original_dropout=original)


def _config(path: Path, settings: Mapping[str, Any]) -> PreTrainedConfig:
    rest = {key: value for key, value in settings.items() if key not in ("model_type", "transformers_version")}
    try:
        with quiet():
            return AutoConfig.for_model(settings["model_type"], **rest)
    except Exception as error:  # each configuration class has its own ways to refuse a value
        raise InputError(f"{path}: not a {settings['model_type']} configuration: {_one_line(error)}") from error


def _set_dropout(config: PreTrainedConfig, dropout: float, prefix: str = "") -> dict[str, float]:
    """Set every field that makes training random, at any depth (router jitter to 0); returns what they were."""
    original: dict[str, float] = {}
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            original |= _set_dropout(value, dropout, f"{prefix}{name}.")
        elif RANDOMNESS.search(name) and isinstance(value, (int, float)) and not isinstance(value, bool):
            original[prefix + name] = value
            setattr(config, name, 0.0 if "jitter" in name else float(dropout))
    return original


def _tokenizer(folder: Path, config: PreTrainedConfig) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True)
    except Exception as error:  # tokenizers raises plain `Exception` for a bad tokenizer.json
        raise InputError(f"{folder}: its tokenizer cannot be read: {_one_line(error)}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(
            f"{folder}: its tokenizer is a {type(tokenizer).__name__}; one with a tokenizer.json is needed."
        )
    return tokenizer


def _fresh_tokenizer(spec: Any, texts: Iterable[str] | None, config: PreTrainedConfig) -> PreTrainedTokenizerFast:
    if isinstance(spec, (str, Path)):
        folder = Path(spec).expanduser()
        if not folder.exists():
            if not HUB_NAME.fullmatch(str(spec)):
                raise InputError(f"model.tokenizer: {str(spec)!r} is no folder and no hub name.")
            folder = download(str(spec), TOKENIZER_FILES)
        return _tokenizer(vet_tokenizer(folder), config)
    if not isinstance(spec, Mapping):
        raise InputError("model.tokenizer must be a folder, a hub name or {vocab_size: n}.")
    _known_keys("model.tokenizer", spec, {"vocab_size"})
    size = spec.get("vocab_size")
    if not isinstance(size, int) or isinstance(size, bool):
        raise InputError("model.tokenizer.vocab_size must be a whole number.")
    assert texts is not None, "whoever asks for a new tokenizer passes the texts to train it on"
    return train_tokenizer(texts, size)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the control tokens of ChatML; digits are tokens of their own.

    Normal form and word splitting are those of Qwen2, since AutoTokenizer puts these two in place of any other in a
    folder whose model is a `qwen2`: with them the tokenizer reads back the same beside every architecture.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    least = len(CONTROL_TOKENS) + len(alphabet)
    if vocab_size < least:
        raise InputError(f"a tokenizer needs a vocab_size of at least {least} (256 bytes and 4 control tokens).")
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()  # pyright: ignore[reportAttributeAccessIssue]
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])  # pyright: ignore[reportAttributeAccessIssue]
    bpe.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=alphabet,
        continuing_subword_prefix="",
        end_of_word_suffix="",
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[TURN, TURN_END],
        clean_up_tokenization_spaces=False,
    )


def embed_new_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> tuple[str, ...]:
    """Give every token an embedding; new rows are the mean of the old, in the input and in the output matrix."""
    if model.get_output_embeddings() is None:  # a reward model: what it has no embedding for, it was not trained on
        return ()
    matrices: tuple[Any, Any] = (model.get_input_embeddings(), model.get_output_embeddings())
    rows = matrices[0].weight.shape[0]
    new = sorted((index, token) for token, index in tokenizer.get_vocab().items() if index >= rows)
    if new:
        with quiet():
            model.resize_token_embeddings(new[-1][0] + 1, mean_resizing=False)
        matrices = (model.get_input_embeddings(), model.get_output_embeddings())
        with torch.no_grad():
            for tensor in (t for m in matrices for t in (m.weight, getattr(m, "bias", None)) if t is not None):
                tensor[rows:] = tensor[:rows].double().mean(0).to(tensor.dtype)
    return tuple(token for _, token in new)


def _known_keys(where: str, given: Iterable[str], known: set[str]) -> None:
    for key in given:
        if key not in known:
            raise InputError(f"{where}.{key} is not a field there.{did_you_mean(key, known)}")


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Initialisation draws from torch's CPU generator; it is put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_key(seed, "init") >> 1)
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and log lines of transformers: what matters of them is reported by us."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _other_shape(kind: Any, config: PreTrainedConfig, vetted: Vetted) -> str:
    """The first weight whose shape is not the one that the config asks for."""
    with torch.device("meta"), quiet():
        asked = {name: list(tensor.shape) for name, tensor in kind.from_config(config).state_dict().items()}
    for file in vetted.weights:
        for name, entry in safetensors_header(file).items():
            if name in asked and list(entry["shape"]) != asked[name]:
                return f"{name} is {entry['shape']} in {file.name}, where config.json asks for {asked[name]}."
    return ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
