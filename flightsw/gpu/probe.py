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

import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from flightsw.gpu.channel import Channel
from flightsw.gpu.jetson import SYSFS, JetsonReader
from flightsw.gpu.nvml import FIELD_NAMES, FIELDS, NvmlError, NvmlReader, Unavailable
from flightsw.gpu.protocol import Fault, FromChild, ProbeSpec, Sample, Stop

LOOK_AGAIN_S: Final = 30.0


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
        speaks = any(_number(getattr(first, field.name)) for field in FIELDS)
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


def sample_until(ended: threading.Event, spec: ProbeSpec, send: Callable[[FromChild], None], root: Path) -> None:
    """Read and send on a grid of ``spec.interval_s`` until ``ended``; a slow reading delays the grid."""
    reader = select(spec, root, time.monotonic())
    sequence, told = 0, ""
    due_s = time.monotonic()
    look_again_s = due_s + LOOK_AGAIN_S
    while not ended.is_set():
        now_s = time.monotonic()
        if isinstance(reader, NoReader) and spec.source == "auto" and now_s >= look_again_s:
            reader = select(spec, root, now_s)
            look_again_s = now_s + LOOK_AGAIN_S
        sample = reader.read(sequence, now_s)
        if reader.fault and reader.fault != told:
            send(Fault(code="gpu_lost", reason=f"{reader.fault}; the probe goes on and tries again"))
        told = reader.fault
        send(sample)
        sequence += 1
        # Late samples are not made up for: they would come in a bunch and say nothing new.
        due_s = max(due_s + spec.interval_s, time.monotonic())
        ended.wait(due_s - time.monotonic())
    reader.close()


def main() -> int:
    """Run the probe on standard input and output; returns the exit status."""
    channel = Channel.on_standard_streams()
    # A terminal's interrupt goes to the whole group; the daemon decides when its probe stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    spec = channel.receive()
    if spec is None:
        return 0
    if not isinstance(spec, ProbeSpec):
        reason = f"the first message is {type(spec).__name__}, not a ProbeSpec"
        channel.send(Fault(code="spec", reason=reason))
        return 1
    ended = threading.Event()
    channel.start(lambda message: ended.set() if isinstance(message, Stop) else None, ended.set)
    sample_until(ended, spec, channel.send, SYSFS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
