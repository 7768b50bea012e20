"""Seals over what a sequence keeps in host memory: its request, its tokens, its random numbers.

A model's weights and caches are guarded by ``flightsw.gpu.integrity``. What is left lies in host memory, is small
and lives as long as an answer: a flip there asks the model something else, feeds it another token, or draws from
another stream. A seal is a CRC-32 that grows with every value *as it is made*; the values are held against it when
they are used for the last time. It sees any damage within 32 bits, and other damage with a chance of 1 − 2⁻³².

Random numbers need no seal: the generator is begun anew from the seed, and must give the same numbers again.
"""

import zlib
from array import array
from collections.abc import Iterable
from typing import Final

import msgspec
import torch

from flightsw.gpu.protocol import Generate

EMPTY: Final = 0
"""Seal of nothing."""
_encoder: Final = msgspec.msgpack.Encoder()


def of_request(request: Generate) -> int:
    """Seal of everything that a request says."""
    return zlib.crc32(_encoder.encode(request))


def grown(seal: int, tokens: Iterable[int]) -> int:
    """The seal after these tokens; it does not matter how a row of tokens is cut."""
    return zlib.crc32(array("q", tokens).tobytes(), seal)


def uniforms(seed: int, count: int) -> list[float]:
    """The first ``count`` float64 numbers in [0, 1) of the stream of ``seed``, as one by one draws give them."""
    generator = torch.Generator().manual_seed(seed)
    numbers: list[float] = torch.rand(count, dtype=torch.float64, generator=generator).tolist()
    return numbers
