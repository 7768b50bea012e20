"""Telecommands on the ground: encode, send again until answered, follow, give up. Pure: no clock, no I/O.

A command goes out at once, also when the wire is silent: it may be the one that wakes the spacecraft. It goes
out again while no verification report about it has come, with a back-off that doubles from ``RETRY_S_MIN`` to
``RETRY_S_MAX``, but only while the wire shows life, and at once when life returns. Its id makes it idempotent
on board, so a lost acceptance report costs a repetition and never a second execution. Each transmission takes
the next CCSDS sequence count.

    deadline       without a timeout by the operator: ACCEPTANCE_S to the first report, then the dictionary's bound
                   and MARGIN_S to the outcome; with one: that, from sending to the outcome

What is known of each command is the business of ``flightsw.link.verification``.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from flightsw.link import verification
from flightsw.link.arguments import check_arguments, enum_codes
from flightsw.link.bodies import ArgumentValue, CommandBody, Scalar, VerificationBody, pack_body
from flightsw.link.dictionary import APID_TELECOMMAND, TELECOMMAND_BY_NAME
from flightsw.link.errors import LinkError
from flightsw.link.packet import ACK_ALL, ACK_NONE, TcPacket, encode_tc
from flightsw.link.schema import ArgumentType, FailureCode, Stage, Telecommand

from .acknowledgement import Range
from .errors import ExitCode, GroundError
from .names import likely
from .protocol import CommandLine, CommandResult, Outcome, StageLine

SOURCE_STATION: Final = 1
"""Source id of the PUS-C telecommand header: this station."""
RETRY_S_MIN: Final = 1.0
RETRY_S_MAX: Final = 8.0
ACCEPTANCE_S: Final = 30.0
MARGIN_S: Final = 5.0
TIMEOUT_S_MAX: Final = 86_400.0
OPEN_MAX: Final = 64
"""Commands without an outcome at once; one more is refused here."""
HISTORY_MAX: Final = 256
_ACKNOWLEDGE: Final = TELECOMMAND_BY_NAME["recorder.acknowledge"]


class Outgoing(msgspec.Struct, kw_only=True):
    """One command of this station and what happens to it next; times on the monotonic clock."""

    id: int
    telecommand: Telecommand
    arguments: dict[str, ArgumentValue]
    operator: str
    sent_s: float
    sent_utc_s: float
    timeout_s: float | None
    next_s: float
    retry_s: float = RETRY_S_MIN
    transmissions: int = 0
    silent: bool = False
    stages: list[StageLine] = msgspec.field(default_factory=list)


def validate(name: str, arguments: dict[str, Any]) -> tuple[Telecommand, dict[str, ArgumentValue]]:
    """The telecommand and its checked arguments; raises ``GroundError`` (usage) that says what is allowed."""
    telecommand = TELECOMMAND_BY_NAME.get(name)
    if telecommand is None:
        raise GroundError(f"no telecommand {name!r}: see ground commands", ExitCode.USAGE)
    try:
        checked = check_arguments(telecommand, arguments)
        _encode(telecommand, 2**53, checked, 0, ACK_ALL)
    except LinkError as error:
        raise GroundError(f"{error}{meant(telecommand, arguments)}", ExitCode.USAGE) from None
    return telecommand, checked


def meant(telecommand: Telecommand, arguments: Mapping[str, Any]) -> str:
    """The likely choices for the first one that is none; "" when nothing is like it."""
    for argument in telecommand.arguments:
        value = arguments.get(argument.name)
        if (
            argument.choices
            and isinstance(value, str)
            and value.casefold() not in map(str.casefold, argument.choices)
        ):
            meant = likely(value, argument.choices)
            return meant if "did you mean" in meant else ""
    return ""


def check_timeout(timeout_s: float | None) -> None:
    """Raise ``GroundError`` (usage) for a time that cannot be waited for."""
    if timeout_s is not None and not 0.0 < timeout_s <= TIMEOUT_S_MAX:
        raise GroundError(f"timeout {timeout_s:g} s: allowed are over 0 to {TIMEOUT_S_MAX:g} s", ExitCode.USAGE)


def written_arguments(arguments: Mapping[str, Any]) -> dict[str, Scalar]:
    """Arguments as JSON carries them: octets in hexadecimal, which the dictionary's check takes as well."""
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in arguments.items()}


def shown_arguments(telecommand: Telecommand, arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments as an operator writes them: enumerations by name."""
    shown = dict(arguments)
    for argument in telecommand.arguments:
        if argument.type is ArgumentType.BYTES and argument.name in shown:
            octets = shown[argument.name]
            # In JSON they are hexadecimal text, two digits each.
            count = len(octets) // 2 if isinstance(octets, str) else len(octets)
            shown[argument.name] = f"{count} octets"
        if argument.type is ArgumentType.ENUM and argument.name in shown:
            names = {code: name for name, code in enum_codes(argument).items()}
            shown[argument.name] = names.get(shown[argument.name], shown[argument.name])
    return shown


class Commander:
    """The commands of one station."""

    def __init__(self) -> None:
        self._commands: dict[int, Outgoing] = {}
        self._tracker = verification.Tracker()
        self._sequence_count = 0

    @property
    def open_count(self) -> int:
        """Commands whose outcome is not known and whose deadline has not passed."""
        return sum(not self._closed(id) for id in self._commands)

    def submit(
        self,
        telecommand: Telecommand,
        arguments: dict[str, ArgumentValue],
        *,
        id: int,
        operator: str,
        timeout_s: float | None,
        now_s: float,
        now_utc_s: float,
    ) -> Outgoing:
        """Follow a new command; it is due at once. Raises ``GroundError`` when too many are open."""
        if self.open_count >= OPEN_MAX:
            raise GroundError(f"{OPEN_MAX} telecommands are waiting for an answer already", ExitCode.NO_CONTACT)
        check_timeout(timeout_s)
        if len(self._commands) >= HISTORY_MAX:
            self._forget(next(id for id in self._commands if self._closed(id)))
        outgoing = Outgoing(
            id=id,
            telecommand=telecommand,
            arguments=arguments,
            operator=operator,
            sent_s=now_s,
            sent_utc_s=now_utc_s,
            timeout_s=timeout_s,
            next_s=now_s,
        )
        self._commands[id] = outgoing
        deadline_s = now_s + (ACCEPTANCE_S if timeout_s is None else timeout_s)
        self._tracker = verification.sent(self._tracker, id, telecommand.opcode, deadline_s)
        return outgoing

    def due(self, now_s: float, alive: bool) -> list[tuple[Outgoing, bytes]]:
        """Commands to transmit now, with their packets; the caller counts them as transmitted."""
        packets = []
        for outgoing in self._commands.values():
            status = self._tracker.commands[outgoing.id]
            if status.reached or status.finished or status.overdue:
                continue
            if outgoing.transmissions and not alive:
                outgoing.silent = True
                continue
            if outgoing.silent:
                outgoing.silent, outgoing.retry_s, outgoing.next_s = False, RETRY_S_MIN, now_s
            if now_s < outgoing.next_s:
                continue
            outgoing.next_s = now_s + outgoing.retry_s
            outgoing.retry_s = min(2.0 * outgoing.retry_s, RETRY_S_MAX)
            outgoing.transmissions += 1
            packet = _encode(outgoing.telecommand, outgoing.id, outgoing.arguments, self._next_count(), ACK_ALL)
            packets.append((outgoing, packet))
        return packets

    def acknowledgement(self, archived: Range, id: int) -> bytes:
        """Packet of one ``recorder.acknowledge``: no reports wanted, nothing to follow."""
        return _encode(_ACKNOWLEDGE, id, dict(archived._asdict()), self._next_count(), ACK_NONE)

    def observe(self, report: VerificationBody, now_s: float) -> StageLine | None:
        """Take in a verification report; returns it when it is news about a command of this station."""
        outgoing = self._commands.get(report.id)
        if outgoing is None:  # Another station's, or one from before a restart: the archive has it.
            return None
        before = self._tracker.commands[report.id]
        self._tracker = verification.observe(self._tracker, report)
        if self._tracker.commands[report.id] == before:
            return None
        if outgoing.timeout_s is None and not before.reached:
            self._tracker = verification.sent(
                self._tracker, report.id, report.op, now_s + outgoing.telecommand.timeout_s + MARGIN_S
            )
        line = StageLine(
            stage=Stage(report.stage).name.lower(),
            success=report.code == FailureCode.NONE,
            code=failure_name(report.code),
            text=report.text,
            world_s=report.t,
            after_s=round(now_s - outgoing.sent_s, 4),
        )
        outgoing.stages.append(line)
        return line

    def overdue(self, now_s: float) -> list[Outgoing]:
        """Commands whose deadline passed just now without an outcome."""
        self._tracker, late = verification.step(self._tracker, now_s)
        return [self._commands[status.command] for status in late]

    def outcome(self, id: int) -> Outcome:
        """What is known of a command of this station."""
        status = self._tracker.commands[id]
        match status.progress:
            case verification.Progress.COMPLETED:
                return "completed"
            case verification.Progress.REFUSED:
                return "refused"
            case verification.Progress.FAILED:
                return "failed"
            case _ if status.overdue:
                return "timeout"
            case verification.Progress.SENT:
                return "sent"
            case _:
                return "accepted"

    def result(self, id: int) -> CommandResult:
        """The same with everything that was reported."""
        outgoing, status = self._commands[id], self._tracker.commands[id]
        return CommandResult(
            id=id,
            name=outgoing.telecommand.name,
            arguments=shown_arguments(outgoing.telecommand, outgoing.arguments),
            outcome=self.outcome(id),
            code=failure_name(status.code),
            text=status.text,
            transmissions=outgoing.transmissions,
            stages=tuple(outgoing.stages),
        )

    def lines(self, last: int) -> tuple[CommandLine, ...]:
        """The newest commands, oldest first."""
        return tuple(
            CommandLine(
                id=outgoing.id,
                name=outgoing.telecommand.name,
                arguments=shown_arguments(outgoing.telecommand, outgoing.arguments),
                operator=outgoing.operator,
                sent_utc_s=outgoing.sent_utc_s,
                transmissions=outgoing.transmissions,
                progress=status.progress.value,
                overdue=status.overdue,
                text=f"{failure_name(status.code)}: {status.text}" if status.code else "",
            )
            for outgoing in list(self._commands.values())[-last:]
            for status in (self._tracker.commands[outgoing.id],)
        )

    def _forget(self, id: int) -> None:
        del self._commands[id]
        self._tracker = verification.Tracker({k: v for k, v in self._tracker.commands.items() if k != id})

    def _closed(self, id: int) -> bool:
        status = self._tracker.commands[id]
        return status.finished or status.overdue

    def _next_count(self) -> int:
        self._sequence_count += 1
        return self._sequence_count


def failure_name(code: int) -> str:
    """Name of a failure code; "" for none, the number for one of a newer dictionary."""
    if code == FailureCode.NONE:
        return ""
    return FailureCode(code).name if code in FailureCode.__members__.values() else str(code)


def _encode(
    telecommand: Telecommand, id: int, arguments: dict[str, ArgumentValue], count: int, ack_flags: int
) -> bytes:
    return encode_tc(
        TcPacket(
            apid=APID_TELECOMMAND,
            sequence_count=count,
            service=telecommand.service,
            subtype=telecommand.subtype,
            source=SOURCE_STATION,
            ack_flags=ack_flags,
            body=pack_body(CommandBody(telecommand.opcode, id, arguments)),
        )
    )
