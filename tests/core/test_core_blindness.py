"""A minute without telemetry, with frozen or with absurd sensors, in 1,000 random moments: power is safe in two
frames.

*Safe level*: no worker is given duty; the card idles, or its rail is off.

The sensors have noise and steps like those of the bus (``hil.plant.sensors``), drawn from the case's own stream:
that a healthy reading moves is what tells a frozen one. Each satellite has been at work at the bus's own rate for
long enough that its sensors have shown their noise.

*Detectable.* A fault counts from the first frame in which the readings contradict what readings can be, and the
power must be safe in the second such frame at the latest, and stay so to the end of the minute:

- a silent bus, and frames whose sequence stands still: silence of ``sense.stale_after_s`` (2 s); a bus that misses
  a few frames is no fault, so the clock of "two frames" begins when it has been silent for longer;
- an essential reading that is no number, or outside of what its instrument can give: at once. One such frame may be
  a glitch of the wire, for which the last good value stands in; the second is not;
- a whole frame that stands still though its sequence moves: at once, for noisy values never all repeat at once;
- one or some sensors that stand still: ``plausible.REPEATS`` (30) frames later. A reading that rests at the end of
  its range (a full battery's gauge) may rest there, so it does not count;
- a node temperature that jumps and stays: at once, when it jumps further than such a node can
  (``plausible.ROWS``); a smaller step is seen when it has stood still for ``REPEATS`` frames.

*The gauge alone.* A gauge that goes on, noise and all, and reads another charge is no fault of the power: the
charge filter refuses it and goes on counting coulombs. There the safe level is the governor's own, on the estimate:
the estimate stays within 3.5 σ of the truth, and the limits hold. Nothing more is asked.

*Limits*: in every case the true charge and temperatures stay within their limits through the minute.
"""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from core_flight import Flight, Worker, sensor_frame
from core_plant import KELVIN, Plant
from msgspec.structs import replace

from flightsw.core import eps, executive, housekeeping, plausible
from flightsw.core.job import JobConfig
from flightsw.core.lifecycle import Life
from flightsw.link.avionics import SensorFrame
from flightsw.link.schema import Mode
from hil.plant.sensors import SENSORS

CASES, SATELLITES, MINUTE_S = 1000, 12, 60.0
FRAME_S, LATER_S = 0.1, 5.0
SHOWN = 100
"""Frames in which noise is shown: here every one is looked at, and two of three turn."""
STALE_S = 2.0
NAN = float("nan")
ESSENTIAL = ("soc_fraction", "gpu_temp_degc", "radiator_temp_degc")
OTHERS = (
    "bus_voltage_v",
    "bus_current_a",
    "array_power_w",
    "battery_current_a",
    "sun_fraction",
    "gpu_rail_power_w",
)
ABSURD = {
    "soc_fraction": (-3.0, 1.2, 40.0),
    "gpu_temp_degc": (-273.0, 999.0),
    "radiator_temp_degc": (-200.0, 5000.0),
    "bus_voltage_v": (-10.0, 1e6),
    "bus_current_a": (-1e4, 1e5),
    "array_power_w": (-1e3, 1e6),
    "battery_current_a": (-1e4, 1e4),
    "sun_fraction": (-5.0, 70.0),
    "gpu_rail_power_w": (-1e3, 1e5),
}
"""Outside of what the instrument can give."""
LIES = {"gpu_temp_degc": (-20.0, 70.0), "radiator_temp_degc": (-40.0, 50.0)}
"""Within what the instrument can give, and wrong: the reading jumps there and stays."""
GAUGE = (0.3, 0.99)
"""Charge that a gauge tells which goes on and is wrong."""
REPEATS_S = plausible.REPEATS * FRAME_S
"""After this a reading has been the same ``REPEATS`` times."""
ROW_OF = {row.field: row for row in plausible.ROWS}
SENSOR_OF = {sensor.field: sensor for sensor in SENSORS}

Readings = dict[str, object]


@dataclass
class Fault:
    """What the sensors do from one frame on: None is silence, else changed readings; ``wait_s`` until
    detectable."""

    kind: str
    wait_s: float
    fields: tuple[str, ...] = ()
    readings: Readings = field(default_factory=dict)


def _some(draw: random.Random) -> tuple[str, ...]:
    """At least one essential reading, and whatever else fails with it."""
    essential = draw.sample(ESSENTIAL, draw.randint(1, 3))
    return (*essential, *draw.sample(OTHERS, draw.choice((0, 0, 1, 3, 6))))


def silent(draw: random.Random) -> Fault:
    return Fault("silent", STALE_S)


def repeated(draw: random.Random) -> Fault:
    return Fault("repeated", STALE_S)


def no_number(draw: random.Random) -> Fault:
    fields = _some(draw)
    return Fault("no number", 0.0, fields, dict.fromkeys(fields, NAN))


def absurd(draw: random.Random) -> Fault:
    fields = _some(draw)
    return Fault("absurd", 0.0, fields, {name: draw.choice(ABSURD[name]) for name in fields})


def still(draw: random.Random) -> Fault:
    return Fault("still", 0.0, plausible.FIELDS)


def frozen(draw: random.Random) -> Fault:
    return Fault("frozen", REPEATS_S - FRAME_S, _some(draw))


def jump(draw: random.Random) -> Fault:
    fields = draw.sample(tuple(LIES), draw.randint(1, 2))
    return Fault("jump", 0.0, tuple(fields), {name: round(draw.uniform(*LIES[name]), 1) for name in fields})


def gauge(draw: random.Random) -> Fault:
    return Fault("gauge", MINUTE_S, ("soc_fraction",), {"soc_fraction": draw.uniform(*GAUGE)})


KINDS: tuple[Callable[[random.Random], Fault], ...] = (
    silent,
    repeated,
    no_number,
    absurd,
    still,
    frozen,
    jump,
    gauge,
)


class Blinded(Flight):
    """A flight that can lose its sensors; copies go their own ways."""

    draw: random.Random = random.Random(0)
    lie_soc: float | None = None
    told: Readings | None = None

    def measured(self, sequence: int, changes: dict[str, object]) -> SensorFrame:
        """With the noise and the steps of the bus's sensors; what a fault changes comes after that."""
        frame = sensor_frame(sequence, self.plant, self.warp)
        readings: dict[str, object] = {}
        for name, sensor in SENSOR_OF.items():
            true = getattr(frame, name)
            if name == "soc_fraction" and self.lie_soc is not None:
                true = self.lie_soc
            value = round((true + self.draw.gauss(0.0, sensor.sigma)) / sensor.step) * sensor.step
            readings[name] = min(sensor.high, max(sensor.low, value))
        frame = replace(frame, **{**readings, **changes})
        self.told = {name: getattr(frame, name) for name in plausible.FIELDS}
        return frame

    def copied(self, seed: int = 0) -> "Blinded":
        twin = copy.copy(self)
        twin.draw = random.Random(seed)
        twin.plant = copy.copy(self.plant)
        twin.workers = {name: _twin(worker) for name, worker in self.workers.items()}
        twin.sensor_changes, twin.duty_trace, twin.effects = {}, [], []
        twin.frame_s, twin.warp = FRAME_S, 1.0
        # The world goes on at the machine's pace, and the vehicle knows: a rate that changes unannounced is a fault
        # of its own (test_core_correlation).
        clock, now_s = self.vehicle.correlation, self.now_s
        line = replace(
            clock.line, fit_s=now_s, tai_s=clock.line.tai_at(now_s), world_s=clock.line.world_at(now_s), warp=1.0
        )
        twin.vehicle = replace(self.vehicle, correlation=replace(clock, line=line))
        return twin

    @property
    def duty(self) -> float:
        """What the workers are given."""
        return sum(worker.duty for worker in self.workers.values()) if self.rail_on else 0.0


def _twin(worker: Worker) -> Worker:
    twin = copy.copy(worker)
    twin.commits_s, twin.requests = list(worker.commits_s), list(worker.requests)
    return twin


QUIET = housekeeping.Config(fast_interval_s=0.0, main_interval_s=0.0, slow_interval_s=0.0)
JOBS = (JobConfig(id="train", kind="train"), JobConfig(id="infer", kind="infer", share=0.5))


@pytest.fixture(scope="module")
def moments() -> list[Blinded]:
    """Satellites at work, each at moments all over its orbit: sun, eclipse, its end, near the limits."""
    draw = random.Random(3)
    found: list[Blinded] = []
    for _ in range(SATELLITES):
        plant = Plant(
            eclipse_s=draw.choice((0.0, 1500.0, 2160.0)),
            array_w=1200.0 * draw.uniform(0.85, 1.0),
            capacity_j=2.52e6 * draw.uniform(0.85, 1.0),
            emissivity=draw.uniform(0.80, 0.88),
            conductance_w_k=14.0 * draw.uniform(0.9, 1.1),
            phase_s=draw.uniform(0.0, 5700.0),
        )
        plant.energy_j = plant.capacity_j * draw.uniform(0.8, 1.0)
        entry_s = plant.orbit_s - plant.eclipse_s - plant.phase_s
        power = eps.Config(
            capacity_wh=plant.capacity_j / 3600.0, eclipse_s=plant.eclipse_s, eclipse_entry_s=entry_s
        )
        config = executive.Config(jobs=JOBS, eps=power, housekeeping=QUIET)
        flight = Blinded(config, plant=plant, frame_s=1.0, warp=20.0, keep_effects=False)
        for frame in range(300):
            flight.frame()
            if frame > 30 and flight.duty > 0.0 and draw.random() < 0.02:
                found.append(flight.copied(len(found)))
    with pytest.MonkeyPatch.context() as patch:
        # As many looks at noise in a quarter of the frames.
        patch.setattr(plausible, "TURN_EVERY", 1)
        for flight in found:
            for _ in range(SHOWN):
                flight.frame()
    found = [flight for flight in found if flight.duty > 0.0]
    assert len(found) > 50
    return found


def seen_after_s(fault: Fault, last: Readings) -> float:
    """Time from the fault to the last frame in which it cannot be told yet."""
    if fault.kind == "jump":
        # Beside the rate: a frame's worth of motion, and the noise of the reading before.
        far = [
            abs(float(value) - float(last[name])) > ROW_OF[name].slack + ROW_OF[name].rate_1_s * FRAME_S
            for name, value in fault.readings.items()
        ]
        return 0.0 if any(far) else REPEATS_S
    if fault.kind == "frozen":
        moving = [
            ROW_OF[name].rest_low < last[name] < ROW_OF[name].rest_high
            for name in ESSENTIAL
            if name in fault.fields
        ]
        return fault.wait_s if any(moving) else MINUTE_S
    return fault.wait_s


def endured(flight: Blinded, fault: Fault) -> str:
    """What goes wrong in the minute after the fault, or ""."""
    for _ in range(3):
        flight.frame()
    frame = flight.vehicle.sense.raw
    last = {name: getattr(frame, name) for name in plausible.FIELDS}
    begun_s, plant = flight.now_s, flight.plant
    flight.sensors_on = fault.kind not in ("silent", "repeated")
    flight.sensor_changes = {}
    if fault.kind == "gauge":
        flight.lie_soc = fault.readings["soc_fraction"]
    elif fault.kind in ("still", "frozen"):
        flight.sensor_changes = {name: last[name] for name in fault.fields}
    elif flight.sensors_on:
        flight.sensor_changes = dict(fault.readings)
    wait_s, detectable, told = seen_after_s(fault, last), 0, flight.told
    while flight.now_s < begun_s + MINUTE_S:
        # Once the answer has been seen, longer frames tell the same; what is frozen must be counted to the end.
        past_s = flight.now_s - begun_s
        watched_s = REPEATS_S if fault.kind == "jump" else 2.0 * STALE_S if fault.kind == "gauge" else wait_s
        flight.frame_s = FRAME_S if past_s < watched_s + 0.5 else LATER_S
        flight.frame()
        if fault.kind == "frozen" and flight.told == told:
            # By chance nothing moved at all: such a frame is not taken and does not count.
            wait_s += FRAME_S
        told = flight.told
        past_s = flight.now_s - begun_s
        detectable += past_s > wait_s + 1e-6
        if detectable >= 2 and flight.duty > 0.0:
            return f"duty {flight.duty:.2f} in frame {detectable} after the fault could be seen, at {past_s:.1f} s"
        soc, gpu = plant.energy_j / plant.capacity_j, plant.gpu_k - KELVIN
        if soc < 0.70 or gpu > 80.0 or plant.radiator_k - KELVIN > 60.0:
            return f"limit crossed: SoC {soc:.4f}, GPU {gpu:.2f} degC after {past_s:.1f} s"
        power = flight.vehicle.eps
        if fault.kind == "gauge" and not abs(power.soc_fraction - soc) <= 3.5 * power.soc_sigma:
            return f"charge {power.soc_fraction:.4f}, sigma {power.soc_sigma:.4f}, true {soc:.4f} at {past_s:.1f} s"
    return ""


def test_1000_random_cases(moments: list[Blinded]) -> None:
    draw = random.Random(4)
    wrong: list[str] = []
    kinds: dict[str, int] = {}
    for number in range(CASES):
        flight = draw.choice(moments).copied(number)
        fault = KINDS[number % len(KINDS)](draw)
        kinds[fault.kind] = kinds.get(fault.kind, 0) + 1
        if said := endured(flight, fault):
            wrong.append(f"case {number}, {fault.kind} {fault.fields}: {said}")
    assert min(kinds.values()) >= 125
    assert wrong == [], f"{len(wrong)} of {CASES}: {wrong[:5]}"


def test_the_check_has_been_seen_to_fail(moments: list[Blinded], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the answer to absurd readings the second frame is not idle."""
    monkeypatch.setattr(executive.load_protection.shedding, "doubted", lambda sensed: "")
    draw = random.Random(5)
    flight = next(f for f in moments if f.duty > 0.2)
    said = [endured(flight.copied(), absurd(draw)) for _ in range(10)]
    assert any(text.startswith("duty") for text in said)


@pytest.mark.parametrize("make", [silent, no_number, absurd])
def test_the_vehicle_works_again_when_the_sensors_are_back(
    moments: list[Blinded], make: Callable[[random.Random], Fault]
) -> None:
    draw = random.Random(6)
    flight = next(f for f in moments if f.duty > 0.3).copied()
    assert endured(flight, make(draw)) == ""
    assert flight.vehicle.mode.mode is Mode.SAFE
    flight.sensors_on, flight.sensor_changes, flight.frame_s = True, {}, 1.0
    flight.fly(120.0)
    assert flight.vehicle.payload.jobs[0].life is Life.RUNNING
    assert flight.duty > 0.0
