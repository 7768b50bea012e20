"""From a bus that collapses to a card at rest: the real ``flightd``, a real worker, real wires, the bench's clock.

``last_kernel``: the bench samples a satellite that is well, at a random instant lets the bus collapse in the next
sensor frame, and reads the worker's activity meter until it stands still. The latency counts from the write of the
first frame with the alarm to the wire (never later than its arrival at the daemon) to the last move of the meter,
which is the end of the last micro-batch. Then the bus is well again and the worker picks up; each alarm is a whole
one, with the event and the checkpoint request that belong to it. The worker trains on the processor in
micro-batches that are cut to ``TARGET_S``.

``gpu_off``: the bus stays collapsed, so rest does not help, and the latency runs to the actuator frame that
commands the rail off. For this the worker is the protocol double of the tests: the daemon's path is the same, and
it is back in a blink after it was killed with the rail.

Load shedding and the tables of limits are left out of it: their voltages, and with them those of SAFE, lie under
the collapsed bus. They would take the rail no earlier than the alarm does, and after each alarm lead the card back
to work step by step; the next alarm would then find it half asleep.

The rate of the minor frame matters to ``gpu_off`` only; ``last_kernel`` is judged on arrival.
"""

import mmap
import random
import select
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec
from rig import sunlit

from flightsw.link import avionics
from flightsw.link.meter import METER_LAYOUT
from hil.wires import LinkKind, make_wire

TARGET_S: Final = 0.008
"""Longest part of a micro-batch that the worker may choose."""
QUIET_S: Final = 0.25
"""A meter that stands still for this long has stopped: at full duty it moves with every part."""
COLLAPSED_V: Final = 15.0
POLL_S: Final = 0.0005
START_MAX_S: Final = 120.0
ANSWER_MAX_S: Final = 5.0
DOUBLE: Final = Path(__file__).resolve().parents[1] / "shell" / "scripted_worker.py"

MISSION: Final = """
[mission]
name = "shed"
state_dir = "state"
[frame]
rate_hz = {rate_hz}
[avionics]
endpoint = "{avionics}"
[probe]
source = "none"
[log]
level = "error"
[worker]
command = [{command}]
[bus_alarm]
hold_s = 0.0
off_s = 0.0
ride_through_s = {ride_through_s}
[eps]
trip_s = 60.0
bus_undervoltage_v = 0.5
bus_recovered_v = 12.0
[shedding]
derate_v = 4.0
budget_v = 3.0
shed_v = 2.0
off_v = 1.0
[checkpoint]
interval_world_s = 1e7
[[jobs]]
kind = "train"
id = "train"
preset = "tiny"
device = "cpu"
threads = 1
micro_batch_target_s = {target_s}
meter = "meter"
"""


class Bench:
    """Context manager: a daemon with one job, its avionics wire, and the job's meter."""

    def __init__(
        self, folder: Path, kind: LinkKind, seed: int, *, double: bool, rate_hz: float, ride_through_s: float
    ) -> None:
        self._folder, self._random = folder, random.Random(seed)
        self._wire = make_wire(kind, folder, "avionics")
        command = f'"{sys.executable}", "{DOUBLE}", "good"' if double else ""
        self._mission = MISSION.format(
            avionics=self._wire.endpoint, command=command, rate_hz=rate_hz, ride_through_s=ride_through_s,
            target_s=TARGET_S,
        )  # fmt: skip
        self._sample_s = 1.0 / rate_hz
        self._sequence = 0
        self._begun_s = self._due_s = time.monotonic()
        self._volts = 28.0
        self.rail_on, self.rail_s = False, 0.0
        self.written_s = 0.0
        self._meter: mmap.mmap | None = None

    def __enter__(self) -> Self:
        config = self._folder / "mission.toml"
        config.write_text(self._mission)
        with open(self._folder / "flightd.out", "wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flightsw", "--config", str(config)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.until(lambda: self.rail_on, START_MAX_S, "the first actuator frames")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._wire.close()

    def collapse(self) -> None:
        """At a random instant within a sample period: the next frame, at once, tells of a collapsed bus."""
        self.wait(self._random.uniform(0.0, self._sample_s))
        self._volts = COLLAPSED_V
        self._due_s = time.monotonic()
        self.turn()

    def recover(self) -> None:
        """The bus is well from the next frame on."""
        self._volts = 28.0
        self._due_s = time.monotonic()

    def has_done(self, count: int) -> bool:
        """Whether so many parts are finished."""
        return self.micro_batches() >= count

    def micro_batches(self) -> int:
        """Finished parts so far; 0 while there is no meter."""
        if self._meter is None:
            path = self._folder / "meter"
            if not path.exists() or path.stat().st_size < METER_LAYOUT.size:
                return 0
            with open(path, "rb") as file:
                self._meter = mmap.mmap(file.fileno(), METER_LAYOUT.size, access=mmap.ACCESS_READ)
        return int(METER_LAYOUT.unpack(self._meter)[1])

    def wait(self, seconds: float) -> None:
        """Let the world go on for this long."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self.turn()

    def until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Let the world go on until then; ``RuntimeError`` with the daemon's last words when it does not come."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                words = (self._folder / "flightd.out").read_text()[-800:]
                raise RuntimeError(f"{what}: not within {timeout_s:g} s\n{words}")
            self.turn()

    def turn(self) -> None:
        """A moment of the world: sample when it is time, see what has come."""
        now_s = time.monotonic()
        if now_s >= self._due_s:
            self._due_s = max(self._due_s + self._sample_s, now_s)
            self._sequence += 1
            frame = sunlit(self._sequence, now_s - self._begun_s)
            unit = avionics.encode(msgspec.structs.replace(frame, bus_voltage_v=self._volts, radio_lock=False))
            self.written_s = time.monotonic()
            self._wire.send(unit)
        for unit in self._wire.receive():
            message = avionics.decode(unit)
            if isinstance(message, avionics.ActuatorFrame):
                self.rail_on, self.rail_s = message.gpu_rail_on, time.monotonic()
        self._wire.flush()
        select.select([self._wire], [], [], min(POLL_S, max(0.0, self._due_s - time.monotonic())))


def last_kernel(folder: Path, alarms: int, seed: int = 1, kind: LinkKind = "pty") -> list[float]:
    """Latencies in seconds from the first frame with an alarm to the end of the last micro-batch.

    The minor frame is at 20 Hz to get through more alarms in the same time; a frame in the way only costs.
    """
    latencies_s: list[float] = []
    with Bench(folder, kind, seed, double=False, rate_hz=20.0, ride_through_s=5.0) as bench:
        bench.until(lambda: bench.micro_batches() > 20, START_MAX_S, "a worker at work")
        for _ in range(alarms):
            enough = bench.micro_batches() + 2
            bench.until(partial(bench.has_done, enough), ANSWER_MAX_S, "work before the alarm")
            bench.collapse()
            alarm_s = moved_s = bench.written_s
            count = bench.micro_batches()
            while (now_s := time.monotonic()) - max(moved_s, alarm_s) < QUIET_S:
                if bench.micro_batches() != count:
                    count, moved_s = bench.micro_batches(), now_s
                if now_s - alarm_s > ANSWER_MAX_S:
                    raise RuntimeError(f"the worker still works {ANSWER_MAX_S:g} s after the alarm")
                bench.turn()
            latencies_s.append(moved_s - alarm_s)
            bench.recover()
    return latencies_s


def gpu_off(folder: Path, alarms: int, seed: int = 1, kind: LinkKind = "pty") -> list[float]:
    """Latencies in seconds from the first frame with an alarm to the actuator frame with the rail off.

    Configuration as shipped where it counts: minor frame at 10 Hz, ride-through 0.1 s.
    """
    latencies_s: list[float] = []
    with Bench(folder, kind, seed, double=True, rate_hz=10.0, ride_through_s=0.1) as bench:
        for _ in range(alarms):
            bench.until(lambda: bench.rail_on, ANSWER_MAX_S, "rail on before the alarm")
            bench.wait(0.25)
            bench.collapse()
            alarm_s = bench.written_s
            bench.until(lambda: not bench.rail_on, ANSWER_MAX_S, "rail off after the alarm")
            latencies_s.append(bench.rail_s - alarm_s)
            bench.recover()
    return latencies_s


def main() -> None:
    """Measure and print: ``python tests/benchmarks/shed.py [ALARMS]``."""
    import tempfile

    from spine import percentile

    alarms = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    for name, measure, count in (("last kernel", last_kernel, alarms), ("GPU off", gpu_off, alarms // 5)):
        with tempfile.TemporaryDirectory(prefix="gpusat-shed-") as folder:
            start_s = time.monotonic()
            found_ms = [1e3 * latency_s for latency_s in measure(Path(folder), count)]
            took_s = time.monotonic() - start_s
        figures = ", ".join(f"p{100 * q:g} {percentile(found_ms, q):.1f}" for q in (0.5, 0.99, 0.999))
        print(f"{name}: {count} alarms, {figures}, worst {max(found_ms):.1f} ms ({took_s:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
