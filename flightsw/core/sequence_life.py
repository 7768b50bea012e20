"""The slots of stored sequences, and the life of a sequence as a table: (state, trigger) → next state.

    EMPTY ─load→ LOADED ─start→ RUNNING ─end, abort, failed step→ LOADED
                   └─start→ WAITING ─valid time→ RUNNING ⇄ SUSPENDED

A trigger without a row means that the order is refused with WRONG_STATE and changes nothing; a sequence that runs
can therefore be neither started nor loaded. ``sequence`` obeys the orders, ``sequence_time`` brings and takes time.
"""

from enum import IntEnum, StrEnum, unique
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from flightsw.link.sequence import Sequence
from flightsw.link.tables import ABSOLUTE_SEQUENCES, SEQUENCES

POSITION: Final = {table.name: position for position, table in enumerate(SEQUENCES)}
"""Place of a sequence among the slots: absolute ones first."""
NAMES: Final = tuple(table.name for table in SEQUENCES)
ABSOLUTES: Final = range(ABSOLUTE_SEQUENCES)


@unique
class Life(IntEnum):
    """State of a slot; the code travels in the status table."""

    EMPTY = 0
    LOADED = 1
    WAITING = 2
    RUNNING = 3
    SUSPENDED = 4


@unique
class Trigger(StrEnum):
    """What moves a sequence from one state to the next, in the words of a refusal."""

    LOAD = "loading"
    CLEAR = "clearing"
    START = "start"
    WAIT = "waiting for valid time"
    TIME_VALID = "valid time"
    SUSPEND = "suspend"
    RESUME = "resume"
    STEP = "step"
    ABORT = "abort"
    APPEND = "append"
    END = "end"


TRANSITIONS: Final[dict[tuple[Life, Trigger], Life]] = {
    (Life.EMPTY, Trigger.LOAD): Life.LOADED,
    (Life.EMPTY, Trigger.CLEAR): Life.EMPTY,
    (Life.LOADED, Trigger.LOAD): Life.LOADED,
    (Life.LOADED, Trigger.CLEAR): Life.EMPTY,
    (Life.LOADED, Trigger.START): Life.RUNNING,
    (Life.LOADED, Trigger.WAIT): Life.WAITING,
    (Life.LOADED, Trigger.APPEND): Life.LOADED,
    (Life.WAITING, Trigger.TIME_VALID): Life.RUNNING,
    (Life.WAITING, Trigger.SUSPEND): Life.SUSPENDED,
    (Life.WAITING, Trigger.ABORT): Life.LOADED,
    (Life.WAITING, Trigger.APPEND): Life.WAITING,
    (Life.RUNNING, Trigger.WAIT): Life.WAITING,
    (Life.RUNNING, Trigger.SUSPEND): Life.SUSPENDED,
    (Life.RUNNING, Trigger.ABORT): Life.LOADED,
    (Life.RUNNING, Trigger.APPEND): Life.RUNNING,
    (Life.RUNNING, Trigger.END): Life.LOADED,
    (Life.SUSPENDED, Trigger.RESUME): Life.RUNNING,
    (Life.SUSPENDED, Trigger.WAIT): Life.WAITING,
    (Life.SUSPENDED, Trigger.STEP): Life.SUSPENDED,
    (Life.SUSPENDED, Trigger.ABORT): Life.LOADED,
    (Life.SUSPENDED, Trigger.APPEND): Life.SUSPENDED,
    (Life.SUSPENDED, Trigger.END): Life.LOADED,
}

ON_THE_WAY: Final = frozenset((Life.WAITING, Life.RUNNING, Life.SUSPENDED))
"""Started, and neither ended nor aborted."""


class Pending(NamedTuple):
    """A dispatched command whose outcome is not known yet: its id, and its step from 1."""

    id: int
    step: int


class Slot(Struct, frozen=True, kw_only=True):
    """One sequence. ``index`` is the next step, from 0; steps before ``reserved`` may fire, that is written.

    ``base_s`` is the elapsed mission time that the next delay counts from; None until a relative sequence that
    waits for valid time has got it. ``held_s`` is where it stands still since it was suspended. ``ordered_s`` is
    the machine time until which an ordered single step may still be dispatched. The counts are of the latest run.
    """

    life: Life = Life.EMPTY
    sequence: Sequence | None = None
    crc32: int = 0
    index: int = 0
    reserved: int = 0
    base_s: float | None = None
    held_s: float = 0.0
    ordered_s: float | None = None
    pending: tuple[Pending, ...] = ()
    serial: int = 0
    dispatched: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def flown(self) -> Sequence:
        """The sequence of a slot that is not EMPTY."""
        assert self.sequence is not None, "only an EMPTY slot has none"
        return self.sequence

    @property
    def complete(self) -> bool:
        """Whether no step is left and no outcome is awaited."""
        return self.index >= len(self.flown.steps) and not self.pending


NOTHING: Final = b"\x90"
"""The durable position when no absolute sequence is loaded: an empty msgpack array."""


class State(Struct, frozen=True, kw_only=True):
    """All slots, and what is derived from them for a quick frame.

    ``active`` are the slots that may have to dispatch; ``turn`` is the slot whose turn it is when the bound cut the
    frame before; ``at_boot`` the sequence that starts when BOOT is left. The counts are since boot. ``closed``: the
    daemon ends, nothing is dispatched any more.
    """

    slots: tuple[Slot, ...] = (Slot(),) * len(SEQUENCES)
    active: tuple[int, ...] = ()
    turn: int = 0
    at_boot: str = ""
    closed: bool = False
    unwritten: bool = False
    written: bytes = NOTHING
    written_s: float = float("-inf")
    dispatched: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def awake(self) -> bool:
        """Whether a frame has to look at the sequences at all."""
        return bool(self.active or self.unwritten or self.at_boot) and not self.closed

    def count(self, *lives: Life) -> int:
        """How many slots are in one of these states."""
        return sum(slot.life in lives for slot in self.slots)


def put(state: State, position: int, slot: Slot) -> State:
    """The state with one slot changed."""
    before = state.slots[position]
    slots = (*state.slots[:position], slot, *state.slots[position + 1 :])
    if slot.life is before.life and (slot.ordered_s is None) is (before.ordered_s is None):
        return replace(state, slots=slots, unwritten=True)
    active = tuple(
        index
        for index, each in enumerate(slots)
        if each.life is Life.RUNNING or each.life is Life.WAITING or each.ordered_s is not None
    )
    return replace(state, slots=slots, active=active, unwritten=True)
