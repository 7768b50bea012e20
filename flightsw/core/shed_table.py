"""The ladder of load shedding: its rungs, what each of them takes from the payload, and where it lies.

    NOMINAL → DERATE → ECLIPSE_BUDGET → SHED (checkpoint, GPU idle) → GPU_OFF (rail off) → SAFE

The governor keeps the vehicle at its targets; the floor in code (``eps``, ``thermal``, ``mode``) ends in SAFE. When
something is not as the governor believes (an array, a cold battery, a load nobody knows, a sensor that lies), the
readings move from the one to the other. ``RUNGS`` is what is taken on the way, ``Config`` where; ``shedding``
moves.

Charge and node temperatures are measured by their *depth*: 0 at the governor's target, 1 at the floor. So the rungs
lie between the two in every configuration. The bus voltage has limits of its own in volts, because the estimate of
the charge may lie and the voltage does not: it needs no current, no integral, no capacity.
"""

from enum import IntEnum, unique
from itertools import pairwise
from typing import Annotated, Final

from msgspec import Meta, Struct

from flightsw.link.dictionary import SHED_CAUSES, SHED_RUNGS


@unique
class Rung(IntEnum):
    """How much is shed; codes of ``SHED_RUNGS``."""

    NOMINAL = SHED_RUNGS.index("NOMINAL")
    DERATE = SHED_RUNGS.index("DERATE")
    ECLIPSE_BUDGET = SHED_RUNGS.index("ECLIPSE_BUDGET")
    SHED = SHED_RUNGS.index("SHED")
    GPU_OFF = SHED_RUNGS.index("GPU_OFF")
    SAFE = SHED_RUNGS.index("SAFE")


@unique
class Cause(IntEnum):
    """What asks for a rung; codes of ``SHED_CAUSES``."""

    NONE = SHED_CAUSES.index("NONE")
    SOC = SHED_CAUSES.index("SOC")
    BUS = SHED_CAUSES.index("BUS")
    GPU_TEMP = SHED_CAUSES.index("GPU_TEMP")
    RADIATOR_TEMP = SHED_CAUSES.index("RADIATOR_TEMP")
    STALE = SHED_CAUSES.index("STALE")
    DOUBT = SHED_CAUSES.index("DOUBT")
    BOARD = SHED_CAUSES.index("BOARD")
    FLOOR = SHED_CAUSES.index("FLOOR")


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the rungs lie between the governor's targets (depth 0) and SAFE (depth 1), and how long they last."""

    derate_depth: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.5
    """DERATE at this depth of charge or temperature."""
    budget_depth: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.62
    """ECLIPSE_BUDGET at this depth."""
    shed_depth: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.75
    """SHED at this depth."""
    off_depth: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.88
    """GPU_OFF at this depth."""
    hysteresis_depth: Annotated[float, Meta(gt=0.0, le=2.0)] = 0.5
    """A rung may be left this much less deep than it is entered."""
    radiator_room_k: Annotated[float, Meta(ge=0.5, le=50.0)] = 5.0
    """Depth 0 of the radiator, which nothing regulates, lies this far under its limit."""
    derate_v: Annotated[float, Meta(ge=0.0, le=200.0)] = 26.5
    """DERATE under this bus voltage."""
    budget_v: Annotated[float, Meta(ge=0.0, le=200.0)] = 26.1
    """ECLIPSE_BUDGET under this bus voltage."""
    shed_v: Annotated[float, Meta(ge=0.0, le=200.0)] = 25.7
    """SHED under this bus voltage."""
    off_v: Annotated[float, Meta(ge=0.0, le=200.0)] = 25.2
    """Bus alarm: SHED at once and GPU_OFF after alarm_s under this voltage."""
    hysteresis_v: Annotated[float, Meta(gt=0.0, le=20.0)] = 1.2
    """A rung may be left this far over its voltage; more than a full load drops at the battery's resistance."""
    derate_ceiling: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.5
    """Highest duty at DERATE, and of ECLIPSE_BUDGET."""
    hold_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 1.0
    """Charge and temperatures must be beyond a limit for this long."""
    alarm_s: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.15
    """The bus voltage must be under a limit for this long; the third frame of 10 Hz passes it."""
    stale_off_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 60.0
    """GPU_OFF when the sensors have been silent or in doubt for this long."""
    derate_dwell_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 5.0
    """DERATE is left when its causes have been gone for this long."""
    budget_dwell_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 5.0
    """ECLIPSE_BUDGET is left after this."""
    shed_dwell_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 5.0
    """SHED is left after this."""
    off_dwell_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 10.0
    """GPU_OFF is left after this."""
    safe_after_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 120.0
    """SAFE when a reading stays at GPU_OFF for this long."""

    def __post_init__(self) -> None:
        for names, deeper in ((DEPTHS, "over"), (VOLTAGES, "under")):
            for mild, hard in pairwise(names):
                before, after = getattr(self, mild), getattr(self, hard)
                if (after <= before) if deeper == "over" else (after >= before):
                    raise ValueError(f"{hard} = {after:g} must be {deeper} {mild} = {before:g}: rung below rung")


DEPTHS: Final = ("derate_depth", "budget_depth", "shed_depth", "off_depth")
VOLTAGES: Final = ("derate_v", "budget_v", "shed_v", "off_v")


class Row(Struct, frozen=True):
    """One rung: what it asks of the payload, and the key of its dwell (none: its owner decides)."""

    rung: Rung
    text: str
    dwell: str = ""
    checkpoint: bool = False
    rail_off: bool = False


RUNGS: Final = (
    Row(Rung.NOMINAL, "the governor decides"),
    Row(Rung.DERATE, "duty at most derate_ceiling", "derate_dwell_s"),
    Row(Rung.ECLIPSE_BUDGET, "what the battery carries through a whole eclipse", "budget_dwell_s"),
    Row(Rung.SHED, "checkpoint, GPU idle", "shed_dwell_s", checkpoint=True),
    Row(Rung.GPU_OFF, "workers stopped, rail off", "off_dwell_s", checkpoint=True, rail_off=True),
    Row(Rung.SAFE, "SAFE, by its own rules", checkpoint=True, rail_off=True),
)
"""The ladder, mildest first; the place of a row is its rung's code."""
