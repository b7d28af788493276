"""A program of its own that imports Nurture and peft, and knows nothing else of either."""

import subprocess
import sys

import pytest
import torch
from adapted import adapted, gap, learn, make_base, save

from nurture.methods import SFT
from nurture.models.layouts import set_layout

PROGRAM = """
import sys
{first}
import torch
from transformers import AutoModelForCausalLM
{then}
model = AutoModelForCausalLM.from_pretrained({base!r}, dtype=torch.float32)
model = PeftModel.from_pretrained(model, {folder!r}).eval()
with torch.no_grad():
    torch.save(model(input_ids=torch.arange(11)[None]).logits, {out!r})
import inspect, importlib.util, peft
assert importlib.util.find_spec("peft").loader is not None and peft.__loader__ is peft.__spec__.loader
assert "def get_peft_model" in inspect.getsource(peft.get_peft_model)
assert type(peft.__loader__).__module__ != "nurture.with_peft"
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A base, a bottleneck adapter on it, and what the two say."""
    folder = tmp_path_factory.mktemp("told")
    base = make_base(folder / "base")
    loaded = adapted(base, "bottleneck")
    roles, _ = learn(loaded, SFT(), steps=5)
    save(loaded, roles, folder / "adapter")
    set_layout(loaded.model, "rows")
    with torch.no_grad():
        return base, folder / "adapter", loaded.model(input_ids=torch.arange(11)[None]).logits


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param("import nurture", "from peft import PeftModel", id="nurture first"),
        pytest.param(
            "import importlib.util\nimport nurture\nimportlib.util.find_spec('peft')",
            "from peft import PeftModel",
            id="looked for before",
        ),
        pytest.param("from peft import PeftModel", "import nurture", id="peft first"),
    ],
)
@pytest.mark.long
def test_a_bottleneck_adapter_loads_once_nurture_is_imported(told, tmp_path, first, then):
    base, folder, expected = told
    program = PROGRAM.format(first=first, then=then, base=str(base), folder=str(folder), out=str(tmp_path / "logits"))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert gap(torch.load(tmp_path / "logits", weights_only=True), expected) < 1e-5


def test_importing_nurture_imports_neither_peft_nor_torch():
    program = "import sys, nurture; print([name for name in ('peft', 'torch', 'pydantic') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
