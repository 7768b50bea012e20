"""R8, R9: actionpoints: three-valued conditions, persistence and release, once and repeating, what stands."""

import itertools

import pytest
from msgspec.structs import replace

from flightsw.core import executive, fdir, vehicle, watchpoints
from flightsw.core.fdir import Truth
from flightsw.core.watchpoints import Result
from flightsw.link.limit_tables import Actionpoint, ActionTable, Response, Watchpoint, WatchTable

FLYING = vehicle.start(executive.Config(), 1, False, 0.0)
WATCH = WatchTable(
    name="t",
    watchpoints=tuple(
        Watchpoint(id=n, name=f"w{n}", parameter="gpu.die_degc", operator=">", trip=80.0) for n in (1, 2, 3)
    ),
)
LETTER = {"c": Result.CLEAR, "t": Result.TRIPPED, "s": Result.STALE}
FALSE, UNKNOWN, TRUE = Truth


def act(**changes: object) -> Actionpoint:
    fields = {
        "id": 7,
        "name": "a",
        "condition": (1,),
        "response": Response.THROTTLE,
        "argument": 0.5,
        "domain": "gpu",
    }
    return Actionpoint(**{**fields, **changes})


def seen(letters: str, lost: tuple[int, ...] = ()) -> watchpoints.State:
    """Results by letter: clear, tripped, stale; watchpoints that are not named are clear."""
    results = tuple(LETTER[letter] for letter in letters.ljust(3, "c"))
    return replace(watchpoints.start(WATCH), results=results, lost=lost)


class Run:
    """Frames of ``frame_s`` with the results that ``see`` is given."""

    def __init__(self, *points: Actionpoint, frame_s: float = 1.0) -> None:
        self.state, self.now_s, self.frame_s = fdir.start(ActionTable(name="t", actionpoints=points)), 0.0, frame_s
        self.orders, self.events, self.watch = fdir.Orders(), [], seen("")

    def see(self, letters: str) -> "Run":
        if tuple(LETTER[x] for x in letters.ljust(3, "c")) != self.watch.results:
            self.watch = seen(letters)
        self.now_s += self.frame_s
        self.state, self.orders, found = fdir.step(self.state, self.watch, FLYING, self.now_s)
        self.events += [(self.now_s, event.name, event.fields) for event in found]
        return self

    def names(self) -> list[str]:
        return [name for _, name, _ in self.events]


# --- conditions ---------------------------------------------------------------------------------------------

KLEENE = {
    "and": {"cc": 0, "cs": 0, "ct": 0, "sc": 0, "ss": 1, "st": 1, "tc": 0, "ts": 1, "tt": 2},
    "or": {"cc": 0, "cs": 1, "ct": 2, "sc": 1, "ss": 1, "st": 2, "tc": 2, "ts": 2, "tt": 2},
}


@pytest.mark.parametrize("operation", KLEENE)
def test_r8_kleene_truth_tables(operation: str) -> None:
    for left, right in itertools.product("cst", repeat=2):
        value = fdir.evaluate((1, 2, operation), {1: 0, 2: 1}, (LETTER[left], LETTER[right]))
        assert value == KLEENE[operation][left + right], left + right


@pytest.mark.parametrize(
    ("condition", "letters", "value"),
    [
        ((1, "not"), "c", TRUE),
        ((1, "not"), "s", UNKNOWN),
        ((1, "not"), "t", FALSE),
        ((1, "stale"), "c", FALSE),
        ((1, "stale"), "s", TRUE),
        ((1, "stale"), "t", FALSE),
        ((1, "stale", "not"), "s", FALSE),
        ((1, 2, "stale", "or"), "ct", FALSE),
        ((1, 2, "stale", "or"), "cs", TRUE),
        ((1, 2, "or", 3, "and"), "tst", TRUE),
        ((1, 2, "or", 3, "and"), "cst", UNKNOWN),
        ((1, 2, 3, "and", "or", "not"), "ctt", FALSE),
    ],
)
def test_r8_conditions(condition: tuple[int | str, ...], letters: str, value: Truth) -> None:
    results = tuple(LETTER[x] for x in letters.ljust(3, "c"))
    assert fdir.evaluate(condition, {1: 0, 2: 1, 3: 2}, results) is value


# --- time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame_s", [0.1, 1.0])
@pytest.mark.parametrize("persistence_s", [0.0, 3.0])
def test_r8_persistence_at_two_frame_rates(frame_s: float, persistence_s: float) -> None:
    """It acts in the first frame in which the condition has held for long enough, and not in one before."""
    run = Run(act(persistence_s=persistence_s), frame_s=frame_s)
    run.see("c")
    run.see("t")
    begun_s = run.now_s
    while run.orders.ceiling == 1.0:
        run.see("t")
        assert run.now_s < begun_s + 9.0
    assert run.now_s - begun_s == pytest.approx(persistence_s, abs=1e-6)
    assert run.events[0][2]["response"] == "throttle 0.5"


@pytest.mark.parametrize(
    ("letters", "expected"),
    [
        ("ttttt", "...##"),
        ("tttctttt", ".......#"),
        # Held while unknown: the time that passes counts for neither side.
        ("ttsssstt", ".......#"),
        ("tscttt", "......"),
        ("tscttttt", "......##"),
        # Standing, released after 2 s of FALSE; unknown neither ends nor restarts that.
        ("ttttccc", "...###."),
        ("ttttcsscc", "...#####."),
        ("ttttcctcc", "...######"),
        ("ttttctccc", "...#####."),
        ("ttttssss", "...#####"),
    ],
)
def test_r8_persistence_and_release(letters: str, expected: str) -> None:
    assert done(letters) == expected


def done(letters: str) -> str:
    """Where the throttle stands, one frame a second, with 3 s of persistence and 2 s of release."""
    run, found = Run(act(persistence_s=3.0, release_s=2.0)), ""
    for letter in letters:
        run.see(letter)
        found += "#" if run.orders.ceiling == 0.5 else "."
    return found


def test_a_frame_without_news_costs_nothing() -> None:
    """The state stays the same object while no result changes and no timer runs."""
    run = Run(act(persistence_s=3.0, release_s=2.0))
    quiet = run.see("c").state
    assert run.see("c").state is quiet
    for letters in ("t", "t"):
        before = run.state
        assert run.see(letters).state is not before
    run.see("t"), run.see("t"), run.see("t")
    standing = run.state
    assert run.see("t").state is standing
    assert run.orders.ceiling == 0.5


# --- switches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("switch", "names", "ceiling", "responses"),
    [("active", ["FDIR_TRIPPED"], 0.5, 1), ("passive", ["FDIR_TRIPPED"], 1.0, 0), ("disabled", [], 1.0, 0)],
)
def test_r8_active_passive_disabled(switch: str, names: list[str], ceiling: float, responses: int) -> None:
    run = Run(act(state=switch)).see("t").see("t")
    assert (run.names(), run.orders.ceiling, run.state.responses) == (names, ceiling, responses)
    assert run.state.tripped == (switch != "disabled")
    if switch == "passive":
        assert run.events[0][2]["response"] == "throttle 0.5 not done, passive"


def test_r8_once_goes_passive_and_is_armed_again_by_the_ground() -> None:
    run = Run(act(repeat="once", release_s=0.0))
    run.see("t")
    assert (run.orders.ceiling, run.state.standing[0].live) == (0.5, False)
    assert run.see("t").orders.ceiling == 0.5, "what stands of it goes on standing"
    run.see("c")
    for _ in range(20):
        run.see("c")
    assert run.see("t").orders.ceiling == 1.0
    assert [e[2]["response"] for e in run.events if e[1] == "FDIR_TRIPPED"][1] == "throttle 0.5 not done, passive"
    run.state = fdir.rearmed(run.state, 0)
    assert run.state.standing[0].count == 0
    assert run.see("t").orders.ceiling == 0.5


def test_r8_repeating_acts_each_time() -> None:
    run = Run(act(response=Response.CHECKPOINT, argument=0.0, release_s=0.0))
    acted = [bool(run.see(letter).orders.impulses) for letter in "tttctct"]
    assert acted == [True, False, False, False, True, False, True]
    assert run.state.responses == 3


@pytest.mark.parametrize("switch", ["active", "passive", "disabled"])
def test_switching_begins_anew_and_ends_what_stands(switch: str) -> None:
    run = Run(act(persistence_s=2.0)).see("t").see("t").see("t")
    assert run.orders.ceiling == 0.5
    run.state = fdir.switched(run.state, 0, switch)
    assert run.state.orders.ceiling == 1.0
    found = [run.see("t").orders.ceiling for _ in range(4)]
    assert found == ([1.0, 1.0, 0.5, 0.5] if switch == "active" else [1.0] * 4)
    assert run.state.standing[0].count == {"active": 2, "passive": 2, "disabled": 1}[switch]


# --- responses ----------------------------------------------------------------------------------------------


def test_r9_the_lowest_ceiling_wins_and_each_ends_for_itself() -> None:
    points = (
        act(id=1, name="a", argument=0.8, condition=(1,), release_s=0.0),
        act(id=2, name="b", argument=0.3, condition=(2,), release_s=0.0, level=2),
        act(id=3, name="p", response=Response.PAUSE, argument=0.0, condition=(3,), release_s=0.0, level=3),
    )
    run = Run(*points)
    found = [
        (run.see(x).orders.ceiling, run.state.level) for x in ("ccc", "tcc", "ttc", "ttt", "tct", "tcc", "ccc")
    ]
    assert found == [(1.0, 0), (0.8, 1), (0.3, 2), (0.0, 3), (0.0, 3), (0.8, 1), (1.0, 0)]


def test_r9_responses_of_one_frame_come_mildest_first() -> None:
    rungs = (
        (Response.POWER_OFF, 5),
        (Response.CHECKPOINT, 2),
        (Response.KILL, 4),
        (Response.THROTTLE, 1),
        (Response.REPORT, 1),
    )
    points = [
        act(id=n, name=f"a{n}", response=response, argument=0.0, level=level)
        for n, (response, level) in enumerate(rungs, 1)
    ]
    orders = Run(*points).see("t").orders
    assert [point.response for point in orders.impulses] == ["report", "checkpoint", "kill", "power_off"]
    assert orders.ceiling == 0.0


def test_r9_an_escalation_is_timed_rung_by_rung() -> None:
    rungs = (
        (Response.THROTTLE, 0.0),
        (Response.CHECKPOINT, 5.0),
        (Response.KILL, 10.0),
        (Response.POWER_OFF, 20.0),
    )
    points = [
        act(id=n, name=f"a{n}", response=response, argument=0.0, level=n, persistence_s=persistence_s)
        for n, (response, persistence_s) in enumerate(rungs, 1)
    ]
    run, done = Run(*points, frame_s=0.5), []
    for _ in range(50):
        run.see("t")
        done += [(str(point.response), run.now_s - 0.5) for point in run.orders.impulses]
    assert done == [("checkpoint", 5.0), ("kill", 10.0), ("power_off", 20.0)]
    assert [fields["level"] for _, _, fields in run.events] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("domain", "fact"),
    [
        ("power", "limit_power"),
        ("thermal", "limit_thermal"),
        ("gpu", "limit"),
        ("link", "limit"),
        ("storage", "limit"),
        ("task", "limit"),
    ],
)
def test_r13_safe_has_its_cause_by_domain_and_names_its_actionpoint(domain: str, fact: str) -> None:
    point = act(response=Response.SAFE, argument=0.0, domain=domain, release_s=3.0)
    run, held = Run(point, act(id=8, name="b", response=Response.SAFE, argument=0.0, domain=domain)), []
    for letters in "ctsccccc":
        orders = run.see(letters).orders
        names = {f for f in ("limit_power", "limit_thermal", "limit") if getattr(orders, f)}
        assert names <= {fact}
        held.append(getattr(orders, fact))
    assert held[1:6] == ["actionpoint 7 (a)"] * 5
    assert held[0] == ""
    assert held[7] == "actionpoint 8 (b)", "the other one still stands"


# --- reports ------------------------------------------------------------------------------------------------


def test_what_is_reported() -> None:
    run = Run(act(condition=(1, 2, "or"), release_s=1.0, level=3)).see("t").see("c").see("c")
    (_, tripped, fields), (_, released, after) = run.events
    assert (tripped, released) == ("FDIR_TRIPPED", "FDIR_RELEASED")
    assert fields == {
        "action": 7,
        "name": "a",
        "level": 3,
        "response": "throttle 0.5",
        "count": 1,
        "condition": "w1 (gpu.die_degc nan > 80) w2 (gpu.die_degc nan > 80) or",
    }
    assert after == {"action": 7, "name": "a", "response": "throttle"}


def test_r8_a_flapping_limit_cannot_storm() -> None:
    """Ten times a second over a minute: it acts each time, and is reported every 10 s with its count."""
    run = Run(act(response=Response.REPORT, argument=0.0, release_s=0.0), frame_s=0.1)
    for _ in range(300):
        run.see("t").see("c")
    trips = [(now_s, fields["count"]) for now_s, name, fields in run.events if name == "FDIR_TRIPPED"]
    assert run.state.responses == 300
    assert 6 <= len(trips) <= 7
    assert all(b[0] - a[0] >= fdir.REPORT_S for a, b in itertools.pairwise(trips))
    assert trips[-1][1] > 200
    assert run.names().count("FDIR_RELEASED") == len(trips)


def test_r8_what_went_stale_is_told_together_and_not_often() -> None:
    run = Run(act())
    told = []
    for now_s, lost in ((1.0, (0, 1)), (2.0, (2,)), (3.0, (2,)), (5.0, ()), (11.0, ()), (12.0, ())):
        run.state, _, found = fdir.step(run.state, seen("sss", lost), FLYING, now_s)
        told += [(now_s, event.name, event.fields) for event in found]
    assert told == [
        (1.0, "FDIR_STALE", {"count": 2, "names": "w1, w2"}),
        (11.0, "FDIR_STALE", {"count": 1, "names": "w3"}),
    ]


def test_a_long_list_of_stale_watchpoints_is_cut() -> None:
    points = tuple(Watchpoint(id=n, name=f"w{n}", parameter="mode", operator=">", trip=9.0) for n in range(1, 9))
    watch = replace(watchpoints.start(WatchTable(name="t", watchpoints=points)), lost=tuple(range(8)))
    _, _, (event,) = fdir.step(Run(act()).state, watch, FLYING, 1.0)
    assert event.fields == {"count": 8, "names": "w1, w2, w3, w4, w5, w6, …"}


# --- another table ------------------------------------------------------------------------------------------


def test_activation_keeps_what_is_the_same() -> None:
    """A response goes on standing when its actionpoint is the same in the new table, and ends with it otherwise."""
    old = (act(), act(id=8, name="b", argument=0.2), act(id=9, name="c", repeat="once", argument=0.9))
    run = Run(*old).see("t")
    assert run.orders.ceiling == 0.2
    new = (old[2], act(id=8, name="b", argument=0.3, persistence_s=60.0), old[0])
    run.state = fdir.activate(run.state, ActionTable(name="u", actionpoints=new))
    assert run.state.orders.ceiling == 0.5
    assert [standing.count for standing in run.state.standing] == [1, 0, 1]
    assert [standing.live for standing in run.state.standing] == [False, True, True]
    assert run.see("t").orders.ceiling == 0.5


# --- planted bugs -------------------------------------------------------------------------------------------


def _stale_is_a_pass(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(fdir.TRUTH_OF, Result.STALE, FALSE)


def _stale_is_an_alarm(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(fdir.TRUTH_OF, Result.STALE, TRUE)


def _nothing_stands(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fdir, "summed", lambda state: replace(state, orders=fdir.Orders()))


def _timers_run_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fdir, "TIMER_SLACK_S", 1.0)


@pytest.mark.parametrize("plant", [_stale_is_a_pass, _stale_is_an_alarm, _nothing_stands, _timers_run_early])
def test_planted_bugs_are_found(plant: object, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    rows = (("ttsssstt", ".......#"), ("ttttcsscc", "...#####."))
    assert [done(letters) for letters, _ in rows] != [expected for _, expected in rows]
