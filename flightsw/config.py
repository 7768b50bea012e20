"""Configuration of a mission: one TOML file, read once, typed and ranged, printed with its hash at boot.

Sections are structs. Those of the shell stand here; those of the core subsystems belong to the subsystems,
and ``executive.Config`` says which there are, so a new subsystem becomes a section by existing. A job is one
``[[jobs]]`` table that is handed to its worker as the spec.

``load`` finds every mistake before it gives up and raises one ``ConfigurationError`` with a line for each: file (or
``--set``), key, value, what is allowed. The hash is taken over the values before paths are made absolute, so
the same mission has the same hash on the bench and in flight.
"""

import hashlib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from flightsw.core import executive
from flightsw.core.job import JobConfig
from flightsw.gpu.protocol import InferSpec, JobSpec, ProbeSpec, SetterSpec, TrainSpec
from flightsw.link.endpoint import parse_endpoint
from flightsw.shell.card_profile import SHIPPED, ProfileError, load_profile
from flightsw.shell.typed_toml import Complaint, did_you_mean, examine, shown

EXAMPLE: Final = Path(__file__).with_name("mission.toml")
CONFIGURATION_BYTES_MAX: Final = 1 << 20
JOBS_MAX: Final = 8
PROFILE_KEYS: Final = {"gpu_idle_w": "idle_w", "gpu_max_w": "maximum_w"}
"""Keys of [governor] that the card's profile fills; the file may say otherwise."""
SAVED_FILE: Final = "actuators.saved"
DERIVED: Final = {"downlink.rate_bps": "radio.rate_bps"}
"""Keys of core sections that follow from a key of the shell, so that one fact stands once."""
JOB_KINDS: Final[dict[str, type[TrainSpec] | type[InferSpec]]] = {"train": TrainSpec, "infer": InferSpec}


class ConfigurationError(ValueError):
    """The configuration is unusable; ``lines`` holds one sentence for each mistake."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


class Mission(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who flies, and where the daemon keeps what must outlive it."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _-]{0,63}$")] = "gpusat"
    """Name of the spacecraft in logs."""
    state_dir: Annotated[str, Meta(min_length=1)] = "state"
    """Folder of boot record, recorder, checkpoints and log; made when it is not there."""


class Frame(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The minor frame."""

    rate_hz: Annotated[float, Meta(ge=0.5, le=50.0)] = 10.0
    """Minor frames per second of the machine clock."""


class Avionics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The wire to power board, sensors and actuators."""

    endpoint: str = "none"
    """serial:PATH[@BAUD], udp:BIND_HOST:BIND_PORT/PEER_HOST:PEER_PORT or none."""


class Radio(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The wire to the transceiver."""

    endpoint: str = "none"
    """serial:PATH[@BAUD], udp:BIND_HOST:BIND_PORT/PEER_HOST:PEER_PORT or none."""
    rate_bps: Annotated[int, Meta(ge=300, le=10**9)] = 115_200
    """Downlink rate in bit/s; live packets and playback together stay within it."""


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The card: its power, throughput and heat as measured by hil calibrate gpu, or as assumed."""

    profile: Annotated[str, Meta(min_length=1)] = SHIPPED
    """Name of a shipped profile, or path of a .toml file. It also gives governor.gpu_idle_w and gpu_max_w."""


class Worker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How child processes are started and ended."""

    command: tuple[str, ...] = ()
    """Program and arguments of a worker; empty is this Python with -m flightsw.gpu.worker."""
    probe_command: tuple[str, ...] = ()
    """Program and arguments of the probe; empty is this Python with -m flightsw.gpu.probe."""
    nice: Annotated[int, Meta(ge=0, le=19)] = 10
    """Niceness of workers, so that the daemon keeps its frame time on a full machine."""
    stop_timeout_s: Annotated[float, Meta(ge=0.1, le=120.0)] = 15.0
    """Time a worker has at shutdown to checkpoint and go; then it is killed."""


class Planner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The planner's process; whether and when it plans stands under [planning]."""

    command: tuple[str, ...] = ()
    """Program and arguments of the planner; empty is this Python with -m flightsw.planner."""
    nice: Annotated[int, Meta(ge=0, le=19)] = 5
    """Niceness of the planner."""


class Actuators(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the card itself: none is touched unless it is switched on here. They need rights of their own,
    are read and saved before they are changed, and put back at every end."""

    power_limit_w: Annotated[float, Meta(ge=0.0, le=5000.0)] = 0.0
    """NVML power limit; 0 leaves it as it is."""
    power_limit_min_w: Annotated[float, Meta(ge=0.0, le=5000.0)] = 0.0
    """No power limit under this is ever set; 0 is the card's own least."""
    power_limit_max_w: Annotated[float, Meta(ge=0.0, le=5000.0)] = 0.0
    """No power limit over this is ever set; 0 is the card's own most."""
    clock_lock_mhz: Annotated[int, Meta(ge=0, le=10_000)] = 0
    """Graphics clock locked to at most this; 0 leaves it as it is, and the end takes a lock back to the default."""
    nvpmodel_mode: Annotated[int, Meta(ge=-1, le=31)] = -1
    """Power mode of a Jetson by its number; -1 leaves it as it is."""
    nvpmodel_program: Annotated[str, Meta(min_length=1)] = "nvpmodel"
    """Program that asks for and sets the mode."""

    def __post_init__(self) -> None:
        if self.power_limit_max_w and self.power_limit_max_w < self.power_limit_min_w:
            raise ValueError(
                f"power_limit_max_w = {self.power_limit_max_w:g} is under power_limit_min_w ="
                f" {self.power_limit_min_w:g}"
            )
        high_w = self.power_limit_max_w or float("inf")
        if self.power_limit_w and not self.power_limit_min_w <= self.power_limit_w <= high_w:
            raise ValueError(
                f"power_limit_w = {self.power_limit_w:g} is outside power_limit_min_w to power_limit_max_w,"
                f" {self.power_limit_min_w:g} to {high_w:g}"
            )


class Log(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The event log on the terminal and in state_dir/flightd.log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity written."""
    max_bytes: Annotated[int, Meta(ge=10_000, le=10**9)] = 5_000_000
    """Size in bytes at which the log file rotates."""
    backups: Annotated[int, Meta(ge=1, le=100)] = 3
    """Rotated files kept."""


class Watchdog(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last resorts against a stuck daemon, beside systemd's own watchdog."""

    stall_s: Annotated[float, Meta(ge=0.0, le=600.0)] = 20.0
    """The process ends itself when no healthy frame completes for this long; 0 switches this off."""
    device: str = ""
    """Watchdog device of the kernel, such as /dev/watchdog; empty is none."""
    timeout_s: Annotated[int, Meta(ge=1, le=10)] = 10
    """The device, or the guard of flightd --guard, acts after this long without a kick."""
    guard_start_s: Annotated[float, Meta(ge=1.0, le=600.0)] = 60.0
    """flightd --guard: the daemon must be flying within this."""
    guard_restarts_max: Annotated[int, Meta(ge=1, le=10_000)] = 60
    """flightd --guard: restarts within guard_window_s; one more is given up."""
    guard_window_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 3600.0
    """flightd --guard: window in which restarts are counted."""


class Supervisor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Restarts of adapters, and of the daemon itself."""

    backoff_first_s: Annotated[float, Meta(ge=0.01, le=60.0)] = 0.5
    """Pause before the first restart of an adapter; it doubles with each further one."""
    backoff_max_s: Annotated[float, Meta(ge=0.01, le=3600.0)] = 30.0
    """Longest pause between two restarts."""
    restarts_max: Annotated[int, Meta(ge=1, le=1000)] = 5
    """Restarts within the window after which an adapter is reported as failed; it is still retried."""
    window_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 300.0
    """Window in which restarts are counted."""
    crash_loop_boots: Annotated[int, Meta(ge=2, le=100)] = 3
    """Unclean boots in a row, none of which lived for the next key, that make the daemon stay in SAFE."""
    crash_loop_window_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 120.0
    """Uptime after which a boot counts as a good one."""


class MissionConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is configured; ``core`` holds the core's sections, ``config_hash`` has 16 hex digits."""

    mission: Mission = Mission()
    frame: Frame = Frame()
    avionics: Avionics = Avionics()
    radio: Radio = Radio()
    card: Card = Card()
    worker: Worker = Worker()
    planner: Planner = Planner()
    actuators: Actuators = Actuators()
    log: Log = Log()
    watchdog: Watchdog = Watchdog()
    supervisor: Supervisor = Supervisor()
    probe: ProbeSpec = ProbeSpec()
    core: executive.Config
    jobs: tuple[JobSpec, ...] = ()
    config_hash: str = ""

    @property
    def setter(self) -> SetterSpec | None:
        """What the setter is told; None when nothing is switched on and nothing was left to put back."""
        spec = self.setter_spec
        return spec if spec.wanted or Path(spec.saved_file).exists() else None

    @property
    def setter_spec(self) -> SetterSpec:
        """The settings that are switched on, and the card that they are for."""
        return SetterSpec(
            saved_file=str(self.state_dir / SAVED_FILE),
            nvml_module=self.probe.nvml_module,
            device_index=self.probe.device_index,
            **msgspec.structs.asdict(self.actuators),
        )

    @property
    def state_dir(self) -> Path:
        """The state directory as an absolute path."""
        return Path(self.mission.state_dir)


def sections() -> dict[str, type[msgspec.Struct]]:
    """Name and type of every section of the file, shell first; ``[[jobs]]`` is not a section."""
    own = {f.name: f.type for f in msgspec.structs.fields(MissionConfig)}
    core = {f.name: f.type for f in msgspec.structs.fields(executive.Config)}
    for name, kind in core.items():
        # Where both have a section of one name, the file has that of the shell.
        own.setdefault(name, kind)
    return {name: kind for name, kind in own.items() if name not in ("core", "jobs", "config_hash")}


def load(path: Path, overrides: Sequence[str] = ()) -> MissionConfig:
    """Read, override (``section.key=value``), check and complete a configuration.

    Raises ``ConfigurationError``. Relative paths in it are relative to the folder of ``path``.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {error.strerror}"]) from None
    if len(raw) > CONFIGURATION_BYTES_MAX:
        raise ConfigurationError([f"{path}: {len(raw)} bytes, at most {CONFIGURATION_BYTES_MAX} are allowed"])
    try:
        data = tomllib.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise ConfigurationError([f"{path}: byte {error.start} is not UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([f"{path}: is no TOML: {error}"]) from None
    overridden = {_override(data, text) for text in overrides}
    complaints = _complaints(data)
    if not complaints:
        try:
            return _build(data, path.resolve().parent)
        except ProfileError as error:
            raise ConfigurationError(error.lines) from None
        except msgspec.ValidationError as error:
            reason, _, where = str(error).partition(" - at `$.")
            complaints = [Complaint(where.rstrip("`"), reason)]
        except ValueError as error:
            # A rule between two sections names the keys itself.
            raise ConfigurationError([f"{path}: {error}"]) from None
    lines = [
        f"{'--set' if c.where in overridden else path}: {c.where}{_separator(c.text)}{c.text}" for c in complaints
    ]
    raise ConfigurationError(lines)


def _separator(text: str) -> str:
    return " " if text.startswith("is ") else ": " if text.startswith("unknown") else " = "


def _override(data: dict[str, Any], text: str) -> str:
    """Apply one ``section.key=value`` to the tables; returns its key path."""
    key, equals, value_text = text.partition("=")
    names = key.strip().split(".")
    if not equals or len(names) < 2 or not all(names):
        raise ConfigurationError([f"--set {text!r}: write --set section.key=value, for jobs jobs.ID.key=value"])
    try:
        value = tomllib.loads(f"value = {value_text}")["value"]
    except tomllib.TOMLDecodeError:
        value = value_text
    table: Any = data
    for name in names[:-1]:
        if isinstance(table, list):
            found = [entry for entry in table if isinstance(entry, dict) and entry.get("id") == name]
            if not found:
                ids = [str(entry.get("id")) for entry in table if isinstance(entry, dict)]
                raise ConfigurationError([f"--set {text!r}: no job {name!r}{did_you_mean(name, ids)}"])
            table = found[0]
        elif isinstance(table, dict):
            table = table.setdefault(name, {})
    if not isinstance(table, dict):
        raise ConfigurationError([f"--set {text!r}: {'.'.join(names[:-1])} is no table"])
    table[names[-1]] = value
    return ".".join(names)


def _complaints(data: dict[str, Any]) -> list[Complaint]:
    known = sections()
    complaints: list[Complaint] = []
    for name, table in data.items():
        if name == "jobs":
            complaints += _job_complaints(table)
        elif name in known:
            complaints += examine(table, known[name], name)
            complaints += [
                Complaint(derived, f"is set by {source}; remove it here")
                for derived, source in DERIVED.items()
                if isinstance(table, dict) and derived in (f"{name}.{key}" for key in table)
            ]
        else:
            complaints.append(Complaint(name, f"unknown section{did_you_mean(name, [*known, 'jobs'])}"))
    for name in ("avionics", "radio"):
        table = data.get(name)
        endpoint = table.get("endpoint") if isinstance(table, dict) else None
        if isinstance(endpoint, str):
            try:
                parse_endpoint(endpoint)
            except ValueError as error:
                complaints.append(Complaint(f"{name}.endpoint", str(error)))
    return complaints


def _job_complaints(tables: object) -> list[Complaint]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        return [Complaint("jobs", f"{shown(tables)} is no list of tables; write [[jobs]] above each job")]
    if len(tables) > JOBS_MAX:
        return [Complaint("jobs", f"{len(tables)} jobs are too many; allowed are {JOBS_MAX}")]
    complaints: list[Complaint] = []
    ids: list[str] = []
    for index, table in enumerate(tables):
        kind = table.get("kind")
        where = f"jobs.{table.get('id', index)}"
        if not isinstance(kind, str) or kind not in JOB_KINDS:
            state = "is missing" if kind is None else f"{shown(kind)} is refused"
            complaints.append(Complaint(f"{where}.kind", f'{state}; allowed is one of "train", "infer"'))
            continue
        complaints += examine(table, JOB_KINDS[kind], where)
        name = table.get("id", kind)
        if name in ids:
            complaints.append(Complaint(f"{where}.id", f"{shown(name)} is taken by another job; ids are unique"))
        ids.append(name)
    trainers = [t.get("id", "train") for t in tables if t.get("kind") == "train"]
    for table in tables:
        model = table.get("model", "job:train")
        if table.get("kind") == "infer" and isinstance(model, str):
            where = f"jobs.{table.get('id', 'infer')}.model"
            scheme, _, name = model.partition(":")
            if scheme == "job" and name not in trainers:
                hint = did_you_mean(name, map(str, trainers)) if trainers else "; there is no training job"
                complaints.append(Complaint(where, f"{shown(model)} names no training job{hint}"))
            elif scheme not in ("job", "hf") or not name:
                complaints.append(Complaint(where, f'{shown(model)} is refused; allowed is "job:ID" or "hf:PATH"'))
    return complaints


def _build(data: dict[str, Any], base: Path) -> MissionConfig:
    def section(name: str, kind: Any) -> Any:
        # Tagged structs read their tag from the table; in the file the section's name says it already.
        tag = {"kind": "probe"} if name == "probe" else {}
        try:
            return msgspec.convert(data.get(name, {}) | tag, kind)
        except msgspec.ValidationError as error:
            raise msgspec.ValidationError(f"{str(error).partition(' - at ')[0]} - at `$.{name}`") from None

    profile = load_profile(section("card", Card).profile, base)
    ends = {key: getattr(profile.train, end) for key, end in PROFILE_KEYS.items()}
    data["governor"] = ends | data.get("governor", {})
    values = {name: section(name, kind) for name, kind in sections().items()}
    specs = tuple(msgspec.convert(table, JOB_KINDS[table["kind"]]) for table in data.get("jobs", []))
    digest = hashlib.sha256(msgspec.json.encode([values, specs, profile], order="sorted")).hexdigest()[:16]
    core_names = {f.name for f in msgspec.structs.fields(executive.Config)} - {"jobs", "card"}
    job_configs = tuple(
        JobConfig(id=spec.id, kind="train" if isinstance(spec, TrainSpec) else "infer",
                          autostart=spec.autostart, share=spec.share, integrity=spec.integrity)
        for spec in specs
    )  # fmt: skip
    values["downlink"] = msgspec.structs.replace(values["downlink"], rate_bps=float(values["radio"].rate_bps))
    mission: Mission = values.pop("mission")
    state_dir = base / mission.state_dir
    return MissionConfig(
        mission=msgspec.structs.replace(mission, state_dir=str(state_dir)),
        core=executive.Config(jobs=job_configs, card=profile, **{name: values.pop(name) for name in core_names}),
        jobs=_completed(specs, base, state_dir),
        config_hash=digest,
        **values,
    )


def _completed(specs: tuple[JobSpec, ...], base: Path, state_dir: Path) -> tuple[JobSpec, ...]:
    """The specs with absolute paths; an inference job gets the ring of the job that it serves."""

    def absolute(text: str) -> str:
        return str(base / text) if text else ""

    rings = {
        s.id: absolute(s.checkpoint_dir) or str(state_dir / "checkpoints" / s.id)
        for s in specs
        if isinstance(s, TrainSpec)
    }
    completed: list[JobSpec] = []
    for spec in specs:
        if isinstance(spec, TrainSpec):
            completed.append(
                msgspec.structs.replace(
                    spec,
                    corpus=absolute(spec.corpus),
                    checkpoint_dir=rings[spec.id],
                    meter=absolute(spec.meter),
                    journal=absolute(spec.journal),
                )
            )
            continue
        scheme, _, name = spec.model.partition(":")
        # A language model may also be named by something that is no path; only what is there is made absolute.
        local = scheme == "hf" and (base / name).exists()
        completed.append(
            msgspec.structs.replace(
                spec,
                model=f"hf:{base / name}" if local else spec.model,
                checkpoint_dir=rings[name] if scheme == "job" else absolute(spec.checkpoint_dir),
                meter=absolute(spec.meter),
            )
        )
    return tuple(completed)
