"""Evidence of a run: what was true, what the spacecraft recorded, what the ground archived, and what the bench did.

The bench writes it while it flies; the judge reads it afterwards and needs nothing else. Three independent
witnesses are kept apart: ``truth`` comes from the plant, ``Onboard`` from the recorder's file, which is opened
read-only after the flight, and ``Archived`` from the station's archive. A claim of one is checked against another.
"""

import contextlib
import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from flightsw.link.bodies import EventBody
from flightsw.link.codec import HousekeepingBody, decode_telemetry
from flightsw.link.dictionary import EVENT_BY_ID
from flightsw.link.errors import LinkError
from flightsw.link.render import event_text

from .scenario import Interval, Scenario

Identity = tuple[int, int, int]

TRUTH_RATE_HZ: Final = 4.0
TRUTH_COLUMNS: Final = (
    "world_s",
    "machine_s",
    "sun_fraction",
    "array_power_w",
    "gpu_power_w",
    "bus_power_w",
    "soc_fraction",
    "soc_reading",
    "gpu_temp_degc",
    "radiator_temp_degc",
    "gpu_rail_on",
    "radio_lock",
    "elevation_deg",
    "proton_flux_cm2_s",
    "latitude_deg",
    "longitude_deg",
)


class FaultRecord(msgspec.Struct, kw_only=True):
    """One planned fault and what became of it. ``outcome`` is the judge's word; the rest is the injector's."""

    id: str
    kind: str
    planned_s: float | None = None
    fired: bool = False
    fired_s: float | None = None
    ended_s: float | None = None
    not_applicable: str = ""
    evidence: dict[str, Any] = {}
    outcome: str = "not_fired"
    detail: str = ""


class CommandRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One telecommand of the bench's operator and how it ended: a stage, "refused", "failed" or "no_contact"."""

    id: str
    name: str
    planned_s: float
    sent_s: float
    outcome: str
    detail: str = ""


class EventRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An event report, with the mission time at which it was made."""

    boot: int
    sequence: int
    world_s: float
    name: str
    severity: int
    text: str
    fields: dict[str, Any]


class ReplyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An inference reply as the ground archived it."""

    world_s: float
    request: int
    prompt: str
    text: str
    tokens: int
    generation: int
    finish: str
    arguments: dict[str, Any] = {}
    """Those of the telecommand that asked for it."""


class AnswerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A released answer beside the one that an undisturbed worker gives to the same request on the same weights."""

    request: int
    world_s: float
    generation: int
    text: str
    twin_text: str


class TwinRecord(msgspec.Struct, kw_only=True):
    """The undisturbed training run: ``compared`` holds (generation, step, digest on board, digest of the twin)."""

    flown: bool = False
    steps: int = 0
    detail: str = ""
    compared: list[tuple[int, int, str, str]] = []
    missing: list[tuple[int, int, str]] = []

    @property
    def mismatches(self) -> list[tuple[int, int, str, str]]:
        """Checkpoints whose weights are not the twin's."""
        return [row for row in self.compared if row[2] != row[3]]


class Onboard(msgspec.Struct, kw_only=True):
    """The recorder's file after the flight."""

    packets: int = 0
    sent: int = 0
    acknowledged: set[Identity] = set()
    identities: set[Identity] = set()
    events: list[EventRecord] = []
    series: dict[str, tuple[list[float], list[float]]] = {}
    unreadable: int = 0


class Archived(msgspec.Struct, kw_only=True):
    """The ground's archive after the flight. A packet that came both ways counts as live."""

    live: set[Identity] = set()
    playback: set[Identity] = set()
    events: list[EventRecord] = []
    replies: list[ReplyRecord] = []

    @property
    def identities(self) -> set[Identity]:
        """Everything that is safely on the ground."""
        return self.live | self.playback


class BenchHealth(msgspec.Struct, kw_only=True):
    """The bench is a participant: what it failed to do itself."""

    slip_s: float = 0.0
    late_max_s: float = 0.0
    ticks: int = 0
    faults: list[str] = []


class Evidence(msgspec.Struct, kw_only=True):
    """Everything one run left behind."""

    scenario: Scenario
    seed: int
    link: str
    device: str
    card: str
    orbit: str
    orbit_period_s: float
    warp: float
    started_utc: str
    machine: dict[str, str]
    versions: dict[str, str]
    commit: str
    run: Interval
    flown_until_s: float = math.nan
    wall_s: float = 0.0
    passes: list[tuple[float, float, str]] = []
    eclipses: list[Interval] = []
    truth: dict[str, list[float]] = {}
    faults: list[FaultRecord] = []
    commands: list[CommandRecord] = []
    twin: TwinRecord = msgspec.field(default_factory=TwinRecord)
    onboard: Onboard = msgspec.field(default_factory=Onboard)
    archived: Archived = msgspec.field(default_factory=Archived)
    health: BenchHealth = msgspec.field(default_factory=BenchHealth)
    channel: dict[str, dict[str, int]] = {}
    interrupted: bool = False
    daemon_died: str = ""
    meter_resets: int = 0
    answers: list[AnswerRecord] = []
    answers_detail: str = ""
    """Why not every released answer could be compared; empty when all were."""

    def column(self, name: str) -> list[float]:
        """One column of the plant's truth."""
        return self.truth.get(name, [])


EVIDENCE_BYTES_MAX: Final = 1 << 30


def save(evidence: Evidence, path: Path) -> None:
    """Keep the evidence, so that a run can be judged again after a check was mended. Raises ``OSError``."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(msgspec.msgpack.encode(evidence))
    temporary.replace(path)


def load(path: Path) -> Evidence:
    """Evidence from a file; ``ValueError`` with one line when it cannot be read."""
    try:
        if path.stat().st_size > EVIDENCE_BYTES_MAX:
            raise ValueError(f"{path}: over {EVIDENCE_BYTES_MAX} bytes, no evidence is that large")
        return msgspec.msgpack.decode(path.read_bytes(), type=Evidence)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}: no evidence of this version: {error}") from None


class TruthLog:
    """Collects truth at ``TRUTH_RATE_HZ`` of the machine; extremes between two rows are never lost.

    The plant is stepped faster than it is logged, so the least state of charge and the greatest
    temperatures of the steps between are kept in the row that follows.
    """

    _LEAST: Final = frozenset({"soc_fraction"})
    _GREATEST: Final = frozenset({"gpu_temp_degc", "radiator_temp_degc"})

    def __init__(self) -> None:
        self.columns: dict[str, list[float]] = {name: [] for name in TRUTH_COLUMNS}
        self._extremes: dict[str, float] = {}
        self._due_s = float("-inf")

    def add(self, row: dict[str, float]) -> None:
        """Offer one step; it is written when a row is due."""
        for name in self._LEAST:
            self._extremes[name] = min(self._extremes.get(name, math.inf), row[name])
        for name in self._GREATEST:
            self._extremes[name] = max(self._extremes.get(name, -math.inf), row[name])
        if row["machine_s"] < self._due_s:
            return
        self._due_s = row["machine_s"] + 1.0 / TRUTH_RATE_HZ
        for name, values in self.columns.items():
            values.append(self._extremes.get(name, row[name]))
        self._extremes.clear()


def read_onboard(path: Path) -> Onboard:
    """The recorder's file, read-only; an absent or unreadable file is an empty record with ``unreadable`` set."""
    record = Onboard(acknowledged=set(), identities=set(), events=[], series={})
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=5.0)) as database:
            rows = database.execute(
                "SELECT boot, apid, sequence, sent_s IS NOT NULL, acknowledged, packet FROM packets "
                "ORDER BY boot, world_s, apid, sequence"
            )
            _collect(rows, record)
    except sqlite3.Error:
        record.unreadable += 1
    return record


def _collect(rows: Iterator[tuple[int, int, int, int, int, bytes]], record: Onboard) -> None:
    for boot, apid, sequence, sent, acknowledged, packet in rows:
        identity = (boot, apid, sequence)
        record.packets += 1
        record.sent += bool(sent)
        record.identities.add(identity)
        if acknowledged:
            record.acknowledged.add(identity)
        try:
            body = decode_telemetry(packet).body
        except LinkError:
            record.unreadable += 1
            continue
        if isinstance(body, HousekeepingBody):
            for name, value in body.values.items():
                times, values = record.series.setdefault(name, ([], []))
                times.append(body.t)
                values.append(value)
        elif isinstance(body, EventBody):
            record.events.append(event_record(body))


def event_record(body: EventBody) -> EventRecord:
    """An event report with its name and text; one that this dictionary lacks keeps its number."""
    known = EVENT_BY_ID.get(body.id)
    return EventRecord(
        boot=body.boot,
        sequence=body.seq,
        world_s=body.t,
        name=known.name if known else f"EVENT_{body.id:#x}",
        severity=body.sev,
        text=event_text(body),
        fields=dict(body.fields),
    )


def held(times: list[float], values: list[float], end_s: float) -> Iterator[tuple[float, float, float]]:
    """(value, from, to) of every stretch over which a sampled state stood; the last one ends at ``end_s``."""
    for index, (start_s, value) in enumerate(zip(times, values, strict=True)):
        until_s = times[index + 1] if index + 1 < len(times) else end_s
        if until_s > start_s:
            yield value, start_s, until_s
