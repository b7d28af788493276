"""The families of instructions: one file each, three verbs each, and this table of them."""

from __future__ import annotations

from . import (
    arithmetic,
    benign,
    classify,
    compare,
    count,
    followup,
    format,
    harmful,
    lookup,
    rewrite,
    sort,
    spell,
    story,
    unanswerable,
)
from .family import Family

FAMILIES: dict[str, Family] = {
    family.NAME: family
    for family in (
        lookup,
        compare,
        count,
        arithmetic,
        sort,
        spell,
        format,
        rewrite,
        story,
        classify,
        unanswerable,
        harmful,
        benign,
        followup,
    )
}
