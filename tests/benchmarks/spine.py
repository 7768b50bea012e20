"""Part ``spine``: the daemon under full load, virtual time, the housekeeping codec, command acceptance."""

import contextlib
import math
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
from results import Result, measured
from rig import Rig
from spacepackets.ecss.tm import PusTm

from flightsw.link.codec import pack_housekeeping, unpack_housekeeping
from flightsw.link.dictionary import GROUP_BY_NAME
from flightsw.link.packet import TmPacket, decode_tm, encode_tm
from ground.client import StationClient
from hil.inproc_benchmark import orbit_benchmark

SETTLE_S = 15.0
WINDOW_S = 40.0
COMMANDS = 300
REPEATS = 15


def run() -> Iterator[Result]:
    """All figures of the spine, cheapest first."""
    yield from codec()
    yield from virtual_time()
    yield from daemon()


def percentile(values: list[float], fraction: float) -> float:
    """The value below which this fraction lies (nearest rank)."""
    return sorted(values)[max(math.ceil(fraction * len(values)) - 1, 0)]


def rate_per_s(action: Callable[[], object], seconds: float = 0.2) -> float:
    """Calls per second of processor time, the best of some short loops.

    As with ``timeit``, slower loops tell of the neighbours on a shared processor, not of the code.
    """
    rates = []
    for _ in range(REPEATS):
        count, start_s = 0, time.process_time()
        while (elapsed_s := time.process_time() - start_s) < seconds:
            for _ in range(100):
                action()
            count += 100
        rates.append(count / elapsed_s)
    return max(rates)


def codec() -> Iterator[Result]:
    """Encode and decode the main housekeeping packet, whole, against the libraries a stranger would take."""
    group = GROUP_BY_NAME["main"]
    values = [float(i) + 0.5 for i in range(len(group.parameters))]

    def ours() -> None:
        body = pack_housekeeping(group, values)
        unit = encode_tm(TmPacket(group.apid, 7, 3, 25, 7, 0, 2, 2.1e9, body))
        unpack_housekeeping(group, decode_tm(unit).body)

    def theirs() -> None:
        tm = PusTm(
            service=3, subservice=25, timestamp=bytes(7), apid=group.apid, seq_count=7,
            source_data=msgpack.packb(values),
        )  # fmt: skip
        read = PusTm.unpack(tm.pack(), timestamp_len=7)
        dict(zip(group.parameters, msgpack.unpackb(read.source_data), strict=True))

    yield measured(
        "link.hk_roundtrip_per_s", rate_per_s(ours), "1/s", goal=60_000, better="higher",
        baseline=rate_per_s(theirs), baseline_name="spacepackets + msgpack",
    )  # fmt: skip


def virtual_time() -> Iterator[Result]:
    """One 95-minute orbit of executive and plant in this process, against the plant alone."""
    for rate_hz, goal_s in ((10.0, 15.0), (1.0, 2.0)):
        whole_s, plant_s = orbit_benchmark(rate_hz)
        yield measured(
            f"inproc.orbit_{rate_hz:.0f}hz_s", whole_s, "s", goal=goal_s, better="lower",
            baseline=plant_s, baseline_name="plant alone",
        )  # fmt: skip


def daemon() -> Iterator[Result]:
    """Processor share, memory and jitter at 10 Hz, and command acceptance, while the worker uses all cores."""
    with tempfile.TemporaryDirectory(prefix="gpusat-bench-") as folder, Rig(Path(folder)) as rig:
        client = StationClient(str(rig.socket))
        wait_until(lambda: bool(rig.fast_values("governor.duty")[-1:] == [1.0]), "full duty", 120.0)
        time.sleep(SETTLE_S)
        sequence = int(rig.fast_values("packet_sequence")[-1])
        busy_s, start_s = rig.processor_s(), time.monotonic()
        bare = BareTicker()
        accepted_ms = [accept_ms(client) for _ in range(COMMANDS)]
        time.sleep(max(WINDOW_S - (time.monotonic() - start_s), 0.0))
        fraction = (rig.processor_s() - busy_s) / (time.monotonic() - start_s)
        bare.end()
        jitter_ms = rig.fast_values("frame_jitter_ms", sequence)
        steps = rig.fast_values("train.step", sequence)
        if not steps[-1] > steps[0]:
            raise RuntimeError("the worker did not work: the figures would be those of an idle machine")
        memory_mb = rig.peak_memory_mb()

    yield measured(
        "daemon.cpu_fraction", fraction, "of a core", goal=0.10, better="lower",
        baseline=bare.processor_fraction, baseline_name="bare 10 Hz ticker",
    )  # fmt: skip
    yield measured(
        "daemon.rss_mb", memory_mb, "MB", goal=120.0, better="lower",
        baseline=bare_interpreter_mb(), baseline_name="bare interpreter",
    )  # fmt: skip
    yield measured(
        "daemon.frame_jitter_p99_ms", percentile(jitter_ms, 0.99), "ms", goal=20.0, better="lower",
        baseline=percentile(bare.late_ms, 0.99), baseline_name="bare 10 Hz ticker, same load",
    )  # fmt: skip
    yield measured(
        "command.accept_p99_ms", percentile(accepted_ms, 0.99), "ms", goal=100.0, better="lower",
        baseline=percentile(accepted_ms, 0.50), baseline_name="median of the same run",
    )  # fmt: skip


def accept_ms(client: StationClient) -> float:
    """Milliseconds from handing a ping to the station until its acceptance report is there."""
    start_s = time.perf_counter()
    result = client.send("ping", {}, wait="acceptance", timeout_s=10.0)
    if not result.ok:
        raise RuntimeError(f"ping was not accepted: {result}")
    return (time.perf_counter() - start_s) * 1000.0


class BareTicker:
    """The least a 10 Hz loop can cost: an own process that only waits for absolute deadlines."""

    CODE = (
        "import time, sys\n"
        "due = time.monotonic()\n"
        "while True:\n"
        "    due += 0.1\n"
        "    time.sleep(max(due - time.monotonic(), 0))\n"
        "    print((time.monotonic() - due) * 1000, time.process_time(), flush=True)\n"
    )

    def __init__(self) -> None:
        self.late_ms: list[float] = []
        self._used_s: list[float] = []
        self._process = subprocess.Popen([sys.executable, "-c", self.CODE], stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            with contextlib.suppress(ValueError):
                late_ms, used_s = map(float, line.split())
                self.late_ms.append(late_ms)
                self._used_s.append(used_s)

    def end(self) -> None:
        """Stop ticking."""
        self._process.terminate()
        self._process.wait()
        self._thread.join()

    @property
    def processor_fraction(self) -> float:
        """Share of a core."""
        return (self._used_s[-1] - self._used_s[0]) / (0.1 * (len(self._used_s) - 1))


def bare_interpreter_mb() -> float:
    """Peak resident memory of a Python that imports asyncio and nothing else, MB."""
    # Not getrusage: its maximum is inherited from the process that started this one.
    code = "import asyncio; print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return float(out.split()[1]) / 1000.0


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Poll until true; ``RuntimeError`` when it does not come."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        with contextlib.suppress(sqlite3.Error):  # The daemon has not made its recorder yet.
            if condition():
                return
        time.sleep(0.2)
    raise RuntimeError(f"{what}: not within {timeout_s:g} s on {os.uname().nodename}")
