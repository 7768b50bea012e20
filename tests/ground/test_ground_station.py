"""Two real ends on a real wire: the station and the spacecraft double, over UDP and over a pty."""

import json
import random
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ground
from spacecraft_double import PtyLine, SpacecraftDouble

from flightsw.link.dictionary import APID_HK_MAIN
from flightsw.link.endpoint import parse_endpoint
from flightsw.link.packet import ACK_NONE
from flightsw.link.schema import Stage
from ground.client import ArchiveReader, GroundError, StageLine, StationClient
from ground.errors import ExitCode
from ground.station import Station
from tests.background import Background

OUTCOMES = (
    ("ping", {}, "completed", ""),
    ("job.infer", {"job": "talk", "prompt": "Once"}, "completed", ""),
    ("job.infer", {"job": "nobody", "prompt": "Once"}, "refused", "UNKNOWN_TARGET"),
    ("job.checkpoint", {"job": "talk"}, "failed", "EXECUTION_FAILED"),
    ("gpu.rail", {"on": True}, "refused", "NOT_ARMED"),
)


def test_commands_end_to_end(station: Ground, craft: SpacecraftDouble) -> None:
    for name, arguments, outcome, code in OUTCOMES:
        seen: list[StageLine] = []
        result = station.client.send(name, arguments, timeout_s=10, on_stage=seen.append)
        assert (result.outcome, result.code) == (outcome, code), name
        assert result.stages == tuple(seen)
    assert station.client.send("gpu.rail", {"on": True}, timeout_s=10, arm=True).outcome == "completed"
    assert [name for name, _ in craft.executed] == ["ping", "job.infer", "job.checkpoint", "arm", "gpu.rail"]
    station.stop()
    with ArchiveReader(station.archive) as reader:
        commands = reader.commands()
        assert [c.outcome for c in commands] == [*(o for _, _, o, _ in OUTCOMES), "completed", "completed"]
        assert len({c.id for c in commands}) == len(commands)
        assert all(c.operator and c.answered_utc_s is not None for c in commands)
        (reply,) = reader.replies()
        assert reply.command == commands[1].id
        assert reply.text.startswith("Once there was")


def test_everything_archived_is_acknowledged(station: Ground, craft: SpacecraftDouble) -> None:
    for _ in range(50):
        craft.housekeeping()
    assert craft.wait_for(lambda: craft.acknowledged >= set(craft.recorder))
    acknowledgements = [packet for packet, telecommand, _, _ in craft.received if telecommand.opcode == 0x60]
    assert all(packet.ack_flags == ACK_NONE for packet in acknowledgements)
    assert len(acknowledgements) <= 8
    ids = [id for _, telecommand, id, _ in craft.received if telecommand.opcode == 0x60]
    assert len(set(ids)) == len(ids)


def test_lost_acceptance_is_asked_for_again_and_executed_once(station: Ground, craft: SpacecraftDouble) -> None:
    lost: list[int] = []

    def drop(report: object) -> bool:
        if len(lost) < 3:
            lost.append(1)
            return True
        return False

    craft.drop_reports = drop
    craft.housekeeping()
    result = station.client.send("job.start", {"job": "train"}, timeout_s=20)
    assert result.outcome == "completed"
    assert result.transmissions == 2
    assert [name for name, _ in craft.executed] == ["job.start"]


def test_a_command_sent_in_silence_goes_out_again_when_life_returns(
    udp_station: Ground, udp_craft: SpacecraftDouble, eventually: Callable[..., None]
) -> None:
    udp_craft.deaf = True
    results: list[str] = []
    with (
        StationClient(udp_station.socket) as other,
        Background(lambda: results.append(other.send("ping", timeout_s=30).outcome)),
    ):
        eventually(lambda: udp_station.client.status().commands_open, 20, "the command is under way")
        udp_craft.deaf = False
        udp_craft.housekeeping()
    assert results == ["completed"]
    assert [name for name, _ in udp_craft.executed] == ["ping"]


def test_no_contact_is_a_timeout(udp_station: Ground, udp_craft: SpacecraftDouble) -> None:
    udp_craft.deaf = True
    result = udp_station.client.send("ping", timeout_s=0.3)
    assert (result.outcome, result.ok, result.transmissions) == ("timeout", False, 1)
    udp_station.stop()
    with ArchiveReader(udp_station.archive) as reader:
        assert [c.outcome for c in reader.commands()] == ["timeout"]


def test_waiting_for_less(udp_station: Ground, udp_craft: SpacecraftDouble) -> None:
    udp_craft.hold = {"job.start"}
    assert udp_station.client.send("job.start", {"job": "train"}, wait=None).outcome == "sent"
    assert udp_station.client.send("job.start", {"job": "train"}, wait="acceptance").outcome == "accepted"
    assert udp_station.client.send("job.start", {"job": "train"}, timeout_s=0.5).outcome == "timeout"


def test_duplicates_and_reordered_playback(
    station: Ground, craft: SpacecraftDouble, eventually: Callable[..., None]
) -> None:
    lost = [craft.housekeeping(send=number % 3 == 0, eps__soc_fraction=0.6) for number in range(31)]
    lost = [identity for number, identity in enumerate(lost) if number % 3]
    eventually(lambda: station.client.status().missing == len(lost), 10, "gaps")
    alarms = len(station.client.snapshot().alarms)
    random.Random(4).shuffle(lost)
    craft.play_back(lost + lost)
    eventually(lambda: station.client.status().missing == 0, 10, "gaps closed")
    status = station.client.status()
    assert status.packets_playback == len(lost)
    assert status.duplicates >= len(lost)
    assert len(station.client.snapshot().alarms) == alarms == 1
    assert craft.wait_for(lambda: craft.acknowledged >= set(craft.recorder))
    station.stop()
    with ArchiveReader(station.archive) as reader:
        rows = [row for row in reader.identities() if row.apid == APID_HK_MAIN]
        assert [row.sequence for row in rows] == list(range(1, 32))
        assert sum(row.playback for row in rows) == len(lost)


def test_a_lost_acknowledgement_is_repeated(
    udp_station: Ground, udp_craft: SpacecraftDouble, eventually: Callable[..., None]
) -> None:
    udp_craft.deaf = True
    udp_craft.housekeeping()
    eventually(lambda: udp_station.client.status().acknowledged, 20, "the acknowledgement that is lost")
    udp_craft.deaf = False
    assert udp_craft.wait_for(lambda: udp_craft.acknowledged >= set(udp_craft.recorder), 3.0)


def test_a_flood_of_garbage_is_counted_and_survived(
    station: Ground, craft: SpacecraftDouble, eventually: Callable[..., None]
) -> None:
    generator = random.Random(1)
    good = craft.recorder[craft.housekeeping(send=False)]
    for number in range(300):
        raw = (generator.randbytes(generator.randint(1, 1400)), good[:-1] + b"x", b"\0" * 50, good[:40])
        craft.line.send_raw(raw[number % 4])
    eventually(lambda: sum(_dropped(station).values()) > 100, 20, "garbage counted")
    identity = craft.housekeeping(mode=2.0)
    # On a pty the kernel may have dropped part of a flood; what matters is that the line works again.
    eventually(lambda: station.client.status().mode == "NOMINAL", 20, "good packet after garbage")
    assert identity[2] == 2
    assert station.client.send("ping", timeout_s=10).outcome == "completed"


def _dropped(station: Ground) -> dict[str, int]:
    status = station.client.status()
    return {**status.units_bad, **status.link.dropped}


def test_datagrams_of_strangers_are_dropped(
    udp_station: Ground, udp_craft: SpacecraftDouble, eventually: Callable[..., None]
) -> None:
    packet = udp_craft.recorder[udp_craft.housekeeping(send=False)]
    host, port = udp_craft.line.station_endpoint.split("/")[0].split(":")[1:]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(packet, (host, int(port)))
    eventually(lambda: udp_station.client.status().link.dropped == {"stranger": 1}, 10, "stranger")
    assert not udp_station.client.status().contact


def test_a_serial_line_that_hangs_up_comes_back(tmp_path: Path, eventually: Callable[..., None]) -> None:
    with SpacecraftDouble(PtyLine(tmp_path / "radio")) as craft:
        ground = Ground(craft, tmp_path)
        ground.start()
        try:
            assert ground.client.send("ping", timeout_s=10).outcome == "completed"
            craft.unplug()
            craft.plug_in()
            eventually(lambda: ground.client.status().link.reopened == 1, 10, "opened again")
            assert ground.client.status().link.up
            craft.housekeeping()
            assert ground.client.send("ping", timeout_s=10).outcome == "completed"
            craft.unplug()
            eventually(lambda: not ground.client.status().link.up, 10, "down")
            eventually(lambda: "no such device" in ground.client.status().link.fault, 10, "reason")
            assert ground.client.status().notices
        finally:
            ground.stop()
            ground.client.close()


def test_snapshot_shows_what_an_operator_needs(
    udp_station: Ground, udp_craft: SpacecraftDouble, eventually: Callable[..., None]
) -> None:
    udp_craft.boot_event("f" * 16)
    udp_craft.housekeeping(mode=3.0, eps__soc_fraction=0.715)
    eventually(lambda: udp_station.client.status().packets_live == 2, 10, "packets")
    snapshot = udp_station.client.snapshot()
    assert snapshot.status.mode == "COMPUTE"
    assert snapshot.status.contact
    assert "f" * 16 in snapshot.status.notices[0]
    assert snapshot.latest["eps.soc_fraction"].level == "yellow"
    assert snapshot.latest["gpu.power_w"].value is None
    assert [event.name for event in snapshot.events] == ["BOOT"]
    assert [alarm.parameter for alarm in snapshot.alarms] == ["eps.soc_fraction"]
    json.dumps(snapshot.status.streams[0].missing)


def test_a_restarted_station_knows_the_past(udp_station: Ground, udp_craft: SpacecraftDouble) -> None:
    udp_craft.boot_event()
    first = udp_station.client.send("ping", timeout_s=10)
    udp_station.stop()
    udp_station.start()
    snapshot = udp_station.client.snapshot()
    assert [event.name for event in snapshot.events] == ["BOOT"]
    assert sum(stream.received for stream in snapshot.status.streams) == len(udp_craft.recorder)
    assert udp_station.client.send("ping", timeout_s=10).id > first.id


REQUESTS = (
    b"nonsense\n",
    b'{"op": "fire"}\n',
    b'{"op": "send"}\n',
    b'{"op": "send", "name": "ping", "arguments": {"x": [1]}}\n',
    b"[" * 5000 + b"\n",
    b"x" * 70_000,
    b"\xff\xfe\n",
)


@pytest.mark.parametrize("request_octets", REQUESTS, ids=range(len(REQUESTS)))
def test_nonsense_on_the_control_socket_is_refused(udp_station: Ground, request_octets: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        connection.connect(str(udp_station.socket))
        connection.sendall(request_octets)
        answer = json.loads(connection.makefile().readline())
    assert answer["type"] == "refusal"
    assert answer["exit_code"] == ExitCode.USAGE
    assert udp_station.client.status().uptime_s > 0


def test_bad_commands_over_the_socket_are_refused_there_too(
    udp_station: Ground, udp_craft: SpacecraftDouble
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        connection.connect(str(udp_station.socket))
        connection.sendall(b'{"op": "send", "name": "job.start", "arguments": {"job": 7}}\n')
        answer = json.loads(connection.makefile().readline())
    assert "job = 7 is not text" in answer["message"]
    assert udp_craft.received == []


def test_clients_that_leave_do_not_harm(udp_station: Ground, udp_craft: SpacecraftDouble) -> None:
    udp_craft.hold = {"job.start"}
    for _ in range(40):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(str(udp_station.socket))
            connection.sendall(
                b'{"op": "snapshot"}\n{"op": "send", "name": "job.start", "arguments": {"job": "train"}}\n'
            )
    assert udp_station.client.send("ping", timeout_s=10).outcome == "completed"


def test_the_socket_is_private_and_has_one_station(udp_station: Ground, tmp_path: Path) -> None:
    assert stat.S_IMODE(udp_station.socket.stat().st_mode) == 0o600
    with pytest.raises(GroundError, match="answers there already"):
        Station(None, tmp_path / "other.sqlite", udp_station.socket)


def test_a_stale_socket_is_taken_over_and_removed(tmp_path: Path, udp_craft: SpacecraftDouble) -> None:
    path = tmp_path / "station.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(path))
    ground = Ground(udp_craft, tmp_path)
    ground.start()
    assert ground.client.status().boot is None
    ground.stop()
    ground.client.close()
    assert not path.exists()


def test_a_long_socket_path_works(udp_craft: SpacecraftDouble, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    ground = Ground(udp_craft, deep)
    ground.start()
    assert ground.client.send("ping", timeout_s=10).outcome == "completed"
    ground.stop()
    ground.client.close()


def test_nothing_plugged_in(tmp_path: Path) -> None:
    station = Station(parse_endpoint("none"), tmp_path / "a.sqlite", tmp_path / "s.sock")
    with StationClient(tmp_path / "s.sock") as client, Background(station.run, client.stop):
        assert client.status().notices == ("no radio is configured",)
        assert client.send("ping", timeout_s=0.2).outcome == "timeout"


def test_stages_are_known(station: Ground) -> None:
    result = station.client.send("ping", timeout_s=10)
    assert [line.stage for line in result.stages] == [s.name.lower() for s in Stage if s is not Stage.PROGRESS]
