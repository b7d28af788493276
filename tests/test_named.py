"""Code of one's own: found in files, packages and the current folder; what cannot be found is one sentence."""

import re
import sys

import pytest

from nurture.errors import InputError
from nurture.named import named_object
from nurture.rewards.registry import reward_class, reward_from, reward_name


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def mine(tmp_path):
    folder = tmp_path / "my rewards"
    folder.mkdir()
    (folder / "beside_it.py").write_text("WORTH = 3.0\n")
    (folder / "own_rewards.py").write_text(
        "from nurture.rewards.reward import Reward\n"
        "from beside_it import WORTH\n"
        "def worth(answers):\n"
        "    return [WORTH for _ in answers]\n"
        "class Mine(Reward):\n"
        "    name: str = 'mine'\n"
    )
    return folder / "own_rewards.py"


def test_in_a_file_by_any_path_with_what_lies_beside_it(mine, monkeypatch):
    assert named_object("reward", f"{mine}:worth")([1, 2]) == [3.0, 3.0]
    monkeypatch.chdir(mine.parent.parent)
    assert named_object("reward", "my rewards/own_rewards.py:worth")([1]) == [3.0]
    monkeypatch.chdir(mine.parent)
    assert named_object("reward", "own_rewards.py:worth")([1]) == [3.0]
    assert named_object("reward", "own_rewards:worth")([1]) == [3.0]


def test_the_same_file_is_loaded_once_and_another_of_its_name_is_another(mine, tmp_path, monkeypatch):
    monkeypatch.chdir(mine.parent)
    first = named_object("reward", "own_rewards.py:worth")
    assert named_object("reward", "own_rewards.py:worth") is first
    assert named_object("reward", "./own_rewards.py:worth") is first
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "own_rewards.py").write_text("def worth(answers): return []\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert named_object("reward", "own_rewards.py:worth")([1]) == []


def test_a_class_in_a_file_has_a_name_that_reads_back(mine):
    reward = reward_from({"name": f"{mine}:Mine"})
    assert reward_class(reward_name(reward)) is type(reward)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("no/such/file.py:worth", "reward 'no/such/file.py:worth': there is no file no/such/file.py."),
        ("own_rewards.py:wort", "reward 'own_rewards.py:wort': own_rewards.py has no 'wort'. Did you mean 'worth'?"),
        (
            "wrong.py:worth",
            "reward 'wrong.py:worth': wrong.py cannot be imported: ZeroDivisionError: division by zero (",
        ),
        ("typo.py:worth", "reward 'typo.py:worth': typo.py cannot be imported: SyntaxError: "),
        ("typo:worth", "reward 'typo:worth': typo cannot be imported: SyntaxError: "),
        ("lacks.py:worth", "reward 'lacks.py:worth': no module named 'not_installed' can be found from here."),
        (
            "opens.py:worth",
            "opens.py cannot be imported: FileNotFoundError: [Errno 2] No such file or directory: 'words.txt'",
        ),
        ("nowhere:worth", "reward 'nowhere:worth': no module named 'nowhere' can be found from here."),
    ],
)
def test_what_cannot_be_found_is_one_sentence(mine, monkeypatch, path, sentence):
    monkeypatch.chdir(mine.parent)
    (mine.parent / "wrong.py").write_text("1 / 0\n")
    (mine.parent / "opens.py").write_text("open('words.txt')\n")
    (mine.parent / "typo.py").write_text("def worth(answers:\n")
    (mine.parent / "lacks.py").write_text("import not_installed\n")
    with pytest.raises(InputError, match=re.escape(sentence)):
        named_object("reward", path)


def test_a_file_that_was_mended_is_read_again(mine, monkeypatch):
    monkeypatch.chdir(mine.parent)
    mine.write_text("1 / 0\n")
    with pytest.raises(InputError):
        named_object("reward", "own_rewards.py:worth")
    mine.write_text("def worth(answers): return [7.0 for _ in answers]\n")
    assert named_object("reward", "own_rewards.py:worth")([1]) == [7.0]
