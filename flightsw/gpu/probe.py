"""The probe: a small process that does nothing but read the card, because a card can hang whoever asks it.

``python -m flightsw.gpu.probe`` takes a ``ProbeSpec`` as the first message on standard input and then writes one
``Sample`` per interval until end of file on standard input. A reading that hangs shows as silence, and the daemon
kills and restarts the process; nothing here tries to be cleverer than that. A lost card is a fault report,
samples of NaN, and a new start with back-off (``nvml.RETRY_FIRST_S`` doubling to ``nvml.RETRY_MAX_S``).

Source "auto": that NVML initialises proves nothing (Jetson), so NVML is taken when its first reading gives power,
else Jetson sysfs when this is a Jetson, else NVML when it gives any number or has lost its card, else none.
"none" sends samples in which everything is unsupported, so that the daemon knows that there is nothing to know,
and "auto" then looks again every ``LOOK_AGAIN_S``: a driver may come up late.

No torch here: the probe must start in a blink and stay small.
"""

import os
import sys
import threading
import time
from pathlib import Path
from typing import Final, Protocol

import msgspec

from flightsw.gpu.jetson import SYSFS, JetsonReader
from flightsw.gpu.nvml import FIELD_NAMES, NvmlError, NvmlReader, Unavailable
from flightsw.gpu.protocol import (
    LENGTH_PREFIX,
    MESSAGE_BYTES_MAX,
    Fault,
    FromChild,
    ProbeSpec,
    Sample,
    Stop,
    ToChild,
    decode_to_child,
    encode,
)

LOOK_AGAIN_S: Final = 30.0
END_GRACE_S: Final = 1.0
"""After end of file a reading may finish for this long; a hung one is then left behind by force."""

EXIT_BAD_SPEC: Final = 2


class Reader(Protocol):
    """What a source of samples can do; it never raises."""

    fault: str

    def read(self, sequence: int, now_s: float) -> Sample:
        """One sample, now."""

    def close(self) -> None:
        """Let go of the device."""


class NoReader:
    """A machine without a readable card."""

    fault = ""

    def read(self, sequence: int, now_s: float) -> Sample:
        """A sample that says that nothing is supported."""
        return Sample(sequence=sequence, source="none", unsupported=FIELD_NAMES)

    def close(self) -> None:
        """Nothing is held open."""


def select(spec: ProbeSpec, root: Path, now_s: float) -> Reader:
    """The reader for ``spec.source``; for "auto" the first that has something to say."""
    match spec.source:
        case "none":
            return NoReader()
        case "jetson":
            return JetsonReader(root)
        case "nvml":
            return NvmlReader(spec.nvml_module, spec.device_index)
        case "auto":
            return _best(spec, root, now_s)


def _best(spec: ProbeSpec, root: Path, now_s: float) -> Reader:
    nvml = NvmlReader(spec.nvml_module, spec.device_index)
    speaks = lost = False
    try:
        nvml.open()
    except Unavailable:
        pass
    except NvmlError:
        lost = True
    else:
        first = nvml.read(0, now_s)
        if _number(first.power_w):
            return nvml
        lost = bool(nvml.fault)
        speaks = any(_number(getattr(first, name)) for name in FIELD_NAMES)
    jetson = JetsonReader(root)
    if jetson.present:
        nvml.close()
        return jetson
    if speaks or lost:
        return nvml
    nvml.close()
    return NoReader()


def _number(value: float | None) -> bool:
    return value is not None and value == value


class Outlet:
    """Messages to the daemon, whole or not at all; ``closed`` once the daemon no longer reads."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.closed = False

    def send(self, message: FromChild) -> None:
        """Write one message; a closed pipe sets ``closed``."""
        rest = memoryview(encode(message))
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            self.closed = True


def receive(descriptor: int) -> ToChild | None:
    """The next message from the daemon, waiting for it; None at end of file.

    ``ValueError`` (which ``msgspec.MsgspecError`` is, too) for bytes that are no message.
    """
    prefix = _exactly(descriptor, LENGTH_PREFIX.size)
    if prefix is None:
        return None
    (length,) = LENGTH_PREFIX.unpack(prefix)
    if length > MESSAGE_BYTES_MAX:
        raise ValueError(f"message of {length} bytes, at most {MESSAGE_BYTES_MAX} are allowed")
    body = _exactly(descriptor, length)
    return None if body is None else decode_to_child(body)


def _exactly(descriptor: int, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        piece = os.read(descriptor, count - len(data))
        if not piece:
            return None
        data += piece
    return data


def _watch_input(descriptor: int, ended: threading.Event) -> None:
    """Set ``ended`` at end of file or ``Stop``; other messages are not for a probe."""
    while True:
        try:
            message = receive(descriptor)
        except (OSError, ValueError, msgspec.MsgspecError):
            # Garbage from the daemon means that framing is gone for good.
            break
        if message is None or isinstance(message, Stop):
            break
    ended.set()
    time.sleep(END_GRACE_S)
    os._exit(0)


def sample_until(ended: threading.Event, spec: ProbeSpec, outlet: Outlet, root: Path) -> None:
    """Read and send on a fixed grid of ``spec.interval_s`` until ``ended`` or until nobody reads."""
    reader = select(spec, root, time.monotonic())
    sequence, told = 0, ""
    due_s = time.monotonic()
    look_again_s = due_s + LOOK_AGAIN_S
    while not ended.is_set() and not outlet.closed:
        now_s = time.monotonic()
        if isinstance(reader, NoReader) and spec.source == "auto" and now_s >= look_again_s:
            reader = select(spec, root, now_s)
            look_again_s = now_s + LOOK_AGAIN_S
        sample = reader.read(sequence, now_s)
        if reader.fault and reader.fault != told:
            outlet.send(Fault(code="gpu_lost", reason=f"{reader.fault}; the probe goes on and tries again"))
        told = reader.fault
        outlet.send(sample)
        sequence += 1
        # A slow reading skips grid points instead of bunching samples up.
        due_s = max(due_s + spec.interval_s, time.monotonic())
        ended.wait(due_s - time.monotonic())
    reader.close()


def main() -> int:
    """Run the probe on standard input and output; returns the exit status."""
    outlet = Outlet(sys.stdout.fileno())
    try:
        spec = receive(sys.stdin.fileno())
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        outlet.send(Fault(code="bad_spec", reason=f"first message is no ProbeSpec: {error}"))
        return EXIT_BAD_SPEC
    if spec is None:
        return 0
    if not isinstance(spec, ProbeSpec):
        outlet.send(
            Fault(code="bad_spec", reason=f"first message is a {type(spec).__name__}, a ProbeSpec is needed")
        )
        return EXIT_BAD_SPEC
    ended = threading.Event()
    threading.Thread(target=_watch_input, args=(sys.stdin.fileno(), ended), daemon=True).start()
    sample_until(ended, spec, outlet, SYSFS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
