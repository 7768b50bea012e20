"""Parameters in flight: the configuration of the file, the values that came over it, and what is flown.

The configuration that the executive flies is built once, when a set is activated: the file's, with the values of
the set, checked whole as if it had been read from a file. So several values change together in one frame, or none
does.

*When a change acts.* Everything that a subsystem reads from its ``Config`` acts in the next frame. What a subsystem
took from it at boot and has changed since (``_adopted``) is taken anew, when and only when its own parameter
changes: array power, conductance, orbit and eclipse replace what was observed, ``events.severity_min`` the filter,
and a housekeeping interval the schedule of its group. Deadlines that run already (armed opcodes, commands,
back-off) stand.

*Staging.* ``parameter.stage`` edits an open load of the table, which begins as the active set; validating and
activating are those of every table.
"""

import zlib
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import replace

from flightsw.link import settings
from flightsw.link.dictionary import HOUSEKEEPING
from flightsw.link.errors import TableError
from flightsw.link.settings import SETTING_BY_NAME, Number, ParameterSet, Setting
from flightsw.link.tables import TABLE_BY_NAME, Table

from . import array_model, heat_model, housekeeping, tables
from .events import Event, Fields
from .table_handler import Handler, Outcomes
from .tables import Load

if TYPE_CHECKING:
    from .vehicle import Config, Vehicle

TABLE: Final = TABLE_BY_NAME["parameters"]
CHANGES_TOLD: Final = 6
"""Changes that the event names one by one; what is active can be dumped."""
DEFAULT: Final = settings.encode(ParameterSet(name="default"))
STAGED_NAME: Final = "staged"


class Overrides(Struct, frozen=True):
    """The configuration of the file, and the one that is flown instead."""

    filed: "Config"
    flown: "Config"


class State(Struct, frozen=True, kw_only=True):
    """The active set as image and values, how many of them differ from the file, and what is flown because of it.

    ``overrides`` is None until parameters are activated for the first time: the file's configuration is flown.
    """

    image: bytes = DEFAULT
    crc32: int = zlib.crc32(DEFAULT)
    name: str = "default"
    values: dict[str, Number] = {}
    changed: int = 0
    overrides: Overrides | None = None


FILED: Final = State()


def flown(vehicle: "Vehicle", config: "Config") -> "Config":
    """What is flown, for the configuration ``config`` of the file."""
    overrides = vehicle.parameters.overrides
    return config if overrides is None else overrides.flown


def edited(vehicle: "Vehicle", config: "Config", setting: Setting, number: Number) -> Load:
    """The staged set with one value changed, as a whole load; raises ``TableError`` when it cannot be edited."""
    before = staged(vehicle)
    values = {name: value for name, value in before.values.items() if name != setting.name}
    if number != value_of(_filed(vehicle, config), setting):
        values[setting.name] = number
    name = STAGED_NAME if before.name == "default" else before.name
    return tables.whole(TABLE.name, settings.encode(ParameterSet(name=name, values=values)))


def staged(vehicle: "Vehicle") -> ParameterSet:
    """The set that is being edited, or else the active one; raises ``TableError`` when a load is not whole."""
    load = tables.load_of(vehicle.tables, TABLE.name)
    if load is None:
        return ParameterSet(name=vehicle.parameters.name, values=vehicle.parameters.values)
    if fault := tables.fault(load):
        raise TableError(f"the open load of {TABLE.name} cannot be edited: {fault}")
    return settings.decode(load.image)


def told(vehicle: "Vehicle", config: "Config", setting: Setting) -> str:
    """One line on a parameter: its value, the file's, the staged one, and what is allowed."""
    unit = f" {setting.unit}" if setting.unit else ""
    filed = _filed(vehicle, config)
    text = f"{setting.name} = {shown(value_of(flown(vehicle, config), setting))}{unit}"
    text += f", file {shown(value_of(filed, setting))}"
    if tables.load_of(vehicle.tables, TABLE.name) is not None:
        try:
            values = staged(vehicle).values
            text += f", staged {shown(values.get(setting.name, value_of(filed, setting)))}"
        except TableError:
            text += ", staged set not whole"
    return f"{text}; allowed is {settings.describe(setting)}"


def value_of(config: "Config", setting: Setting) -> Number:
    """The value of a setting in a configuration."""
    section, key = setting.name.split(".")
    number: Number = getattr(getattr(config, section), key)
    return number


def shown(value: Number) -> str:
    """A number as an operator would write it."""
    return str(value).lower() if isinstance(value, bool) else f"{value:.12g}"


def build(filed: "Config", values: dict[str, Number]) -> "Config":
    """The file's configuration with checked values over it; ``TableError`` when they do not go together."""
    sections: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, value in values.items():
        section, key = name.split(".")
        sections[section][key] = float(value) if SETTING_BY_NAME[name].type == "float" else value
    try:
        return replace(
            filed, **{name: replace(getattr(filed, name), **changes) for name, changes in sections.items()}
        )
    except ValueError as error:
        raise TableError(str(error)) from None


def _check(vehicle: "Vehicle", config: "Config", table: Table, image: bytes) -> str:
    parameters = settings.decode(image)
    build(_filed(vehicle, config), parameters.values)
    return f"{parameters.name}, {len(parameters.values)} values"


def _activate(
    vehicle: "Vehicle", config: "Config", table: Table, image: bytes | None, now_s: float
) -> tuple["Vehicle", Outcomes]:
    image = DEFAULT if image is None else image
    parameters = settings.decode(image)
    filed, before = _filed(vehicle, config), flown(vehicle, config)
    after = build(filed, parameters.values)
    state = State(
        image=image,
        crc32=zlib.crc32(image),
        name=parameters.name,
        values=parameters.values,
        changed=len(_differences(filed, after, parameters.values)),
        overrides=Overrides(filed, after),
    )
    changes = _differences(before, after, {**vehicle.parameters.values, **parameters.values})
    vehicle = _adopted(replace(vehicle, parameters=state), changes, after, now_s)
    return vehicle, ((Event("PARAMETERS_CHANGED", _fields(changes, before, after)),) if changes else ())


def _image(vehicle: "Vehicle", table: Table) -> bytes:
    return vehicle.parameters.image


HANDLER: Final = Handler(image=_image, check=_check, activate=_activate)


def _filed(vehicle: "Vehicle", config: "Config") -> "Config":
    overrides = vehicle.parameters.overrides
    return config if overrides is None else overrides.filed


def _differences(before: "Config", after: "Config", names: Iterable[str]) -> tuple[Setting, ...]:
    """The settings of these names whose values differ, in the order of their names."""
    named = (SETTING_BY_NAME[name] for name in sorted(names))
    return tuple(setting for setting in named if value_of(before, setting) != value_of(after, setting))


def _fields(changes: tuple[Setting, ...], before: "Config", after: "Config") -> Fields:
    lines = [
        f"{setting.name}: {shown(value_of(before, setting))} → {shown(value_of(after, setting))}"
        for setting in changes[:CHANGES_TOLD]
    ]
    if len(changes) > CHANGES_TOLD:
        lines.append(f"{len(changes) - CHANGES_TOLD} more")
    return {"count": len(changes), "changes": "; ".join(lines)}


def _adopted(vehicle: "Vehicle", changes: tuple[Setting, ...], config: "Config", now_s: float) -> "Vehicle":
    """The vehicle with what its subsystems took from the configuration at boot taken anew, where it has changed."""
    names = {setting.name for setting in changes}
    power = vehicle.eps
    if "eps.array_power_w" in names:
        power = replace(power, array=array_model.start(config.eps))
    if names & {"eps.orbit_period_s", "eps.eclipse_s"}:
        # Both, so that an eclipse that was observed never outlasts an orbit that was set.
        power = replace(power, period_s=config.eps.orbit_period_s, eclipse_s=config.eps.eclipse_s)
    heat = vehicle.thermal
    if "thermal.conductance_w_k" in names:
        heat = replace(heat, model=heat_model.start(config.thermal))
    events = vehicle.events
    if "events.severity_min" in names:
        events = replace(events, severity_min=config.events.severity_min)
    schedule = vehicle.housekeeping
    for group in HOUSEKEEPING:
        if names & {f"housekeeping.{group.name}_{which}interval_s" for which in ("", "max_")}:
            interval_s, longest_s = (
                config.housekeeping.interval_s(group.name),
                config.housekeeping.max_interval_s(group.name),
            )
            if interval_s:
                schedule = housekeeping.set_interval(schedule, group.name, interval_s, longest_s, now_s)
            schedule = housekeeping.enable(schedule, group.name, interval_s > 0.0, now_s)
    return replace(vehicle, eps=power, thermal=heat, events=events, housekeeping=schedule)
