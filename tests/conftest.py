import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before torch is imported: two test processes share the cores, and a thread waiting for a core stalls its whole team.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["NURTURE_CACHE"] = ""  # what an earlier test left behind must not stand in for the code
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent))

# How long an example takes is the machine's affair; a busy one must not turn a right answer into a failure.
settings.register_profile(
    "nurture", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("nurture")


@pytest.fixture(autouse=True, scope="module")
def old_objects_stay():
    """Every run begins with a garbage collection, which need not go through all that was imported before."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def forks():
    """Runs in processes of their own, each of which may be killed."""
    from forks import Forks

    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture
def small_disk(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "nurture-test", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk is not permitted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
