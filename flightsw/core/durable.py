"""Durable facts of the vehicle: what it must still know after a restart, and when that is written.

``DURABLE_KEYS`` names every fact that the shell loads before ``boot`` and writes when the core says ``Persist``.
The facts of this module have the key "vehicle":

- SAFE, with its cause and the event that led into it, so that a restart is no way out of SAFE;
- the mission time since the ground was last heard;
- how often the restart ladder has restarted the daemon, and the time without trouble since;
- the final outcomes of the last ``COMMANDS_MAX`` telecommands, so that a command whose report was lost is answered
  and not executed again, above all ``daemon.restart`` itself.

*Wear.* Flash dies of being written. What must never be lost (SAFE, the ladder's count) is written in the frame in
which it changes; everything else at most every ``persist_interval_s``, at a restart, and at an orderly end. Never
per command: a crash costs at most that interval of silence, and the outcomes of the commands in it.

A payload that does not decode is told by an event and the defaults stand.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from flightsw.link.dictionary import EVENT_BY_NAME, TELECOMMAND_BY_NAME
from flightsw.link.schema import FailureCode, Mode, Stage
from flightsw.link.tables import LOADABLE

from . import contact_loss, ladder
from .commanding import Verification
from .effects import Persist
from .events import Event
from .fdir_memory import KEY as FDIR_KEY
from .ladder import RESTARTS_COUNTED_MAX
from .mode import CAUSES
from .mode import State as ModeState
from .sequence_durable import SEQUENCES_KEY

if TYPE_CHECKING:
    from .vehicle import Vehicle

VEHICLE_KEY: Final = "vehicle"
DURABLE_KEYS: Final = (VEHICLE_KEY, SEQUENCES_KEY, FDIR_KEY, *(table.name for table in LOADABLE))
"""Every key that ``boot`` takes; the shell loads them all."""
COMMANDS_MAX: Final = 64
TEXT_CHARACTERS_MAX: Final = 96
HARMLESS: Final = frozenset(
    TELECOMMAND_BY_NAME[name].opcode for name in ("recorder.acknowledge", "ping", "table.data")
)
"""Telecommands that may well run twice; they come often and would push the others out."""

Count = Annotated[int, Meta(ge=0)]


class Outcome(Struct, frozen=True, array_like=True):
    """The final report of one telecommand, as short as it is on the wire."""

    id: Count
    opcode: Count
    stage: Stage
    code: FailureCode
    text: Annotated[str, Meta(max_length=TEXT_CHARACTERS_MAX)]


class VehicleFacts(Struct, frozen=True, kw_only=True):
    """The fact "vehicle". ``safe_cause`` is a key of ``mode.CAUSES``, empty outside SAFE."""

    safe_cause: str = ""
    safe_event: str = ""
    silence_s: Annotated[float, Meta(ge=0.0)] = 0.0
    ladder_restarts: Annotated[int, Meta(ge=0, le=RESTARTS_COUNTED_MAX)] = 0
    ladder_quiet_s: Annotated[float, Meta(ge=0.0)] = 0.0
    outcomes: Annotated[tuple[Outcome, ...], Meta(max_length=COMMANDS_MAX)] = ()

    def __post_init__(self) -> None:
        for name in ("silence_s", "ladder_quiet_s"):
            if getattr(self, name) == math.inf:
                raise ValueError(f"{name} = inf")
        if self.safe_cause and self.safe_cause not in CAUSES:
            raise ValueError(f"safe_cause {self.safe_cause!r} is unknown")
        if self.safe_event and self.safe_event not in EVENT_BY_NAME:
            raise ValueError(f"safe_event {self.safe_event!r} is unknown")


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often durable facts are written."""

    persist_interval_s: Annotated[float, Meta(ge=1.0, le=3600.0)] = 60.0
    """Least time between two writes of what may wait (machine clock); SAFE and the ladder do not wait."""


class State(Struct, frozen=True, kw_only=True):
    """What the store holds by now, as far as the core knows, and when it was written (machine clock)."""

    known: VehicleFacts = VehicleFacts()
    written_s: float


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(VehicleFacts)


def encode(facts: VehicleFacts) -> bytes:
    """Payload of the key "vehicle"."""
    return _encoder.encode(facts)


def decode(payload: bytes) -> VehicleFacts:
    """Inverse of ``encode``; raises ``ValueError`` with the reason."""
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ValueError(str(error)) from None


def facts(vehicle: "Vehicle") -> VehicleFacts:
    """What is durable of this vehicle now."""
    cause, event, restarts = _urgent(vehicle)
    return VehicleFacts(
        safe_cause=cause,
        safe_event=event,
        ladder_restarts=restarts,
        ladder_quiet_s=vehicle.ladder.quiet_s,
        silence_s=vehicle.contact_loss.silence_s,
        outcomes=_outcomes(vehicle.commanding.history),
    )


def restore(vehicle: "Vehicle", payloads: Mapping[str, bytes]) -> tuple["Vehicle", tuple[Event, ...]]:
    """The vehicle at boot with what the store held. A crash loop, when there is one, stays the owner of SAFE."""
    payload = payloads.get(VEHICLE_KEY)
    if payload is None:
        return vehicle, ()
    try:
        known = decode(payload)
    except ValueError as error:
        return vehicle, (Event("DURABLE_REFUSED", {"key": VEHICLE_KEY, "reason": str(error)}),)
    moded = vehicle.mode
    if known.safe_cause and moded.resume is None:
        moded = ModeState(resume=known.safe_cause, resume_event=known.safe_event)
    history = {o.id: Verification(o.id, o.opcode, o.stage, o.code, o.text) for o in known.outcomes}
    return (
        replace(
            vehicle,
            mode=moded,
            contact_loss=contact_loss.State(silence_s=known.silence_s),
            ladder=ladder.State(restarts=known.ladder_restarts, quiet_s=known.ladder_quiet_s),
            commanding=replace(vehicle.commanding, history=history),
            durable=replace(vehicle.durable, known=known),
        ),
        (),
    )


def step(
    vehicle: "Vehicle", config: Config, now_s: float, *, now: bool = False
) -> tuple["Vehicle", tuple[Persist, ...]]:
    """Write what has to be written in this frame; ``now`` writes whatever has changed."""
    state = vehicle.durable
    due = now or now_s - state.written_s >= config.persist_interval_s
    known = state.known
    if not due and _urgent(vehicle) == (known.safe_cause, known.safe_event, known.ladder_restarts):
        return vehicle, ()
    known = facts(vehicle)
    if known == state.known:
        return vehicle, ()
    return replace(vehicle, durable=State(known=known, written_s=now_s)), (Persist(VEHICLE_KEY, encode(known)),)


def _urgent(vehicle: "Vehicle") -> tuple[str, str, int]:
    """Cause and event of SAFE, empty outside it (a SAFE that is about to be resumed counts); the ladder's count."""
    moded, restarts = vehicle.mode, vehicle.ladder.restarts
    if moded.mode is Mode.SAFE:
        return moded.cause or "", moded.event, restarts
    return moded.resume or "", moded.resume_event, restarts


def _outcomes(history: Mapping[int, Verification]) -> tuple[Outcome, ...]:
    """The newest final reports, oldest first."""
    final = [
        Outcome(v.id, v.opcode, v.stage, v.code, v.text[:TEXT_CHARACTERS_MAX])
        for v in history.values()
        if v.opcode not in HARMLESS and (v.stage is Stage.COMPLETION or v.code is not FailureCode.NONE)
    ]
    return tuple(final[-COMMANDS_MAX:])
