"""The plan document: what a mission wants, from which satellite and card, within which limits, as typed TOML.

    hil plan plan.toml

``hil/preflight/plan.toml`` is an example with every section. A document has ``schema = "plan/1"``; a TOML file
without it is read as a flight configuration (``beliefs``), whose believed satellite is then planned for. A document
may name a flight configuration too (``flight = "mission.toml"``): what is believed there then replaces what stands
in ``[plant]`` and ``[limits]``.

A mistake is one line that names file, key, value and what is allowed.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from flightsw.link.card import Profile, Workload, reference_workload
from flightsw.shell.typed_toml import Complaint, examine

from ..plant.orbit import Elements
from ..plant.plant import PlantConfig
from ..plant.windows import HORIZON_MAX_S
from . import beliefs

SCHEMA: Final = "plan/1"
EXAMPLE: Final = Path(__file__).with_name("plan.toml")
PROFILES: Final = Path(__file__).parent.parent.parent / "flightsw" / "profiles"
REFERENCE: Final = "reference"
DOCUMENT_BYTES_MAX: Final = 1 << 20
DAY_S: Final = 86400.0

Positive = Annotated[float, Meta(gt=0.0, le=1e12)]


class PlanError(ValueError):
    """A mission that cannot be planned; the text has one line for each mistake."""


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which card flies."""

    profile: Annotated[str, Meta(min_length=1, max_length=4096)] = REFERENCE
    """A profile that ships, a profile file (.toml), or "reference": the assumed curve of 80 to 700 W."""
    name: Annotated[str, Meta(max_length=96)] = ""
    """The card that flies, as it tells its own name; a profile of another card is refused. Empty is any."""
    workload: Literal["train", "decode"] = "train"
    """Kind of work whose curve is used."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What no plan may break."""

    dod_max: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.30
    """Deepest depth of discharge."""
    gpu_degc: Annotated[float, Meta(ge=-50.0, le=150.0)] = 80.0
    """GPU node."""
    radiator_degc: Annotated[float, Meta(ge=-50.0, le=150.0)] = 60.0
    """Radiator node."""
    discharge_c: Annotated[float, Meta(gt=0.0, le=100.0)] = 1.0
    """Greatest discharge on the bus side, in capacities an hour."""
    gpu_power_max_w: Annotated[float, Meta(gt=0.0, le=1e5)] | None = None
    """Operator's cap under the card's own maximum."""


class Horizon(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far the plan reaches: ``orbits`` or ``days``, at most the plant's forecast of seven days."""

    orbits: Annotated[float, Meta(gt=0.0, le=1000.0)] | None = None
    """Length in orbits."""
    days: Annotated[float, Meta(gt=0.0, le=1000.0)] | None = None
    """Length in days."""
    step_s: Annotated[float, Meta(ge=5.0, le=300.0)] = 60.0
    """Longest step of constant GPU power; eclipse edges are always step edges."""
    start: Literal["periodic", "given"] = "periodic"
    """"periodic": ends no emptier and no warmer than it begins, whole orbits; "given": begins with the charge and
    temperature of ``[plant]``, and nothing is asked of its end."""


class Downlink(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What has to come down in the contacts of the horizon; MB are 10⁶ bytes."""

    rate_bps: Annotated[float, Meta(gt=0.0, le=1e12)] = 115_200.0
    """Rate in contact."""
    share: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.9
    """Part of the rate that carries data: headers, gaps and repeats take the rest."""
    volume_mb_per_day: Annotated[float, Meta(ge=0.0, le=1e12)] = 0.0
    """Planned data, whatever is computed."""
    mb_per_gpu_hour: Annotated[float, Meta(ge=0.0, le=1e12)] = 0.0
    """Data that an hour at full throughput makes; nothing is computed that cannot come down."""


class Throughput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the card does at full throughput."""

    steps_per_s: Positive | None = None
    """Training steps."""
    tokens_per_s: Positive | None = None
    """Tokens."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the horizon has to deliver; nothing is as much as fits."""

    compute_share: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    """Mean throughput, as a share of the card's."""
    gpu_hours: Positive | None = None
    """Hours at full throughput."""
    train_steps: Positive | None = None
    """Training steps; needs ``throughput.steps_per_s``."""
    tokens: Positive | None = None
    """Tokens; needs ``throughput.tokens_per_s``."""


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One plan document."""

    schema: Literal["plan/1"] = "plan/1"
    """Version of this format."""
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _-]{0,63}$")] = "mission"
    """Name in tables and plots."""
    flight: Annotated[str, Meta(max_length=4096)] = ""
    """A flight configuration whose believed values are planned with; relative to this file."""
    plant: PlantConfig = PlantConfig()
    card: Card = Card()
    limits: Limits = Limits()
    horizon: Horizon = Horizon()
    downlink: Downlink | None = None
    throughput: Throughput = Throughput()
    wanted: Wanted = Wanted()


class Mission(msgspec.Struct, frozen=True, kw_only=True):
    """A document with its card profile read, and what there is to say about where its values come from."""

    document: Document
    profile: Profile | None = None
    notes: tuple[str, ...] = ()
    made_up_orbit: bool = False
    """The orbit was made from a believed period and eclipse, so its passes mean nothing."""

    @property
    def workload(self) -> Workload:
        """The curve that is planned with."""
        assert self.profile is not None, "a loaded mission has its profile"
        decode = self.profile.decode if self.document.card.workload == "decode" else None
        return decode or self.profile.train


OPTIONAL: Final[dict[str, type[msgspec.Struct]]] = {"downlink": Downlink, "plant.elements": Elements}
"""Tables that may be left out."""


def load(path: Path) -> Mission:
    """Read a plan document or a flight configuration; raises ``PlanError``."""
    return parse(_text(path), str(path), path.parent)


def parse(text: str, source: str, folder: Path = Path()) -> Mission:
    """A mission from TOML text; ``source`` names the file in complaints, ``folder`` is where its paths begin."""
    raw = _table(text, source)
    if "schema" not in raw:
        believed = _believed(raw, source)
        mission = _overlaid(Document(name=believed.name or "mission"), believed, source, own_orbit=False)
    else:
        document = _document(raw, source)
        mission = Mission(document=document)
        if document.flight:
            flight = folder / document.flight
            believed = _believed(_table(_text(flight), str(flight)), str(flight))
            mission = _overlaid(document, believed, str(flight), own_orbit=True)
    if mission.profile is None:
        mission = msgspec.structs.replace(mission, profile=card_profile(mission.document.card, folder))
    _check(mission, source)
    return mission


def card_profile(card: Card, folder: Path = Path()) -> Profile:
    """The profile that a document names; ``PlanError`` for one that is missing, broken or of another card."""
    if card.profile == REFERENCE:
        profile = Profile(card=card.name or REFERENCE, provenance="assumed", train=reference_workload())
        return profile
    path = folder / card.profile if card.profile.endswith(".toml") else PROFILES / f"{card.profile}.toml"
    if not path.is_file():
        shipped = ", ".join([*sorted(p.stem for p in PROFILES.glob("*.toml")), REFERENCE])
        raise PlanError(
            f"card.profile = {card.profile!r}: no such profile; there are {shipped}, or give a .toml file"
        )
    raw = _table(_text(path), str(path))
    complaints = _examined(raw, Profile, {"decode": Workload})
    if complaints:
        raise PlanError("\n".join(f"{path}: {c.where.lstrip('.')}: {c.text}" for c in complaints))
    try:
        profile = msgspec.convert(raw, Profile)
    except msgspec.ValidationError as error:
        raise PlanError(f"{path}: {error}") from None
    names = {name.casefold() for name in (profile.card, *getattr(profile, "also", ()))}
    if card.name and card.name.casefold() not in names:
        raise PlanError(
            f"{path}: profile of {profile.card!r}, but card.name = {card.name!r}; "
            "measure that card (hil calibrate gpu) or name its profile"
        )
    return profile


def _document(raw: dict[str, Any], source: str) -> Document:
    complaints = _examined(raw, Document, OPTIONAL)
    if complaints:
        raise PlanError("\n".join(f"{source}: {c.where.lstrip('.')}: {c.text}" for c in complaints))
    try:
        return msgspec.convert(raw, Document)
    except msgspec.ValidationError as error:
        raise PlanError(f"{source}: {error}") from None


def _examined(
    raw: dict[str, Any], kind: type[msgspec.Struct], optional: Mapping[str, type[msgspec.Struct]]
) -> list[Complaint]:
    """Every mistake. A table that may be left out is a choice to the walker, so it is examined by its name."""
    complaints = examine(raw, kind, "")
    for path, part in optional.items():
        table: Any = raw
        for name in path.split("."):
            table = table.get(name) if isinstance(table, dict) else None
        if isinstance(table, dict) and not any(c.where.startswith(f"{path}.") for c in complaints):
            complaints = [c for c in complaints if c.where.lstrip(".") != path] + examine(table, part, path)
    return complaints


def _believed(raw: dict[str, Any], source: str) -> beliefs.Beliefs:
    try:
        return beliefs.read(raw)
    except ValueError as error:
        raise PlanError("\n".join(f"{source}: {line}" for line in str(error).splitlines())) from None


def _overlaid(document: Document, believed: beliefs.Beliefs, source: str, *, own_orbit: bool) -> Mission:
    """The document with the believed values in place of its own; its orbit stays when it has one."""
    notes = list(believed.notes)
    merged: dict[str, Any] = msgspec.to_builtins(document)
    merged["plant"]["eps"] |= believed.eps
    merged["plant"]["thermal"] |= believed.thermal
    merged["limits"] |= believed.limits
    if "reference_ir_w_m2" in believed.thermal:
        # Believed fluxes are of the reference's form: always so much, and so much more in sunlight.
        merged["plant"]["thermal"]["environment"] = "reference"
    if believed.profile and document.card.profile == REFERENCE:
        merged["card"]["profile"] = believed.profile
    if document.downlink is not None:
        merged["downlink"] |= believed.downlink
    made_up = believed.elements is not None and not own_orbit
    if made_up:
        merged["plant"] |= {"orbit": "believed", "elements": msgspec.to_builtins(believed.elements)}
    else:
        notes.append("orbit and eclipses are those of [plant], not the believed ones")
    try:
        whole = msgspec.convert(merged, Document)
    except msgspec.ValidationError as error:
        raise PlanError(f"{source}: {error}") from None
    return Mission(
        document=whole,
        profile=_believed_card(whole.card, believed, source),
        notes=tuple(notes),
        made_up_orbit=made_up,
    )


def _believed_card(card: Card, believed: beliefs.Beliefs, source: str) -> Profile | None:
    """The assumed curve between the believed powers; None where the document names a measured one."""
    if card.profile != REFERENCE or not believed.card:
        return None
    try:
        workload = reference_workload(believed.card.get("idle_w", 80.0), believed.card.get("maximum_w", 700.0))
    except ValueError as error:
        raise PlanError(f"{source}: governor: {error}") from None
    return Profile(card=card.name or REFERENCE, provenance="assumed", train=workload)


def _check(mission: Mission, source: str) -> None:
    """Rules over more than one key."""
    document = mission.document
    horizon, wanted, limits = document.horizon, document.wanted, document.limits
    if horizon.orbits is not None and horizon.days is not None:
        raise PlanError(f"{source}: horizon: orbits and days are both there; keep one of them")
    if horizon.days is not None and horizon.days * DAY_S > HORIZON_MAX_S:
        raise PlanError(
            f"{source}: horizon.days = {horizon.days:g}: the forecast reaches {HORIZON_MAX_S / DAY_S:.0f} days"
        )
    for key, rate in (("train_steps", "steps_per_s"), ("tokens", "tokens_per_s")):
        if getattr(wanted, key) is not None and getattr(document.throughput, rate) is None:
            raise PlanError(
                f"{source}: wanted.{key} needs throughput.{rate}, what the card does at full throughput"
            )
    cap_w, idle_w = limits.gpu_power_max_w, mission.workload.idle_w
    if cap_w is not None and cap_w <= idle_w:
        raise PlanError(f"{source}: limits.gpu_power_max_w = {cap_w:g}: the idle card draws {idle_w:g} W already")


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        if len(raw) > DOCUMENT_BYTES_MAX:
            raise PlanError(f"{path}: {len(raw)} bytes, at most {DOCUMENT_BYTES_MAX} are allowed")
        return raw.decode("utf-8")
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PlanError(f"{path}: no UTF-8 text") from None


def _table(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{source}: not TOML: {error}") from None
