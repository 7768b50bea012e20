"""The integrity level of the workers, and what their findings lead to: tables first, then whole flights."""

import math

import msgspec
import pytest
from core_flight import Flight, telecommand

from flightsw.core import executive, integrity
from flightsw.core.effects import KillWorker, SetVigilance
from flightsw.core.getters import GETTERS
from flightsw.core.inputs import GpuSample, WorkerIntegrity, WorkerReady
from flightsw.core.integrity import RESEND_S, Config, Scene
from flightsw.core.integrity_reports import OPEN_REPORT_S, OUTCOMES, REPORT_S, Counts, Worker, heard, restarted
from flightsw.core.job import Job, JobConfig
from flightsw.core.lifecycle import Life
from flightsw.link.integrity import Level
from flightsw.link.schema import Mode

OFF, WATCH, STANDARD, STORM = Level
NAN = math.nan
CONFIG = Config(
    standard_flux_cm2_s=10.0, storm_flux_cm2_s=100.0, clear_fraction=0.5, dwell_s=120.0, flux_stale_s=60.0,
    ecc_window_s=600.0, ecc_standard=10.0, ecc_storm=100.0, finding_s=1800.0, open_window_s=3600.0, open_max=3,
)  # fmt: skip
SPECS = (JobConfig(id="train", kind="train"), JobConfig(id="infer", kind="infer", integrity="watch"))


class Run:
    """The subsystem alone; a frame takes ``dt_s`` of both clocks."""

    def __init__(self, config: Config = CONFIG, specs: tuple[JobConfig, ...] = SPECS) -> None:
        self.config, self.specs, self.now_s = config, specs, 1000.0
        self.state = integrity.start(config, specs, self.now_s)
        self.lives = [Life.OFF] * len(specs)
        self.corrected = self.uncorrected = 0

    def frame(self, flux: float | None = 1.0, *reports: object, dt_s: float = 1.0) -> list[object]:
        self.now_s += dt_s
        scene = Scene(flux, self.corrected, self.uncorrected)
        jobs = tuple(Job(wanted=True, life=life) for life in self.lives)
        before = self.state
        self.state, out = integrity.step(
            before, self.config, self.specs, jobs, scene, reports, self.now_s - 500.0, self.now_s
        )
        return list(out)

    def levels(self, *fluxes: float | None, dt_s: float = 1.0) -> list[Level]:
        seen = []
        for flux in fluxes:
            self.frame(flux, dt_s=dt_s)
            seen.append(self.state.level)
        return seen


def said(out: list[object], name: str) -> list[tuple[object, ...]]:
    return [tuple(event.fields.values()) for event in out if getattr(event, "name", "") == name]


def told(job: str = "train", level: str = "watch", **counts: object) -> WorkerIntegrity:
    fields = {"last_detector": "digest", "last_where": "weight head", **counts}
    return WorkerIntegrity(job=job, level=level, **fields)


# --- the level ----------------------------------------------------------------------------------------------

FLUX = (
    ((9.9,), WATCH),
    ((10.0,), STANDARD),
    ((99.9,), STANDARD),
    ((100.0,), STORM),
    ((1e9,), STORM),
    ((-0.5,), WATCH),
    ((None,), WATCH),
    ((NAN,), WATCH),
    ((100.0, 60.0, 60.0, 60.0, 60.0), STORM),
    ((100.0, 60.0, 49.0, 60.0, 49.0), STORM),
    ((100.0, 49.0, 49.0, 49.0), STORM),
    ((100.0, 49.0, 49.0, 49.0, 49.0), STANDARD),
    ((100.0, 1.0, 1.0, 1.0, 1.0), WATCH),
    ((100.0, 1.0, None, NAN, None), STORM),
    ((100.0, 1.0, None, NAN, 1.0), WATCH),
    ((10.0, 4.9, 4.9, 4.9, 5.1, 4.9, 4.9, 4.9), STANDARD),
)
"""Readings 40 s apart, and the level after the last."""


@pytest.mark.parametrize(("fluxes", "level"), FLUX)
def test_flux_raises_at_once_and_falls_with_hysteresis_and_dwell(fluxes: tuple[float, ...], level: Level) -> None:
    run = Run(msgspec.structs.replace(CONFIG, flux_stale_s=1000.0))
    assert run.levels(*fluxes, dt_s=40.0)[-1] is level


def test_noise_at_a_threshold_switches_once() -> None:
    run = Run()
    changes = [
        event for tick in range(600) for event in said(run.frame(95.0 + 10.0 * (tick % 2)), "INTEGRITY_LEVEL")
    ]
    assert [change[:2] for change in changes] == [("WATCH", "STANDARD"), ("STANDARD", "STORM")]
    assert changes[1][2] == "proton flux 105/(cm2 s)"


BLIND = (
    (STORM, (1.0,), STORM),
    (STANDARD, (1.0,), STANDARD),
    (STANDARD, (100.0,), STORM),
    (WATCH, (), WATCH),
    (STORM, (), STORM),
)
"""Level while blind, readings before, level once the flux is unknown."""


@pytest.mark.parametrize(("blind", "fluxes", "level"), BLIND)
def test_without_a_believable_flux_the_last_level_stands_and_then_the_blind_one(
    blind: Level, fluxes: tuple[float, ...], level: Level
) -> None:
    run = Run(msgspec.structs.replace(CONFIG, blind_level=int(blind)))
    last = [WATCH, *run.levels(*fluxes)][-1]
    silent = run.levels(*(NAN, None) * 30)
    assert set(silent) == {last}
    assert run.levels(NAN) == [level]
    run.levels(*(1.0,) * 200)
    assert run.state.level is WATCH


ECC = (
    (9, 0, WATCH),
    (10, 0, STANDARD),
    (99, 0, STANDARD),
    (100, 0, STORM),
    (0, 1, STORM),
)


@pytest.mark.parametrize(("corrected", "uncorrected", "level"), ECC)
def test_ecc_errors_of_late_raise_the_level(corrected: int, uncorrected: int, level: Level) -> None:
    run = Run()
    run.frame()
    run.corrected, run.uncorrected = corrected, uncorrected
    out = run.frame()
    assert run.state.level is level
    assert ("ECC errors of late" in str(said(out, "INTEGRITY_LEVEL"))) is (level is not WATCH)


def test_ecc_errors_are_forgotten_and_slow_ones_never_add_up() -> None:
    run = Run()
    for _ in range(2000):
        run.corrected += 1
        run.frame(dt_s=100.0)
        assert run.state.level is WATCH, "one in 100 s is six in the window"
    run.corrected += 200
    run.frame()
    assert run.state.level is STORM
    waited_s = 0.0
    while run.state.level is not WATCH:
        run.frame(dt_s=10.0)
        waited_s += 10.0
    # 206 fall under 50 after 850 s and under 5 after 2230 s; the dwell comes on top.
    assert 2230.0 + 120.0 <= waited_s <= 2230.0 + 160.0
    for _ in range(1000):
        run.frame(dt_s=10.0)
    assert run.state.ecc == 0.0


def test_a_finding_is_a_storm_for_a_while() -> None:
    run = Run()
    run.frame(1.0, told(checks=9, detected=0))
    assert run.state.level is WATCH, "sound checks raise nothing"
    out = run.frame(1.0, told(checks=9, detected=1, repaired=1))
    assert said(out, "INTEGRITY_LEVEL") == [("WATCH", "STORM", "a worker found damage")]
    out = run.frame(1.0, told(checks=10, detected=1, repaired=1), dt_s=CONFIG.finding_s - 1.0)
    assert said(out, "INTEGRITY_LEVEL") == []
    assert said(run.frame(), "INTEGRITY_LEVEL") == [("STORM", "WATCH", "nothing asks for more than the floor")]


def test_a_higher_floor_holds() -> None:
    run = Run(msgspec.structs.replace(CONFIG, level_floor=int(STANDARD)))
    assert run.state.level is STANDARD
    assert run.levels(1.0, 20.0, 100.0) == [STANDARD, STANDARD, STORM]


@pytest.mark.parametrize("keys", [("standard_flux_cm2_s", "storm_flux_cm2_s"), ("ecc_standard", "ecc_storm")])
def test_storm_cannot_begin_under_standard(keys: tuple[str, str]) -> None:
    low, high = keys
    with pytest.raises(ValueError, match=f"{high} = 5 is under {low} = 6"):
        Config(**{low: 6.0, high: 5.0})
    assert Config(**{low: 6.0, high: 6.0})


# --- the operator's hold ------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", list(Level))
def test_a_hold_goes_over_everything_until_its_time_is_over(held: Level) -> None:
    run = Run()
    run.frame(100.0)
    run.state, events = integrity.hold(run.state, held, run.now_s - 500.0 + 50.0, "for 50 s")
    assert [(event.name, *event.fields.values()) for event in events] == [("INTEGRITY_HELD", held.name, "for 50 s")]
    assert set(run.levels(*(100.0,) * 49)) == {held}
    out = run.frame(100.0)
    assert said(out, "INTEGRITY_RELEASED") == [(held.name, "its time is over")]
    assert run.state.level is STORM


def test_a_hold_without_a_time_is_released_by_telecommand_only() -> None:
    run = Run()
    run.state, _ = integrity.hold(run.state, STORM, math.inf, "until it is released")
    assert set(run.levels(*(1.0,) * 50, dt_s=1e6)) == {STORM}
    run.state, events = integrity.release(run.state, "telecommand")
    assert [tuple(event.fields.values()) for event in events] == [("STORM", "telecommand")]
    assert run.levels(1.0) == [WATCH]
    assert integrity.release(run.state, "telecommand") == (run.state, ())


# --- orders to workers --------------------------------------------------------------------------------------


def ready(job: str) -> WorkerReady:
    return WorkerReady(job=job, pid=1, device="cpu", step=0, generation=-1)


def test_every_worker_is_told_when_it_is_ready_and_at_every_change() -> None:
    run = Run()
    assert run.frame() == []
    run.lives[0] = Life.RUNNING
    assert run.frame(1.0, ready("train")) == [SetVigilance("train", "watch")]
    assert run.frame(1.0, told()) == []
    assert SetVigilance("train", "storm") in run.frame(100.0)
    assert run.frame(100.0, told(level="storm")) == []
    run.lives[0] = Life.STOPPING
    assert run.frame(100.0) == []
    assert run.state.lowest is None
    run.lives[0] = Life.RUNNING
    assert run.frame(100.0) == [SetVigilance("train", "storm")], "another process has been told nothing"
    assert run.frame(100.0, ready("train"), dt_s=0.1) == [SetVigilance("train", "storm")]
    assert run.frame(100.0, ready("nobody"), told("nobody"), dt_s=0.1) == []


@pytest.mark.parametrize(("report", "heeded"), [("watch", True), ("storm", False), ("nonsense", False)])
def test_an_order_is_repeated_until_it_is_heeded(report: str, heeded: bool) -> None:
    run = Run()
    run.lives[0] = Life.RUNNING
    run.frame()
    orders = [out for _ in range(30) for out in run.frame(1.0, told(level=report))]
    assert orders == ([] if heeded else [SetVigilance("train", "watch")] * int(30 / RESEND_S))


def test_a_jobs_own_level_is_kept_and_only_a_hold_goes_over_it() -> None:
    run = Run()
    run.lives[1] = Life.RUNNING
    run.frame(100.0)
    assert run.state.level is STORM
    assert run.state.workers[1].ordered is WATCH
    run.state, _ = integrity.hold(run.state, STANDARD, math.inf, "")
    assert SetVigilance("infer", "standard") in run.frame(100.0)
    run.state, _ = integrity.release(run.state, "")
    assert SetVigilance("infer", "watch") in run.frame(100.0)


def test_the_level_at_work_is_the_lowest_that_is_reported() -> None:
    run = Run()
    run.lives = [Life.RUNNING, Life.RUNNING]
    run.frame(1.0, told("train", "storm"))
    assert run.state.lowest is STORM
    run.frame(1.0, told("infer", "watch"))
    assert run.state.lowest is WATCH


# --- findings -----------------------------------------------------------------------------------------------


def test_totals_add_up_over_restarts_and_never_fall() -> None:
    first = dict(zip(Counts.__struct_fields__, (90, 10, 4, 3, 2, 1, 7), strict=True))
    worker, _ = heard(Worker(), told(**first), 0.0)
    assert worker.totals == Counts(**first)
    worker = restarted(worker)
    assert worker.totals == Counts(**first)
    worker, _ = heard(worker, told(checks=5, scrubs=1), 1.0)
    assert worker.totals == Counts(95, 10, 4, 3, 2, 1, 8)
    # The report of the new start was lost: a count that falls says the same.
    worker, _ = heard(worker, told(checks=2), 2.0)
    assert worker.totals == Counts(97, 10, 4, 3, 2, 1, 8)
    worker, _ = heard(worker, told(checks=-(2**63), open=-1), 3.0)
    assert worker.totals == Counts(97, 10, 4, 3, 2, 1, 8)


@pytest.mark.parametrize(("outcome", "event", "every_s"), OUTCOMES)
def test_findings_are_told_at_once_and_then_gathered(outcome: str, event: str, every_s: float) -> None:
    worker, total, reports = Worker(), 0, []
    for tick in range(101):
        total += 1
        worker, found = heard(worker, told(detected=total, **{outcome: total}), 0.5 * tick)
        reports += [(0.5 * tick, *(e.fields.values())) for e in found if e.name == event]
    assert every_s == (OPEN_REPORT_S if outcome == "open" else REPORT_S)
    assert reports[0] == (0.0, "train", 1, "digest", "weight head")
    assert [report[0] for report in reports] == [every_s * n for n in range(int(50 / every_s) + 1)]
    assert sum(report[2] for report in reports) == total, "none is hidden"


def test_a_report_without_a_place_keeps_the_last_one() -> None:
    worker, _ = heard(Worker(), told(detected=1, repaired=1), 0.0)
    worker, _ = heard(worker, told(detected=2, repaired=2), 1.0)
    worker, found = heard(restarted(worker), told(last_detector="", last_where=""), REPORT_S)
    assert [tuple(event.fields.values()) for event in found] == [("train", 1, "digest", "weight head")]


INCIDENTS = (
    ([("open", 1), ("open", 2), ("open", 9)], 1),
    ([("open", 1), ("ready", 0), ("open", 1)], 2),
    ([("open", 1), ("ready", 0), ("repaired", 4)], 1),
    ([("open", 3), ("open", 1)], 2),
    ([("repaired", 1), ("open", 1)], 1),
    ([("open", 1), ("wait", 0), ("ready", 0)], 0),
    ([("open", 1), ("wait", 0), ("ready", 0), ("open", 2)], 1),
)
"""What a worker says one after the other; the last count is that of workers in a row whose damage stayed open."""


@pytest.mark.parametrize(("story", "row"), INCIDENTS)
def test_an_incident_is_a_workers_life_with_open_damage(story: list[tuple[str, int]], row: int) -> None:
    run = Run()
    for what, count in story:
        if what == "wait":
            run.frame(dt_s=CONFIG.open_window_s)
        elif what == "ready":
            run.frame(1.0, ready("train"))
        else:
            run.frame(1.0, told(detected=count, **{what: count}))
    assert run.state.row == row


# --- whole flights ------------------------------------------------------------------------------------------

FLOWN = executive.Config(jobs=(JobConfig(id="train", kind="train"),), integrity=CONFIG)


class Guarded(Flight):
    """A flight whose training worker is at work."""

    def __init__(self, config: executive.Config = FLOWN, **changes: object) -> None:
        super().__init__(config, passes=(), **changes)
        self.fly(8.0)
        assert self.vehicle.mode.mode is Mode.COMPUTE
        self.number = 0

    def value(self, name: str) -> float:
        return float(GETTERS[f"integrity.{name}"](self.vehicle))

    def send(self, name: str, **arguments: object) -> None:
        self.number += 1
        self.frame(telecommand(name, self.number, **arguments))
        self.frame()

    def orders(self) -> list[str]:
        return [effect.level for effect in self.effects if isinstance(effect, SetVigilance)]

    def tell(self, **counts: object) -> None:
        self.frame(reports=(told(**counts),))


def test_the_worker_follows_the_flux_of_the_sensor() -> None:
    flight = Guarded()
    assert flight.orders() == ["watch"]
    flight.sensor_changes["proton_flux_cm2_s"] = 500.0
    flight.frame()
    assert flight.orders()[-1] == "storm"
    assert math.isnan(flight.value("level"))
    flight.tell(level="storm")
    assert (flight.value("level_wanted"), flight.value("level")) == (STORM, STORM)
    flight.sensor_changes["proton_flux_cm2_s"] = 3.0
    flight.fly(100.0)
    assert flight.value("level_wanted") == STORM
    flight.fly(30.0)
    assert flight.value("level_wanted") == WATCH


@pytest.mark.parametrize("absurd", [NAN, -5.0, 1e12])
def test_an_absurd_flux_is_no_flux(absurd: float) -> None:
    flight = Guarded()
    flight.sensor_changes["proton_flux_cm2_s"] = absurd
    flight.fly(CONFIG.flux_stale_s - 1.0)
    assert flight.value("level_wanted") == WATCH
    flight.fly(5.0)
    assert flight.value("level_wanted") == STORM
    assert "no believable proton flux" in flight.events("INTEGRITY_LEVEL")[-1][2]["reason"]


@pytest.mark.parametrize("warp", [1.0, 20.0])
def test_the_dwell_is_mission_time(warp: float) -> None:
    flight = Guarded(warp=warp)
    flight.sensor_changes["proton_flux_cm2_s"] = 500.0
    flight.frame()
    flight.sensor_changes["proton_flux_cm2_s"] = 3.0
    flight.frame()
    start_s = flight.plant.time_s
    while flight.value("level_wanted") == STORM:
        flight.frame()
    assert flight.plant.time_s - start_s == pytest.approx(CONFIG.dwell_s, abs=2.1 * warp * flight.frame_s)


def test_ecc_errors_of_the_probe_count_from_its_first_sample_on() -> None:
    flight = Guarded()
    sample = GpuSample(sequence=10_000, source="sim", ecc_corrected=5_000, ecc_uncorrected=7)
    flight.gpu_override = sample
    flight.frame()
    assert (flight.value("level_wanted"), flight.value("ecc_recent")) == (WATCH, 0.0)
    flight.gpu_override = msgspec.structs.replace(sample, sequence=10_001, ecc_corrected=5_020)
    flight.frame()
    assert (flight.value("level_wanted"), flight.value("ecc_recent")) == (STANDARD, 20.0)
    flight.gpu_override = msgspec.structs.replace(sample, sequence=10_002, ecc_uncorrected=8)
    flight.frame()
    assert flight.value("level_wanted") == STORM


def test_the_operator_holds_a_level_for_a_time_and_lets_it_go() -> None:
    flight = Guarded()
    flight.send("integrity.level", level=int(STORM), hold_s=10.0)
    assert (flight.orders()[-1], flight.value("held")) == ("storm", 1.0)
    flight.fly(11.0)
    assert (flight.orders()[-1], flight.value("held")) == ("watch", 0.0)
    flight.send("integrity.level", level=int(STANDARD))
    flight.fly(20.0)
    assert (flight.orders()[-1], flight.value("held")) == ("standard", 1.0)
    flight.send("integrity.level", level=0)
    assert (flight.orders()[-1], flight.value("held")) == ("watch", 0.0)
    spans = [fields["span"] for _, _, fields in flight.events("INTEGRITY_HELD")]
    assert spans == ["for 10 s", "until it is released"]
    assert [f["reason"] for _, _, f in flight.events("INTEGRITY_RELEASED")] == ["its time is over", "telecommand"]


def test_off_must_be_armed_and_ends_by_itself() -> None:
    flight = Guarded()
    flight.send("integrity.off", hold_s=20.0)
    assert "off" not in flight.orders()
    flight.send("arm", opcode=0x35)
    flight.send("integrity.off", hold_s=20.0)
    assert flight.orders()[-1] == "off"
    flight.fly(21.0)
    assert flight.orders()[-1] == "watch"


def test_open_damage_kills_then_power_cycles_then_leaves_the_card_off() -> None:
    flight = Guarded(frame_s=0.5)
    cycled: list[int] = []
    for life in range(1, 2 * CONFIG.open_max + 1):
        flight.effects.clear()
        flight.tell(detected=2, open=2)
        flight.fly(4.0)
        assert any(isinstance(effect, KillWorker) for effect in flight.effects), life
        assert flight.value("open_row") == life
        if not flight.rail_on:
            cycled.append(life)
        if life < 2 * CONFIG.open_max:
            # From the third failure on its job is in quarantine, and tried every five minutes.
            flight.fly(40.0 if life < CONFIG.open_max else 320.0)
            assert "train" in flight.workers, "it comes back"
    assert cycled == [CONFIG.open_max, 2 * CONFIG.open_max]
    flight.fly(300.0)
    assert not flight.rail_on
    assert (flight.value("open"), flight.value("detected")) == (4.0 * CONFIG.open_max, 4.0 * CONFIG.open_max)


def test_mended_damage_kills_nobody() -> None:
    flight = Guarded()
    flight.tell(checks=70, detected=6, repaired=3, recomputed=2, contained=1, scrubs=4)
    flight.fly(10.0)
    assert not any(isinstance(effect, KillWorker) for effect in flight.effects)
    counts = [
        flight.value(n) for n in ("checks", "detected", "repaired", "recomputed", "contained", "scrub_passes")
    ]
    assert counts == [70.0, 6.0, 3.0, 2.0, 1.0, 4.0]
