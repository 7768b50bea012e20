"""The vehicle of the exploration: its configuration, what a choice makes of it, and what of it is compared.

``after`` flies a choice and gives every frame of it; ``essence`` is the part of a vehicle that decides about mode,
rail and payload. What may happen is in ``exploration_walks``.

The estimators of charge and heat and the verdicts on sensors begin anew before each frame, so that the estimates
are what the frame reads. Their memory is continuous, and would make every vehicle a state of its own; what they do
with their memory is flown by their own tests.
"""

import functools
import math
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from flightsw.core import charge, commanding, executive, fdir, heat_model, plausible, watchpoints
from flightsw.core.effects import Announce, Effect, Persist, Restart
from flightsw.core.inputs import Health, Inputs, Report, WorkerExited, WorkerFault, WorkerProgress, WorkerReady
from flightsw.core.lifecycle import WITH_PROCESS, Life
from flightsw.link.avionics import SensorFrame
from flightsw.link.dictionary import EVENT_BY_NAME, TELECOMMAND_BY_NAME
from flightsw.link.limit_tables import ActionTable, WatchTable
from flightsw.link.schema import Hazard

from .exploration_walks import ACTIONS, ORDERS, SHORT_S, WATCHES, WORLDS, Choice, Walk
from .inproc_evidence import TimedCommand, telecommand_packet

TAI_AT_ZERO_S: Final = 2.1e9
SILENCE_MAX_S: Final = 3000.0
WALK_TABLE: Final = "walk"
CONFIGURATIONS_MAX: Final = 16
MUTED: Final = frozenset(
    EVENT_BY_NAME[name].id
    for name in (
        "CHARGE_CONTRADICTED",
        "FDIR_RELEASED",
        "INTEGRITY_LEVEL",
        "PROBE_SILENT",
        "RAIL_SWITCHED",
        "SENSORS_RECOVERED",
        "SENSORS_STALE",
        "SHED_RUNG",
        "TIME_QUALITY",
    )
)
"""Event reports that nothing here reads are muted, as operators mute them; a tenth of the time."""
SECTIONS: Final[dict[str, dict[str, Any]]] = {
    "housekeeping": {"fast_interval_s": 0.0, "main_interval_s": 0.0, "slow_interval_s": 0.0},
    "durable": {"persist_interval_s": 1.0},
    "eps": {"trip_s": 0.0},
    "thermal": {"trip_s": 0.0},
    "shedding": {"hold_s": 0.0, "alarm_s": 0.0, "stale_off_s": 30.0, "safe_after_s": 30.0},
    "ladder": {"restarts_max": 1, "quarantine_retries": 100},
    "mode": {"recover_s": 10.0, "stale_safe_s": 40.0, "loss_of_contact_s": SILENCE_MAX_S},
    "payload": {
        "start_timeout_s": 10.0,
        "stop_timeout_s": 10.0,
        "kill_timeout_s": 5.0,
        "heartbeat_timeout_s": 10.0,
        "hang_timeout_s": 1.0,
        "quarantine_retry_s": 10.0,
        "backoff_s": 0.0,
    },
}
PASSED: Final[dict[str, float]] = {"derate_dwell_s": 0.0, "budget_dwell_s": 0.0, "shed_dwell_s": 0.0}
"""Load shedding outside its own walk: what only bounds the duty is not stood on for a time."""

SUNLIT: Final = SensorFrame(
    sequence=0,
    world_s=0.0,
    tai_s=0.0,
    warp=1.0,
    bus_voltage_v=33.0,
    bus_current_a=5.0,
    array_power_w=1200.0,
    battery_voltage_v=33.0,
    battery_current_a=0.0,
    battery_temp_degc=15.0,
    soc_fraction=0.95,
    sun_fraction=1.0,
    gpu_temp_degc=40.0,
    radiator_temp_degc=10.0,
    gpu_rail_power_w=100.0,
    gpu_rail_on=True,
    latitude_deg=10.0,
    longitude_deg=20.0,
    altitude_km=550.0,
    proton_flux_cm2_s=3.0,
    radio_lock=False,
)


class Node(msgspec.Struct, frozen=True):
    """A vehicle, and what its store holds."""

    vehicle: executive.Vehicle
    durable: dict[str, bytes]


class Moment(msgspec.Struct, frozen=True):
    """The node after one frame or boot, and the effects of it."""

    node: Node
    effects: tuple[Effect, ...]


Key = tuple[Any, ...]


def configuration(walk: Walk) -> executive.Config:
    """The core's configuration of a walk, with timers that fit the frames."""
    payload = SECTIONS["payload"] | {"restarts_max": 100 if walk.retries else 0}
    shedding = SECTIONS["shedding"] | ({} if walk.rungs else PASSED)
    sections = SECTIONS | {"payload": payload, "shedding": shedding, "jobs": [{"id": "job", "kind": walk.kind}]}
    return msgspec.convert(sections, executive.Config)


def fresh(walk: Walk, config: executive.Config) -> Node:
    """The first boot."""
    vehicle, _ = executive.boot(
        config, boot_count=1, cause="first", crash_loop=False, config_hash="", now_s=1.0, power_on=True
    )
    points = tuple(point for point in ACTIONS if point.response in walk.responses)
    seen = tuple(watch for watch in WATCHES if any(watch.id == point.id for point in points))
    watch = WatchTable(name=WALK_TABLE, watchpoints=seen)
    actions = ActionTable(name=WALK_TABLE, actionpoints=points)
    return Node(_furnished(vehicle, watch, actions), {})


def after(node: Node, config: executive.Config, choice: Choice) -> tuple[Moment, ...]:
    """Every frame and boot of a choice; hazardous commands are armed, commands in flight forgotten before it."""
    now_s = node.vehicle.now_s + choice.frame_s
    if choice.boot:
        return (_booted(node, config, choice.boot, choice.boot == "crash loop", now_s),)
    moments = [_framed(node, config, choice, now_s)]
    if choice.order and not _restarts(moments[-1].effects):
        moments.append(_framed(moments[-1].node, config, Choice(world=choice.then), now_s + SHORT_S))
    if choice.ends and not _restarts(moments[-1].effects):
        moments.append(_framed(moments[-1].node, config, Choice(), now_s + SHORT_S))
    if _restarts(moments[-1].effects):
        last = moments[-1].node
        moments.append(_booted(last, config, "restart", False, last.vehicle.now_s))
    return tuple(moments)


def essence(node: Node) -> Key:
    """What of a node decides about its mode, its rail and its payload."""
    vehicle = node.vehicle
    now_s, job, moded, power, heat = (
        vehicle.now_s, vehicle.payload.jobs[0], vehicle.mode, vehicle.eps, vehicle.thermal,
    )  # fmt: skip
    return (
        moded.mode,
        moded.cause,
        moded.resume,
        moded.gone_s == -math.inf,
        power.rail_commanded,
        power.rail_on,
        power.soc_low.active,
        power.undervoltage.active,
        heat.gpu_hot.active,
        heat.radiator_hot.active,
        vehicle.sense.fresh,
        vehicle.sense.age_s(now_s) > SECTIONS["mode"]["recover_s"],
        vehicle.sense.age_s(now_s) > SECTIONS["mode"]["stale_safe_s"],
        vehicle.sense.contact,
        vehicle.contact_loss.lost,
        vehicle.contact_loss.silence_s >= SILENCE_MAX_S,
        vehicle.durable.known.silence_s >= SILENCE_MAX_S,
        vehicle.durable.known.safe_cause,
        vehicle.restart is not None,
        vehicle.ladder.restarts,
        vehicle.ladder.exhausted,
        bool(vehicle.ladder.requested),
        job.life,
        job.wanted,
        job.killed and job.life is Life.STOPPING,
        bool(job.broken) and job.life in WITH_PROCESS,
        job.life is Life.QUARANTINED and job.retry_s > now_s,
        power.rail_held_s > now_s,
        vehicle.fdir.orders.ceiling,
        bool(vehicle.fdir.orders.limit_power),
        bool(vehicle.fdir.orders.limit_thermal),
        bool(vehicle.fdir.orders.limit),
        _rungs(vehicle),
        tuple((standing.truth, standing.tripped) for standing in vehicle.fdir.standing),
    )


def _rungs(vehicle: executive.Vehicle) -> Key:
    """Where the ladder stands, what asks for it, and which of its times run."""
    ladder = vehicle.shedding
    asking = (ladder.soc.rung, ladder.bus.rung, ladder.gpu.rung, ladder.radiator.rung)
    running = (ladder.clear_s == -math.inf, ladder.off_s == -math.inf, ladder.bad_s == -math.inf)
    return (ladder.rung, asking, running, ladder.cut, ladder.drops, ladder.doubts, bool(ladder.safe))


def store_key(node: Node) -> Key:
    """What of the store decides about a boot; a boot sees nothing else of the life before it."""
    known = node.vehicle.durable.known
    return (known.safe_cause, known.silence_s >= SILENCE_MAX_S, known.ladder_restarts, bool(node.durable))


def said(effects: tuple[Effect, ...]) -> list[tuple[str, str]]:
    """Events among the effects: name and text."""
    return [(effect.name, effect.text) for effect in effects if isinstance(effect, Announce)]


def _framed(node: Node, config: executive.Config, choice: Choice, now_s: float) -> Moment:
    vehicle = node.vehicle
    desk = replace(vehicle.commanding, in_flight=(), history={})
    packets: tuple[bytes, ...] = ()
    if choice.order:
        name, arguments = ORDERS[choice.order]
        spec = TELECOMMAND_BY_NAME[name]
        if spec.hazard is Hazard.HAZARDOUS:
            desk = commanding.arm(desk, config.commanding, spec.opcode, now_s)
        packets = (telecommand_packet(TimedCommand(world_s=0.0, name=name, arguments=arguments), 1, 1),)
    inputs = Inputs(
        sensors=_frame(vehicle, choice.world, now_s),
        reports=_reports(vehicle, choice.report),
        telecommands=packets,
        health=Health(disk_free_mb=choice.free),
    )
    forgetful = replace(
        vehicle,
        commanding=desk,
        sense=replace(vehicle.sense, verdicts=plausible.START),
        eps=replace(vehicle.eps, battery=charge.COLD),
        thermal=replace(vehicle.thermal, model=_cold_nodes(config.thermal)),
    )
    new, effects = executive.step(forgetful, config, inputs, now_s)
    return Moment(Node(new, _stored(node.durable, effects)), effects)


@functools.lru_cache(maxsize=CONFIGURATIONS_MAX)
def _cold_nodes(config: heat_model.Config) -> heat_model.State:
    return heat_model.start(config)


def _restarts(effects: tuple[Effect, ...]) -> bool:
    return any(isinstance(effect, Restart) for effect in effects)


def _booted(node: Node, config: executive.Config, cause: str, crash_loop: bool, now_s: float) -> Moment:
    vehicle, effects = executive.boot(
        config,
        boot_count=node.vehicle.boot_count + 1,
        cause=cause,
        crash_loop=crash_loop,
        config_hash="",
        now_s=now_s,
        durable=node.durable,
        power_on=False,
    )
    watch, actions = node.vehicle.watch.table, node.vehicle.fdir.table
    vehicle = _furnished(vehicle, watch, actions)
    return Moment(Node(vehicle, _stored(node.durable, effects)), effects)


def _furnished(vehicle: executive.Vehicle, watch: WatchTable, actions: ActionTable) -> executive.Vehicle:
    """With the tables of the walk in the place of the shipped ones, and without reports that nobody reads."""
    told = replace(vehicle.events, muted=MUTED)
    return replace(vehicle, watch=watchpoints.start(watch), fdir=fdir.start(actions), events=told)


def _stored(durable: dict[str, bytes], effects: tuple[Effect, ...]) -> dict[str, bytes]:
    written = {effect.key: effect.payload for effect in effects if isinstance(effect, Persist)}
    return {**durable, **written} if written else durable


def _frame(vehicle: executive.Vehicle, world: str, now_s: float) -> SensorFrame | None:
    changes = WORLDS[world]
    if changes is None:
        return None
    old = vehicle.sense.frame
    sequence = 1 if old is None else old.sequence + 1
    return replace(SUNLIT, sequence=sequence, world_s=now_s, tai_s=TAI_AT_ZERO_S + now_s, **changes)


def _reports(vehicle: executive.Vehicle, report: str) -> tuple[Report, ...]:
    job = vehicle.payload.jobs[0]
    match report:
        case "ready":
            return (WorkerReady(job="job", pid=1, device="cpu", step=0, generation=-1),)
        case "beat" | "progress":
            done = job.progress + (report == "progress")
            return (
                WorkerProgress(
                    job="job", progress=done, step=1, loss=1.0, tokens=1, busy_s=1.0, micro_batch_s=0.1, pending=0
                ),
            )
        case "killed":
            return (WorkerExited(job="job", returncode=-9, reason="killed"),)
        case "done":
            return (WorkerExited(job="job", returncode=0, reason="done"),)
        case "fault":
            return (WorkerFault(job="job", code="OUT_OF_MEMORY", reason="no memory"),)
        case _:
            return ()
