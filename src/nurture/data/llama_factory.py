"""LLaMA-Factory's dataset_info.json: which file, which format, and whose column is which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, did_you_mean

OUR_COLUMNS = {
    "alpaca": {
        "prompt": "instruction", "query": "input", "response": "output", "history": "history", "system": "system",
        "chosen": "chosen", "rejected": "rejected", "kto_tag": "label",
    },
    "sharegpt": {
        "messages": "conversations", "system": "system", "tools": "tools", "chosen": "chosen", "rejected": "rejected",
        "kto_tag": "label",
    },
    "openai": {"messages": "messages", "tools": "tools", "kto_tag": "label"},
}  # fmt: skip
"""Its names of columns, and ours."""

DEFAULTS = {
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output"},
    "sharegpt": {"messages": "conversations"},
    "openai": {"messages": "conversations"},
}
"""Where an entry names no columns it reads these, and no others."""

TAGS = {
    "role_tag": "role", "content_tag": "content", "user_tag": "role.user", "assistant_tag": "role.assistant",
    "observation_tag": "role.tool", "function_tag": "role.function_call", "system_tag": "role.system",
}  # fmt: skip

OTHER_KEYS = ("hf_hub_url", "file_name", "formatting", "ranking", "subset", "split", "columns", "tags")
ELSEWHERE = ("ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")


@dataclass(frozen=True)
class Entry:
    file: str
    hub: str | None
    config: str | None
    split: str | None
    format: str
    columns: Mapping[str, str]


def dataset_info(entry: Mapping[str, Any], where: str) -> Entry:
    """One entry of the file, read as its own program reads it: what it does not list is not used."""
    _refuse_unread(entry, where)
    if entry.get("file_name") is None and entry.get("hf_hub_url") is None:
        raise InputError(f"{where}: names no file_name and no hf_hub_url.")
    form = entry.get("formatting", "alpaca")
    if form not in OUR_COLUMNS:
        raise InputError(
            f"{where}: formatting {form!r} is not alpaca, sharegpt or openai.{did_you_mean(form, OUR_COLUMNS)}"
        )
    ours = OUR_COLUMNS[form]
    listed: Mapping[str, str] = entry.get("columns") or DEFAULTS[form]
    if unknown := [c for c in listed if c not in ours]:
        raise InputError(f"{where}: columns {', '.join(unknown)} are not read here; there are {', '.join(ours)}.")
    columns = {ours[theirs]: listed.get(theirs, "") for theirs in ours}
    format = _format(form, listed, bool(entry.get("ranking")))
    if format == "text":
        columns = {"text": listed["prompt"]}
    columns = {our: their for our, their in columns.items() if our != their}
    for tag, word in (entry.get("tags") or {}).items():
        if tag not in TAGS:
            raise InputError(f"{where}: tags: {tag!r} is not known.{did_you_mean(tag, TAGS)}")
        columns[TAGS[tag]] = word
    # A local file goes before a name on the hub, which may not be reachable.
    hub = entry.get("hf_hub_url") if entry.get("file_name") is None else None
    return Entry(entry.get("file_name") or "", hub, entry.get("subset"), entry.get("split"), format, columns)


def _format(form: str, listed: Mapping[str, str], ranking: bool) -> str:
    labelled = "kto_tag" in listed
    if form == "alpaca":
        if not ranking and not labelled and "response" not in listed:
            return "text"  # a prompt alone is a document to pretrain on
        return "pair_instruction" if ranking else "kto_instruction" if labelled else "alpaca"
    if form == "sharegpt":
        return "pair_conversations" if ranking else "kto_conversations" if labelled else "sharegpt"
    return "kto_messages" if labelled else "messages"


def _refuse_unread(entry: Mapping[str, Any], where: str) -> None:
    if found := [
        key for key in ELSEWHERE if entry.get(key) and not entry.get("file_name") and not entry.get("hf_hub_url")
    ]:
        raise InputError(f"{where}: {found[0]} is not read here; fetch the data and give its file_name.")
    unknown = [key for key in entry if key not in OTHER_KEYS + ELSEWHERE]
    if unknown:
        raise InputError(
            f"{where}: {', '.join(unknown)} would change which rows are used and is not read here; "
            f"remove it and choose the rows yourself.{did_you_mean(unknown[0], OTHER_KEYS)}"
        )
    media = [c for c in ("images", "videos", "audios") if c in (entry.get("columns") or {})]
    if media:
        raise InputError(f"{where}: {', '.join(media)} are not read here; only text is.")
