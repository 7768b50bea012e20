"""Supervision: whether the adapters work, the frames come in time, and the radio brings telecommands.

*Adapters.* Liveness is progress, not a status: the watchdog may be kicked only when every mandatory adapter's
execution counter moved within the last ``ADAPTER_FRAMES_MAX`` frames. Restarts and failures of an adapter are
reported when they appear; the counters are compared with those of the last frame.

*Frames.* Frames that the shell had to skip are reported when it tells of them.

*Garbage.* Bytes that are no telecommand are counted on both sides of the deframer and reported at most every
``GARBAGE_INTERVAL_S`` of machine time, so noise on the radio cannot fill the downlink.
"""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from .events import Event, Fields
from .inputs import AdapterStatus, Health, Inputs

ADAPTER_FRAMES_MAX: Final = 20
"""A mandatory adapter must have executed within this many minor frames for the watchdog to be kicked."""
GARBAGE_INTERVAL_S: Final = 10.0
"""Least machine time between two reports of unreadable bytes."""


class State(Struct, frozen=True):
    """Frame in which each mandatory adapter last moved, and its counter then; the last report of garbage."""

    moved: dict[str, tuple[int, int]] = {}
    garbage_reported: int = 0
    garbage_s: float = float("-inf")


def step(
    state: State, adapters: tuple[AdapterStatus, ...], health: Health, frame_count: int, inputs: Inputs
) -> tuple[State, tuple[Event, ...]]:
    """Compare what the shell tells with ``adapters`` and ``health``, told in the frame before ``frame_count``."""
    found: list[Event] = []
    skipped = inputs.health.frames_skipped - health.frames_skipped
    if skipped > 0:
        late_ms = inputs.health.frame_late_s * 1e3
        found.append(Event("FRAME_OVERRUN", {"late_ms": late_ms, "skipped": skipped}))
    if inputs.adapters is adapters or not inputs.adapters:
        return state, tuple(found)
    before = {adapter.name: adapter for adapter in adapters}
    moved = dict(state.moved)
    for adapter in inputs.adapters:
        found.extend(_adapter_events(before.get(adapter.name), adapter))
        if not adapter.mandatory:
            continue
        frame, executions = moved.get(adapter.name, (frame_count - 1, -1))
        if adapter.executions != executions:
            frame = frame_count
        moved[adapter.name] = (frame, adapter.executions)
    return replace(state, moved=moved), tuple(found)


def adapters_alive(state: State, frame_count: int) -> bool:
    """Whether every mandatory adapter moved lately; true while there is none."""
    return all(frame_count - frame < ADAPTER_FRAMES_MAX for frame, _ in state.moved.values())


def garbage(state: State, count: int, now_s: float) -> tuple[State, tuple[Event, ...]]:
    """Report unreadable bytes; ``count`` is all of them since boot."""
    if count <= state.garbage_reported or now_s - state.garbage_s < GARBAGE_INTERVAL_S:
        return state, ()
    found = Event("TC_GARBAGE", {"count": count - state.garbage_reported})
    return replace(state, garbage_reported=count, garbage_s=now_s), (found,)


def _adapter_events(before: AdapterStatus | None, now: AdapterStatus) -> tuple[Event, ...]:
    found: tuple[Event, ...] = ()
    if now.restarts > (0 if before is None else before.restarts):
        restarted: Fields = {"adapter": now.name, "restarts": now.restarts, "reason": now.reason}
        found += (Event("ADAPTER_RESTARTED", restarted),)
    if now.failed and not (before is not None and before.failed):
        failed: Fields = {"adapter": now.name, "restarts": now.restarts, "reason": now.reason}
        found += (Event("ADAPTER_FAILED", failed),)
    return found
