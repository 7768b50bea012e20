"""Fault injection: each fault is a small state machine that the bench advances with every tick.

    waiting ──(its instant)──► armed ──(it can act)──► active ──(its duration)──► over

A fault acts from outside: it finds a worker among the daemon's child processes by what the kernel says, flips a
bit in a file, switches the channel or the plant. It never asks the daemon. What it did and saw goes into its
``FaultRecord`` as evidence; whether the satellite coped is for the judge.

A fault that cannot act (no worker is alive, no checkpoint exists yet) stays armed for ``ARMED_MAX_S``
machine seconds, then gives up and says why: a fault that did not fire makes the run invalid, never green.
Whatever is still active at the end is restored.
"""

import contextlib
import os
import random
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from flightsw.link.codec import decode_telemetry
from flightsw.link.errors import LinkError

from .channel import Channel
from .evidence import FaultRecord
from .instruments.card_health import CardHealth
from .mission import TRAIN
from .process_memory import MemoryDenied
from .scenario import FaultPlan
from .served_weights import ServedWeights

ARMED_MAX_S: Final = 20.0
GONE_MAX_S: Final = 5.0
LOST_IDENTITIES_MAX: Final = 20_000
CORRUPT_FALLBACKS_MIN: Final = 2
WORKER_MODULE: Final = b"flightsw.gpu.worker"

_GENERATION: Final = re.compile(r"^gen-(\d{8,15})\.ckpt$")


class World(Protocol):
    """What a fault may do to the plant."""

    def inject(self, kind: str, magnitude: float) -> None:
        """Begin a fault of the plant."""
        ...

    def clear(self, kind: str) -> None:
        """End it."""
        ...


class Surroundings:
    """What faults can reach: the plant, the channel, a simulated card, the daemon's process tree and files."""

    def __init__(
        self,
        world: World,
        channel: Channel,
        daemon_pid: Callable[[], int | None],
        checkpoints: Path,
        meters: dict[str, Path],
        card: CardHealth | None = None,
    ) -> None:
        self.card = card
        self.world = world
        self.channel = channel
        self.daemon_pid = daemon_pid
        self.checkpoints = checkpoints
        self.meters = meters

    def worker_pid(self, job: str) -> int | None:
        """The live worker of a job: a child of the daemon that runs the worker module and maps the job's meter.

        This is the kernel's word (``/proc``), not the daemon's telemetry.
        """
        daemon = self.daemon_pid()
        meter = self.meters.get(job)
        if daemon is None or meter is None:
            return None
        needle = os.fsencode(meter.absolute())
        for pid in children_of(daemon):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                if WORKER_MODULE in command and needle in Path(f"/proc/{pid}/maps").read_bytes():
                    return pid
            except OSError:  # It ended while we looked.
                continue
        return None


def children_of(pid: int) -> list[int]:
    """Process ids of the direct children, as the kernel lists them."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields is not None and fields[1] == pid:
                found.append(int(entry.name))
    return sorted(found)


def process_state(pid: int) -> str:
    """The kernel's state letter; "" when the process is gone. A zombie is gone too: it runs no more."""
    fields = _stat(pid)
    return "" if fields is None or fields[0] in "ZX" else fields[0]


def _stat(pid: int) -> tuple[str, int] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    state, parent = text.rpartition(")")[2].split()[:2]
    return state, int(parent)


def newest_generation(folder: Path) -> tuple[int, Path] | None:
    """Number and file of the newest committed generation; None when there are fewer than are needed to fall
    back."""
    try:
        found = {int(m[1]): folder / m[0] for name in os.listdir(folder) if (m := _GENERATION.match(name))}
    except OSError:
        return None
    return max(found.items()) if len(found) >= CORRUPT_FALLBACKS_MIN else None


def flip_bit(path: Path, rng: random.Random) -> dict[str, int | str]:
    """Flip one random bit of a file in place, durably; returns what was done.

    The modification time is put back: a real upset leaves no such trace.
    """
    before = path.stat()
    bit = rng.randrange(before.st_size * 8)
    with path.open("r+b") as file:
        file.seek(bit // 8)
        old = file.read(1)[0]
        new = old ^ (1 << bit % 8)
        file.seek(bit // 8)
        file.write(bytes([new]))
        file.flush()
        os.fsync(file.fileno())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return {
        "file": path.name,
        "byte": bit // 8,
        "bit": bit % 8,
        "old": old,
        "new": new,
        "size_bytes": before.st_size,
    }


class Fault:
    """One fault with its state. ``tick`` is called with every tick of the bench; subclasses act."""

    def __init__(self, plan: FaultPlan, planned_s: float, rng: random.Random, around: Surroundings) -> None:
        self.plan = plan
        self.rng = rng
        self.around = around
        self.record = FaultRecord(id=plan.id, kind=plan.kind, planned_s=planned_s, evidence={})
        self.active = False
        self.over = False
        self._planned_s = planned_s
        self._armed_at_s: float | None = None

    def tick(self, world_s: float, now_s: float) -> str:
        """Advance; returns one line to announce when something happened, else ""."""
        if self.over or world_s < self._planned_s:
            return ""
        if self.active:
            self.watch()
            if self.plan.duration_s and world_s >= (self.record.fired_s or 0.0) + self.plan.duration_s:
                return self.finish(world_s)
            return ""
        if self._armed_at_s is None:
            self._armed_at_s = now_s
        said = self.act(world_s, now_s)
        if not said and not self.active and now_s - self._armed_at_s > ARMED_MAX_S:
            self.over = True
            self.restore()
            self.record.detail = self.record.detail or "it never found its target"
            return f"fault {self.plan.id} did not fire: {self.record.detail}"
        return said

    def fire(self, world_s: float) -> None:
        """Note that the fault has taken hold."""
        self.record.fired = True
        self.record.fired_s = world_s

    def act(self, world_s: float, now_s: float) -> str:
        """Try to begin; sets ``active`` or ``over`` when it did."""
        raise NotImplementedError

    def watch(self) -> None:
        """Collect evidence while active."""

    def restore(self) -> None:
        """Put back what the fault changed; harmless when it changed nothing."""

    def finish(self, world_s: float) -> str:
        """End the fault and restore what it changed; harmless when it is not active."""
        if self.active:
            self.watch()
            self.record.ended_s = world_s
        said = f"fault {self.plan.id} is over" if self.active else ""
        self.restore()
        self.active, self.over = False, True
        return said


class WorkerKill(Fault):
    """SIGKILL the worker of a job; fired when the kernel says that the process runs no more."""

    _victim: int | None = None
    _killed_at_s: float = 0.0

    def prepare(self, pid: int) -> bool:
        """Do what must be done before the kill; False to try again at the next tick."""
        self.record.evidence.update(job=self.plan.job, pid=pid)
        return True

    def act(self, world_s: float, now_s: float) -> str:
        if self._victim is not None:
            if not process_state(self._victim):
                self.fire(world_s)
                self.over = True
                return self.said()
            if now_s - self._killed_at_s > GONE_MAX_S:
                self.record.detail = f"process {self._victim} outlived SIGKILL"
            return ""
        pid = self.around.worker_pid(self.plan.job)
        if pid is None:
            self.record.detail = f"no worker of job {self.plan.job} was alive"
            return ""
        try:
            if not self.prepare(pid):
                return ""
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return ""
        self._victim, self._killed_at_s = pid, now_s
        self.record.evidence["signal"] = "SIGKILL"
        self.record.evidence["killed_s"] = world_s
        return ""

    def said(self) -> str:
        """What is announced."""
        return f"fault {self.plan.id}: worker of {self.plan.job} (pid {self._victim}) killed"


class CheckpointFlip(WorkerKill):
    """Flip one bit of the newest committed checkpoint, then kill the worker so that it must restore.

    The worker is stopped (SIGSTOP) before the flip: otherwise it could commit a newer generation in between,
    restore from that one, and the flip would never be looked at.
    """

    _stopped: int | None = None

    def prepare(self, pid: int) -> bool:
        newest = newest_generation(self.around.checkpoints / self.plan.job)
        if newest is None:
            self.record.detail = f"job {self.plan.job} has no two generations yet"
            return False
        if self._stopped != pid:
            os.kill(pid, signal.SIGSTOP)
            self._stopped = pid
        if process_state(pid) != "T":
            return False
        generation, path = newest
        try:
            flipped = flip_bit(path, self.rng)
        except OSError as error:
            self.record.detail = f"{path.name}: {error.strerror}"
            return False
        self.record.evidence.update(flipped, job=self.plan.job, pid=pid, generation=generation)
        return True

    def restore(self) -> None:
        if self._stopped is not None and self._victim is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._stopped, signal.SIGCONT)
            self._stopped = None

    def said(self) -> str:
        seen = self.record.evidence
        return (
            f"fault {self.plan.id}: bit {seen['bit']} of byte {seen['byte']} of {seen['file']} flipped, "
            f"worker of {self.plan.job} killed"
        )


class RadioOutage(Fault):
    """Both directions of the radio lose everything while the carrier stays locked; fired with the first lost
    packet."""

    def act(self, world_s: float, now_s: float) -> str:
        if not self.around.channel.locked:
            self.record.detail = "there was no carrier to lose anything from"
            return ""
        self.around.channel.outage = True
        self.active = True
        self.record.fired_s = world_s
        self.record.evidence["lost"] = []
        return f"fault {self.plan.id}: radio outage, the carrier stays locked"

    def watch(self) -> None:
        lost: list[tuple[int, int, int]] = self.record.evidence["lost"]
        for unit in self.around.channel.down.take_lost_units():
            try:
                identity = decode_telemetry(unit).identity
            except LinkError:
                continue
            if len(lost) < LOST_IDENTITIES_MAX:
                lost.append(identity)
        self.record.fired = bool(lost)
        self.record.evidence["lost_packets"] = len(lost)

    def restore(self) -> None:
        if self.active:
            self.around.channel.outage = False


class PlantFault(Fault):
    """A fault of the plant: begun and ended by its name, with a magnitude."""

    def act(self, world_s: float, now_s: float) -> str:
        self.around.world.inject(self.plan.kind, self.plan.magnitude)
        self.active = True
        self.record.evidence["magnitude"] = self.plan.magnitude
        self.fire(world_s)
        return f"fault {self.plan.id}: {self.plan.kind} by {self.plan.magnitude:g}"

    def restore(self) -> None:
        if self.active:
            self.around.world.clear(self.plan.kind)


class CardFault(Fault):
    """A fault of the simulated card, shown to the daemon by NVML's stand-in: ECC errors or an XID report."""

    def act(self, world_s: float, now_s: float) -> str:
        card, plan = self.around.card, self.plan
        if card is None:
            self.record.detail = "the card is a real one: nothing can be injected into it"
            return ""
        if not card.powered:
            self.record.detail = "the card had no power"
            return ""
        if plan.kind == "gpu_xid":
            card.xid(plan.xid)
            self.record.evidence["xid"] = plan.xid
            said = f"XID {plan.xid}"
        else:
            card.ecc(plan.ecc, plan.count)
            self.record.evidence.update(ecc=plan.ecc, count=plan.count)
            said = f"{plan.count} {plan.ecc} ECC errors"
        self.fire(world_s)
        self.over = True
        return f"fault {plan.id}: {said}"


class WeightFlip(Fault):
    """Flip one bit of a weight in the memory of a running inference worker; fired when it was read back flipped.

    The search takes some ticks. Afterwards the bench looks on: whether, and when, the old value is there again is
    its own observation, beside whatever the worker reports.
    """

    _weights: ServedWeights | None = None
    _world_s: float = 0.0

    def tick(self, world_s: float, now_s: float) -> str:
        self._world_s = world_s
        return super().tick(world_s, now_s)

    def act(self, world_s: float, now_s: float) -> str:
        try:
            return self._search(world_s)
        except (ValueError, MemoryDenied) as error:
            self.record.detail = str(error)
            self.restore()
            return ""

    def _search(self, world_s: float) -> str:
        if self._weights is None:
            pid = self.around.worker_pid(self.plan.job)
            if pid is None:
                self.record.detail = f"no worker of job {self.plan.job} was alive"
                return ""
            # The weights that are served are those of the training job's checkpoints.
            self._weights = ServedWeights(pid, self.around.checkpoints / TRAIN, self.rng, self.plan.bit)
            self.record.evidence.update(job=self.plan.job, pid=pid)
        if not self._weights.step():
            return ""
        seen = self._weights.flip()
        if seen is None:
            self.record.detail = (
                f"no generation's weights were found in {self._weights.searched_bytes >> 20} MiB of the worker's "
                "memory (nothing served yet, or on a GPU, which cannot be reached from outside)"
            )
            self.restore()
            return ""
        self.record.evidence.update(seen)
        if not seen["read_back"]:
            self.record.detail = "the flipped bit was not read back"
            self.restore()
            return ""
        self.record.detail = ""
        self.active = True
        self.fire(world_s)
        return (
            f"fault {self.plan.id}: bit {seen['bit']} of {seen['tensor']}[{seen['element']}] flipped in the memory "
            f"of worker {self.plan.job} (generation {seen['generation']}, {len(seen['addresses'])} copies)"
        )

    def watch(self) -> None:
        if self._weights is None or "restored_s" in self.record.evidence:
            return
        try:
            restored = self._weights.restored()
        except MemoryDenied:
            return  # The worker is gone, and what was damaged with it.
        if restored:
            self.record.evidence["restored_s"] = self._world_s

    def restore(self) -> None:
        if self._weights is not None:
            self._weights.close()
            self._weights = None


CLASSES: Final[dict[str, type[Fault]]] = {
    "worker_kill": WorkerKill,
    "checkpoint_flip": CheckpointFlip,
    "radiator_degrade": PlantFault,
    "radio_outage": RadioOutage,
    "battery_bias": PlantFault,
    "gpu_ecc": CardFault,
    "gpu_xid": CardFault,
    "weight_flip": WeightFlip,
}


def make_fault(plan: FaultPlan, planned_s: float, rng: random.Random, around: Surroundings) -> Fault:
    """The fault of a plan."""
    return CLASSES[plan.kind](plan, planned_s, rng, around)
