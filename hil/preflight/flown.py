"""What a run did, in the terms of a plan: one form for a bench run's evidence and for a flight in virtual time.

The bench keeps ``evidence.msgpack``; ``record`` flies the executive in this process and keeps the plant's truth.
Both become a ``Flown``: samples of the truth, and the spans in which something stood in the way of work. It says
nothing of what was told to whom: the spacecraft's own view is not needed to compare work, energy and heat.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from ..evidence import Evidence
from ..evidence import load as load_evidence
from ..inproc import DURATION_MAX_S, FRAME_MAX_S, FRAME_MIN_S
from ..inproc import mission as inproc_mission
from ..inproc_evidence import Evidence as InprocEvidence
from ..inproc_flight import Flight
from ..plant.eps import EpsConfig
from ..plant.orbit import ORBITS
from ..plant.plant import Plant, PlantConfig
from ..plant.stations import DEFAULT_STATIONS
from ..plant.truth import Truth
from ..summary import mode_spans
from .document import Limits, PlanError

EVIDENCE_FILE: Final = "evidence.msgpack"
FLOWN_FILE: Final = "flown.msgpack"
FLOWN_BYTES_MAX: Final = 1 << 28
SAMPLES_MIN: Final = 10
SAMPLE_S: Final = 10.0
"""Spacing of the samples of a flight in virtual time."""
WORKING_MODES: Final = frozenset({"COMPUTE", "DOWNLINK"})
HARMLESS_FAULTS: Final = frozenset({"radio_outage", "weight_flip"})
"""They cost telemetry, or an answer that is made again, and no training."""
INSTANTS: Final = frozenset({"worker_kill", "checkpoint_flip", "gpu_ecc", "gpu_xid"})
"""They last until a worker is ready again."""
SPAN_S_MIN: Final = 600.0


class Span(msgspec.Struct, frozen=True):
    """An interval of mission time in which something stood in the way, and what."""

    start_s: float
    end_s: float
    cause: str


class Flown(msgspec.Struct, frozen=True, kw_only=True):
    """A run. Columns are samples at ``world_s``; powers are means since the sample before."""

    name: str
    plant: PlantConfig
    """The world it flew in, beginning at the first sample with the charge and temperatures it had there."""
    limits: Limits
    world_s: list[float]
    array_w: list[float]
    gpu_w: list[float]
    soc: list[float]
    gpu_degc: list[float]
    radiator_degc: list[float]
    sunlit: list[float]
    rail_on: list[float]
    spans: list[Span] = []

    @property
    def length_s(self) -> float:
        """From the first sample to the last."""
        return self.world_s[-1] - self.world_s[0]


def read(folder: Path) -> Flown:
    """The run of an output folder; ``PlanError`` in one line when there is none, or none to compare."""
    if (folder / FLOWN_FILE).is_file():
        return _load(folder / FLOWN_FILE)
    if not (folder / EVIDENCE_FILE).is_file():
        raise PlanError(
            f"{folder}: neither {EVIDENCE_FILE} (hil run, hil demo) nor {FLOWN_FILE} (hil inproc --out); "
            "name the output folder of a finished run"
        )
    try:
        return of_evidence(load_evidence(folder / EVIDENCE_FILE))
    except ValueError as error:
        raise PlanError(str(error)) from None


def save(flown: Flown, folder: Path) -> None:
    """Keep a flight in virtual time for ``read``. Raises ``OSError``."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / (FLOWN_FILE + ".tmp")
    temporary.write_bytes(msgspec.msgpack.encode(flown))
    temporary.replace(folder / FLOWN_FILE)


def of_evidence(evidence: Evidence) -> Flown:
    """The truth of a bench run. Raises ``PlanError`` when too little was flown."""
    scenario, limits = evidence.scenario, evidence.scenario.invariants
    name = evidence.orbit if evidence.orbit in ORBITS else scenario.orbit
    rows = [
        index
        for index in range(len(evidence.column("world_s")))
        if all(math.isfinite(evidence.column(c)[index]) for c in ("world_s", "soc_fraction", "gpu_power_w"))
    ]
    flown = Flown(
        name=scenario.name,
        plant=PlantConfig(
            orbit=name,
            start=scenario.start,
            stations=tuple(scenario.stations) or DEFAULT_STATIONS,
            eps=EpsConfig(initial_soc_fraction=scenario.soc_start),
        ),
        limits=Limits(
            dod_max=1.0 - limits.soc_floor,
            gpu_degc=limits.gpu_temp_limit_degc,
            radiator_degc=limits.radiator_temp_limit_degc,
        ),
        world_s=[evidence.column("world_s")[i] for i in rows],
        array_w=[evidence.column("array_power_w")[i] for i in rows],
        gpu_w=[evidence.column("gpu_power_w")[i] for i in rows],
        soc=[evidence.column("soc_fraction")[i] for i in rows],
        gpu_degc=[evidence.column("gpu_temp_degc")[i] for i in rows],
        radiator_degc=[evidence.column("radiator_temp_degc")[i] for i in rows],
        sunlit=[evidence.column("sun_fraction")[i] for i in rows],
        rail_on=[evidence.column("gpu_rail_on")[i] for i in rows],
        spans=_spans(evidence),
    )
    return _begun(flown)


def record(
    plant: Plant, duration_s: float, frame_s: float, seed: int, *, limits: Limits | None = None
) -> tuple[InprocEvidence, Flown]:
    """Fly the executive in virtual time and keep the truth. Raises ``ValueError`` for a duration that is none."""
    if not 0.0 < duration_s <= DURATION_MAX_S or not FRAME_MIN_S <= frame_s <= FRAME_MAX_S:
        raise ValueError(
            f"duration {duration_s:g} s, frame {frame_s:g} s: allowed are up to {DURATION_MAX_S:.0f} s in "
            f"frames of {FRAME_MIN_S:g} to {FRAME_MAX_S:g} s"
        )
    flight = _Recorded(inproc_mission(plant), plant, frame_s, seed)
    flight.begin()
    for index in range(1, max(1, round(duration_s / frame_s)) + 1):
        flight.frame(index * frame_s)
    chosen = limits or Limits()
    config = msgspec.structs.replace(plant.config, start_s=flight.samples[0][0])
    columns = [list(column) for column in zip(*flight.samples, strict=True)]
    names = ("world_s", "array_w", "gpu_w", "soc", "gpu_degc", "radiator_degc", "sunlit", "rail_on")
    flown = Flown(name="inproc", plant=config, limits=chosen, **dict(zip(names, columns, strict=True)))
    return flight.evidence(), _begun(flown)


def cut(flown: Flown, start_s: float, end_s: float) -> Flown:
    """The part of a run between two mission times. Raises ``PlanError`` when there is too little of it."""
    kept = [i for i, at_s in enumerate(flown.world_s) if start_s <= at_s <= end_s]
    columns = ("world_s", "array_w", "gpu_w", "soc", "gpu_degc", "radiator_degc", "sunlit", "rail_on")
    part = msgspec.structs.replace(flown, **{name: [getattr(flown, name)[i] for i in kept] for name in columns})
    return _begun(part)


def _begun(flown: Flown) -> Flown:
    """The same run with its plant begun at the first sample."""
    if len(flown.world_s) < SAMPLES_MIN or flown.length_s < SPAN_S_MIN:
        raise PlanError(
            f"run {flown.name!r}: {len(flown.world_s)} samples of the truth; at least {SAMPLES_MIN} over "
            f"{SPAN_S_MIN:.0f} s are needed for a comparison"
        )
    plant = flown.plant
    return msgspec.structs.replace(
        flown,
        plant=msgspec.structs.replace(
            plant,
            start_s=flown.world_s[0],
            eps=msgspec.structs.replace(plant.eps, initial_soc_fraction=flown.soc[0]),
            thermal=msgspec.structs.replace(
                plant.thermal,
                initial_degc=flown.radiator_degc[0],
                initial_rise_k=flown.gpu_degc[0] - flown.radiator_degc[0],
            ),
        ),
    )


class _Recorded(Flight):
    """A flight that keeps a sample of the truth every ``SAMPLE_S``; a power is the mean of its frames."""

    samples: list[tuple[float, ...]]
    _array_w: float
    _gpu_w: float
    _frames: int

    def frame(self, now_s: float) -> None:
        """One frame, and what it left of the world."""
        super().frame(now_s)
        truth = self.plant.truth()
        self._array_w += truth.array_power_w
        self._gpu_w += truth.gpu_rail_power_w
        self._frames += 1
        if not self.samples or truth.world_s >= self.samples[-1][0] + SAMPLE_S - 1e-9:
            self._sample(truth)

    def begin(self) -> None:
        """Start the books."""
        self.samples = []
        self._array_w = self._gpu_w = 0.0
        self._frames = 0

    def _sample(self, truth: Truth) -> None:
        self.samples.append(
            (
                truth.world_s,
                self._array_w / self._frames,
                self._gpu_w / self._frames,
                truth.soc_fraction,
                truth.gpu_temp_degc,
                truth.radiator_temp_degc,
                truth.sun_fraction,
                float(truth.gpu_rail_on),
            )
        )
        self._array_w = self._gpu_w = 0.0
        self._frames = 0


def _spans(evidence: Evidence) -> list[Span]:
    """What stood in the way, the first of several first: faults while they lasted, the first start, modes without
    work."""
    found: list[Span] = []
    ready = sorted(e.world_s for e in evidence.onboard.events if e.name == "WORKER_READY")
    for fault in evidence.faults:
        if fault.fired_s is None or fault.kind in HARMLESS_FAULTS:
            continue
        end_s = fault.ended_s
        if end_s is None and fault.kind in INSTANTS:
            end_s = next((at_s for at_s in ready if at_s > fault.fired_s), None)
        end_s = evidence.flown_until_s if end_s is None else end_s
        found.append(Span(fault.fired_s, end_s, f"fault {fault.id}"))
    if ready:
        found.append(Span(evidence.run[0], ready[0], "start of the workers"))
    found += [
        Span(start_s, end_s, f"mode {name}")
        for name, start_s, end_s in mode_spans(evidence)
        if name not in WORKING_MODES
    ]
    return found


def covered(spans: Sequence[Span], at_s: float) -> str:
    """Cause of the first span over an instant; empty when there is none."""
    return next((span.cause for span in spans if span.start_s <= at_s < span.end_s), "")


def _load(path: Path) -> Flown:
    try:
        if path.stat().st_size > FLOWN_BYTES_MAX:
            raise PlanError(f"{path}: over {FLOWN_BYTES_MAX} bytes, no flight is that large")
        return msgspec.msgpack.decode(path.read_bytes(), type=Flown)
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise PlanError(f"{path}: no flight of this version: {error}") from None
