"""The daemon's configuration file for a run: what a mission would fly with, plus where the bench's wires are.

The bench may not import the daemon's configuration types (it attacks from outside), so this is text against a
documented format; the daemon itself checks every key and range when it starts. Overrides of the scenario come
last and win.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

Scalar = str | int | float | bool
Section = dict[str, Scalar]

TEMP_MARGIN_K: Final = 0.25
"""What the loop needs in flight, as the daemon's default; the uncertainty of the estimate comes on top."""
LAG_HEATING_K: Final = 0.033
"""Added for each unit of warp. Pacing acts within about one machine second, which is ``warp`` mission seconds;
a card at 700 W near its limit warms by (700 W − 14 W/K · 43 K) / 3 kJ/K = 0.033 K in each of them."""

TRAIN: Final = "train"
INFER: Final = "infer"


class OrbitNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """What the operators would upload from their own orbit determination; edges are refined on board."""

    period_s: float
    eclipse_s: float
    eclipse_entry_s: float | None


class MissionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the configuration file of one run depends on."""

    name: str
    state_dir: str
    avionics: str
    radio: str
    radio_bps: int
    nvml_module: str
    checkpoint_interval_s: float
    warp: float
    orbit: OrbitNumbers
    soc_floor: float
    gpu_temp_limit_degc: float
    radiator_temp_limit_degc: float
    jobs: tuple[Mapping[str, Scalar], ...]
    overrides: Mapping[str, Mapping[str, Scalar]]


def sections(plan: MissionPlan) -> dict[str, Section]:
    """The configuration's sections, overrides applied; a section of the overrides may be new."""
    made: dict[str, Section] = {
        "mission": {"name": plan.name, "state_dir": plan.state_dir},
        "frame": {"rate_hz": 10.0},
        "avionics": {"endpoint": plan.avionics},
        "radio": {"endpoint": plan.radio, "rate_bps": plan.radio_bps},
        "probe": {"source": "nvml", "nvml_module": plan.nvml_module},
        "eps": {
            "dod_max": round(1.0 - plan.soc_floor, 6),
            "orbit_period_s": plan.orbit.period_s,
            "eclipse_s": plan.orbit.eclipse_s,
        },
        "thermal": {
            "gpu_limit_degc": plan.gpu_temp_limit_degc,
            "radiator_limit_degc": plan.radiator_temp_limit_degc,
        },
        "governor": {"temp_margin_k": round(TEMP_MARGIN_K + LAG_HEATING_K * plan.warp, 2)},
        "checkpoint": {"interval_world_s": plan.checkpoint_interval_s, "before_eclipse": True},
    }
    if plan.orbit.eclipse_entry_s is not None:
        made["eps"]["eclipse_entry_s"] = plan.orbit.eclipse_entry_s
    for name, keys in plan.overrides.items():
        made.setdefault(name, {}).update(keys)
    return made


def render(plan: MissionPlan) -> str:
    """The TOML text."""
    parts = [f"# Written by hil for the run {plan.name!r}. The bench plays every device this file names.\n"]
    for name, keys in sections(plan).items():
        parts.append(_table(f"[{name}]", keys))
    parts.extend(_table("[[jobs]]", job) for job in plan.jobs)
    return "\n".join(parts)


def _table(head: str, keys: Mapping[str, Scalar]) -> str:
    return "\n".join([head, *(f"{key} = {toml_value(value)}" for key, value in keys.items()), ""])


def toml_value(value: Any) -> str:
    """A scalar as TOML writes it. JSON's escapes of a string are TOML's too."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
    return repr(value)
