"""What one minor frame is told: the closed set of inputs.

The shell collects these between two frames and hands them over at once. Everything is a value; nothing
here can be asked for more. A quantity that a device does not provide is None, one it cannot provide now is
NaN: "unsupported" and "no value" are different facts, and neither is zero.

Bounds: the shell passes at most ``TELECOMMANDS_PER_FRAME_MAX`` packets and ``REPORTS_PER_FRAME_MAX`` reports;
the rest waits in its own bounded queues.
"""

from typing import Final, Literal

import msgspec

from flightsw.link.avionics import SensorFrame
from flightsw.link.power_reading import PowerReading

from .plan import Plan

TELECOMMANDS_PER_FRAME_MAX: Final = 16
REPORTS_PER_FRAME_MAX: Final = 64


class GpuSample(msgspec.Struct, frozen=True, kw_only=True):
    """One reading of the probe; None marks a field that this card does not support.

    ECC counts are volatile: they begin with the driver. ``throttle_reasons`` is NVML's bit mask of clocks event
    reasons. ``xid_count`` counts XID reports since the probe started, ``xids`` are the newest of them, oldest
    first; when they are not supported, ``unsupported`` says "xid". A count that could not be read this time is None
    without its name in ``unsupported``. ``card`` is the card's own name, empty when it tells none.

    ``power_w`` is the quickest power that the card gives; ``readings`` says what kind it is and lists the others.
    ``power_limit_w`` is the limit that was set, ``power_limit_enforced_w`` the lowest of all that act on the card,
    ``slowdown_margin_k`` how much warmer it may get before it slows down.
    """

    sequence: int
    source: str
    card: str = ""
    power_w: float | None = None
    die_degc: float | None = None
    memory_degc: float | None = None
    energy_j: float | None = None
    utilisation_fraction: float | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    throttle_reasons: int | None = None
    xids: tuple[int, ...] = ()
    xid_count: int | None = None
    unsupported: tuple[str, ...] = ()
    power_average_w: float | None = None
    power_limit_w: float | None = None
    power_limit_enforced_w: float | None = None
    slowdown_margin_k: float | None = None
    readings: tuple[PowerReading, ...] = ()


class WorkerReady(msgspec.Struct, frozen=True, kw_only=True):
    """A worker has its device and its state; ``generation`` −1 is a fresh start."""

    job: str
    pid: int
    device: str
    step: int
    generation: int


class WorkerProgress(msgspec.Struct, frozen=True, kw_only=True):
    """A heartbeat. ``progress`` counts finished micro-batches and never stands still in a healthy worker.

    ``step``, ``loss`` and ``tokens`` are totals of the job (training) or of this worker (inference);
    ``busy_s`` is its processor or GPU time in micro-batches; ``micro_batch_s`` the longest since the last beat.
    """

    job: str
    progress: int
    step: int
    loss: float
    tokens: int
    busy_s: float
    micro_batch_s: float
    pending: int


class WorkerExited(msgspec.Struct, frozen=True, kw_only=True):
    """The process is gone and reaped. ``returncode`` is negative for a signal, as in ``subprocess``."""

    job: str
    returncode: int
    reason: str


class WorkerFault(msgspec.Struct, frozen=True, kw_only=True):
    """A worker tells of a fault of its own: unreadable corpus, out of memory, a non-finite loss."""

    job: str
    code: str
    reason: str


class CheckpointCommitted(msgspec.Struct, frozen=True, kw_only=True):
    """A generation was written, read back and verified, and ``latest`` points to it."""

    job: str
    generation: int
    step: int
    digest: str
    size_bytes: int
    stall_s: float
    total_s: float


class CheckpointRejected(msgspec.Struct, frozen=True, kw_only=True):
    """A generation was found corrupt or half-written and was skipped."""

    job: str
    generation: int
    reason: str


class CheckpointFailed(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint could not be written; the older generations stand."""

    job: str
    reason: str


class ModelSwapped(msgspec.Struct, frozen=True, kw_only=True):
    """An inference worker serves another verified generation from now on."""

    job: str
    generation: int
    step: int


class RequestReply(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one inference request; ``finish`` is "length", "stop" or "failed"."""

    job: str
    request: int
    text: str
    tokens: int
    finish: str
    generation: int
    duration_s: float


class WorkerIntegrity(msgspec.Struct, frozen=True, kw_only=True):
    """Totals of a worker's integrity checks since it started. Meaning: ``gpu.protocol.IntegrityReport``."""

    job: str
    level: str
    checks: int = 0
    detected: int = 0
    repaired: int = 0
    recomputed: int = 0
    contained: int = 0
    open: int = 0
    scrubs: int = 0
    last_detector: str = ""
    last_where: str = ""


Report = (
    WorkerReady
    | WorkerProgress
    | WorkerExited
    | WorkerFault
    | CheckpointCommitted
    | CheckpointRejected
    | CheckpointFailed
    | ModelSwapped
    | RequestReply
    | WorkerIntegrity
)


class AdapterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Supervision tier 2, seen from the core. ``executions`` moves whenever the adapter did its work.

    ``cycle_s`` is the longest time between two moves of a sound adapter (machine clock).
    """

    name: str
    executions: int
    restarts: int
    failed: bool
    mandatory: bool
    reason: str = ""
    cycle_s: float = 1.0


class RecorderStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of recorder and radio; all counts since this boot except ``pending``, ``used_bytes`` (by group) and
    ``ring`` (events), which are what it holds.

    ``full`` while the disk, not the quota, is the limit. ``replay_left`` packets of the replay in hand are still to
    be sent; ``replayed`` is the id of the last one that is done, with ``replayed_count`` packets.
    """

    pending: int = 0
    shed: int = 0
    sent: int = 0
    playback: int = 0
    dropped: int = 0
    fault: str = ""
    sent_bytes: int = 0
    expired: int = 0
    full: bool = False
    used_bytes: tuple[int, ...] = ()
    ring: int = 0
    replay_left: int = 0
    replayed: int = 0
    replayed_count: int = 0


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon process as its shell measures it, refreshed about once a second.

    ``watchdog_kicks`` were heard since boot; ``watchdog_confirmed`` says whether the last one made a difference, as
    far as a watchdog tells, and is None where none does; ``watchdog_fault`` says what is wrong, or is empty.
    ``unclean_boots`` are those in a row up to now.
    """

    frame_late_s: float = 0.0
    frames_skipped: int = 0
    rss_mb: float = float("nan")
    cpu_fraction: float = float("nan")
    disk_free_mb: float = float("nan")
    radio_frames_bad: int = 0
    avionics_frames_bad: int = 0
    watchdog_kicks: int = 0
    watchdog_confirmed: bool | None = None
    watchdog_fault: str = ""
    unclean_boots: int = 0


ResetCause = Literal[
    "FIRST_BOOT", "POWER_ON", "CLEAN", "COMMAND", "LADDER", "UNCLEAN", "WATCHDOG", "FAILED", "RECORD_LOST"
]


class Reset(msgspec.Struct, frozen=True, kw_only=True):
    """One end of the daemon and the boot that followed it, as the boot record remembers it.

    ``boot`` is the boot that began and ``cause`` why, a state of ``RESET_CAUSES``; the rest is about the life
    before: its uptime and mode when it was last noted down, the cause of SAFE if it was in it, TAI then when it was
    known, and its last words.
    """

    boot: int
    cause: ResetCause
    uptime_s: float = 0.0
    mode: str = ""
    safe_cause: str = ""
    tai_s: float | None = None
    reason: str = ""


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one minor frame sees. ``sensors`` and ``gpu`` are None when nothing new has come."""

    sensors: SensorFrame | None = None
    gpu: GpuSample | None = None
    telecommands: tuple[bytes, ...] = ()
    reports: tuple[Report, ...] = ()
    plans: tuple[Plan, ...] = ()
    adapters: tuple[AdapterStatus, ...] = ()
    recorder: RecorderStatus = RecorderStatus()
    health: Health = Health()
