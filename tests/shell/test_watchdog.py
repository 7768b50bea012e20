"""Both watchdogs for real: datagrams on a unix socket, and a process that is stuck and gets ended."""

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from flightsw.shell.watchdog import Watchdog


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager's socket and its address as ``NOTIFY_SOCKET`` writes it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@gpusat-{tmp_path.name}-{id(request)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        listener.settimeout(5.0)
        yield listener, name


def test_ready_kicks_and_stopping_are_heard(manager: tuple[socket.socket, str]) -> None:
    listener, name = manager
    watchdog = Watchdog({"NOTIFY_SOCKET": name})
    watchdog.ready("flying")
    assert listener.recv(500).startswith(b"READY=1\nSTATUS=flying\nMAINPID=")
    assert watchdog.kick(10.0)
    assert watchdog.kick(10.1)
    assert watchdog.kick(11.0)
    # A datagram that nobody reads: its barrier is not through, and no further one is sent.
    assert [listener.recv(500) for _ in range(3)] == [b"WATCHDOG=1", b"BARRIER=1", b"WATCHDOG=1"]
    assert watchdog.kicks == 2
    watchdog.stopping("SIGTERM")
    assert listener.recv(500) == b"STOPPING=1\nSTATUS=SIGTERM"
    watchdog.close()


def test_a_kick_is_confirmed_by_the_barrier(manager: tuple[socket.socket, str]) -> None:
    listener, name = manager
    watchdog = Watchdog({"NOTIFY_SOCKET": name})
    watchdog.kick(1.0)
    assert watchdog.confirmed is None
    for _ in range(2):
        _, descriptors, _, _ = socket.recv_fds(listener, 500, 4)
        for descriptor in descriptors:
            os.close(descriptor)
    watchdog.kick(2.0)
    assert (watchdog.confirmed, watchdog.fault) == (True, "")
    # From here on nobody reads.
    for second in range(3, 9):
        watchdog.kick(float(second))
    assert (watchdog.confirmed, watchdog.fault) == (False, "the service manager does not read its notifications")
    watchdog.close()


@pytest.mark.parametrize(("usec", "kicks"), [("10000000", 3), ("2000000", 5), ("soon", 3), ("", 3)])
def test_kicks_come_four_times_as_often_as_they_must(
    manager: tuple[socket.socket, str], usec: str, kicks: int
) -> None:
    watchdog = Watchdog({"NOTIFY_SOCKET": manager[1], "WATCHDOG_USEC": usec})
    for frame in range(21):
        watchdog.kick(frame * 0.1)
    assert watchdog.kicks == kicks
    watchdog.close()


def test_a_kick_that_nobody_hears_does_not_count(tmp_path: Path) -> None:
    watchdog = Watchdog({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    assert not watchdog.kick(10.0)
    assert watchdog.kicks == 0
    assert watchdog.fault
    # The next frame tries again, not the next second.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "gone"))
        assert watchdog.kick(10.1)
    assert (watchdog.kicks, watchdog.fault) == (1, "")
    watchdog.close()


def test_without_a_manager_there_is_nothing_to_notify() -> None:
    watchdog = Watchdog({})
    watchdog.ready("flying")
    assert watchdog.kick(1.0)
    assert watchdog.fault == ""
    watchdog.close()


@pytest.mark.process
def test_a_stuck_process_is_ended_and_a_kicked_one_is_not() -> None:
    code = textwrap.dedent("""
        import sys, threading
        from flightsw.shell.watchdog import Watchdog
        watchdog = Watchdog({}, stall_s=0.4)
        pause = threading.Event()
        for frame in range(20):
            pause.wait(0.05)
            watchdog.kick(float(frame))
        print("kicked for a second", flush=True)
        pause.wait(60.0)
        print("never", flush=True)
    """)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert result.stdout == "kicked for a second\n"
    assert result.returncode == 1
    assert "Timeout" in result.stderr
