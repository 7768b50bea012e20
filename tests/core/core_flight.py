"""Flies the executive against the plant with workers that behave, in virtual time.

A worker here is what the daemon sees of one: ready a second after its start, a heartbeat each second whose progress
follows the duty it was given, a commit half a second after it is asked, gone half a second after it is stopped or
killed. Faults are planted by name. Nothing is random unless a test makes it so.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from core_plant import KELVIN, Plant

from flightsw.core import executive
from flightsw.core.effects import (
    Actuate,
    Announce,
    KillWorker,
    RequestPlan,
    SaveCheckpoint,
    SetPace,
    StartWorker,
    StopWorker,
    SubmitRequest,
    Telemetry,
)
from flightsw.core.inputs import (
    CheckpointCommitted,
    GpuSample,
    Inputs,
    RequestReply,
    WorkerExited,
    WorkerProgress,
    WorkerReady,
)
from flightsw.core.plan import Plan, PlanRequest
from flightsw.link.avionics import SensorFrame
from flightsw.link.bodies import CommandBody, EventBody, pack_body
from flightsw.link.codec import decode_telemetry
from flightsw.link.dictionary import APID_EVENT, APID_TELECOMMAND, EVENT_BY_ID, TELECOMMAND_BY_NAME
from flightsw.link.packet import ACK_ALL, TcPacket, encode_tc

TAI_AT_ZERO_S = 2.1e9
PASSES_S = ((1200.0, 1800.0), (4300.0, 4900.0))
"""Contact by mission time within an orbit; the second one lies in the eclipse."""


def sensor_frame(sequence: int, plant: Plant, warp: float = 1.0, **changes: object) -> SensorFrame:
    """What the bus would measure now; ``changes`` override fields."""
    sun = plant.sun
    voltage_v = plant.battery_voltage_v
    fields: dict[str, object] = {
        "sequence": sequence,
        "world_s": plant.time_s,
        "tai_s": TAI_AT_ZERO_S + plant.time_s,
        "warp": warp,
        "bus_voltage_v": voltage_v,
        "bus_current_a": (plant.gpu_w + plant.bus_w) / voltage_v,
        "array_power_w": plant.array_w * sun,
        "battery_voltage_v": voltage_v,
        "battery_current_a": plant.battery_w / voltage_v,
        "battery_temp_degc": 15.0,
        "soc_fraction": plant.energy_j / plant.capacity_j,
        "sun_fraction": sun,
        "gpu_temp_degc": plant.gpu_k - KELVIN,
        "radiator_temp_degc": plant.radiator_k - KELVIN,
        "gpu_rail_power_w": plant.gpu_w,
        "gpu_rail_on": True,
        "latitude_deg": 10.0,
        "longitude_deg": 20.0,
        "altitude_km": 550.0,
        "proton_flux_cm2_s": 3.0,
        "radio_lock": False,
    }
    fields.update(changes)
    return SensorFrame(**fields)


def telecommand(name: str, command_id: int, *, ack: int = ACK_ALL, **arguments: object) -> bytes:
    """A telecommand packet as the ground would send it; arguments go as they are, checked or not."""
    spec = TELECOMMAND_BY_NAME[name]
    body = pack_body(CommandBody(spec.opcode, command_id, arguments))
    return encode_tc(TcPacket(APID_TELECOMMAND, command_id % 16384, spec.service, spec.subtype, 1, ack, body))


@dataclass
class Worker:
    """One simulated worker process."""

    duty: float = 0.0
    progress: float = 0.0
    ready_s: float | None = None
    beat_s: float = 0.0
    gone_s: float | None = None
    returncode: int = 0
    commits_s: list[float] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    silent: bool = False
    stuck: bool = False


@dataclass
class Flight:
    """The vehicle, its world and its workers; ``fly`` runs frames, everything observed stays here."""

    config: executive.Config
    plant: Plant = field(default_factory=Plant)
    frame_s: float = 0.1
    warp: float = 1.0
    passes: tuple[tuple[float, float], ...] = PASSES_S
    keep_effects: bool = True
    sensor_changes: dict[str, object] = field(default_factory=dict)
    sensors_on: bool = True
    gpu_override: GpuSample | None = None
    planner: Callable[[PlanRequest], Plan] | None = None
    """Answers requests for a plan, in the frame after; None is a planner that never does."""
    plans: tuple[Plan, ...] = ()
    now_s: float = 100.0
    soc_min: float = 1.0
    gpu_max_degc: float = -273.0
    energy_gpu_j: float = 0.0
    work_s: float = 0.0
    duty_trace: list[tuple[float, float, float]] = field(default_factory=list)
    workers: dict[str, Worker] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)
    generation: int = 0
    rail_on: bool = True
    log: list[tuple[float, str, str]] = field(default_factory=list)
    effects: list[object] = field(default_factory=list)
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    pending: int = 0

    def __post_init__(self) -> None:
        self.vehicle, effects = executive.boot(
            self.config, boot_count=3, cause="test", crash_loop=False, config_hash="cafe", now_s=self.now_s
        )
        self._sequence = 0
        self._execute(effects)

    def frame(self, *telecommands: bytes, reports: tuple[object, ...] = ()) -> tuple[object, ...]:
        """One minor frame: world, workers, executive, effects."""
        self.now_s += self.frame_s
        world_dt_s = self.frame_s * self.warp
        duty = min(1.0, sum(w.duty for w in self.workers.values() if w.ready_s is not None))
        plant = self.plant
        gpu_w = plant.idle_w + duty * (plant.max_w - plant.idle_w) if self.rail_on else 0.0
        plant.step(world_dt_s, gpu_w)
        soc = plant.energy_j / plant.capacity_j
        self.soc_min = min(self.soc_min, soc)
        self.gpu_max_degc = max(self.gpu_max_degc, plant.gpu_k - KELVIN)
        self.work_s += duty * world_dt_s
        self._sequence += 1
        orbit_s = plant.time_s % plant.orbit_s
        changes = {
            "radio_lock": any(start_s <= orbit_s < end_s for start_s, end_s in self.passes),
            **self.sensor_changes,
        }
        inputs = Inputs(
            sensors=self.measured(self._sequence, changes) if self.sensors_on else None,
            gpu=self.gpu_override or GpuSample(sequence=self._sequence, source="sim", power_w=gpu_w, die_degc=60.0),
            telecommands=telecommands,
            reports=(*self._worker_reports(), *reports),
            plans=self.plans,
        )
        self.plans = ()
        self.vehicle, effects = executive.step(self.vehicle, self.config, inputs, self.now_s)
        self._execute(effects)
        self.duty_trace.append((plant.time_s, plant.sun, self.vehicle.governor.duty))
        return effects

    def measured(self, sequence: int, changes: dict[str, object]) -> SensorFrame:
        """What the bus measures in this frame."""
        return sensor_frame(sequence, self.plant, self.warp, **changes)

    def arrive(self, **changes: object) -> tuple[object, ...]:
        """A sensor frame between two minor frames, as the avionics wire hands it over at once."""
        self._sequence += 1
        frame = sensor_frame(self._sequence, self.plant, self.warp, **changes)
        self.vehicle, effects = executive.alarm(self.vehicle, self.config, frame, self.now_s)
        self._execute(effects)
        return effects

    def fly(self, world_s: float) -> None:
        """Frames until this much more mission time has passed."""
        end_s = self.plant.time_s + world_s - 1e-9
        while self.plant.time_s < end_s:
            self.frame()

    def events(self, name: str | None = None) -> list[tuple[float, str, dict[str, object]]]:
        """Event reports so far, decoded from their packets: (mission time, name, fields)."""

        found = []
        for effect in self.effects:
            if isinstance(effect, Telemetry) and effect.apid == APID_EVENT:
                body = decode_telemetry(effect.packet).body
                assert isinstance(body, EventBody)
                event = EVENT_BY_ID[body.id].name
                if name is None or event == name:
                    found.append((body.t, event, dict(body.fields)))
        return found

    def _worker_reports(self) -> tuple[object, ...]:
        reports: list[object] = []
        now_s = self.now_s
        for job, worker in list(self.workers.items()):
            if worker.gone_s is not None and now_s >= worker.gone_s:
                reports.append(WorkerExited(job=job, returncode=worker.returncode, reason="gone"))
                del self.workers[job]
                continue
            if worker.ready_s is None:
                continue
            if worker.ready_s > 0.0 and now_s >= worker.ready_s:
                worker.ready_s = -1.0
                step, generation = int(self.steps.get(job, 0)), self.generation or -1
                reports.append(WorkerReady(job=job, pid=7, device="cpu", step=step, generation=generation))
            if worker.ready_s > 0.0:
                continue
            if not worker.stuck:
                worker.progress += worker.duty * self.frame_s * 20.0
                self.steps[job] = self.steps.get(job, 0.0) + worker.duty * self.frame_s * 20.0
            while worker.commits_s and now_s >= worker.commits_s[0]:
                worker.commits_s.pop(0)
                self.generation += 1
                reports.append(
                    CheckpointCommitted(
                        job=job,
                        generation=self.generation,
                        step=int(self.steps[job]),
                        digest="ab",
                        size_bytes=9,
                        stall_s=0.004,
                        total_s=0.1,
                    )
                )
            if worker.duty > 0.0:
                reports += [self._answer(job, request) for request in worker.requests]
                worker.requests = []
            if now_s - worker.beat_s >= 1.0 and not worker.silent:
                worker.beat_s = now_s
                reports.append(
                    WorkerProgress(
                        job=job,
                        progress=int(worker.progress),
                        step=int(self.steps.get(job, 0)),
                        loss=2.5,
                        tokens=int(worker.progress) * 256,
                        busy_s=worker.progress * 0.05,
                        micro_batch_s=0.05,
                        pending=len(worker.requests),
                    )
                )
        return tuple(reports)

    def _answer(self, job: str, request: int) -> RequestReply:
        return RequestReply(
            job=job,
            request=request,
            text="words",
            tokens=5,
            finish="length",
            generation=self.generation or -1,
            duration_s=0.5,
        )

    def _execute(self, effects: tuple[object, ...]) -> None:
        for effect in effects:
            match effect:
                case StartWorker(job):
                    assert job not in self.workers, "two processes of one job"
                    self.workers[job] = Worker(ready_s=self.now_s + 1.0)
                case StopWorker(job):
                    self.workers[job].gone_s = self.now_s + 0.5
                case KillWorker(job, _):
                    if job in self.workers:
                        self.workers[job].gone_s, self.workers[job].returncode = self.now_s + 0.05, -9
                case SetPace(job, duty):
                    self.workers[job].duty = duty
                case SaveCheckpoint(job, _):
                    self.workers[job].commits_s.append(self.now_s + 0.5)
                case SubmitRequest():
                    self.workers[effect.job].requests.append(effect.request)
                case RequestPlan(request) if self.planner is not None:
                    self.plans = (self.planner(request),)
                case Actuate():
                    self.rail_on = effect.gpu_rail_on
                case Announce():
                    assert "}?" not in effect.text, f"an event lacks a field: {effect.text}"
                case _:
                    pass
            if self.keep_effects:
                self.effects.append(effect)
            self.digest.update(msgspec.msgpack.encode(effect))
