"""Random numbers as a pure function of (seed, epoch, index of the image, number of the draw).

They do not depend on the number of workers, the batch size or where a run was interrupted. A whole batch is drawn at once.
"""

from __future__ import annotations

import numpy as np


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser, uint64 → uint64 (Steele, Lea and Flood 2014, Fast Splittable Pseudorandom Number Generators)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def uniform(seed: int, epoch: int, indices: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` uniform draws in [0, 1) for each of the images ``indices`` [N], float32 [N, count]."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):  # the arithmetic is modulo 2^64
        state = mix(np.array([seed], dtype=np.uint64) + golden)
        state = mix(state ^ (np.array([epoch], dtype=np.uint64) * golden + golden))
        state = mix(state ^ ((np.asarray(indices).astype(np.uint64) + np.uint64(1)) * golden))
        draws = mix(state[:, None] + (np.arange(count, dtype=np.uint64) + np.uint64(1)) * golden)
    return ((draws >> np.uint64(40)).astype(np.float32)) * np.float32(2**-24)


def step_seed(seed: int, step: int, part: int, rank: int) -> int:
    """Return the seed of a network's own random numbers, its dropout, for one part of an optimizer step on one rank."""
    (draws,) = uniform(seed ^ 0xD209, step, np.array([part * 4096 + rank]), 2).astype(np.float64)
    return int(draws @ (2.0**24, 2.0**48))


def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return a random order of ``count`` images for one epoch, by sorting a random 48-bit key of each image."""
    keys = uniform(seed ^ 0x5EED, epoch, np.arange(count), 2).astype(np.float64) @ (1.0, 2.0**-24)
    return np.argsort(keys, kind="stable")
