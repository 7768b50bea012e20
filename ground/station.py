"""The station: one process that owns the radio wire and the archive, follows commands and answers clients.

    wire ─► decode ─► monitor (values, limits, events)          every client sees it at once
                  └─► archive ─► commit ─► acknowledge ─► wire   the recorder may forget what is committed
    client ─► validate ─► archive ─► wire ─► verification ─► client

One thread, one selector, nothing in it blocks but the commit's fsync; the kernel's buffers hold what comes
meanwhile. Two clocks: ``time.monotonic`` for every timer, UTC only as a label on records.
"""

import contextlib
import itertools
import os
import selectors
import socket
import time
from pathlib import Path
from typing import Final, assert_never

from flightsw.link.bodies import VerificationBody
from flightsw.link.dictionary import DICTIONARY_HASH
from flightsw.link.endpoint import Endpoint

from .acknowledgement import ROUND_S, Acknowledger
from .archive import Archive, Received
from .command_desk import CommandDesk
from .control import Client, ControlServer
from .errors import GroundError
from .intake import Intake
from .monitor import CONTACT_S, EVENTS_MAX, Monitor, stream_name
from .protocol import (
    Done,
    EventLine,
    Refusal,
    Request,
    SendRequest,
    Snapshot,
    SnapshotRequest,
    StationStatus,
    StopRequest,
    Stream,
)
from .reader import ArchiveReader
from .transport import open_wire

COMMIT_S: Final = 0.1
"""Longest time that a packet waits for its commit."""
COMMIT_PACKETS: Final = 1000
TICK_S: Final = 0.1
STREAMS_SHOWN: Final = 16
COMMANDS_SHOWN: Final = 20


class Station:
    """Everything is opened on construction, so that what is missing or in use is a ``GroundError`` at once."""

    def __init__(self, endpoint: Endpoint, archive: Path, control: Path) -> None:
        with contextlib.ExitStack() as opened:
            self._selector = opened.enter_context(contextlib.closing(selectors.DefaultSelector()))
            self._waker, self._wakened = map(opened.enter_context, socket.socketpair())
            self._wakened.setblocking(False)
            self._selector.register(self._wakened, selectors.EVENT_READ, self._woken)
            self._archive = opened.enter_context(contextlib.closing(Archive(archive)))
            self._wire = opened.enter_context(contextlib.closing(open_wire(endpoint)))
            self._control = ControlServer(
                control, self._selector, self._request, lambda client: self._desk.forget(client)
            )
            opened.callback(self._control.close)
            # From here on ``run`` closes them, in this order's reverse.
            self._opened = opened.pop_all()
        self._watched: tuple[int, int] = (-1, 0)
        self._monitor = Monitor()
        self._monitor.recall(_recent_events(archive))
        self._desk = CommandDesk(self._archive, self._wire, self._control)
        self._acknowledger = Acknowledger()
        self._intake = Intake(self._archive.streams())
        self._started_s = time.monotonic()
        self._heard_s: float | None = None
        self._commit_at_s = self._round_at_s = self._started_s
        self._stopping = False

    def run(self) -> None:
        """Work until ``stop``; then commit and release everything."""
        try:
            while not self._stopping:
                self._watch_wire()
                for key, mask in self._selector.select(COMMIT_S if self._archive.dirty else TICK_S):
                    key.data(mask)
                self._watch_wire()
                self._duties(time.monotonic())
        finally:
            self._commit(time.monotonic())
            self._opened.close()

    def stop(self) -> None:
        """Ask ``run`` to return; from any thread or signal handler, also when it has returned already."""
        self._stopping = True
        try:
            self._waker.send(b"\0")
        except OSError:
            return

    # The wire.

    def _watch_wire(self) -> None:
        """Keep the selector on the wire's descriptor, which changes when a serial line is opened again."""
        descriptor = self._wire.fileno()
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._wire.wants_write else 0)
        wanted = (descriptor, events) if descriptor >= 0 else (-1, 0)
        if wanted == self._watched:
            return
        if self._watched[0] >= 0:
            self._selector.unregister(self._watched[0])
        if descriptor >= 0:
            self._selector.register(descriptor, events, self._wire_ready)
        self._watched = wanted

    def _wire_ready(self, mask: int) -> None:
        if mask & selectors.EVENT_READ:
            for unit in self._wire.receive():
                self._unit(unit)
        if mask & selectors.EVENT_WRITE:
            self._wire.service(time.monotonic())

    def _unit(self, unit: bytes) -> None:
        telemetry = self._intake.decode(unit)
        if telemetry is None:
            return
        now_s, now_utc_s = time.monotonic(), time.time()
        self._heard_s = now_s
        for alarm in self._monitor.observe(telemetry, now_utc_s):
            self._archive.note(
                "INSERT INTO alarms(received_utc_s, world_s, parameter, level, value, text) VALUES (?,?,?,?,?,?)",
                *(alarm.received_utc_s, alarm.world_s, alarm.parameter, alarm.level, alarm.value, alarm.text),
            )
        if isinstance(telemetry.body, VerificationBody):
            self._desk.verify(telemetry.body, now_s)
        if not self._archive.dirty:
            self._commit_at_s = now_s + COMMIT_S
        self._archive.add(Received(telemetry, unit, now_utc_s))
        if self._archive.pending >= COMMIT_PACKETS:
            self._commit(now_s)

    # What is done by time.

    def _duties(self, now_s: float) -> None:
        self._wire.service(now_s)
        alive = self._alive(now_s)
        self._desk.service(now_s, alive)
        if now_s >= self._commit_at_s:
            self._commit(now_s)
        if alive and now_s >= self._round_at_s:
            self._round_at_s = now_s + ROUND_S
            for archived in self._acknowledger.next_round():
                self._desk.acknowledge(archived)

    def _alive(self, now_s: float) -> bool:
        return self._heard_s is not None and now_s - self._heard_s < CONTACT_S

    def _commit(self, now_s: float) -> None:
        self._commit_at_s = now_s + COMMIT_S
        new, duplicates = self._archive.commit(now_s)
        self._intake.filed(new, len(duplicates))
        for received in itertools.chain(new, duplicates):
            self._acknowledger.archived(*received.telemetry.identity)

    # Clients.

    def _request(self, client: Client, request: Request) -> None:
        match request:
            case SnapshotRequest():
                self._control.answer(client, self.snapshot())
            case SendRequest():
                try:
                    self._send(client, request)
                except GroundError as error:
                    self._control.answer(client, Refusal(str(error), error.exit_code))
            case StopRequest():
                self._stopping = True
                self._control.answer(client, Done())
            case _:
                assert_never(request)

    def _send(self, client: Client, request: SendRequest) -> None:
        now_s = time.monotonic()
        id = self._desk.submit(client, request, self._monitor.world_s, now_s)
        self._commit(now_s)
        self._desk.wait(id, client, request.wait)
        self._duties(time.monotonic())
        self._desk.settle(id)

    def _woken(self, _: int) -> None:
        self._wakened.recv(64)

    def snapshot(self) -> Snapshot:
        """Everything a display shows; for the station's own thread."""
        return Snapshot(
            status=self._status(time.monotonic()),
            latest=self._monitor.latest,
            events=tuple(sorted(self._monitor.events.values(), key=_by_time)),
            alarms=tuple(self._monitor.alarms),
            commands=self._desk.lines(COMMANDS_SHOWN),
        )

    def _status(self, now_s: float) -> StationStatus:
        monitor, intake = self._monitor, self._intake
        streams = intake.streams()
        mode = monitor.latest.get("mode")
        return StationStatus(
            pid=os.getpid(),
            uptime_s=now_s - self._started_s,
            link=self._wire.status(),
            contact=self._alive(now_s),
            silence_s=None if self._heard_s is None else now_s - self._heard_s,
            archive=str(self._archive.path.absolute()),
            archive_fault=self._archive.fault,
            archive_pending=self._archive.pending,
            packets_live=intake.packets["live"],
            packets_playback=intake.packets["playback"],
            duplicates=intake.packets["duplicates"],
            missing=sum(s.missing for s in streams),
            unarchived=self._archive.unarchived,
            acknowledged=self._acknowledger.acknowledged,
            acknowledge_pending=self._acknowledger.pending,
            units_bad=dict(intake.units_bad),
            commands_open=self._desk.open_count,
            boot=monitor.boot,
            mode=mode.text if mode else "",
            world_s=monitor.world_s,
            onboard_utc_s=monitor.onboard_utc_s,
            dictionary=DICTIONARY_HASH,
            dictionary_onboard=monitor.dictionary_onboard,
            notices=self._notices(),
            streams=tuple(
                Stream(name=stream_name(s.apid), missing=s.missing, **s._asdict()) for s in streams[-STREAMS_SHOWN:]
            ),
        )

    def _notices(self) -> tuple[str, ...]:
        notices = []
        if fault := self._wire.status().fault:
            notices.append(fault)
        if self._archive.fault:
            notices.append(f"archive: {self._archive.fault}")
        if self._monitor.dictionary_differs:
            notices.append(
                f"the spacecraft flies dictionary {self._monitor.dictionary_onboard}, this station has"
                f" {DICTIONARY_HASH}: what both know is shown"
            )
        return tuple(notices)


def _by_time(event: EventLine) -> tuple[int, float, int]:
    return event.boot, event.world_s, event.sequence


def _recent_events(path: Path) -> list[EventLine]:
    with ArchiveReader(path) as reader:
        return reader.events(last=EVENTS_MAX)
