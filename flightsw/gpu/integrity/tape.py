"""The tape: operations of a pass without gradients are noted as they are computed, and looked at a little later.

In a pass with gradients every result is digested by its producer and verified by its consumers (``transit``), as a
whole backward pass lies between. Without gradients a result is read by the next operation or two. So an operation
is only noted, with its operands and its result, and looked at when its consumers have read what it wrote: then its
result has to be what the operands, as they lie in memory, give. That one reading sees

- arithmetic that went wrong: the result is not that of its operands;
- a result that was damaged at any time since, before a consumer read it or after: again it is not;
- a wrong reading by the consumer: the consumer's own look finds its result not to be that of its operand.

No digest is made, none verified, and nothing is looked at between two operations. A result that is read once and
looked at twice, as result and as operand, has been seen from its making to its last reading.

*Window.* What was noted is kept alive, at most ``NOTED_BYTES_MAX`` of results and of operands that are much larger,
and at most ``NOTES_MAX`` notes; beyond that the oldest are looked at, of bytes until half of the room is free. If
anybody but later notes still holds one, or a view of it, a digest of it is taken first, and from there ``transit``
has it; else it cannot be read any more. At the end of the pass, and before a value leaves for the host,
everything is looked at. Before somebody writes into memory that is noted, the notes are looked at, too.

*Together.* At the end of a pass most of what a small one has noted is there still, and of a large one as much as
there is room for. Looks that are numbers only are put down in rows and made by one call (``late_rows``): that costs
less for small ones, and large ones are read once for producer and consumer. What is wrong there, and all else, is
looked at one by one. Digests of operands are looked at after that, while the notes keep them alive.

*Prompt.* Attention reads much more than it writes, so it is looked at while its operands are in cache, and a digest
has its result. Of decode steps it may be left to a log, which is asked before an answer leaves (``attention_log``);
where nobody else has the result (``told``) it is held, at the end, against the log's copy of it.

*Found.* A look that comes late finds results in use: the pass is tainted and run again by its owner. What bounds
do not know (another layout, no kernel) is done again and compared. The tape runs where everything of a pass is
looked at, on a processor with kernels; elsewhere each operation is checked as it is computed.
"""

import sys
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from flightsw.gpu.integrity import kernels, late_rows
from flightsw.gpu.integrity.attention_log import AttentionLog
from flightsw.gpu.integrity.late_looks import ANY, COPIED, Kind
from flightsw.gpu.integrity.late_rows import Row
from flightsw.gpu.integrity.product_check import ProductCheck
from flightsw.gpu.integrity.repetition import Repetition
from flightsw.gpu.integrity.results import tensors_in
from flightsw.gpu.integrity.verdicts import Verdicts
from flightsw.gpu.integrity.watch import Watch
from flightsw.gpu.integrity.weights import Weights

NOTED_BYTES_MAX: Final = 64 << 20
"""Of results that are noted: those of a block 768 wide in a pass of 1,024 tokens."""
NOTES_MAX: Final = 1024
"""Notes, however small: to look at one, those after it are searched."""
OPERAND_TIMES: Final = 4
"""An operand that keeps more than so many times the memory of its result alive counts as well."""


class Note(NamedTuple):
    """One operation."""

    kind: Kind
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    layer: str
    size: int = 0
    """Bytes that it keeps alive."""


class Tape:
    """The notes of one pass after the other; ``running`` while operations are to be noted."""

    def __init__(
        self, verdicts: Verdicts, watch: Watch, repetition: Repetition, products: ProductCheck, weights: Weights
    ) -> None:
        self.running = False
        self.log: AttentionLog | None = None
        """Of the attention of decode steps, where somebody asks it before anything is released."""
        self._verdicts = verdicts
        self._watch = watch
        self._repetition = repetition
        self._products = products
        self._weights = weights
        self._notes: deque[Note] = deque()
        self._bytes = 0
        self._addresses: set[int] = set()
        """Of what is noted, and of some that was."""
        self._listed = 0
        """Of the oldest notes, those whose addresses are there."""

    @property
    def noted(self) -> int:
        """Operations that wait for a look."""
        return len(self._notes)

    @property
    def layer(self) -> str:
        """Layer that is running, where somebody follows that; for people."""
        return self._verdicts.layer

    def begin(self) -> None:
        """A pass begins."""
        self.forget()
        look = self._verdicts.look
        self.running = (
            look.checksum
            and look.repeat
            and look.transit
            and not self._verdicts.waiting
            and kernels.native(torch.device("cpu"), "native_late") is not None
        )

    def compute(self, kind: Kind, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of an operation that ``late_looks.takes`` has let pass, and a note of it."""
        result = func(*args, **kwargs) if kwargs else func(*args)
        if kind.moves and result.untyped_storage()._cdata == args[0].untyped_storage()._cdata:
            return result
        if kind.prompt:
            self.attended(kind, func, args, kwargs, result)
        else:
            self.note(kind, func, args, kwargs, result, _size(result, args))
        return result

    def note(
        self, kind: Kind, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, size: int
    ) -> None:
        """An operation was computed that may be noted; the note keeps ``size`` bytes alive."""
        self._notes.append(Note(kind, func, args, kwargs, result, self._verdicts.layer, size))
        self._bytes += size
        if self._bytes > NOTED_BYTES_MAX:
            self._make_room()
        while len(self._notes) > NOTES_MAX:
            self._look(self._oldest(), last=False)

    def attended(
        self,
        kind: Kind,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
        *,
        told: bool = False,
    ) -> None:
        """Attention was computed. Of one that was ``told`` nobody has the result but whoever tells what is done
        with it, so nobody writes there, and the copy of a log will do for a digest."""
        out = result if isinstance(result, Tensor) else result[0]
        if self.log is None or not self.log.takes(args[0], args[1], out):
            self._look(Note(kind, func, args, kwargs, result, self._verdicts.layer), last=False)
        elif told:
            self.note(COPIED, func, self.log.copied, kwargs, out, out.nbytes)
        else:
            self._watch.made(result)

    def stop(self) -> None:
        """The pass has gradients: nothing more of it is noted, its backward pass neither, though that runs without.
        There a result is read by several operations one after the other, and each looks while it reads."""
        self.catch_up()
        self.running = False

    def catch_up(self) -> None:
        """Look at everything that is noted: a value leaves the pass."""
        while self._notes:
            self._look(self._oldest(), last=False)
        self.forget()

    def before_write(self, targets: Iterable[Tensor]) -> None:
        """Somebody is about to write: what is noted of that memory is looked at before."""
        if not self._notes:
            return
        for note in islice(reversed(self._notes), len(self._notes) - self._listed):
            self._addresses.update(one.data_ptr() for one in note.args if isinstance(one, Tensor))
            self._addresses.update(one.data_ptr() for one in tensors_in((note.kwargs.values(), (note.result,))))
        self._listed = len(self._notes)
        for target in targets:
            if target.layout is not torch.strided:
                self.catch_up()
                return
            storage = target.untyped_storage()
            first = storage.data_ptr()
            if any(first <= address < first + storage.nbytes() for address in self._addresses):
                self.catch_up()
                return

    def finish(self) -> None:
        """The pass has ended: look at all that is noted. It is kept alive until ``forget``: digests of operands are
        looked at in between, all at once."""
        self.running = False
        left = self._look_together([(note, self._row(note)) for note in self._notes])
        self._watch.transit.tick(len(self._notes) - len(left))
        for note in left:
            self._look(note, last=True)

    def forget(self) -> None:
        """Nothing is noted."""
        self._notes.clear()
        self._addresses.clear()
        self._bytes = self._listed = 0

    def _make_room(self) -> None:
        """Look at the oldest notes, until half of the room is free. What was noted last is not read yet: it stays,
        unless it is larger than the room."""
        together: list[tuple[Note, Row | None]] = []
        while self._bytes > NOTED_BYTES_MAX or (len(self._notes) > 1 and self._bytes > NOTED_BYTES_MAX // 2):
            note = self._oldest()
            row = self._row(note)
            if row is None or note.kind.copied or not self._read_no_more(note):
                self._look(note, last=False)
            else:
                together.append((note, row))
        for note in self._look_together(together):
            self._look(note, last=True)
        for note, _ in together:
            self._watch.verify(note.func, note.args, note.kwargs)

    def _row(self, note: Note) -> Row | None:
        """A look as a row of a table; None for one that is made by itself."""
        if note.kind.product:
            return self._weights.row_of(note.func, note.args, note.kwargs, note.result)
        return None if note.kind.row is None else note.kind.row(note.result, note.args, note.kwargs)

    def _look_together(self, notes: Iterable[tuple[Note, Row | None]]) -> list[Note]:
        """Look at what there are rows for, at all at once; what there are none for, or what is wrong."""
        asked, left = [], []
        for note, row in notes:
            if row is None:
                left.append(note)
            else:
                asked.append((note, row))
        if asked:
            wrong = late_rows.wrong([row for _, row in asked])
            self._verdicts.tally.checks += len(asked)
            left += [note for (note, _), found in zip(asked, wrong, strict=True) if found]
        return left

    def _oldest(self) -> Note:
        note = self._notes.popleft()
        self._bytes -= note.size
        self._listed = max(self._listed - 1, 0)
        return note

    def _look(self, note: Note, *, last: bool) -> None:
        """Look at an operation; unless it is the ``last`` time that anybody can, from now on a digest has it."""
        last = last or (not note.kind.prompt and self._read_no_more(note))
        kind, func, args, kwargs, result, layer, _ = note
        if kind.product:
            self._products.looked_at(func, args, kwargs, result, layer, last=last)
            return
        if kind.copied:
            if late_rows.wrong(args[:1])[0]:
                self._verdicts.taint("transit", func, "a result is not any more what was copied of it")
            if not last:
                self._watch.made(result)
            return
        if not last:
            self._watch.made(result)
        wrong = None if kind.look is None else kind.look(result, args, kwargs)
        self._watch.verify(func, args, kwargs)
        if wrong == 0:
            self._verdicts.tally.checks += 1
        elif self._repetition.done_again(func, args, kwargs, result):
            # Beyond a bound with the same bits twice: rounding, and no fault.
            self._verdicts.tally.doubts += wrong is not None

    def _read_no_more(self, note: Note) -> bool:
        """Whether nobody but later notes holds its result, or a view of it."""
        if not isinstance(note.result, Tensor):
            return False
        noted = sum(one is note.result for later in self._notes for one in later.args)
        return _holders(note) - noted <= _NOBODY


def _holders(note: Note) -> int:
    """References to the result of a note, and to its memory; those of whoever counts are always the same."""
    result: Tensor = note.result
    memory: int = torch._C._storage_Use_Count(result.untyped_storage()._cdata)
    of_tensor: int = result._use_count()  # type: ignore[attr-defined]
    return sys.getrefcount(result) + of_tensor + memory


def _size(result: Any, args: tuple[Any, ...]) -> int:
    """Bytes that a note keeps alive; parameters live anyway."""
    size: int = result.nbytes if isinstance(result, Tensor) else sum(one.nbytes for one in tensors_in(result))
    most = OPERAND_TIMES * size
    for one in args:
        if type(one) is Tensor:
            held: int = one.untyped_storage().nbytes()
            if held > most:
                size += held
    return size


_NOBODY: Final = _holders(Note(Kind(ANY, None), None, (), {}, torch.empty(1), ""))
"""Of a result that nobody but its note holds."""
