"""Thermal control: the two nodes that the mission flies on, and the thresholds of SAFE.

The GPU node passes its heat through a conductance to the radiator node, which radiates it (power-thermal-orbit
reference, section 6.1). Both are read by the bus, filtered and explained by ``heat_model``. The card's own die
temperature protects the card and is another parameter; on a bench that runs the world faster than the machine the
two differ by design.

The governor flies within a kelvin of the limits, and a reading's noise would pass them every minute. So the
thresholds of SAFE look at the estimates, and at a reading where it stands out of its noise: then the hotter counts.
"""

from typing import Annotated

from msgspec import Meta, Struct

from flightsw.link.avionics import SensorFrame

from . import heat_model, limits, sense
from .events import Event
from .limits import CLEAR, NEVER, Limit, Watch
from .plan import HeatPath


class Config(heat_model.Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Heat path as believed, and temperature limits."""

    gpu_limit_degc: Annotated[float, Meta(ge=-50.0, le=150.0)] = 80.0
    """Limit of the GPU node; SAFE above it."""
    radiator_limit_degc: Annotated[float, Meta(ge=-50.0, le=150.0)] = 60.0
    """Limit of the radiator node; SAFE above it."""
    clear_k: Annotated[float, Meta(gt=0.0, le=100.0)] = 10.0
    """SAFE may end when the node is this far below its limit."""
    trip_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.5
    """A limit must be passed for this long (machine clock)."""


class State(Struct, frozen=True, kw_only=True):
    """Node temperatures as estimated, their standard uncertainties (NaN while stale or unknown), and watchpoints.

    ``model`` holds the filter and the heat path as learned; ``taken_s`` and ``received_s`` say when the last frame
    came (mission and machine time).
    """

    model: heat_model.State
    taken_s: float = NEVER
    received_s: float = NEVER
    gpu_degc: float = float("nan")
    radiator_degc: float = float("nan")
    gpu_sigma_k: float = float("nan")
    radiator_sigma_k: float = float("nan")
    gpu_hot: Watch = CLEAR
    radiator_hot: Watch = CLEAR

    @property
    def heat(self) -> HeatPath:
        """The heat path as learned."""
        return self.model.heat


def start(config: Config) -> State:
    """State at boot: the heat path as configured, temperatures unknown."""
    return State(model=heat_model.start(config))


def step(
    state: State, config: Config, sensed: sense.State, world_s: float, now_s: float, bus_power_w: float
) -> tuple[State, tuple[Event, ...]]:
    """Thermal state after this frame's sensing; ``world_s`` is mission time that does not jump.

    ``bus_power_w`` is what everything but the GPU draws and leaves in the radiator.
    """
    frame, raw, model, taken_s = sensed.frame, sensed.raw, state.model, state.taken_s
    if frame is not None and sensed.received_s != state.received_s:
        dt_s = max(0.0, world_s - taken_s) if taken_s != NEVER else 0.0
        model = heat_model.step(model, config, frame, bus_power_w, dt_s)
        taken_s = world_s
    if raw is None or not sensed.fresh:
        return State(
            model=model,
            taken_s=taken_s,
            received_s=sensed.received_s,
            gpu_hot=state.gpu_hot,
            radiator_hot=state.radiator_hot,
        ), ()
    gpu_hot, radiator_hot, found = _ceiling(state, config, raw, model, now_s)
    return State(
        model=model,
        taken_s=taken_s,
        received_s=sensed.received_s,
        gpu_degc=model.gpu_degc,
        radiator_degc=model.radiator_degc,
        gpu_sigma_k=model.gpu_sigma_k,
        radiator_sigma_k=model.radiator_sigma_k,
        gpu_hot=gpu_hot,
        radiator_hot=radiator_hot,
    ), found


def _ceiling(
    state: State, config: Config, raw: SensorFrame, model: heat_model.State, now_s: float
) -> tuple[Watch, Watch, tuple[Event, ...]]:
    """The thresholds of SAFE, on the estimates: without noise, and as hot as a reading that stands out of it.

    A reading that is not believed is no estimate; there it counts as it came, because an alarm may be true.
    """
    gpu = _hotter(model.gpu_degc, raw.gpu_temp_degc, config.sensor_noise_k)
    radiator = _hotter(model.radiator_degc, raw.radiator_temp_degc, config.sensor_noise_k)
    gpu_limit = Limit(config.gpu_limit_degc, config.gpu_limit_degc - config.clear_k, config.trip_s)
    radiator_limit = Limit(config.radiator_limit_degc, config.radiator_limit_degc - config.clear_k, config.trip_s)
    gpu_hot = limits.step(state.gpu_hot, gpu_limit, gpu, now_s)
    radiator_hot = limits.step(state.radiator_hot, radiator_limit, radiator, now_s)
    found: tuple[Event, ...] = ()
    if gpu_hot.active and not state.gpu_hot.active:
        found += (Event("GPU_HOT", {"temp_degc": gpu, "limit_degc": config.gpu_limit_degc}),)
    if radiator_hot.active and not state.radiator_hot.active:
        found += (Event("RADIATOR_HOT", {"temp_degc": radiator, "limit_degc": config.radiator_limit_degc}),)
    return gpu_hot, radiator_hot, found


def _hotter(estimate: float, reading: float, noise_k: float) -> float:
    """The estimate, or a reading that is over it by more than noise; the one that is a number."""
    return reading if estimate != estimate or reading > estimate + heat_model.GATE * noise_k else estimate
