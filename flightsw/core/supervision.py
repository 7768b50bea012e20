"""Supervision: whether the adapters work, the frames come in time, and the radio brings telecommands.

*Adapters.* Liveness is progress, not a status. An adapter owes a move of its execution counter in each cycle
(``AdapterStatus.cycle_s``); after ``WARN_CYCLES`` missed ones it is reported late, after ``FAULT_CYCLES`` stuck, as
in F Prime's health component. The watchdog may be kicked only while no mandatory adapter is stuck. A frame adds at
most one cycle to what is missed: when the whole daemon stood still, nobody else is to blame for it. An adapter
that is not mandatory is watched from its first move on, because it may take its time to start. Workers have the
same two steps in ``duty``.

Restarts and failures of an adapter are reported when they appear; the counters are compared with those of the last
frame. An adapter that is told of no longer, or that stops being mandatory, is no longer in the watchdog's way.

*Frames, watchdog.* Frames that the shell had to skip, and a watchdog that is missing or does not hear, are reported
when the shell tells of them.

*Garbage.* Bytes that are no telecommand are counted on both sides of the deframer and reported at most every
``GARBAGE_INTERVAL_S`` of machine time, so noise on the radio cannot fill the downlink.
"""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from .events import Event, Fields
from .inputs import AdapterStatus, Health, Inputs

WARN_CYCLES: Final = 3
"""Missed cycles after which a task is reported late."""
FAULT_CYCLES: Final = 5
"""Missed cycles after which a task is stuck."""
GARBAGE_INTERVAL_S: Final = 10.0
"""Least machine time between two reports of unreadable bytes."""


class Pulse(Struct, frozen=True, kw_only=True):
    """One adapter: its counter, the time without a move of it, and how far that was reported."""

    executions: int
    mandatory: bool
    idle_s: float = 0.0
    late: bool = False
    stuck: bool = False


class State(Struct, frozen=True, kw_only=True):
    """Adapters by name; how many were late and stuck since boot; the last report of garbage."""

    pulses: dict[str, Pulse] = {}
    late: int = 0
    stuck: int = 0
    garbage_reported: int = 0
    garbage_s: float = float("-inf")


def step(
    state: State, adapters: tuple[AdapterStatus, ...], health: Health, elapsed_s: float, inputs: Inputs
) -> tuple[State, tuple[Event, ...]]:
    """Compare what the shell tells with ``adapters`` and ``health``, told ``elapsed_s`` of machine time ago."""
    found: list[Event] = []
    skipped = inputs.health.frames_skipped - health.frames_skipped
    if skipped > 0:
        late_ms = inputs.health.frame_late_s * 1e3
        found.append(Event("FRAME_OVERRUN", {"late_ms": late_ms, "skipped": skipped}))
    fault = inputs.health.watchdog_fault
    if fault and fault != health.watchdog_fault:
        found.append(Event("WATCHDOG_FAULT", {"reason": fault}))
    now = inputs.adapters or adapters
    if now is not adapters:
        before = {adapter.name: adapter for adapter in adapters}
        for adapter in now:
            found.extend(_adapter_events(before.get(adapter.name), adapter))
    pulses = {a.name: _felt(state.pulses.get(a.name), a, elapsed_s, found) for a in now}
    names = [event.name for event in found]
    state = replace(
        state,
        pulses=pulses,
        late=state.late + names.count("ADAPTER_LATE"),
        stuck=state.stuck + names.count("ADAPTER_STUCK"),
    )
    return state, tuple(found)


def adapters_alive(state: State) -> bool:
    """Whether no mandatory adapter is stuck; true while there is none."""
    return not any(pulse.stuck and pulse.mandatory for pulse in state.pulses.values())


def garbage(state: State, count: int, now_s: float) -> tuple[State, tuple[Event, ...]]:
    """Report unreadable bytes; ``count`` is all of them since boot."""
    if count <= state.garbage_reported or now_s - state.garbage_s < GARBAGE_INTERVAL_S:
        return state, ()
    found = Event("TC_GARBAGE", {"count": count - state.garbage_reported})
    return replace(state, garbage_reported=count, garbage_s=now_s), (found,)


def _felt(pulse: Pulse | None, now: AdapterStatus, elapsed_s: float, found: list[Event]) -> Pulse:
    """The pulse of an adapter after one more frame."""
    if pulse is None or pulse.executions != now.executions:
        if pulse is not None and pulse.late:
            found.append(Event("ADAPTER_MOVES", {"adapter": now.name, "idle_s": pulse.idle_s}))
        return Pulse(executions=now.executions, mandatory=now.mandatory)
    if not (now.mandatory or now.executions):
        return pulse
    idle_s = pulse.idle_s + min(elapsed_s, now.cycle_s)
    late, stuck = idle_s >= WARN_CYCLES * now.cycle_s, idle_s >= FAULT_CYCLES * now.cycle_s
    fields: Fields = {"adapter": now.name, "idle_s": idle_s}
    if late and not pulse.late:
        found.append(Event("ADAPTER_LATE", fields))
    if stuck and not pulse.stuck:
        found.append(Event("ADAPTER_STUCK", fields))
    return replace(pulse, mandatory=now.mandatory, idle_s=idle_s, late=late, stuck=stuck)


def _adapter_events(before: AdapterStatus | None, now: AdapterStatus) -> tuple[Event, ...]:
    found: tuple[Event, ...] = ()
    if now.restarts > (0 if before is None else before.restarts):
        restarted: Fields = {"adapter": now.name, "restarts": now.restarts, "reason": now.reason}
        found += (Event("ADAPTER_RESTARTED", restarted),)
    if now.failed and not (before is not None and before.failed):
        failed: Fields = {"adapter": now.name, "restarts": now.restarts, "reason": now.reason}
        found += (Event("ADAPTER_FAILED", failed),)
    return found
