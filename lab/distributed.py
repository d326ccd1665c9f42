"""Training with several processes, started by ``torchrun --nproc-per-node=N train.py …``; without torchrun, one process.

Each rank takes its part of every batch and of valid. Torch's DistributedDataParallel averages the gradients. Only the first rank
prints and writes files. Batch norm's statistics are those of the rank's own part, as with ``--accumulate``.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from lab.terminal import silence

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, and the number of processes that train together."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Run the block on the first rank, then on the others, which find its files; an error is printed only once."""
        if not self.first:
            try:
                distributed.barrier()
            except RuntimeError:
                sys.exit(1)  # the first rank has ended and has printed the reason
        yield
        if self.first and self.count > 1:
            distributed.barrier()

    def parallel(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network to call in training, wrapped so that gradients are averaged over the ranks."""
        if self.count == 1:
            return network
        return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)

    def local(self, network: nn.Module, wanted: bool) -> AbstractContextManager[None]:
        """The context of a backward pass that, if ``wanted``, accumulates gradients without averaging them over the ranks."""
        if wanted and isinstance(network, DistributedDataParallel):
            return network.no_sync()
        return nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the ranks, in place."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def any(self, here: bool) -> bool:
        """Whether ``here`` is true on any rank."""
        return here if self.count == 1 else bool(self.sum(torch.tensor(float(here))))

    def of_first(self, value: T) -> T:
        """The first rank's value."""
        values = [value]
        if self.count > 1:
            distributed.broadcast_object_list(values)
        return values[0]

    def share_buffers(self, network: nn.Module) -> None:
        """Copy the first rank's buffers to all ranks: batch norm's running statistics differ between ranks."""
        if self.count > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, 0)

    def join_rows(self, rows: np.ndarray) -> np.ndarray:
        """The rows of all ranks, in the order of the ranks."""
        if self.count == 1:
            return rows
        parts: list[np.ndarray] = [rows] * self.count
        distributed.all_gather_object(parts, rows)
        return np.concatenate([part for part in parts if len(part)])


ALONE = Ranks()


def join() -> Ranks:
    """Join the processes that torchrun started, by its environment variables; :data:`ALONE` without them."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE
    # NCCL for tensors on GPUs, Gloo for those on the CPU. The first rank may need long to decode a large list.
    distributed.init_process_group(timeout=timedelta(days=1))
    atexit.register(distributed.destroy_process_group)
    ranks = Ranks(distributed.get_rank(), count)
    if not ranks.first:
        silence()
    print(f"ranks: {count} processes train together; each takes its part of a batch")
    return ranks
