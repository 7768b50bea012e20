"""R12: the guard ends what is stuck and starts it again, shown on real processes: stopped, silent, deaf, dying.

First with a program of a few lines, for every rule of the guard, then with flightd itself. Nothing is mocked: the
process that is killed is a process, and who kills it is the guard.
"""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from flight_bench import Flight

from flightsw.link.schema import Stage
from flightsw.shell import guard as guard_module

pytestmark = pytest.mark.process

GUARD = Path(guard_module.__file__)
PROGRAM = """
import array, os, select, signal, socket, sys, time
from pathlib import Path
notes = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
address = os.environ["NOTIFY_SOCKET"].replace("@", "\\0", 1)
def note(text):
    notes.sendto(text.encode(), address)
def pause(seconds):
    select.select([], [], [], seconds)
lives = Path("lives")
lives.touch()
with lives.open("a") as file:
    print(os.getpid(), os.environ.get("GPUSAT_LAST_END", "-"), file=file)
life = len(lives.read_text().splitlines())
"""
FLY = """
note("READY=1")
while True:
    note("WATCHDOG=1")
    pause(0.1)
"""


class Guarded:
    """A guard process with a program of ours; ``lives`` are the program's process ids and their last ends."""

    def __init__(self, folder: Path, resources: ExitStack) -> None:
        self.folder, self._resources = folder, resources
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, code: str, *, start_s: float = 10.0, stop_s: float = 10.0, restarts_max: int = 3) -> None:
        """The watchdog time is 0.5 s."""
        limits = ("0.5", str(start_s), str(stop_s), str(restarts_max), "600")
        program = [sys.executable, "-I", "-S", "-c", PROGRAM + textwrap.dedent(code)]
        self._resources.callback(self.kill)
        with (self.folder / "output").open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), *limits, *program], cwd=self.folder, stderr=output
            )

    def kill(self) -> None:
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        for pid, _ in self.lives:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    @property
    def lives(self) -> list[tuple[int, str]]:
        path = self.folder / "lives"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(line.split(" ", 1)[0]), line.split(" ", 1)[1]) for line in lines]

    def status(self) -> int | None:
        assert self.process is not None
        return self.process.poll()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    with ExitStack() as resources:
        yield Guarded(tmp_path, resources)


Eventually = Callable[..., None]


def test_r12_a_stopped_program_is_killed_and_started_again(guarded: Guarded, eventually: Eventually) -> None:
    guarded.start(FLY)
    eventually(lambda: guarded.lives, what="first life")
    first = guarded.lives[0][0]
    os.kill(first, signal.SIGSTOP)
    eventually(lambda: len(guarded.lives) == 2, 20.0, "second life")
    assert not Path(f"/proc/{first}").exists()
    assert guarded.lives[1][1] == "watchdog: no sign of life for 0.5 s"
    assert "SIGABRT to process group" in guarded.output
    assert "SIGKILL to process group" in guarded.output


def test_r12_a_silent_program_is_killed(guarded: Guarded, eventually: Eventually) -> None:
    """It lives, it works, it only does not kick: as a daemon whose mandatory adapter stands still."""
    guarded.start("note('READY=1')\nwhile True: pause(0.1)\n")
    eventually(lambda: len(guarded.lives) == 2, 20.0, "second life")
    # SIGABRT is enough for one that is not stopped.
    assert "SIGKILL to process group" not in guarded.output


def test_a_program_that_never_gets_ready_is_killed(guarded: Guarded, eventually: Eventually) -> None:
    guarded.start("while True: pause(0.1)\n", start_s=0.5)
    eventually(lambda: len(guarded.lives) == 2, 20.0, "second life")
    assert guarded.lives[1][1] == "watchdog: not ready within 0.5 s"


def test_a_program_that_does_not_stop_is_killed(guarded: Guarded, eventually: Eventually) -> None:
    """Kicks do not lengthen the time that it has to stop."""
    code = "note('READY=1')\nnote('STOPPING=1')\nwhile True:\n    note('WATCHDOG=1'); pause(0.1)\n"
    guarded.start(code, stop_s=1.0)
    eventually(lambda: len(guarded.lives) == 2, 20.0, "second life")
    assert guarded.lives[1][1] == "watchdog: not gone within 1 s"


def test_the_whole_process_group_goes(guarded: Guarded, eventually: Eventually) -> None:
    code = "child = os.fork()\nif not child:\n    Path('child').write_text(str(os.getpid()))\n    pause(60)\n" + FLY
    guarded.start("signal.signal(signal.SIGABRT, signal.SIG_IGN)\n" + code)
    eventually(lambda: (guarded.folder / "child").exists() and guarded.lives, what="a grandchild")
    eventually(lambda: (guarded.folder / "child").read_text(), what="its number")
    child = int((guarded.folder / "child").read_text())
    os.kill(guarded.lives[0][0], signal.SIGSTOP)
    eventually(lambda: not _running(child), 20.0, "the grandchild is gone")


def test_an_orderly_end_and_a_wrong_configuration_are_final(guarded: Guarded, eventually: Eventually) -> None:
    for status in (0, 2):
        (guarded.folder / "lives").unlink(missing_ok=True)
        guarded.start(f"sys.exit({status})")
        eventually(lambda: guarded.status() is not None, what="the guard ends")
        assert guarded.status() == status
        assert len(guarded.lives) == 1


def test_a_program_that_cannot_live_is_given_up_with_a_clear_line(guarded: Guarded, eventually: Eventually) -> None:
    guarded.start("os.kill(os.getpid(), signal.SIGKILL) if life == 2 else sys.exit(1)", restarts_max=2)
    eventually(lambda: guarded.status() is not None, 20.0, "the guard gives up")
    assert guarded.status() == 1
    assert [end for _, end in guarded.lives] == ["-", "ended with status 1", "ended by SIGKILL"]
    assert "2 restarts in 600 s did not help, giving up" in guarded.output


def test_the_pause_between_restarts_doubles(guarded: Guarded, eventually: Eventually) -> None:
    guarded.start("sys.exit(1)", restarts_max=2)
    eventually(lambda: guarded.status() is not None, 20.0, "the guard gives up")
    assert re.findall(r"restart \d of 2 in (\S+) s", guarded.output) == ["0.5", "1"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_are_passed_on(guarded: Guarded, eventually: Eventually, number: signal.Signals) -> None:
    code = f"signal.signal({int(number)}, lambda n, f: (Path('told').write_text(str(n)), sys.exit(0)))\n" + FLY
    guarded.start(code)
    eventually(lambda: guarded.lives, what="first life")
    eventually(lambda: (guarded.folder / "told").exists() or _tell(guarded, number), what="told")
    eventually(lambda: guarded.status() is not None, what="the guard ends")
    assert guarded.status() == 0
    assert (guarded.folder / "told").read_text() == str(int(number))


def _tell(guarded: Guarded, number: signal.Signals) -> bool:
    assert guarded.process is not None
    guarded.process.send_signal(number)
    return False


def test_a_signal_in_the_pause_ends_the_guard(guarded: Guarded, eventually: Eventually) -> None:
    guarded.start("sys.exit(1)", restarts_max=50)
    eventually(lambda: len(guarded.lives) >= 3, 20.0, "pauses grow")
    assert guarded.process is not None
    guarded.process.send_signal(signal.SIGTERM)
    eventually(lambda: guarded.status() is not None, what="the guard ends")


def test_a_stranger_cannot_kick(guarded: Guarded, eventually: Eventually) -> None:
    """The kernel tells who sent a datagram; a kick of anybody else, a child of the program too, does not count."""
    code = "note('READY=1')\nif not os.fork():\n    while True:\n        note('WATCHDOG=1'); pause(0.05)\n"
    guarded.start(code + "while True: pause(0.1)\n")
    eventually(lambda: len(guarded.lives) >= 2, 20.0, "second life")


def test_a_barrier_is_answered(guarded: Guarded, eventually: Eventually) -> None:
    code = """
    ours, theirs = os.pipe()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs]))]
    notes.sendmsg([b"BARRIER=1"], rights, 0, address)
    os.close(theirs)
    if os.read(ours, 1) == b"":
        Path("passed").touch()
    """
    guarded.start(code + "\n" + textwrap.indent(FLY, "    "))
    eventually(lambda: (guarded.folder / "passed").exists(), what="barrier passed")


def test_a_program_that_is_not_there(guarded: Guarded, tmp_path: Path) -> None:
    limits = ("0.5", "1", "1", "3", "600")
    result = subprocess.run(
        [sys.executable, "-I", "-S", str(GUARD), *limits, str(tmp_path / "nothing")],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert result.returncode == 2


# --- flightd under its guard -------------------------------------------------------------------------------

Launch = Callable[..., Flight]
ONCE = """
import os
if not os.path.exists("state/boot.a"):
    from flightsw.core import executive
    from flightsw.shell.wire import Wire
    {fault}
"""
STUCK = """sound = executive.step
    def planted(vehicle, *arguments):
        if vehicle.frame_count > 10:
            __import__("threading").Event().wait(600.0)
        return sound(vehicle, *arguments)
    executive.step = planted"""
STANDING = "Wire.executions = property(lambda wire: 7)"


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    with ExitStack() as resources:

        def start(prelude: str = "", **sections: dict[str, Any]) -> Flight:
            quick = {"watchdog": {"timeout_s": 2}, "housekeeping": {"slow_interval_s": 1.0}}
            flight = Flight(tmp_path, "udp", resources, **{**quick, **sections})
            flight.start(prelude=prelude, guard=True)
            # After a failure the guard is killed, and its daemon with it.
            resources.callback(lambda: _end_group(daemon(flight)))
            return flight

        yield start


def _end_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def daemon(flight: Flight) -> int:
    """Process id of the newest life."""
    return int(re.findall(r"guard: process (\d+) started", flight.output)[-1])


def test_r12_a_stopped_daemon_is_killed_and_comes_up_again(launch: Launch) -> None:
    flight = launch()
    ready = flight.until(lambda: flight.events("WORKER_READY"), 30.0, "worker ready")[0]
    flight.until(lambda: flight.newest("slow").get("watchdog.confirmed") == 1.0, 30.0, "kicks are confirmed")
    assert flight.newest("slow")["watchdog.kicks"] >= 1
    # The pulse that tells of the sudden end is up to a second old.
    flight.until(lambda: flight.newest("main")["uptime_s"] > 2.5, what="more than one pulse")
    first = daemon(flight)
    os.kill(first, signal.SIGSTOP)
    stopped_s = time.monotonic()
    boot = flight.until(lambda: flight.events("BOOT", 2), 30.0, "second boot")[0]
    assert time.monotonic() - stopped_s < 15.0
    assert boot.fields["cause"] == "ended by a watchdog"
    assert not _running(first)
    assert not _running(int(ready.fields["pid"]))
    # R14: the record has the cause, the mode and the last words of the life that was cut short.
    flight.send("reset.report", count=1)
    record = flight.until(lambda: flight.events("RESET_RECORD"), what="resets")[-1]
    assert (record.fields["cause"], record.fields["mode"]) == ("WATCHDOG", "DOWNLINK")
    assert record.fields["reason"] == "watchdog: no sign of life for 2 s"
    assert float(record.fields["uptime_s"]) > 0.0
    assert flight.end(signal.SIGTERM) == 0


def test_r12_a_daemon_whose_loop_is_stuck_is_aborted_with_its_traces(launch: Launch) -> None:
    flight = launch(ONCE.format(fault=STUCK))
    boot = flight.until(lambda: flight.events("BOOT", 2), 40.0, "second boot")[0]
    assert boot.fields["cause"] == "ended by a watchdog"
    # SIGABRT made it say where it stood.
    assert "in planted" in flight.output
    assert flight.end(signal.SIGTERM) == 0


def test_r12_a_standing_mandatory_adapter_ends_the_daemon(launch: Launch) -> None:
    flight = launch(ONCE.format(fault=STANDING))
    boot = flight.until(lambda: flight.events("BOOT", 2), 40.0, "second boot")[0]
    assert boot.fields["cause"] == "ended by a watchdog"
    stuck = flight.until(lambda: flight.events("ADAPTER_STUCK", 1), what="the reason, from the first life")
    assert {e.fields["adapter"] for e in stuck} == {"radio", "avionics"}
    assert flight.end(signal.SIGTERM) == 0


def test_a_killed_daemon_under_the_guard_tells_who_killed_it(launch: Launch) -> None:
    flight = launch()
    flight.until(lambda: flight.newest("main"), 30.0, "telemetry")
    os.kill(daemon(flight), signal.SIGKILL)
    flight.until(lambda: flight.events("BOOT", 2), 30.0, "second boot")
    flight.send("reset.report", count=1)
    record = flight.until(lambda: flight.events("RESET_RECORD"), what="resets")[-1]
    assert (record.fields["cause"], record.fields["reason"]) == ("UNCLEAN", "ended by SIGKILL")
    assert flight.end(signal.SIGTERM) == 0


def test_a_restart_by_telecommand_stays_under_the_guard(launch: Launch) -> None:
    flight = launch()
    flight.until(lambda: flight.events("WORKER_READY"), 30.0, "worker ready")
    first = daemon(flight)
    arm = flight.send("arm", opcode=0x70)
    flight.until(lambda: any(v.stage == Stage.COMPLETION for v in flight.verifications(arm)), what="armed")
    flight.send("daemon.restart")
    flight.until(lambda: flight.events("WORKER_READY", 2), 30.0, "up again")
    assert daemon(flight) == first
    os.kill(first, signal.SIGSTOP)
    flight.until(lambda: flight.events("BOOT", 3), 30.0, "third boot")
    assert flight.end(signal.SIGTERM) == 0


def test_the_guard_is_small() -> None:
    """It imports nothing of ours and little else."""
    code = f"import runpy, sys; runpy.run_path({str(GUARD)!r}, run_name='guard'); print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert len(out.split()) < 90
    assert not {"flightsw", "asyncio", "msgspec", "torch"} & set(out.split())


def test_a_wrong_configuration_is_told_before_there_is_a_guard(tmp_path: Path) -> None:
    (tmp_path / "mission.toml").write_text("[watchdog]\ntimeout_s = 11\n")
    result = subprocess.run(
        [sys.executable, "-m", "flightsw", "--guard", "--config", "mission.toml"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr == (
        "flightd: mission.toml: watchdog.timeout_s = 11 is refused; allowed is a whole number from 1 to 10\n"
    )


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
