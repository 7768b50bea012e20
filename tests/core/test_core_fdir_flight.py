"""R8, R9, R13 in flight: from the crossing to the response in one frame, through the whole executive."""

import msgspec
import pytest
from core_flight import Flight, telecommand
from msgspec.structs import replace

from flightsw.core import eps, executive, fdir_memory, fdir_tables, getters
from flightsw.core.effects import KillWorker, Persist, Restart, SaveCheckpoint, SetPace
from flightsw.core.governor import Limiting
from flightsw.core.job import JobConfig
from flightsw.core.lifecycle import Life
from flightsw.link import limit_status
from flightsw.link.errors import TableError
from flightsw.link.limit_tables import Actionpoint, ActionTable, Response, Watchpoint, WatchTable, encode
from flightsw.link.schema import Mode
from flightsw.link.tables import TABLE_BY_NAME

JOBS = (JobConfig(id="train", kind="train"), JobConfig(id="infer", kind="infer", share=0.5))
CONFIG = executive.Config(jobs=JOBS, eps=eps.Config(eclipse_entry_s=3600.0))
WATCHPOINTS, ACTIONPOINTS = TABLE_BY_NAME["watchpoints"], TABLE_BY_NAME["actionpoints"]
HOT = Watchpoint(id=1, name="hot", parameter="eps.battery_temp_degc", operator=">", trip=40.0, clear=38.0)


def act(response: str, **changes: object) -> Actionpoint:
    fields = {"id": 1, "name": "a", "condition": (1,), "domain": "gpu", "release_s": 2.0}
    return Actionpoint(**{**fields, "response": Response(response), **changes})


class Limited(Flight):
    """A flight with one watchpoint on the battery's temperature and these actionpoints, payload at work."""

    def __init__(self, *points: Actionpoint, watch: tuple[Watchpoint, ...] = (HOT,), frame_s: float = 0.1) -> None:
        super().__init__(CONFIG, frame_s=frame_s)
        self.fly(6.0)
        self.load("watchpoints", WatchTable(name="t", watchpoints=watch), "actionpoints")
        self.load("actionpoints", ActionTable(name="t", actionpoints=points))
        self.fly(1.0)
        assert self.vehicle.mode.mode is Mode.COMPUTE
        self.effects.clear()

    def load(self, name: str, table: WatchTable | ActionTable, *empty: str) -> None:
        """Activate tables as the table service does; ``empty`` ones first, with nothing in them."""
        for other in empty:
            self.load(other, ActionTable(name="none", actionpoints=()))
        kind, image = TABLE_BY_NAME[name], encode(table)
        fdir_tables.HANDLERS[kind.kind].check(self.vehicle, CONFIG, kind, image)
        self.vehicle, _ = fdir_tables.HANDLERS[kind.kind].activate(self.vehicle, CONFIG, kind, image, self.now_s)

    def heat(self, degc: float | None) -> tuple[object, ...]:
        """One frame with this temperature of the battery; None is no valid reading."""
        self.sensor_changes["battery_temp_degc"] = float("nan") if degc is None else degc
        return self.frame()

    def send(self, name: str, **arguments: object) -> None:
        self.number = getattr(self, "number", 0) + 1
        self.frame(telecommand(name, self.number, **arguments))


def of(effects: tuple[object, ...], kind: type) -> list[object]:
    return [effect for effect in effects if isinstance(effect, kind)]


@pytest.mark.parametrize("frame_s", [0.1, 1.0])
def test_r8_response_in_the_frame_of_the_sample(frame_s: float) -> None:
    """The duty that goes out in the frame of the crossing is the throttled one."""
    flight = Limited(act("throttle", argument=0.25), frame_s=frame_s)
    assert flight.vehicle.governor.duty > 0.5
    effects = flight.heat(41.0)
    assert flight.vehicle.governor.duty == pytest.approx(0.25)
    assert [pace.duty for pace in of(effects, SetPace)] == [pytest.approx(0.25)]
    assert flight.vehicle.governor.limit is Limiting.FDIR
    assert flight.events("FDIR_TRIPPED")[0][2]["condition"] == "hot (eps.battery_temp_degc 41 > 40)"
    while flight.vehicle.governor.limit is Limiting.FDIR:
        flight.heat(37.0)
    assert flight.events("FDIR_RELEASED")
    assert flight.vehicle.governor.duty > 0.5


def test_r9_pause_gives_no_duty_and_keeps_the_worker() -> None:
    flight = Limited(act("pause"))
    effects = flight.heat(41.0)
    assert [pace.duty for pace in of(effects, SetPace)] == [0.0]
    for _ in range(300):
        flight.heat(41.0)
    assert flight.vehicle.payload.jobs[0].life is Life.RUNNING


def test_r9_checkpoint_asks_every_training_worker_once() -> None:
    flight = Limited(act("checkpoint"), act("checkpoint", id=2, name="b"))
    saves = of(flight.heat(41.0), SaveCheckpoint)
    assert [(save.job, save.reason) for save in saves] == [("train", "actionpoint 1 (a)")]
    flight.fly(2.0)
    assert flight.vehicle.checkpoint.rings[0].committed == 1


def test_r9_kill_restores_from_the_last_checkpoint() -> None:
    flight = Limited(act("kill"))
    assert {kill.job for kill in of(flight.heat(41.0), KillWorker)} == {"train", "infer"}
    assert flight.events("JOB_STATE")[-1][2]["new"] == "STOPPING"
    flight.heat(20.0)
    flight.fly(5.0)
    assert flight.vehicle.payload.jobs[0].life is Life.RUNNING
    assert flight.vehicle.payload.jobs[0].restarts == 1
    assert flight.events("WORKER_DIED")[0][2]["reason"] == "actionpoint 1 (a)"


def test_r9_repeated_kills_end_in_quarantine() -> None:
    """The payload's own ladder counts them: a fault that comes back does not kill for ever."""
    flight = Limited(act("kill", release_s=0.0))
    for _ in range(12):
        flight.heat(41.0)
        flight.heat(20.0)
        flight.fly(8.0)
    assert flight.vehicle.payload.jobs[0].life is Life.QUARANTINED


def test_kill_of_a_worker_that_was_asked_to_stop_is_no_failure() -> None:
    flight = Limited(act("kill"))
    flight.send("job.stop", job="train")
    flight.frame()
    flight.heat(41.0)
    flight.fly(3.0)
    assert flight.vehicle.payload.jobs[0].life is Life.OFF
    assert {fields["job"] for _, _, fields in flight.events("WORKER_DIED")} == {"infer"}


def test_r9_power_cycle_switches_the_rail_off_and_on() -> None:
    flight = Limited(act("power_cycle", argument=3.0))
    flight.heat(41.0)
    assert not flight.rail_on
    off_s = flight.now_s
    flight.heat(20.0)
    while not flight.rail_on:
        flight.frame()
    assert flight.now_s - off_s == pytest.approx(3.0, abs=0.11)
    switched = [(fields["state"], fields["reason"]) for _, _, fields in flight.events("RAIL_SWITCHED")]
    assert switched == [("OFF", "actionpoint 1 (a)"), ("ON", "actionpoint 1 (a)")]
    flight.fly(3.0)
    assert flight.vehicle.payload.jobs[0].life is Life.RUNNING


def test_power_cycle_leaves_off_what_the_operator_switched_off() -> None:
    flight = Limited(act("power_cycle", argument=1.0))
    flight.send("arm", opcode=0x31)
    flight.send("gpu.rail", on=False)
    flight.heat(41.0)
    flight.fly(5.0)
    assert not flight.rail_on


def test_r9_power_off_until_commanded_on() -> None:
    flight = Limited(act("power_off"))
    flight.heat(41.0)
    flight.heat(20.0)
    flight.fly(60.0)
    assert not flight.rail_on
    flight.send("arm", opcode=0x31)
    flight.send("gpu.rail", on=True)
    flight.frame()
    assert flight.rail_on


def test_r9_restart_stops_the_workers_and_restarts() -> None:
    flight = Limited(act("restart"))
    flight.heat(41.0)
    flight.fly(3.0)
    (restart,) = of(tuple(flight.effects), Restart)
    assert "actionpoint 1 (a)" in restart.reason


def test_r9_a_sequence_that_is_not_loaded_is_told() -> None:
    flight = Limited(act("sequence", argument=5.0))
    flight.heat(41.0)
    (_, _, fields) = flight.events("SEQUENCE_REFUSED")[0]
    assert (fields["sequence"], fields["by"]) == ("rts05", "actionpoint 1 (a)")


def test_report_only_reports() -> None:
    flight = Limited(act("report"))
    flight.heat(41.0)
    assert len(flight.events("FDIR_TRIPPED")) == 1
    assert flight.vehicle.governor.duty > 0.5


# --- SAFE ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", ["power", "thermal"])
def test_r13_safe_of_power_and_heat_ends_by_itself(domain: str) -> None:
    """Only while the condition is clear: after its release, and the debounce of SAFE on top."""
    flight = Limited(act("safe", domain=domain, name="too.hot"))
    flight.heat(41.0)
    assert flight.vehicle.mode.mode is Mode.SAFE
    assert flight.vehicle.mode.cause == f"limit_{domain}"
    assert "actionpoint 1 (too.hot)" in flight.events("SAFE_ENTERED")[0][2]["reason"]
    for _ in range(300):
        flight.heat(41.0)
    assert not flight.rail_on, "power and heat shed the rail"
    gone_s = flight.now_s + flight.frame_s
    while flight.vehicle.mode.mode is Mode.SAFE:
        flight.heat(20.0)
    assert flight.now_s - gone_s == pytest.approx(2.0 + CONFIG.mode.recover_s, abs=0.15)


def test_r13_stale_is_no_pass() -> None:
    flight = Limited(act("safe", domain="power"))
    flight.heat(41.0)
    for _ in range(600):
        flight.heat(None)
    assert flight.vehicle.mode.mode is Mode.SAFE


def test_r13_safe_of_another_limit_ends_by_telecommand_and_not_before() -> None:
    flight = Limited(act("safe", domain="task"))
    flight.heat(41.0)
    assert flight.vehicle.mode.cause == "limit"
    flight.fly(30.0)
    flight.send("mode.set", mode=Mode.NOMINAL)
    assert flight.vehicle.mode.mode is Mode.SAFE, "its condition stands"
    assert "actionpoint 1 (a)" in flight.events("TC_FAILED")[0][2]["reason"]
    flight.heat(20.0)
    flight.fly(60.0)
    assert flight.vehicle.mode.mode is Mode.SAFE
    flight.send("mode.set", mode=Mode.NOMINAL)
    flight.frame()
    assert flight.vehicle.mode.mode is not Mode.SAFE


def test_r13_the_stricter_exit_rule_takes_ownership() -> None:
    other = Watchpoint(id=2, name="sag", parameter="eps.bus_voltage_v", operator="<", trip=26.0)
    flight = Limited(
        act("safe", domain="power"), act("safe", id=2, name="b", condition=(2,), domain="gpu"), watch=(HOT, other)
    )
    flight.heat(41.0)
    assert flight.vehicle.mode.cause == "limit_power"
    flight.sensor_changes["bus_voltage_v"] = 25.0
    flight.frame()
    assert flight.vehicle.mode.cause == "limit"
    flight.sensor_changes["bus_voltage_v"] = 28.0
    flight.heat(20.0)
    flight.fly(60.0)
    assert flight.vehicle.mode.mode is Mode.SAFE


def test_r13_the_ground_may_free_a_vehicle_from_a_limit_that_is_wrong() -> None:
    flight = Limited(act("safe", domain="gpu"))
    flight.heat(41.0)
    flight.send("action.state", action=1, state="PASSIVE")
    flight.send("mode.set", mode=Mode.NOMINAL)
    flight.frame()
    assert flight.vehicle.mode.mode is not Mode.SAFE


# --- commands -----------------------------------------------------------------------------------------------


def finals(flight: Flight) -> list[str]:
    return [outcome.text for outcome in flight.vehicle.commanding.history.values()]


def test_r8_commands_switch_and_tell() -> None:
    flight = Limited(act("throttle", argument=0.25, repeat="once"))
    flight.heat(41.0)
    flight.send("watch.report", watch=1)
    flight.send("action.state", action=1, state="DISABLED")
    assert flight.vehicle.fdir.orders.ceiling == 1.0
    flight.send("action.reset", action=1)
    flight.send("watch.report", watch=1)
    assert finals(flight) == [
        "TRIPPED: hot (eps.battery_temp_degc 41 > 40), valid 0.0 s ago",
        "a (throttle) is disabled, tripped 1 times",
        "a (throttle) is disabled, tripped 0 times",
        "TRIPPED: hot (eps.battery_temp_degc 41 > 40), valid 0.0 s ago",
    ]


def test_a_watchpoint_that_was_never_valid_says_so() -> None:
    blind = Watchpoint(id=1, name="hbm", parameter="gpu.memory_degc", operator=">", trip=95.0)
    flight = Limited(watch=(blind,))
    flight.send("watch.report", watch=1)
    assert finals(flight) == ["STALE: hbm (gpu.memory_degc nan > 95), valid never"]


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("action.state", {"action": 2, "state": "ACTIVE"}, "UNKNOWN_TARGET"),
        ("action.state", {"action": 0, "state": "ACTIVE"}, "BAD_ARGUMENT"),
        ("action.state", {"action": 10_000, "state": "ACTIVE"}, "BAD_ARGUMENT"),
        ("action.state", {"action": 1.5, "state": "ACTIVE"}, "BAD_ARGUMENT"),
        ("action.state", {"action": 1, "state": "ASLEEP"}, "BAD_ARGUMENT"),
        ("action.state", {"action": 1, "state": 3}, "BAD_ARGUMENT"),
        ("action.state", {"action": 1}, "BAD_ARGUMENT"),
        ("action.state", {"action": 1, "state": "ACTIVE", "why": 1}, "BAD_ARGUMENT"),
        ("action.reset", {"action": 2}, "UNKNOWN_TARGET"),
        ("action.reset", {"action": -1}, "BAD_ARGUMENT"),
        ("action.reset", {}, "BAD_ARGUMENT"),
        ("watch.report", {"watch": 2}, "UNKNOWN_TARGET"),
        ("watch.report", {"watch": 0}, "BAD_ARGUMENT"),
        ("watch.report", {"watch": "hot"}, "BAD_ARGUMENT"),
    ],
)
def test_r8_a_refused_command_changes_nothing(name: str, arguments: dict[str, object], code: str) -> None:
    flight = Limited(act("throttle", argument=0.25))
    flight.heat(20.0)
    before = flight.vehicle.fdir
    flight.send(name, **arguments)
    (outcome,) = flight.vehicle.commanding.history.values()
    assert outcome.code.name == code
    assert outcome.text
    assert flight.vehicle.fdir is before


# --- tables -------------------------------------------------------------------------------------------------


def test_r8_a_watch_table_that_lacks_what_an_active_actionpoint_names_is_refused() -> None:
    flight = Limited(act("throttle", argument=0.25))
    before = flight.vehicle
    with pytest.raises(TableError, match=r"actionpoint 1 \(a\): condition names watchpoint 1"):
        flight.load("watchpoints", WatchTable(name="u", watchpoints=(replace(HOT, id=2),)))
    handler = fdir_tables.HANDLERS[WATCHPOINTS.kind]
    with pytest.raises(TableError, match="need more"):
        handler.activate(flight.vehicle, CONFIG, WATCHPOINTS, encode(WatchTable(name="u", watchpoints=())), 0.0)
    with pytest.raises(TableError, match="watchpoint 9, which is not in the table"):
        flight.load("actionpoints", ActionTable(name="u", actionpoints=(act("kill", condition=(9,)),)))
    with pytest.raises(TableError, match="need more"):
        handler.activate(flight.vehicle, CONFIG, WATCHPOINTS, None, 0.0)
    assert flight.vehicle is before


def test_r8_reset_brings_the_shipped_pair_back() -> None:
    flight = Limited(act("throttle", argument=0.25))
    flight.load("actionpoints", ActionTable(name="none", actionpoints=()))
    for table in (WATCHPOINTS, ACTIONPOINTS):
        handler = fdir_tables.HANDLERS[table.kind]
        flight.vehicle, _ = handler.activate(flight.vehicle, CONFIG, table, None, flight.now_s)
    fresh = executive.boot(CONFIG, boot_count=1, cause="t", crash_loop=False, config_hash="", now_s=0.0)[0]
    for table in (WATCHPOINTS, ACTIONPOINTS):
        handler = fdir_tables.HANDLERS[table.kind]
        assert handler.image(flight.vehicle, table) == handler.image(fresh, table)
    assert not flight.vehicle.limit_tables.loaded


def boot(**durable: bytes) -> tuple[executive.Vehicle, tuple[object, ...]]:
    return executive.boot(
        CONFIG, boot_count=2, cause="t", crash_loop=False, config_hash="", now_s=0.0, durable=durable
    )


def named(effects: tuple[object, ...]) -> list[str]:
    return [effect.name for effect in effects if type(effect).__name__ == "Announce"]


def first_frame(vehicle: executive.Vehicle) -> tuple[executive.Vehicle, tuple[object, ...]]:
    return executive.step(vehicle, CONFIG, executive.Inputs(), 0.1)


def test_r8_a_stored_pair_comes_back_whatever_its_ids_are() -> None:
    watch = WatchTable(name="w", watchpoints=(HOT,))
    action = ActionTable(name="a", actionpoints=(act("pause"),))
    vehicle, effects = boot(watchpoints=encode(watch), actionpoints=encode(action))
    vehicle, later = first_frame(vehicle)
    assert "TABLE_REJECTED" not in named(effects) + named(later)
    assert (vehicle.watch.table, vehicle.fdir.table) == (watch, action)


@pytest.mark.parametrize("stored", ["watchpoints", "actionpoints"])
def test_r8_half_a_pair_that_does_not_fit_is_refused_as_a_whole(stored: str) -> None:
    images = {
        "watchpoints": encode(WatchTable(name="w", watchpoints=(HOT,))),
        "actionpoints": encode(ActionTable(name="a", actionpoints=(act("pause"),))),
    }
    vehicle, effects = boot(**{stored: images[stored]})
    vehicle, later = first_frame(vehicle)
    assert "TABLE_REJECTED" in named(effects) + named(later)
    assert vehicle.watch.table.name == vehicle.fdir.table.name == "shipped"


def test_shipped_limits_follow_parameters_that_change_in_flight() -> None:
    """Thresholds are made anew for the configuration that is flown; what the ground has switched stays switched."""
    flight = Flight(CONFIG)
    flight.fly(5.0)
    flight.frame(telecommand("action.state", 1, action=161, state="DISABLED"))
    warmer = replace(
        CONFIG,
        thermal=replace(CONFIG.thermal, gpu_limit_degc=90.0),
        fdir=replace(CONFIG.fdir, array_weak_s=90.0),
    )
    before = flight.vehicle.watch
    flight.config = warmer
    flight.frame()
    watch, answer = flight.vehicle.watch, flight.vehicle.fdir
    node = watch.program.index[210]
    assert watch.program.points[node].trip == pytest.approx(before.program.points[node].trip + 10.0)
    assert watch.stale <= before.stale
    weak = [point.id for point in answer.table.actionpoints].index(161)
    assert answer.table.actionpoints[weak].persistence_s == 90.0
    assert answer.standing[weak].switch == "disabled"


# --- what outlives a restart --------------------------------------------------------------------------------


def kept(effects: object) -> bytes | None:
    facts = [e.payload for e in effects if isinstance(e, Persist) and e.key == fdir_memory.KEY]
    return facts[-1] if facts else None


def test_r8_what_the_ground_switched_and_what_is_spent_outlives_a_restart() -> None:
    flight = Flight(CONFIG)
    flight.fly(1.0)
    flight.frame(telecommand("action.state", 1, action=111, state="DISABLED"))
    payload = kept(flight.effects)
    vehicle, _ = boot(fdir=payload)
    standing = {p.id: s for p, s in zip(vehicle.fdir.table.actionpoints, vehicle.fdir.standing, strict=True)}
    assert standing[111].switch == "disabled"
    assert {s.switch for id, s in standing.items() if id != 111} == {"active"}


def test_r8_a_once_is_written_in_the_frame_in_which_it_acts() -> None:
    flight = Limited(act("kill", repeat="once"))
    payload = kept(flight.heat(41.0))
    assert msgspec.msgpack.decode(payload) == [[1, "a", "active", True]]
    flight.send("action.reset", action=1)
    assert msgspec.msgpack.decode(kept(flight.effects)) == []


@pytest.mark.parametrize("payload", [b"\xc1", b"\x91\x01", msgspec.msgpack.encode([[1, "a", "asleep", True]])])
def test_r8_a_fact_that_does_not_decode_is_told(payload: bytes) -> None:
    vehicle, effects = boot(fdir=payload)
    assert "DURABLE_REFUSED" in named(effects)
    assert {standing.switch for standing in vehicle.fdir.standing} == {"active"}


def test_a_fact_of_an_actionpoint_that_is_gone_is_forgotten() -> None:
    vehicle, effects = boot(fdir=msgspec.msgpack.encode([[9999, "gone", "passive", False]]))
    assert "DURABLE_REFUSED" not in named(effects)
    assert {standing.switch for standing in vehicle.fdir.standing} == {"active"}


# --- status -------------------------------------------------------------------------------------------------


def test_status_tells_every_watchpoint_and_actionpoint() -> None:
    flight = Limited(act("throttle", argument=0.25), act("kill", id=2, name="b", state="passive"))
    flight.heat(41.0)
    status = limit_status.decode_status(fdir_tables.status(flight.vehicle, TABLE_BY_NAME["fdir_status"]))
    (hot,) = status.watch
    assert (hot.id, hot.name, hot.result, hot.value, hot.age_s) == (1, "hot", "TRIPPED", 41.0, 0.0)
    assert [(a.id, a.switch, a.spent, a.condition, a.tripped, a.acting, a.count) for a in status.action] == [
        (1, "active", False, "TRUE", True, True, 1),
        (2, "passive", False, "TRUE", True, False, 1),
    ]


@pytest.mark.parametrize("octets", [b"", b"\xc1", bytes(200_000), msgspec.msgpack.encode([2, [], []])])
def test_no_status(octets: bytes) -> None:
    with pytest.raises(TableError, match="image"):
        limit_status.decode_status(octets)


def test_telemetry_of_limits() -> None:
    flight = Limited(act("throttle", argument=0.25), act("report", id=2, name="b", level=4))
    flight.heat(41.0)
    told = {
        name: getters.GETTERS[f"fdir.{name}"](flight.vehicle) for name in ("tripped", "stale", "level", "responses")
    }
    assert told == {"tripped": 2, "stale": 0, "level": 4, "responses": 2}
    assert getters.GETTERS["fdir.duty_ceiling"](flight.vehicle) == 0.25
