"""Flies stored sequences on the executive and tells which of their steps acted, and when.

A step made of ``mark`` is an acknowledgement to the recorder, whose effect carries the number that the step was
given. So what is seen is what a sequence did to the spacecraft, not what it says of itself.

Mission time, TAI and the machine's clock run together, from 0, ``TAI_AT_ZERO_S`` and ``BOOT_S``, unless a test
steps TAI. ``Bird.reboot`` is a power cut: the next boot knows what was persisted before, and nothing else.
"""

import copy
import itertools
from dataclasses import dataclass, field

from core_flight import TAI_AT_ZERO_S, sensor_frame, telecommand
from core_plant import Plant
from msgspec.structs import replace

from flightsw.core import executive, sequence_tables
from flightsw.core.effects import Acknowledge, Persist, Telemetry
from flightsw.core.inputs import CheckpointCommitted, Inputs, WorkerProgress, WorkerReady
from flightsw.core.job import JobConfig
from flightsw.core.sequence_life import POSITION, Slot
from flightsw.link.bodies import EventBody, VerificationBody
from flightsw.link.codec import decode_telemetry
from flightsw.link.dictionary import APID_EVENT, APID_VERIFICATION, EVENT_BY_ID, TELECOMMAND_BY_NAME
from flightsw.link.schema import FailureCode
from flightsw.link.sequence import Sequence, Step, encode, make_step
from flightsw.link.tables import TABLE_BY_NAME

BOOT_S = 100.0
SETTLED_S = 4.0
"""Flight until the correlation of time is confirmed."""
CONFIG = executive.Config()
TRAINING = executive.Config(jobs=(JobConfig(id="train", kind="train"),))
COMMITTED = CheckpointCommitted(
    job="train", generation=1, step=1, digest="a", size_bytes=1, stall_s=0.0, total_s=1.0
)
"""Ends a ``job.checkpoint`` that is in flight."""


def relative(*steps: Step, **changes: object) -> Sequence:
    """A relative sequence, from dispatch, that ends at a failure; ``changes`` override fields."""
    fields = {
        "kind": "relative",
        "name": "r",
        "on_failure": "abort",
        "reference": "dispatch",
        "wait_for_time": False,
    }
    return Sequence(**{**fields, "steps": steps, **changes})


def absolute(*steps: Step, **changes: object) -> Sequence:
    """An absolute sequence; its steps come from ``at``."""
    return relative(**{"kind": "absolute", "wait_for_time": True, "steps": steps, **changes})


def after(delay_s: float, name: str, **arguments: object) -> Step:
    """A relative step."""
    return make_step(round(delay_s * 10), TELECOMMAND_BY_NAME[name], arguments)


def at(world_s: float, name: str, **arguments: object) -> Step:
    """An absolute step at a mission time."""
    return make_step(round((TAI_AT_ZERO_S + world_s) * 10), TELECOMMAND_BY_NAME[name], arguments)


def mark(number: int) -> dict[str, object]:
    """Command of a step that can be seen to act: ``after(1.0, **mark(7))``."""
    return {"name": "recorder.acknowledge", "boot": 1, "apid": 1, "first": number, "last": number}


def flipped(step: Step, **changes: object) -> Step:
    """A step that went bad in memory."""
    return replace(step, **(changes or {"args": bytes([step.args[0] ^ 1]) + step.args[1:]}))


@dataclass
class Bird:
    """One satellite with slots to load; ``acted`` are (mission time, number of the mark)."""

    config: executive.Config = CONFIG
    frame_s: float = 0.1
    warp: float = 1.0
    world_s: float = 0.0
    tai_step_s: float = 0.0
    sensors_on: bool = True
    sensor_changes: dict[str, object] = field(default_factory=dict)
    now_s: float = BOOT_S
    boots: int = 1
    stored: dict[str, bytes] = field(default_factory=dict)
    writes: list[tuple[float, str, bytes]] = field(default_factory=list)
    acted: list[tuple[float, int]] = field(default_factory=list)
    effects: list[object] = field(default_factory=list)
    frames: int = 0
    worker_lives: bool = False
    write_lag_s: float = 0.0
    landed: int = 0
    """So many writes, from the first on, are on the disk and need no second look."""

    def __post_init__(self) -> None:
        self.boot()

    def boot(self, *, power_on: bool = True, crash_loop: bool = False) -> None:
        """Boot with what is stored."""
        self.vehicle, effects = executive.boot(
            self.config,
            boot_count=self.boots,
            cause="test",
            crash_loop=crash_loop,
            config_hash="cafe",
            now_s=self.now_s,
            durable=self.stored,
            power_on=power_on,
        )
        self.take(effects)

    def reboot(self, *, power_on: bool = False, crash_loop: bool = False, down_s: float = 1.0) -> None:
        """A power cut, or the end of the process; the world goes on for ``down_s``."""
        self._store()
        self.boots += 1
        self.now_s += down_s
        self.world_s += down_s * self.warp
        self.boot(power_on=power_on, crash_loop=crash_loop)

    def copied(self) -> "Bird":
        """Another satellite with the same past, which goes its own way from here."""
        twin = copy.copy(self)
        twin.sensor_changes, twin.stored = dict(self.sensor_changes), dict(self.stored)
        twin.writes, twin.acted, twin.effects = list(self.writes), list(self.acted), list(self.effects)
        return twin

    def load(self, name: str, sequence: Sequence) -> None:
        """Put an image into a slot and into the store, as activation does."""
        image = encode(sequence)
        table = TABLE_BY_NAME[name]
        self.vehicle, _ = sequence_tables.activate(self.vehicle, self.config, table, image, self.now_s)
        self.writes.append((self.now_s - self.write_lag_s, name, image))
        self._store()

    def put(self, name: str, slot: Slot) -> None:
        """Change a slot behind the back of everybody."""
        state, position = self.vehicle.sequences, POSITION[name]
        slots = (*state.slots[:position], slot, *state.slots[position + 1 :])
        self.vehicle = replace(self.vehicle, sequences=replace(state, slots=slots))

    def slot(self, name: str) -> Slot:
        """The slot of a sequence."""
        return self.vehicle.sequences.slots[POSITION[name]]

    def spoil(self, name: str, index: int, **changes: object) -> None:
        """Flip a bit of a stored step in memory."""
        slot = self.slot(name)
        steps = list(slot.flown.steps)
        steps[index] = flipped(steps[index], **changes)
        self.put(name, replace(slot, sequence=replace(slot.flown, steps=tuple(steps))))

    def frame(self, *telecommands: bytes, reports: tuple[object, ...] = ()) -> tuple[object, ...]:
        """One minor frame."""
        self.now_s += self.frame_s
        if self.worker_lives and self.frames % 10 == 0:
            reports = (*reports, self._heartbeat())
        self.world_s += self.frame_s * self.warp
        self.frames += 1
        changes = {"tai_s": TAI_AT_ZERO_S + self.world_s + self.tai_step_s, **self.sensor_changes}
        sensors = sensor_frame(self.frames, Plant(time_s=self.world_s), self.warp, **changes)
        inputs = Inputs(
            sensors=sensors if self.sensors_on else None, telecommands=telecommands, reports=tuple(reports)
        )
        self.vehicle, effects = executive.step(self.vehicle, self.config, inputs, self.now_s)
        self.take(effects)
        return effects

    def fly(self, duration_s: float) -> None:
        """Frames for this much machine time."""
        for _ in range(round(duration_s / self.frame_s)):
            self.frame()

    def events(self, prefix: str = "SEQUENCE") -> list[tuple[str, dict[str, object]]]:
        """Event reports so far whose name begins so: name and fields."""
        found = []
        for effect in self.effects:
            if isinstance(effect, Telemetry) and effect.apid == APID_EVENT:
                body = decode_telemetry(effect.packet).body
                assert isinstance(body, EventBody)
                name = EVENT_BY_ID[body.id].name
                if name.startswith(prefix):
                    found.append((name, dict(body.fields)))
        return found

    def names(self) -> list[str]:
        """Names of the events of the sequences, without their common beginning."""
        return [name.removeprefix("SEQUENCE_") for name, _ in self.events()]

    def verdicts(self, command_id: int) -> list[tuple[FailureCode, str]]:
        """Reports on a telecommand of the ground: code and text."""
        found = []
        for effect in self.effects:
            if isinstance(effect, Telemetry) and effect.apid == APID_VERIFICATION:
                body = decode_telemetry(effect.packet).body
                assert isinstance(body, VerificationBody)
                if body.id == command_id:
                    found.append((FailureCode(body.code), body.text))
        return found

    @property
    def numbers(self) -> list[int]:
        """Marks in the order in which they acted."""
        return [number for _, number in self.acted]

    def _store(self) -> None:
        """What has reached the disk by now: the writer is a thread of its own, and may be slow."""
        whole = True
        for at_s, key, payload in itertools.islice(self.writes, self.landed, None):
            if at_s + self.write_lag_s <= self.now_s:
                self.stored[key] = payload
                self.landed += whole
            else:
                whole = False

    def _heartbeat(self) -> WorkerProgress:
        return WorkerProgress(
            job="train",
            progress=self.frames,
            step=self.frames,
            loss=2.5,
            tokens=0,
            busy_s=0.0,
            micro_batch_s=0.05,
            pending=0,
        )

    def take(self, effects: tuple[object, ...]) -> None:
        """What the shell does with effects, as far as it matters here."""
        for effect in effects:
            if isinstance(effect, Acknowledge):
                self.acted.append((round(self.world_s, 6), effect.first))
            elif isinstance(effect, Persist):
                self.writes.append((self.now_s, effect.key, effect.payload))
                self._store()
            self.effects.append(effect)


def flying(**changes: object) -> Bird:
    """A satellite in service with valid time, at mission time ``SETTLED_S`` × warp or a frame later."""
    bird = Bird(**changes)
    while not bird.vehicle.correlation.valid:
        bird.frame()
    bird.fly(SETTLED_S + BOOT_S - bird.now_s)
    return bird


def training(**changes: object) -> Bird:
    """A satellite whose training job runs, and commits when a test says so."""
    bird = flying(**{"config": TRAINING, **changes})
    bird.frame(telecommand("job.start", 1, job="train"))
    bird.fly(0.3)
    bird.frame(reports=(WorkerReady(job="train", pid=1, device="cpu", step=0, generation=-1),))
    assert bird.vehicle.payload.jobs[0].life.name == "RUNNING"
    bird.worker_lives = True
    return bird


def start(bird: Bird, *names: str) -> None:
    """Start sequences by telecommand, all in one frame."""
    first = 1000 + 100 * bird.frames
    bird.frame(*(telecommand("sequence.start", first + n, sequence=name) for n, name in enumerate(names)))
