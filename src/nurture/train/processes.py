"""The processes of a run as one: sums, agreements and barriers over ranks. One process alone pays nothing for them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import InputError, WorkerLost
from .guard import is_out_of_memory
from .heartbeat import install_child_handlers, waiting


class Processes:
    """A run of one process. Every verb is called by all ranks in the same order, or none of them returns."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    def all_sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over all ranks in float64; equal bits on every rank."""
        return dict(values)

    def all_sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over all ranks, in place."""

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give every rank the values of rank 0, in place."""

    def gather(self, value: Any) -> list[Any]:
        """What each rank gives, as JSON, in the order of the ranks."""
        return [value]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return flag

    def barrier(self) -> None:
        """Wait until every rank is here."""

    def close(self) -> None:
        """Part from the other ranks in good order."""

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:  # after an error the others may be gone, and parting in good order would wait for them
            self.close()


class ProcessGroup(Processes):
    """A rank among several: gloo between CPUs, NCCL between GPUs."""

    def __init__(
        self,
        rank: int,
        world_size: int,
        local_rank: int,
        device: torch.device,
        timeout: float,
        bucket_bytes: int = 64 << 20,
    ):
        self.rank, self.world_size, self.local_rank = rank, world_size, local_rank
        self.device, self.bucket_bytes = device, bucket_bytes
        if device.type == "cuda":
            torch.cuda.set_device(device)
        with self._reported("meeting the other ranks"):
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                rank=rank,
                world_size=world_size,
                timeout=timedelta(seconds=timeout),
                device_id=device if device.type == "cuda" else None,
            )

    def all_sum(self, values: Mapping[str, float]) -> dict[str, float]:
        names = sorted(values)
        self._assert_equal("the names given to all_sum", names)
        total = torch.tensor([values[name] for name in names], dtype=torch.float64, device=self.device)
        if names:
            with self._reported("all_sum"):
                dist.all_reduce(total)
        return dict(zip(names, total.tolist(), strict=True))

    def all_sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        self._assert_equal("the tensors given to all_sum_tensors", [f"{t.dtype}{list(t.shape)}" for t in tensors])
        with self._reported("all_sum_tensors"):
            self._in_buckets(tensors, dist.all_reduce)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        self._assert_equal("the tensors given to broadcast", [f"{t.dtype}{list(t.shape)}" for t in tensors])
        with self._reported("broadcast"):
            self._in_buckets(tensors, lambda flat: dist.broadcast(flat, src=0))

    def gather(self, value: Any) -> list[Any]:
        own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self.device)
        sizes = [torch.zeros(1, dtype=torch.long, device=self.device) for _ in range(self.world_size)]
        with self._reported("gather"):
            dist.all_gather(sizes, torch.tensor([len(own)], device=self.device))
            longest = max(int(size) for size in sizes)
            texts = [torch.zeros(longest, dtype=torch.uint8, device=self.device) for _ in sizes]
            dist.all_gather(texts, torch.nn.functional.pad(own, (0, longest - len(own))))
        return [json.loads(t[: int(n)].cpu().numpy().tobytes()) for t, n in zip(texts, sizes, strict=True)]

    def any(self, flag: bool) -> bool:
        flags = torch.tensor([int(flag)], device=self.device)
        with self._reported("any"):
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags.item())

    def barrier(self) -> None:
        self.any(False)

    def close(self) -> None:
        with self._reported("close"):
            self.barrier()
            dist.destroy_process_group()

    def _in_buckets(self, tensors: Sequence[Tensor], communicate: Callable[[Tensor], object]) -> None:
        """Communicate many small tensors as few flat ones; one that fills a bucket by itself goes without a copy."""
        for bucket in _buckets(tensors, self.bucket_bytes):
            if len(bucket) == 1 and bucket[0].is_contiguous():
                communicate(bucket[0].detach())
                continue
            flat = torch.cat([t.detach().reshape(-1) for t in bucket])
            communicate(flat)
            for tensor, summed in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                tensor.detach().copy_(summed.view(tensor.shape))

    def _assert_equal(self, what: str, words: Sequence[str]) -> None:
        """Ranks that disagree on what they communicate would hang, or sum one thing into another."""
        digest = hashlib.blake2b("\x1f".join(words).encode(), digest_size=8).digest()
        own = torch.tensor([int.from_bytes(digest, "little", signed=True)], device=self.device)
        low, high = own.clone(), own.clone()
        with self._reported("comparing arguments"):
            dist.all_reduce(low, op=dist.ReduceOp.MIN)
            dist.all_reduce(high, op=dist.ReduceOp.MAX)
        assert bool((low == high).item()), f"the ranks disagree on {what}; here: {list(words)[:8]}"

    @contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        """What torch raises when a partner is gone or late is a RuntimeError of many texts."""
        try:
            with waiting(what):
                yield
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            first_line = str(error).strip().split("\n")[0]
            raise WorkerLost(f"Rank {self.rank} lost touch with the other ranks in {what}: {first_line}") from error


def from_environment(device: torch.device, timeout: float = 1800) -> Processes:
    """The processes that a launcher (ours, or torchrun) has started this one among; without one, just this one.

    `timeout` is how many seconds a rank waits for the others, who may be saving. Under our launcher a watchdog knows
    who hangs and ends it sooner.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in names if name not in os.environ]
    if "RANK" in missing and "WORLD_SIZE" in missing:
        return Processes()
    if missing:
        raise InputError(f"The environment names some of a launcher's variables, but not {', '.join(missing)}.")
    numbers = []
    for name in names[:3]:
        if not os.environ[name].isdecimal():
            raise InputError(f"The environment variable {name}={os.environ[name]!r} is not a number.")
        numbers.append(int(os.environ[name]))
    rank, world_size, local_rank = numbers
    if rank >= world_size:
        raise InputError(f"RANK={rank} is not below WORLD_SIZE={world_size}.")
    if world_size == 1:
        return Processes()
    install_child_handlers()
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                f"{local_rank + 1} processes need as many GPUs; this machine has {torch.cuda.device_count()}."
            )
        device = torch.device("cuda", local_rank)
    return ProcessGroup(rank, world_size, local_rank, device, timeout)


def _buckets(tensors: Sequence[Tensor], max_bytes: int) -> Iterator[list[Tensor]]:
    """Consecutive tensors of one type and device, in lists of at most `max_bytes` (a larger tensor is alone)."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        alike = not bucket or (tensor.dtype == bucket[0].dtype and tensor.device == bucket[0].device)
        if bucket and (not alike or size + tensor.nbytes > max_bytes):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket
