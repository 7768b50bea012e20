"""R8: watchpoints: operators, hysteresis, N new samples, rates, and STALE as a result of its own."""

import math
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from flightsw.core import executive, sense, vehicle, watchpoints
from flightsw.core.getters import GETTERS
from flightsw.core.inputs import GpuSample
from flightsw.core.job import JobConfig
from flightsw.core.watchpoints import SOURCES, Result, Source
from flightsw.link.dictionary import IDENTITY, PARAMETER_BY_NAME
from flightsw.link.limit_tables import Watchpoint, WatchTable

CLEAR, TRIPPED, STALE = Result
NAN = math.nan
CONFIG = executive.Config(jobs=(JobConfig(id="train", kind="train"), JobConfig(id="infer", kind="infer")))
START = vehicle.start(CONFIG, 1, False, 0.0)


def watch(**changes: object) -> Watchpoint:
    fields = {"id": 1, "name": "w", "parameter": "gpu.die_degc", "operator": ">", "trip": 80.0, "stale_s": 5.0}
    return Watchpoint(**{**fields, **changes})


def table(*points: Watchpoint) -> WatchTable:
    return WatchTable(name="t", watchpoints=points)


def at(now_s: float, sample: float | None, before: vehicle.Vehicle = START, **fields: float) -> vehicle.Vehicle:
    """The vehicle at ``now_s``, with a new sample of the card unless it is None; mission time is machine time."""
    seen = before.sense
    if sample is not None:
        card = GpuSample(sequence=int(now_s * 10), source="t", die_degc=sample, **fields)
        seen = replace(seen, gpu=card, gpu_received_s=now_s, gpu_fresh=True)
    clock = replace(before.correlation, elapsed_world_s=now_s)
    return replace(before, sense=seen, correlation=clock, frame_count=before.frame_count + 1, now_s=now_s)


def results(points: tuple[Watchpoint, ...], samples: list[float | None], frame_s: float = 1.0) -> list[Result]:
    """Result of the first watchpoint after each frame."""
    state, flying, found = watchpoints.start(table(*points)), START, []
    for number, sample in enumerate(samples, 1):
        flying = at(number * frame_s, sample, flying)
        state = watchpoints.step(state, flying, number * frame_s)
        found.append(state.results[0])
    return found


C, T, S = CLEAR, TRIPPED, STALE


@pytest.mark.parametrize(
    ("changes", "samples", "expected"),
    [
        ({"operator": ">"}, [79, 80, 81, 80], [C, C, T, C]),
        ({"operator": ">="}, [79, 80, 81, 79], [C, T, T, C]),
        ({"operator": "<"}, [81, 80, 79, 80], [C, C, T, C]),
        ({"operator": "<="}, [81, 80, 79, 81], [C, T, T, C]),
        ({"operator": "=="}, [79, 80, 81], [C, T, C]),
        ({"operator": "!="}, [80, 79, 80], [C, T, C]),
        # Hysteresis: tripped beyond trip, clear behind clear, in between the last verdict stands.
        ({"clear": 75.0}, [78, 81, 78, 76, 75, 78], [C, T, T, T, C, C]),
        ({"operator": ">=", "clear": 75.0}, [80, 75, 74.9, 79], [T, T, C, C]),
        ({"operator": "<", "clear": 85.0}, [79, 84, 85, 82], [T, T, C, C]),
        ({"operator": "<=", "clear": 85.0}, [80, 85, 85.1, 81], [T, T, C, C]),
        # N consecutive samples.
        ({"samples": 3}, [81, 81, 81, 81, 79], [C, C, T, T, C]),
        ({"samples": 3}, [81, 81, 79, 81, 81, 81], [C, C, C, C, C, T]),
        # Only new ones count: a value that is looked at again is no sample.
        ({"samples": 3}, [81, None, None, 81, None, 81, None], [C, C, C, C, C, T, T]),
        # No valid value neither counts nor breaks the row.
        ({"samples": 2}, [81, NAN, 81], [C, C, T]),
        # STALE: before the first sample, and without a valid one for more than stale_s.
        ({}, [None, None, 79], [S, S, C]),
        ({"stale_s": 2.0}, [79, None, None, None, 79], [C, C, C, S, C]),
        ({"stale_s": 2.0}, [79, NAN, NAN, NAN, NAN, 79], [C, C, C, S, S, C]),
        ({"stale_s": 2.0}, [NAN, NAN, 81], [S, S, T]),
        # It comes back tripped, unless the next sample is behind clear.
        ({"stale_s": 2.0, "clear": 75.0}, [81, None, None, None, 78], [T, T, T, S, T]),
        ({"stale_s": 2.0, "clear": 75.0}, [81, None, None, None, 74], [T, T, T, S, C]),
        # A gap of staleness ends the row.
        ({"stale_s": 2.0, "samples": 2}, [81, None, None, None, 81, 81], [C, C, C, S, C, T]),
        # One that was valid while counting goes stale by its own clock.
        ({"stale_s": 2.0, "samples": 9}, [81, NAN, NAN, NAN], [C, C, C, S]),
        # Rates: the first sample gives none.
        ({"quantity": "rate", "trip": 2.0}, [70, 71, 74, 75], [S, C, T, C]),
        ({"quantity": "rate", "trip": -2.0, "operator": "<"}, [70, 69, 66], [S, C, T]),
        ({"quantity": "rate", "trip": 2.0, "samples": 2}, [70, 73, 76, 79], [S, C, T, T]),
        ({"quantity": "rate", "trip": 2.0}, [70, NAN, 71, 77], [S, S, C, T]),
        # A gap: the rate begins anew, it is no average over the gap.
        (
            {"quantity": "rate", "trip": 2.0, "stale_s": 2.0},
            [70, 71, None, None, None, 99, 100],
            [S, C, C, C, S, S, C],
        ),
        (
            {"quantity": "rate", "trip": 2.0, "stale_s": 2.0},
            [70, 77, None, None, None, 77, 78],
            [S, T, T, T, S, S, C],
        ),
    ],
)
def test_r8_results(changes: dict[str, object], samples: list[float | None], expected: list[Result]) -> None:
    assert results((watch(**changes),), samples) == expected


@pytest.mark.parametrize("frame_s", [0.1, 1.0])
def test_r8_a_rate_means_the_same_at_every_frame_rate(frame_s: float) -> None:
    """3 K/s over 4 s in frames of 0.1 s and 1 s: the same verdict, and as many samples."""
    state, flying, tripped_s = watchpoints.start(table(watch(quantity="rate", trip=2.9, samples=3))), START, None
    for number in range(1, round(4.0 / frame_s) + 1):
        now_s = number * frame_s
        flying = at(now_s, 20.0 + 3.0 * now_s, flying)
        state = watchpoints.step(state, flying, now_s)
        if state.results[0] is TRIPPED and tripped_s is None:
            tripped_s = now_s
    assert tripped_s == pytest.approx(4.0 if frame_s == 1.0 else 3.1, abs=0.15)
    assert watchpoints.reading(state, 0, flying) == pytest.approx(3.0)


def test_a_rate_is_of_mission_time() -> None:
    """At warp 10 a kelvin in a second of the machine is 0.1 K/s; standing mission time gives no rate."""
    state, flying = watchpoints.start(table(watch(quantity="rate", trip=0.5))), START
    for now_s, sample, world_s in ((1.0, 20.0, 10.0), (2.0, 21.0, 20.0), (3.0, 30.0, 20.0), (4.0, 30.0, 30.0)):
        flying = at(now_s, sample, flying)
        flying = replace(flying, correlation=replace(flying.correlation, elapsed_world_s=world_s))
        state = watchpoints.step(state, flying, now_s)
        if now_s == 2.0:
            assert watchpoints.reading(state, 0, flying) == pytest.approx(0.1)
            assert state.results[0] is CLEAR
    assert watchpoints.reading(state, 0, flying) == pytest.approx(0.9)
    assert state.results[0] is TRIPPED


def test_results_are_the_same_object_while_nothing_changes() -> None:
    state, flying = watchpoints.start(table(watch(), watch(id=2, name="v", trip=10.0))), START
    seen = []
    for number in range(1, 6):
        flying = at(float(number), 20.0, flying)
        state = watchpoints.step(state, flying, float(number))
        seen.append(state.results)
    assert seen[0] == (CLEAR, TRIPPED)
    assert all(one is seen[0] for one in seen)


def test_what_was_lost_is_told_once() -> None:
    state, flying, lost = watchpoints.start(table(watch(stale_s=1.5))), START, []
    for number, sample in enumerate([20.0, None, None, None, 20.0, None, None, None], 1):
        flying = at(float(number), sample, flying)
        state = watchpoints.step(state, flying, float(number))
        lost.append(state.lost)
    assert lost == [(), (), (0,), (), (), (), (0,), ()]
    assert state.stale == 1


def test_two_ages_of_one_source() -> None:
    """Watchpoints on one silent source go stale each after its own time, a blind one by its own samples."""
    points = (
        watch(stale_s=1.0),
        watch(id=2, name="v", stale_s=3.0),
        watch(id=3, name="p", parameter="gpu.power_w"),
    )
    state, flying, seen = watchpoints.start(table(*points)), START, []
    for number in range(1, 7):
        # The power is read in the first sample only.
        flying = at(
            float(number), 20.0 if number <= 2 else None, flying, **({"power_w": 9.0} if number == 1 else {})
        )
        state = watchpoints.step(state, flying, float(number))
        seen.append("".join(result.name[0] for result in state.results))
    assert seen == ["CCC", "CCC", "CCC", "SCC", "SCC", "SSC"]
    flying = at(7.0, None, flying)
    state = watchpoints.step(state, flying, 7.0)
    assert state.results == (STALE, STALE, STALE)
    assert [watchpoints.age_s(state, index, 7.0) for index in range(3)] == [5.0, 5.0, 6.0]


def test_age_of_what_is_calm_and_of_a_rate() -> None:
    state, flying = watchpoints.start(table(watch(), watch(id=2, name="r", quantity="rate", trip=9.0))), START
    assert watchpoints.age_s(state, 0, 1.0) == math.inf
    assert math.isnan(watchpoints.reading(state, 1, flying))
    for now_s in (1.0, 2.0):
        flying = at(now_s, 20.0, flying)
        state = watchpoints.step(state, flying, now_s)
    assert [watchpoints.age_s(state, index, 5.0) for index in (0, 1)] == [3.0, 3.0]
    assert watchpoints.reading(state, 0, flying) == 20.0


def test_activation_keeps_the_memory_of_what_is_the_same() -> None:
    """Same id and same limit: tripped stays tripped, counts go on; everything else begins anew."""
    old = (
        watch(clear=75.0),
        watch(id=2, name="b", samples=3),
        watch(id=3, name="c"),
        watch(id=4, name="r", quantity="rate", trip=-50.0),
        watch(id=5, name="calm", trip=200.0),
    )
    state, flying = watchpoints.start(table(*old)), START
    for now_s in (1.0, 2.0):
        flying = at(now_s, 81.0, flying)
        state = watchpoints.step(state, flying, now_s)
    new = (old[4], old[1], old[0], watch(id=3, name="c", trip=70.0), old[3], watch(id=9, name="new"))
    state = watchpoints.activate(state, table(*new))
    assert state.results == (CLEAR, CLEAR, TRIPPED, STALE, TRIPPED, STALE)
    assert watchpoints.age_s(state, 0, 3.0) == 1.0
    flying = at(3.0, 81.0, flying)
    state = watchpoints.step(state, flying, 3.0)
    assert state.results == (CLEAR, TRIPPED, TRIPPED, TRIPPED, TRIPPED, TRIPPED)


def test_activation_of_what_is_calm_still_ages() -> None:
    state = watchpoints.start(table(watch(stale_s=2.0)))
    flying = at(1.0, 20.0)
    state = watchpoints.activate(watchpoints.step(state, flying, 1.0), table(watch(stale_s=2.0)))
    for now_s, expected in ((2.0, CLEAR), (3.0, CLEAR), (3.5, STALE)):
        flying = at(now_s, None, flying)
        state = watchpoints.step(state, flying, now_s)
        assert state.results[0] is expected


def moved(source: Source) -> Iterator[tuple[vehicle.Vehicle, bool]]:
    """Vehicles, and whether a sample of this source is new in each."""
    now_s = 1.0
    flying = replace(START, frame_count=1)
    job, ring = flying.payload.jobs[0], flying.checkpoint.rings[0]
    index = 0 if source is Source.TRAINING else 1
    for number in range(1, 4):
        match source:
            case Source.CORE:
                flying = replace(flying, frame_count=flying.frame_count + 1)
            case Source.SENSORS:
                flying = replace(flying, sense=replace(flying.sense, received_s=now_s * number))
            case Source.PROBE:
                flying = replace(flying, sense=replace(flying.sense, gpu_received_s=now_s * number))
            case Source.TRAINING | Source.INFERENCE:
                jobs = list(flying.payload.jobs)
                jobs[index] = replace(job, heartbeat_s=now_s * number, progress=number)
                flying = replace(flying, payload=replace(flying.payload, jobs=tuple(jobs)))
            case Source.COMMIT:
                rings = (replace(ring, committed=number), *flying.checkpoint.rings[1:])
                flying = replace(flying, checkpoint=replace(flying.checkpoint, rings=rings))
        yield flying, True
        yield flying, False


@pytest.mark.parametrize("source", [s for s in Source if s is not Source.CORE])
def test_each_source_tells_its_samples(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(name for name, of in SOURCES.items() if of is source)
    monkeypatch.setitem(GETTERS, name, lambda v: 81.0)
    state = watchpoints.start(table(watch(parameter=name, samples=3, stale_s=1e4)))
    seen = []
    for number, (flying, _) in enumerate(moved(source), 1):
        state = watchpoints.step(state, flying, float(number))
        seen.append(state.results[0])
    assert seen == [CLEAR] * 4 + [TRIPPED] * 2


def test_without_such_a_job_nothing_is_sampled() -> None:
    bare = vehicle.start(executive.Config(), 1, False, 0.0)
    state = watchpoints.start(
        table(watch(parameter="train.step", trip=-1.0), watch(id=2, name="i", parameter="infer.tokens"))
    )
    assert watchpoints.step(state, bare, 1.0).results == (STALE, STALE)


def test_a_new_worker_s_first_heartbeat_is_the_first_sample() -> None:
    """Ready is no sample: what the worker before it showed is not measured again."""
    job = replace(START.payload.jobs[0], step=7)
    state, seen = watchpoints.start(table(watch(parameter="train.step", trip=5.0))), []
    for number, (progress, beat_s) in enumerate(((1, 1.0), (-1, 2.0), (-1, 2.0), (3, 4.0)), 1):
        jobs = (replace(job, progress=progress, heartbeat_s=beat_s), START.payload.jobs[1])
        flying = replace(START, payload=replace(START.payload, jobs=jobs))
        state = watchpoints.step(state, flying, float(number))
        seen.append(watchpoints.age_s(state, 0, float(number)))
    assert seen == [0.0, 1.0, 2.0, 0.0]


def test_every_parameter_has_the_source_its_getter_reads() -> None:
    """A parameter that sensors or probe make stale is sampled with them; the others are the core's own."""
    assert set(SOURCES) <= set(GETTERS) == set(PARAMETER_BY_NAME) - set(IDENTITY)
    numbers = [f for f in GpuSample.__struct_fields__ if f not in ("sequence", "source", "xids", "unsupported")]
    card = GpuSample(sequence=1, source="t", **dict.fromkeys(numbers, 1))
    seen = replace(sense.start(0.0), gpu=card, gpu_fresh=True)
    fresh, silent = replace(START, sense=seen), replace(START, sense=replace(seen, gpu_fresh=False))
    of_card = {
        name for name, read in GETTERS.items() if read(fresh) == read(fresh) and read(silent) != read(silent)
    }
    assert len(of_card) >= 6
    assert of_card <= {name for name, source in SOURCES.items() if source is Source.PROBE}
