"""The digest that guards resident state: three integer sums over the words of a block.

Memory is seen as signed 32-bit words x_0 … x_{n−1}, in blocks of at most ``BLOCK_WORDS``; a shorter last word is
filled up with zero bytes. Of each block

    S1 = Σ x_i        S2 = Σ (i+1) x_i        S3 = Σ (i+1)² x_i                 as 64-bit integers, modulo 2⁶⁴

*Two words.* Any damage confined to two words of a block is detected: with e₁ + e₂ = 0 and i e₁ + j e₂ = 0 follows
(i − j) e₁ = 0, and as |i − j| < 2¹⁶ and |e₁| < 2³², the product cannot wrap to zero. So every flip of one or two
bits is seen, every burst within eight bytes, every word that was replaced.

*Three words.* With S3 the same argument holds for three: |(i − j)(i − k) e| < 2⁶⁴.

*One word.* What was damaged, and where, follows from the differences of the sums: see ``damage``.

*No digest has S2 + S3 odd*, since Σ (i+1)(i+2) x_i is even, and stays so modulo 2⁶⁴. So a digest can be marked as
that of no memory at all: see ``guarded_adamw``.

*Same values everywhere.* The sums are integers, so this module's plain form and the kernels (``kernels_digest``,
``native_digest``), which run where there are some, agree bit for bit. Here a block is a matrix X of ``ROWS`` rows
of ``ROW_WORDS`` words, i = (a + ROWS/2) · ROW_WORDS + b, and one float64 product gives Σ_a X, Σ_a a X and Σ_a a² X
of each column; counted from the middle row, a² is four times smaller. A second product, for many blocks at once,
sums these over ``GROUP_COLUMNS`` columns with weights of their own. All of it is exact: 2³¹ · Σ a² · GROUP_COLUMNS
< 2⁵³. What is left for 64-bit integers is one number in two hundred, and what costs time is to read the words and
widen them. A shorter block has fewer rows. Many short ones share one product: of rows of ``SHORT_WORDS`` words,
with the weights along the row, exact for the same reason.

A digest is taken of memory that is known to be good (just written, just verified), never of live data that nobody
has checked: that would seal the damage in. Source of the two-sum form: Fletcher's checksum; the theorem is that of
the radiation reference, section 8.
"""

import functools
import threading
from collections.abc import Sequence
from typing import Final

import torch
from torch import nn

from flightsw.gpu.integrity import kernels

BLOCK_WORDS: Final = 1 << 16
"""Words of a block: 256 KiB. The proofs above need no more than 2¹⁶."""
ROWS: Final = 128
"""Rows of the exact float64 products: 2³¹ · 174,784 · 16 < 2⁵³; twice as many would not do."""
ROW_WORDS: Final = BLOCK_WORDS // ROWS
GROUP_COLUMNS: Final = 16
GROUPS: Final = ROW_WORDS // GROUP_COLUMNS
SHORT_WORDS: Final = 128
SHORT_ROWS: Final = BLOCK_WORDS // SHORT_WORDS
WORD_BYTES: Final = 4
BLOCK_BYTES: Final = BLOCK_WORDS * WORD_BYTES
BATCH_BLOCKS: Final = 16
"""Blocks whose column sums are put together at once: small beside the blocks, many beside the cost of a call."""
FEW_MAX: Final = 8
"""Short blocks of one call that are not worth a shared product."""
LONG_WORDS: Final = 4096
"""A short block of so many words is worth a product of its own, however many there are."""
LAYOUTS_MAX: Final = 256
"""Arrangements of short blocks whose weights are kept; each is at most 50 kB."""


def block_count(size_bytes: int) -> int:
    """Blocks of a region of this many bytes."""
    return -(-size_bytes // BLOCK_BYTES)


def digest(memory: torch.Tensor) -> torch.Tensor:
    """Sums of every block of ``memory`` (uint8, 1-d, contiguous): int64 tensor (blocks, 3) on the same device.

    Raises ``ValueError`` for anything that is no row of bytes.
    """
    return digest_all((memory,))


def digest_all(memories: Sequence[torch.Tensor]) -> torch.Tensor:
    """Digests of at least one memory, one under the other: int64 (blocks of all, 3). All on one device.

    Many short memories at once cost little more than their words; one by one, each costs a dozen calls.
    Raises ``ValueError`` as ``digest`` does.
    """
    for memory in memories:
        if memory.dtype is not torch.uint8 or memory.dim() != 1 or not memory.is_contiguous():
            raise ValueError(f"memory is {memory.dtype}, {memory.dim()}-d: bytes in one contiguous row are needed")
    device = memories[0].device
    sums = torch.empty(
        (sum(block_count(memory.numel()) for memory in memories), 3), dtype=torch.int64, device=device
    )
    if kernel := kernels.digests(device):
        kernel.digests_into(memories, sums)
        return sums
    first, short = 0, []
    rows: list[int] = []
    blocks: list[torch.Tensor] = []
    for memory in memories:
        if memory.storage_offset() % WORD_BYTES:
            memory = memory.clone()
        whole_bytes = memory.numel() // BLOCK_BYTES * BLOCK_BYTES
        if whole_bytes:
            words = memory[:whole_bytes].view(torch.int32).view(-1, BLOCK_WORDS)
            blocks += words.unbind()
            rows += range(first, first + len(words))
            first += len(words)
        if whole_bytes < memory.numel():
            short.append((first, _in_words(memory[whole_bytes:])))
            first += 1
    alone = LONG_WORDS if len(short) > FEW_MAX else 0
    for row, words in short:
        if words.numel() >= alone:
            rows.append(row)
            blocks.append(words)
    for start in range(0, len(blocks), BATCH_BLOCKS):
        _by_columns(blocks[start : start + BATCH_BLOCKS], rows[start : start + BATCH_BLOCKS], sums)
    short = [(row, words) for row, words in short if words.numel() < alone]
    while short:
        used, taken = 0, []
        while short and used + _short_rows(short[0][1]) <= SHORT_ROWS:
            taken.append(short.pop(0))
            used += _short_rows(taken[-1][1])
        _short_blocks(taken, sums)
    return sums


def _in_words(memory: torch.Tensor) -> torch.Tensor:
    if left := memory.numel() % WORD_BYTES:
        memory = nn.functional.pad(memory, (0, WORD_BYTES - left))
    return memory.view(torch.int32)


def _by_columns(blocks: Sequence[torch.Tensor], rows: list[int], sums: torch.Tensor) -> None:
    """Sums of blocks, int32 (words,) each, into the rows of ``sums`` that ``rows`` names."""
    widened, flat, columns, targets = _scratch(sums.device)
    along, across, _ = _weights(sums.device)
    for block, target in zip(blocks, targets, strict=False):
        words = block.numel()
        if words == BLOCK_WORDS:
            flat.copy_(block)
            torch.mm(along, widened, out=target)
            continue
        height = -(-words // ROW_WORDS)
        flat[:words].copy_(block)
        flat[words : height * ROW_WORDS].zero_()
        torch.mm(along[:, :height], widened[:height], out=target)
    found = _joined(torch.mm(columns[: len(blocks) * 3 * GROUPS], across))
    if rows == list(range(rows[0], rows[0] + len(rows))):
        sums[rows[0] : rows[0] + len(rows)] = found
    else:
        sums[torch.tensor(rows, device=sums.device)] = found


def _short_blocks(parts: Sequence[tuple[int, torch.Tensor]], sums: torch.Tensor) -> None:
    """Sums of short blocks, together not more than one: (row of ``sums``, words int32) each."""
    filling = torch.zeros(SHORT_WORDS, dtype=torch.int32, device=sums.device)
    pieces = []
    for _, words in parts:
        pieces.append(words)
        if left := words.numel() % SHORT_WORDS:
            pieces.append(filling[left:])
    words = torch.cat(pieces)
    flat = _scratch(sums.device)[1][: words.numel()].copy_(words)
    counts = tuple(_short_rows(words) for _, words in parts)
    weights, joining, owner = _short_weights(counts, sums.device)
    rows = torch.mm(flat.view(-1, SHORT_WORDS), weights).to(torch.int64)
    joined = (rows.unsqueeze(1) * joining).sum(dim=2)
    found = torch.zeros((len(parts), 3), dtype=torch.int64, device=sums.device).index_add_(0, owner, joined)
    if len(parts) == len(sums):
        sums.copy_(found)
    else:
        sums[torch.tensor([row for row, _ in parts], device=sums.device)] = found


def _short_rows(words: torch.Tensor) -> int:
    return -(-words.numel() // SHORT_WORDS)


def _joined(grouped: torch.Tensor) -> torch.Tensor:
    """Sums (blocks, 3) of Σ a^q h^r X over each group of columns: (blocks · 3 · GROUPS, 3), float64, whole numbers.

    As i + 1 = a · ROW_WORDS + h + P with a P of each group, each sum is one over them with whole weights, modulo
    2⁶⁴.
    Numbers with q + r > 2 are not exact, and their weight is 0.
    """
    whole = grouped.to(torch.int64).view(-1, 1, 9 * GROUPS)
    return (whole * _weights(grouped.device)[2]).sum(dim=2)


_Buffers = tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]


class _Kept(threading.local):
    """Buffers of a thread, by device."""

    def __init__(self) -> None:
        self.buffers: dict[torch.device, _Buffers] = {}


_KEPT: Final = _Kept()


def _scratch(device: torch.device) -> _Buffers:
    """Room for a widened block, as a matrix and flat, and for the column sums of a batch, by group and by block."""
    if device not in _KEPT.buffers:
        columns = torch.empty((BATCH_BLOCKS, 3, ROW_WORDS), dtype=torch.float64, device=device)
        widened = torch.empty((ROWS, ROW_WORDS), dtype=torch.float64, device=device)
        _KEPT.buffers[device] = (
            widened,
            widened.view(-1),
            columns.view(-1, GROUP_COLUMNS),
            columns.unbind(),
        )
    return _KEPT.buffers[device]


@functools.cache
def _weights(device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights 1, a, a² of rows (3, ROWS) and 1, h, h² of columns (GROUP_COLUMNS, 3), float64; of what they make, as
    ``_joined`` takes it, in S1, S2, S3: (3, 9 · GROUPS), int64."""
    row = torch.arange(-ROWS // 2, ROWS // 2, dtype=torch.float64, device=device)
    column = torch.arange(GROUP_COLUMNS, dtype=torch.float64, device=device)
    joining = torch.zeros((3, 3, GROUPS, 3), dtype=torch.int64, device=device)  # Sum, q, group, r.
    place = torch.arange(GROUPS, device=device) * GROUP_COLUMNS + 1 + ROWS // 2 * ROW_WORDS
    joining[0, 0, :, 0] = 1
    joining[1, 0, :, 0] = place
    joining[1, 0, :, 1] = 1
    joining[1, 1, :, 0] = ROW_WORDS
    joining[2, 0, :, 0] = place * place
    joining[2, 0, :, 1] = 2 * place
    joining[2, 0, :, 2] = 1
    joining[2, 1, :, 0] = 2 * ROW_WORDS * place
    joining[2, 1, :, 1] = 2 * ROW_WORDS
    joining[2, 2, :, 0] = ROW_WORDS * ROW_WORDS
    return (
        torch.stack((torch.ones_like(row), row, row * row)),
        torch.stack((torch.ones_like(column), column, column * column), dim=1),
        joining.view(3, -1),
    )


@functools.lru_cache(maxsize=LAYOUTS_MAX)
def _short_weights(
    counts: tuple[int, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For blocks of ``counts`` rows each: weights along a row (SHORT_WORDS, 3), float64; of row sums in S1, S2, S3
    (rows, 3, 3), int64; and the block of each row (rows), int64."""
    place = torch.arange(1, SHORT_WORDS + 1, dtype=torch.float64, device=device)
    start = torch.cat([torch.arange(count, dtype=torch.int64, device=device) for count in counts]) * SHORT_WORDS
    owner = torch.repeat_interleave(torch.tensor(counts, device=device))
    return torch.stack((torch.ones_like(place), place, place * place), dim=1), _placed(start, 1), owner


def _placed(place: torch.Tensor, unit: int) -> torch.Tensor:
    """What Σ x, Σ k x and Σ k² x count in S1, S2 and S3 when word k lies at place + unit · k: (places, 3, 3)."""
    one, none = torch.ones_like(place), torch.zeros_like(place)
    return torch.stack(
        (
            torch.stack((one, none, none), dim=1),
            torch.stack((place, unit * one, none), dim=1),
            torch.stack((place * place, 2 * unit * place, unit * unit * one), dim=1),
        ),
        dim=1,
    )
