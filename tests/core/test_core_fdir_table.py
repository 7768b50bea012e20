"""R9: the shipped tables: complete against the catalogue of faults, sound on every orbit, escalating in time."""

import itertools

import pytest
from core_flight import Flight
from msgspec.structs import replace

from flightsw.core import anomaly, eps, executive, fdir_faults, fdir_table, governor, thermal, watchpoints
from flightsw.core.fdir_faults import FAULTS, LADDERS, Fault
from flightsw.core.fdir_rows import LEVELS
from flightsw.core.job import JobConfig
from flightsw.core.lifecycle import LIFECYCLE, Action, Life, Trigger
from flightsw.core.mode import BY_COMMAND, CAUSES
from flightsw.core.watchpoints import SOURCES, Source
from flightsw.link.limit_tables import Response, check_actionpoints, check_watchpoints, decode_actionpoints, encode

CONFIG = executive.Config(
    jobs=(JobConfig(id="train", kind="train"), JobConfig(id="infer", kind="infer", share=0.5))
)
WATCH, ACTION = fdir_table.shipped(CONFIG)
STANDING_ROWS = ("limit_power", "limit_thermal", "limit")
ORDERED = (Trigger.CUT, Trigger.KILL_ORDERED)
FAILURES = frozenset(
    trigger.name
    for (life, trigger), (target, action) in LIFECYCLE.items()
    if target in (Life.FAILED, Life.QUARANTINED) or (action is Action.KILL and trigger not in ORDERED)
)


def gaps(faults: tuple[Fault, ...]) -> list[str]:
    """What keeps the catalogue from being complete."""
    ids = {point.id for point in ACTION.actionpoints}
    hard = set(CAUSES) - {BY_COMMAND, *STANDING_ROWS}
    found = [f"{f.name}: nobody answers" for f in faults if not (f.hard or f.actions or f.ladder)]
    found += [f"{f.name}: no actionpoint {i}" for f in faults for i in f.actions if i not in ids]
    found += [f"{f.name}: no hard cause {h}" for f in faults for h in f.hard if h not in hard]
    found += [f"{f.name}: no ladder {ladder}" for f in faults for ladder in f.ladder if ladder not in LADDERS]
    found += [f"actionpoint {i} answers no fault" for i in sorted(ids - {i for f in faults for i in f.actions})]
    found += [f"cause {h} answers no fault" for h in sorted(hard - {h for f in faults for h in f.hard})]
    answered = {ladder for f in faults for ladder in f.ladder}
    return found + [f"ladder {ladder} answers no fault" for ladder in sorted((FAILURES | set(LADDERS)) - answered)]


def test_r9_every_fault_has_a_response_and_every_response_a_fault() -> None:
    assert gaps(FAULTS) == []
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert set(LADDERS) >= FAILURES


@pytest.mark.parametrize(
    ("change", "gap"),
    [
        (lambda f: replace(f, actions=(), hard=(), ladder=()), "nobody answers"),
        (lambda f: replace(f, actions=f.actions[1:]), "actionpoint 111 answers no fault"),
        (lambda f: replace(f, actions=(*f.actions, 999)), "no actionpoint 999"),
        (lambda f: replace(f, hard=()), "cause soc_low answers no fault"),
        (lambda f: replace(f, hard=("soc_high",)), "no hard cause soc_high"),
        (lambda f: replace(f, ladder=("prayer",)), "no ladder prayer"),
    ],
)
def test_the_catalogue_s_check_has_been_seen_to_fail(change: object, gap: str) -> None:
    first, *rest = FAULTS
    assert any(gap in line for line in gaps((change(first), *rest)))


CONFIGS = [
    CONFIG,
    executive.Config(eps=eps.Config(dod_max=0.2, soc_safe=0.8, soc_recovered=0.85)),
    executive.Config(thermal=thermal.Config(gpu_limit_degc=60.0, radiator_limit_degc=40.0)),
    executive.Config(governor=governor.Config(gpu_idle_w=0.0, gpu_max_w=15.0, temp_margin_k=0.5, soc_margin=0.01)),
]


@pytest.mark.parametrize("config", CONFIGS, ids=["default", "small battery", "cold", "small card"])
def test_r9_tables_are_sound_for_other_configurations(config: executive.Config) -> None:
    watch, action = fdir_table.shipped(config)
    check_watchpoints(watch)
    check_actionpoints(action, watch)
    assert decode_actionpoints(encode(action), watch) == action


def test_r9_thresholds_lie_between_the_governor_and_the_floor() -> None:
    point = {p.name: p for p in WATCH.watchpoints}
    kept = governor.least_margins(CONFIG.governor, CONFIG.eps, CONFIG.thermal)
    governed = CONFIG.eps.soc_floor + kept.soc
    assert CONFIG.eps.soc_safe < point["soc.lower"].trip < point["soc.low"].trip < governed
    assert point["soc.low"].trip < point["soc.low"].clear <= governed
    assert CONFIG.eps.bus_undervoltage_v < point["bus.deep_sag"].trip < point["bus.sag"].trip
    target = CONFIG.thermal.gpu_limit_degc - kept.gpu_k
    assert target < point["node.warm"].trip < CONFIG.thermal.gpu_limit_degc
    assert point["radiator.warm"].trip < point["radiator.hot"].trip < CONFIG.thermal.radiator_limit_degc


def test_r9_each_ladder_climbs_in_time() -> None:
    """On one condition a harder response never comes before a milder one."""
    key = lambda point: point.condition  # noqa: E731
    for condition, rungs in itertools.groupby(sorted(ACTION.actionpoints, key=lambda p: str(p.condition)), key):
        steps = [(p.persistence_s, p.level, p.name) for p in rungs if p.response is not Response.CHECKPOINT]
        assert steps == sorted(steps), condition
        assert len({after_s for after_s, _, _ in steps}) == len(steps), condition


def test_levels_are_those_of_the_responses() -> None:
    assert set(LEVELS) == set(Response)
    assert all(point.level == LEVELS[point.response] for point in ACTION.actionpoints)


@pytest.mark.parametrize(
    "subject",
    [
        "gpu.die_degc",
        "gpu.memory_degc",
        "gpu.power_w",
        "eps.bus_voltage_v",
        "eps.soc_fraction",
        "gpu.ecc_corrected",
        "gpu.ecc_uncorrected",
        "gpu.xid",
        "gpu.age_s",
        "train.step_time_ratio",
        "train.loss_rise",
    ],
)
def test_r9_each_subject_is_watched_and_answered(subject: str) -> None:
    watched = {point.id for point in WATCH.watchpoints if point.parameter == subject}
    answers = {p.response for p in ACTION.actionpoints if watched & set(p.condition)}
    assert answers - {Response.REPORT}


def test_r9_suspect_memory_is_never_saved() -> None:
    """After lost data, a grave XID or a diverging loss the workers are killed without a checkpoint before."""
    suspect = {p.id for p in WATCH.watchpoints if p.name in ("ecc.uncorrected", "xid.grave", "loss.rises")}
    assert len(suspect) == 3
    answers = {p.response for p in ACTION.actionpoints if suspect & set(p.condition)}
    assert answers == {Response.KILL, Response.REPORT}


def test_r13_safe_that_ends_by_itself_can_see_that_it_may() -> None:
    """With the rail shed the card is silent: causes of power and heat rest on what the bus or the core tells."""
    parameter = {p.id: p.parameter for p in WATCH.watchpoints}
    for point in ACTION.actionpoints:
        if point.response is Response.SAFE and point.domain in ("power", "thermal"):
            watched = [parameter[token] for token in point.condition if isinstance(token, int)]
            sources = {SOURCES.get(name, Source.CORE) for name in watched}
            assert sources <= {Source.CORE, Source.SENSORS}, point.name


def test_r9_restarts_and_power_cycles_of_the_shipped_table_cannot_loop() -> None:
    """What cycles the rail acts once, until the ground re-arms it; what restarts the daemon goes up its ladder."""
    cycles = [point for point in ACTION.actionpoints if point.response is Response.POWER_CYCLE]
    assert len(cycles) >= 3
    assert {point.repeat for point in cycles} == {"once"}


# --- flights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warp", [1.0, 20.0])
def test_r9_an_undisturbed_orbit_trips_nothing(warp: float) -> None:
    flight = Flight(executive.Config(jobs=CONFIG.jobs), frame_s=1.0, warp=warp)
    flight.fly(5700.0)
    assert flight.events("FDIR_TRIPPED") == []
    assert flight.vehicle.fdir.tripped == 0
    assert flight.vehicle.fdir.responses == 0


def test_r9_a_card_that_falls_silent_is_trusted_less_by_the_minute() -> None:
    """NVML silence: throttle, checkpoint, pause, kill, power cycle, each in its time."""
    flight = Flight(CONFIG, frame_s=1.0)
    flight.fly(60.0)
    sample = flight.vehicle.sense.gpu
    for _ in range(700):
        # The same sample again is no news.
        flight.gpu_override = sample
        flight.frame()
    seen = [(fields["response"].split(" ")[0], t) for t, _, fields in flight.events("FDIR_TRIPPED")]
    names = [name for name, _ in seen]
    assert names[:6] == ["report", "throttle", "checkpoint", "pause", "kill", "power_cycle"]
    since_s = [round(t - seen[0][1]) for _, t in seen[:6]]
    assert since_s == pytest.approx([0, 25, 55, 175, 295, 595], abs=2)


# --- anomalies ----------------------------------------------------------------------------------------------


def beats(*rows: tuple[int, float, float]) -> anomaly.Baseline:
    """Baseline after ``n`` heartbeats of each (n, longest micro-batch, loss)."""
    state = anomaly.NEW
    for count, micro_batch_s, loss in rows:
        for _ in range(count):
            state = anomaly.step(state, micro_batch_s, loss)
    return state


@pytest.mark.parametrize(
    ("rows", "ratio", "rise"),
    [
        (((34, 0.1, 2.0),), None, 0.0),
        (((36, 0.1, 2.0),), 1.0, 0.0),
        # A slow beginning is no yardstick, and the yardstick does not follow.
        (((5, 9.0, 2.0), (30, 0.1, 2.0), (100, 0.5, 2.0)), 5.0, 0.0),
        (((40, 0.1, 2.0), (1, 0.1, 5.0)), 1.0, 3.0),
        (((40, 0.1, 2.0), (2, 0.1, 5.0)), 1.0, 2.99),
        (((40, 0.1, 2.0), (1, 0.1, 1.0)), 1.0, -1.0),
    ],
)
def test_r9_anomalies(rows: tuple[tuple[int, float, float], ...], ratio: float | None, rise: float) -> None:
    state = beats(*rows)
    expected = float("nan") if ratio is None else ratio
    assert state.step_time_ratio == pytest.approx(expected, nan_ok=True)
    assert state.loss_rise == pytest.approx(rise)


def test_a_loss_that_is_no_number_moves_no_mean() -> None:
    state = beats((40, 0.1, 2.0), (3, 0.1, float("nan")), (3, 0.1, float("inf")))
    assert state.loss_mean == pytest.approx(2.0)
    assert beats((40, 0.0, 2.0)).step_time_ratio != beats((40, 0.0, 2.0)).step_time_ratio, "no time is no yardstick"


def test_the_shipped_tables_fit_their_budget() -> None:
    assert len(WATCH.watchpoints) <= 100
    assert len(ACTION.actionpoints) <= 176
    assert watchpoints.start(WATCH).stale == len(WATCH.watchpoints)
    assert fdir_faults.LADDERS.keys() >= FAILURES
