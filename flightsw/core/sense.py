"""Sensing: from the newest frames to what the rest of the core may believe, and since when.

Two questions are answered here once, so that nobody downstream asks them again; what time it is, ``correlation``
tells from the same frames.

*Is it new?* A sensor frame counts when its sequence number moved on; a frozen or reordered frame does not. The
sensors are stale when ``stale_after_s`` of the machine's clock went by without a valid frame; then an older
sequence number is taken too, because the bus has evidently been restarted.

*Is it possible?* Each field has a physical range (``RANGES``). A reading outside is ignored and reported once per
excursion; the last good value stands in for ``stale_after_s``, then the field is NaN. A frame without the
``ESSENTIAL`` fields is no valid frame: nobody flies on a battery of unknown charge.

*Does it lie?* What is possible may still not be believed (``plausible``): such a field is NaN in ``frame`` and as
it came in ``raw``. A frame that stands still as a whole is no valid frame, and not taken. Single sensors that lie
are no reason to call the frame invalid: the estimates of charge and heat go on without them, less and less certain.

The GPU's own telemetry comes from another device and has a staleness of its own.
"""

from operator import attrgetter
from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from flightsw.link.avionics import SensorFrame

from . import plausible
from .events import Event
from .inputs import GpuSample, Inputs
from .limits import NEVER

RANGES: Final[dict[str, tuple[float, float]]] = {
    "bus_voltage_v": (0.0, 150.0),
    "bus_current_a": (-5.0, 500.0),
    "array_power_w": (-50.0, 20_000.0),
    "battery_voltage_v": (0.0, 150.0),
    "battery_current_a": (-500.0, 500.0),
    "battery_temp_degc": (-80.0, 120.0),
    "soc_fraction": (-0.05, 1.05),
    "sun_fraction": (-0.05, 1.5),
    "gpu_temp_degc": (-100.0, 200.0),
    "radiator_temp_degc": (-150.0, 200.0),
    "gpu_rail_power_w": (-50.0, 5_000.0),
    "latitude_deg": (-90.001, 90.001),
    "longitude_deg": (-360.001, 360.001),
    "altitude_km": (50.0, 100_000.0),
    "proton_flux_cm2_s": (-1.0, 1e9),
}
"""Lowest and highest value that the instrument can physically give; noise around an end is allowed for."""
ESSENTIAL: Final = ("soc_fraction", "gpu_temp_degc", "radiator_temp_degc")

_values = attrgetter(*RANGES)
_bounds: Final = tuple(RANGES.values())


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Staleness of what is sensed, on the machine clock."""

    stale_after_s: Annotated[float, Meta(ge=0.2, le=60.0)] = 2.0
    """Sensors are stale without a valid frame for this long; then the governor idles the GPU."""
    gpu_stale_after_s: Annotated[float, Meta(ge=0.5, le=300.0)] = 5.0
    """The card's own telemetry is stale after this."""
    gpu_start_s: Annotated[float, Meta(ge=1.0, le=600.0)] = 60.0
    """The probe may take this long after boot before its silence is reported."""


class State(Struct, frozen=True, kw_only=True):
    """What is known, and since when (``*_s`` without further word: machine clock).

    ``raw`` is the newest frame with impossible values taken out, ``frame`` the same without what is not believed
    (``bad``). ``held`` names the fields whose readings are
    being ignored, and since when.
    """

    boot_s: float
    frame: SensorFrame | None = None
    raw: SensorFrame | None = None
    verdicts: plausible.State = plausible.START
    received_s: float = NEVER
    valid_s: float = NEVER
    fresh: bool = False
    stale_reported: bool = False
    held: tuple[tuple[str, float], ...] = ()
    contact: bool = False
    gpu: GpuSample | None = None
    gpu_received_s: float = NEVER
    gpu_fresh: bool = False
    gpu_silent_reported: bool = False

    @property
    def bad(self) -> tuple[str, ...]:
        """Sensors not believed now: frozen, jumped, contradicted, impossible; "all" is the whole frame."""
        return (*(name for name, _ in self.verdicts.bad), *(name for name, _ in self.held))

    def age_s(self, now_s: float) -> float:
        """Time since the last valid frame, or since boot when none has come yet (machine clock)."""
        return now_s - max(self.valid_s, self.boot_s)


def start(now_s: float) -> State:
    """State at boot."""
    return State(boot_s=now_s)


def step(state: State, config: Config, inputs: Inputs, now_s: float) -> tuple[State, tuple[Event, ...]]:
    """Take in what is new and judge it."""
    found: list[Event] = []
    frame, received_s, valid_s, held = state.frame, state.received_s, state.valid_s, state.held
    raw, judged = state.raw, state.verdicts
    new = inputs.sensors
    if new is not None and _is_news(state, new):
        screened, held = _screened(new, raw, held, config, now_s, found)
        # What stands in for an impossible reading stands still, and says nothing of the sensor.
        seen = replace(screened, **dict.fromkeys(dict(held), float("nan"))) if held else screened
        judged, believed, told = plausible.step(judged, seen)
        found.extend(told)
        if not judged.frozen:
            raw, frame, received_s = screened, believed, now_s
            if held:
                bad = dict(judged.bad)
                frame = replace(frame, **{name: getattr(raw, name) for name, _ in held if name not in bad})
            if all(value == value for value in _essential(raw)):
                valid_s = now_s
    fresh = now_s - valid_s <= config.stale_after_s
    stale_reported = state.stale_reported
    if fresh and stale_reported:
        found.append(Event("SENSORS_RECOVERED", {"age_s": state.age_s(now_s)}))
        stale_reported = False
    elif not fresh and not stale_reported and state.age_s(now_s) > config.stale_after_s:
        found.append(Event("SENSORS_STALE", {"age_s": state.age_s(now_s)}))
        stale_reported = True

    gpu, gpu_received_s = state.gpu, state.gpu_received_s
    if inputs.gpu is not None:
        if gpu is None or inputs.gpu.unsupported != gpu.unsupported or inputs.gpu.source != gpu.source:
            found.extend(_unsupported(inputs.gpu))
        if gpu is None or inputs.gpu.sequence != gpu.sequence:
            gpu, gpu_received_s = inputs.gpu, now_s
    gpu_fresh = now_s - gpu_received_s <= config.gpu_stale_after_s
    silent = state.gpu_silent_reported
    if gpu_fresh and silent:
        found.append(Event("PROBE_RECOVERED"))
        silent = False
    elif not gpu_fresh and not silent and (gpu is not None or now_s - state.boot_s > config.gpu_start_s):
        found.append(Event("PROBE_SILENT", {"age_s": now_s - max(gpu_received_s, state.boot_s)}))
        silent = True

    return (
        State(
            boot_s=state.boot_s,
            frame=frame,
            raw=raw,
            verdicts=judged,
            received_s=received_s,
            valid_s=valid_s,
            fresh=fresh,
            stale_reported=stale_reported,
            held=held,
            contact=frame.radio_lock if frame is not None and frame is not state.frame else state.contact,
            gpu=gpu,
            gpu_received_s=gpu_received_s,
            gpu_fresh=gpu_fresh,
            gpu_silent_reported=silent,
        ),
        tuple(found),
    )


_essential = attrgetter(*ESSENTIAL)


def _is_news(state: State, new: SensorFrame) -> bool:
    old = state.frame
    if old is None or new.sequence > old.sequence:
        return True
    return new.sequence < old.sequence and not state.fresh


def _screened(
    new: SensorFrame,
    old: SensorFrame | None,
    held: tuple[tuple[str, float], ...],
    config: Config,
    now_s: float,
    found: list[Event],
) -> tuple[SensorFrame, tuple[tuple[str, float], ...]]:
    """The frame with impossible readings replaced, and the fields that are replaced."""
    for value, (low, high) in zip(_values(new), _bounds, strict=True):
        # NaN fails both comparisons, but it is "no value", not an impossible one.
        if not low <= value <= high and value == value:
            break
    else:
        return new, ()
    since_s = dict(held)
    still: dict[str, float] = {}
    replacement: dict[str, float] = {}
    for name, (low, high) in RANGES.items():
        value = getattr(new, name)
        if low <= value <= high or value != value:
            continue
        if name not in since_s:
            found.append(Event("SENSOR_INVALID", {"sensor": name, "value": value}))
        still[name] = since_s.get(name, now_s)
        hold = old is not None and now_s - still[name] <= config.stale_after_s
        replacement[name] = getattr(old, name) if hold else float("nan")
    return replace(new, **replacement), tuple(still.items())


def _unsupported(sample: GpuSample) -> tuple[Event, ...]:
    if not sample.unsupported:
        return ()
    names = ", ".join(sample.unsupported)
    return (
        Event("PROBE_UNSUPPORTED", {"source": sample.source, "count": len(sample.unsupported), "fields": names}),
    )
