"""Wires over real ptys and sockets: units across, garbage counted, floods and hang-ups survived, clear refusals."""

import asyncio
import os
import pty
import socket
import tty
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from flightsw.core.effects import Actuate
from flightsw.link import avionics
from flightsw.link.endpoint import SerialEndpoint, UdpEndpoint, parse_endpoint
from flightsw.link.frame import Deframer, encode_frame
from flightsw.shell.avionics import Avionics
from flightsw.shell.make_wire import make_wire
from flightsw.shell.radio import Radio
from flightsw.shell.serial_wire import QUEUE_BYTES_MAX
from flightsw.shell.wire import UNITS_PER_TICK_MAX, Wire, WireError


class Peer:
    """The other end, blocking, for tests: sends raw bytes, collects units."""

    def __init__(self, kind: str, resources: ExitStack) -> None:
        self.kind = kind
        self._deframer = Deframer()
        if kind == "pty":
            self._fd, slave = pty.openpty()
            tty.setraw(slave)
            self.endpoint = parse_endpoint(f"serial:{os.ttyname(slave)}")
            resources.callback(os.close, slave)
            resources.callback(self.close)
        else:
            self._socket = resources.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            self._socket.bind(("127.0.0.1", 0))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
                free.bind(("127.0.0.1", 0))
                self._wire = free.getsockname()
            self.endpoint = parse_endpoint(
                f"udp:127.0.0.1:{self._wire[1]}/127.0.0.1:{self._socket.getsockname()[1]}"
            )
            self._fd = self._socket.fileno()
        os.set_blocking(self._fd, False)

    def send(self, unit: bytes) -> None:
        self.send_raw(encode_frame(unit) if self.kind == "pty" else unit)

    def send_raw(self, data: bytes) -> None:
        if self.kind == "pty":
            os.write(self._fd, data)
        else:
            self._socket.sendto(data, self._wire)

    def units(self) -> list[bytes]:
        with suppress(BlockingIOError):
            data = os.read(self._fd, 65536)
            return self._deframer.receive(data) if self.kind == "pty" else [data]
        return []

    def close(self) -> None:
        with suppress(OSError):
            os.close(self._fd)


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    pause = asyncio.Event()
    async with asyncio.timeout(timeout_s):
        while not condition():
            with suppress(TimeoutError):
                await asyncio.wait_for(pause.wait(), 0.005)


def with_peer(kind: str, scenario: Callable[[Peer], Awaitable[None]]) -> None:
    with ExitStack() as resources:
        peer = Peer(kind, resources)
        asyncio.run(scenario(peer))  # type: ignore[arg-type]


class Running:
    """A wire whose ``run`` is a task of this context."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    async def __aenter__(self) -> "asyncio.Task[None]":
        self._task = asyncio.ensure_future(self.wire.run())
        before = self.wire.executions
        await until(lambda: self.wire.executions > before or self._task.done())
        return self._task

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError, WireError):
            await self._task


KINDS = pytest.mark.parametrize("kind", ["pty", "udp"])


@KINDS
def test_units_cross_in_both_directions(kind: str) -> None:
    async def scenario(peer: Peer) -> None:
        received: list[bytes] = []
        wire = make_wire(peer.endpoint, received.append, 1200)
        units = [b"a", b"\0\0\0", bytes(range(256)) * 4]
        async with Running(wire):
            for unit in units:
                peer.send(unit)
                assert wire.send(unit)
            back: list[bytes] = []
            await until(lambda: len(received) == 3 and (back.extend(peer.units()) or len(back) == 3))
        assert received == back == units
        assert (wire.statistics().received, wire.statistics().sent) == (3, 3)
        assert (wire.statistics().dropped, wire.statistics().bad) == (0, 0)

    with_peer(kind, scenario)


@KINDS
def test_garbage_is_counted_and_the_next_unit_arrives(kind: str) -> None:
    async def scenario(peer: Peer) -> None:
        received: list[bytes] = []
        wire = make_wire(peer.endpoint, received.append, 100)
        async with Running(wire):
            peer.send_raw(b"\x00\x05\x01\x00" + b"\xff" * 150 + b"\x00" if kind == "pty" else b"\xff" * 150)
            peer.send(b"good")
            await until(lambda: received)
        assert received == [b"good"]
        assert wire.statistics().bad >= 1

    with_peer(kind, scenario)


def test_datagrams_of_a_stranger_are_bad() -> None:
    async def scenario(peer: Peer) -> None:
        received: list[bytes] = []
        wire = make_wire(peer.endpoint, received.append, 100)
        assert isinstance(peer.endpoint, UdpEndpoint)
        async with Running(wire):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.sendto(b"let me in", ("127.0.0.1", peer.endpoint.bind_port))
                await until(lambda: wire.statistics().bad == 1)
        assert received == []

    with_peer("udp", scenario)


@KINDS
def test_a_babbling_peer_gets_a_bounded_share(kind: str) -> None:
    async def scenario(peer: Peer) -> None:
        received: list[bytes] = []
        wire = make_wire(peer.endpoint, received.append, 100)
        counts: list[int] = []
        async with Running(wire):
            ticks = wire.executions
            for _ in range(200):
                with suppress(BlockingIOError):
                    peer.send(b"x" * 10)
            await until(lambda: counts.append(len(received)) or len(received) >= 150)
            ticks = wire.executions - ticks
        assert len(received) <= (ticks + 1) * (UNITS_PER_TICK_MAX + 4096 // 12)
        assert kind == "pty" or len(received) <= (ticks + 1) * UNITS_PER_TICK_MAX

    with_peer(kind, scenario)


def test_a_serial_peer_that_does_not_read_fills_a_bounded_queue() -> None:
    async def scenario(peer: Peer) -> None:
        wire = make_wire(peer.endpoint, lambda unit: None, 1200)
        async with Running(wire):
            outcomes = [wire.send(b"y" * 1000) for _ in range(200)]
            assert outcomes[0]
            assert not outcomes[-1]
            assert sum(outcomes) <= QUEUE_BYTES_MAX // 1000 + 70
            assert wire.statistics().dropped == outcomes.count(False)
            # Once it reads, what was queued arrives whole and in order.
            got: list[bytes] = []
            await until(lambda: got.extend(peer.units()) or len(got) == sum(outcomes))
            assert set(got) == {b"y" * 1000}

    with_peer("pty", scenario)


def test_a_hang_up_is_an_error_with_a_reason_and_the_wire_can_run_again() -> None:
    async def scenario(peer: Peer) -> None:
        wire = make_wire(peer.endpoint, lambda unit: None, 1200)
        async with Running(wire) as task:
            peer.close()
            await until(task.done)
            with pytest.raises(WireError, match=r"went away|hung up"):
                await task
        assert not wire.send(b"into the void")
        with ExitStack() as resources:
            other = Peer("pty", resources)
            again = make_wire(other.endpoint, lambda unit: None, 1200)
            async with Running(again):
                assert again.send(b"hello")
                await until(lambda: other.units() == [b"hello"])

    with_peer("pty", scenario)


def open_error(wire: Wire) -> str:
    async def run() -> None:
        await asyncio.wait_for(wire.run(), 5.0)

    with pytest.raises(WireError) as caught:
        asyncio.run(run())
    return str(caught.value)


def test_a_serial_device_that_is_not_there(tmp_path: Path) -> None:
    wire = make_wire(SerialEndpoint(str(tmp_path / "ttyUSB9")), lambda unit: None, 100)
    assert open_error(wire) == (
        f"serial device {tmp_path / 'ttyUSB9'} does not exist; plug it in or correct the endpoint"
    )


def test_a_serial_device_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    wire = make_wire(SerialEndpoint(str(tmp_path / "file")), lambda unit: None, 100)
    assert "cannot be opened" in open_error(wire)


def test_a_serial_device_in_use() -> None:
    async def scenario(peer: Peer) -> None:
        async with Running(make_wire(peer.endpoint, lambda unit: None, 100)):
            with pytest.raises(WireError, match="is in use by another program; stop that one"):
                await make_wire(peer.endpoint, lambda unit: None, 100).run()

    with_peer("pty", scenario)


def test_a_port_in_use() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        wire = make_wire(UdpEndpoint("127.0.0.1", port, "127.0.0.1", 9), lambda unit: None, 100)
        assert open_error(wire) == (
            f"cannot bind 127.0.0.1:{port}: Address already in use;"
            " stop the program that uses it or choose another port"
        )


def test_no_endpoint_opens_and_drops() -> None:
    async def run() -> None:
        wire = make_wire(None, lambda unit: None, 100)
        async with Running(wire):
            assert not wire.send(b"x")
        assert wire.statistics().dropped == 1

    asyncio.run(run())


def sensors(sequence: int) -> avionics.SensorFrame:
    numbers = dict.fromkeys(
        name
        for name in avionics.SensorFrame.__struct_fields__
        if name not in ("sequence", "gpu_rail_on", "radio_lock")
    )
    values = {name: float(n + 1) for n, name in enumerate(numbers)}
    return avionics.SensorFrame(sequence=sequence, gpu_rail_on=True, radio_lock=True, **values)


@KINDS
def test_avionics_takes_the_newest_and_counts_the_rest(kind: str) -> None:
    async def scenario(peer: Peer) -> None:
        heard: list[avionics.SensorFrame] = []
        adapter = Avionics(peer.endpoint, heard.append)
        async with Running(adapter.wire):
            assert adapter.take() is None
            peer.send(avionics.encode(sensors(1)))
            peer.send(avionics.encode(sensors(2)))
            peer.send(b"no message of ours")
            peer.send(
                avionics.encode(
                    avionics.ActuatorFrame(sequence=1, frame_count=1, gpu_rail_on=True, transmitter_on=True)
                )
            )
            await until(lambda: adapter.frames_bad == 2)
            assert adapter.take() == sensors(2)
            assert heard == [sensors(1), sensors(2)], "none is passed over on arrival"
            assert adapter.take() is None
            assert adapter.actuate(Actuate(frame_count=7, gpu_rail_on=True, transmitter_on=False))
            units: list[bytes] = []
            await until(lambda: units.extend(peer.units()) or units)
        assert avionics.decode(units[0]) == avionics.ActuatorFrame(
            sequence=1, frame_count=7, gpu_rail_on=True, transmitter_on=False
        )

    with_peer(kind, scenario)


def test_radio_counts_live_playback_and_drops() -> None:
    async def scenario(peer: Peer) -> None:
        heard: list[bytes] = []
        radio = Radio(peer.endpoint, heard.append)
        assert not radio.send(b"not open yet")
        async with Running(radio.wire):
            assert radio.send(b"live")
            radio.play_back([b"old", b"older"])
            peer.send(b"command")
            await until(lambda: heard)
        assert heard == [b"command"]
        assert (radio.sent, radio.playback, radio.dropped) == (3, 2, 1)

    with_peer("udp", scenario)
