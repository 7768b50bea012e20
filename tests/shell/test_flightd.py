"""flightd as a user meets it: the real process on real wires, commanded, hurt, killed, started again."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from flight_bench import WORKER, Flight

from flightsw.link.integrity import Level
from flightsw.link.schema import FailureCode, Stage

pytestmark = pytest.mark.process

Launch = Callable[..., Flight]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """``launch(kind, section={...})`` makes a bench and starts its daemon."""
    with ExitStack() as resources:

        def start(kind: str = "udp", prelude: str = "", **sections: dict[str, Any]) -> Flight:
            flight = Flight(tmp_path, kind, resources, **sections)
            flight.start(prelude=prelude)
            return flight

        yield start


def recorded(flight: Flight) -> list[tuple[int, int, int]]:
    with closing(sqlite3.connect(flight.state / "recorder.sqlite")) as connection:
        return connection.execute("SELECT boot, apid, sequence FROM packets ORDER BY 1, 2, 3").fetchall()


def worker_with(manner: str) -> dict[str, Any]:
    return {"command": [sys.executable, str(WORKER), manner]}


def flightd(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flightsw", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("kind", ["udp", "pty"])
def test_a_flight_from_boot_to_an_orderly_end(launch: Launch, kind: str) -> None:
    flight = launch(kind)
    boot = flight.until(lambda: flight.events("BOOT"), what="boot event")[0]
    assert (boot.boot, boot.fields["cause"]) == (1, "first boot")
    flight.until(lambda: flight.newest("main").get("train.step", 0) > 3, what="training goes on")
    assert flight.newest("main")["gpu.power_w"] == 123.0
    ping = flight.send("ping")
    flight.until(lambda: len(flight.verifications(ping)) >= 3, what="ping verified")
    assert {v.stage for v in flight.verifications(ping)} == {Stage.ACCEPTANCE, Stage.START, Stage.COMPLETION}
    start = flight.send("job.start", job="infer")
    flight.until(lambda: any(v.stage == Stage.COMPLETION for v in flight.verifications(start)), what="started")
    infer = flight.send("job.infer", job="infer", prompt="abc")
    flight.until(flight.replies, what="a reply")
    assert flight.replies()[0].text == "cba"
    flight.until(lambda: any(v.stage == Stage.COMPLETION for v in flight.verifications(infer)), what="completed")
    checkpoint = flight.send("job.checkpoint", job="train")
    flight.until(lambda: any(v.stage == Stage.COMPLETION for v in flight.verifications(checkpoint)), what="saved")
    bad = flight.send("job.start", job="nobody")
    flight.until(lambda: [v for v in flight.verifications(bad) if v.code != FailureCode.NONE], what="refused")
    assert len(flight.actuators) > 5
    before = len(flight.events("CHECKPOINT_COMMITTED"))
    assert flight.end(signal.SIGTERM) == 0
    # The worker was asked to checkpoint on the way out, and the ground heard of it.
    assert len(flight.events("CHECKPOINT_COMMITTED")) > before
    assert flight.events("SHUTDOWN")[0].fields["reason"] == "SIGTERM"
    assert "Traceback" not in flight.output
    identities = [p.identity for p in flight.packets]
    assert set(identities) <= set(recorded(flight))
    flight.start()
    boot = flight.until(lambda: flight.events("BOOT", 2), what="second boot")[0]
    assert boot.fields["cause"] == "start after a clean shutdown"


def test_playback_brings_what_an_outage_swallowed(launch: Launch) -> None:
    flight = launch()
    flight.until(lambda: flight.newest("main"), what="telemetry")
    flight.listening = False
    count = len(flight.actuators)
    flight.until(lambda: len(flight.actuators) > count + 15, what="an outage")
    flight.listening = True
    flight.until(lambda: sum(p.playback for p in flight.packets) > 20, what="playback")

    def whole() -> bool:
        """Every sequence of every APID up to the newest is there."""
        newest: dict[int, int] = {}
        for packet in flight.packets:
            newest[packet.apid] = max(newest.get(packet.apid, 0), packet.seq)
        have = {(p.apid, p.seq) for p in flight.packets}
        return all((apid, seq) in have for apid, last in newest.items() for seq in range(min(5, last), last - 25))

    flight.until(whole, what="no gaps")
    # Acknowledged packets are not played back again, however long the station waits.
    apid = 0x20
    last = max(p.seq for p in flight.packets if p.apid == apid)
    flight.acknowledge(1, apid, 0, last)
    count = len(flight.actuators)
    flight.until(lambda: len(flight.actuators) > count + 5, what="acknowledgement at work")
    before = len(flight.packets)
    flight.until(lambda: len(flight.actuators) > count + 25, what="more than the ack timeout")
    assert not [p for p in flight.packets[before:] if p.apid == apid and p.playback and p.seq <= last]


def test_a_killed_worker_is_reported_and_restarted(launch: Launch) -> None:
    flight = launch()
    ready = flight.until(lambda: flight.events("WORKER_READY"), what="worker ready")[0]
    os.kill(int(ready.fields["pid"]), signal.SIGKILL)
    died = flight.until(lambda: flight.events("WORKER_DIED"), what="death reported")[0]
    assert died.fields["returncode"] == -9
    again = flight.until(lambda: flight.events("WORKER_READY")[1:], what="worker restarted")[0]
    assert again.fields["pid"] != ready.fields["pid"]
    assert again.fields["step"] > 0


def test_a_level_reaches_the_worker_and_open_damage_restarts_it(launch: Launch) -> None:
    flight = launch(worker=worker_with("hurt"))
    flight.until(lambda: flight.newest("main").get("integrity.level") == Level.WATCH, what="told when ready")
    flight.send("integrity.level", level=int(Level.STORM), hold_s=60.0)
    found = flight.until(lambda: flight.events("INTEGRITY_OPEN"), what="damage told")[0]
    assert found.fields == {"job": "train", "count": 1, "detector": "digest", "where": "weight head"}
    flight.until(lambda: flight.events("WORKER_READY")[1:], what="worker restarted")
    died = flight.until(lambda: flight.events("WORKER_DIED"), what="death reported")[0]
    assert "integrity.kill" in str(died.fields["reason"])
    flight.until(lambda: flight.newest("main").get("integrity.level") == Level.STORM, what="the hold goes on")
    assert (flight.newest("main")["integrity.detected"], flight.newest("main")["integrity.open"]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ("fails", "ended with status 3: the corpus cannot be read"),
        ("garbage", "killed: sent something that is no message"),
        ("huge", "killed: announced 2147483648 bytes"),
    ],
)
def test_a_bad_worker_is_an_event_and_the_daemon_flies_on(launch: Launch, manner: str, reason: str) -> None:
    flight = launch(worker=worker_with(manner))
    died = flight.until(lambda: flight.events("WORKER_DIED"), what="death reported")[0]
    assert str(died.fields["reason"]).startswith(reason)
    ping = flight.send("ping")
    flight.until(lambda: flight.verifications(ping), what="it still answers")


def test_a_worker_that_does_not_stop_is_killed_at_the_end(launch: Launch) -> None:
    flight = launch(worker=worker_with("deaf") | {"stop_timeout_s": 0.5})
    flight.until(lambda: flight.events("WORKER_READY"), what="worker ready")
    assert flight.end(signal.SIGINT) == 0
    assert "job train is killed: did not stop in time" in flight.output


def test_a_second_interrupt_does_not_wait(launch: Launch) -> None:
    flight = launch(worker=worker_with("deaf") | {"stop_timeout_s": 100.0})
    flight.until(lambda: flight.events("WORKER_READY"), what="worker ready")
    assert flight.process is not None
    flight.process.send_signal(signal.SIGINT)
    flight.until(lambda: "ending: SIGINT" in flight.output, what="first interrupt")
    assert flight.end(signal.SIGINT) == 0
    assert "job train is killed: forced end" in flight.output


def test_a_killed_daemon_counts_its_boot_and_keeps_packets(launch: Launch) -> None:
    flight = launch()
    ready = flight.until(lambda: flight.events("WORKER_READY"), what="worker ready")[0]
    flight.listening = False
    flight.until(lambda: len(flight.actuators) > 20, what="packets that nobody hears")
    assert flight.end(signal.SIGKILL) == -signal.SIGKILL
    kept = set(recorded(flight))
    assert len(kept) > 20
    pid = int(ready.fields["pid"])
    flight.until(lambda: not _alive(pid), what="the worker died with its daemon")
    flight.listening = True
    flight.start()
    boot = flight.until(lambda: flight.events("BOOT", 2), what="second boot")[0]
    assert boot.fields["cause"] == "unclean end of the last boot"
    flight.until(lambda: kept <= {p.identity for p in flight.packets}, 30.0, "every recorded packet comes down")


PLANTED = """
from flightsw.core import executive
sound = executive.{entrance}
def planted(vehicle, *arguments):
    if vehicle.payload.jobs[0].step > 3:
        {fault}
    return sound(vehicle, *arguments)
executive.{entrance} = planted
"""


@pytest.mark.parametrize("entrance", ["step", "accept"])
def test_a_failed_executive_ends_the_daemon_and_its_workers(launch: Launch, entrance: str) -> None:
    flight = launch(prelude=PLANTED.format(entrance=entrance, fault="raise AssertionError('planted')"))
    ready = flight.until(lambda: flight.events("WORKER_READY"), what="worker ready")[0]
    assert flight.process is not None
    process = flight.process
    flight.process = None
    if entrance == "accept":
        flight.until(lambda: flight.newest("main").get("train.step", 0) > 3, what="the fault is armed")
        flight.send("ping")
    flight.until(lambda: process.poll() is not None, what="the daemon ends")
    assert process.returncode == 1
    assert "CRITICAL the executive failed, the daemon ends: AssertionError: planted" in flight.output
    flight.until(lambda: not _alive(int(ready.fields["pid"])), what="the worker is gone")
    assert {p.identity for p in flight.packets} <= set(recorded(flight))
    flight.start()
    boot = flight.until(lambda: flight.events("BOOT", 2), what="second boot")[0]
    assert boot.fields["cause"] == "the executive failed"


def test_a_stuck_daemon_is_ended_by_its_own_timer(launch: Launch) -> None:
    stuck = PLANTED.format(entrance="step", fault="import threading; threading.Event().wait(600.0)")
    flight = launch(prelude=stuck, watchdog={"stall_s": 1.5})
    ready = flight.until(lambda: flight.events("WORKER_READY"), what="worker ready")[0]
    assert flight.process is not None
    process = flight.process
    flight.process = None
    flight.until(lambda: process.poll() is not None, what="the daemon ends")
    assert process.returncode == 1
    assert "Timeout" in (flight.state / "stall").read_text()
    flight.until(lambda: not _alive(int(ready.fields["pid"])), what="the worker is gone")
    flight.start()
    boot = flight.until(lambda: flight.events("BOOT", 2), what="second boot")[0]
    assert boot.fields["cause"] == "ended by a watchdog"
    assert "its threads stood here" in flight.output
    assert not (flight.state / "stall").read_text()


def test_a_crash_loop_ends_in_safe(launch: Launch) -> None:
    flight = launch(supervisor={"crash_loop_boots": 2})
    for number in (1, 2):
        flight.until(lambda n=number: flight.events("BOOT", n), what="boot")
        flight.end(signal.SIGKILL)
        flight.start()
    loop = flight.until(lambda: flight.events("CRASH_LOOP", 3), what="crash loop reported")[0]
    assert loop.fields["count"] == 2
    flight.until(lambda: flight.newest("main").get("mode") == 1.0, what="SAFE")
    assert not flight.events("WORKER_READY", 3)


def test_a_good_boot_ends_the_row(launch: Launch) -> None:
    flight = launch(supervisor={"crash_loop_boots": 2, "crash_loop_window_s": 1.0})
    for number in (1, 2, 3):
        flight.until(lambda n=number: flight.events("BOOT", n), what="boot")
        count = len(flight.actuators)
        flight.until(lambda c=count: len(flight.actuators) > c + 15, what="a life of more than a second")
        flight.end(signal.SIGKILL)
        flight.start()
    flight.until(lambda: flight.events("BOOT", 4), what="boot")
    assert not flight.events("CRASH_LOOP")


def test_a_restart_by_telecommand_comes_up_again_in_the_same_process(launch: Launch) -> None:
    flight = launch()
    flight.until(lambda: flight.events("WORKER_READY"), what="worker ready")
    arm = flight.send("arm", opcode=0x70)
    flight.until(lambda: any(v.stage == Stage.COMPLETION for v in flight.verifications(arm)), what="armed")
    flight.send("daemon.restart")
    boot = flight.until(lambda: flight.events("BOOT", 2), what="second boot")[0]
    assert boot.fields["cause"] == "restart by command"
    assert flight.process is not None
    assert flight.process.poll() is None
    flight.until(lambda: flight.events("WORKER_READY", 2), what="worker ready again")
    assert flight.end(signal.SIGTERM) == 0


def test_a_lost_boot_record_does_not_repeat_a_boot(launch: Launch) -> None:
    flight = launch()
    flight.until(lambda: flight.newest("main"), what="telemetry")
    flight.end(signal.SIGTERM)
    for name in "ab":
        (flight.state / f"boot.{name}").write_bytes(b"flipped and torn")
    flight.start()
    boot = flight.until(lambda: flight.events("BOOT", 2), what="second boot")[0]
    assert boot.fields["cause"] == "boot record lost"
    fault = flight.until(lambda: flight.events("STORE_FAULT", 2), what="fault reported")[0]
    assert "boot.a: corrupt copy" in str(fault.fields["reason"])


@pytest.mark.parametrize("kind", ["udp", "pty"])
def test_garbage_on_both_wires_is_counted_and_nothing_else(launch: Launch, kind: str) -> None:
    flight = launch(kind, housekeeping={"slow_interval_s": 1.0})
    flight.until(lambda: flight.newest("main"), what="telemetry")
    noise = [bytes((n * 37 + k) % 256 for k in range(1 + n * 5 % 300)) for n in range(60)]
    for data in noise:
        flight.radio.send_raw(data)
        flight.bus.send_raw(data)
        flight.turn()
    flight.until(lambda: flight.events("TC_GARBAGE"), what="garbage reported")
    flight.until(lambda: flight.newest("slow").get("avionics.frames_bad", 0) > 0, what="bad avionics frames")
    ping = flight.send("ping")
    flight.radio.send_raw(b"\0")
    ping = flight.send("ping")
    flight.until(lambda: flight.verifications(ping), what="it still answers")
    assert flight.end(signal.SIGTERM) == 0
    assert "Traceback" not in flight.output


def test_a_missing_serial_device_is_one_line_and_the_daemon_flies(launch: Launch, tmp_path: Path) -> None:
    device = tmp_path / "ttyNOT"
    flight = launch("udp", avionics={"endpoint": f"serial:{device}"})
    restarted = flight.until(lambda: flight.events("ADAPTER_RESTARTED"), what="adapter reported")[0]
    assert restarted.fields["adapter"] == "avionics"
    assert f"serial device {device} does not exist" in str(restarted.fields["reason"])
    flight.until(lambda: flight.events("ADAPTER_FAILED"), 30.0, "given up as failed")
    ping = flight.send("ping")
    flight.until(lambda: flight.verifications(ping), what="it still answers")
    assert "Traceback" not in flight.output


def test_a_port_in_use_heals_when_it_is_free(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief, ExitStack() as resources:
        flight = Flight(tmp_path, "udp", resources)
        port = int(flight.radio.endpoint.split(":")[2].split("/")[0])
        thief.bind(("127.0.0.1", port))
        flight.start()
        line = f"cannot bind 127.0.0.1:{port}: Address already in use"
        flight.until(lambda: line in flight.output, what="one line")
        thief.close()
        flight.until(lambda: flight.newest("main"), what="telemetry after all")
        flight.end(signal.SIGTERM)


def test_a_second_daemon_is_turned_away(launch: Launch, tmp_path: Path) -> None:
    flight = launch()
    flight.until(lambda: flight.newest("main"), what="telemetry")
    second = flightd("--config", str(flight.config), cwd=tmp_path)
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert f"in use by another flightd (process {flight.process.pid})" in second.stderr  # type: ignore[union-attr]
    ping = flight.send("ping")
    flight.until(lambda: flight.verifications(ping), what="the first one flies on")


def test_a_recorder_that_cannot_write_is_a_fault_and_heals(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "state" / "recorder.sqlite").mkdir(parents=True)
    flight = launch()
    flight.until(
        lambda: "STORE_FAULT          store: recorder.sqlite: unable to open" in flight.output, what="fault"
    )
    ping = flight.send("ping")
    flight.until(lambda: flight.verifications(ping), what="it flies on")
    (tmp_path / "state" / "recorder.sqlite").rmdir()
    boot = flight.events("BOOT") or flight.until(lambda: flight.events("BOOT"), what="boot event, played back")
    assert flight.end(signal.SIGTERM) == 0
    assert (boot[0].boot, 0x11, boot[0].seq) in recorded(flight)


def test_a_tiny_quota_sheds_and_is_reported(launch: Launch) -> None:
    flight = launch(recorder={"quota_mb": 0.05}, housekeeping={"main_interval_s": 0.1})
    flight.until(lambda: flight.events("RECORDER_SHED"), 30.0, "shed reported")
    flight.end(signal.SIGTERM)
    assert (flight.state / "recorder.sqlite").stat().st_size < 150_000


def test_the_service_manager_hears_ready_kicks_and_stopping(tmp_path: Path) -> None:
    with ExitStack() as resources:
        manager = resources.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        heard: list[bytes] = []

        def listen() -> list[bytes]:
            with suppress(BlockingIOError):
                heard.append(manager.recv(500))
            return heard

        flight = Flight(tmp_path, "udp", resources)
        flight.start(NOTIFY_SOCKET=str(tmp_path / "notify"))
        flight.until(lambda: listen().count(b"WATCHDOG=1") >= 3, what="kicks")
        assert any(message.startswith(b"READY=1") for message in heard)
        assert flight.end(signal.SIGTERM) == 0
        while b"STOPPING" not in b"".join(heard):
            before = len(heard)
            assert len(listen()) > before, "no STOPPING"


def test_command_line(tmp_path: Path) -> None:
    bare = flightd(cwd=tmp_path)
    assert (bare.returncode, bare.stdout) == (2, "")
    assert "flightd --example" in bare.stderr
    example = flightd("--example", cwd=tmp_path)
    assert example.returncode == 0
    (tmp_path / "mission.toml").write_text(example.stdout)
    check = flightd("--config", "mission.toml", "--check", cwd=tmp_path)
    assert check.returncode == 0
    assert check.stdout.startswith("mission.toml: valid, 2 jobs, configuration ")
    version = flightd("--version", cwd=tmp_path)
    assert version.stdout.startswith("flightd ")
    wrong = flightd("--config", "mission.toml", "--set", "eps.dod_max=2", "--set", "frame.rate=1", cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines() == [
        "flightd: --set: frame.rate: unknown key; did you mean 'rate_hz'?",
        "flightd: --set: eps.dod_max = 2 is refused; allowed is a number over 0 and under 1",
    ]
    missing = flightd("--config", "nowhere.toml", cwd=tmp_path)
    assert missing.returncode == 2
    assert missing.stderr == "flightd: nowhere.toml: cannot be read: No such file or directory\n"
    assert list(tmp_path.iterdir()) == [tmp_path / "mission.toml"]


def test_a_state_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "mission.toml").write_text("[mission]\nstate_dir = 'mission.toml/state'\n")
    result = flightd("--config", "mission.toml", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "cannot be made or written: Not a directory; choose another mission.state_dir" in result.stderr


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
