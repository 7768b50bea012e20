"""What is coming, step by step: sunlight, array power, absorbed heat, contacts, along the plant's real orbit.

The plant itself is flown over the horizon with an idle card and asked for its truth, at the same sub-steps that the
replay will take. So whatever the plant knows of orbits, penumbra, pointing or albedo is in the plan, and a plan and
its replay differ only by what a linear programme cannot say.

Step edges: every eclipse edge of the forecast, and between two of them as many equal steps as it takes to stay
under ``step_s``. A step never straddles an edge: half sun and half shadow charges and discharges the battery, and
their mean does neither.
"""

from collections.abc import Callable
from itertools import pairwise
from math import ceil
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from ..plant.geometry import DAY_S
from ..plant.plant import STEP_MAX_S, Loads, Plant, PlantConfig
from ..plant.windows import HORIZON_MAX_S, Window
from .document import Horizon, PlanError

Floats = npt.NDArray[np.float64]
Progress = Callable[[str, float], None]
"""What is being done, and which share of it is done."""

STEPS_MAX: Final = 12_000
STABLE_SHARE: Final = 0.9
"""Of the longest step at which the Crank–Nicolson balance keeps its sign: 2 C/G."""


class Steps(msgspec.Struct, frozen=True, kw_only=True):
    """The horizon as rows, one each step; powers are means over the step."""

    start_s: float
    """World time at which it begins."""
    period_s: float
    dt_s: Floats
    array_w: Floats
    absorbed_w: Floats
    bus_w: Floats
    sunlit: Floats
    contact: Floats
    """Share of the step in contact with any station."""
    eclipses: tuple[Window, ...]

    @property
    def length_s(self) -> float:
        """Length of the horizon."""
        return float(self.dt_s.sum())

    @property
    def contact_s(self) -> float:
        """Time in contact."""
        return float((self.dt_s * self.contact).sum())

    @property
    def orbits(self) -> float:
        """Length in orbits."""
        return self.length_s / self.period_s


def make_plant(config: PlantConfig) -> Plant:
    """The plant of a document; ``PlanError`` for an impossible orbit, area or station."""
    try:
        return Plant(config, seed=0)
    except ValueError as error:
        raise PlanError(str(error)) from None


def length_s(horizon: Horizon, period_s: float) -> float:
    """Length of the horizon, whole orbits for a periodic plan; ``PlanError`` when the forecast is shorter."""
    orbits = horizon.orbits if horizon.orbits is not None else 1.0
    wanted_s = horizon.days * DAY_S if horizon.days is not None else orbits * period_s
    if horizon.start == "periodic":
        wanted_s = max(1, round(wanted_s / period_s)) * period_s
        # Whole orbits may round past the end of the forecast: then it is one less.
        if horizon.days is not None and wanted_s > HORIZON_MAX_S:
            wanted_s -= period_s
    if wanted_s > HORIZON_MAX_S:
        raise PlanError(
            f"horizon of {wanted_s / period_s:.1f} orbits ({wanted_s / DAY_S:.2f} days): the forecast reaches "
            f"{HORIZON_MAX_S / DAY_S:.0f} days, {int(HORIZON_MAX_S / period_s)} orbits of this length"
        )
    return wanted_s


def look_ahead(config: PlantConfig, horizon: Horizon, progress: Progress | None = None) -> Steps:
    """The steps of a horizon. Raises ``PlanError``; ``progress`` hears of every orbit."""
    plant = make_plant(config)
    period_s = plant.geometry.orbit.period_s
    span_s = length_s(horizon, period_s)
    heat = config.thermal
    bound_s = STABLE_SHARE * 2.0 * heat.gpu_heat_capacity_j_k / heat.conductance_w_k
    step_s = min(horizon.step_s, bound_s)
    if span_s / step_s > STEPS_MAX:
        raise PlanError(
            f"horizon of {span_s / DAY_S:.2f} days in steps of {step_s:.1f} s: {span_s / step_s:.0f} steps, "
            f"at most {STEPS_MAX} are planned; shorten the horizon or lengthen horizon.step_s"
        )
    start_s = plant.truth().world_s
    try:
        eclipses = plant.forecast(span_s).eclipses
        edges = step_edges(start_s, start_s + span_s, eclipses, step_s)
        rows = _fly(plant, edges, progress)
    except ValueError as error:
        raise PlanError(str(error)) from None
    dt_s = np.diff(edges)
    return Steps(start_s=start_s, period_s=period_s, dt_s=dt_s, eclipses=eclipses, **rows)


def step_edges(start_s: float, end_s: float, eclipses: tuple[Window, ...], step_s: float) -> Floats:
    """Edges of the steps between two times; arcs under a second are left to their neighbours."""
    marks = [start_s]
    for at_s in sorted({e for w in eclipses for e in (w.start_s, w.end_s)} | {end_s}):
        if at_s - marks[-1] > 1.0:
            marks.append(at_s)
    marks[-1] = end_s
    arcs = [np.linspace(a, b, max(1, ceil((b - a) / step_s - 1e-9)) + 1)[:-1] for a, b in pairwise(marks)]
    return np.append(np.concatenate(arcs), end_s)


def _fly(plant: Plant, edges: Floats, progress: Progress | None) -> dict[str, Floats]:
    eps = plant.config.eps
    columns: dict[str, list[float]] = {name: [] for name in ("array_w", "absorbed_w", "bus_w", "sunlit", "contact")}
    idle = Loads()
    for index in range(len(edges) - 1):
        span_s = float(edges[index + 1] - edges[index])
        count = max(1, ceil(span_s / STEP_MAX_S - 1e-9))
        sums = [0.0, 0.0, 0.0, 0.0]
        for _ in range(count):
            truth = plant.step(span_s / count, idle)
            sums[0] += truth.array_power_w
            sums[1] += truth.radiator_absorbed_w
            sums[2] += truth.sun_fraction
            sums[3] += truth.in_contact
        array_w, absorbed_w, sunlit, contact = (total / count for total in sums)
        # The transmitter is a switch: it is on for the step when there is contact in any part of it.
        bus_w = eps.bus_power_w + (eps.transmitter_power_w if contact > 0.0 else 0.0)
        for name, value in zip(columns, (array_w, absorbed_w, bus_w, sunlit, contact), strict=True):
            columns[name].append(value)
        if progress is not None and index % 32 == 0:
            progress("looking ahead along the orbit", index / (len(edges) - 1))
    return {name: np.array(values) for name, values in columns.items()}
