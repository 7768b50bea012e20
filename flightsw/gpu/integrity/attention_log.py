"""Attention of decode steps, logged as it is computed and looked at many steps later, before an answer leaves.

A decode step asks for one token of each row and reads all keys and values of the row for it: that reading is what
it costs, and a check that reads them again costs as much. But they stay where they are, and a token that is stored
is not changed until its row begins anew. So queries and results of a row are kept, ``LOGGED_MAX`` tokens of them,
and held against keys and values all at once (``forward_attention``): these are read once for all of them. Token t
sees the slots up to its own, whatever mask it was given.

Nothing leaves in between: whoever releases an answer verifies its row of the cache (``kv.Rows``), and with it what
is logged here. A wrong one makes the answer be computed again. A step that is run again writes over its own lines.
What the log has copied also says whether a result was still that when the pass ended (``copied``).
What the log holds may be hit as well; then a sound answer is computed again. If it was no hit but scores for which
there is no bound, that would go on for ever: from then on nothing is logged, and a step is looked at as it is made.
"""

import math
from array import array
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from flightsw.gpu.integrity import forward_attention, kernels
from flightsw.gpu.integrity.finding import Finding, Report
from flightsw.gpu.integrity.late_rows import LOGGED, NO_NUMBERS, Row

LOGGED_MAX: Final = 64
"""Tokens of a row that wait for a look."""
SCORES_MAX: Final = 1e5
"""Where scores may be larger, rounding says nothing any more of what exp makes of them (``forward_attention``)."""


class AttentionLog:
    """Of one cache: keys and values (rows, H, slots, D) of each layer, float32 on the processor.

    ``begin`` says what a pass writes; ``takes`` is asked for each attention of it, one a layer, in order.
    """

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor], report: Report) -> None:
        self._keys = keys
        self._values = values
        self._report = report
        self._shape = (keys[0].shape[0], LOGGED_MAX, keys[0].shape[1], keys[0].shape[3])
        self._asked: list[Tensor] = []
        self._given: list[Tensor] = []
        self._slots: list[list[int]] = [[] for _ in range(self._shape[0])]
        """Of each row those that are logged."""
        self._wrong: set[int] = set()
        self._blind = False
        self._pass: list[tuple[int, int]] = []
        """Row and slot of the pass that runs; empty when it is no decode step."""
        self._lines: array[int] = array("q")
        self._row: Row = (), NO_NUMBERS
        self._layer = 0

    def begin(self, rows: Sequence[int], positions: Sequence[Sequence[int]]) -> None:
        """A pass begins that writes slots ``positions`` (B, T) of ``rows`` (B,)."""
        self._layer = 0
        for row, slots in zip(rows, positions, strict=True):
            if slots and slots[0] == 0:
                self.reset(row)
        alone = all(len(slots) == 1 and slots[0] >= 0 for slots in positions)
        self._pass = [(row, slots[0]) for row, slots in zip(rows, positions, strict=True)] if alone else []

    def takes(self, query: Tensor, key: Tensor, out: Tensor) -> bool:
        """Log the attention of one layer, query and ``out`` (B, H, 1, D); False when it has to be looked at now."""
        if self._blind or not self._pass or self._layer >= len(self._keys):
            return False
        count = len(self._pass)
        _, _, heads, width = self._shape
        if (
            query.shape != (count, heads, 1, width)
            or query.dtype is not torch.float32
            or key.dtype is not query.dtype
        ):
            return False
        of_query, of_out = query.stride(), out.stride()
        if of_query[3] != 1 or of_out[3] != 1 or out.dtype is not query.dtype:
            return False
        native = kernels.native(query.device, "native_late")
        if native is None:
            return False
        if self._layer == 0:
            self._lines = self._next_lines()
        lines, given, memory = self._lines.buffer_info()[0], self._given[self._layer].data_ptr(), out.data_ptr()
        native.log_rows(
            query.data_ptr(), of_query[0], of_query[1], memory, of_out[0], of_out[1], heads, width, lines, count,
            self._asked[self._layer].data_ptr(), given,
        )  # fmt: skip
        self._row = (LOGGED, memory, of_out[0], of_out[1], heads, width, lines, count, given, 0, 0), NO_NUMBERS
        self._layer += 1
        return True

    @property
    def copied(self) -> tuple[Row, Any]:
        """Of ``out`` that was logged last: a look at whether it is still what was copied, until the next pass; and
        what has to be kept alive for that."""
        return self._row, self._lines

    def sound(self, row: int) -> bool:
        """Look at what is logged of a row, and forget it; whether all of it since the row began was sound."""
        slots = self._slots[row]
        if slots:
            count, used = len(slots), max(slots) + 1
            seen = torch.from_numpy(np.arange(used) <= np.array(slots)[:, None])
            for layer, (keys, values) in enumerate(zip(self._keys, self._values, strict=True)):
                asked, given = (log[layer][row, :count].transpose(0, 1)[None] for log in (self._asked, self._given))
                mine = slice(row, row + 1)
                wrong = forward_attention.wrong(given, asked, keys[mine, :, :used], values[mine, :, :used], seen)
                if wrong != 0:
                    self._wrong.add(row)
                    self._blind = self._blind or wrong is None or not _bounded(asked, keys[mine, :, :used])
                    self._find(f"attention of layer {layer}, row {row}", wrong)
            slots.clear()
        return row not in self._wrong

    def reset(self, row: int) -> None:
        """The row begins anew."""
        self._slots[row].clear()
        self._wrong.discard(row)

    def _next_lines(self) -> "array[int]":
        """Where the tokens of this pass go: those of a step that is run again, where they went before."""
        if not self._asked:
            self._asked, self._given = ([torch.zeros(self._shape) for _ in self._keys] for _ in range(2))
        lines = array("q")
        for row, slot in self._pass:
            slots = self._slots[row]
            if not slots or slots[-1] != slot:
                if len(slots) == LOGGED_MAX:
                    self.sound(row)
                slots.append(slot)
            lines.append(row * LOGGED_MAX + len(slots) - 1)
        return lines

    def _find(self, where: str, wrong: int | None) -> None:
        detail = "its keys and values do not give what it gave" if wrong else "it could not be looked at"
        self._report(Finding(detector="checksum", outcome="contained", where=where, detail=detail))


def _bounded(query: Tensor, key: Tensor) -> bool:
    """Whether no score of finite operands (1, H, …, D) is over ``SCORES_MAX``."""
    longest = [float(torch.linalg.vector_norm(one.double(), dim=-1).amax()) for one in (query, key)]
    score = longest[0] * longest[1] / math.sqrt(query.shape[-1])
    return not math.isfinite(score) or score <= SCORES_MAX
