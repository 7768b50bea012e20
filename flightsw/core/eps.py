"""Electrical power system: state of charge, sun and eclipse arcs, what the array can give, load shedding.

Arcs. An orbit is one sunlit and one dark arc. The forecast (period, eclipse length, one entry) starts as
configured and is refined on board by the edges of the sun sensor: an entry sets the phase, two entries the
period, entry and exit the length. Darkness that is much shorter than an eclipse (a tumble, a shadow of the body)
is not learned. ``eclipse`` is true when darkness is *seen or forecast*: in a disagreement the darker opinion
wins, which costs a little work and never charge (power-thermal-orbit reference, section 6.8, "failure
directions").

Charge and array are estimates, each with its σ: ``charge`` and ``array_model``. What the bus itself says stays in
sight: the thresholds of SAFE look at the estimate, and at the gauge too when the two contradict: then the
worse one counts.

All durations of arcs are mission time; persistence of limits is machine time.
"""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from flightsw.link.avionics import SensorFrame

from . import array_model, charge, limits, sense
from .events import Event, Fields
from .limits import CLEAR, NEVER, Limit, Watch

DARK_BELOW: Final = 0.4
LIT_ABOVE: Final = 0.6
"""Sun sensor levels that switch between lit and dark; between them the last verdict stands."""
PERIOD_TOLERANCE: Final = 0.1
"""A period between two entries that differs more than this from the configured one is not learned."""
ECLIPSE_PLAUSIBLE: Final = 0.2
"""Darkness shorter than this part of the configured eclipse is not learned."""


class Config(charge.Config, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Battery, array and orbit as believed, and the thresholds of SAFE."""

    dod_max: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.30
    """Deepest allowed depth of discharge; the floor of the state of charge is 1 − dod_max."""
    transmitter_power_w: Annotated[float, Meta(ge=0.0, le=1e4)] = 10.0
    """Load of the transmitter while it is on."""
    array_power_w: Annotated[float, Meta(ge=0.0, le=1e6)] = 1200.0
    """Array power in full sun, until it has been measured."""
    array_sigma: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.05
    """Relative standard uncertainty of that."""
    array_gain_sigma: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.005
    """Relative error of gain of the array's sensor, standard uncertainty."""
    array_regulation: Literal["shunt", "series"] = "shunt"
    """Shunt: the sensor sees all that the array can give; series (MPPT): what is taken of it."""
    orbit_period_s: Annotated[float, Meta(ge=600.0, le=1e6)] = 5700.0
    """Orbital period (mission time)."""
    eclipse_s: Annotated[float, Meta(ge=0.0, le=1e6)] = 2100.0
    """Length of the dark arc (mission time), until it has been observed."""
    eclipse_entry_s: float | None = None
    """Mission time of any one eclipse entry; without it the first edge tells."""
    edge_sigma_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 10.0
    """Standard uncertainty of the forecast's edges (mission time), until a whole eclipse has been observed."""
    soc_safe: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.701
    """SAFE under this state of charge."""
    soc_recovered: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.74
    """SAFE may end above this state of charge."""
    bus_undervoltage_v: Annotated[float, Meta(ge=0.0, le=200.0)] = 22.0
    """SAFE under this bus voltage."""
    bus_recovered_v: Annotated[float, Meta(ge=0.0, le=200.0)] = 24.0
    """SAFE may end above this bus voltage."""
    trip_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.5
    """A threshold must be passed for this long (machine clock)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eclipse_s >= self.orbit_period_s:
            raise ValueError(
                f"eclipse_s = {self.eclipse_s:g} must be shorter than orbit_period_s = {self.orbit_period_s:g}"
            )
        if self.soc_recovered <= self.soc_safe:
            raise ValueError(f"soc_recovered = {self.soc_recovered:g} must be over soc_safe = {self.soc_safe:g}")
        if self.bus_recovered_v <= self.bus_undervoltage_v:
            raise ValueError(
                f"bus_recovered_v = {self.bus_recovered_v:g} must be over bus_undervoltage_v"
                f" = {self.bus_undervoltage_v:g}"
            )

    @property
    def soc_floor(self) -> float:
        """Lowest allowed state of charge."""
        return 1.0 - self.dod_max


class State(Struct, frozen=True, kw_only=True):
    """Power as known now; ``entry_s`` is the latest forecast entry, ``seen_entry_s`` the latest observed one.

    ``soc_fraction`` is the best estimate and ``soc_sigma`` its standard uncertainty, ``gauge_soc_fraction`` what
    the gauge reads; all NaN while unknown or stale. ``battery`` and ``array`` are the estimators, ``taken_s`` and
    ``received_s`` when the last frame came (mission and machine time).
    """

    array: array_model.State
    battery: charge.State = charge.COLD
    taken_s: float = NEVER
    received_s: float = NEVER
    soc_sigma: float = float("nan")
    gauge_soc_fraction: float = float("nan")
    period_s: float
    eclipse_s: float
    entry_s: float | None
    seen_entry_s: float | None = None
    entry_before_s: float | None = None
    soc_fraction: float = float("nan")
    dark: bool | None = None
    eclipse: bool = False
    arc_remaining_s: float = 0.0
    soc_low: Watch = CLEAR
    undervoltage: Watch = CLEAR
    rail_commanded: bool = True
    rail_by: str = "telecommand"
    rail_held_s: float = NEVER
    rail_on: bool = True

    @property
    def array_power_w(self) -> float:
        """Array power in full sun, as learned."""
        return self.array.power_w

    @property
    def array_sigma_w(self) -> float:
        """Standard uncertainty of ``array_power_w``."""
        return self.array.sigma_w

    def edge_sigma_s(self, config: Config) -> float:
        """Standard uncertainty of the end of this arc: that of the forecast until an eclipse has been observed."""
        return config.edge_sigma_s if self.eclipse_s == config.eclipse_s else 0.0

    @property
    def soc_lowest(self) -> float:
        """The charge that limits are held against: the estimate, or the gauge where it says less and is refused."""
        return _lowest(self.battery, self.soc_fraction, self.gauge_soc_fraction)


def start(config: Config) -> State:
    """State at boot: everything as configured."""
    return State(
        array=array_model.start(config),
        period_s=config.orbit_period_s,
        eclipse_s=config.eclipse_s,
        entry_s=config.eclipse_entry_s,
    )


def step(
    state: State, config: Config, sensed: sense.State, world_s: float, now_s: float
) -> tuple[State, tuple[Event, ...]]:
    """Power state after this frame's sensing; ``world_s`` is mission time that does not jump."""
    frame, raw = sensed.frame, sensed.raw
    found: tuple[Event, ...] = ()
    if frame is None or raw is None:
        return state, found
    estimate, array, taken_s = state.battery, state.array, state.taken_s
    if sensed.received_s != state.received_s:
        dt_s = max(0.0, world_s - taken_s) if taken_s != NEVER else 0.0
        estimate, found = charge.step(estimate, config, frame, dt_s)
        array = array_model.step(array, config, frame, estimate.soc_fraction, dt_s)
        taken_s = world_s
    soc_low, undervoltage = state.soc_low, state.undervoltage
    soc = soc_sigma = gauge = float("nan")
    if sensed.fresh:
        soc, soc_sigma, gauge = estimate.soc_fraction, estimate.soc_sigma, raw.soc_fraction
        sun = frame.sun_fraction
        if sun < DARK_BELOW and state.dark is not True:
            state, edge = _entry(state, config, world_s, soc)
            found += edge
        elif sun > LIT_ABOVE and state.dark is not False:
            state, edge = _exit(state, config, world_s, soc)
            found += edge
        soc_low, undervoltage, crossed = _floor(state, config, estimate, raw, soc, now_s)
        found += crossed
    eclipse, remaining_s = _arc(state, state.dark is True and sensed.fresh, world_s)
    return (
        State(
            array=array,
            battery=estimate,
            taken_s=taken_s,
            received_s=sensed.received_s,
            soc_sigma=soc_sigma,
            gauge_soc_fraction=gauge,
            period_s=state.period_s,
            eclipse_s=state.eclipse_s,
            entry_s=state.entry_s,
            seen_entry_s=state.seen_entry_s,
            entry_before_s=state.entry_before_s,
            soc_fraction=soc,
            dark=state.dark,
            eclipse=eclipse,
            arc_remaining_s=remaining_s,
            soc_low=soc_low,
            undervoltage=undervoltage,
            rail_commanded=state.rail_commanded,
            rail_by=state.rail_by,
            rail_held_s=state.rail_held_s,
            rail_on=state.rail_on,
        ),
        found,
    )


def _floor(
    state: State, config: Config, estimate: charge.State, raw: SensorFrame, soc: float, now_s: float
) -> tuple[Watch, Watch, tuple[Event, ...]]:
    """The thresholds of SAFE, on the charge that limits are held against and on the bus as it reads."""
    lowest = _lowest(estimate, soc, raw.soc_fraction)
    soc_low = limits.step(state.soc_low, Limit(config.soc_safe, config.soc_recovered, config.trip_s), lowest, now_s)
    undervoltage = limits.step(
        state.undervoltage,
        Limit(config.bus_undervoltage_v, config.bus_recovered_v, config.trip_s),
        raw.bus_voltage_v,
        now_s,
    )
    found: tuple[Event, ...] = ()
    if soc_low.active and not state.soc_low.active:
        found += (Event("SOC_LOW", {"soc": lowest, "limit": config.soc_safe}),)
    if undervoltage.active and not state.undervoltage.active:
        fields: Fields = {"voltage_v": raw.bus_voltage_v, "limit_v": config.bus_undervoltage_v}
        found += (Event("BUS_UNDERVOLTAGE", fields),)
    return soc_low, undervoltage, found


def _lowest(estimate: charge.State, soc: float, gauge: float) -> float:
    """While the gauge is heard it is in the estimate, without noise and bias; refused, the worse one counts."""
    if soc != soc:
        return gauge
    return min(soc, gauge - estimate.gauge_bias) if estimate.refused_s else soc


def command_rail(state: State, on: bool, by: str, off_until_s: float = NEVER) -> State:
    """What is wanted of the GPU rail, and by whom; a rail that is on may be held off until a machine time."""
    return replace(state, rail_commanded=on, rail_by=by, rail_held_s=off_until_s)


def switch_rail(state: State, shed: bool, reason: str, now_s: float) -> tuple[State, tuple[Event, ...]]:
    """The GPU rail is on when it is wanted, not held off at this machine time, and SAFE does not shed it."""
    on = state.rail_commanded and now_s >= state.rail_held_s and not shed
    if on == state.rail_on:
        return state, ()
    return replace(state, rail_on=on), (Event("RAIL_SWITCHED", {"state": "ON" if on else "OFF", "reason": reason}),)


def _entry(state: State, config: Config, world_s: float, soc: float) -> tuple[State, tuple[Event, ...]]:
    period_s = state.period_s
    if state.dark is None:
        # The edge was not seen: a forecast that agrees stands, else assume the whole dark arc still to come.
        agrees = state.entry_s is not None and (world_s - state.entry_s) % period_s < state.eclipse_s
        entry_s = state.entry_s if agrees else world_s
        return replace(state, dark=True, entry_s=entry_s), (Event("ECLIPSE_ENTERED", {"soc": soc}),)
    if state.seen_entry_s is not None:
        orbits = round((world_s - state.seen_entry_s) / period_s)
        observed_s = (world_s - state.seen_entry_s) / max(orbits, 1)
        if abs(observed_s / config.orbit_period_s - 1.0) <= PERIOD_TOLERANCE:
            period_s = observed_s
    entered = replace(
        state, dark=True, entry_before_s=state.entry_s, entry_s=world_s, seen_entry_s=world_s, period_s=period_s
    )
    return entered, (Event("ECLIPSE_ENTERED", {"soc": soc}),)


def _exit(state: State, config: Config, world_s: float, soc: float) -> tuple[State, tuple[Event, ...]]:
    if state.dark is None:
        return replace(state, dark=False), ()
    left = (Event("ECLIPSE_LEFT", {"soc": soc}),)
    if state.seen_entry_s is None or state.seen_entry_s != state.entry_s:
        # Booted in the dark: the exit alone sets the phase.
        return replace(state, dark=False, entry_s=world_s - state.eclipse_s), left
    duration_s = world_s - state.seen_entry_s
    if duration_s < ECLIPSE_PLAUSIBLE * config.eclipse_s or duration_s >= state.period_s:
        return replace(state, dark=False, entry_s=state.entry_before_s, seen_entry_s=None), left
    return replace(state, dark=False, eclipse_s=duration_s), left


def _arc(state: State, dark: bool, world_s: float) -> tuple[bool, float]:
    """Eclipse seen or forecast, and the mission time to the end of this arc in seconds."""
    if state.entry_s is None:
        # No edge yet: in sun the arc may end at any moment, which asks for the fastest recharge.
        return dark, 0.0
    phase_s = (world_s - state.entry_s) % state.period_s
    if dark or phase_s < state.eclipse_s:
        return True, (state.eclipse_s - phase_s) % state.period_s
    return False, state.period_s - phase_s
