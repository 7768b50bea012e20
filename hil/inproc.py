"""The executive in the bench's own process, in virtual time: an orbit in seconds, the same bytes every time.

    plant ──SensorFrame──► executive.step ──effects──► payload, recorder, switches ──loads──► plant

The executive is the one that flies; what is around it here is a model: the plant, the workers (``inproc_payload``)
and a recorder (``inproc_tally``) with a station that archives whatever it hears and acknowledges it at once. There
is no shell, no process, no clock: machine time and mission time are one, and both are counted in frames.

``Evidence.digest`` covers every effect of every frame and the truth behind it. For one commit, configuration,
plant seed and run seed it is the same on every machine with the same floating point.

This module and ``inproc_payload`` are the bench's only ones that may import the core; they take ``executive`` and
the values that cross its boundary, ``inputs`` and ``effects``.
"""

from collections.abc import Mapping, Sequence
from struct import Struct as ByteLayout
from typing import Any, Final, get_args

import msgspec
import xxhash

from flightsw.core import executive
from flightsw.core.effects import (
    Actuate,
    Announce,
    Effect,
    KickWatchdog,
    KillWorker,
    Persist,
    Playback,
    Restart,
    SaveCheckpoint,
    SetPace,
    StartWorker,
    StopWorker,
    SubmitRequest,
    Telemetry,
)
from flightsw.core.inputs import AdapterStatus, GpuSample, Inputs, RecorderStatus, Report

from .inproc_evidence import (
    WORKER_KILL,
    Evidence,
    LoggedEvent,
    TimedCommand,
    TimedFault,
    schedule,
    uplink,
)
from .inproc_payload import Payload, SimulatedJob
from .inproc_tally import Recorder, Tally
from .plant.plant import Loads, Plant
from .plant.truth import Truth

DURATION_MAX_S: Final = 30 * 86400.0
FRAME_MIN_S: Final = 0.02
FRAME_MAX_S: Final = 2.0
COMMANDS_PER_FRAME: Final = 8
ORBIT_S: Final = 5700.0
SECOND_S: Final = 1.0
ADAPTERS: Final = ("avionics", "radio", "store")

_TRUTH: Final = ByteLayout("<8d")
_NAMES: Final[dict[type, bytes]] = {kind: kind.__name__.encode() for kind in get_args(Effect)}


def mission(plant: Plant, **sections: Mapping[str, Any]) -> executive.Config:
    """The core's configuration for this plant: two jobs, and what operators know of the satellite and its orbit.

    ``sections`` override keys by section (``checkpoint={"interval_world_s": 300.0}``).
    Raises ``ValueError`` for a key or a value that the core does not take.
    """
    eps, thermal = plant.config.eps, plant.config.thermal
    period_s = plant.geometry.orbit.period_s
    eclipses = plant.forecast(2.0 * period_s).eclipses
    made: dict[str, dict[str, Any]] = {
        "eps": {
            "capacity_wh": eps.capacity_wh,
            "charge_efficiency": eps.charge_efficiency,
            "discharge_efficiency": eps.discharge_efficiency,
            "charge_power_max_w": eps.charge_power_max_w,
            "bus_power_w": eps.bus_power_w,
            "orbit_period_s": period_s,
            # The longest one: the first and the last may be cut by the ends of the forecast.
            "eclipse_s": max((e.duration_s for e in eclipses), default=0.0),
            "eclipse_entry_s": eclipses[0].start_s if eclipses else None,
        },
        "thermal": {"conductance_w_k": thermal.conductance_w_k},
    }
    for name, keys in sections.items():
        made.setdefault(name, {}).update(keys)
    jobs = [{"id": "train", "kind": "train"}, {"id": "infer", "kind": "infer", "share": 0.5}]
    try:
        return msgspec.convert({**made, "jobs": jobs}, executive.Config)
    except msgspec.ValidationError as error:
        raise ValueError(f"mission configuration: {error}") from None


def run_inproc(
    config: executive.Config,
    plant: Plant,
    duration_s: float,
    frame_s: float,
    seed: int,
    commands: Sequence[TimedCommand] = (),
    faults: Sequence[TimedFault] = (),
) -> Evidence:
    """Fly ``plant`` with the executive for ``duration_s`` in frames of ``frame_s`` seconds.

    Raises ``ValueError`` in one line for a duration, frame, command or fault that is none.
    """
    if not 0.0 < duration_s <= DURATION_MAX_S:
        raise ValueError(f"duration of {duration_s:g} s: must be over 0 and at most {DURATION_MAX_S:.0f}")
    if not FRAME_MIN_S <= frame_s <= FRAME_MAX_S:
        raise ValueError(f"frame of {frame_s:g} s: must be {FRAME_MIN_S:g} to {FRAME_MAX_S:g}")
    flight = _Flight(config, plant, frame_s, seed, commands, faults)
    for index in range(1, max(1, round(duration_s / frame_s)) + 1):
        flight.frame(index * frame_s)
    return flight.evidence()


class _Flight:
    """One run. The plant is at the end of the last frame, the vehicle has seen the one before."""

    def __init__(
        self,
        config: executive.Config,
        plant: Plant,
        frame_s: float,
        seed: int,
        commands: Sequence[TimedCommand],
        faults: Sequence[TimedFault],
    ) -> None:
        self._config, self._plant, self._frame_s = config, plant, frame_s
        self._payload = Payload(SimulatedJob(job.id, job.kind == "train", seed) for job in config.jobs)
        self._commands = uplink(commands, seed)
        self._faults = schedule(faults)
        self._recorder = Recorder()
        heat = config.thermal
        self._tally = Tally(frame_s, config.eps.soc_floor, heat.gpu_limit_degc, heat.radiator_limit_degc)
        self._digest, self._encode = xxhash.xxh3_128(), msgspec.msgpack.Encoder().encode
        self._reports: list[Report] = []
        self._loads = Loads(gpu_power_w=config.governor.gpu_idle_w)
        self._second = self._executions = self._sample = 0
        self._busy = 0.0
        self._boots = self._kicks = 0
        self._durable: dict[str, bytes] = {}
        self._vehicle = self._boot("power on", 0.0)

    def frame(self, now_s: float) -> None:
        """World and payload move to ``now_s``, then the executive sees them."""
        truth = self._plant.step(self._frame_s, self._loads)
        self._busy, told = self._payload.advance(self._frame_s, now_s)
        self._reports += told
        self._inject(truth.world_s)
        self._tally.observe(truth, self._vehicle.mode.mode.name)
        inputs = self._inputs(truth, now_s)
        self._vehicle, effects = executive.step(self._vehicle, self._config, inputs, now_s)
        self._digest.update(
            _TRUTH.pack(
                truth.world_s,
                truth.soc_fraction,
                truth.gpu_temp_degc,
                truth.radiator_temp_degc,
                truth.bus_voltage_v,
                truth.gpu_rail_power_w,
                truth.latitude_deg,
                truth.longitude_deg,
            )
        )
        self._execute(effects, truth, now_s)

    def _boot(self, cause: str, now_s: float) -> executive.Vehicle:
        self._boots += 1
        vehicle, effects = executive.boot(
            self._config,
            boot_count=self._boots,
            cause=cause,
            crash_loop=False,
            config_hash="inproc",
            now_s=now_s,
            durable=self._durable,
            power_on=self._boots == 1,
        )
        self._execute(effects, self._plant.truth(), now_s)
        return vehicle

    def _inputs(self, truth: Truth, now_s: float) -> Inputs:
        contact = truth.in_contact
        packets: list[bytes] = []
        while contact and self._commands and len(packets) < COMMANDS_PER_FRAME:
            if self._commands[0][0] > truth.world_s:
                break
            packets.append(self._commands.pop(0)[1])
        gpu: GpuSample | None = None
        adapters: tuple[AdapterStatus, ...] = ()
        if now_s >= self._second * SECOND_S:
            # What the shell refreshes once a second, on the frames that begin one.
            self._second = int(now_s / SECOND_S) + 1
            self._executions += 1
            adapters = tuple(
                AdapterStatus(name=n, executions=self._executions, restarts=0, failed=False, mandatory=True)
                for n in ADAPTERS
            )
            gpu = self._gpu(truth)
        reports, self._reports = tuple(self._reports), []
        recorder = self._recorder
        return Inputs(
            sensors=self._plant.sense(radio_lock=contact),
            gpu=gpu,
            telecommands=tuple(packets),
            reports=reports,
            adapters=adapters,
            recorder=RecorderStatus(
                pending=recorder.pending,
                shed=recorder.shed,
                sent=recorder.live + recorder.playback,
                playback=recorder.playback,
            ),
        )

    def _gpu(self, truth: Truth) -> GpuSample | None:
        if not truth.gpu_rail_on:
            return None
        self._sample += 1
        return GpuSample(
            sequence=self._sample,
            source="simulated",
            power_w=truth.gpu_rail_power_w,
            die_degc=truth.gpu_temp_degc,
            energy_j=self._tally.energy_j,
            utilisation_fraction=self._busy,
            unsupported=("memory_degc", "ecc_uncorrected"),
        )

    def _inject(self, world_s: float) -> None:
        while self._faults and self._faults[0][0] <= world_s:
            _, _, begins, fault = self._faults.pop(0)
            if fault.name == WORKER_KILL:
                if fault.job in self._payload.jobs:
                    self._reports += self._payload.jobs[fault.job].kill("killed by a fault")
            elif begins:
                self._plant.inject(fault.name, **fault.parameters)
            else:
                self._plant.clear(fault.name)

    def _execute(self, effects: tuple[Effect, ...], truth: Truth, now_s: float) -> None:
        update, encode = self._digest.update, self._encode
        rail_on, transmitter_on, restart = self._loads.gpu_rail_on, self._loads.transmitter_on, ""
        for effect in effects:
            update(_NAMES[type(effect)])
            match effect:
                case Telemetry():
                    update(effect.packet)
                    size_bytes = len(effect.packet)
                    self._recorder.take(effect.priority, size_bytes, live=effect.live, in_contact=truth.in_contact)
                    continue
                case Actuate():
                    rail_on, transmitter_on = effect.gpu_rail_on, effect.transmitter_on
                case KickWatchdog():
                    self._kicks += 1
                case Playback():
                    self._recorder.play(effect.budget_bytes)
                case Announce():
                    self._tally.log(LoggedEvent(truth.world_s, effect.severity.name, effect.name, effect.text))
                case Persist():
                    self._durable[effect.key] = effect.payload
                case Restart():
                    restart = effect.reason
                case StartWorker() | StopWorker() | KillWorker() | SetPace() | SaveCheckpoint() | SubmitRequest():
                    self._reports += self._payload.do(effect, effect.job, now_s)
                case _:
                    pass  # The station has acknowledged already.
            update(encode(effect))
        governor = self._config.governor
        watts = governor.gpu_idle_w + (governor.gpu_max_w - governor.gpu_idle_w) * self._busy
        self._loads = Loads(gpu_power_w=watts, gpu_rail_on=rail_on, transmitter_on=transmitter_on)
        if restart:
            self._vehicle = self._boot(restart, now_s)

    def evidence(self) -> Evidence:
        """What was seen."""
        return self._tally.evidence(
            digest=self._digest.hexdigest(),
            soc_end=self._plant.truth().soc_fraction,
            jobs=self._payload.jobs.values(),
            recorder=self._recorder,
            boots=self._boots,
            watchdog_kicks=self._kicks,
        )
