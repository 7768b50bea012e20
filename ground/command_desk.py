"""The desk between clients and the commander: files each command, sends what is due, answers who waits.

``commanding`` decides when a command is sent, repeated or overdue; here that is done: the packet goes to the wire,
the fact to the archive, and the result to the client that asked, when it has what it waits for.
"""

import time
from collections.abc import Iterator

import msgspec

from flightsw.link.bodies import VerificationBody

from .acknowledgement import Range
from .archive import Archive
from .commanding import Commander, validate, written_arguments
from .control import Client, ControlServer
from .protocol import CommandLine, SendRequest, Wait
from .wire import Wire


class CommandDesk:
    """For the station's own thread, like the archive and the wire that it uses."""

    def __init__(self, archive: Archive, wire: Wire, control: ControlServer) -> None:
        self._archive = archive
        self._wire = wire
        self._control = control
        self._commander = Commander()
        self._ids = self._command_ids()
        self._waiting: dict[int, tuple[Client, Wait]] = {}

    @property
    def open_count(self) -> int:
        """Commands whose outcome is not known yet."""
        return self._commander.open_count

    def lines(self, last: int) -> tuple[CommandLine, ...]:
        """The newest commands, as a display shows them."""
        return self._commander.lines(last)

    def submit(self, client: Client, request: SendRequest, world_s: float | None, now_s: float) -> int:
        """File a command and return its id; raises ``GroundError`` for one that the dictionary does not allow."""
        telecommand, arguments = validate(request.name, request.arguments)
        now_utc_s = time.time()
        outgoing = self._commander.submit(
            telecommand,
            arguments,
            id=next(self._ids),
            operator=client.operator,
            timeout_s=request.timeout_s,
            now_s=now_s,
            now_utc_s=now_utc_s,
        )
        self._archive.note(
            "INSERT INTO commands(id, name, opcode, arguments, operator, sent_utc_s, world_s)"
            " VALUES (?,?,?,?,?,?,?)",
            outgoing.id,
            telecommand.name,
            telecommand.opcode,
            msgspec.json.encode(written_arguments(arguments)).decode(),
            client.operator,
            now_utc_s,
            world_s,
        )
        return outgoing.id

    def wait(self, id: int, client: Client, wait: Wait) -> None:
        """Remember who waits for a command, and for which of its reports."""
        self._waiting[id] = (client, wait)

    def service(self, now_s: float, alive: bool) -> None:
        """Send what is due and close what is overdue."""
        for outgoing, packet in self._commander.due(now_s, alive):
            self._wire.send(packet)
            self._archive.note(
                "UPDATE commands SET transmissions=? WHERE id=?", outgoing.transmissions, outgoing.id
            )
        for outgoing in self._commander.overdue(now_s):
            self._archive.note("UPDATE commands SET expired_utc_s=? WHERE id=?", time.time(), outgoing.id)
            self.settle(outgoing.id)

    def acknowledge(self, archived: Range) -> None:
        """Tell the spacecraft's recorder that these packets are archived."""
        self._wire.send(self._commander.acknowledgement(archived, next(self._ids)))

    def verify(self, report: VerificationBody, now_s: float) -> None:
        """Take in a verification report."""
        line = self._commander.observe(report, now_s)
        if line is not None and report.id in self._waiting:
            self._control.answer(self._waiting[report.id][0], line)
            self.settle(report.id)

    def settle(self, id: int) -> None:
        """Answer the client that waits for this command, when it has what it waits for."""
        if id not in self._waiting:
            return
        client, wait = self._waiting[id]
        outcome = self._commander.outcome(id)
        if (outcome == "sent" and wait is not None) or (outcome == "accepted" and wait == "completion"):
            return
        del self._waiting[id]
        self._control.answer(client, self._commander.result(id))

    def forget(self, client: Client) -> None:
        """Drop what a client that left was waiting for."""
        for id in [id for id, (waiting, _) in self._waiting.items() if waiting is client]:
            del self._waiting[id]

    def _command_ids(self) -> Iterator[int]:
        while True:
            yield from self._archive.reserve_command_ids(time.time_ns() // 1000)
