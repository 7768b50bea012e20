"""Power-positive SAFE: that a satellite in SAFE charges over every orbit, proved from its configuration.

SAFE with the rail off draws the bus and, while the ground is called, the transmitter. Over one orbit of length T
with an eclipse E, the battery gives in the dark and takes in the sun, each with its loss:

    in the dark   out = L E / η_d                                       stored energy, L the load
    in the sun    in  = η_c (T − E) min(P − L, P_c,max)                 P the array at its worst

SAFE is power positive when in > out. The margin is in − out, in watt-hours of stored energy in an orbit. The
formula holds for a battery that is not full; a full one spills, which loses nothing. It is the plant of the
power-thermal-orbit reference, section 6.3, with both powers constant over their arcs, so it is exact for a
rectangular eclipse; a penumbra of seconds is small against the margin that is asked for.

The worst case is the configuration's: ``array_worst`` is what a string's failure and pointing leave of the array,
``array_end_of_life`` what cells of that age still give, ``eclipse_worst_s`` the longest eclipse of the orbit, and
``load_factor`` how much more the bus may draw than it was told. The capacity must carry that eclipse, too: out must
fit between SAFE's threshold and empty.
"""

from typing import Annotated, Final

from msgspec import Meta, Struct

from .battery import J_PER_WH
from .eps import Config as EpsConfig


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The worst that SAFE must live through, and the margin that it must have."""

    array_worst: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.85
    """Part of the array that is left in the worst case."""
    array_end_of_life: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.85
    """Part of its power that the array gives at the end of life."""
    eclipse_worst_s: Annotated[float, Meta(ge=0.0, le=1e6)] = 2160.0
    """Longest eclipse (mission time); a longer eps.eclipse_s counts instead."""
    load_factor: Annotated[float, Meta(ge=1.0, le=5.0)] = 1.3
    """Bus load in the worst case over eps.bus_power_w."""
    margin_wh: Annotated[float, Meta(ge=0.0, le=1e6)] = 1.0
    """Least charge that SAFE must gain in an orbit."""


class Balance(Struct, frozen=True, kw_only=True):
    """One orbit of SAFE in the worst case: load and array in W, stored energies in Wh, longest eclipse in s."""

    load_w: float
    array_w: float
    eclipse_s: float
    out_wh: float
    in_wh: float
    reserve_wh: float
    """Stored energy between SAFE's threshold and empty."""

    @property
    def margin_wh(self) -> float:
        """Charge gained in an orbit; SAFE is power positive when it is over 0."""
        return self.in_wh - self.out_wh


GPU_OFF_W: Final = 0.0
"""What the GPU draws with its rail off."""


def balance(config: Config, power: EpsConfig, gpu_w: float = GPU_OFF_W) -> Balance:
    """The energy balance of one orbit in SAFE, the transmitter on all the time; ``gpu_w`` is what is left on."""
    eclipse_s = min(power.orbit_period_s, max(config.eclipse_worst_s, power.eclipse_s))
    load_w = config.load_factor * power.bus_power_w + power.transmitter_power_w + gpu_w
    array_w = config.array_worst * config.array_end_of_life * power.array_power_w
    lit_s, net_w = power.orbit_period_s - eclipse_s, min(array_w - load_w, power.charge_power_max_w)
    # An array that does not even carry the load discharges in the sun, too.
    stored_w = net_w * power.charge_efficiency if net_w >= 0.0 else net_w / power.discharge_efficiency
    return Balance(
        load_w=load_w,
        array_w=array_w,
        eclipse_s=eclipse_s,
        out_wh=load_w * eclipse_s / power.discharge_efficiency / J_PER_WH,
        in_wh=stored_w * lit_s / J_PER_WH,
        reserve_wh=power.soc_safe * power.capacity_wh,
    )


def check(config: Config, power: EpsConfig) -> None:
    """Raises ``ValueError`` in one line when SAFE of this configuration is not power positive."""
    orbit = balance(config, power)
    worst = (
        f"{orbit.load_w:g} W with the GPU off, {orbit.array_w:.0f} W of array for"
        f" {power.orbit_period_s - orbit.eclipse_s:g} s, {orbit.eclipse_s:g} s of eclipse"
    )
    if orbit.margin_wh < config.margin_wh:
        raise ValueError(
            f"SAFE is not power positive: {worst} store {orbit.margin_wh:+.1f} Wh an orbit, at least"
            f" power_positive.margin_wh = {config.margin_wh:g} are needed; a larger array or less load"
        )
    if orbit.out_wh >= orbit.reserve_wh:
        raise ValueError(
            f"SAFE empties the battery: {worst} take {orbit.out_wh:.1f} Wh;"
            f" eps.soc_safe = {power.soc_safe:g} of"
            f" eps.capacity_wh = {power.capacity_wh:g} hold {orbit.reserve_wh:.1f} Wh"
        )
