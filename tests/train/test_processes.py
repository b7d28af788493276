"""Two real gloo ranks against NumPy, and one process that needs no torch.distributed."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nurture.errors import InputError
from nurture.train.launch import launch
from nurture.train.processes import Processes, _buckets, from_environment

CPU = torch.device("cpu")
PRELUDE = """
import json, os, sys
from pathlib import Path
import numpy as np
import torch
from nurture.errors import NurtureError
from nurture.train.processes import from_environment
out = Path(os.environ["OUT"])
torch.set_num_threads(1)
def inputs(rank):
    rng = np.random.default_rng(rank)
    return [rng.standard_normal((3, 5)).astype(np.float32), rng.standard_normal(7), rng.integers(0, 99, (2, 2)),
            rng.standard_normal((40, 30)).astype(np.float32), rng.standard_normal(()).astype(np.float32)]
"""

SUMS = """
with from_environment(torch.device("cpu"), timeout=60) as processes:
    rank = processes.rank
    assert processes.world_size == 2
    processes.bucket_bytes = 256
    values = {"tokens": 10.0 + rank, "loss": 0.1 * (rank + 1)}
    sums = processes.all_sum(dict(reversed(values.items())) if rank else values)
    tensors = [torch.from_numpy(a.copy()) for a in inputs(rank)]
    tensors[3] = tensors[3].T  # not contiguous, and larger than a bucket
    parameter = torch.nn.Parameter(torch.full((4,), float(rank)))
    processes.all_sum_tensors([*tensors, parameter])
    sent = [torch.from_numpy(a.copy()) for a in inputs(rank)]
    processes.broadcast(sent)
    flags = [processes.any(rank == 1), processes.any(False), processes.any(True)]
    assert processes.all_sum({}) == {}
    said = [{"text": "é" * 1000 * rank, "logp": np.float32(-0.1).item()}, None][: 2 - rank]
    told = processes.gather(said)
    assert told == [[{"text": "", "logp": said[0]["logp"]}, None], [{"text": "é" * 1000, "logp": said[0]["logp"]}]]
    assert np.float32(told[0][0]["logp"]) == np.float32(-0.1)
    processes.barrier()
    arrays = {f"sum{i}": t.numpy() for i, t in enumerate(tensors)} | {f"sent{i}": t.numpy() for i, t in enumerate(sent)}
    np.savez(out / f"arrays-{rank}.npz", parameter=parameter.detach().numpy(), **arrays)
    (out / f"said-{rank}").write_text(json.dumps({"sums": sums, "flags": flags}))
"""


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OUT", str(tmp_path))
    return tmp_path


def inputs(rank: int) -> list[np.ndarray]:
    names: dict[str, object] = {}
    exec(PRELUDE, names)
    return names["inputs"](rank)  # type: ignore[operator]


def start(out: Path, script: str) -> int:
    return launch([sys.executable, "-c", PRELUDE + script], 2, out / "ranks", 60, 60)


def check_sums(out: Path) -> None:
    a, b = inputs(0), inputs(1)
    for rank in (0, 1):
        arrays = np.load(out / f"arrays-{rank}.npz")
        for i in range(len(a)):
            expected = (a[i] + b[i]).T if i == 3 else a[i] + b[i]
            np.testing.assert_array_equal(arrays[f"sum{i}"], expected)
            np.testing.assert_array_equal(arrays[f"sent{i}"], a[i])
        np.testing.assert_array_equal(arrays["parameter"], np.ones(4))
    said = (out / "said-0").read_text()
    assert said == (out / "said-1").read_text()
    assert said == f'{{"sums": {{"loss": {0.1 + 0.2!r}, "tokens": 21.0}}, "flags": [true, false, true]}}'


def test_two_ranks_sum_what_numpy_sums(out: Path):
    assert start(out, SUMS) == 0, (out / "ranks" / "rank-0.log").read_text()
    check_sums(out)


@pytest.mark.slow
def test_torchrun_works_too(out: Path):
    (out / "script.py").write_text(PRELUDE + SUMS)
    torchrun = shutil.which("torchrun", path=str(Path(sys.executable).parent))
    assert torchrun is not None
    command = [torchrun, "--standalone", "--nproc-per-node=2", str(out / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    check_sums(out)


def test_ranks_that_disagree_fail_and_a_lost_partner_is_noticed(out: Path, capfd: pytest.CaptureFixture[str]):
    script = """
processes = from_environment(torch.device("cpu"), timeout=60)
rank = processes.rank
seen = []
for call in (
    lambda: processes.all_sum({"tokens": 1.0} if rank else {"loss": 1.0, "tokens": 1.0}),
    lambda: processes.all_sum_tensors([torch.ones(3 + rank)]),
    lambda: processes.broadcast([torch.ones(3, dtype=torch.float64 if rank else torch.float32)]),
):
    try:
        call()
    except AssertionError as error:
        seen.append(str(error))
(out / f"seen-{rank}").write_text("\\n".join(seen))
processes.barrier()
if rank == 1:
    os.kill(os.getpid(), 9)
try:
    processes.all_sum({"tokens": 1.0})
except NurtureError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""
    assert start(out, script) == 4
    for rank in (0, 1):
        seen = (out / f"seen-{rank}").read_text().splitlines()
        assert len(seen) == 3 and all("the ranks disagree on" in line for line in seen)
    assert "rank 1 was lost (signal 9)" in capfd.readouterr().err
    assert "Rank 0 lost touch with the other ranks in" in (out / "ranks" / "rank-0.log").read_text()


@pytest.mark.slow
def test_a_rank_that_hangs_in_real_work_is_named_and_not_the_one_that_waits_for_it(
    out: Path, capfd: pytest.CaptureFixture[str]
):
    script = """
import time
from nurture.train.heartbeat import heartbeat
processes = from_environment(torch.device("cpu"))
for step in range(1, 9):
    heartbeat("forward", step)
    if processes.rank == 1 and step == 4:
        time.sleep(1000)
    processes.all_sum({"tokens": 1.0})
"""
    assert launch([sys.executable, "-c", PRELUDE + script], 2, out / "ranks", 60, 2) == 4
    err = capfd.readouterr().err
    assert "rank 1 hung for" in err and "in phase 'forward' of step 4; all ranks were ended" in err
    assert "rank 0, phase 'forward' of step 4, waiting in comparing arguments:" in err and "in all_sum" in err


def test_one_process_is_itself(out: Path):
    with from_environment(CPU) as processes:
        tensor = torch.arange(3.0)
        assert (processes.rank, processes.world_size, processes.local_rank) == (0, 1, 0)
        assert processes.all_sum({"a": 0.1}) == {"a": 0.1}
        processes.all_sum_tensors([tensor])
        processes.broadcast([tensor])
        processes.barrier()
        assert tensor.tolist() == [0, 1, 2] and processes.any(True) and not processes.any(False)
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0"}, "not WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}, "not MASTER_PORT"),
        ({"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "h", "MASTER_PORT": "1"}, "RANK='x'"),
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "h", "MASTER_PORT": "1"}, "not below"),
    ],
)
def test_a_half_told_environment_is_an_error(
    out: Path, environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as error:
        from_environment(CPU)
    assert message in str(error.value)


def test_a_world_of_one_is_one_process(out: Path, monkeypatch: pytest.MonkeyPatch):
    world = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "h", "MASTER_PORT": "1"}
    for name, value in world.items():
        monkeypatch.setenv(name, value)
    assert type(from_environment(CPU)) is Processes


def test_buckets_hold_like_with_like_in_order_and_not_too_much():
    tensors = [torch.ones(n, dtype=d) for n in (5, 90, 3, 3, 200, 1) for d in (torch.float32, torch.float64)]
    tensors += [torch.ones(n) for n in (10, 20, 60, 11)]
    buckets = list(_buckets(tensors, 400))
    assert [id(t) for bucket in buckets for t in bucket] == [id(t) for t in tensors]
    assert all(len(b) == 1 or sum(t.nbytes for t in b) <= 400 for b in buckets)
    assert all(len({t.dtype for t in b}) == 1 for b in buckets)
    assert [len(b) for b in buckets[-2:]] == [3, 1]
    assert list(_buckets([], 400)) == []
