"""The key-value cache under digests: what is written is summed on its way in, and a row is verified against that.

The cache grows with every token, so there is no moment at which it could be read and believed. Its sums are added
to instead, slot by slot, from the keys and values that the model hands over; live memory is only ever compared.

**Layout.** A row is one sequence. Per row, layer and kind (keys, values), slots are taken in chunks (``kv_slots``),
and of each chunk the three sums of ``digest`` are kept, twice (``sums``), so two hit words are always seen and one
is put right. A slot counts by its place *in its sequence*, not in memory: so nothing has to be taken anew when rows
are gathered, padded, cut or moved to another batch, and damage on that way is seen like any other.

**Order.** A pass continues each of its rows, or starts it anew at slot 0. A pass that is run again with the same
rows and slots takes back what its first run added. Anything else (a gap, a pass that broke off, slots written while
nobody watched) leaves the row *unknown* until it starts anew: it does not verify. Padding is no slot.

**Verdict.** A row verifies if all its slots hold what was written. A word that had to be put right means that
tokens may have been computed with the wrong one: such a row never verifies, until it starts anew.

The values are held until the pass ends, or ``PENDING_WORDS_MAX`` have come together, and summed at once. In that
time (one pass) a hit of them goes into the cache or into the sums, and shows; before they are written they are the
business of the checks of the compute path.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from flightsw.gpu.integrity.attention_log import AttentionLog
from flightsw.gpu.integrity.closer import look_closer
from flightsw.gpu.integrity.damage import Damage
from flightsw.gpu.integrity.digest import WORD_BYTES
from flightsw.gpu.integrity.finding import Finding, Outcome, Report
from flightsw.gpu.integrity.kv_slots import Group, Tokens, laid_out, mend, run_sums, tokens_of

PENDING_WORDS_MAX: Final = 1 << 21
"""Words that wait to be summed, or are read at once: 8 MiB."""
KINDS: Final = ("keys", "values")


class Place(NamedTuple):
    """Where a row is now: keys and values (batch, heads, slots, width) of each layer, its place in the batch, and
    the slot of its first token."""

    layers: Sequence[tuple[Tensor, Tensor]]
    row: int
    first: int


Locate = Callable[[int], Place | None]


class Rows:
    """Digests of the rows of one cache. ``locate`` says where a row is when it is verified.

    ``begin``, ``write`` for every layer, ``end`` make one pass; ``kv_caches`` sees to that.
    """

    def __init__(
        self, rows: int, slots: int, layers: int, locate: Locate, report: Report, log: AttentionLog | None = None
    ) -> None:
        self.watching = True
        """Whether what is written is added to the digests. Rows that go on while it is not become unknown."""
        self.hits = 0
        """How often memory was found changed, repaired or not."""
        self.log = log
        """Of what was made of the rows, where there is one."""
        self._rows = rows
        self._slots = slots
        self._layers = layers
        self._locate = locate
        self._report = report
        self._groups: dict[int, Group] = {}
        self._lengths = [0] * rows
        self._unknown: set[int] = set()
        self._hit: set[int] = set()
        self._pass: list[tuple[int, int, int]] = []
        """Row, first slot and number of slots of the pass that runs."""
        self._tokens: Tokens = laid_out([])
        """Tokens of it that are no padding."""
        self._pending: list[tuple[int, Tensor]] = []
        self._pending_words = 0
        self._last: tuple[list[int], list[list[int]]] | None = None
        self._added: list[tuple[Group, Tensor]] = []
        """What the last pass added."""

    @property
    def written(self) -> tuple[Tensor, ...]:
        """Sums of what the last pass wrote; two runs of one pass that wrote the same have the same."""
        return tuple(added for _, added in self._added)

    def begin(self, rows: Sequence[int], positions: Sequence[Sequence[int]]) -> None:
        """A pass begins that writes slots ``positions`` (B, T) of ``rows`` (B,); negative ones are padding."""
        self._abandon()
        if self.log is not None:
            self.log.begin(rows, positions)
        now = list(rows), [list(slots) for slots in positions]
        again = self.watching and now == self._last
        if again:
            for group, added in self._added:
                group.take_back(added)
        self._last, self._added = now if self.watching else None, []
        for row, slots in zip(*now, strict=True):
            fed = [slot for slot in slots if slot >= 0]
            if fed and self.watching:
                self._continue(row, fed, again=again)
            elif fed:
                self._unknown.add(row)
        if self._pass:
            self._tokens = tokens_of(*now, self._slots)

    def _continue(self, row: int, slots: list[int], *, again: bool) -> None:
        """The pass that begins writes these of a row."""
        first = slots[0]
        if again:
            self._lengths[row] = first
        if first == 0:
            self.reset(row)
        in_order = slots == list(range(self._lengths[row], self._lengths[row] + len(slots)))
        if not in_order or slots[-1] >= self._slots:
            self._unknown.add(row)
        self._pass.append((row, first, len(slots)))

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Keys and values (B, T, H, D) of a layer as they are stored, in the type in which they are stored."""
        if not self._pass:
            return
        for kind, values in enumerate((key, value)):
            self._pending.append((2 * layer + kind, values))
        self._pending_words += (key.nbytes + value.nbytes) // WORD_BYTES
        if self._pending_words >= PENDING_WORDS_MAX:
            self._flush()

    def end(self) -> None:
        """The pass is complete."""
        self._flush()
        for row, first, count in self._pass:
            self._lengths[row] = first + count
        self._pass = []

    def reset(self, row: int) -> None:
        """The row holds nothing; whatever was known of it is forgotten."""
        self._lengths[row] = 0
        self._unknown.discard(row)
        self._hit.discard(row)
        with _disable_current_modes():
            for group in self._groups.values():
                group.sums.clear(group.base(row), group.row_sums)

    def verify(self, row: int, length: int) -> bool:
        """Whether the row's first ``length`` slots, which are all of it, hold what was written, and always did as
        far as was seen. Damage of single words is put right. Findings go to the report."""
        name = f"key-value cache, row {row}"
        if self._pass:
            self._abandon()
        if row in self._unknown or self._lengths[row] != length:
            self._find("open", name, "not all of it was written under watch, in order; nothing is known of it")
            return False
        place = self._locate(row) if length else None
        if not length:
            return row not in self._hit
        if place is None:
            self._find("open", name, "it is not in the cache")
            return False
        with _disable_current_modes():
            for group in self._groups.values():
                found = self._read(group, place, range(len(group.members)), length)
                base = group.base(row)
                if not group.sums.agree(base, found):
                    for at in group.sums.differing(base, found):
                        self._look_closer(group, place, row, length, at, found[at])
            attended = self.log is None or self.log.sound(row)
        return attended and row not in self._hit

    def _abandon(self) -> None:
        """A pass that did not come to its end: its rows are unknown."""
        self._unknown.update(row for row, _, _ in self._pass)
        if self._pass:
            self._last = None
        self._pass, self._pending, self._pending_words = [], [], 0

    def _flush(self) -> None:
        pending, self._pending, self._pending_words = self._pending, [], 0
        alike: dict[tuple[Any, ...], list[tuple[int, Tensor]]] = {}
        for number, values in pending:
            alike.setdefault((values.shape, values.dtype), []).append((number, values))
        for ((_, _, heads, width), dtype), members in alike.items():
            words = -(-heads * width * dtype.itemsize // WORD_BYTES)
            group = self._groups.get(words) or self._new_group(words, members[0][1].device)
            if self._tokens:
                added = group.add([one for one, _ in members], [values for _, values in members], self._tokens)
                self._added.append((group, added))

    def _new_group(self, words: int, device: torch.device) -> Group:
        with _disable_current_modes():
            group = self._groups[words] = Group(words, 2 * self._layers, self._rows, self._slots, device)
        return group

    def _read(self, group: Group, place: Place, members: Iterable[int], length: int, first: int = 0) -> Tensor:
        """Sums (members · chunks, 3) of slots ``first`` to ``length`` − 1 as they are in memory now."""
        device = group.sums.first.device
        found = torch.zeros((group.members_max, group.chunks, 3), dtype=torch.int64, device=device)
        chosen = list(members)
        step = max(PENDING_WORDS_MAX // ((length - first) * group.words), 1)
        for at in range(0, len(chosen), step):
            some = chosen[at : at + step]
            values = [_row(group, place, member)[None, first:length] for member in some]
            found[some] = run_sums(values, first, group.chunk_slots, group.chunks)
        return found.flatten(0, 1)

    def _look_closer(self, group: Group, place: Place, row: int, length: int, at: int, before: Tensor) -> None:
        member, chunk = divmod(at, group.chunks)
        first = chunk * group.chunk_slots
        last = min(first + group.chunk_slots, length)

        def read() -> Tensor:
            if member >= len(group.members) or first >= last:
                return torch.zeros_like(before)  # Sums of nothing: only the digest can have been hit.
            return self._read(group, place, (member,), last, first)[at]

        def put_right(damage: Damage) -> bool:
            assert damage.word is not None, "a word is put right only where it was located"
            slot, word = divmod(damage.word, group.words)
            if member >= len(group.members) or first + slot >= last:
                return False
            return mend(_row(group, place, member)[first + slot], word, damage)

        look = look_closer(group.sums, group.base(row) + at, before, read, put_right)
        where = "key-value cache"
        if member < len(group.members):
            layer, kind = divmod(group.members[member], 2)
            where = f"{KINDS[kind]} of layer {layer}, row {row}, slots {first} to {max(last - 1, first)}"
        self.hits += look.hit
        if look.hit:
            self._hit.add(row)
        for finding in look.findings(where):
            self._report(finding)

    def _find(self, outcome: Outcome, where: str, detail: str) -> None:
        self._report(Finding(detector="digest", outcome=outcome, where=where, detail=detail))


def _row(group: Group, place: Place, member: int) -> Tensor:
    """Slots (slots, heads, width) of one row, layer and kind, from its first token on; shares memory."""
    layer, kind = divmod(group.members[member], 2)
    return place.layers[layer][kind][place.row].transpose(0, 1)[place.first :]
