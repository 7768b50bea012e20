"""Sensing: staleness, impossible readings, the probe."""

import math

import pytest
from core_flight import sensor_frame
from core_plant import Plant

from flightsw.core import sense
from flightsw.core.inputs import GpuSample, Inputs

CONFIG = sense.Config(stale_after_s=2.0, gpu_stale_after_s=5.0, gpu_start_s=30.0)
NAN = float("nan")


class Run:
    """Steps of ``sense`` with the events they raised."""

    def __init__(self) -> None:
        self.state = sense.start(100.0)
        self.names: list[str] = []

    def at(self, now_s: float, **inputs: object) -> sense.State:
        self.state, found = sense.step(self.state, CONFIG, Inputs(**inputs), now_s)
        self.names += [event.name for event in found]
        return self.state


def frame(sequence: int, world_s: float = 0.0, **changes: object) -> object:
    return sensor_frame(sequence, Plant(time_s=world_s), **changes)


def test_stale_is_reported_once_and_recovers() -> None:
    run = Run()
    assert not run.at(100.0).fresh
    assert run.at(100.1, sensors=frame(1)).fresh
    assert run.at(102.1).fresh
    assert not run.at(102.2).fresh
    run.at(102.3)
    assert run.at(102.4, sensors=frame(2)).fresh
    assert run.names == ["SENSORS_STALE", "SENSORS_RECOVERED"]


def test_silence_from_boot_on_is_reported() -> None:
    run = Run()
    run.at(101.9)
    assert run.names == []
    run.at(102.1)
    assert run.names == ["SENSORS_STALE"]


@pytest.mark.parametrize(
    ("sequence", "stale", "taken"),
    [(8, False, True), (7, False, False), (6, False, False), (7, True, False), (1, True, True)],
)
def test_frozen_and_reordered_frames_are_no_news(sequence: int, stale: bool, taken: bool) -> None:
    run = Run()
    run.at(100.0, sensors=frame(7))
    later_s = 103.0 if stale else 100.1
    run.at(later_s)
    state = run.at(later_s + 0.1, sensors=frame(sequence, soc_fraction=0.5))
    assert state.raw is not None
    assert (state.raw.soc_fraction == 0.5) is taken
    assert state.fresh is (taken or not stale)


@pytest.mark.parametrize("name", sorted(sense.RANGES))
@pytest.mark.parametrize("impossible", [-1e12, 1e12, math.inf])
def test_impossible_reading_is_ignored_and_reported_once(name: str, impossible: float) -> None:
    run = Run()
    good = getattr(run.at(100.0, sensors=frame(1)).frame, name)
    for tick in range(1, 31):
        state = run.at(100.0 + tick * 0.1, sensors=frame(1 + tick, **{name: impossible}))
        held = getattr(state.frame, name)
        # The last good value stands for the staleness time, from the first bad reading on.
        assert held == good if tick <= 20 else math.isnan(held) or tick == 21
    assert run.names.count("SENSOR_INVALID") == 1
    assert run.state.fresh is (name not in sense.ESSENTIAL or tick < 20) or name in sense.ESSENTIAL
    run.at(103.1, sensors=frame(40))
    run.at(103.2, sensors=frame(41, **{name: impossible}))
    assert run.names.count("SENSOR_INVALID") == 2


@pytest.mark.parametrize("name", sense.ESSENTIAL)
def test_frames_without_an_essential_value_go_stale(name: str) -> None:
    run = Run()
    run.at(100.0, sensors=frame(1))
    for tick in range(1, 25):
        run.at(100.0 + tick * 0.1, sensors=frame(1 + tick, **{name: NAN}))
    assert not run.state.fresh
    assert run.names == ["SENSORS_STALE"]


def test_contact_is_the_carrier_lock_and_stands_while_stale() -> None:
    run = Run()
    assert not run.at(100.0).contact
    assert run.at(100.1, sensors=frame(1, radio_lock=True)).contact
    assert run.at(110.0).contact
    assert not run.at(110.1, sensors=frame(2)).contact


def test_probe_has_its_own_staleness() -> None:
    run = Run()
    sample = GpuSample(sequence=1, source="nvml", power_w=90.0, unsupported=("ecc", "energy"))
    run.at(100.0, gpu=sample)
    assert run.state.gpu_fresh
    run.at(105.1, gpu=sample)  # The same sequence number: a frozen probe.
    assert not run.state.gpu_fresh
    run.at(105.2, gpu=GpuSample(sequence=2, source="nvml", unsupported=("ecc", "energy")))
    assert run.state.gpu_fresh
    assert run.names == ["PROBE_UNSUPPORTED", "SENSORS_STALE", "PROBE_SILENT", "PROBE_RECOVERED"]


def test_probe_that_never_speaks_is_reported_after_its_start_time() -> None:
    run = Run()
    run.at(130.0)
    assert "PROBE_SILENT" not in run.names
    run.at(130.1)
    run.at(131.0)
    assert run.names.count("PROBE_SILENT") == 1
