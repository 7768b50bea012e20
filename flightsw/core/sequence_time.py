"""When a step of a stored sequence is due, when it is too late, and whose turn it is.

*Due.* A relative step is due ``at_ds`` after the due time of the step before it (``reference`` "dispatch") or after
that step's completion. Completion is seen in frames: a command that completes in the frame of its dispatch took no
time. An absolute step is due at its TAI, if that is valid and the step lies before ``reserved``. A step whose CRC
does not hold is due at once, because its time cannot be believed either: it fails, and nobody waits for it.

*Late.* An absolute step later than ``late_max_s`` × warp is skipped, whatever made it late: a forward step of time,
a suspension, a late start, or more steps than frames can dispatch. A relative step is never late.

*Turns* (ROUND ROBIN). Absolute sequences come first, of two the one whose step has the earlier time. Relative ones
give one step in turn, by slot. When the bound of a frame cuts the round, the next frame goes on with the slot that
would have been next; so a sequence waits for at most one step of each other one, even if one starts itself for
ever.
"""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from flightsw.link.sequence import DS_PER_S, is_whole

from .correlation import State as Clock
from .events import Event, Fields
from .sequence import Config, needs_time, started
from .sequence_life import ABSOLUTES, NAMES, Life, Slot, State, Trigger, put

EARLY_S: Final = 1e-3
"""A step may be dispatched this much early: rounding of sums of 0.1 s must not cost it a frame."""


class Next(Struct, frozen=True):
    """The step to dispatch now."""

    position: int
    due_s: float


def elapsed_s(slot: Slot, clock: Clock) -> float:
    """Time of a relative sequence: elapsed mission time, or where it was suspended."""
    return slot.held_s if slot.life is Life.SUSPENDED else clock.elapsed_world_s


def follow(state: State, config: Config, clock: Clock, now_s: float) -> tuple[State, tuple[Event, ...]]:
    """Begin what waited for valid time, hold what lost it, skip what is late, forget orders that were not met."""
    found: list[Event] = []
    for position in state.active:
        slot = before = state.slots[position]
        if slot.ordered_s is not None and now_s >= slot.ordered_s:
            slot = replace(slot, ordered_s=None)
        if slot.life is Life.WAITING and clock.valid:
            base_s = clock.elapsed_world_s if slot.base_s is None else slot.base_s
            slot = replace(slot, life=Life.RUNNING, base_s=base_s)
            found.append(started(NAMES[position], slot, Trigger.TIME_VALID))
        elif slot.life is Life.RUNNING and not clock.valid and needs_time(position, slot):
            slot = replace(slot, life=Life.WAITING)
            found.append(started(NAMES[position], slot, "loss of valid time"))
        if slot.life is Life.RUNNING and position in ABSOLUTES:
            slot, skipped = _without_late(position, slot, config, clock)
            found += skipped
        if slot is not before:
            state = put(state, position, slot)
            count = slot.skipped - before.skipped
            state = replace(state, skipped=state.skipped + count)
    return state, tuple(found)


def choose(state: State, config: Config, clock: Clock) -> Next | None:
    """The step to dispatch next in this frame, if one is due."""
    first: Next | None = None
    for position in state.active:
        if position not in ABSOLUTES:
            break
        due_s = _due_absolute(state.slots[position], config, clock)
        if due_s is not None and (first is None or due_s < first.due_s):
            first = Next(position, due_s)
    if first is not None:
        return first
    relative = [position for position in state.active if position not in ABSOLUTES]
    for position in sorted(relative, key=lambda position: position < state.turn):
        due_s = _due_relative(state.slots[position], clock)
        if due_s is not None:
            return Next(position, due_s)
    return None


def _due_absolute(slot: Slot, config: Config, clock: Clock) -> float | None:
    """TAI of the next step in seconds, if it may be dispatched now."""
    if slot.index >= len(slot.flown.steps):
        return None
    step = slot.flown.steps[slot.index]
    at_s = step.at_ds / DS_PER_S
    if not is_whole(step):
        return at_s
    if slot.index >= slot.reserved:
        return None
    if slot.ordered_s is not None:
        return at_s
    if slot.life is not Life.RUNNING:
        return None
    late_s = clock.tai_s - at_s
    return at_s if -EARLY_S <= late_s <= config.late_max_s * clock.warp else None


def _due_relative(slot: Slot, clock: Clock) -> float | None:
    """Elapsed mission time at which the next step was due, if it may be dispatched now."""
    steps = slot.flown.steps
    if slot.index >= len(steps) or (slot.pending and slot.flown.reference == "completion"):
        return None
    now_s = elapsed_s(slot, clock)
    step = steps[slot.index]
    if slot.ordered_s is not None or not is_whole(step):
        return now_s
    if slot.life is not Life.RUNNING or slot.base_s is None:
        return None
    due_s = slot.base_s + step.at_ds / DS_PER_S
    return due_s if due_s <= now_s + EARLY_S else None


def _without_late(position: int, slot: Slot, config: Config, clock: Clock) -> tuple[Slot, tuple[Event, ...]]:
    """The slot past all steps that are too late, and one event for the run of them."""
    steps, index = slot.flown.steps, slot.index
    limit_ds = (clock.tai_s - config.late_max_s * clock.warp) * DS_PER_S
    while index < len(steps) and steps[index].at_ds < limit_ds and is_whole(steps[index]):
        index += 1
    count = index - slot.index
    if not count:
        return slot, ()
    fields: Fields = {
        "sequence": NAMES[position],
        "step": slot.index + 1,
        "count": count,
        "late_s": clock.tai_s - steps[slot.index].at_ds / DS_PER_S,
    }
    slot = replace(slot, index=index, reserved=max(index, slot.reserved), skipped=slot.skipped + count)
    return slot, (Event("SEQUENCE_SKIPPED", fields),)


def ats_next_s(state: State, clock: Clock) -> float:
    """Time to the next step of an absolute sequence in seconds; NaN while none will come."""
    due = [
        slot.flown.steps[slot.index].at_ds
        for slot in (state.slots[position] for position in ABSOLUTES)
        if slot.life is Life.RUNNING and slot.index < len(slot.flown.steps)
    ]
    return min(due) / DS_PER_S - clock.tai_s if due else float("nan")
