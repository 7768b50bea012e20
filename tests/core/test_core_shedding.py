"""The ladder of load shedding: each cause alone, several at once, every exit with its hysteresis and dwell."""

import math

import pytest
from core_flight import Flight, sensor_frame, telecommand
from core_plant import KELVIN, Plant
from msgspec.structs import replace

from flightsw.core import eps, executive, getters, governor, plausible, sense, shedding, thermal
from flightsw.core.effects import Actuate, KillWorker, SaveCheckpoint, SetPace, StopWorker
from flightsw.core.inputs import Inputs
from flightsw.core.job import JobConfig
from flightsw.core.lifecycle import Life
from flightsw.core.shed_table import RUNGS, Cause, Config, Rung
from flightsw.core.shedding import ASIDE, Scene, State
from flightsw.link.schema import Mode

CONFIG = Config()
POWER, HEAT, CARD = eps.Config(), thermal.Config(), governor.Config()
NAN = math.nan
SCENE = Scene(
    soc=0.9,
    gpu_degc=77.0,
    radiator_degc=56.0,
    soc_target=0.713,
    gpu_target_degc=78.0,
    eclipse_s=2100.0,
    news=True,
    rail_on=True,
)
GOOD: dict[str, object] = {
    "soc_fraction": 0.9,
    "bus_voltage_v": 29.0,
    "gpu_temp_degc": 77.0,
    "radiator_temp_degc": 56.0,
}
"""Temperatures so near the rungs that no step to one of them is a jump that nobody believes."""
ROOM_SOC = 0.713 - POWER.soc_safe


def soc(depth: float) -> float:
    return 0.713 - depth * ROOM_SOC


class Stand:
    """The ladder alone, fed with frames at 10 Hz of the machine's clock."""

    def __init__(self, config: Config = CONFIG) -> None:
        self.config, self.state, self.now_s, self.sequence = config, ASIDE, 0.0, 0
        self.sensed, self.texts = sense.start(0.0), []
        self.scene = SCENE
        self.feed(0.5)

    def feed(self, seconds: float = 0.1, *, silent: bool = False, **changes: object) -> State:
        for _ in range(max(1, round(seconds / 0.1))):
            self.now_s += 0.1
            self.sequence += 1
            frame = None if silent else sensor_frame(self.sequence, Plant(), **{**GOOD, **changes})
            self.sensed, _ = sense.step(self.sensed, sense.Config(), Inputs(sensors=frame), self.now_s)
            # The charge that limits are held against: an impossible reading does not touch the estimate.
            charge = changes.get("soc_fraction", 0.9)
            scene = replace(
                self.scene,
                soc=0.9 if charge > 1.0 else charge,
                gpu_degc=self._believed("gpu_temp_degc"),
                radiator_degc=self._believed("radiator_temp_degc"),
                news=frame is not None,
            )
            self.state, found = shedding.step(
                self.state, self.config, POWER, HEAT, CARD, self.sensed, scene, self.now_s
            )
            self.texts += [event.fields["cause"] for event in found]
        return self.state

    def _believed(self, name: str) -> float:
        """A node's estimate: what is believed of its sensor, without noise here."""
        value = getattr(self.sensed.frame, name)
        return value if value == value else GOOD[name]


@pytest.mark.parametrize(
    ("changes", "seconds", "rung", "cause"),
    [
        ({}, 3.0, Rung.NOMINAL, Cause.NONE),
        ({"soc_fraction": soc(0.45)}, 3.0, Rung.NOMINAL, Cause.NONE),
        ({"soc_fraction": soc(0.55)}, 0.9, Rung.NOMINAL, Cause.NONE),
        ({"soc_fraction": soc(0.55)}, 1.2, Rung.DERATE, Cause.SOC),
        ({"soc_fraction": soc(0.65)}, 1.2, Rung.ECLIPSE_BUDGET, Cause.SOC),
        ({"soc_fraction": soc(0.80)}, 1.2, Rung.SHED, Cause.SOC),
        ({"soc_fraction": soc(0.90)}, 1.2, Rung.GPU_OFF, Cause.SOC),
        ({"soc_fraction": 0.5}, 1.2, Rung.GPU_OFF, Cause.SOC),
        ({"gpu_temp_degc": 79.1}, 1.2, Rung.DERATE, Cause.GPU_TEMP),
        ({"gpu_temp_degc": 79.3}, 1.2, Rung.ECLIPSE_BUDGET, Cause.GPU_TEMP),
        ({"gpu_temp_degc": 79.6}, 1.2, Rung.SHED, Cause.GPU_TEMP),
        ({"gpu_temp_degc": 79.9}, 1.2, Rung.GPU_OFF, Cause.GPU_TEMP),
        ({"radiator_temp_degc": 57.6}, 1.2, Rung.DERATE, Cause.RADIATOR_TEMP),
        ({"radiator_temp_degc": 59.5}, 1.2, Rung.GPU_OFF, Cause.RADIATOR_TEMP),
        # The voltage alone, whatever the charge is believed to be.
        ({"bus_voltage_v": 26.4}, 0.3, Rung.DERATE, Cause.BUS),
        ({"bus_voltage_v": 26.0}, 0.3, Rung.ECLIPSE_BUDGET, Cause.BUS),
        ({"bus_voltage_v": 25.6}, 0.3, Rung.SHED, Cause.BUS),
        ({"bus_voltage_v": 25.1}, 0.1, Rung.SHED, Cause.BUS),
        ({"bus_voltage_v": 25.1}, 0.2, Rung.SHED, Cause.BUS),
        ({"bus_voltage_v": 25.1}, 0.3, Rung.GPU_OFF, Cause.BUS),
        # Several at once: the deepest wins.
        ({"soc_fraction": soc(0.55), "bus_voltage_v": 25.6}, 1.2, Rung.SHED, Cause.BUS),
        ({"soc_fraction": soc(0.80), "bus_voltage_v": 26.4}, 1.2, Rung.SHED, Cause.SOC),
        ({"gpu_temp_degc": 79.9, "soc_fraction": soc(0.65)}, 1.2, Rung.GPU_OFF, Cause.GPU_TEMP),
        # What is no number enters nothing.
        ({"bus_voltage_v": NAN}, 1.2, Rung.NOMINAL, Cause.NONE),
        # Outside the physical range: the second frame sheds.
        ({"soc_fraction": 7.0}, 0.1, Rung.NOMINAL, Cause.NONE),
        ({"soc_fraction": 7.0}, 0.2, Rung.SHED, Cause.DOUBT),
        ({"gpu_temp_degc": -273.0}, 0.2, Rung.SHED, Cause.DOUBT),
        ({"bus_voltage_v": 900.0}, 0.2, Rung.NOMINAL, Cause.NONE),
        # Missing, or a jump that no such node makes: likewise.
        ({"soc_fraction": NAN}, 0.1, Rung.NOMINAL, Cause.NONE),
        ({"soc_fraction": NAN}, 0.2, Rung.SHED, Cause.DOUBT),
        ({"soc_fraction": NAN}, 2.2, Rung.SHED, Cause.STALE),
        ({"gpu_temp_degc": 60.0}, 0.1, Rung.NOMINAL, Cause.NONE),
        ({"gpu_temp_degc": 60.0}, 0.2, Rung.SHED, Cause.DOUBT),
        ({"radiator_temp_degc": 40.0}, 0.2, Rung.SHED, Cause.DOUBT),
        ({"radiator_temp_degc": 40.0}, 59.0, Rung.SHED, Cause.DOUBT),
        ({"radiator_temp_degc": 40.0}, 61.0, Rung.GPU_OFF, Cause.DOUBT),
        ({"silent": True}, 1.9, Rung.NOMINAL, Cause.NONE),
        ({"silent": True}, 2.2, Rung.SHED, Cause.STALE),
        ({"silent": True}, 61.0, Rung.SHED, Cause.STALE),
        ({"silent": True}, 63.0, Rung.GPU_OFF, Cause.STALE),
        # The power board has dropped the rail by itself.
        ({"gpu_rail_on": False}, 0.4, Rung.NOMINAL, Cause.NONE),
        ({"gpu_rail_on": False}, 0.5, Rung.GPU_OFF, Cause.BOARD),
    ],
)
def test_each_cause_alone_and_the_deepest_of_several(
    changes: dict[str, object], seconds: float, rung: Rung, cause: Cause
) -> None:
    stand = Stand()
    state = stand.feed(seconds, **changes)
    assert (state.rung, state.cause) == (rung, cause)
    assert bool(stand.texts) is (rung is not Rung.NOMINAL)


@pytest.mark.parametrize(
    ("rung", "ceiling", "rail_off"),
    [
        (Rung.NOMINAL, 1.0, False),
        (Rung.DERATE, 0.5, False),
        (Rung.ECLIPSE_BUDGET, 0.5, False),
        (Rung.SHED, 0.0, False),
        (Rung.GPU_OFF, 0.0, True),
    ],
)
def test_what_a_rung_takes(rung: Rung, ceiling: float, rail_off: bool) -> None:
    """The voltage alone; the charge of 0.9 would carry 0.1·… through the eclipse, less than DERATE's ceiling."""
    volts = {Rung.NOMINAL: 29.0, Rung.DERATE: 26.4, Rung.ECLIPSE_BUDGET: 26.0, Rung.SHED: 25.6, Rung.GPU_OFF: 25.0}
    state = Stand().feed(0.5, bus_voltage_v=volts[rung])
    assert state.rung is rung
    assert state.rail_off is state.cut is rail_off
    carried_w = (0.9 - 0.713) * 2.52e6 * 0.95 / 2100.0 - 60.0
    expected = min(ceiling, (carried_w - 80.0) / 620.0) if rung is Rung.ECLIPSE_BUDGET else ceiling
    assert state.ceiling == pytest.approx(expected)
    assert RUNGS[rung].rung is rung


@pytest.mark.parametrize(
    ("soc_fraction", "eclipse_s", "ceiling"),
    [(0.72, 2100.0, 0.0), (0.9, 0.0, 0.5), (1.0, 2100.0, (0.287 * 2.52e6 * 0.95 / 2100.0 - 140.0) / 620.0)],
)
def test_budget_of_an_eclipse(soc_fraction: float, eclipse_s: float, ceiling: float) -> None:
    stand = Stand()
    stand.scene = replace(SCENE, eclipse_s=eclipse_s)
    state = stand.feed(0.5, bus_voltage_v=26.0, soc_fraction=soc_fraction)
    assert state.rung is Rung.ECLIPSE_BUDGET
    assert state.ceiling == pytest.approx(ceiling)


def rungs_of(stand: Stand, seconds: float, **changes: object) -> list[tuple[Rung, float]]:
    """Rungs as they are taken, each with the time since the start of this feed."""
    begun_s, seen = stand.now_s, [(stand.state.rung, 0.0)]
    while stand.now_s < begun_s + seconds:
        if stand.feed(0.1, **changes).rung is not seen[-1][0]:
            seen.append((stand.state.rung, round(stand.now_s - begun_s, 1)))
    return seen


def test_rungs_are_left_one_at_a_time_each_after_its_own_dwell() -> None:
    config = Config(derate_dwell_s=3.0, budget_dwell_s=4.0, shed_dwell_s=5.0, off_dwell_s=6.0)
    stand = Stand(config)
    stand.feed(0.3, bus_voltage_v=25.0)
    assert rungs_of(stand, 30.0) == [
        (Rung.GPU_OFF, 0.0),
        (Rung.SHED, 6.1),
        (Rung.ECLIPSE_BUDGET, 11.1),
        (Rung.DERATE, 15.1),
        (Rung.NOMINAL, 18.1),
    ]
    assert stand.texts[2] == "nothing asks for GPU_OFF since 6 s"
    assert stand.state == ASIDE


def test_rungs_without_a_dwell_are_passed_in_one_frame() -> None:
    """Down to the first that has a dwell, or to what a reading still asks for."""
    passing = Config(budget_dwell_s=0.0, shed_dwell_s=0.0, off_dwell_s=6.0)
    stand = Stand(passing)
    stand.feed(0.3, bus_voltage_v=25.0)
    assert rungs_of(stand, 30.0) == [(Rung.GPU_OFF, 0.0), (Rung.DERATE, 6.1), (Rung.NOMINAL, 11.1)]
    held = Stand(passing)
    held.feed(0.3, bus_voltage_v=25.0)
    held.feed(8.0, bus_voltage_v=27.2)
    assert held.state.rung is Rung.ECLIPSE_BUDGET
    assert held.texts[2:] == ["nothing asks for GPU_OFF since 6 s"]


def test_a_cause_that_comes_back_begins_the_dwell_anew() -> None:
    stand = Stand()
    stand.feed(0.3, bus_voltage_v=25.6)
    stand.feed(4.5)
    stand.feed(0.3, bus_voltage_v=25.6)
    assert rungs_of(stand, 8.0)[1] == (Rung.ECLIPSE_BUDGET, 5.1)


@pytest.mark.parametrize(
    ("bad", "between", "good"),
    [
        ({"soc_fraction": soc(0.55)}, {"soc_fraction": soc(0.1)}, {"soc_fraction": soc(-0.1)}),
        ({"gpu_temp_degc": 79.1}, {"gpu_temp_degc": 78.2}, {"gpu_temp_degc": 77.9}),
        ({"bus_voltage_v": 26.4}, {"bus_voltage_v": 27.6}, {"bus_voltage_v": 27.8}),
        ({"radiator_temp_degc": 57.6}, {"radiator_temp_degc": 55.5}, {"radiator_temp_degc": 54.9}),
        ({"bus_voltage_v": 26.4}, {"bus_voltage_v": NAN}, {"bus_voltage_v": 27.8}),
    ],
)
def test_hysteresis_keeps_a_rung(
    bad: dict[str, object], between: dict[str, object], good: dict[str, object]
) -> None:
    """A rung stands while its reading is between the two limits, and while it is no number."""
    stand = Stand()
    assert stand.feed(1.5, **bad).rung is Rung.DERATE
    assert stand.feed(30.0, **between).rung is Rung.DERATE
    assert stand.feed(5.5, **good).rung is Rung.NOMINAL


def test_a_milder_cause_keeps_the_milder_rung() -> None:
    stand = Stand()
    stand.feed(1.5, soc_fraction=soc(0.9))
    assert stand.feed(10.5, soc_fraction=soc(0.30)).rung is Rung.SHED
    assert stand.feed(30.0, soc_fraction=soc(0.30)).rung is Rung.SHED
    assert stand.feed(5.5, soc_fraction=soc(0.2)).rung is Rung.ECLIPSE_BUDGET


def test_what_was_passed_all_the_time_is_the_mildest_of_it() -> None:
    """A noisy charge: SHED only for moments, ECLIPSE_BUDGET all the time."""
    stand = Stand()
    for tick in range(11):
        stand.feed(0.1, soc_fraction=soc(0.8 if tick % 2 else 0.65))
    assert stand.state.rung is Rung.ECLIPSE_BUDGET


def test_an_alarm_that_ends_at_once_leaves_the_rail_on() -> None:
    stand = Stand()
    stand.feed(0.2, bus_voltage_v=24.0)
    assert stand.feed(4.0).rung is Rung.SHED
    assert stand.state.rail_off is False
    stand = Stand()
    stand.feed(0.1, bus_voltage_v=25.6)
    assert stand.feed(0.1, bus_voltage_v=25.0).rung is Rung.SHED


def test_checkpoint_is_asked_for_once_on_the_way_down() -> None:
    stand, asked = Stand(), 0
    for _ in range(40):
        asked += stand.feed(0.1, bus_voltage_v=25.6).checkpoint_asked
    for _ in range(40):
        asked += stand.feed(0.1, bus_voltage_v=25.0).checkpoint_asked
    assert asked == 1


def test_the_rail_waits_for_the_workers_but_not_under_a_falling_bus() -> None:
    stand = Stand()
    state = stand.feed(1.2, soc_fraction=soc(0.9))
    assert (state.rail_off, state.cut) == (True, False)
    state = stand.feed(0.4, soc_fraction=soc(0.9), bus_voltage_v=25.0)
    assert (state.rail_off, state.cut) == (True, True)
    state = stand.feed(0.4, soc_fraction=soc(0.9))
    assert (state.rail_off, state.cut) == (True, True)


def test_the_floor_is_the_last_rung_and_its_end_belongs_to_mode() -> None:
    stand = Stand()
    stand.scene = replace(SCENE, floor="charge under the floor")
    assert stand.feed(0.1).rung is Rung.SAFE
    assert (stand.state.cause, stand.state.safe) == (Cause.FLOOR, "")
    stand.scene = SCENE
    assert stand.feed(0.1).rung is Rung.GPU_OFF


def test_what_the_gpu_is_not_the_reason_of_ends_in_safe() -> None:
    stand = Stand()
    state = stand.feed(120.9, gpu_temp_degc=79.9)
    assert (state.rung, state.safe) == (Rung.GPU_OFF, "")
    state = stand.feed(0.5, gpu_temp_degc=79.9)
    assert (state.rung, state.safe) == (Rung.SAFE, "GPU off does not help: GPU node 79.9 degC")
    state = stand.feed(0.1, gpu_temp_degc=78.0)
    assert (state.rung, state.safe) == (Rung.GPU_OFF, "")


@pytest.mark.parametrize(("still", "rungs"), [(True, [0, 3, 3, 3]), (False, [0, 0, 0, 0])])
def test_frames_that_stand_still_as_a_whole_are_counted_though_nobody_takes_them(
    still: bool, rungs: list[int]
) -> None:
    stand = Stand()
    sensed = replace(stand.sensed, verdicts=replace(stand.sensed.verdicts, bad=((plausible.ALL, "SENSOR_FROZEN"),)))
    assert shedding.doubted(sensed) == "the whole frame"
    scene, state, found, taken = replace(SCENE, news=False, still=still), stand.state, [], []
    for _ in range(4):
        state, events = shedding.step(state, CONFIG, POWER, HEAT, CARD, sensed, scene, stand.now_s)
        taken.append(state.rung)
        found += [event.fields["cause"] for event in events]
    assert taken == rungs
    assert found == (["the whole frame cannot be believed"] if still else [])
    stand.state = state
    assert stand.feed(20.0).rung is Rung.NOMINAL


def test_before_the_first_frame_nothing_is_shed() -> None:
    state, found = shedding.step(
        ASIDE, CONFIG, POWER, HEAT, CARD, sense.start(0.0), replace(SCENE, news=False), 99.0
    )
    assert (state, found) == (ASIDE, ())


def test_depth_is_measured_even_where_the_configuration_leaves_no_room() -> None:
    stand = Stand()
    stand.scene = replace(SCENE, soc_target=0.7015, gpu_target_degc=80.0)
    assert stand.feed(2.0, soc_fraction=0.7008).rung is Rung.NOMINAL
    assert stand.feed(2.0, gpu_temp_degc=80.3).rung is Rung.DERATE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget_depth": 0.5}, r"budget_depth = 0.5 must be over derate_depth = 0.5"),
        ({"shed_depth": 0.9}, r"off_depth = 0.88 must be over shed_depth = 0.9"),
        ({"shed_v": 26.3}, r"shed_v = 26.3 must be under budget_v = 26.1"),
        ({"off_v": 25.7}, r"off_v = 25.7 must be under shed_v = 25.7"),
    ],
)
def test_rungs_lie_in_order(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**changes)


def test_the_gpu_goes_off_before_safe_must() -> None:
    with pytest.raises(ValueError, match=r"shedding.off_v = 25.2 must be over eps.bus_undervoltage_v = 25.5"):
        executive.Config(eps=eps.Config(bus_undervoltage_v=25.5, bus_recovered_v=27.0))


# --- in flight ----------------------------------------------------------------------------------------------

JOBS = (JobConfig(id="train", kind="train"), JobConfig(id="infer", kind="infer", share=0.5))
FLOWN = executive.Config(jobs=JOBS, eps=eps.Config(eclipse_entry_s=3600.0))


def at_work(frame_s: float = 0.1) -> Flight:
    flight = Flight(FLOWN, frame_s=frame_s)
    flight.fly(20.0)
    assert flight.vehicle.mode.mode is Mode.COMPUTE
    assert flight.vehicle.governor.duty > 0.5
    flight.effects.clear()
    return flight


def of(effects: object, kind: type) -> list[object]:
    return [effect for effect in effects if isinstance(effect, kind)]


def test_bus_alarm_to_gpu_off_within_250_ms() -> None:
    """Three frames of 10 Hz: idle and a checkpoint in the frame of the alarm, the rail in the third."""
    flight = at_work()
    flight.sensor_changes["bus_voltage_v"] = 25.0
    frames = [flight.frame() for _ in range(3)]
    assert [pace.duty for pace in of(frames[0], SetPace)] == [0.0]
    assert of(frames[0], SaveCheckpoint)
    assert [of(frame, Actuate)[0].gpu_rail_on for frame in frames] == [True, True, False]
    assert {kill.job for kill in of(frames[2], KillWorker)} == {"train", "infer"}
    switched = flight.events("RAIL_SWITCHED")
    assert [fields["reason"] for _, _, fields in switched] == ["load shedding"]
    assert [(f["old"], f["new"], f["cause"]) for _, _, f in flight.events("SHED_RUNG")] == [
        ("NOMINAL", "SHED", "bus 25.00 V"),
        ("SHED", "GPU_OFF", "bus 25.00 V"),
    ]
    told = {name: getters.GETTERS[f"eps.{name}"](flight.vehicle) for name in ("shed_rung", "shed_cause")}
    assert told == {"shed_rung": Rung.GPU_OFF, "shed_cause": Cause.BUS}


def test_the_ladder_is_climbed_down_and_up_in_flight() -> None:
    flight = at_work()
    kept = governor.least_margins(FLOWN.governor, FLOWN.eps, FLOWN.thermal)
    target = FLOWN.eps.soc_floor + kept.soc
    flight.sensor_changes["soc_fraction"] = target - 0.9 * (target - FLOWN.eps.soc_safe)
    # A batch of the charge filter, which refuses the gauge: what it reads counts from then on.
    flight.fly(12.0)
    # In good order: asked to stop, then the rail.
    assert [stop.job for stop in of(flight.effects, StopWorker)] == ["train", "infer"]
    assert of(flight.effects, KillWorker) == []
    assert flight.vehicle.mode.mode is Mode.COMPUTE
    assert not flight.rail_on
    flight.frame(telecommand("arm", 1, opcode=0x31))
    flight.frame(telecommand("gpu.rail", 2, on=True))
    flight.fly(0.3)
    assert "load shedding holds the rail" in next(
        outcome.text for outcome in flight.vehicle.commanding.history.values() if outcome.text
    )
    flight.sensor_changes.clear()
    # The limits of the tables, which answered too, stand for a minute.
    flight.fly(80.0)
    assert flight.vehicle.shedding.rung is Rung.NOMINAL
    assert flight.vehicle.payload.jobs[0].life is Life.RUNNING
    assert flight.vehicle.governor.duty > 0.5


@pytest.mark.parametrize(
    ("changes", "floor"),
    [
        ({"soc_fraction": 0.70}, "charge under the floor"),
        ({"bus_voltage_v": 21.0}, "bus under the floor"),
        ({"gpu_temp_degc": 81.0}, "GPU node over its limit"),
        ({"radiator_temp_degc": 61.0}, "radiator over its limit"),
    ],
)
def test_the_floor_in_flight(changes: dict[str, float], floor: str) -> None:
    flight = at_work()
    flight.sensor_changes |= changes
    flight.fly(12.0 if "soc_fraction" in changes else 3.0)
    assert flight.vehicle.mode.mode is Mode.SAFE
    assert flight.vehicle.shedding.rung is Rung.SAFE
    assert floor in [fields["cause"] for _, _, fields in flight.events("SHED_RUNG")]
    assert not flight.rail_on
    flight.sensor_changes.clear()
    flight.fly(60.0)
    assert flight.vehicle.mode.mode is Mode.COMPUTE
    assert flight.vehicle.shedding.rung is Rung.NOMINAL


def test_safe_that_the_ladder_asks_for_ends_by_itself() -> None:
    """A radiator that stays where it is, whatever the GPU does."""
    flight = Flight(
        FLOWN, frame_s=0.5, plant=Plant(radiator_k=KELVIN + 56.0, gpu_k=KELVIN + 60.0, radiator_j_k=1e8)
    )
    flight.fly(20.0)
    assert flight.vehicle.mode.mode is Mode.COMPUTE
    flight.sensor_changes["radiator_temp_degc"] = 59.8
    flight.fly(130.0)
    assert (flight.vehicle.mode.mode, flight.vehicle.mode.cause) == (Mode.SAFE, "shed")
    assert not flight.rail_on
    flight.sensor_changes.clear()
    flight.plant.radiator_k = KELVIN + 53.0
    flight.fly(90.0)
    assert flight.vehicle.mode.mode is Mode.COMPUTE


@pytest.mark.parametrize(("frame_s", "warp"), [(0.1, 50.0), (1.0, 20.0)])
def test_an_undisturbed_orbit_sheds_nothing(frame_s: float, warp: float) -> None:
    flight = Flight(FLOWN, frame_s=frame_s, warp=warp)
    flight.fly(5700.0)
    assert flight.events("SHED_RUNG") == []
