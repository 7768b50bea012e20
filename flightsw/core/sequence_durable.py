"""What of the stored sequences outlives a reboot: the positions of the absolute ones, written before steps fire.

*At most once.* ``reserved`` is the step up to which the store knows that steps may have fired. A step is dispatched
only from a reservation that was ordered in an earlier frame, and a reboot goes on behind it: after a power cut no
step fires a second time. The price is that steps of the reservation that had not fired yet do not fire at all; it
spans ``AHEAD_S`` + ``INTERVAL_S``, less than a boot takes, so such steps would have been too late anyway.

*Wear.* A reservation is made ``AHEAD_S`` before its first step is due and covers the steps of the ``INTERVAL_S``
after that, so it is written at most once in that time, however many steps there are. Everything else (a sequence
was started, aborted, loaded) waits until ``INTERVAL_S`` after the last write. Machine time; under warp mission time
of that length × warp is covered.

*At boot.* An absolute sequence that was running or suspended goes on after a warm reset, if its image is the one
that flew. After a power-on it stays where it was until somebody starts it. After a crash loop nothing goes on by
itself. Relative sequences end with the daemon.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from flightsw.link.sequence import DS_PER_S
from flightsw.link.tables import ABSOLUTE_SEQUENCES

from .correlation import State as Clock
from .effects import Persist
from .events import Event, Fields
from .sequence import Config, started
from .sequence_life import ABSOLUTES, NAMES, ON_THE_WAY, Life, Slot, State, put

SEQUENCES_KEY: Final = "sequences"
AHEAD_S: Final = 1.0
"""A reservation is written this long before its first step is due."""
INTERVAL_S: Final = 1.0
"""Least time between writes of what may wait, and what a reservation covers beyond ``AHEAD_S``."""


class Mark(Struct, frozen=True, array_like=True):
    """Where an absolute sequence stands: its slot, CRC-32 of its image, its state, the step to go on with.

    ``passed_ds`` is the TAI of the step before that one: it still holds where the image does not.
    """

    position: Annotated[int, Meta(ge=0, lt=ABSOLUTE_SEQUENCES)]
    crc32: Annotated[int, Meta(ge=0, lt=2**32)]
    life: Life
    reserved: Annotated[int, Meta(ge=0)]
    passed_ds: Annotated[int, Meta(ge=0)]


Marks = Annotated[tuple[Mark, ...], Meta(max_length=ABSOLUTE_SEQUENCES)]
"""The fact "sequences": all absolute sequences that are loaded."""

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final[msgspec.msgpack.Decoder[tuple[Mark, ...]]] = msgspec.msgpack.Decoder(Marks)


def step(state: State, clock: Clock, now_s: float) -> tuple[State, tuple[Persist, ...]]:
    """Reserve the steps that come next, and write what has changed."""
    waits = not state.unwritten or now_s - state.written_s < INTERVAL_S
    if waits and not any(_urgent(state.slots[position], clock) for position in ABSOLUTES):
        return state, ()
    for position in ABSOLUTES:
        slot = state.slots[position]
        reserved = _reserved(slot, clock)
        if reserved != slot.reserved:
            state = put(state, position, replace(slot, reserved=reserved))
    return _write(state, now_s)


def close(state: State, now_s: float) -> tuple[State, tuple[Persist, ...]]:
    """The end of the daemon: nothing is dispatched any more, so the exact positions are written."""
    for position in ABSOLUTES:
        slot = state.slots[position]
        state = put(state, position, replace(slot, reserved=slot.index))
    state, written = _write(state, now_s)
    return replace(state, closed=True), written


def restore(
    state: State, config: Config, payload: bytes | None, *, power_on: bool, crash_loop: bool
) -> tuple[State, tuple[Event, ...]]:
    """The sequences at boot, after their images have been loaded."""
    state = replace(state, at_boot="" if crash_loop else config.power_on if power_on else config.warm_reset)
    if payload is None:
        return state, ()
    try:
        marks = _decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        state = replace(state, written=payload, unwritten=True)
        return state, (Event("DURABLE_REFUSED", {"key": SEQUENCES_KEY, "reason": str(error)}),)
    found = []
    for mark in marks:
        slot, under_way = state.slots[mark.position], mark.life in ON_THE_WAY
        if slot.life is Life.EMPTY or slot.crc32 != mark.crc32:
            # The power went between the writes of image and position, or the image did not load.
            if slot.life is not Life.EMPTY:
                index = sum(each.at_ds <= mark.passed_ds for each in slot.flown.steps)
                state = put(state, mark.position, replace(slot, index=index, reserved=index))
            if under_way:
                found.append(_ended(mark.position, mark.reserved, "its image is not the one that flew"))
            continue
        reserved = min(mark.reserved, len(slot.flown.steps))
        life = Life.LOADED
        if under_way and not power_on and not crash_loop:
            life = Life.SUSPENDED if mark.life is Life.SUSPENDED else Life.WAITING
        slot = replace(slot, life=life, index=reserved, reserved=reserved)
        state = put(state, mark.position, slot)
        if life is Life.WAITING:
            found.append(started(NAMES[mark.position], slot, "warm reset"))
        elif life is Life.LOADED and under_way:
            found.append(_ended(mark.position, reserved, "crash loop" if crash_loop else "power-on"))
    return replace(state, written=payload), tuple(found)


def _ended(position: int, index: int, reason: str) -> Event:
    fields: Fields = {"sequence": NAMES[position], "step": index + 1, "reason": reason}
    return Event("SEQUENCE_ABORTED", fields)


def _urgent(slot: Slot, clock: Clock) -> bool:
    """Whether a step without a reservation is about to be dispatched."""
    if slot.ordered_s is not None:
        return slot.index >= slot.reserved
    index = max(slot.index, slot.reserved)
    if slot.life is not Life.RUNNING or index >= len(slot.flown.steps):
        return False
    return slot.flown.steps[index].at_ds <= (clock.tai_s + AHEAD_S * clock.warp) * DS_PER_S


def _reserved(slot: Slot, clock: Clock) -> int:
    """The step up to which steps may fire once this is written."""
    if slot.ordered_s is not None:
        return max(slot.reserved, slot.index + 1)
    if slot.life is not Life.RUNNING:
        return max(slot.reserved, slot.index) if slot.life in ON_THE_WAY else slot.index
    steps, index = slot.flown.steps, max(slot.reserved, slot.index)
    until_ds = (clock.tai_s + (AHEAD_S + INTERVAL_S) * clock.warp) * DS_PER_S
    while index < len(steps) and steps[index].at_ds <= until_ds:
        index += 1
    return index


def _passed_ds(slot: Slot) -> int:
    return slot.flown.steps[slot.reserved - 1].at_ds if slot.reserved else 0


def _write(state: State, now_s: float) -> tuple[State, tuple[Persist, ...]]:
    marks = tuple(
        Mark(position, slot.crc32, slot.life, slot.reserved, _passed_ds(slot))
        for position in ABSOLUTES
        if (slot := state.slots[position]).life is not Life.EMPTY
    )
    payload = _encoder.encode(marks)
    if payload == state.written:
        return replace(state, unwritten=False), ()
    state = replace(state, unwritten=False, written=payload, written_s=now_s)
    return state, (Persist(SEQUENCES_KEY, payload),)
