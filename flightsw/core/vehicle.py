"""The vehicle: everything the core knows, in one frozen value, and the configuration it was made for.

``Vehicle`` is the whole state between two minor frames; the executive makes the next one from it. Nothing else is
remembered anywhere, so the same vehicle and the same inputs give the same effects, bit for bit.
"""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from flightsw.link.card import REFERENCE, Profile

from . import (
    bus_alarm,
    card,
    checkpoint,
    commanding,
    contact_loss,
    correlation,
    downlink,
    durable,
    eps,
    events,
    fdir,
    fdir_table,
    fdir_tables,
    governor,
    gpu_health,
    housekeeping,
    integrity,
    ladder,
    latchup,
    mode,
    parameter_set,
    payload,
    planning,
    sense,
    sequence_life,
    shedding,
    tables,
    thermal,
    tracking,
    watchpoints,
)
from .bus_alarm import Config as BusAlarmConfig
from .checkpoint import Config as CheckpointConfig
from .commanding import Config as CommandingConfig
from .correlation import Config as CorrelationConfig
from .durable import Config as DurableConfig
from .eps import Config as EpsConfig
from .events import Config as EventsConfig
from .fdir_table import Config as FdirConfig
from .governor import Config as GovernorConfig
from .gpu_health import Config as GpuHealthConfig
from .housekeeping import Config as HousekeepingConfig
from .inputs import AdapterStatus, Health, RecorderStatus, Reset
from .integrity import Config as IntegrityConfig
from .job import Config as PayloadConfig
from .job import JobConfig
from .ladder import Config as LadderConfig
from .latchup import Config as LatchupConfig
from .link_budget import Config as DownlinkConfig
from .mode import Config as ModeConfig
from .plan_request import Config as PlanningConfig
from .power_positive import Config as PowerPositiveConfig
from .power_positive import check as check_power_positive
from .recording import Config as RecorderConfig
from .recording import State as RecordingState
from .sense import Config as SenseConfig
from .sequence import Config as SequenceConfig
from .shed_table import Config as SheddingConfig
from .supervision import State as SupervisionState
from .tables import Config as TablesConfig
from .thermal import Config as ThermalConfig
from .tracking import Config as TrackingConfig

RESTART_TIMEOUT_S: Final = 30.0
"""A restart waits this long for the workers to checkpoint and go (machine clock)."""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sections of the configuration that the core reads, one per subsystem, and the jobs."""

    sense: SenseConfig = SenseConfig()
    """Staleness of sensors and probe."""
    correlation: CorrelationConfig = CorrelationConfig()
    """Tolerances of the time correlation."""
    eps: EpsConfig = EpsConfig()
    """Battery, array, orbit."""
    bus_alarm: BusAlarmConfig = BusAlarmConfig()
    """Hard limits of the bus that act at once."""
    thermal: ThermalConfig = ThermalConfig()
    """Heat path and temperature limits."""
    governor: GovernorConfig = GovernorConfig()
    """Card and margins."""
    card: Profile = REFERENCE
    """Power and throughput of the card."""
    planning: PlanningConfig = PlanningConfig()
    """When to plan, how far, and what it may cost."""
    tracking: TrackingConfig = TrackingConfig()
    """How the duty is corrected by the measured energy."""
    gpu_health: GpuHealthConfig = GpuHealthConfig()
    """How the card's own reports are kept."""
    fdir: FdirConfig = FdirConfig()
    """Limits of the shipped tables that belong to no other subsystem."""
    mode: ModeConfig = ModeConfig()
    """Debounce of SAFE."""
    payload: PayloadConfig = PayloadConfig()
    """Deadlines and restart policy of workers."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When to commit."""
    commanding: CommandingConfig = CommandingConfig()
    """Bounds of commanding."""
    events: EventsConfig = EventsConfig()
    """Rates and filter of event reports."""
    housekeeping: HousekeepingConfig = HousekeepingConfig()
    """Intervals of the groups at boot."""
    downlink: DownlinkConfig = DownlinkConfig()
    """Rate of the radio."""
    recorder: RecorderConfig = RecorderConfig()
    """Store and forward."""
    durable: DurableConfig = DurableConfig()
    """How often durable facts are written."""
    tables: TablesConfig = TablesConfig()
    """Pace of dumps."""
    sequence: SequenceConfig = SequenceConfig()
    """Bounds of stored sequences, and which start at boot."""
    ladder: LadderConfig = LadderConfig()
    """When the daemon restarts itself."""
    shedding: SheddingConfig = SheddingConfig()
    """Ladder of load shedding."""
    power_positive: PowerPositiveConfig = PowerPositiveConfig()
    """The worst that SAFE must live through."""
    latchup: LatchupConfig = LatchupConfig()
    """Detection of latch-ups."""
    integrity: IntegrityConfig = IntegrityConfig()
    """Integrity level of the workers."""
    jobs: tuple[JobConfig, ...] = ()
    """Configured jobs; ids are unique."""

    def __post_init__(self) -> None:
        ids = [job.id for job in self.jobs]
        twice = sorted({job for job in ids if ids.count(job) > 1})
        if twice:
            raise ValueError(f"job ids must be unique, these are not: {', '.join(twice)}")
        target = self.eps.soc_floor + governor.least_margins(self.governor, self.eps, self.thermal).soc
        if self.eps.soc_safe > target:
            raise ValueError(
                f"eps.soc_safe = {self.eps.soc_safe:g} is over the governor's own floor, 1 - eps.dod_max plus its"
                f" margin = {target:g}: every eclipse would end in SAFE"
            )
        check_power_positive(self.power_positive, self.eps)
        if self.shedding.off_v <= self.eps.bus_undervoltage_v:
            raise ValueError(
                f"shedding.off_v = {self.shedding.off_v:g} must be over eps.bus_undervoltage_v"
                f" = {self.eps.bus_undervoltage_v:g}: the GPU goes off before SAFE must"
            )


class RestartOrder(Struct, frozen=True):
    """The daemon is to restart once all workers are gone, or at ``deadline_s`` of the machine clock."""

    reason: str
    deadline_s: float
    sent: bool = False
    by_ladder: bool = False


class Vehicle(Struct, frozen=True, kw_only=True):
    """State of all subsystems after ``frame_count`` minor frames.

    ``power_on`` tells a boot of the computer from a warm reset of the daemon alone; ``resets`` are those before
    this boot, oldest first.
    """

    boot_count: int
    boot_s: float
    now_s: float
    frame_count: int
    first_train: int | None
    first_infer: int | None
    sense: sense.State
    correlation: correlation.State
    gpu_health: gpu_health.State
    card: card.State
    eps: eps.State
    alarm: bus_alarm.State
    thermal: thermal.State
    watch: watchpoints.State
    fdir: fdir.State
    limit_tables: fdir_tables.State
    mode: mode.State
    governor: governor.State
    planning: planning.State
    tracking: tracking.State
    payload: payload.State
    checkpoint: checkpoint.State
    commanding: commanding.State
    housekeeping: housekeeping.State
    events: events.State
    downlink: downlink.State
    durable: durable.State
    contact_loss: contact_loss.State
    tables: tables.State
    parameters: parameter_set.State
    sequences: sequence_life.State
    ladder: ladder.State
    shedding: shedding.State
    latchup: latchup.State
    integrity: integrity.State
    power_on: bool = True
    resets: tuple[Reset, ...] = ()
    supervision: SupervisionState = SupervisionState()
    restart: RestartOrder | None = None
    adapters: tuple[AdapterStatus, ...] = ()
    recording: RecordingState = RecordingState()
    recorder: RecorderStatus = RecorderStatus()
    health: Health = Health()


def order_restart(vehicle: Vehicle, reason: str, now_s: float, *, by_ladder: bool) -> Vehicle:
    """The vehicle on its way to a restart of the daemon; an order that stands is kept."""
    if vehicle.restart is not None:
        return vehicle
    order = RestartOrder(reason, now_s + RESTART_TIMEOUT_S, by_ladder=by_ladder)
    return replace(vehicle, restart=order)


def start(config: Config, boot_count: int, crash_loop: bool, now_s: float) -> Vehicle:
    """The vehicle at boot; ``crash_loop`` holds it in SAFE until a telecommand ends it."""
    kinds = [job.kind for job in config.jobs]
    watch_table, action_table = fdir_table.shipped(config)
    return Vehicle(
        boot_count=boot_count,
        boot_s=now_s,
        now_s=now_s,
        frame_count=0,
        first_train=kinds.index("train") if "train" in kinds else None,
        first_infer=kinds.index("infer") if "infer" in kinds else None,
        sense=sense.start(now_s),
        correlation=correlation.start(now_s),
        gpu_health=gpu_health.State(),
        card=card.State(),
        eps=eps.start(config.eps),
        alarm=bus_alarm.CLEAR,
        thermal=thermal.start(config.thermal),
        watch=watchpoints.start(watch_table),
        fdir=fdir.start(action_table),
        limit_tables=fdir_tables.State(config=config),
        mode=mode.State(resume=mode.CRASH_LOOP if crash_loop else None),
        governor=governor.start(config.governor),
        planning=planning.State(),
        tracking=tracking.start(now_s),
        payload=payload.start(config.jobs, now_s),
        checkpoint=checkpoint.start(config.jobs),
        commanding=commanding.State(),
        housekeeping=housekeeping.start(config.housekeeping, now_s),
        events=events.start(config.events),
        downlink=downlink.start(now_s),
        durable=durable.State(written_s=now_s),
        contact_loss=contact_loss.State(),
        tables=tables.IDLE,
        parameters=parameter_set.FILED,
        sequences=sequence_life.State(),
        ladder=ladder.State(),
        shedding=shedding.ASIDE,
        latchup=latchup.WATCHING,
        integrity=integrity.start(config.integrity, config.jobs, now_s),
    )
