# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# ruff: noqa: ANN001, ANN202
"""AdamW as a kernel for the processor: a block's new values and their digests in one go, while it is in the cache.

A block of 2¹⁶ words is read once: p, g, m and v. Its new values go into memory of the kernel's own, are digested
there, and only then, and only if wanted, written over the old ones. So an update that has to arrive at digests that
are known already (``guarded_update``) compares before it writes, and needs no copy of what it might have to bring
back.

*Same bits as torch*, whose fused kernel is compiled for each machine: it is one sequence of roundings on words that
make whole vectors, and another one on what is left of a row. This kernel has the first:

    g ← g · scale        p ← p · (1 − η λ)        m ← fma(1 − β₁, g − m, m)        v ← fma((1 − β₂) · g, g, v · β₂)
    p ← p + (−η / (1 − β₁ᵗ) · m) / (√v / √(1 − β₂ᵗ) + ε)

Which operations a compiler fuses is nobody's promise. So ``same_as_torch`` compares the two once in a process, and
where they differ nobody uses this one. Rows are whole vectors: ``VECTOR_WORDS`` divides their length.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import torch
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from flightsw.gpu.integrity.digest import BLOCK_WORDS
from flightsw.gpu.integrity.native import compiled, compiled_fast, floats_at
from flightsw.gpu.integrity.native_digest import ROOM, summed

VECTOR_WORDS: Final = 128
"""More than any processor's vector, and what rows are filled up to (``optimiser.ALIGNMENT_WORDS``)."""
PROBE_WORDS: Final = 1 << 13
"""Words of the comparison with torch: of 2,000 words one is rounded otherwise where an operation is not fused."""
PIECE_WORDS: Final = 4096
"""Words that are updated between two looks at how far they moved."""


@intrinsic  # type: ignore[untyped-decorator]
def _fma(context: Any, a: Any, b: Any, c: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), code


@compiled
def _updated(old, new, scalars):
    """New p, m and v of some words from the old p, g, m and v; float32 all, each in one piece."""
    scale, keep, weight, beta2, weight2, root, epsilon, step_size = scalars
    p, g, m, v = old
    new_p, new_m, new_v = new
    for i in range(p.size):
        gradient = g[i] * scale
        new_m[i] = _fma(weight, gradient - m[i], m[i])
        new_v[i] = _fma(weight2 * gradient, gradient, v[i] * beta2)
    # In a loop of its own: with all of it in one the compiler finds too many rows to prove apart, and no vectors.
    for i in range(p.size):
        new_p[i] = p[i] * keep + step_size * new_m[i] / (np.sqrt(new_v[i]) / root + epsilon)


@compiled_fast
def _moved(old, new):
    """Σ (new − old)² and Σ old² of some thousand words."""
    moved, size = np.float32(0), np.float32(0)
    for i in range(old.size):
        step = new[i] - old[i]
        moved += step * step
        size += old[i] * old[i]
    return moved, size


@compiled
def _copy(source, target):
    for i in range(target.size):
        target[i] = source[i]


@compiled
def _advance(rows, words, scalars, write, expected, sums, agreed):
    """``rows``: addresses of p, g, m, v, ``words`` each; the rest as in ``advance``. Σ (Δp)² and Σ p²."""
    p, g = floats_at(rows[0], words), floats_at(rows[1], words)
    m, v = floats_at(rows[2], words), floats_at(rows[3], words)
    most = min(words, BLOCK_WORDS)
    new_p, new_m, new_v = np.empty(most, np.float32), np.empty(most, np.float32), np.empty(most, np.float32)
    room = np.empty(ROOM, np.int64)
    moved, size = 0.0, 0.0
    for block in range(len(sums)):
        start, stop = block * BLOCK_WORDS, min((block + 1) * BLOCK_WORDS, words)
        for begin in range(start, stop, PIECE_WORDS):
            end = min(begin + PIECE_WORDS, stop)
            at, to = begin - start, end - start
            old = p[begin:end], g[begin:end], m[begin:end], v[begin:end]
            _updated(old, (new_p[at:to], new_m[at:to], new_v[at:to]), scalars)
            if not write:
                step, before = _moved(p[begin:end], new_p[at:to])
                moved += step
                size += before
        good = True
        for kind, new in enumerate((new_p, new_m, new_v)):
            found = summed(new[: stop - start].view(np.int32), room)
            for number in range(3):
                sums[block, kind, number] = found[number]
                good &= not len(expected) or expected[block, kind, number] == found[number]
        agreed[block] = good
        if write and good:
            _copy(new_p, p[start:stop])
            _copy(new_m, m[start:stop])
            _copy(new_v, v[start:stop])
    return moved, size


class Advanced(msgspec.Struct, frozen=True, kw_only=True):
    """What an update came to."""

    sums: Tensor
    """Digests of the new p, m and v of each block, int64 (blocks, 3, 3)."""
    unlike: tuple[int, ...]
    """Blocks whose digests are not those expected; they are as they were."""
    moved: float
    """‖Δp‖²; 0 when it was written."""
    size: float
    """‖p‖², likewise."""


def advance(
    rows: Sequence[Tensor], scalars: tuple[np.float32, ...], *, write: bool, expected: Tensor | None = None
) -> Advanced:
    """Update p, m and v by the gradients g: ``rows`` are p, g, m, v, float32 (words,) each, whole vectors.

    Without ``write`` nothing is changed; with it, all blocks, or those whose digests are the ``expected`` ones,
    int64 (blocks, 3, 3). ``scalars``: see there.
    """
    words = rows[0].numel()
    assert all(row.dtype is torch.float32 and row.is_contiguous() and row.numel() == words for row in rows), "rows"
    assert words % VECTOR_WORDS == 0, "whole vectors"
    blocks = -(-words // BLOCK_WORDS)
    sums, agreed = np.empty((blocks, 3, 3), np.int64), np.empty(blocks, np.bool_)
    wanted = np.empty((0, 3, 3), np.int64) if expected is None else expected.numpy()
    assert len(wanted) in (0, blocks), "digests of every block"
    addresses = tuple(row.data_ptr() for row in rows)
    moved, size = _advance(addresses, words, scalars, write, wanted, sums, agreed)
    unlike = tuple(np.flatnonzero(~agreed).tolist())
    return Advanced(sums=torch.from_numpy(sums), unlike=unlike, moved=moved, size=size)


def scalars(
    *, scale: float, learning_rate: float, betas: tuple[float, float], epsilon: float, decay: float, count: float
) -> tuple[np.float32, ...]:
    """What the formulas above need of step number ``count``, in float32: scale, 1 − η λ, 1 − β₁, β₂, 1 − β₂,
    √(1 − β₂ᵗ), ε, −η / (1 − β₁ᵗ)."""
    assert betas[0] > 0.5, "torch forms a mean otherwise below"
    numbers = (
        scale,
        1.0 - learning_rate * decay,
        1.0 - betas[0],
        betas[1],
        1.0 - betas[1],
        math.sqrt(1.0 - betas[1] ** count),
        epsilon,
        -(learning_rate / (1.0 - betas[0] ** count)),
    )
    return tuple(np.float32(number) for number in numbers)


@functools.cache
def same_as_torch() -> bool:
    """Whether this machine's torch rounds as the kernel does, on words of all usual sizes."""
    generator = torch.Generator().manual_seed(1)
    p, g, m, v = (torch.randn(PROBE_WORDS, generator=generator) * size for size in (0.02, 0.01, 1e-3, 1e-3))
    v = v.square()
    for decay, count in ((0.1, 1.0), (0.0, 1000.0)):
        theirs, mine = ([tensor.clone() for tensor in (p, m, v)] for _ in range(2))
        torch._fused_adamw_(
            [theirs[0]], [g * torch.tensor(0.7)], [theirs[1]], [theirs[2]], [], [torch.tensor(count)],
            lr=1e-3, beta1=0.9, beta2=0.99, weight_decay=decay, eps=1e-8, amsgrad=False, maximize=False,
        )  # fmt: skip
        numbers = scalars(scale=0.7, learning_rate=1e-3, betas=(0.9, 0.99), epsilon=1e-8, decay=decay, count=count)
        advance((mine[0], g, mine[1], mine[2]), numbers, write=True)
        if not all(torch.equal(one, other) for one, other in zip(mine, theirs, strict=True)):
            return False
    return True
