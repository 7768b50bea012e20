"""Responses: what the executive does with the orders of ``fdir`` that are done once.

One row for each response (``ROWS``). All of them act before the mode and the payload are moved in the same frame,
and take the way that a telecommand takes: the rail is commanded, a checkpoint is ordered, a killed worker is
restored by the restart policy, a restart goes up the ladder, a stored sequence is started and runs from this frame
on. What stands (duty ceiling, SAFE) is read by governor and mode from ``fdir.Orders`` themselves.
"""

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from flightsw.link.limit_tables import Actionpoint, Response

from . import checkpoint, eps, ladder, payload, sequence
from .effects import Effect
from .events import Event, Fields
from .inputs import RequestReply
from .lifecycle import Life
from .vehicle import Config, Vehicle

Done = tuple[Vehicle, tuple[Effect | Event | RequestReply, ...]]


def apply(vehicle: Vehicle, config: Config, impulses: tuple[Actionpoint, ...], now_s: float) -> Done:
    """Do what was ordered, in this order."""
    out: tuple[Effect | Event | RequestReply, ...] = ()
    for point in impulses:
        vehicle, said = ROWS[point.response](vehicle, config, point, now_s)
        out += said
    return vehicle, out


def _by(point: Actionpoint) -> str:
    return f"actionpoint {point.id} ({point.name})"


def _report(vehicle: Vehicle, config: Config, point: Actionpoint, now_s: float) -> Done:
    return vehicle, ()


def checkpoint_all(vehicle: Vehicle, config: Config, by: str, now_s: float) -> Done:
    """Ask every training worker for a checkpoint."""
    rings = vehicle.checkpoint
    out: tuple[checkpoint.Outcome, ...] = ()
    for index, (spec, job) in enumerate(zip(config.jobs, vehicle.payload.jobs, strict=True)):
        # One that was asked for already is on its way.
        if spec.kind == "train" and job.life is Life.RUNNING and rings.rings[index].asked_s is None:
            rings, said = checkpoint.order(rings, index, spec.id, by, now_s)
            out += said
    return replace(vehicle, checkpoint=rings), out


def _checkpoint(vehicle: Vehicle, config: Config, point: Actionpoint, now_s: float) -> Done:
    return checkpoint_all(vehicle, config, _by(point), now_s)


def _kill(vehicle: Vehicle, config: Config, point: Actionpoint, now_s: float) -> Done:
    work, out = payload.kill(vehicle.payload, config.jobs, _by(point), now_s)
    return replace(vehicle, payload=work), out


def _power_cycle(vehicle: Vehicle, config: Config, point: Actionpoint, now_s: float) -> Done:
    wanted = vehicle.eps.rail_commanded
    return replace(vehicle, eps=eps.command_rail(vehicle.eps, wanted, _by(point), now_s + point.argument)), ()


def _power_off(vehicle: Vehicle, config: Config, point: Actionpoint, now_s: float) -> Done:
    return replace(vehicle, eps=eps.command_rail(vehicle.eps, False, _by(point))), ()


def _restart(vehicle: Vehicle, config: Config, point: Actionpoint, now_s: float) -> Done:
    return replace(vehicle, ladder=ladder.request(vehicle.ladder, _by(point))), ()


def _sequence(vehicle: Vehicle, config: Config, point: Actionpoint, now_s: float) -> Done:
    name = f"rts{int(point.argument):02}"
    ordered = sequence.start(vehicle.sequences, name, vehicle.correlation, _by(point))
    if isinstance(ordered, sequence.Refusal):
        fields: Fields = {"sequence": name, "by": _by(point), "reason": ordered.text}
        return vehicle, (Event("SEQUENCE_REFUSED", fields),)
    state, found = ordered
    return replace(vehicle, sequences=state), found


ROWS: Final[dict[Response, Callable[[Vehicle, Config, Actionpoint, float], Done]]] = {
    Response.REPORT: _report,
    Response.CHECKPOINT: _checkpoint,
    Response.SEQUENCE: _sequence,
    Response.KILL: _kill,
    Response.POWER_CYCLE: _power_cycle,
    Response.POWER_OFF: _power_off,
    Response.RESTART: _restart,
    Response.SEQUENCE: _sequence,
}
"""Every response that is done once."""
