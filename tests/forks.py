"""Real runs in processes of their own, each of which may be killed: a server that has imported everything once and
forks for every run, so that a hundred of them take a minute.

    python tests/forks.py   reads one JSON object a line, with what `Forks.train` was given, and answers each with the
                            exit status and what the run printed.
"""

import contextlib
import functools
import gc
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path


class Forks:
    """The client's end, for tests."""

    def __init__(self):
        env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def train(self, method, *words, env=None, kill=None, groups_of=1, ranks=1, threads=1, cwd="."):
        """(exit code, or minus the signal; output) of `nurture train METHOD WORDS`, killed, where `kill` is
        (file, rows, seconds), so long after the file has so many rows. With several `ranks` it runs in as many
        processes, as torchrun would start them (`kill` is rank 0's); the code is the first that is not 0."""
        asked = {"method": method, "words": words, "env": env or {}, "kill": kill, "groups_of": groups_of}
        asked |= {"ranks": ranks, "threads": threads, "cwd": str(cwd)}
        self.server.stdin.write(json.dumps(asked) + "\n")
        self.server.stdin.flush()
        answer = json.loads(self.server.stdout.readline())
        self.seconds = answer["seconds"]
        return answer["code"], answer["output"]

    def close(self):
        self.server.stdin.close()
        self.server.wait(30)


def serve():
    # Imported once, for every fork.
    from transformers import AutoTokenizer, LlamaForCausalLM  # noqa: F401

    import nurture.report
    import nurture.rollout.sampler
    import nurture.run  # noqa: F401

    gc.collect()
    gc.freeze()  # no collection in a fork goes through them again
    for line in sys.stdin:
        asked = json.loads(line)
        reading, writing = os.pipe()
        started = time.monotonic()
        pids = []
        for told in ranks_told(asked["ranks"]):
            pids.append(os.fork())
            if pids[-1] == 0:
                os.close(reading)
                os.dup2(writing, 1)
                os.dup2(writing, 2)
                os.environ.update(told)
                os._exit(one(asked))
        os.close(writing)
        if asked["kill"] is not None:
            kill_when(pids[0], *asked["kill"])
        output = b""
        while piece := os.read(reading, 1 << 16):
            output += piece
        os.close(reading)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        code = next((code for code in codes if code), 0)
        answer = {"code": code, "output": output.decode(errors="replace"), "seconds": time.monotonic() - started}
        print(json.dumps(answer), flush=True)


def ranks_told(count):
    """What a launcher tells each rank in its environment."""
    if count == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {
            "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free.getsockname()[1]),
            "WORLD_SIZE": str(count),
        }
    return [place | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def kill_when(pid, file, rows, seconds):
    """Kill the run so many seconds after it has written so many rows, unless it ends before."""
    over = functools.partial(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    while not over() and (not os.path.exists(file) or Path(file).read_bytes().count(b"\n") < rows):
        time.sleep(0.002)
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def one(asked):
    import torch
    from rich.console import Console

    import nurture.run
    import nurture.setup
    from nurture import api
    from nurture.errors import NurtureError
    from nurture.train.checkpoint import CheckpointStore
    from nurture.types import Group

    os.environ.update(asked["env"])
    torch.set_num_threads(asked["threads"])
    os.chdir(asked["cwd"])
    # Several tensor files a checkpoint, as a large model has.
    nurture.run.CheckpointStore = functools.partial(CheckpointStore, shard_bytes=1 << 17)
    if (n := asked["groups_of"]) > 1:  # the shape of GRPO before there is one: n responses to one prompt
        prepare = nurture.setup.prepare

        def grouped(*args, **kwargs):
            prepared = prepare(*args, **kwargs)
            some = [prepared.groups[i : i + n] for i in range(0, len(prepared.groups), n)]
            merged = [Group(g[0].prompt, tuple(r for x in g for r in x.responses), g[0].key) for g in some]
            object.__setattr__(prepared, "groups", merged)
            return prepared

        nurture.setup.prepare = grouped
    try:
        api.train(asked["method"], asked["words"], console=Console(file=sys.stdout, width=200))
    except NurtureError as error:
        print(f"nurture: error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BaseException:
        text = io.StringIO()
        traceback.print_exc(file=text)
        print(text.getvalue())
        return 1
    finally:
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    serve()
