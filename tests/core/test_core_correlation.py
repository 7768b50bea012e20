"""R23: time correlation: jumps, glitches, outages, warp, 2038 and beyond; no clock runs backwards unreported."""

import math
from itertools import pairwise

import msgspec
import pytest
from core_flight import TAI_AT_ZERO_S, Flight, sensor_frame
from core_plant import Plant
from hypothesis import given, settings
from hypothesis import strategies as st

from flightsw.core import correlation, executive
from flightsw.core.correlation import FREEWHEELING, SETTLING, SYNCHRONISED, UNSYNCHRONISED
from flightsw.core.effects import Telemetry
from flightsw.core.events import Event
from flightsw.link.codec import decode_telemetry

CONFIG = correlation.Config(
    tolerance_s=1.0,
    confirm_s=3.0,
    freewheel_after_s=2.0,
    resolution_s=0.1,
    drift_ppm=50.0,
    uncertainty_max_s=1.0,
)
BOOT_S = 100.0
TAI_2038_S = 2**31 + 378_691_200.0 + 37.0
"""TAI (since 1958) of the moment at which signed 32-bit Unix time ends: 2038-01-19T03:14:08 UTC."""


class Run:
    """Frames of 0.1 s in which the bus's clocks are right, plus what a test adds to them."""

    def __init__(
        self, tai_s: float = TAI_AT_ZERO_S, warp: float = 1.0, config: correlation.Config = CONFIG
    ) -> None:
        self.config, self.zero_s, self.warp = config, tai_s, warp
        self.state = correlation.start(BOOT_S)
        self.now_s = BOOT_S
        self.events: list[Event] = []
        self.quality_s: list[tuple[float, int]] = []

    def frame(self, tai_s: float = 0.0, world_s: float = 0.0, **changes: object) -> correlation.State:
        """One minor frame whose sensor frame is wrong by so much."""
        elapsed_s = (self.now_s + 0.1 - BOOT_S) * self.warp
        given = {"world_s": 5000.0 + elapsed_s + world_s, "tai_s": self.zero_s + elapsed_s + tai_s, **changes}
        return self._step(sensor_frame(1, Plant(), **{"warp": self.warp, **given}))

    def fly(self, seconds: float, **wrong: float) -> correlation.State:
        for _ in range(round(seconds / 0.1)):
            self.frame(**wrong)
        return self.state

    def silence(self, seconds: float) -> correlation.State:
        for _ in range(round(seconds / 0.1)):
            self._step(None)
        return self.state

    def _step(self, frame: object) -> correlation.State:
        before = self.state
        self.now_s = round(self.now_s + 0.1, 6)
        self.state, found = correlation.step(before, self.config, frame, self.now_s)
        self.events += found
        stepped = any(event.name == "TIME_STEPPED" for event in found)
        if before.line is not None and not stepped:
            assert self.state.tai_s >= before.tai_s
            assert self.state.world_s >= before.world_s
        assert self.state.steady_s >= before.steady_s or before.line is None
        assert self.state.mission_dt_s == pytest.approx(0.1 * before.warp)
        if self.state.quality != before.quality:
            self.quality_s.append((round(self.now_s - BOOT_S, 3), self.state.quality))
        return self.state

    @property
    def error_s(self) -> float:
        """TAI as correlated minus TAI as it is."""
        return self.state.tai_s - self.zero_s - (self.now_s - BOOT_S) * self.warp

    @property
    def steps(self) -> list[tuple[float, float]]:
        fields = [event.fields for event in self.events if event.name == "TIME_STEPPED"]
        return [(round(f["step_s"], 3), round(f["mission_step_s"], 3)) for f in fields]


def settled(**how: object) -> Run:
    run = Run(**how)
    run.fly(5.0)
    assert (run.state.quality, run.state.valid) == (SYNCHRONISED, True)
    return run


def test_r23_the_first_correlation_is_used_at_once_and_believed_when_confirmed() -> None:
    run = Run()
    dark = run.silence(1.0)
    assert (dark.quality, dark.valid, dark.world_s, dark.tai_s) == (
        UNSYNCHRONISED,
        False,
        *[pytest.approx(1.0)] * 2,
    )
    assert math.isnan(dark.uncertainty_s)
    first = run.frame()
    assert first.tai_s == pytest.approx(TAI_AT_ZERO_S + 1.1)
    assert first.world_s == pytest.approx(5001.1)
    assert (first.quality, first.valid) == (SETTLING, False)
    assert math.isnan(first.uncertainty_s)
    run.fly(5.0)
    assert run.quality_s == [(1.1, SETTLING), (4.1, SYNCHRONISED)]
    assert [event.name for event in run.events] == ["TIME_QUALITY"] * 2
    assert run.state.uncertainty_s == pytest.approx(0.1)


def test_r23_a_first_frame_that_was_wrong_is_replaced_by_what_is_consistent() -> None:
    run = Run()
    run.frame(tai_s=86_400.0)
    run.fly(2.9)
    assert run.error_s == pytest.approx(86_400.0)
    assert not run.state.valid
    run.fly(0.5)
    assert run.error_s == pytest.approx(0.0, abs=1e-6)
    assert run.state.valid
    assert run.steps == [(-86_400.0, 0.0)]


@pytest.mark.parametrize("jump_s", [1.001, 3600.0, -1.001, -3600.0, 1e9, -1e9])
def test_r23_a_jump_is_adopted_when_confirmed_and_reported(jump_s: float) -> None:
    run = settled()
    before_s = run.state.elapsed_world_s
    run.fly(2.9, tai_s=jump_s)
    assert run.error_s == pytest.approx(0.0, abs=1e-6), "the old correlation freewheels until then"
    assert run.state.rejected == 29
    assert run.state.valid
    run.fly(0.3, tai_s=jump_s)
    assert run.error_s == pytest.approx(jump_s, abs=1e-6)
    assert run.steps == [(jump_s, 0.0)]
    assert (run.state.quality, run.state.valid, run.state.steps) == (SYNCHRONISED, True, 1)
    run.fly(2.0, tai_s=jump_s)
    assert run.state.steps == 1
    assert run.state.elapsed_world_s - before_s == pytest.approx(5.2)


@pytest.mark.parametrize("jump_s", [500.0, -500.0])
def test_r23_mission_time_steps_too_and_steady_time_does_not(jump_s: float) -> None:
    run = settled()
    steady_s = run.state.steady_s
    run.fly(3.2, world_s=jump_s)
    assert run.steps == [(0.0, jump_s)]
    assert run.state.world_s == pytest.approx(5000.0 + 8.2 + jump_s)
    assert run.state.steady_s - steady_s == pytest.approx(3.2)


@pytest.mark.parametrize("glitch_s", [2.0, 1e6, -2.0, -1e6])
@pytest.mark.parametrize("count", [1, 2, 10, 29])
def test_r23_a_glitch_changes_nothing(glitch_s: float, count: int) -> None:
    run, twin = settled(), settled()
    run.fly(0.1 * count, tai_s=glitch_s)
    twin.fly(0.1 * count)
    assert run.error_s == pytest.approx(twin.error_s, abs=1e-6)
    run.fly(10.0)
    assert run.error_s == pytest.approx(0.0, abs=1e-6)
    assert (run.steps, run.state.quality, run.state.candidate) == ([], SYNCHRONISED, None)


def test_r23_glitches_that_disagree_with_each_other_are_never_adopted() -> None:
    run = settled()
    for number in range(600):
        run.frame(tai_s=10.0 + 5.0 * (number % 7))
    assert run.steps == []
    assert run.error_s == pytest.approx(0.0, abs=1e-6)
    assert (run.state.quality, run.state.rejected) == (FREEWHEELING, 600)


def test_r23_two_sources_that_take_turns_keep_the_correlation() -> None:
    run = settled()
    for number in range(600):
        run.frame(tai_s=100.0 * (number % 2))
    assert run.steps == []
    assert run.state.quality == SYNCHRONISED


def test_r23_a_few_frames_are_not_enough_however_long_they_take() -> None:
    run = settled(config=correlation.Config(confirm_s=0.0))
    run.fly(0.2, tai_s=50.0)
    assert run.steps == []
    run.frame(tai_s=50.0)
    assert run.steps == [(50.0, 0.0)]


def test_r23_agreement_counts_anew_after_a_gap() -> None:
    run = settled()
    run.fly(2.0, tai_s=50.0)
    run.silence(2.5)
    run.fly(2.9, tai_s=50.0)
    assert run.steps == []
    run.fly(0.2, tai_s=50.0)
    assert run.steps == [(50.0, 0.0)]


def test_r23_an_outage_freewheels_with_growing_uncertainty_until_it_is_too_large() -> None:
    run = settled()
    run.silence(2.0)
    assert run.state.quality == SYNCHRONISED
    run.silence(98.0)
    assert run.state.quality == FREEWHEELING
    assert run.state.uncertainty_s == pytest.approx(0.1 + 100.0 * 50e-6)
    assert run.error_s == pytest.approx(0.0, abs=1e-6)
    assert run.state.valid
    late_s = run.now_s + 0.9 / 50e-6
    late, _ = correlation.step(run.state, run.config, None, late_s)
    assert (late.quality, late.valid) == (FREEWHEELING, False)


@pytest.mark.parametrize(("drift_s", "steps"), [(1.04, []), (-1.04, []), (1.2, [1.2]), (-7.0, [-7.0])])
def test_r23_after_an_outage_what_drift_explains_fits_and_more_is_a_step(
    drift_s: float, steps: list[float]
) -> None:
    run = settled()
    run.silence(1000.0)
    run.fly(8.0, tai_s=drift_s)
    assert [step for step, _ in run.steps] == steps
    assert run.error_s == pytest.approx(drift_s, abs=1e-6)


def test_r23_a_small_step_back_is_waited_out() -> None:
    run = settled()
    shown_s = run.state.tai_s
    for _ in range(4):
        assert run.frame(tai_s=-0.5).tai_s == shown_s
    run.fly(0.3, tai_s=-0.5)
    assert run.state.tai_s > shown_s
    assert run.error_s == pytest.approx(-0.5, abs=1e-6)
    assert run.steps == []


@pytest.mark.parametrize("warp", [1.0, 48.0])
def test_r23_tolerances_scale_with_warp(warp: float) -> None:
    run = settled(warp=warp)
    assert run.state.uncertainty_s == pytest.approx(0.1 * warp)
    run.fly(5.0, tai_s=0.9 * warp, world_s=0.9 * warp)
    assert run.state.rejected == 0
    run.fly(1.0, tai_s=2.1 * warp)
    assert run.state.rejected == 10


def test_r23_a_warp_change_is_adopted_like_a_step_and_a_warp_glitch_is_not() -> None:
    run = settled()
    before_s = run.state.elapsed_world_s
    run.frame(warp=1e6)
    run.fly(1.0)
    assert (run.state.warp, run.steps) == (1.0, [])
    # From here on the world runs ten times as fast.
    run.zero_s -= 9.0 * (run.now_s - BOOT_S)
    run.warp = 10.0
    for _ in range(40):
        run.frame(world_s=-9.0 * 6.1)
    assert run.state.warp == 10.0
    assert len(run.steps) == 1
    assert run.error_s == pytest.approx(0.0, abs=1e-6)
    assert run.state.elapsed_world_s - before_s == pytest.approx(1.1 + 3.1 * 1.0 + 0.9 * 10.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(name, bad) for name in ("tai_s", "world_s") for bad in (math.nan, math.inf, -math.inf)],
        *[("warp", bad) for bad in (0.0, -1.0, math.nan, math.inf, 1.1e6)],
    ],
)
def test_r23_a_frame_without_a_usable_time_is_no_frame(field: str, value: float) -> None:
    run = Run()
    run.frame(**{field: value})
    assert (run.state.line, run.state.quality) == (None, UNSYNCHRONISED)
    known = settled()
    for _ in range(100):
        known.frame(**{field: value})
    assert (known.steps, known.state.candidate, known.state.quality) == ([], None, FREEWHEELING)


@pytest.mark.parametrize("tai_s", [TAI_2038_S - 2.0, 2.0**32 - 2.0, 4e9], ids=["2038", "end of CUC", "beyond 2038"])
def test_r23_nothing_happens_at_the_ends_of_32_bits(tai_s: float) -> None:
    run = settled(tai_s=tai_s)
    run.fly(3.0)
    run.silence(3.0)
    run.fly(3.0)
    assert (run.steps, run.state.rejected, run.state.quality) == ([], 0, SYNCHRONISED)
    assert run.error_s == pytest.approx(0.0, abs=1e-5)


def test_r23_stamps_between_frames_are_never_undercut() -> None:
    run = settled()
    shown = correlation.carried(run.state, run.now_s + 0.09)
    assert shown.tai_s == pytest.approx(run.state.tai_s + 0.09)
    run.state = shown
    assert run.frame(tai_s=-0.05).tai_s == shown.tai_s
    assert correlation.carried(run.state, run.now_s - 1.0) == run.state, "a machine time in the past moves nothing"
    early = correlation.carried(correlation.start(BOOT_S), BOOT_S + 2.0)
    assert (early.tai_s, early.world_s, early.quality) == (2.0, 2.0, UNSYNCHRONISED)


def test_r23_a_machine_clock_that_stands_still_or_steps_back_passes_no_mission_time() -> None:
    run = settled()
    again, _ = correlation.step(run.state, CONFIG, None, run.now_s)
    back, _ = correlation.step(run.state, CONFIG, None, run.now_s - 5.0)
    assert (again.mission_dt_s, back.mission_dt_s) == (0.0, 0.0)
    assert back.tai_s == run.state.tai_s


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("tolerance_s", 0.0), ("tolerance_s", 61.0), ("confirm_s", -1.0), ("confirm_s", 3601.0),
        ("freewheel_after_s", 0.1), ("freewheel_after_s", 601.0), ("resolution_s", -0.1), ("resolution_s", 10.1),
        ("drift_ppm", -1.0), ("drift_ppm", 10_001.0), ("uncertainty_max_s", 0.0), ("uncertainty_max_s", 3601.0),
        ("no_such_key", 1.0), ("tolerance_s", "long"),
    ],
)  # fmt: skip
def test_r23_configuration_out_of_range_is_refused(field: str, bad: object) -> None:
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert({field: bad}, correlation.Config)


def test_r23_a_time_that_could_never_be_valid_is_refused() -> None:
    with pytest.raises(ValueError, match="never be valid"):
        correlation.Config(resolution_s=2.0, uncertainty_max_s=1.0)


# One minor frame: machine time since the last one; then silence, a right frame or one that is wrong by so much.
WRONG_S = st.sampled_from([0.0, 0.4, -0.4, 7.0, -7.0, 1e4, -1e4]) | st.floats(-1e9, 1e9)
FRAMES = st.lists(
    st.tuples(
        st.floats(0.0, 3.0),
        st.none() | st.tuples(WRONG_S, WRONG_S, st.sampled_from([1.0, 1.0, 1.0, 10.0])),
        st.integers(1, 12),
        st.booleans(),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(FRAMES)
def test_r23_property_time_runs_backwards_by_reported_steps_only(frames: list) -> None:
    """Correlated TAI never decreases except by an adopted step that was reported; mission time elapsed is never
    negative and sums to machine time × warp, whatever the frames say."""
    state, now_s, total_s = correlation.start(BOOT_S), BOOT_S, 0.0
    for dt_s, wrong, count, stamped in frames:
        for _ in range(count):
            before = state
            if stamped:
                state = correlation.carried(state, now_s + 0.5 * dt_s)
                assert state.tai_s >= before.tai_s
            shown_s, warp = state.tai_s, state.warp
            now_s += dt_s
            frame = None
            if wrong is not None:
                times = {"tai_s": 2e9 + now_s + wrong[0], "world_s": now_s + wrong[1], "warp": wrong[2]}
                frame = sensor_frame(1, Plant(), **times)
            state, found = correlation.step(state, CONFIG, frame, now_s)
            steps = [event.fields["step_s"] for event in found if event.name == "TIME_STEPPED"]
            if before.line is not None:
                expected_s = shown_s if not steps else shown_s + steps[0]
                assert state.tai_s >= expected_s - 1e-3 * max(1.0, warp)
                assert steps or state.tai_s >= shown_s
                assert state.steady_s >= before.steady_s - 1e-3
            total_s += dt_s * warp
            assert state.mission_dt_s >= 0.0
            assert state.mission_dt_s == pytest.approx(dt_s * warp, abs=1e-9)
    assert state.elapsed_world_s == pytest.approx(total_s, rel=1e-9, abs=1e-6)


def _packets(flight: Flight) -> list[object]:
    return [decode_telemetry(effect.packet) for effect in flight.effects if isinstance(effect, Telemetry)]


def test_r23_packets_are_stamped_with_time_and_quality_of_the_correlation() -> None:
    flight = Flight(executive.Config())
    flight.fly(6.0)
    qualities = [packet.packet.time_quality for packet in _packets(flight)]
    assert sorted(set(qualities)) == [UNSYNCHRONISED, SYNCHRONISED, SETTLING]
    last = _packets(flight)[-1]
    assert last.packet.tai_s == pytest.approx(TAI_AT_ZERO_S + flight.plant.time_s, abs=1e-3)
    assert last.body.t == pytest.approx(flight.plant.time_s)


def test_r23_a_backwards_step_disturbs_neither_orbit_forecast_nor_checkpoint_interval() -> None:
    """The bus's clocks step back a day: packets follow, what keeps instants of mission time does not notice."""
    flight = Flight(executive.Config(), frame_s=1.0)
    flight.fly(3990.0)
    flight.frame_s = 0.1
    flight.fly(10.0)
    vehicle = flight.vehicle
    remaining_s, orbit = vehicle.eps.arc_remaining_s, vehicle.eps.entry_s
    true_s = flight.plant.time_s
    for _ in range(40):
        elapsed_s = flight.plant.time_s - true_s + flight.frame_s
        flight.sensor_changes = {
            "world_s": true_s + elapsed_s - 86_400.0,
            "tai_s": TAI_AT_ZERO_S + true_s + elapsed_s - 86_400.0,
        }
        flight.frame()
    vehicle = flight.vehicle
    assert vehicle.correlation.world_s == pytest.approx(true_s + 4.0 - 86_400.0)
    assert (vehicle.eps.entry_s, vehicle.eps.arc_remaining_s) == (orbit, pytest.approx(remaining_s - 4.0, abs=0.2))
    stamps = [packet.packet.tai_s for packet in _packets(flight)]
    backwards = [after - before for before, after in pairwise(stamps) if after < before]
    assert backwards == [pytest.approx(-86_400.0, abs=1.0)]
    assert [fields["step_s"] for _, _, fields in flight.events("TIME_STEPPED")] == [
        pytest.approx(-86_400.0, abs=1.0)
    ]
