"""The release gate: an answer leaves the worker only when nothing that it came from was damaged.

What an answer comes from: weights, the key-value cache of its row, the arithmetic of its passes, its tokens and its
random numbers. Arithmetic is judged pass by pass, row, tokens and numbers when the last token is drawn. The weights
come last: a finished answer is *held* until a whole scrub pass over them that began after its last token has ended
without a finding. Damage that the scrubber finds may be as old as its last visit to that block, so it spoils every
answer that has computed anything and has not left, also when the old value could be put back.

    RUNNING ── finished ──► HELD ── clean ──► RELEASED
       │  ▲                   │
     damaged │              damaged         the first time → AGAIN, the second time → FAILED
       ▼  │ started           ▼
      AGAIN ◄─────────────────┘

An answer is computed again from its prompt and seed. That gives the same bits, because sequences are independent of
each other (``generation``); only other batch mates may move the rounding of matrix products, as they always may. At
level off there is no gate: ``UNWATCHED`` releases what is finished at once. A rise from off starts what runs anew
(``DISOWNED``), so that no answer is half watched, and that does not count as damage.

**When the scrub pass is hurried.** One pass frees all answers that wait, so waiting makes it cheaper. While there
is other work, passes go on with the level's share of time, and an answer waits for at most ``Patience.wait_s``, or
longer when a hurried pass would take more than ``Patience.share`` of the time. With nothing else to do, with a full
gate, or with a newer model waiting, the pass runs at once.

Everything here is a value or a bounded queue: no clock, no torch.
"""

import enum
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import msgspec

from flightsw.link.integrity import Level

HELD_MAX: Final = 64
"""Held answers from which the scrub pass is hurried. One micro-batch may end a whole batch, and no other begins
while the gate is full, so at most ``HELD_MAX`` and one batch are held."""


@enum.unique
class Stage(enum.Enum):
    """Where an answer stands. RELEASED and FAILED are ends."""

    RUNNING = "running"
    HELD = "held"
    AGAIN = "again"
    """Waits to be computed again from its prompt."""
    RELEASED = "released"
    FAILED = "failed"


@enum.unique
class Event(enum.Enum):
    """What happens to an answer."""

    FINISHED = "finished"
    """The last token is drawn; passes, row, tokens and random numbers are good."""
    UNWATCHED = "unwatched"
    """The last token is drawn at level off."""
    CLEAN = "clean"
    """A whole pass over the weights that began after the last token has ended without a finding."""
    DAMAGED = "damaged"
    """Something that it came from was damaged, or may have been."""
    DISOWNED = "disowned"
    """What it has so far was computed unwatched, or by a model that is gone."""
    STARTED = "started"
    """It has a row and begins anew."""
    REFUSED = "refused"
    """It can have no answer whatever is done again: the model gives none."""
    STOPPED = "stopped"
    """The job ends."""


DAMAGES_MAX: Final = 1
"""How often an answer may be damaged and is computed again."""
_AGAIN_OR_FAILED: Final = (Stage.AGAIN, Stage.FAILED)
TRANSITIONS: Final[dict[Stage, dict[Event, tuple[Stage, Stage]]]] = {
    # Next stage while the answer may be computed again, and when it may not.
    Stage.RUNNING: {
        Event.FINISHED: (Stage.HELD, Stage.HELD),
        Event.UNWATCHED: (Stage.RELEASED, Stage.RELEASED),
        Event.DAMAGED: _AGAIN_OR_FAILED,
        Event.DISOWNED: (Stage.AGAIN, Stage.AGAIN),
        Event.REFUSED: (Stage.FAILED, Stage.FAILED),
        Event.STOPPED: (Stage.FAILED, Stage.FAILED),
    },
    Stage.HELD: {
        Event.CLEAN: (Stage.RELEASED, Stage.RELEASED),
        Event.DAMAGED: _AGAIN_OR_FAILED,
        Event.STOPPED: (Stage.FAILED, Stage.FAILED),
    },
    Stage.AGAIN: {
        Event.STARTED: (Stage.RUNNING, Stage.RUNNING),
        Event.REFUSED: (Stage.FAILED, Stage.FAILED),
        Event.STOPPED: (Stage.FAILED, Stage.FAILED),
    },
    Stage.RELEASED: {},
    Stage.FAILED: {},
}


class Ticket(msgspec.Struct, frozen=True):
    """The state of one answer; ``reason`` says why it is computed again, or why it failed."""

    stage: Stage = Stage.RUNNING
    damages: int = 0
    reason: str = ""


def step(ticket: Ticket, event: Event, reason: str = "") -> Ticket:
    """The ticket after ``event``. Raises ``ValueError`` for an event that the stage does not know."""
    known = TRANSITIONS[ticket.stage]
    if event not in known:
        raise ValueError(f"a {ticket.stage.value} answer cannot be {event.value}")
    last = ticket.damages >= DAMAGES_MAX
    stage = known[event][last]
    damages = ticket.damages + (event is Event.DAMAGED)
    if event is Event.DAMAGED and last:
        reason = f"{reason}; before that: {ticket.reason}; no answer is released"
    return Ticket(stage, damages, reason or ticket.reason)


Item = TypeVar("Item")
Mark = TypeVar("Mark")


class Leaving(msgspec.Struct, Generic[Item], frozen=True):
    """An answer that leaves the gate, and how."""

    item: Item
    ticket: Ticket


class _Held(msgspec.Struct, Generic[Item, Mark], frozen=True):
    item: Item
    ticket: Ticket
    mark: Mark
    since_s: float


class Gate(Generic[Item, Mark]):
    """Held answers in the order in which they finished. A mark is what the scrubber gave for the moment of it."""

    def __init__(self) -> None:
        self._held: list[_Held[Item, Mark]] = []

    def __len__(self) -> int:
        return len(self._held)

    @property
    def items(self) -> list[Item]:
        """What is held, oldest first."""
        return [held.item for held in self._held]

    @property
    def full(self) -> bool:
        """Nothing more is to be computed before a pass has ended."""
        return len(self._held) >= HELD_MAX

    @property
    def newest(self) -> Mark | None:
        """The latest mark; None when nothing is held."""
        return self._held[-1].mark if self._held else None

    def waited_s(self, now_s: float) -> float:
        """How long the oldest has waited; 0 when none does."""
        return now_s - self._held[0].since_s if self._held else 0.0

    def hold(self, item: Item, ticket: Ticket, mark: Mark, now_s: float) -> None:
        """Take in a finished answer; ``mark`` is of a moment after its last token."""
        self._held.append(_Held(item, step(ticket, Event.FINISHED), mark, now_s))

    def clean(self, since: Callable[[Mark], bool], flaw: Callable[[Item], str]) -> list[Leaving[Item]]:
        """Let go whatever a clean pass that began after its mark has freed, unless a last look finds a ``flaw``."""
        free: list[_Held[Item, Mark]] = []
        waiting: list[_Held[Item, Mark]] = []
        for held in self._held:
            (free if since(held.mark) else waiting).append(held)
        self._held = waiting
        return [Leaving(one.item, _released(one.ticket, flaw(one.item))) for one in free]

    def empty(self, event: Event, reason: str) -> list[Leaving[Item]]:
        """All leave: DAMAGED (to be computed again, or failed) or STOPPED."""
        held, self._held = self._held, []
        return [Leaving(one.item, step(one.ticket, event, reason)) for one in held]


def _released(ticket: Ticket, flaw: str) -> Ticket:
    return step(ticket, Event.DAMAGED, flaw) if flaw else step(ticket, Event.CLEAN)


class Patience(msgspec.Struct, frozen=True):
    """How long held answers wait for paced scrubbing before a pass is hurried."""

    wait_s: float
    """At least so long, while there is other work."""
    share: float
    """Hurried passes take at most this share of the time; a longer pass makes a longer wait."""


PATIENCE: Final[dict[Level, Patience]] = {
    # Off holds nothing new; what was held before is let go soon.
    Level.OFF: Patience(wait_s=0.5, share=0.05),
    Level.WATCH: Patience(wait_s=2.0, share=0.005),
    Level.STANDARD: Patience(wait_s=1.0, share=0.02),
    Level.STORM: Patience(wait_s=1.0, share=0.05),
}


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """What decides whether the scrub pass is hurried now."""

    held: int
    waited_s: float
    """Of the oldest held answer."""
    pass_s: float
    """Time that a whole pass takes without a rest."""
    idle: bool
    """No row can be computed."""
    full: bool
    swap: bool
    """A newer model waits for the answers of this one."""


def hurried(situation: Situation, level: Level) -> bool:
    """Whether the scrub pass runs now, before other work."""
    if not situation.held:
        return False
    if situation.idle or situation.full or situation.swap:
        return True
    patience = PATIENCE[level]
    return situation.waited_s >= max(patience.wait_s, situation.pass_s / patience.share)
