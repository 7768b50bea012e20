"""Thermal control: the two nodes that the mission flies on, and the thresholds of SAFE.

The GPU node passes its heat through a conductance to the radiator node, which radiates it (power-thermal-orbit
reference, section 6.1). Both are read by the bus. The card's own die temperature protects the card and is another
parameter; on a bench that runs the world faster than the machine the two differ by design.
"""

from typing import Annotated, Final

from msgspec import Meta, Struct

from . import limits, sense
from .events import Event
from .limits import CLEAR, Limit, Watch
from .plan import HeatPath

STEFAN_BOLTZMANN_W_M2_K4: Final = 5.670374419e-8
"""CODATA 2018."""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Heat path as believed, and temperature limits."""

    gpu_limit_degc: Annotated[float, Meta(ge=-50.0, le=150.0)] = 80.0
    """Limit of the GPU node; SAFE above it."""
    radiator_limit_degc: Annotated[float, Meta(ge=-50.0, le=150.0)] = 60.0
    """Limit of the radiator node; SAFE above it."""
    conductance_w_k: Annotated[float, Meta(gt=0.0, le=1e4)] = 14.0
    """Conductance from the GPU node to the radiator node."""
    gpu_capacity_j_k: Annotated[float, Meta(gt=0.0, le=1e7)] = 3000.0
    """Heat capacity of the GPU node."""
    radiator_capacity_j_k: Annotated[float, Meta(gt=0.0, le=1e8)] = 12000.0
    """Heat capacity of the radiator node."""
    radiator_area_m2: Annotated[float, Meta(gt=0.0, le=1e4)] = 1.4
    """Radiating area."""
    emissivity: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.85
    """Emissivity of that area."""
    absorbed_w_m2: Annotated[float, Meta(ge=0.0, le=1e4)] = 65.0
    """Flux that it absorbs in the dark, mostly from the Earth."""
    absorbed_sun_w_m2: Annotated[float, Meta(ge=0.0, le=1e4)] = 20.0
    """Flux that it absorbs more in sunlight."""
    clear_k: Annotated[float, Meta(gt=0.0, le=100.0)] = 10.0
    """SAFE may end when the node is this far below its limit."""
    trip_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.5
    """A limit must be passed for this long (machine clock)."""


def heat_path(config: Config) -> HeatPath:
    """Both nodes as configured."""
    area_m2 = config.radiator_area_m2
    return HeatPath(
        gpu_capacity_j_k=config.gpu_capacity_j_k,
        radiator_capacity_j_k=config.radiator_capacity_j_k,
        conductance_w_k=config.conductance_w_k,
        emission_w_k4=config.emissivity * STEFAN_BOLTZMANN_W_M2_K4 * area_m2,
        absorbed_w=config.absorbed_w_m2 * area_m2,
        absorbed_sun_w=config.absorbed_sun_w_m2 * area_m2,
    )


class State(Struct, frozen=True, kw_only=True):
    """Node temperatures (NaN while stale or unknown) and watchpoints."""

    gpu_degc: float = float("nan")
    radiator_degc: float = float("nan")
    gpu_hot: Watch = CLEAR
    radiator_hot: Watch = CLEAR


COLD = State()


def step(state: State, config: Config, sensed: sense.State, now_s: float) -> tuple[State, tuple[Event, ...]]:
    """Thermal state after this frame's sensing."""
    frame = sensed.frame
    if frame is None or not sensed.fresh:
        return State(gpu_hot=state.gpu_hot, radiator_hot=state.radiator_hot), ()
    gpu, radiator = frame.gpu_temp_degc, frame.radiator_temp_degc
    gpu_limit = Limit(config.gpu_limit_degc, config.gpu_limit_degc - config.clear_k, config.trip_s)
    radiator_limit = Limit(config.radiator_limit_degc, config.radiator_limit_degc - config.clear_k, config.trip_s)
    gpu_hot = limits.step(state.gpu_hot, gpu_limit, gpu, now_s)
    radiator_hot = limits.step(state.radiator_hot, radiator_limit, radiator, now_s)
    found: tuple[Event, ...] = ()
    if gpu_hot.active and not state.gpu_hot.active:
        found += (Event("GPU_HOT", {"temp_degc": gpu, "limit_degc": config.gpu_limit_degc}),)
    if radiator_hot.active and not state.radiator_hot.active:
        found += (Event("RADIATOR_HOT", {"temp_degc": radiator, "limit_degc": config.radiator_limit_degc}),)
    return State(gpu_degc=gpu, radiator_degc=radiator, gpu_hot=gpu_hot, radiator_hot=radiator_hot), found
