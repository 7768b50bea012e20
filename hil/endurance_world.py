"""A disturbed world around the executive: everything that the mission's faults turn, and what the judge may see.

``World`` is a ``Flight`` whose inputs pass through switches: filters on the sensor frames, a silent probe, stuck
adapters, lost radio links, workers that misbehave (``endurance_payload``), a computer that is switched off.
Beside the flight it keeps what belongs outside the executive in the real system:

- the operator, whose telecommands come by a relay, need no pass and are accepted between two frames;
- the external watchdog, which restarts the computer when it was not kicked for ``WATCHDOG_S``;
- the boot record: an end that nobody asked for is unclean, ``CRASH_LOOP_BOOTS`` of them in a row without
  ``GOOD_BOOT_S`` of life are a crash loop, as in the daemon's shell;
- the durable facts, which survive every restart.

The judge reads what a frame showed (``endurance_seen``) and the plant's truth, and nothing else of the flight.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import msgspec

from flightsw.core import executive
from flightsw.core.effects import Effect
from flightsw.core.inputs import AdapterStatus, GpuSample, Health, RecorderStatus
from flightsw.link.avionics import SensorFrame
from flightsw.link.dictionary import TELECOMMAND_BY_NAME
from flightsw.link.schema import Mode

from .endurance_payload import FaultyJob
from .endurance_seen import Seen
from .inproc_evidence import TimedCommand, telecommand_packet
from .inproc_flight import COMMANDS_PER_FRAME, Flight
from .inproc_payload import SimulatedJob
from .plant.plant import Loads, Plant
from .plant.truth import Truth

WATCHDOG_S: Final = 30.0
CRASH_LOOP_BOOTS: Final = 3
GOOD_BOOT_S: Final = 120.0
BOOT_S: Final = 3.0
"""From the end of one process to the first frame of the next."""
ARMED_S: Final = 3.0
NOISE_SOC: Final = 0.005
NOISE_K: Final = 1.0

S = TypeVar("S", bound=msgspec.Struct)


Filter = Callable[[SensorFrame], SensorFrame | None]


class World(Flight):
    """A flight that can be disturbed, and that is watched."""

    def __init__(self, config: executive.Config, plant: Plant, frame_s: float, seed: int) -> None:
        self.seen = Seen()
        self.now_s = 0.0
        self.filters: dict[str, Filter] = {}
        self.probe_silent = self.radio_dead = self.archive_deaf = False
        self.gpu_change: dict[str, Any] = {}
        self.adapter_change: dict[str, dict[str, Any]] = {}
        self.recorder_change: dict[str, Any] = {}
        self.health_now = Health()
        self.pace: dict[str, float] = {}
        self.shed = 0
        self._seed = seed
        self._packets: list[bytes] = []
        self._armed: list[tuple[float, bytes]] = []
        self._sent = 0
        self._down_until_s: float | None = None
        self._next_boot = ("", False, False)
        self._kicked_s = self._booted_s = 0.0
        self._unclean = 0
        super().__init__(config, plant, frame_s, seed)

    def frame(self, now_s: float) -> None:
        """One frame, with the computer on or off."""
        self.now_s = now_s
        self.seen.clear()
        if self._down_until_s is not None:
            truth = self._world(now_s)
            self._tally.observe(truth, "OFF")
            if now_s >= self._down_until_s:
                self._down_until_s = None
                cause, crash_loop, power_on = self._next_boot
                self._kicked_s = self._booted_s = now_s
                self._vehicle = self._boot(cause, now_s, crash_loop=crash_loop, power_on=power_on)
            return
        while self._armed and self._armed[0][0] <= now_s:
            self._packets.append(self._armed.pop(0)[1])
        packets, self._packets = self._packets[:COMMANDS_PER_FRAME], self._packets[COMMANDS_PER_FRAME:]
        for packet in packets:
            self._vehicle, effects = executive.accept(self._vehicle, self.config, packet, now_s)
            self._execute(effects, self.plant.truth(), now_s)
        super().frame(now_s)
        if self.seen.kicked:
            self._kicked_s = now_s
        elif now_s - self._kicked_s > WATCHDOG_S:
            self.halt("watchdog", BOOT_S)

    def halt(self, cause: str, down_s: float, *, powered: bool = True) -> None:
        """The daemon dies now, unasked, with all its workers, and comes up again after ``down_s``."""
        self._unclean = self._unclean + 1 if self.now_s - self._booted_s < GOOD_BOOT_S else 1
        for job in self.jobs.values():
            job.vanish()
        self.reports, self._packets, self._armed = [], [], []
        self._down_until_s = self.now_s + down_s
        self._next_boot = (cause, self._unclean >= CRASH_LOOP_BOOTS, not powered)
        idle_w = self.config.governor.gpu_idle_w
        # The switches keep their position over a restart of the computer, not over a loss of power.
        self.loads = replaced(self.loads, {"gpu_power_w": idle_w}) if powered else Loads(gpu_rail_on=False)

    @property
    def fit(self) -> bool:
        """Whether charge and temperatures are truly where every SAFE may end."""
        truth, eps, heat = self.plant.truth(), self.config.eps, self.config.thermal
        return (
            truth.soc_fraction > eps.soc_recovered + NOISE_SOC
            and truth.gpu_temp_degc < heat.gpu_limit_degc - heat.clear_k - NOISE_K
            and truth.radiator_temp_degc < heat.radiator_limit_degc - heat.clear_k - NOISE_K
        )

    @property
    def at_limit(self) -> bool:
        """Whether charge or a temperature is truly at the limit of SAFE."""
        truth, eps, heat = self.plant.truth(), self.config.eps, self.config.thermal
        return (
            truth.soc_fraction < eps.soc_safe + NOISE_SOC
            or truth.gpu_temp_degc > heat.gpu_limit_degc - NOISE_K
            or truth.radiator_temp_degc > heat.radiator_limit_degc - NOISE_K
        )

    @property
    def down(self) -> bool:
        """Whether no daemon runs."""
        return self._down_until_s is not None

    def send(self, name: str, **arguments: Any) -> None:
        """A telecommand of the operator, received before the next frame."""
        self._packets.append(self._packet(name, arguments))

    def send_armed(self, name: str, **arguments: Any) -> None:
        """A hazardous telecommand: armed now, sent when that must have been executed."""
        self.send("arm", opcode=TELECOMMAND_BY_NAME[name].opcode)
        self._armed.append((self.now_s + ARMED_S, self._packet(name, arguments)))

    def _packet(self, name: str, arguments: dict[str, Any]) -> bytes:
        self._sent += 1
        command = TimedCommand(world_s=0.0, name=name, arguments=arguments)
        return telecommand_packet(command, self._seed, self._sent)

    def spoil(self) -> None:
        """Flip one bit of the telecommand that was sent last."""
        packet = bytearray(self._packets[-1])
        packet[len(packet) // 2] ^= 0x10
        self._packets[-1] = bytes(packet)

    def receive(self, unit: bytes) -> None:
        """Any bytes on the radio."""
        self._packets.append(unit)

    def make_jobs(self, seed: int) -> Iterable[SimulatedJob]:
        """Jobs that can be made to misbehave."""
        made = [FaultyJob(job.id, job.kind == "train", seed) for job in self.config.jobs]
        self.jobs: dict[str, FaultyJob] = {job.job: job for job in made}
        return made

    def sensors(self, truth: Truth) -> SensorFrame | None:
        """The plant's frame through the filters."""
        frame: SensorFrame | None = self.plant.sense(radio_lock=truth.in_contact and not self.radio_dead)
        for change in self.filters.values():
            if frame is None:
                break
            frame = change(frame)
        return frame

    def gpu(self, truth: Truth) -> GpuSample | None:
        """The probe's sample, unless it is silent."""
        sample = None if self.probe_silent else super().gpu(truth)
        return sample if sample is None or not self.gpu_change else replaced(sample, self.gpu_change)

    def adapters(self) -> tuple[AdapterStatus, ...]:
        """The shell's adapters, some of them broken."""
        healthy = super().adapters()
        probe = AdapterStatus(name="probe", executions=self._executions, restarts=0, failed=False, mandatory=False)
        healthy = (*healthy, probe)
        if not self.adapter_change:
            return healthy
        return tuple(replaced(a, self.adapter_change.get(a.name, {})) for a in healthy)

    def recorder_status(self) -> RecorderStatus:
        """The recorder's counters, some of them bad news."""
        status = super().recorder_status()
        if not self.recorder_change and not self.shed:
            return status
        return replaced(status, {"shed": status.shed + self.shed, **self.recorder_change})

    def health(self) -> Health:
        """The daemon's own process."""
        return self.health_now

    def telecommands(self, truth: Truth) -> list[bytes]:
        """Nothing: telecommands are accepted between the frames, as the daemon's shell does it."""
        return []

    def archives(self, truth: Truth) -> bool:
        """A station in view hears, unless the link is down."""
        return truth.in_contact and not (self.archive_deaf or self.radio_dead)

    def _world(self, now_s: float) -> Truth:
        truth = super()._world(now_s)
        if not truth.gpu_rail_on:
            for job in self.payload.jobs.values():
                self.reports += job.kill("the card has lost power")
        return truth

    def _boot(
        self, cause: str, now_s: float, *, crash_loop: bool = False, power_on: bool = False
    ) -> executive.Vehicle:
        for job in self.jobs.values():
            job.vanish()
        # The probe is a child of the daemon: it counts from its own beginning what the driver reports.
        self.card.health.xids, self.card.health.xid_count = (), 0
        self.health_now = Health()
        self.seen.booted = True
        self.seen.mode = Mode.BOOT.name
        return super()._boot(cause, now_s, crash_loop=crash_loop, power_on=power_on)

    def _execute(self, effects: tuple[Effect, ...], truth: Truth, now_s: float) -> None:
        take = self.seen.take
        for effect in effects:
            take(effect)
        self.pace.update(self.seen.paced)
        super()._execute(effects, truth, now_s)


def replaced(value: S, changes: dict[str, Any]) -> S:
    """A frozen struct with some fields changed."""
    return msgspec.structs.replace(value, **changes)
