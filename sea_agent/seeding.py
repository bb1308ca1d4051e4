"""Keyed randomness and deterministic ids.

Every random decision uses a generator keyed by *what* it decides (run seed, round, prompt, index), never by *where* it
runs. The number of actors therefore changes the speed, not the results.
"""

import hashlib

import numpy as np


def _digest(parts: tuple[int | str, ...]) -> bytes:
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def seed_for(*parts: int | str) -> int:
    """A 63-bit seed: a pure function of ``parts``."""
    return int.from_bytes(_digest(parts)[:8], "big") >> 1


def id_for(kind: str, *parts: int | str) -> str:
    """A readable unique id such as ``duel-1f0c…``: a pure function of ``kind`` and ``parts``."""
    return f"{kind}-{_digest(parts).hex()[:20]}"


def generator_for(*parts: int | str) -> np.random.Generator:
    """A NumPy generator keyed by ``parts``."""
    return np.random.default_rng(seed_for(*parts))
