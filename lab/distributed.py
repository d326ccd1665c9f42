"""Training with several processes, as ``torchrun --nproc-per-node=N train.py …`` starts them; one process without it.

Each rank takes its part of every batch and of valid; gradients are averaged by torch's DistributedDataParallel. The first rank
prints and writes, the others are silent. Batch norm sees the part of its own rank, as it does with ``--accumulate``.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from lab.terminal import silence


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that train together."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """The first rank does the block, then the others: what it builds they find, and what is wrong is said once."""
        if not self.first:
            try:
                distributed.barrier()
            except RuntimeError:
                sys.exit(1)  # the first has ended, and has said why
        yield
        if self.first and self.count > 1:
            distributed.barrier()

    def parallel(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network to call in training: the same, with gradients averaged over the ranks."""
        if self.count == 1:
            return network
        ids = [device] if device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=ids)

    def local(self, network: nn.Module, wanted: bool) -> AbstractContextManager[None]:
        """The context of a backward pass whose gradients are only gathered up, where ``wanted``, and not yet averaged."""
        if wanted and isinstance(network, DistributedDataParallel):
            return network.no_sync()
        return nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the ranks, in place."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def any(self, here: bool) -> bool:
        """Whether it is so on any rank."""
        return here if self.count == 1 else bool(self.sum(torch.tensor(float(here))))

    def share_buffers(self, network: nn.Module) -> None:
        """Give every rank the first one's buffers: the norms' running statistics, of which each rank sees its own part."""
        if self.count > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, 0)

    def join_rows(self, rows: np.ndarray) -> np.ndarray:
        """The rows of all ranks, the first one's first."""
        if self.count == 1:
            return rows
        parts: list[np.ndarray] = [rows] * self.count
        distributed.all_gather_object(parts, rows)
        return np.concatenate([part for part in parts if len(part)])


ALONE = Ranks()


def join() -> Ranks:
    """Join the processes that torchrun started, found by its environment variables; :data:`ALONE` without them."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE
    # NCCL for tensors on GPUs, Gloo for those in memory; a large list may take the first rank long to decode.
    distributed.init_process_group(timeout=timedelta(days=1))
    atexit.register(distributed.destroy_process_group)
    ranks = Ranks(distributed.get_rank(), count)
    if not ranks.first:
        silence()
    print(f"ranks: {count} processes train together, as started; each takes its part of a batch")
    return ranks
