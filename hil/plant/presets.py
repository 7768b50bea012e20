"""Plants worth a name: the nominal satellite is ``PlantConfig()``; here is everything the models can do, switched
on.

Of ``FULL`` only the forms of the equations are facts; its numbers are assumptions of an ordinary small satellite.
"""

from typing import Final

from .eps import EpsConfig
from .plant import PlantConfig
from .switches import LoadSwitch
from .thermal import ThermalConfig

# 60 W of bus load, taken apart: what is left is the board that cannot be switched.
LOADS: Final = (
    LoadSwitch(name="computer", power_w=15.0, essential=True, capacitance_f=0.001),
    LoadSwitch(name="attitude", power_w=12.0, essential=True, capacitance_f=0.001),
    LoadSwitch(name="receiver", power_w=5.0, essential=True),
    LoadSwitch(name="heater", power_w=8.0, essential=True),
    LoadSwitch(name="storage", power_w=10.0, capacitance_f=0.002),
    LoadSwitch(name="camera", power_w=5.0, capacitance_f=0.002),
)

FULL: Final = PlantConfig(
    eps=EpsConfig(
        pointing_error_deg=1.0,
        pointing_jitter_deg=0.3,
        array_mount="one_axis",
        array_degradation_per_year=0.025,
        bus_power_w=5.0,
        loads=LOADS,
        # Converters alone; the pack's own loss comes from its resistance.
        charge_efficiency=0.97,
        discharge_efficiency=0.97,
        battery_losses="resistance",
        resistance_law="temperature_soc",
        ageing=True,
        gpu_rail_capacitance_f=0.010,
    ),
    thermal=ThermalConfig(radiator_nodes=4, node_conductance_w_k=60.0, pump_power_w=6.0, sides=2, area_m2=0.8),
)
"""Every model on."""
