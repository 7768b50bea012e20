"""The power plan: what the core asks of the planner, and what it gets back. Values only.

The planner (``flightsw/planner``) is a process of its own that solves a receding-horizon linear programme; the core
works without it. A request says everything the planner needs, so the planner keeps no state that a restart could
lose: where the vehicle is (charge, temperatures), what is believed of it (battery, array, heat path), what is
coming (sunlit share of each step) and how close to the limits it may go. Margins are already taken off: a plan that
touches ``energy_min_j`` or ``gpu_max_degc`` is a good plan.

A plan is a row of steps of constant GPU power, with the trajectory that the planner expects, so that the core can
see the world leave it. Times are mission time.
"""

from typing import Final

from msgspec import Struct

STEPS_MAX: Final = 128
"""Steps of one plan."""


class HeatPath(Struct, frozen=True, kw_only=True):
    """Two nodes, as believed: C_g Ṫ_g = P − G (T_g − T_r);  C_r Ṫ_r = G (T_g − T_r) + P_bus + Q − K T_r⁴."""

    gpu_capacity_j_k: float
    radiator_capacity_j_k: float
    conductance_w_k: float
    emission_w_k4: float
    """K = ε σ A."""
    absorbed_w: float
    """Q in the dark: Earth infrared, W."""
    absorbed_sun_w: float
    """What sunlight adds to Q, W."""


class PlanRequest(Struct, frozen=True, kw_only=True):
    """Everything a plan depends on. ``sunlit`` is the mean sunlit share of each step of ``steps_s`` seconds."""

    id: int
    world_s: float
    steps_s: tuple[float, ...]
    sunlit: tuple[float, ...]
    energy_j: float
    gpu_degc: float
    radiator_degc: float
    array_power_w: float
    bus_power_w: float
    capacity_j: float
    energy_min_j: float
    charge_efficiency: float
    discharge_efficiency: float
    charge_power_max_w: float
    discharge_power_max_w: float
    gpu_max_degc: float
    radiator_max_degc: float
    heat: HeatPath
    power_w: tuple[float, ...]
    """Points of the card's curve (``link.card.Workload``)."""
    throughput: tuple[float, ...]
    gpu_ceiling_w: float
    """Operator's cap and limits of the tables: no step draws more."""
    discharge_cost_per_j: float = 0.0
    """Price of a joule out of the battery, in seconds at full throughput: battery life in the objective."""
    energy_cost_per_j: float = 0.0
    """Price of a joule of the GPU, in the same unit: what a job's value per joule leaves."""


class Plan(Struct, frozen=True, kw_only=True):
    """Answer to the request of the same ``id``; without a plan ``gpu_power_w`` is empty and ``fault`` says why.

    ``energy_j``, ``gpu_degc`` and ``radiator_degc`` are expected at the *end* of each step.
    """

    id: int
    world_s: float
    steps_s: tuple[float, ...] = ()
    gpu_power_w: tuple[float, ...] = ()
    energy_j: tuple[float, ...] = ()
    gpu_degc: tuple[float, ...] = ()
    radiator_degc: tuple[float, ...] = ()
    objective_s: float = 0.0
    """Work in the plan, seconds at full throughput."""
    solve_s: float = 0.0
    """Processor time of the solver."""
    fault: str = ""
