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
    lookup.NAME: lookup,
    compare.NAME: compare,
    count.NAME: count,
    arithmetic.NAME: arithmetic,
    sort.NAME: sort,
    spell.NAME: spell,
    format.NAME: format,
    rewrite.NAME: rewrite,
    story.NAME: story,
    classify.NAME: classify,
    unanswerable.NAME: unanswerable,
    harmful.NAME: harmful,
    benign.NAME: benign,
    followup.NAME: followup,
}
