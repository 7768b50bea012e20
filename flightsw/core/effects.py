"""What the core may ask of the shell: the closed set of effects.

An effect is a value. The shell executes it after the frame and its outcome, where there is one, comes back as
an input of a later frame. ``match`` over ``Effect`` in the shell ends in ``assert_never``.
"""

import msgspec

from flightsw.link.schema import Severity

from .plan import PlanRequest


class SetPace(msgspec.Struct, frozen=True):
    """Share of time, 0 to 1, that a worker may spend in micro-batches from now on.

    ``micro_batch_s`` is the longest micro-batch that still lets the mean power follow the budget; 0 is no bound.
    """

    job: str
    duty: float
    micro_batch_s: float = 0.0


class SetVigilance(msgspec.Struct, frozen=True):
    """Integrity level of a worker from its next pass on, by its name in lower case."""

    job: str
    level: str


class StartWorker(msgspec.Struct, frozen=True):
    """Exec the worker of a configured job."""

    job: str


class StopWorker(msgspec.Struct, frozen=True):
    """Ask a worker to checkpoint and to go; the core kills it itself when it does not."""

    job: str


class KillWorker(msgspec.Struct, frozen=True):
    """SIGKILL a worker and reap it."""

    job: str
    reason: str


class SaveCheckpoint(msgspec.Struct, frozen=True):
    """Ask a training worker for a checkpoint after the present optimiser step."""

    job: str
    reason: str


class SubmitRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Hand an inference request to a worker."""

    job: str
    request: int
    prompt: str
    max_tokens: int
    temperature: float
    top_k: int
    seed: int


class RequestPlan(msgspec.Struct, frozen=True):
    """Ask the planner; its answer within ``deadline_s`` of machine time comes as an input."""

    request: PlanRequest
    deadline_s: float


class Actuate(msgspec.Struct, frozen=True, kw_only=True):
    """The actuator frame of this minor frame."""

    frame_count: int
    gpu_rail_on: bool
    transmitter_on: bool


class Telemetry(msgspec.Struct, frozen=True, kw_only=True):
    """One finished packet: record it when ``record``, send it at once when ``live``.

    ``group`` is its code in the recorder. An event carries its severity: it enters the ring of events, too.
    """

    apid: int
    sequence: int
    priority: int
    world_s: float
    packet: bytes
    live: bool
    group: int
    record: bool = True
    severity: Severity | None = None


class Playback(msgspec.Struct, frozen=True):
    """Play back recorded packets, most important first, then oldest, up to this many bytes."""

    budget_bytes: int


class Replay(msgspec.Struct, frozen=True):
    """Send the last ``count`` events of the ring again, of at least this severity, oldest first, as playback.

    It takes the place of an earlier one; ``id`` comes back in the recorder's status when it is done."""

    id: int
    count: int
    severity: Severity


class SetRetention(msgspec.Struct, frozen=True, kw_only=True):
    """What the recorder is to hold from now on: quota, shares of it and ages by group (0 is for ever)."""

    quota_bytes: int
    ack_timeout_s: float
    shares: tuple[float, ...]
    max_ages_s: tuple[float, ...]


class Acknowledge(msgspec.Struct, frozen=True):
    """The ground has these packets, both ends included."""

    boot: int
    apid: int
    first: int
    last: int


class Announce(msgspec.Struct, frozen=True):
    """An event for the log and the terminal; the packet for the ground is a ``Telemetry`` of its own."""

    severity: Severity
    name: str
    text: str


class Persist(msgspec.Struct, frozen=True):
    """Write a small durable fact under its key (two copies, CRC, version)."""

    key: str
    payload: bytes


class KickWatchdog(msgspec.Struct, frozen=True):
    """The frame is complete and every mandatory adapter moved."""


class Restart(msgspec.Struct, frozen=True):
    """End in an orderly way and come up again in a new process image; ``by_ladder`` when nobody commanded it."""

    reason: str
    by_ladder: bool = False


class CountUncleanBoots(msgspec.Struct, frozen=True):
    """Set the number of unclean boots in a row in the boot record: 0 clears the crash loop."""

    count: int


Effect = (
    SetPace
    | SetVigilance
    | StartWorker
    | StopWorker
    | KillWorker
    | SaveCheckpoint
    | SubmitRequest
    | RequestPlan
    | Actuate
    | Telemetry
    | Playback
    | Replay
    | SetRetention
    | Acknowledge
    | Announce
    | Persist
    | KickWatchdog
    | Restart
    | CountUncleanBoots
)
