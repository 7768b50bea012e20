"""Margins: how far from a limit the vehicle flies, from what is known of its own ignorance.

    margin = control + z σ

σ is the standard uncertainty of the estimate (charge, temperature), so a better estimate buys compute: each
percent of charge held back costs about 0.75 % of an orbit's work (power-thermal-orbit reference, section 4).
``control`` is what the loop itself needs, however well it sees: noise of the actuator, a step of the clock. z is
one number for the whole vehicle, the odds that the mission accepts of an estimate that lies further off than that.
"""

from msgspec import Struct


class Margins(Struct, frozen=True):
    """Distances from the limits: of charge as a fraction, of the GPU and the radiator node in kelvin."""

    soc: float
    gpu_k: float
    radiator_k: float


def margins(
    z: float,
    control: Margins,
    soc_sigma: float,
    gpu_sigma_k: float,
    radiator_sigma_k: float,
) -> Margins:
    """The margins at ``z`` standard uncertainties over what the loop needs; all arguments are 0 or more."""
    return Margins(
        soc=control.soc + z * soc_sigma,
        gpu_k=control.gpu_k + z * gpu_sigma_k,
        radiator_k=control.radiator_k + z * radiator_sigma_k,
    )
