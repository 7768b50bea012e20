"""What the daemon and its child processes say to each other.

A worker or probe is started by exec, ``python -m flightsw.gpu.worker`` or ``.probe``. Its standard input
and output carry length-prefixed msgpack messages (``u32`` little-endian, then one tagged map); its standard error
is for people. End of file on standard input means that the daemon is gone: the child ends itself. Host bytes
and file names cross this pipe, never CUDA handles.

The first message to a worker is its ``TrainSpec`` or ``InferSpec``, to a probe its ``ProbeSpec``; the worker
answers ``Ready`` once it has its device, its corpus or model and its restored state.
"""

from struct import Struct as ByteLayout
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from flightsw.link.power_reading import PowerReading

MESSAGE_BYTES_MAX: Final = 1 << 20
LENGTH_PREFIX: Final = ByteLayout("<I")

JobId = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
Device = Literal["auto", "cpu", "cuda"]
LevelName = Literal["off", "watch", "standard", "storm"]
"""An integrity level (``flightsw.link.integrity``) by its name in lower case."""
Integrity = Literal["auto", "off", "watch", "standard", "storm"]
"""What a job's specification may say of its level."""

INTEGRITY_REPORT_S: Final = 1.0
"""A worker sends at most one integrity report in this time; the first finding of each outcome goes out at once."""
WHERE_CHARACTERS_MAX: Final = 120
"""As much of the name of a damaged place as a report carries."""


class TrainSpec(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="train"
):
    """A training job. Paths are absolute once the daemon has read its configuration."""

    id: JobId = "train"
    """Job id, as telecommands name it."""
    preset: str = "tiny"
    """Model preset of ``workloads.gpt``: "char" is 6 layers × 384 wide, context 256; "tiny" is for CPUs."""
    corpus: str = ""
    """Text file or folder to train on; empty is the Python standard library's own sources."""
    device: Device = "auto"
    """"auto" is CUDA when there is one."""
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 1337
    """Seed of the weights, the data order and dropout."""
    batch_size: Annotated[int, Meta(ge=0, le=4096)] = 0
    """Sequences per micro-batch; 0 takes the preset's own."""
    micro_batches: Annotated[int, Meta(ge=1, le=256)] = 1
    """Micro-batches accumulated per optimiser step."""
    learning_rate: Annotated[float, Meta(gt=0.0, le=1.0)] = 1e-3
    """Peak AdamW learning rate."""
    max_steps: Annotated[int, Meta(ge=1, le=10**9)] = 1_000_000
    """The job completes at this step."""
    deterministic: bool = True
    """Deterministic kernels, so that a resumed run equals an undisturbed one bit for bit."""
    compile: bool = False
    """Use ``torch.compile``."""
    threads: Annotated[int, Meta(ge=0, le=1024)] = 1
    """Processor threads of the worker; 0 leaves torch's default."""
    micro_batch_max_s: Annotated[float, Meta(gt=0.0, le=10.0)] = 0.25
    """Bound on one micro-batch; a longer one is reported as a fault."""
    micro_batch_target_s: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.0
    """Cut micro-batches at the first start into equal parts that take no longer than this; 0 leaves them whole."""
    micro_batch_split: Annotated[int, Meta(ge=0, le=4096)] = 0
    """Equal parts of a micro-batch; it divides batch_size, and 0 is what the target chose, or 1."""
    checkpoint_dir: str = ""
    """Ring of checkpoints; empty is ``<state_dir>/checkpoints/<id>``."""
    generations: Annotated[int, Meta(ge=4, le=64)] = 4
    """Generations kept."""
    meter: str = ""
    """File of the activity meter; empty is none."""
    journal: str = ""
    """File that gets one line ``step digest`` after every optimiser step; empty is none. For twins."""
    autostart: bool = True
    """Start without being asked whenever the mode allows payload."""
    share: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    """Share of the duty budget while other jobs want it too."""
    sm_fraction: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    """Part of the card's multiprocessors that the worker uses, where PyTorch has green contexts; 1 is the card."""
    integrity: Integrity = "auto"
    """Integrity level: "auto" begins at "standard" and follows the daemon; any other name is held, and only the
    operator's telecommand goes over it."""


class InferSpec(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="infer"
):
    """An inference job: serves the newest verified checkpoint of a training job, or a language model."""

    id: JobId = "infer"
    """Job id, as telecommands name it."""
    model: str = "job:train"
    """"job:ID" is that training job's checkpoints; "hf:PATH" a Hugging Face directory or a GGUF file."""
    device: Device = "auto"
    """"auto" is CUDA when there is one."""
    batch_max: Annotated[int, Meta(ge=1, le=256)] = 8
    """Sequences decoded together."""
    queue_max: Annotated[int, Meta(ge=1, le=4096)] = 64
    """Requests waiting; one more is refused."""
    threads: Annotated[int, Meta(ge=0, le=1024)] = 1
    """Processor threads of the worker; 0 leaves torch's default."""
    checkpoint_dir: str = ""
    """Ring to serve from; the daemon fills it in for "job:" models."""
    meter: str = ""
    """File of the activity meter; empty is none."""
    autostart: bool = True
    """Start without being asked whenever the mode allows payload."""
    share: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.5
    """Share of the duty budget while it has requests and other jobs want it too."""
    sm_fraction: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    """Part of the card's multiprocessors that the worker uses, where PyTorch has green contexts; 1 is the card."""
    integrity: Integrity = "auto"
    """Integrity level: "auto" begins at "standard" and follows the daemon; any other name is held, and only the
    operator's telecommand goes over it."""


class ProbeSpec(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="probe"
):
    """What the probe reads and how often."""

    source: Literal["auto", "nvml", "jetson", "none"] = "auto"
    """"auto" takes NVML, then Jetson sysfs, then none."""
    nvml_module: str = "pynvml"
    """Python module with NVML's functions; the bench puts a simulated card here."""
    device_index: Annotated[int, Meta(ge=0, le=63)] = 0
    """NVML index of the card."""
    interval_s: Annotated[float, Meta(ge=0.05, le=60.0)] = 0.2
    """Time between two readings."""


class SetterSpec(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="setter"
):
    """Settings of the card that the setter shall hold; 0 (−1 for the mode) is not wanted. Watts, MHz."""

    saved_file: str
    power_limit_w: float = 0.0
    power_limit_min_w: float = 0.0
    power_limit_max_w: float = 0.0
    clock_lock_mhz: int = 0
    nvpmodel_mode: int = -1
    nvpmodel_program: str = "nvpmodel"
    nvml_module: str = "pynvml"
    device_index: int = 0

    @property
    def wanted(self) -> bool:
        """Whether any setting is to be changed."""
        return self.power_limit_w > 0.0 or self.clock_lock_mhz > 0 or self.nvpmodel_mode >= 0


JobSpec = TrainSpec | InferSpec


# --- daemon → child ----------------------------------------------------------------------------------------


class Pace(msgspec.Struct, frozen=True, tag_field="kind", tag="pace"):
    """Duty set-point, 0 to 1, effective from the next micro-batch.

    ``micro_batch_s`` is the longest micro-batch wanted; 0 is no bound. A worker comes as near as its work allows.
    """

    duty: float
    micro_batch_s: float = 0.0


class Checkpoint(msgspec.Struct, frozen=True, tag_field="kind", tag="checkpoint"):
    """Commit a checkpoint after the present optimiser step."""

    reason: str


class Generate(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="generate"):
    """One inference request."""

    request: int
    prompt: str
    max_tokens: int
    temperature: float
    top_k: int
    seed: int


class Vigilance(msgspec.Struct, frozen=True, tag_field="kind", tag="vigilance"):
    """Integrity level from the next pass on. It comes after ``Ready``, at every change, and again now and then."""

    level: LevelName


class Adjust(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="adjust"):
    """Move a setting that the setter holds: "power_limit" (mW), "clock_lock" (MHz), "nvpmodel" (mode)."""

    setting: str
    value: int


class Stop(msgspec.Struct, frozen=True, tag_field="kind", tag="stop"):
    """Checkpoint (training), fail what is queued (inference), then exit with status 0."""


ToChild = TrainSpec | InferSpec | ProbeSpec | SetterSpec | Adjust | Pace | Checkpoint | Generate | Vigilance | Stop


# --- child → daemon ----------------------------------------------------------------------------------------


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="ready"):
    """Device, model and restored state are there. ``generation`` −1 is a fresh start."""

    pid: int
    device: str
    step: int
    generation: int


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="heartbeat"):
    """At least one a second, also at duty 0. Meaning of the fields: ``core.inputs.WorkerProgress``."""

    progress: int
    step: int
    loss: float
    tokens: int
    busy_s: float
    micro_batch_s: float
    pending: int


class Committed(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="committed"):
    """A generation is durable, read back and ``latest``. ``digest`` is the weights' digest in hex."""

    generation: int
    step: int
    digest: str
    size_bytes: int
    stall_s: float
    total_s: float


class Rejected(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="rejected"):
    """A generation on disk is corrupt or half-written and was skipped."""

    generation: int
    reason: str


class SaveFailed(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="save_failed"):
    """A checkpoint could not be written (no space, input/output error)."""

    reason: str


class Swapped(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="swapped"):
    """Inference serves this generation from now on."""

    generation: int
    step: int


class Reply(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="reply"):
    """Answer to one ``Generate``; ``finish`` is "length", "stop" or "failed" (then ``text`` says why)."""

    request: int
    text: str
    tokens: int
    finish: str
    generation: int
    duration_s: float


class IntegrityReport(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="integrity"):
    """What the worker's checks have found since it started: totals, so that a report that is lost costs nothing.

    ``detected`` counts findings, ``repaired`` to ``open`` what became of them (``gpu.integrity.finding.Outcome``);
    ``open`` are those that the worker has not settled by itself in good time: the daemon restarts it.
    ``checks`` counts comparisons of any detector, ``scrubs`` complete passes over resident state. ``last_…`` is of
    the newest finding, empty without one; ``last_where`` has at most ``WHERE_CHARACTERS_MAX`` characters.
    """

    level: LevelName
    checks: int = 0
    detected: int = 0
    repaired: int = 0
    recomputed: int = 0
    contained: int = 0
    open: int = 0
    scrubs: int = 0
    last_detector: str = ""
    last_where: str = ""


class Fault(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="fault"):
    """Something the child cannot mend; it exits after a fault unless it says so in ``reason``."""

    code: str
    reason: str


class Applied(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="applied"):
    """The settings that the setter holds, or has just put back. It comes at least every few seconds."""

    values: dict[str, int]
    restored: bool


class Sample(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="sample"):
    """One reading of the probe; None marks an unsupported field, NaN a failed reading.

    A count has no NaN: it is None without standing in ``unsupported`` when its reading failed. The fields' meaning
    is that of ``core.inputs.GpuSample``.
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


FromChild = (
    Ready
    | Heartbeat
    | Committed
    | Rejected
    | SaveFailed
    | Swapped
    | Reply
    | IntegrityReport
    | Fault
    | Applied
    | Sample
)

_encoder: Final = msgspec.msgpack.Encoder()
_to_child: Final[msgspec.msgpack.Decoder[ToChild]] = msgspec.msgpack.Decoder(ToChild)
_from_child: Final[msgspec.msgpack.Decoder[FromChild]] = msgspec.msgpack.Decoder(FromChild)


def encode(message: msgspec.Struct) -> bytes:
    """One message with its length prefix; ``ValueError`` when it is over ``MESSAGE_BYTES_MAX``."""
    body = _encoder.encode(message)
    if len(body) > MESSAGE_BYTES_MAX:
        raise ValueError(f"message of {len(body)} bytes, at most {MESSAGE_BYTES_MAX} are allowed")
    return LENGTH_PREFIX.pack(len(body)) + body


def decode_to_child(body: bytes) -> ToChild:
    """A message from the daemon; ``msgspec.MsgspecError`` when it is none."""
    return _to_child.decode(body)


def decode_from_child(body: bytes) -> FromChild:
    """A message from a child; ``msgspec.MsgspecError`` when it is none."""
    return _from_child.decode(body)
