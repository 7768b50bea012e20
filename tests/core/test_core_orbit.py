"""Orbits in virtual time: limits hold, eclipse throttles, warp and frame rate do not change the mission.

The plant is the one of section 6.3 of the power-thermal-orbit reference, flown by the whole executive through its
packets and effects. Bounds on the differences between frame rates and warps are stated where they are tested.
"""

import time
from dataclasses import replace

import pytest
from core_flight import Flight
from core_plant import KELVIN, Plant

from flightsw.core import checkpoint, eps, executive, housekeeping, thermal
from flightsw.core.inputs import Inputs
from flightsw.core.job import JobConfig
from flightsw.link.schema import Mode

JOBS = (JobConfig(id="train", kind="train"), JobConfig(id="infer", kind="infer", share=0.5))
ORBIT_S = 5700.0
FLOOR = 0.70
LIMIT_DEGC = 80.0


def config(entry_s: float = 3600.0, **sections: object) -> executive.Config:
    return executive.Config(
        **{
            "jobs": JOBS,
            "eps": eps.Config(eclipse_entry_s=entry_s),
            "checkpoint": checkpoint.Config(interval_world_s=900.0),
            **sections,
        }
    )


SILENT = {"housekeeping": housekeeping.Config(fast_interval_s=0.0, main_interval_s=0.0, slow_interval_s=0.0)}
"""Sections without periodic telemetry, for runs that watch the vehicle directly."""


@pytest.fixture(scope="module")
def orbit_10hz() -> Flight:
    """One full orbit at 10 Hz with all telemetry, flown once for all tests that look at it."""
    return fly(frame_s=0.1)


@pytest.fixture(scope="module")
def orbit_1hz() -> Flight:
    """The same at 1 Hz: what other rates and warps are held against."""
    return fly(frame_s=1.0)


def fly(
    orbits: float = 1.0, frame_s: float = 1.0, warp: float = 1.0, start: Plant | None = None, **how: object
) -> Flight:
    flight = Flight(
        how.pop("config", config()), start or Plant(), frame_s=frame_s, warp=warp, keep_effects=False, **how
    )
    flight.fly(orbits * ORBIT_S)
    return flight


def mean_duty(flight: Flight, sun: float, from_s: float = 0.0) -> float:
    duties = [duty for time_s, lit, duty in flight.duty_trace if lit == sun and time_s >= from_s]
    return sum(duties) / len(duties)


def test_one_orbit_keeps_every_limit_and_throttles_in_eclipse(orbit_10hz: Flight) -> None:
    flight = orbit_10hz
    assert flight.vehicle.frame_count == pytest.approx(57_000, abs=1)
    assert FLOOR < flight.soc_min < 0.73
    assert flight.gpu_max_degc < LIMIT_DEGC
    sunlit, dark = mean_duty(flight, 1.0), mean_duty(flight, 0.0)
    assert sunlit > 0.7
    assert 0.2 < dark < 0.6 * sunlit
    assert flight.vehicle.checkpoint.rings[0].committed == pytest.approx(7, abs=1)


@pytest.mark.parametrize(
    ("name", "start", "belief"),
    [
        ("cold, full", Plant(), {}),
        ("battery just over the floor", Plant(energy_j=0.72 * 2.52e6), {}),
        ("battery low at eclipse entry", Plant(energy_j=0.84 * 2.52e6, phase_s=3550.0), {"eclipse_entry_s": 50.0}),
        ("hot", Plant(gpu_k=KELVIN + 76.0, radiator_k=KELVIN + 45.0), {}),
        ("no forecast, boot in the dark", Plant(phase_s=4500.0), {"eclipse_entry_s": None}),
        ("forecast wrong by ten minutes", Plant(), {"eclipse_entry_s": 4200.0}),
        ("eclipse longer than forecast", Plant(), {"eclipse_entry_s": 3600.0, "eclipse_s": 2000.0}),
        ("array a third weaker than believed", Plant(array_w=800.0), {"eclipse_entry_s": 3600.0}),
        ("array too weak for idle and recharge", Plant(array_w=500.0), {"eclipse_entry_s": 3600.0}),
        ("capacity fifteen per cent down", Plant(capacity_j=2.14e6, energy_j=2.1e6), {"eclipse_entry_s": 3600.0}),
        ("radiator degraded", Plant(emissivity=0.65), {"eclipse_entry_s": 3600.0}),
    ],
)
def test_limits_hold_when_the_world_is_not_as_believed(name: str, start: Plant, belief: dict[str, object]) -> None:
    capacity = {"capacity_wh": 595.0} if start.capacity_j < 2.5e6 else {}
    believed = {"eclipse_entry_s": 3600.0, **belief, **capacity}
    # A copy: the table's plants belong to the table.
    flight = fly(2.0, frame_s=2.0, start=replace(start), config=config(eps=eps.Config(**believed), **SILENT))
    assert flight.soc_min > FLOOR, name
    assert flight.gpu_max_degc < LIMIT_DEGC, name
    assert flight.work_s > 0.1 * 2 * ORBIT_S, name


def test_a_weak_battery_ends_in_safe_with_the_rail_shed_and_recovers() -> None:
    """Idle alone overdraws this eclipse: the last line of defence is the rail, not the governor."""
    start = Plant(energy_j=0.74 * 2.52e6, phase_s=3600.0)
    flight = Flight(config(entry_s=0.0, **SILENT), start, frame_s=1.0)
    flight.fly(1.2 * ORBIT_S)
    assert flight.events("SOC_LOW")
    assert [fields["state"] for _, _, fields in flight.events("RAIL_SWITCHED")] == ["OFF", "ON"]
    # What the shed vehicle itself draws until sunrise is physics; it is bounded by the bus load.
    assert flight.soc_min > 0.705 - 60.0 * 2100.0 / 0.95 / 2.52e6
    assert flight.vehicle.mode.mode in (Mode.COMPUTE, Mode.DOWNLINK)


def test_one_and_ten_hertz_agree(orbit_1hz: Flight, orbit_10hz: Flight) -> None:
    """Bounds: work 1 %, lowest charge 0.002, highest temperature 0.5 K, commits ±1."""
    slow, fast = orbit_1hz, orbit_10hz
    assert slow.work_s == pytest.approx(fast.work_s, rel=0.01)
    assert slow.soc_min == pytest.approx(fast.soc_min, abs=0.002)
    assert slow.gpu_max_degc == pytest.approx(fast.gpu_max_degc, abs=0.5)
    committed = [f.vehicle.checkpoint.rings[0].committed for f in (slow, fast)]
    assert abs(committed[0] - committed[1]) <= 1


@pytest.mark.parametrize("warp", [10.0, 50.0])
def test_warp_scales_the_world_and_not_the_decisions(orbit_1hz: Flight, warp: float) -> None:
    """Same frames per machine second, the world runs faster. Bounds: work 3 %, charge 0.006, temperature 1 K.

    What warp may change is start-up (a worker takes a machine second to be ready) and what a frame cannot resolve.
    """
    flown, true = fly(frame_s=0.1, warp=warp), orbit_1hz
    assert flown.work_s == pytest.approx(true.work_s, rel=0.03)
    assert flown.soc_min == pytest.approx(true.soc_min, abs=0.006)
    assert flown.soc_min > FLOOR
    assert flown.gpu_max_degc == pytest.approx(true.gpu_max_degc, abs=1.0)
    assert flown.gpu_max_degc < LIMIT_DEGC
    committed = [f.vehicle.checkpoint.rings[0].committed for f in (flown, true)]
    assert abs(committed[0] - committed[1]) <= 3


def test_same_inputs_same_effects_bit_for_bit() -> None:
    digests = {fly(0.2).digest.hexdigest() for _ in range(2)}
    assert len(digests) == 1
    other = fly(0.2, start=Plant(energy_j=2.4e6)).digest.hexdigest()
    assert other not in digests


def test_a_vehicle_is_a_value() -> None:
    """Stepping does not change what it stepped from: the same vehicle gives the same future twice."""
    flight = fly(0.02, frame_s=0.5)
    before = flight.vehicle
    first = executive.step(before, flight.config, Inputs(), flight.now_s + 0.1)
    executive.accept(before, flight.config, b"x", flight.now_s + 0.1)
    second = executive.step(before, flight.config, Inputs(), flight.now_s + 0.1)
    assert first == second


def test_an_orbit_at_ten_hertz_costs_little() -> None:
    """A generous ceiling against regressions; the measured figure stands in the benchmark table."""
    flight = Flight(config(), keep_effects=False)
    flight.fly(30.0)
    start_s = time.process_time()
    flight.fly(120.0)
    per_frame_s = (time.process_time() - start_s) / 1200
    assert per_frame_s < 2e-3


def test_no_housekeeping_no_link_same_mission() -> None:
    """Telemetry is an observer: switching it off changes no decision."""
    watched, unwatched = fly(0.1), fly(0.1, config=config(**SILENT))
    assert watched.duty_trace == unwatched.duty_trace


def test_hotter_limit_is_used_when_allowed() -> None:
    hot = fly(0.6, frame_s=2.0, config=config(**SILENT, thermal=thermal.Config(gpu_limit_degc=70.0)))
    assert 66.0 < hot.gpu_max_degc < 70.0
