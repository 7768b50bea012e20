"""Vehicle mode: BOOT, SAFE, NOMINAL, COMPUTE, DOWNLINK, and one table of transitions.

``TRANSITIONS`` is the whole policy; the first row whose source and condition hold is taken, at most one per
frame. Conditions are predicates over ``Facts``, so the machine can be explored exhaustively.

SAFE has one owner, one reason and one exit rule per entry (``CAUSES``). Power, thermal and stale-sensor causes
end by themselves, once the sensors are valid and the cause has been gone for ``recover_s``; a command, a crash
loop, an exhausted restart ladder, a loss of contact or another limit ends by telecommand only, and not while
another cause is active. An operator who commands SAFE in SAFE takes ownership, and so does a limit whose exit rule
is the stricter one.

The causes soc_low to blind are a floor in code that no table can unload; shed is the last rung of load shedding, in
code too (``shedding``). Those of ``fdir`` come before the floor, from the active tables: an actionpoint whose
response is SAFE, as limit_power, limit_thermal or limit by its domain.

Payload runs in COMPUTE and DOWNLINK only. Power and thermal causes also shed the GPU's rail.

SAFE outlives the daemon: its cause is a durable fact, and a boot that finds one goes from BOOT straight back into
SAFE, with the same owner and the same exit rule (``State.resume``).

All timers are machine time.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from flightsw.link.schema import Mode

from .events import Event, Fields
from .limits import NEVER

PAYLOAD_MODES: Final = frozenset((Mode.COMPUTE, Mode.DOWNLINK))


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Debounce times, on the machine clock unless a key says otherwise."""

    recover_s: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 10.0
    """SAFE ends by itself when its cause has been gone for this long."""
    stale_safe_s: Annotated[float, Meta(ge=0.5, le=3600.0)] = 10.0
    """SAFE when no valid sensor frame has come for this long; after boot too."""
    loss_of_contact_s: Annotated[float, Meta(ge=10.0, le=31_536_000.0)] = 259_200.0
    """SAFE when no telecommand has been accepted for this much mission time; restarts do not reset it."""


class Facts(Struct, frozen=True, kw_only=True):
    """What the transition table looks at; of texts (actionpoint of ``fdir``, why of ``shedding``) empty is none."""

    ready: bool = False
    blind: bool = False
    soc_low: bool = False
    undervoltage: bool = False
    gpu_hot: bool = False
    radiator_hot: bool = False
    limit_power: str = ""
    limit_thermal: str = ""
    limit: str = ""
    shed: str = ""
    ladder_exhausted: bool = False
    contact_lost: bool = False
    jobs_wanted: bool = False
    contact: bool = False


class Cause(Struct, frozen=True):
    """Why SAFE was entered: event of the dictionary, fact that keeps it, and what follows from it.

    ``automatic`` is the exit rule: SAFE ends by itself when every fact is gone, or else by telecommand only.
    """

    event: str
    text: str
    fact: str | None
    sheds_rail: bool
    automatic: bool = True


BY_COMMAND: Final = "command"
CRASH_LOOP: Final = "crash_loop"
RESTART_LADDER: Final = "restart_ladder"
LOSS_OF_CONTACT: Final = "loss_of_contact"
LIMIT: Final = "limit"
CAUSES: Final[dict[str, Cause]] = {
    BY_COMMAND: Cause("SAFE_ENTERED", "telecommand", None, False, automatic=False),
    CRASH_LOOP: Cause("CRASH_LOOP", "crash loop", None, False, automatic=False),
    "soc_low": Cause("SOC_LOW", "state of charge", "soc_low", True),
    "undervoltage": Cause("BUS_UNDERVOLTAGE", "bus under-voltage", "undervoltage", True),
    "gpu_hot": Cause("GPU_HOT", "GPU over-temperature", "gpu_hot", True),
    "radiator_hot": Cause("RADIATOR_HOT", "radiator over-temperature", "radiator_hot", True),
    "blind": Cause("SENSORS_STALE", "sensors stale", "blind", False),
    "limit_power": Cause("FDIR_TRIPPED", "limit of power", "limit_power", True),
    "limit_thermal": Cause("FDIR_TRIPPED", "limit of heat", "limit_thermal", True),
    "shed": Cause("SHED_RUNG", "load shedding", "shed", True),
    LIMIT: Cause("FDIR_TRIPPED", "limit", "limit", False, automatic=False),
    RESTART_LADDER: Cause("LADDER_EXHAUSTED", "restart ladder", "ladder_exhausted", False, automatic=False),
    LOSS_OF_CONTACT: Cause("CONTACT_LOST", "loss of contact", "contact_lost", False, automatic=False),
}


class State(Struct, frozen=True, kw_only=True):
    """Mode, the event that caused it, and while in SAFE its cause (key of ``CAUSES``).

    ``requested`` is a mode asked for by telecommand and not yet looked at; ``gone_s`` is the machine time since
    when the cause of SAFE has been absent. In BOOT, ``resume`` is the cause of the SAFE to go back to, and
    ``resume_event`` the event that had led into it.
    """

    mode: Mode = Mode.BOOT
    event: str = "BOOT"
    cause: str | None = None
    requested: Mode | None = None
    resume: str | None = None
    resume_event: str = ""
    gone_s: float = NEVER

    @property
    def payload_permitted(self) -> bool:
        """Whether workers may run."""
        return self.mode in PAYLOAD_MODES


class Transition(Struct, frozen=True):
    """One row: from these modes, under this condition, to this mode; ``event`` and ``reason`` say why."""

    sources: frozenset[Mode]
    condition: Callable[[State, Facts, bool], bool]
    target: Mode
    event: str
    reason: str
    cause: str | None = None


def _from(*modes: Mode) -> frozenset[Mode]:
    return frozenset(modes)


_AWAKE: Final = _from(Mode.BOOT, Mode.NOMINAL, Mode.COMPUTE, Mode.DOWNLINK)
_SERVING: Final = _from(Mode.NOMINAL, Mode.COMPUTE, Mode.DOWNLINK)


def _while(name: str) -> Callable[[State, Facts, bool], bool]:
    return lambda _state, facts, _recovered: bool(getattr(facts, name))


def _safe_on(name: str) -> Transition:
    cause = CAUSES[name]
    assert cause.fact is not None, "only a fact can be watched"
    return Transition(_AWAKE, _while(cause.fact), Mode.SAFE, cause.event, cause.text, name)


def _safe_again(name: str) -> Transition:
    cause = CAUSES[name]
    reason = cause.text if name == CRASH_LOOP else f"{cause.text}, kept over the restart"
    return Transition(_from(Mode.BOOT), lambda s, f, r: s.resume == name, Mode.SAFE, cause.event, reason, name)


TRANSITIONS: Final = (
    *(_safe_again(name) for name in CAUSES),
    Transition(
        frozenset(Mode),
        lambda s, f, r: s.requested == Mode.SAFE,
        Mode.SAFE,
        "SAFE_ENTERED",
        "telecommand",
        BY_COMMAND,
    ),
    _safe_on("soc_low"),
    _safe_on("undervoltage"),
    _safe_on("gpu_hot"),
    _safe_on("radiator_hot"),
    _safe_on("blind"),
    _safe_on("shed"),
    _safe_on(LIMIT),
    _safe_on("limit_power"),
    _safe_on("limit_thermal"),
    Transition(
        _from(Mode.SAFE),
        lambda s, f, r: bool(f.limit) and CAUSES[s.cause or BY_COMMAND].automatic,
        Mode.SAFE,
        CAUSES[LIMIT].event,
        CAUSES[LIMIT].text,
        LIMIT,
    ),
    _safe_on(RESTART_LADDER),
    _safe_on(LOSS_OF_CONTACT),
    Transition(_from(Mode.BOOT), _while("ready"), Mode.NOMINAL, "BOOT", "sensors valid"),
    Transition(
        _from(Mode.SAFE),
        lambda s, f, r: s.requested == Mode.NOMINAL and not _any_active(f),
        Mode.NOMINAL,
        "MODE_CHANGED",
        "telecommand",
    ),
    Transition(_from(Mode.SAFE), lambda s, f, r: r, Mode.NOMINAL, "MODE_CHANGED", "cause is gone"),
    Transition(_from(Mode.NOMINAL, Mode.COMPUTE), _while("contact"), Mode.DOWNLINK, "CONTACT_START", "contact"),
    Transition(
        _from(Mode.DOWNLINK),
        lambda s, f, r: not f.contact and f.jobs_wanted,
        Mode.COMPUTE,
        "CONTACT_END",
        "contact ended, jobs wanted",
    ),
    Transition(_from(Mode.DOWNLINK), lambda s, f, r: not f.contact, Mode.NOMINAL, "CONTACT_END", "contact ended"),
    Transition(_from(Mode.NOMINAL), _while("jobs_wanted"), Mode.COMPUTE, "JOB_STATE", "jobs wanted"),
    Transition(_from(Mode.COMPUTE), lambda s, f, r: not f.jobs_wanted, Mode.NOMINAL, "JOB_STATE", "no job wanted"),
)


_watched: Final = attrgetter(*(cause.fact for cause in CAUSES.values() if cause.fact is not None))
_ROWS: Final = {source: tuple(row for row in TRANSITIONS if source in row.sources) for source in Mode}


def active_causes(facts: Facts) -> tuple[str, ...]:
    """Causes of SAFE that hold now, in words."""
    return tuple(_said(c.text, c, facts) for c in CAUSES.values() if c.fact is not None and getattr(facts, c.fact))


def _any_active(facts: Facts) -> bool:
    return any(_watched(facts))


def sheds_rail(state: State, facts: Facts) -> bool:
    """Whether SAFE has to switch the GPU's rail off: for its own cause, or for one that came on top."""
    if state.mode is not Mode.SAFE:
        return False
    return any(
        c.sheds_rail and (name == state.cause or getattr(facts, c.fact)) for name, c in CAUSES.items() if c.fact
    )


def step(state: State, config: Config, facts: Facts, now_s: float) -> tuple[State, tuple[Event, ...]]:
    """The mode after this frame: the first row of the table that applies."""
    recovered = False
    if state.mode is Mode.SAFE:
        state, recovered = _recovery(state, config, facts, now_s)
    for row in _ROWS[state.mode]:
        if row.condition(state, facts, recovered):
            return _take(state, row, facts)
    return (state if state.requested is None else replace(state, requested=None)), ()


def _recovery(state: State, config: Config, facts: Facts, now_s: float) -> tuple[State, bool]:
    """Whether SAFE has outlived its cause; any other cause that is active holds it too.

    Without valid sensors nobody knows whether a cause is gone: stale is no pass.
    """
    if not CAUSES[state.cause or BY_COMMAND].automatic:
        return state, False
    if not facts.ready or _any_active(facts):
        return (state if state.gone_s == NEVER else replace(state, gone_s=NEVER)), False
    if state.gone_s == NEVER:
        state = replace(state, gone_s=now_s)
    return state, now_s - state.gone_s >= config.recover_s


def _said(text: str, cause: Cause, facts: Facts) -> str:
    """A reason in words; a limit of the tables names its actionpoint."""
    by = getattr(facts, cause.fact) if cause.fact is not None else ""
    return f"{text}: {by}" if isinstance(by, str) and by else text


def _take(state: State, row: Transition, facts: Facts) -> tuple[State, tuple[Event, ...]]:
    if row.target == state.mode and row.cause == state.cause:
        return replace(state, requested=None), ()
    resumed = state.resume is not None and row.cause == state.resume
    event = (state.resume_event or row.event) if resumed else row.event
    entered = State(mode=row.target, event=event, cause=row.cause)
    found: tuple[Event, ...] = ()
    reason = row.reason if row.cause is None else _said(row.reason, CAUSES[row.cause], facts)
    if row.target != state.mode:
        fields: Fields = {"old": state.mode.name, "new": row.target.name, "reason": reason}
        found = (Event("MODE_CHANGED", fields),)
    if row.target is Mode.SAFE:
        found += (Event("SAFE_ENTERED", {"reason": reason}),)
    return entered, found
