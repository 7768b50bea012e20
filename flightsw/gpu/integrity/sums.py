"""The digests' own memory: every row of sums is kept twice, so that a hit digest is told from hit data.

A digest lies in the same memory as what it guards. Were it believed blindly, a hit row of sums would call good
memory bad, and where few words are not zero (the step count of an optimiser is one word) even "repair" it. So a
row counts only while two copies say the same. The second holds the complement of the first: memory that turns to
zeros, or to ones, does not make the two agree.

    both copies and memory agree        nothing happened
    the copies agree, memory does not   memory was hit: locate, repair
    memory agrees with one copy only    the other copy was hit: written again from this one, memory is good
    neither agrees                      nobody can say what the memory was: not good, and left alone

That memory agrees with a copy by accident after both were hit takes 192 bits that match. The complement of a sum
is linear, ~(S + d) = ~S − d, so both copies can be added to in place and neither is ever derived from the other.
"""

from typing import Literal

import torch

Verdict = Literal["good", "hit", "mended", "lost"]


class Sums:
    """Rows of three sums, int64 (rows, 3), twice: ``first``, which kernels read, and write before ``seal``, and
    ``complement``, which holds ~``first``."""

    def __init__(self, rows: int, device: torch.device) -> None:
        # Whoever calls may be in inference mode; tensors made there could not be written to outside it.
        with torch.inference_mode(False):
            self.first = torch.zeros((rows, 3), dtype=torch.int64, device=device)
            self.complement = torch.full_like(self.first, -1)

    def write(self, start: int, sums: torch.Tensor) -> None:
        """Set rows from ``start`` on; ``sums`` is int64 (n, 3)."""
        self.first[start : start + len(sums)] = sums
        self.complement[start : start + len(sums)] = ~sums

    def seal(self, start: int, count: int) -> None:
        """Rows of ``first`` were written by somebody who knows them to be good."""
        torch.bitwise_not(self.first[start : start + count], out=self.complement[start : start + count])

    def add(self, rows: torch.Tensor, sums: torch.Tensor) -> None:
        """Add ``sums`` int64 (n, 3) to the rows of the indices ``rows`` int64 (n,), which may repeat."""
        self.first.index_add_(0, rows, sums)
        self.complement.index_add_(0, rows, sums, alpha=-1)

    def clear(self, start: int, count: int) -> None:
        """Sums of nothing."""
        self.first[start : start + count] = 0
        self.complement[start : start + count] = -1

    def agree(self, start: int, found: torch.Tensor) -> bool:
        """Whether both copies say ``found`` int64 (n, 3). On a GPU this waits for the result."""
        stop = start + len(found)
        return torch.equal(self.first[start:stop], found) and torch.equal(self.complement[start:stop], ~found)

    def differing(self, start: int, found: torch.Tensor) -> list[int]:
        """Places in ``found`` at which one copy or both say something else."""
        stop = start + len(found)
        differs = (self.first[start:stop] != found) | (self.complement[start:stop] != ~found)
        return torch.nonzero(differs.any(dim=1)).flatten().tolist()

    def judge(self, row: int, found: torch.Tensor) -> tuple[Verdict, list[int]]:
        """What memory whose sums are ``found`` (3,) is, and the difference found − expected when it was "hit".

        A copy that alone disagrees is written again.
        """
        first, second = self.first[row], ~self.complement[row]
        fits_first, fits_second = torch.equal(found, first), torch.equal(found, second)
        if fits_first and fits_second:
            return "good", []
        if fits_first or fits_second:
            self.write(row, found[None])
            return "mended", []
        if torch.equal(first, second):
            return "hit", (found - first).tolist()
        return "lost", []
