"""One run in virtual time: the executive that flies, and the model of everything around it.

    plant ──SensorFrame──► executive.step ──effects──► payload, recorder, switches ──loads──► plant

``Flight.frame`` moves the world by one minor frame and lets the executive see it. What the world tells the
executive passes through methods of its own (``sensors``, ``gpu``, ``adapters``, ``recorder_status``, ``health``,
``telecommands``), and what the executive does through ``_execute``, so that a disturbed world can change the one
and watch the other (``endurance_world``).
"""

from collections.abc import Iterable, Sequence
from typing import Final

from flightsw.core import executive
from flightsw.core.effects import (
    Actuate,
    Announce,
    Effect,
    KickWatchdog,
    KillWorker,
    Persist,
    Playback,
    Replay,
    Restart,
    SaveCheckpoint,
    SetPace,
    SetVigilance,
    StartWorker,
    StopWorker,
    SubmitRequest,
    Telemetry,
)
from flightsw.core.inputs import AdapterStatus, GpuSample, Health, Inputs, RecorderStatus, Report
from flightsw.link.avionics import SensorFrame

from .inproc_card import CARD_FAULTS, InprocCard
from .inproc_digest import Digest
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
from .plant.disturbances import fault_key
from .plant.plant import Loads, Plant
from .plant.truth import Truth

COMMANDS_PER_FRAME: Final = 8
SECOND_S: Final = 1.0
ADAPTERS: Final = ("avionics", "radio", "store")

_TO_PAYLOAD: Final = (StartWorker, StopWorker, KillWorker, SetPace, SetVigilance, SaveCheckpoint, SubmitRequest)


class Flight:
    """One run. The plant is at the end of the last frame, the vehicle has seen the one before."""

    def __init__(
        self,
        config: executive.Config,
        plant: Plant,
        frame_s: float,
        seed: int,
        commands: Sequence[TimedCommand] = (),
        faults: Sequence[TimedFault] = (),
    ) -> None:
        self.config, self.plant, self.frame_s = config, plant, frame_s
        self.payload = Payload(self.make_jobs(seed))
        self.recorder = Recorder()
        self.card = InprocCard()
        self.loads = Loads(gpu_power_w=config.governor.gpu_idle_w)
        self.boots = 0
        self.durable: dict[str, bytes] = {}
        self.reports: list[Report] = []
        self.busy = 0.0
        self._commands = uplink(commands, seed)
        self._faults = schedule(faults)
        heat = config.thermal
        self._tally = Tally(frame_s, config.eps.soc_floor, heat.gpu_limit_degc, heat.radiator_limit_degc)
        self._digest = Digest()
        self._second = self._executions = self._kicks = 0
        self._vehicle = self._boot("power on", 0.0, power_on=True)

    def frame(self, now_s: float) -> None:
        """World and payload move to ``now_s``, then the executive sees them."""
        truth = self._world(now_s)
        self._inject(truth.world_s)
        self._tally.observe(truth, self._vehicle.mode.mode.name)
        inputs = self._inputs(truth, now_s)
        self._vehicle, effects = executive.step(self._vehicle, self.config, inputs, now_s)
        self._execute(effects, truth, now_s)

    def evidence(self) -> Evidence:
        """What was seen."""
        return self._tally.evidence(
            digest=self._digest.text,
            soc_end=self.plant.truth().soc_fraction,
            jobs=self.payload.jobs.values(),
            recorder=self.recorder,
            boots=self.boots,
            watchdog_kicks=self._kicks,
        )

    @property
    def digest(self) -> str:
        """Digest of everything so far."""
        return self._digest.text

    def make_jobs(self, seed: int) -> Iterable[SimulatedJob]:
        """The workers' side of the configured jobs."""
        return [SimulatedJob(job.id, job.kind == "train", seed) for job in self.config.jobs]

    def sensors(self, truth: Truth) -> SensorFrame | None:
        """What the bus tells in this frame."""
        return self.plant.sense(radio_lock=truth.in_contact)

    def gpu(self, truth: Truth) -> GpuSample | None:
        """What the probe tells in this second."""
        return self.card.sample(truth, self._tally.energy_j, self.busy)

    def adapters(self) -> tuple[AdapterStatus, ...]:
        """What the shell says of its adapters in this second."""
        self._executions += 1
        return tuple(
            AdapterStatus(name=n, executions=self._executions, restarts=0, failed=False, mandatory=True)
            for n in ADAPTERS
        )

    def recorder_status(self) -> RecorderStatus:
        """The recorder's counters."""
        recorder = self.recorder
        return RecorderStatus(
            pending=recorder.pending,
            shed=recorder.shed,
            sent=recorder.live + recorder.playback,
            playback=recorder.playback,
            sent_bytes=recorder.sent_bytes,
            replayed=recorder.replayed,
        )

    def health(self) -> Health:
        """What the shell says of its own process."""
        return Health()

    def telecommands(self, truth: Truth) -> list[bytes]:
        """What the radio brings in this frame."""
        packets: list[bytes] = []
        while truth.in_contact and self._commands and len(packets) < COMMANDS_PER_FRAME:
            if self._commands[0][0] > truth.world_s:
                break
            packets.append(self._commands.pop(0)[1])
        return packets

    def archives(self, truth: Truth) -> bool:
        """Whether the station hears, and archives, what is sent now."""
        return truth.in_contact

    def _world(self, now_s: float) -> Truth:
        """One frame of plant and payload."""
        truth = self.plant.step(self.frame_s, self.loads)
        self.busy, told = self.payload.advance(self.frame_s, now_s)
        self.reports += told
        return truth

    def _boot(
        self, cause: str, now_s: float, *, crash_loop: bool = False, power_on: bool = False
    ) -> executive.Vehicle:
        self.boots += 1
        vehicle, effects = executive.boot(
            self.config,
            boot_count=self.boots,
            cause=cause,
            crash_loop=crash_loop,
            config_hash="inproc",
            now_s=now_s,
            durable=self.durable,
            power_on=power_on,
        )
        self._execute(effects, self.plant.truth(), now_s)
        return vehicle

    def _inputs(self, truth: Truth, now_s: float) -> Inputs:
        packets = self.telecommands(truth)
        gpu: GpuSample | None = None
        adapters: tuple[AdapterStatus, ...] = ()
        if now_s >= self._second * SECOND_S:
            # What the shell refreshes once a second, on the frames that begin one.
            self._second = int(now_s / SECOND_S) + 1
            adapters = self.adapters()
            gpu = self.gpu(truth)
        reports, self.reports = tuple(self.reports), []
        return Inputs(
            sensors=self.sensors(truth),
            gpu=gpu,
            telecommands=tuple(packets),
            reports=reports,
            adapters=adapters,
            recorder=self.recorder_status(),
            health=self.health(),
        )

    def _inject(self, world_s: float) -> None:
        while self._faults and self._faults[0][0] <= world_s:
            _, _, begins, fault = self._faults.pop(0)
            if fault.name == WORKER_KILL:
                if fault.job in self.payload.jobs:
                    self.reports += self.payload.jobs[fault.job].kill("killed by a fault")
            elif fault.name in CARD_FAULTS:
                if begins:
                    self.card.inject(fault.name, fault.parameters)
                else:
                    self.card.clear(fault.name)
            elif begins:
                self.plant.inject(fault.name, **fault.parameters)
            else:
                self.plant.clear(fault_key(fault.name, fault.parameters))

    def _execute(self, effects: tuple[Effect, ...], truth: Truth, now_s: float) -> None:
        digest = self._digest
        digest.truth(truth)
        rail_on, transmitter_on, restart = self.loads.gpu_rail_on, self.loads.transmitter_on, ""
        archives = self.archives(truth)
        for effect in effects:
            digest.effect(effect)
            match effect:
                case Telemetry():
                    size_bytes = len(effect.packet)
                    self.recorder.take(
                        effect.priority, size_bytes, live=effect.live, in_contact=archives, record=effect.record
                    )
                case Actuate():
                    rail_on, transmitter_on = effect.gpu_rail_on, effect.transmitter_on
                case KickWatchdog():
                    self._kicks += 1
                case Replay(id):
                    # The station has every event already.
                    self.recorder.replayed = id
                case Playback():
                    self.recorder.play(effect.budget_bytes if archives else 0)
                case Announce():
                    self._tally.log(LoggedEvent(truth.world_s, effect.severity.name, effect.name, effect.text))
                case Persist():
                    self.durable[effect.key] = effect.payload
                case Restart():
                    restart = effect.reason
                case _ if isinstance(effect, _TO_PAYLOAD):
                    self.reports += self.payload.do(effect, effect.job, now_s)
                case _:
                    pass  # The station has acknowledged already.
        governor = self.config.governor
        watts = governor.gpu_idle_w + (governor.gpu_max_w - governor.gpu_idle_w) * self.busy
        self.loads = Loads(gpu_power_w=watts, gpu_rail_on=rail_on, transmitter_on=transmitter_on)
        if restart:
            self._vehicle = self._boot(restart, now_s)
