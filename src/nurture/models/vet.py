"""A model folder is untrusted input: it is read here, with `json` alone, before any library may act on it.

Three things in a folder can run code or reach outside it: pickles, Python files, and configuration keys that name code,
kernels or other files. `trust_remote_code=False` has been bypassed by each of them, so Nurture never relies on it: what
is not on the short list below is refused, with the rule and the file named.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError, did_you_mean

PICKLES = frozenset(
    {".bin", ".ckpt", ".dill", ".h5", ".joblib", ".mdl", ".msgpack", ".pickle", ".pkl", ".pt", ".pth"},
)
TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt")
"""Any one of these makes a tokenizer (`vocab.json` with its `merges.txt`)."""

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SETTINGS = re.compile(
    r"[\w.-]*config\.json|special_tokens_map\.json|chat_template\.json|model\.safetensors\.index\.json"
)
"""The JSON files that transformers reads settings from (in the others the keys are tokens, or nobody reads them)."""

RUNS_CODE = {
    "auto_map": "names Python code that the folder brings along",
    "custom_generate": "names Python code that the folder brings along",
    "attn_implementation": "can name a kernel to download and run",
    "experts_implementation": "can name a kernel to download and run",
    "kernel_config": "can name a kernel to download and run",
    "fusion_config": "rewires the classes of the library",
    "transformers_weights": "names other weight files than the ones that are vetted",
    "configuration_files": "names another configuration than the one that is vetted",
}

SEQ2SEQ = {"t5": "T5ForConditionalGeneration", "mt5": "MT5ForConditionalGeneration"}
"""Encoder-decoders that can be fine-tuned (mT0 is an `mt5`)."""

ENCODERS = ("bert", "distilbert", "albert", "deberta-v2", "modernbert")
"""Encoders that can be trained to judge: the last matrix of their sequence classifiers is `classifier`."""

HARMLESS: Mapping[str, type] = {
    "_name_or_path": str,
    "_from_model_config": bool,
    "_sliding_window_pattern": int,
    "_attn_implementation_autoset": bool,
}
"""Private keys that transformers itself writes (5.23: `_from_model_config` in every generation_config.json,
`_sliding_window_pattern` in Gemma 3; older ones the rest), each with the one type it may have. They steer nothing and
are removed before the configuration is used; every other key with a leading underscore is refused."""

SPECIAL_FLOATS = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}
LARGEST_JSON = 64 << 20
DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")


class VetError(InputError):
    """A model folder broke `rule` (a word in capitals) in `file`."""

    def __init__(self, file: Path, rule: str, message: str):
        super().__init__(f"{file} {rule} {message}")
        self.file, self.rule = file, rule


@dataclass(frozen=True, slots=True)
class Vetted:
    """What may be loaded: the settings without their private keys, and the weight files in order."""

    folder: Path
    model_type: str
    architecture: str
    config: Mapping[str, Any]
    generation: Mapping[str, Any] | None
    weights: tuple[Path, ...]
    digest: str


Allowed = Literal["causal", "reward", "trunk"]


def vet(folder: Path, *, allow: Allowed = "causal") -> Vetted:
    """Read a model folder and refuse it unless it is a causal language model that cannot run code of its own; with
    `reward`, a sequence classifier on such a model's trunk is welcome, too, and so are encoders; with `trunk`, whatever
    `AutoModel` knows."""
    folder, names = _listing(folder)
    if "adapter_config.json" in names:
        _refuse_adapter(folder)
    if "config.json" not in names:
        found = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise VetError(folder, "NO_CONFIG", f"has no config.json; it holds {found}.")
    settings = _settings(folder, names)
    config = settings["config.json"]
    model_type, architecture = _architecture(folder / "config.json", config, allow)
    weights = _weights(folder, names, settings)
    _require_tokenizer(folder, names)
    generation = settings.get("generation_config.json")
    return Vetted(folder, model_type, architecture, config, generation, weights, model_digest(folder))


def vet_adapter(folder: Path) -> tuple[Path, dict[str, Any], dict[str, Any] | None]:
    """The same rules for a PEFT adapter folder: its adapter_config.json and, where it has one, nurture_adapter.json."""
    folder, names = _listing(folder)
    settings = _settings(folder, names)
    if "adapter_model.safetensors" not in names:
        raise VetError(folder, "NO_WEIGHTS", "has an adapter_config.json and no adapter_model.safetensors.")
    safetensors_header(folder / "adapter_model.safetensors")
    declared = folder / "nurture_adapter.json"
    return folder, settings["adapter_config.json"], read_settings(declared) if declared.exists() else None


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).exists() for name in TOKENIZERS)


def vet_tokenizer(folder: Path) -> Path:
    """The same rules for a folder of which only the tokenizer is wanted."""
    folder, names = _listing(folder)
    _require_tokenizer(folder, names)
    _settings(folder, names)
    return folder


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON object of settings, without its harmless private keys; keys that could act are errors."""
    _require_file(path)
    if path.stat().st_size > LARGEST_JSON:
        raise VetError(path, "TOO_LARGE", f"is larger than {LARGEST_JSON >> 20} MiB, which no settings file is.")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise VetError(path, "BAD_JSON", f"line {error.lineno} column {error.colno}: {error.msg}.") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise VetError(path, "BAD_JSON", f"is not JSON in UTF-8 ({type(error).__name__}).") from None
    if path.name == INDEX:  # the keys of an index are tensor names
        return _mapping(path, settings)
    return vet_settings(path, _mapping(path, settings))


def is_reward_model(source: Path | str) -> bool:
    """Whether a folder says that it holds a model which judges: one of ours, or a sequence classifier."""
    folder = Path(source).expanduser()
    for name in ("nurture_adapter.json", "config.json"):
        if (folder / name).is_file():
            settings = read_settings(folder / name)
            kinds: list[str] = settings.get("architectures") or []
            return "reward" in settings or any(kind.endswith("ForSequenceClassification") for kind in kinds)
    return False


def vet_settings(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings without their harmless private keys, at any depth. `path` only names them in messages."""
    kept: dict[str, Any] = {}
    for key, value in settings.items():
        if key in RUNS_CODE and value is not None:
            raise VetError(
                path, "RUNS_CODE", f"has the key {key!r}, which {RUNS_CODE[key]}: remove it if the model works without."
            )
        if key == "quantization_config" and value is not None:
            raise VetError(path, "QUANTIZED", "describes quantised weights, which cannot be trained: use the original.")
        if key.startswith("_"):
            if type(value) is not HARMLESS.get(key):
                known = f" with a value that is not a plain {HARMLESS[key].__name__}" if key in HARMLESS else ""
                raise VetError(path, "PRIVATE_KEY", f"has the private key {key!r}{known}: remove it.")
            continue
        kept[key] = _vet_value(path, value)
    return kept


def _vet_value(path: Path, value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"__float__"} and value["__float__"] in SPECIAL_FLOATS:  # how transformers writes infinity
            return SPECIAL_FLOATS[value["__float__"]]
        return vet_settings(path, value)
    return [_vet_value(path, item) for item in value] if isinstance(value, list) else value


def _require_file(path: Path) -> None:
    if not path.is_file() or not os.access(path, os.R_OK):
        raise VetError(path, "UNREADABLE", "is not a file that can be read: check what it is and who may read it.")


def _mapping(path: Path, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise VetError(path, "BAD_JSON", f"holds a {type(value).__name__} where an object of settings belongs.")
    return value


def _listing(folder: Path) -> tuple[Path, list[str]]:
    folder = Path(folder)
    if not folder.exists():
        raise VetError(folder, "MISSING", "does not exist.")
    if not folder.is_dir():
        raise VetError(folder, "NOT_A_FOLDER", "is a file: give the folder that holds config.json and the weights.")
    folder = folder.resolve()
    names = sorted(entry.name for entry in os.scandir(folder))
    if not names:
        raise VetError(folder, "EMPTY_FOLDER", "holds no files: give a folder with config.json and *.safetensors.")
    return folder, names


def _settings(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """The settings in every JSON file of a folder that holds nothing that could run."""
    _refuse_links_and_code(folder)
    for name in names:
        if Path(name).suffix.lower() in PICKLES:
            raise VetError(
                folder / name,
                "PICKLE",
                "is or may be a pickle, which can run code when opened: remove it; weights are read from safetensors.",
            )
    return {n: read_settings(folder / n) for n in names if SETTINGS.fullmatch(n)}


def _require_tokenizer(folder: Path, names: list[str]) -> None:
    if not any(n in names for n in TOKENIZERS):
        raise VetError(folder, "NO_TOKENIZER", "has no tokenizer (tokenizer.json or tokenizer.model): copy it there.")


def _refuse_adapter(folder: Path) -> None:
    path = folder / "adapter_config.json"
    adapter = read_settings(path)
    kind, base = (
        adapter.get("peft_type", "unknown"),
        adapter.get("base_model_name_or_path") or "a base it does not name",
    )
    raise VetError(
        path,
        "ADAPTER",
        f"makes this a PEFT adapter ({kind}) on {base}, not a model: give the base, or merge the adapter into it.",
    )


def _refuse_links_and_code(folder: Path) -> None:
    for path in _walk(folder):
        if path.is_symlink() and not _stays_inside(folder, path):
            raise VetError(
                path, "LINK", f"is a link to {os.readlink(path)!r}, which is not in the folder: copy the file."
            )
        if path.suffix.lower() in (".py", ".pyc", ".so"):
            raise VetError(path, "CODE", "is code, and a model folder holds none: remove it.")
        if path.parent == folder and (path.name == ".metadata" or DISTRIBUTED.fullmatch(path.name)):
            raise VetError(
                path, "DISTRIBUTED", "is part of a distributed checkpoint, whose metadata is a pickle: convert it."
            )


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, followlinks=False):
        yield from (Path(parent, name) for name in sorted((*folders, *files)))


def _stays_inside(folder: Path, link: Path) -> bool:
    """True for a link to something in `folder`, or of exactly the shape of the hub's cache:
    `models--*/snapshots/REVISION/FILE -> models--*/blobs/DIGEST`."""
    target = link.resolve()
    if not target.exists():
        return False
    if target.is_relative_to(folder):
        return True
    repository = folder.parent.parent
    in_cache = folder.parent.name == "snapshots" and repository.name.startswith("models--")
    return in_cache and target.is_file() and target.parent == repository / "blobs"


def _architecture(path: Path, config: Mapping[str, Any], allow: Allowed) -> tuple[str, str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as DECODERS
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES as TRUNKS

    CAUSAL = DECODERS | {kind: SEQ2SEQ[kind] for kind in SEQ2SEQ if kind not in DECODERS}
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise VetError(path, "ARCHITECTURE", "has no model_type, so nobody can tell which model this is.")
    if allow == "trunk" and isinstance(trunk := TRUNKS.get(model_type), str):
        return model_type, trunk
    decoder = CAUSAL.get(model_type)
    declared = config.get("architectures") or [decoder]
    if model_type in ENCODERS and isinstance(declared, list) and (decoder is None or decoder not in declared):
        if allow == "reward":
            return model_type, str(CLASSIFIERS[model_type])
        raise VetError(
            path, "ARCHITECTURE", "is an encoder, which reads texts and cannot write any: train it with method reward, "
            "or use a language model.",
        )  # fmt: skip
    if model_type not in CAUSAL:
        raise VetError(
            path,
            "ARCHITECTURE",
            f"has model_type {model_type!r}, which is no causal language model of the installed transformers."
            + did_you_mean(model_type, CAUSAL),
        )
    architecture = CAUSAL[model_type]
    assert isinstance(architecture, str)
    classifier = CLASSIFIERS.get(model_type)
    if isinstance(declared, list) and isinstance(classifier, str) and classifier in declared:
        if allow == "reward":
            return model_type, classifier
        raise VetError(
            path, "ARCHITECTURE", f"is a {classifier}, which scores texts and cannot write any; use a language model."
        )
    if not isinstance(declared, list) or architecture not in declared:
        raise VetError(path, "ARCHITECTURE", f"has architectures {declared}; {model_type!r} must be a {architecture}.")
    return model_type, architecture


def _weights(folder: Path, names: list[str], settings: Mapping[str, Mapping[str, Any]]) -> tuple[Path, ...]:
    for name in names:
        if name.endswith((".bin.index.json", ".h5.index.json", ".msgpack.index.json")):
            raise VetError(folder / name, "PICKLE", "is an index of pickled weights: remove it.")
    if SINGLE in names and INDEX in names:
        raise VetError(folder / INDEX, "TWO_WEIGHTS", f"stands beside {SINGLE}: keep the one that is the model.")
    if SINGLE in names:
        safetensors_header(folder / SINGLE)
        return (folder / SINGLE,)
    if INDEX in names:
        return _shards(folder / INDEX, settings[INDEX])
    other = [n for n in names if n.endswith((".safetensors", ".gguf", ".onnx"))]
    found = f"; {', '.join(other)} is not what transformers loads" if other else ""
    raise VetError(folder, "NO_WEIGHTS", f"has no {SINGLE} and no {INDEX}{found}.")


def _shards(index: Path, settings: Mapping[str, Any]) -> tuple[Path, ...]:
    where = settings.get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(shard, str) for shard in where.values()):
        raise VetError(index, "SHARD_NAME", "has no weight_map from tensor names to shard names.")
    held: dict[str, set[str]] = {}
    for shard in sorted(set(where.values())):
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors", shard):
            raise VetError(
                index, "SHARD_NAME", f"names the shard {shard!r}, which is not a *.safetensors file beside it."
            )
        if not (index.parent / shard).is_file():
            raise VetError(index, "SHARD_MISSING", f"names the shard {shard!r}, which is not in the folder.")
        held[shard] = set(safetensors_header(index.parent / shard))
    for tensor, shard in where.items():
        if tensor not in held[shard]:
            raise VetError(index, "SHARD_NAME", f"says {tensor!r} is in {shard!r}, which does not hold it.")
    return tuple(index.parent / shard for shard in held)


def safetensors_header(path: Path) -> dict[str, Mapping[str, Any]]:
    """Tensor name -> its entry. A file that is not as long as its header says is an error with both sizes."""
    _require_file(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, 100_000_000):
            raise VetError(path, "TRUNCATED", f"has {size} bytes and no complete safetensors header: fetch it again.")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        ends = [int(entry["data_offsets"][1]) for entry in header.values()]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise VetError(path, "BAD_HEADER", "has a header that is not safetensors: fetch the file again.") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise VetError(path, "TRUNCATED", f"has {size} bytes where its header says {expected}: fetch the file again.")
    return header


def model_digest(folder: Path) -> str:
    """SHA-256 over name and content of everything that makes the model: weights, settings, tokenizer, chat template."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).iterdir()):
        if path.suffix in (".safetensors", ".json", ".jinja", ".model", ".txt"):
            status = path.stat()
            digest.update(f"{path.name}\x1f{file_digest(path, status.st_size, status.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=4096)
def file_digest(path: Path, size: int, modified_ns: int) -> str:
    """SHA-256 of a file, remembered within this process for as long as its size and modification time stay."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
