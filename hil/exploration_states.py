"""States of the explored vehicle in words: when a fault can be, so that its answer can be asked for."""

from typing import Final

from flightsw.core.executive import Vehicle
from flightsw.core.lifecycle import WITH_PROCESS, Life
from flightsw.core.mode import PAYLOAD_MODES
from flightsw.link.schema import Mode

HARD_WORK: Final = 0.1


def always(vehicle: Vehicle) -> bool:
    """Any state."""
    return True


def awake(vehicle: Vehicle) -> bool:
    """Not in SAFE, and not about to restart."""
    # A vehicle that is about to restart comes up again first.
    return vehicle.mode.mode is not Mode.SAFE and vehicle.restart is None


def life(vehicle: Vehicle) -> Life:
    """State of the job."""
    return vehicle.payload.jobs[0].life


def at_work(vehicle: Vehicle) -> bool:
    """A worker is ready."""
    return life(vehicle) is Life.RUNNING


def hard_at_work(vehicle: Vehicle) -> bool:
    """A worker is ready and has to make progress."""
    return at_work(vehicle) and vehicle.payload.jobs[0].duty >= HARD_WORK


def starting(vehicle: Vehicle) -> bool:
    """A worker is being started."""
    return life(vehicle) is Life.STARTING


def stopping(vehicle: Vehicle) -> bool:
    """A worker has been asked to go, or killed."""
    return life(vehicle) is Life.STOPPING


def has_process(vehicle: Vehicle) -> bool:
    """A worker exists."""
    return life(vehicle) in WITH_PROCESS


def alive(vehicle: Vehicle) -> bool:
    """A worker exists that is to stay."""
    return life(vehicle) in (Life.STARTING, Life.RUNNING)


def asked(vehicle: Vehicle) -> bool:
    """A checkpoint has been asked for."""
    return vehicle.checkpoint.rings[0].asked_s is not None


def may_restart(vehicle: Vehicle) -> bool:
    """A dead worker would be replaced at once."""
    orders = vehicle.fdir.orders
    held = orders.limit or orders.limit_power or orders.limit_thermal or vehicle.restart is not None
    held = held or vehicle.shedding.rail_off
    wanted = vehicle.payload.jobs[0].wanted and vehicle.eps.rail_commanded and vehicle.mode.mode in PAYLOAD_MODES
    return alive(vehicle) and wanted and not held and vehicle.now_s >= vehicle.eps.rail_held_s


def rail_on(vehicle: Vehicle) -> bool:
    """The rail is on and wanted."""
    return vehicle.eps.rail_on and vehicle.eps.rail_commanded
