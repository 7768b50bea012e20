"""The bench's ends of wires: real ptys and sockets, opened at the far end as a device would."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import serial

from flightsw.link.endpoint import SerialEndpoint, UdpEndpoint, parse_endpoint
from flightsw.link.frame import Deframer, encode_frame
from hil.wires import BACKLOG_BYTES_MAX, PtyWire, UdpWire, make_wire

Eventually = Callable[..., None]


@pytest.fixture
def pty(tmp_path: Path) -> Iterator[PtyWire]:
    wire = PtyWire(tmp_path / "wire")
    yield wire
    wire.close()


@pytest.fixture
def udp() -> Iterator[UdpWire]:
    wire = UdpWire()
    yield wire
    wire.close()


def open_port(wire: PtyWire) -> serial.Serial:
    endpoint = parse_endpoint(wire.endpoint)
    assert isinstance(endpoint, SerialEndpoint)
    return serial.Serial(endpoint.path, endpoint.baud, timeout=0, exclusive=True)


def open_socket(wire: UdpWire) -> socket.socket:
    endpoint = parse_endpoint(wire.endpoint)
    assert isinstance(endpoint, UdpEndpoint)
    far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    far.bind((endpoint.bind_host, endpoint.bind_port))
    far.connect((endpoint.peer_host, endpoint.peer_port))
    return far


def test_pty_carries_units_both_ways(pty: PtyWire, eventually: Eventually) -> None:
    every_octet = bytes(range(256))
    with open_port(pty) as port:
        port.write(encode_frame(every_octet))
        got: list[bytes] = []
        eventually(lambda: got.extend(pty.receive()) or got, 5, "a unit from the device")
        assert got == [every_octet]
        assert pty.send(every_octet)
        deframer, back = Deframer(), list[bytes]()
        eventually(lambda: back.extend(deframer.receive(port.read(4096))) or back, 5, "a unit at the device")
        assert back == [every_octet]


def test_pty_survives_a_device_that_closes_and_opens_again(pty: PtyWire, eventually: Eventually) -> None:
    for unit in (b"first life", b"second life"):
        with open_port(pty) as port:
            port.write(encode_frame(unit))
            got: list[bytes] = []
            eventually(lambda got=got: got.extend(pty.receive()) or got, 5, "a unit")
            assert got == [unit]
    assert pty.receive() == []


def test_pty_that_nobody_reads_is_bounded_and_never_blocks(pty: PtyWire) -> None:
    unit = bytes(range(1, 251)) * 4
    for _ in range(2 * BACKLOG_BYTES_MAX // len(unit)):
        pty.send(unit)
    assert pty.counters.dropped > 0
    assert pty.counters.units_out > 0


def test_pty_counts_garbage_and_goes_on(pty: PtyWire, eventually: Eventually) -> None:
    with open_port(pty) as port:
        port.write(b"\x05\x01garbage\x00" + encode_frame(b"good"))
        got: list[bytes] = []
        eventually(lambda: got.extend(pty.receive()) or got, 5, "the good unit")
    assert got[-1] == b"good"


@pytest.mark.parametrize("unit", [b"", b"x" * 100_000], ids=["empty", "oversize"])
def test_pty_refuses_a_unit_that_no_frame_holds(pty: PtyWire, unit: bytes) -> None:
    assert not pty.send(unit)
    assert pty.counters.dropped == 1


def test_pty_name_goes_with_the_wire(tmp_path: Path) -> None:
    wire = PtyWire(tmp_path / "deep" / "wire")
    assert os.path.islink(tmp_path / "deep" / "wire")
    wire.close()
    wire.close()
    assert not os.path.lexists(tmp_path / "deep" / "wire")


def test_udp_carries_units_both_ways(udp: UdpWire, eventually: Eventually) -> None:
    with open_socket(udp) as far:
        far.send(b"up")
        got: list[bytes] = []
        eventually(lambda: got.extend(udp.receive()) or got, 5, "a datagram")
        assert got == [b"up"]
        assert udp.send(b"down")
        far.settimeout(5)
        assert far.recv(100) == b"down"


def test_udp_drops_and_counts_a_stranger(udp: UdpWire, eventually: Eventually) -> None:
    own = parse_endpoint(udp.endpoint)
    assert isinstance(own, UdpEndpoint)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"forged", (own.peer_host, own.peer_port))
        eventually(lambda: udp.receive() == [] and udp.counters.frames_bad == 1, 5, "the stranger's datagram")


def test_udp_without_a_far_end_is_quiet(udp: UdpWire) -> None:
    results = [udp.send(b"anyone?") for _ in range(20)]
    assert udp.receive() == []
    assert len(results) == 20


@pytest.mark.parametrize(("kind", "type"), [("pty", PtyWire), ("udp", UdpWire)])
def test_kind_of_wire_is_chosen_per_run(kind: str, type: object, tmp_path: Path) -> None:
    wire = make_wire(kind, tmp_path, "avionics")  # type: ignore[arg-type]
    assert isinstance(wire, type)  # type: ignore[arg-type]
    wire.close()
