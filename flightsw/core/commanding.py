"""Commanding: what happens to a telecommand between the radio and its final report.

Acceptance checks in this order, each refusal with its own code: the packet is whole and for us → the body is a
command → known → arguments valid → allowed in this mode → armed, when hazardous → room in the table of commands
in flight. Bytes that are no telecommand are counted, and nobody is answered, because nobody can be named.

*Idempotence.* The ground repeats a command whose report it missed. The last ``HISTORY_MAX`` command ids are
remembered: a known id is not executed again, its latest report is repeated. Only BUSY is forgotten: that command
never was here.

*Verification* is PUS service 1: acceptance, start, completion. Successes are reported when the packet's
acknowledgement flags ask for them, failures always. Each accepted command ends in exactly one final report:
completion, failure, or TIMEOUT after the time the dictionary allows it (machine clock).

*Arming.* A hazardous command must have been armed by ``arm`` within ``arm_window_s``; arming is used up by the
attempt.

*Stored commands.* Commands of sequences come by ``submit`` and pass the same checks. Nobody waits for their
reports: no report is sent, no id is remembered; the final outcome is kept in ``outcomes`` until the sequences have
taken it.

What a command does and when it is complete stands in ``execution``.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from flightsw.link.arguments import check_arguments
from flightsw.link.bodies import CommandBody, unpack_command
from flightsw.link.dictionary import APID_TELECOMMAND, TELECOMMAND_BY_OPCODE
from flightsw.link.errors import ArgumentError, BodyError, PacketError
from flightsw.link.packet import ACK_ACCEPTANCE, ACK_COMPLETION, ACK_NONE, ACK_START, TcPacket, decode_tc
from flightsw.link.schema import FailureCode, Hazard, Mode, Stage, Telecommand

from .events import Event, Fields

HISTORY_MAX: Final = 256
"""Command ids remembered; the oldest is forgotten first."""
ONBOARD_ID_MIN: Final = 1 << 63
"""Command ids from here on belong to stored sequences: they are no sign of life of the ground."""
ARMED_MAX: Final = 16
"""Opcodes armed at the same time; the oldest is dropped."""

_FLAG: Final = {Stage.ACCEPTANCE: ACK_ACCEPTANCE, Stage.START: ACK_START, Stage.COMPLETION: ACK_COMPLETION}


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of commanding, on the machine clock."""

    arm_window_s: Annotated[float, Meta(ge=1.0, le=3600.0)] = 60.0
    """An armed opcode must be used within this."""
    in_flight_max: Annotated[int, Meta(ge=1, le=1024)] = 32
    """Commands accepted and not complete; one more is refused as BUSY."""


class Command(Struct, frozen=True, kw_only=True):
    """One accepted command with checked arguments; ``stored`` ones come from a sequence."""

    id: int
    spec: Telecommand
    arguments: Mapping[str, Any]
    ack_flags: int
    deadline_s: float
    started: bool = False
    stored: bool = False


class Verification(Struct, frozen=True):
    """One verification report; NONE is success."""

    id: int
    opcode: int
    stage: Stage
    code: FailureCode = FailureCode.NONE
    text: str = ""


class State(Struct, frozen=True, kw_only=True):
    """Commands in flight (oldest first), latest report by id, armed opcodes with their deadline, counters.

    ``refused`` counts refusals by their code, ``heard`` the accepted commands that came from the ground;
    ``outcomes`` are the final reports of stored commands that the sequences have not taken yet.
    """

    in_flight: tuple[Command, ...] = ()
    history: dict[int, Verification] = {}
    armed: tuple[tuple[int, float], ...] = ()
    accepted: int = 0
    heard: int = 0
    refused: dict[int, int] = {}
    garbage: int = 0
    outcomes: tuple[Verification, ...] = ()

    @property
    def rejected(self) -> int:
        """Telecommands refused since boot, for whatever reason."""
        return sum(self.refused.values())


Outcome = Verification | Event
EMPTY: Final = State()


def accept(
    state: State, config: Config, packet: bytes, mode: Mode, now_s: float
) -> tuple[State, tuple[Outcome, ...]]:
    """Acceptance of one telecommand packet; nothing is executed yet. Any bytes are fine, nothing is raised."""
    try:
        header = decode_tc(packet)
    except PacketError:
        return replace(state, garbage=state.garbage + 1), ()
    if header.apid != APID_TELECOMMAND:
        return replace(state, garbage=state.garbage + 1), ()
    try:
        body = unpack_command(header.body)
    except BodyError as error:
        refused = Event("TC_REFUSED", {"command": "?", "code": FailureCode.MALFORMED.name, "reason": str(error)})
        return _counted(state, FailureCode.MALFORMED), (refused,)
    if (known := state.history.get(body.id)) is not None:
        return state, ((known,) if header.ack_flags or known.code else ())
    verdict = _verdict(state, config, header, body, mode, now_s)
    if isinstance(verdict, Verification):
        return _refuse(state, verdict, now_s)
    accepted = Verification(body.id, body.op, Stage.ACCEPTANCE)
    state = replace(
        state,
        in_flight=(*state.in_flight, verdict),
        history=_remembered(state.history, accepted),
        armed=_disarmed(state.armed, verdict.spec, now_s),
        accepted=state.accepted + 1,
        heard=state.heard + (body.id < ONBOARD_ID_MIN),
    )
    return state, ((accepted,) if header.ack_flags & ACK_ACCEPTANCE else ())


def report(
    state: State, command: Command, stage: Stage, code: FailureCode = FailureCode.NONE, text: str = ""
) -> tuple[State, tuple[Outcome, ...]]:
    """Progress of one command: its start, or its one final report, after which it is in flight no longer."""
    verification = Verification(command.id, command.spec.opcode, stage, code, text)
    if command.stored:
        return _stored_report(state, verification), ()
    if _is_final(verification):
        in_flight = tuple(c for c in state.in_flight if c.id != command.id)
    else:
        in_flight = tuple(replace(c, started=True) if c.id == command.id else c for c in state.in_flight)
    state = replace(state, in_flight=in_flight, history=_remembered(state.history, verification))
    if code is not FailureCode.NONE:
        failed: Fields = {"command": command.spec.name, "code": code.name, "reason": text}
        return state, (verification, Event("TC_FAILED", failed))
    return state, ((verification,) if command.ack_flags & _FLAG[stage] else ())


def submit(
    state: State,
    config: Config,
    spec: Telecommand,
    arguments: Mapping[str, Any],
    command_id: int,
    mode: Mode,
    now_s: float,
    stored_max: int,
) -> tuple[State, Command | Verification]:
    """Acceptance of one stored command, of which at most ``stored_max`` may be in flight; nothing is executed yet.

    ``arguments`` are checked. The second value is the accepted command, or the refusal.
    """
    if sum(command.stored for command in state.in_flight) >= stored_max:
        text = f"{stored_max} stored commands are in flight"
        return state, Verification(command_id, spec.opcode, Stage.ACCEPTANCE, FailureCode.BUSY, text)
    if (refusal := _permission(state, config, spec, mode, now_s)) is not None:
        code, text = refusal
        return state, Verification(command_id, spec.opcode, Stage.ACCEPTANCE, code, text)
    command = Command(
        id=command_id,
        spec=spec,
        arguments=arguments,
        ack_flags=ACK_NONE,
        deadline_s=now_s + spec.timeout_s,
        stored=True,
    )
    armed = _disarmed(state.armed, spec, now_s)
    return replace(state, in_flight=(*state.in_flight, command), armed=armed), command


def arm(state: State, config: Config, opcode: int, now_s: float) -> State:
    """Arm a hazardous opcode, once, for ``arm_window_s``."""
    others = tuple(entry for entry in state.armed if entry[0] != opcode and entry[1] >= now_s)
    return replace(state, armed=(*others[-ARMED_MAX + 1 :], (opcode, now_s + config.arm_window_s)))


def _verdict(
    state: State, config: Config, header: TcPacket, body: CommandBody, mode: Mode, now_s: float
) -> Command | Verification:
    def refusal(code: FailureCode, text: str) -> Verification:
        return Verification(body.id, body.op, Stage.ACCEPTANCE, code, text)

    spec = TELECOMMAND_BY_OPCODE.get(body.op)
    if spec is None:
        return refusal(FailureCode.UNKNOWN_COMMAND, f"opcode 0x{body.op:02X} is not in this dictionary")
    if (header.service, header.subtype) != (spec.service, spec.subtype):
        wrong = f"{spec.name} is service {spec.service},{spec.subtype}, not {header.service},{header.subtype}"
        return refusal(FailureCode.MALFORMED, wrong)
    try:
        arguments = check_arguments(spec, body.args)
    except ArgumentError as error:
        return refusal(FailureCode.BAD_ARGUMENT, str(error))
    if (found := _permission(state, config, spec, mode, now_s)) is not None:
        return refusal(*found)
    return Command(
        id=body.id,
        spec=spec,
        arguments=arguments,
        ack_flags=header.ack_flags,
        deadline_s=now_s + spec.timeout_s,
    )


def _permission(
    state: State, config: Config, spec: Telecommand, mode: Mode, now_s: float
) -> tuple[FailureCode, str] | None:
    """Why a known command with valid arguments may not be accepted now, wherever it comes from."""
    if mode not in spec.modes:
        allowed = ", ".join(m.name for m in spec.modes)
        return FailureCode.MODE_FORBIDS, f"{spec.name} is not allowed in {mode.name}, only in {allowed}"
    if spec.hazard is Hazard.HAZARDOUS and not any(
        opcode == spec.opcode and now_s <= until_s for opcode, until_s in state.armed
    ):
        how = f"{spec.name} is hazardous: send arm opcode={spec.opcode} within {config.arm_window_s:g} s before it"
        return FailureCode.NOT_ARMED, how
    if len(state.in_flight) >= config.in_flight_max:
        return FailureCode.BUSY, f"{config.in_flight_max} commands are in flight; send it again later"
    return None


def _stored_report(state: State, verification: Verification) -> State:
    if not _is_final(verification):
        in_flight = tuple(replace(c, started=True) if c.id == verification.id else c for c in state.in_flight)
        return replace(state, in_flight=in_flight)
    in_flight = tuple(c for c in state.in_flight if c.id != verification.id)
    return replace(state, in_flight=in_flight, outcomes=(*state.outcomes, verification))


def _is_final(verification: Verification) -> bool:
    return verification.stage is Stage.COMPLETION or verification.code is not FailureCode.NONE


def _refuse(state: State, refusal: Verification, now_s: float) -> tuple[State, tuple[Outcome, ...]]:
    spec = TELECOMMAND_BY_OPCODE.get(refusal.opcode)
    name = f"0x{refusal.opcode:02X}" if spec is None else spec.name
    history = state.history if refusal.code is FailureCode.BUSY else _remembered(state.history, refusal)
    state = replace(_counted(state, refusal.code), history=history)
    event = Event("TC_REFUSED", {"command": name, "code": refusal.code.name, "reason": refusal.text})
    return state, (refusal, event)


def _counted(state: State, code: FailureCode) -> State:
    return replace(state, refused={**state.refused, int(code): state.refused.get(code, 0) + 1})


def _remembered(history: dict[int, Verification], latest: Verification) -> dict[int, Verification]:
    """A copy with this report in it; its id moves to no other place, the oldest id makes room."""
    copy = dict(history)
    copy[latest.id] = latest
    if len(copy) > HISTORY_MAX:
        del copy[next(iter(copy))]
    return copy


def _disarmed(
    armed: tuple[tuple[int, float], ...], spec: Telecommand, now_s: float
) -> tuple[tuple[int, float], ...]:
    if not armed:
        return armed
    return tuple(entry for entry in armed if entry[0] != spec.opcode and entry[1] >= now_s)
