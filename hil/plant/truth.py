"""The true state of the satellite's world after a step. The judge reads it; the daemon never does."""

import msgspec


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """Names and units are those of ``SensorFrame`` where a sensor looks at the same thing.

    ``array_power_w`` is what the array gives, ``spilled_w`` what of it the shunts burn, ``unserved_w`` load that an
    empty battery could not carry. ``sun_fraction`` is the visible share of the Sun's disc. ``visible`` names
    every station over whose mask the satellite stands, with its elevation in degrees.
    """

    world_s: float
    tai_s: float
    position_km: tuple[float, float, float]
    latitude_deg: float
    longitude_deg: float
    altitude_km: float
    sun_fraction: float
    sun_zenith_cos: float
    array_power_w: float
    load_power_w: float
    spilled_w: float
    unserved_w: float
    bus_voltage_v: float
    bus_current_a: float
    battery_voltage_v: float
    battery_current_a: float
    battery_temp_degc: float
    battery_energy_j: float
    soc_fraction: float
    gpu_rail_on: bool
    gpu_rail_power_w: float
    gpu_temp_degc: float
    radiator_temp_degc: float
    radiator_absorbed_w: float
    radiator_emitted_w: float
    proton_flux_cm2_s: float
    visible: tuple[tuple[str, float], ...]

    @property
    def in_contact(self) -> bool:
        """Whether any station sees the satellite."""
        return bool(self.visible)
