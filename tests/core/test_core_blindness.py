"""A minute without telemetry, with frozen or with absurd sensors, in 1,000 random moments: power is safe in two
frames.

*Safe level*: no worker is given duty; the card idles, or its rail is off.

*Detectable.* A fault counts from the first frame in which the readings contradict what readings can be, and the
power must be safe in the second such frame at the latest, and stay so to the end of the minute:

- a silent bus, and frames whose sequence stands still: silence of ``sense.stale_after_s`` (2 s); a bus that misses
a
  few frames is no fault, so the clock of "two frames" begins when it has been silent for longer;
- an essential reading that is no number, or outside of what its instrument can give: at once. One such frame may be
  a glitch of the wire, for which the last good value stands in; the second is not;
- frames that go on with values that do not change any more, and jumps within the physical range: when the
estimation
  says so (``RECOGNISED``). Ten noisy readings that are all the same twice in a row are frozen; two frames are
  enough.

*Limits*: the true charge and temperatures stay within their limits through the minute; under frozen sensors too,
even while nobody recognises them. Of a lie within the physical range that cannot be asked before it is recognised.
"""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from core_flight import Flight, Worker
from core_plant import KELVIN, Plant

from flightsw.core import eps, executive, housekeeping
from flightsw.core.job import JobConfig
from flightsw.core.lifecycle import Life
from flightsw.link.schema import Mode

CASES, SATELLITES, MINUTE_S = 1000, 12, 60.0
FRAME_S, LATER_S = 0.1, 5.0
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
LIES = {"soc_fraction": (0.3, 0.99), "gpu_temp_degc": (-20.0, 70.0), "radiator_temp_degc": (-40.0, 50.0)}
"""Within what the instrument can give, and wrong: the reading jumps there and stays."""
RECOGNISED: frozenset[str] = frozenset({"frozen", "lie"})
"""Of "frozen" and "lie": what the core recognises within two frames, by their kind."""

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


def frozen(draw: random.Random) -> Fault:
    fields = draw.choice(((*ESSENTIAL, *OTHERS), _some(draw)))
    return Fault("frozen", 0.0, fields)


def lie(draw: random.Random) -> Fault:
    fields = draw.sample(ESSENTIAL, draw.randint(1, 3))
    return Fault("lie", 0.0, tuple(fields), {name: draw.uniform(*LIES[name]) for name in fields})


KINDS: tuple[Callable[[random.Random], Fault], ...] = (silent, repeated, no_number, absurd, frozen, lie)


class Blinded(Flight):
    """A flight that can lose its sensors; copies go their own ways."""

    last: object = None
    repeat = False

    def copied(self) -> "Blinded":
        twin = copy.copy(self)
        twin.plant = copy.copy(self.plant)
        twin.workers = {name: _twin(worker) for name, worker in self.workers.items()}
        twin.sensor_changes, twin.duty_trace, twin.effects = {}, [], []
        twin.frame_s, twin.warp = FRAME_S, 1.0
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
            if frame > 30 and flight.duty > 0.0 and draw.random() < 0.25:
                found.append(flight.copied())
    assert len(found) > 500
    return found


def sensed(flight: Blinded, fault: Fault, last: Readings) -> None:
    """Set what the sensors tell in the next frame."""
    flight.sensors_on = fault.kind not in ("silent", "repeated")
    if fault.kind == "frozen":
        flight.sensor_changes = {name: last[name] for name in fault.fields}
    elif flight.sensors_on:
        flight.sensor_changes = dict(fault.readings)


def endured(flight: Blinded, fault: Fault, draw: random.Random) -> str:
    """What goes wrong in the minute after the fault, or ""."""
    for _ in range(3):
        flight.frame()
    frame = flight.vehicle.sense.frame
    last = {name: getattr(frame, name) for name in (*ESSENTIAL, *OTHERS)}
    begun_s, plant = flight.now_s, flight.plant
    known = fault.kind not in ("frozen", "lie") or fault.kind in RECOGNISED
    detectable = 0
    while flight.now_s < begun_s + MINUTE_S:
        # Once the answer has been seen, longer frames tell the same.
        past_s = flight.now_s - begun_s
        flight.frame_s = FRAME_S if past_s < fault.wait_s + 0.5 else LATER_S
        sensed(flight, fault, last)
        flight.frame()
        past_s = flight.now_s - begun_s
        detectable += past_s > fault.wait_s + 1e-6
        if known and detectable >= 2 and flight.duty > 0.0:
            return f"duty {flight.duty:.2f} in frame {detectable} after the fault could be seen, at {past_s:.1f} s"
        soc, gpu = plant.energy_j / plant.capacity_j, plant.gpu_k - KELVIN
        crossed = soc < 0.70 or gpu > 80.0 or plant.radiator_k - KELVIN > 60.0
        if crossed and (known or fault.kind != "lie"):
            return f"limit crossed: SoC {soc:.4f}, GPU {gpu:.2f} degC after {past_s:.1f} s"
    return ""


def test_1000_random_cases(moments: list[Blinded]) -> None:
    draw = random.Random(4)
    wrong: list[str] = []
    kinds: dict[str, int] = {}
    for number in range(CASES):
        flight = draw.choice(moments).copied()
        fault = KINDS[number % len(KINDS)](draw)
        kinds[fault.kind] = kinds.get(fault.kind, 0) + 1
        if said := endured(flight, fault, draw):
            wrong.append(f"case {number}, {fault.kind} {fault.fields}: {said}")
    assert min(kinds.values()) > 150
    assert wrong == [], f"{len(wrong)} of {CASES}: {wrong[:5]}"


def test_the_check_has_been_seen_to_fail(moments: list[Blinded], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the answer to absurd readings the second frame is not idle."""
    monkeypatch.setattr(executive.load_protection.shedding, "doubted", lambda sensed: "")
    draw = random.Random(5)
    flight = next(f for f in moments if f.duty > 0.2)
    said = [endured(flight.copied(), absurd(draw), draw) for _ in range(10)]
    assert any(text.startswith("duty") for text in said)


@pytest.mark.parametrize("make", [silent, no_number, absurd])
def test_the_vehicle_works_again_when_the_sensors_are_back(
    moments: list[Blinded], make: Callable[[random.Random], Fault]
) -> None:
    draw = random.Random(6)
    flight = next(f for f in moments if f.duty > 0.3).copied()
    assert endured(flight, make(draw), draw) == ""
    assert flight.vehicle.mode.mode is Mode.SAFE
    flight.sensors_on, flight.sensor_changes, flight.frame_s = True, {}, 1.0
    flight.fly(120.0)
    assert flight.vehicle.payload.jobs[0].life is Life.RUNNING
    assert flight.duty > 0.0
