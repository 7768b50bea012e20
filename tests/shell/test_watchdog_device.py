"""R12: the kernel's watchdog device: request numbers, confirmed kicks, magic close, one line where there is none.

A test machine has no ``/dev/watchdog`` that may reset it, so the device on the real kernel is tested where somebody
names one (``GPUSAT_WATCHDOG_DEVICE``). What is real everywhere: the numbers against the kernel's own header, files
that are no watchdog, and the bytes that are written at the end.
"""

import array
import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from flightsw.shell import watchdog_device
from flightsw.shell.watchdog import Watchdog
from flightsw.shell.watchdog_device import (
    WDIOC_GETTIMELEFT,
    WDIOC_KEEPALIVE,
    WDIOC_SETTIMEOUT,
    WatchdogDevice,
    WatchdogDeviceError,
)

NAMES = (
    "WDIOC_KEEPALIVE",
    "WDIOC_SETTIMEOUT",
    "WDIOC_GETTIMELEFT",
)


class Timer:
    """A watchdog's behaviour behind ``ioctl``: time runs down until a kick that works fills it up."""

    def __init__(self, *, tells: bool = True, works: bool = True, refuses: int = 0) -> None:
        self.timeout_s = self.left_s = 0
        self.tells, self.works, self.refuses = tells, works, refuses
        self.kicks = 0

    def __call__(self, fd: int, request: int, cell: "array.array[int]", mutate: bool) -> int:
        if request == self.refuses or (request == WDIOC_GETTIMELEFT and not self.tells):
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        if request == WDIOC_SETTIMEOUT:
            self.timeout_s = self.left_s = cell[0]
        elif request == WDIOC_KEEPALIVE:
            self.kicks += 1
            self.left_s = self.timeout_s if self.works else self.left_s
        elif request == WDIOC_GETTIMELEFT:
            cell[0] = self.left_s
        return 0


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A file in the place of the device node; what is written to it stays."""
    (tmp_path / "watchdog").touch()
    return tmp_path / "watchdog"


def test_the_numbers_are_those_of_the_kernels_header(tmp_path: Path) -> None:
    compiler, header = shutil.which("cc"), Path("/usr/include/linux/watchdog.h")
    if compiler is None or not header.exists():
        pytest.skip("no C compiler or no kernel headers on this machine")
    lines = "".join(f'printf("%lu\\n", (unsigned long){name});' for name in NAMES)
    (tmp_path / "n.c").write_text(f"#include <stdio.h>\n#include <linux/watchdog.h>\nint main(void) {{{lines}}}\n")
    subprocess.run([compiler, "-o", tmp_path / "n", tmp_path / "n.c"], check=True)
    out = subprocess.run([tmp_path / "n"], capture_output=True, text=True, check=True).stdout
    assert [int(line) for line in out.split()] == [getattr(watchdog_device, name) for name in NAMES]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/dev/no-watchdog-here", "/dev/no-watchdog-here: No such file or directory; flying without it"),
        ("/dev/null", "/dev/null: is no watchdog: Inappropriate ioctl for device; flying without it"),
    ],
)
def test_what_is_no_watchdog_is_one_line(path: str, reason: str) -> None:
    with pytest.raises(WatchdogDeviceError) as caught:
        WatchdogDevice(path, 10)
    assert str(caught.value) == reason


def test_a_kick_is_confirmed_when_the_time_left_goes_up(node: Path) -> None:
    timer = Timer()
    device = WatchdogDevice(str(node), 10, timer)
    assert (device.timeout_s, device.confirmed) == (10, None)
    timer.left_s = 9
    assert device.kick() == ""
    assert (device.confirmed, timer.left_s, timer.kicks) == (True, 10, 1)
    device.close(orderly=False)


def test_a_kick_without_effect_is_seen(node: Path) -> None:
    """Telemetry that calls a dead watchdog healthy is what this is for."""
    timer = Timer()
    device = WatchdogDevice(str(node), 10, timer)
    device.kick()
    timer.works = False
    said = []
    for left_s in (9, 8, 7, 6, 5):
        timer.left_s = left_s
        said.append(device.kick())
    assert said == ["", "", "", "", "kicks have no effect, 5 s left"]
    assert device.confirmed is False
    device.close(orderly=False)


def test_a_device_that_cannot_tell_leaves_the_flag_open(node: Path) -> None:
    device = WatchdogDevice(str(node), 10, Timer(tells=False))
    assert device.kick() == ""
    assert device.confirmed is None
    device.close(orderly=False)


def test_a_refused_kick_is_a_fault(node: Path) -> None:
    device = WatchdogDevice(str(node), 10, Timer(refuses=WDIOC_KEEPALIVE))
    assert device.kick() == "the device refused a kick: Inappropriate ioctl for device"
    assert device.confirmed is False
    device.close(orderly=False)


@pytest.mark.parametrize(("orderly", "written"), [(True, b"V"), (False, b"")])
def test_the_magic_close_is_written_at_an_orderly_end_only(node: Path, orderly: bool, written: bytes) -> None:
    WatchdogDevice(str(node), 10, Timer()).close(orderly=orderly)
    assert node.read_bytes() == written


def test_the_watchdog_passes_kicks_and_faults_on(node: Path) -> None:
    timer = Timer()
    watchdog = Watchdog({}, device=WatchdogDevice(str(node), 10, timer))
    assert watchdog.confirmed is None
    assert watchdog.kick(1.0)
    assert (watchdog.kicks, watchdog.confirmed, watchdog.fault) == (1, True, "")
    timer.refuses = WDIOC_KEEPALIVE
    assert not watchdog.kick(2.0)
    assert (watchdog.kicks, watchdog.confirmed) == (1, False)
    assert watchdog.fault.startswith("the device refused a kick")
    watchdog.close(orderly=False)
    assert node.read_bytes() == b""


def test_a_missing_device_stays_a_fault_and_the_kicks_go_on() -> None:
    watchdog = Watchdog({}, device="/dev/watchdog: No such file or directory; flying without it")
    assert watchdog.kick(1.0)
    assert watchdog.kick(2.0)
    assert (watchdog.kicks, watchdog.confirmed) == (2, None)
    assert watchdog.fault == "/dev/watchdog: No such file or directory; flying without it"
    watchdog.close()


def test_the_real_device() -> None:
    path = os.environ.get("GPUSAT_WATCHDOG_DEVICE", "")
    if not path:
        pytest.skip("no watchdog device: name one that may be used in GPUSAT_WATCHDOG_DEVICE (softdog will do)")
    device = WatchdogDevice(path, 10)
    try:
        assert device.kick() == ""
        assert device.confirmed is not False
    finally:
        device.close(orderly=True)
