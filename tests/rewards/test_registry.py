import json
import re
from pathlib import Path

import pytest

from nurture.lab.reward import LabReward
from nurture.rewards import ELSEWHERE, REWARDS, reward_class, reward_from, reward_name

NEEDED = {
    "regex": {"pattern": "a"}, "length": {"at_most": 3}, "overlong": {"max_length": 4, "cache": 2},
    "model": {"model": "rm"},
    "judge": {"url": "http://127.0.0.1:1/v1", "model": "m"}, "function": {"path": "builtins:len"},
    "sum": {"of": {"a": "exact"}},
    "ensemble": {"of": {"a": "exact", "b": "format"}}, "local-judge": {"model": "sft"},
    "product": {"of": {"a": "exact"}}, "gate": {"gate": "format", "reward": "exact"},
}  # fmt: skip


@pytest.mark.parametrize("name", [*REWARDS, *ELSEWHERE])
def test_every_reward_is_documented_and_goes_there_and_back(name):
    kind = reward_class(name)
    assert len(kind.__doc__.split()) > 4
    for field, about in kind.model_fields.items():
        assert field == "name" or about.description, f"{name}.{field} has no docstring"
    reward = reward_from({"name": name, **NEEDED.get(name, {})})
    assert reward.name == name == reward_name(reward)
    assert reward_from(reward.model_dump(mode="json")) == reward


def test_lab():
    assert reward_class("lab") is LabReward


PAGE = Path("docs/rewards.md").read_text()


@pytest.mark.parametrize("name", [*REWARDS, *ELSEWHERE])
def test_the_page_lists_it_with_all_its_fields(name):
    (row,) = re.findall(rf"^\| `{name}` \|.*$", PAGE, re.MULTILINE)
    for field, about in reward_class(name).model_fields.items():
        if field == "name":
            continue
        assert f"`{field}" in row, field
        if isinstance(about.default, (bool, int, float)):
            written = json.dumps(about.default) if isinstance(about.default, bool) else f"{about.default:g}"
            assert f"`{field}: {written}`".replace("-", "") in row.replace("−", "").replace("-", ""), field
