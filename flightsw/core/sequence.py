"""Stored command sequences: how their time runs, and what may be ordered of them.

There are 2 absolute sequences (TAI) and 64 relative ones (delays), loaded as tables (images: ``link.sequence``).
Here are the orders *start*, *suspend*, *resume*, *step* and *abort*; an order either changes the state and says
what happened, or is a ``Refusal`` that changes nothing. *Append* belongs to the images (``sequence_tables``),
states and transitions are in ``sequence_life``, what is due in ``sequence_time``, dispatching in
``sequence_driver``, what outlives a reboot in ``sequence_durable``.

*Relative* time is elapsed mission time (machine time × warp): no step of any clock touches it. The next due time
counts from the due time before it, never from the frame, so nothing drifts. In a suspended sequence it stands
still.

*Absolute* time is TAI, while it is valid. The index only moves forward: neither a backward step of time nor an
abort and a new start fires a step twice. Loading the image again, and only that, puts the index back to the start.
"""

from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from flightsw.link.schema import FailureCode

from .correlation import State as Clock
from .events import Event, Fields
from .sequence_life import ABSOLUTES, NAMES, POSITION, TRANSITIONS, Life, Slot, State, Trigger, put


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of stored sequences, and which of them start at boot."""

    dispatches_per_frame_max: Annotated[int, Meta(ge=1, le=64)] = 8
    """Stored commands dispatched in one minor frame, over all sequences."""
    in_flight_max: Annotated[int, Meta(ge=1, le=512)] = 16
    """Stored commands dispatched and not complete; the rest of commanding.in_flight_max stays for the ground."""
    late_max_s: Annotated[float, Meta(ge=0.5, le=3600.0)] = 2.0
    """An absolute step later than this is skipped; under warp it scales with the world."""
    power_on: Annotated[str, Meta(pattern=r"^(rts\d\d)?$")] = "rts01"
    """Relative sequence started after a boot of the computer, if it is loaded; empty is none."""
    warm_reset: Annotated[str, Meta(pattern=r"^(rts\d\d)?$")] = "rts02"
    """Relative sequence started after a restart of the daemon alone, if it is loaded; empty is none."""

    def __post_init__(self) -> None:
        for key, name in (("power_on", self.power_on), ("warm_reset", self.warm_reset)):
            if name and name not in POSITION:
                raise ValueError(f"{key} = {name!r} is no sequence, allowed are rts01 to {NAMES[-1]} and nothing")


class Refusal(Struct, frozen=True):
    """Why an order cannot be obeyed; nothing has changed."""

    code: FailureCode
    text: str


Ordered = tuple[State, tuple[Event, ...]] | Refusal


def refused(position: int, slot: Slot, trigger: Trigger) -> Refusal:
    """The refusal of a trigger that has no row for the state of the slot."""
    possible = " or ".join(life.name for life in Life if (life, trigger) in TRANSITIONS)
    return Refusal(
        FailureCode.WRONG_STATE, f"{NAMES[position]} is {slot.life.name}; {trigger} is possible in {possible}"
    )


def start(state: State, name: str, clock: Clock, by: str) -> Ordered:
    """Start a loaded sequence at its first step, or an absolute one at the first that has not passed."""
    position = POSITION[name]
    slot = state.slots[position]
    if (slot.life, Trigger.START) not in TRANSITIONS:
        return refused(position, slot, Trigger.START)
    sequence, absolute = slot.flown, position in ABSOLUTES
    if absolute and slot.complete:
        return Refusal(FailureCode.WRONG_STATE, f"all steps of {name} have passed; load it again to repeat it")
    waits = sequence.wait_for_time and not clock.valid
    slot = replace(
        slot,
        life=TRANSITIONS[slot.life, Trigger.WAIT if waits else Trigger.START],
        index=slot.index if absolute else 0,
        reserved=slot.index if absolute else 0,
        base_s=None if waits else clock.elapsed_world_s,
        dispatched=0,
        failed=0,
        skipped=0,
    )
    return put(state, position, slot), (started(name, slot, by),)


def restart(state: State, name: str) -> State:
    """A relative sequence that starts itself: its first delay counts from the due time of the step that did it."""
    position = POSITION[name]
    return put(state, position, replace(state.slots[position], index=0))


def suspend(state: State, name: str, clock: Clock) -> Ordered:
    """Stop the time of a sequence; commands in flight go on, their outcomes still count."""
    position = POSITION[name]
    slot = state.slots[position]
    life = TRANSITIONS.get((slot.life, Trigger.SUSPEND))
    if life is None:
        return refused(position, slot, Trigger.SUSPEND)
    slot = replace(slot, life=life, held_s=clock.elapsed_world_s)
    return put(state, position, slot), (Event("SEQUENCE_SUSPENDED", {"sequence": name, "step": slot.index + 1}),)


def resume(state: State, name: str, clock: Clock) -> Ordered:
    """Let the time of a suspended sequence run on from where it stood."""
    position = POSITION[name]
    slot = state.slots[position]
    if (slot.life, Trigger.RESUME) not in TRANSITIONS:
        return refused(position, slot, Trigger.RESUME)
    waits = needs_time(position, slot) and not clock.valid
    base_s = slot.base_s
    if base_s is not None:
        base_s += clock.elapsed_world_s - slot.held_s
    elif not waits:
        base_s = clock.elapsed_world_s
    life = TRANSITIONS[slot.life, Trigger.WAIT if waits else Trigger.RESUME]
    slot = replace(slot, life=life, base_s=base_s, ordered_s=None)
    return put(state, position, slot), (Event("SEQUENCE_RESUMED", {"sequence": name, "step": slot.index + 1}),)


def order_step(state: State, name: str, until_s: float) -> Ordered:
    """Dispatch the next step of a suspended sequence in the next frame, whatever its time, before ``until_s``."""
    position = POSITION[name]
    slot = state.slots[position]
    if (slot.life, Trigger.STEP) not in TRANSITIONS:
        return refused(position, slot, Trigger.STEP)
    if slot.index >= len(slot.flown.steps):
        return Refusal(FailureCode.WRONG_STATE, f"{name} has no step left; the outcome of a step is awaited")
    if slot.flown.reference == "completion" and slot.pending:
        return Refusal(FailureCode.BUSY, f"step {slot.pending[0].step} of {name} is not complete")
    return put(state, position, replace(slot, ordered_s=until_s)), ()


def abort(state: State, name: str, reason: str) -> Ordered:
    """End a sequence before its time; outcomes of commands in flight are nobody's from here on."""
    position = POSITION[name]
    slot = state.slots[position]
    life = TRANSITIONS.get((slot.life, Trigger.ABORT))
    if life is None:
        return refused(position, slot, Trigger.ABORT)
    fields: Fields = {"sequence": name, "step": slot.index + 1, "reason": reason}
    slot = replace(slot, life=life, pending=(), ordered_s=None)
    return put(state, position, slot), (Event("SEQUENCE_ABORTED", fields),)


def finish(state: State, position: int) -> tuple[State, tuple[Event, ...]]:
    """End a sequence whose last outcome is known."""
    slot = state.slots[position]
    life = TRANSITIONS.get((slot.life, Trigger.END))
    if life is None or not slot.complete:
        return state, ()
    fields: Fields = {
        "sequence": NAMES[position],
        "dispatched": slot.dispatched,
        "failed": slot.failed,
        "skipped": slot.skipped,
    }
    slot = replace(slot, life=life, ordered_s=None)
    return put(state, position, slot), (Event("SEQUENCE_ENDED", fields),)


def started(name: str, slot: Slot, by: str) -> Event:
    """The event of a sequence that begins to run, or to wait."""
    if slot.life is Life.WAITING:
        return Event("SEQUENCE_WAITING", {"sequence": name, "step": slot.index + 1, "by": by})
    fields: Fields = {
        "sequence": name,
        "name": slot.flown.name,
        "step": slot.index + 1,
        "steps": len(slot.flown.steps),
        "by": by,
    }
    return Event("SEQUENCE_STARTED", fields)


def needs_time(position: int, slot: Slot) -> bool:
    """Whether the sequence waits while the onboard time is not valid."""
    return position in ABSOLUTES or (slot.base_s is None and slot.flown.wait_for_time)
