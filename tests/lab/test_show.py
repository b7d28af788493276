import io

import pytest
from rich.console import Console

from nurture.errors import InputError
from nurture.lab.families import FAMILIES
from nurture.lab.show import SECTIONS, show
from nurture.lab.world import build_world


def _printed(section: str, seed: int = 0) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(show(section, seed))
    return console.export_text()


@pytest.mark.parametrize("section", [*SECTIONS, *FAMILIES])
def test_every_section_prints(section: str):
    assert len(_printed(section)) > 200


def test_the_world_and_the_grades_are_the_real_ones():
    assert build_world(3).people[0].name in _printed("world", 3)
    grades = _printed("grades")
    assert "declines a harmless request" in grades and "0.70" in grades


def test_markup_in_an_answer_is_shown_not_obeyed():
    assert "<think>" in _printed("arithmetic")


def test_an_unknown_section_is_named_with_its_likely_meaning():
    with pytest.raises(InputError, match="Did you mean 'world'"):
        show("wold")
