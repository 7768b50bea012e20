"""Scenarios: what happens to the satellite, as typed TOML data.

A scenario says which orbit is flown for how long and how fast, what the operator commands, what goes wrong
and when, and what must hold all the same. It holds no code. An unknown key, a wrong type or a value out
of range is one line that names file, key, value and what is allowed.

Instants are mission time. ``When`` places one: an anchor (start of the run, a pass, an eclipse), a fraction of that
interval or an offset, and a spread that is drawn from the named random stream of whatever happens then. An
anchor that the orbit does not offer makes the item *not applicable*, which is not a failure.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import Meta

from flightsw.link.dictionary import TELECOMMAND_BY_NAME
from flightsw.shell.typed_toml import Complaint, examine

from .channel import ChannelConfig
from .instruments.card_health import XID_MAX, EccKind
from .mission import INFER
from .randomness import stream
from .wires import LinkKind

FOLDER: Final = Path(__file__).parent / "scenarios"

FaultKind = Literal[
    "worker_kill",
    "checkpoint_flip",
    "radiator_degrade",
    "radio_outage",
    "battery_bias",
    "gpu_ecc",
    "gpu_xid",
    "weight_flip",
]
DeviceChoice = Literal["auto", "cpu", "cuda"]
Anchor = Literal["run", "pass", "each_pass", "eclipse"]
ItemId = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]

FAULT_KINDS: Final[tuple[str, ...]] = get_args(FaultKind)

Interval = tuple[float, float]


class ScenarioError(ValueError):
    """A scenario that cannot be flown; the text has one line for each mistake."""


class When(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An instant of mission time: start of the anchor + fraction · its length + offset + U(0, spread)."""

    anchor: Anchor = "run"
    """What it is relative to; "each_pass" makes one instant for every pass."""
    number: Annotated[int, Meta(ge=1, le=1000)] = 1
    """Which pass or eclipse of the run, counted from 1."""
    fraction: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    """Place within the anchor's interval."""
    offset_s: Annotated[float, Meta(ge=-100_000.0, le=1_000_000.0)] = 0.0
    """Added, mission seconds."""
    spread_s: Annotated[float, Meta(ge=0.0, le=100_000.0)] = 0.0
    """Width of the window in which the instant is drawn, mission seconds."""


class TelecommandPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A telecommand that the bench's operator sends through the real ground station."""

    id: ItemId
    """Name of this item in the evidence."""
    send: str
    """Telecommand, as the dictionary names it."""
    arguments: dict[str, str | int | float | bool] = {}
    """Its arguments."""
    when: When = When()
    """When the operator sends it."""
    count: Annotated[int, Meta(ge=1, le=1000)] = 1
    """How often."""
    every_s: Annotated[float, Meta(ge=1.0, le=100_000.0)] = 60.0
    """Time between repeats, mission seconds."""


class FaultPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that goes wrong."""

    id: ItemId
    """Name of this fault in the evidence."""
    kind: FaultKind
    """What goes wrong."""
    when: When = When()
    """When it begins."""
    duration_s: Annotated[float, Meta(ge=0.0, le=1_000_000.0)] = 0.0
    """How long it lasts, mission seconds; 0 is to the end of the run. Kills and flips are instants."""
    job: ItemId = "train"
    """Job that is hit by ``worker_kill``, ``checkpoint_flip`` and ``weight_flip``."""
    magnitude: Annotated[float, Meta(ge=-1.0, le=1.0)] = 0.0
    """``radiator_degrade``: lost share of the radiating area. ``battery_bias``: added to the SoC reading."""
    ecc: EccKind = "uncorrected"
    """``gpu_ecc``: whether the card could repair them."""
    count: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    """``gpu_ecc``: how many errors the card counts."""
    xid: Annotated[int, Meta(ge=0, le=XID_MAX)] = 0
    """``gpu_xid``: number that the driver reports; 79 takes the card off the bus until its power is cycled."""
    bit: Annotated[int, Meta(ge=-1, le=63)] = -1
    """``weight_flip``: bit of the weight, from the least significant; −1 draws one."""


class Payload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The work on board."""

    preset: str = "auto"
    """Model preset; "auto" is "tiny" on a CPU and "char" on CUDA."""
    corpus: str = ""
    """Text to train on; empty is the Python standard library's own sources."""
    seed: Annotated[int, Meta(ge=0, lt=2**31)] | None = None
    """Seed of weights and data order; absent takes the run's seed."""
    checkpoint_interval_s: Annotated[float, Meta(ge=10.0, le=100_000.0)] = 420.0
    """Mission time between two checkpoints."""
    infer: bool = True
    """Serve inference requests beside training."""


class Invariants(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must hold, judged from the plant's truth and the recorded evidence."""

    soc_floor: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.70
    """Least true state of charge."""
    gpu_temp_limit_degc: Annotated[float, Meta(ge=-50.0, le=150.0)] = 80.0
    """Greatest true GPU node temperature."""
    radiator_temp_limit_degc: Annotated[float, Meta(ge=-50.0, le=150.0)] = 60.0
    """Greatest true radiator temperature."""
    checkpoints_min: Annotated[int, Meta(ge=0, le=10_000)] = 1
    """Committed checkpoints that the twin must have been compared with."""
    replies_min: Annotated[int, Meta(ge=0, le=10_000)] = 0
    """Inference replies that must be in the ground's archive, where the orbit has a pass."""
    twin: bool = True
    """Fly an undisturbed twin of the training run and compare every committed checkpoint with it."""
    answers_twin: bool = False
    """Every released answer must be the one that an undisturbed worker gives on the same weights."""
    throttling: bool = False
    """The GPU must draw visibly less in eclipse than in sunlight, where the orbit has an eclipse."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One scenario; every field has a default except its name and title."""

    schema: Literal["hil/1"]
    """Version of this format."""
    name: ItemId
    """Name, as ``hil run`` takes it."""
    title: Annotated[str, Meta(min_length=1, max_length=120)]
    """One line for people."""
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 1
    """Seed of every random draw of the bench."""
    orbit: str = "leo_550"
    """Named orbit, or a file with a two-line element set."""
    start: Literal["epoch", "demonstrative", "pass"] = "epoch"
    """Begin at the orbit's epoch, or within a day at the first moment whose run shows a whole eclipse and two
    passes, or a minute before a pass."""
    duration_orbits: Annotated[float, Meta(gt=0.0, le=1000.0)] = 1.0
    """Length of the run in orbits."""
    warp: Annotated[float, Meta(ge=1.0, le=100.0)] = 48.0
    """Mission seconds in one second of the machine."""
    link: LinkKind = "pty"
    """What both wires are made of."""
    device: DeviceChoice = "auto"
    """Where the workers compute; "auto" is CUDA when there is one."""
    stations: list[str] = []
    """Ground stations by name; empty is the default network."""
    soc_start: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.95
    """True state of charge at the start."""
    payload: Payload = Payload()
    radio: ChannelConfig = ChannelConfig()
    mission: dict[str, dict[str, str | int | float | bool]] = {}
    """Keys of the daemon's configuration to override, by section."""
    telecommands: list[TelecommandPlan] = []
    faults: list[FaultPlan] = []
    invariants: Invariants = Invariants()


class Unavailable(msgspec.Struct, frozen=True):
    """An anchor that this orbit does not offer in this run, and why."""

    reason: str


def resolve(
    when: When,
    seed: int,
    stream_name: str,
    run: Interval,
    passes: Sequence[Interval],
    eclipses: Sequence[Interval],
) -> list[float] | Unavailable:
    """The mission instants of ``when``, with ``[start, end]`` of run, passes and eclipses in mission seconds.

    The draw comes from the stream ``stream_name`` of ``seed``, one draw an instant.
    """
    offered: dict[str, Sequence[Interval]] = {
        "run": (run,),
        "pass": passes,
        "each_pass": passes,
        "eclipse": eclipses,
    }
    intervals = offered[when.anchor]
    kind = "pass" if when.anchor == "each_pass" else when.anchor
    if when.anchor != "each_pass":
        if len(intervals) < when.number:
            plural = "passes" if kind == "pass" else f"{kind}s"
            return Unavailable(f"needs {kind} {when.number}, this run has {len(intervals)} {plural}")
        intervals = intervals[when.number - 1 : when.number]
    elif not intervals:
        return Unavailable("needs a pass, this run has none")
    rng = stream(seed, stream_name)
    return [
        start_s + when.fraction * (end_s - start_s) + when.offset_s + rng.uniform(0.0, when.spread_s)
        for start_s, end_s in intervals
    ]


def names() -> list[str]:
    """Names of the scenarios that come with the bench."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name_or_path: str) -> Scenario:
    """A scenario by name or by file; raises ``ScenarioError``."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = FOLDER / f"{name_or_path}.toml"
        if name_or_path not in names():
            raise ScenarioError(
                f"no scenario {name_or_path!r}; there are {', '.join(names())}, or give a .toml file"
            )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise ScenarioError(f"{path}: {reason}") from None
    return parse(text, str(path))


def parse(text: str, source: str) -> Scenario:
    """A scenario from TOML text; ``source`` names the file in complaints."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{source}: not TOML: {error}") from None
    complaints = _complaints(raw)
    try:
        scenario = None if complaints else msgspec.convert(raw, Scenario)
    except msgspec.ValidationError as error:
        raise ScenarioError(f"{source}: {error}") from None
    if scenario is None:
        raise ScenarioError("\n".join(f"{source}: {c.where.lstrip('.')}: {c.text}" for c in complaints))
    _check(scenario, source)
    return scenario


def _complaints(raw: dict[str, Any]) -> list[Complaint]:
    """Every mistake in the table; the items of a list are examined one by one, so that each has its own line."""
    complaints: list[Complaint] = []
    for key, kind in LISTS.items():
        items = raw.get(key, [])
        for index, item in enumerate(items if isinstance(items, list) else []):
            complaints += examine(item, kind, f"{key}[{index}]")
    rest = {key: value for key, value in raw.items() if key not in LISTS or not isinstance(value, list)}
    return complaints + examine(rest, Scenario, "")


def _check(scenario: Scenario, source: str) -> None:
    """Rules over more than one key."""
    ids = [fault.id for fault in scenario.faults] + [plan.id for plan in scenario.telecommands]
    for name in ids:
        if ids.count(name) > 1:
            raise ScenarioError(f"{source}: id = {name!r}: used twice, ids are unique")
    for index, plan in enumerate(scenario.telecommands):
        if plan.send not in TELECOMMAND_BY_NAME:
            raise ScenarioError(
                f"{source}: telecommands[{index}].send = {plan.send!r}: "
                f"no telecommand, allowed are {', '.join(sorted(TELECOMMAND_BY_NAME))}"
            )
    for index, fault in enumerate(scenario.faults):
        allowed = MAGNITUDES.get(fault.kind)
        if allowed is None and fault.magnitude:
            raise ScenarioError(f"{source}: faults[{index}].magnitude = {fault.magnitude:g}: {fault.kind} has none")
        for key, kind, unset in OF_ONE_KIND:
            if fault.kind != kind and getattr(fault, key) != unset:
                raise ScenarioError(
                    f"{source}: faults[{index}].{key} = {getattr(fault, key)}: {fault.kind} has none, only {kind}"
                )
        if fault.kind == "gpu_xid" and not fault.xid:
            raise ScenarioError(f"{source}: faults[{index}].xid: gpu_xid needs one, 1 to {XID_MAX}")
        if fault.kind == "weight_flip" and fault.job != INFER:
            raise ScenarioError(
                f"{source}: faults[{index}].job = {fault.job!r}: weight_flip finds weights by their content, and "
                f"those of a training job move with every step; only {INFER!r} can be hit from outside"
            )
        if fault.kind == "weight_flip" and not scenario.payload.infer:
            raise ScenarioError(f"{source}: faults[{index}]: weight_flip needs payload.infer = true")
        if allowed and not allowed[0] <= fault.magnitude <= allowed[1]:
            raise ScenarioError(
                f"{source}: faults[{index}].magnitude = {fault.magnitude:g}: "
                f"{fault.kind} takes {allowed[0]:g} to {allowed[1]:g}"
            )


# Lists of tables, whose items are checked one by one.
LISTS: Final[dict[str, type[FaultPlan] | type[TelecommandPlan]]] = {
    "faults": FaultPlan,
    "telecommands": TelecommandPlan,
}

# Keys that belong to one kind, and their value where they are not given.
OF_ONE_KIND: Final = (
    ("ecc", "gpu_ecc", "uncorrected"),
    ("count", "gpu_ecc", 1),
    ("xid", "gpu_xid", 0),
    ("bit", "weight_flip", -1),
)

# Allowed magnitude by kind; a kind that is not here takes none.
MAGNITUDES: Final[dict[str, Interval]] = {"radiator_degrade": (0.01, 0.90), "battery_bias": (-0.2, 0.2)}
