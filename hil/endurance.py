"""The long mission: a day of virtual time with a random fault every ten minutes, and a verdict.

    deck of faults ─► World: plant, payload, radio, computer ◄─► executive
                        │ effects, events, truth
                        ▼
                 episodes and standing rules ─► verdict

One seed is one mission, to the bit: the order of the faults, their parameters and lengths, the noise of the
sensors (``digest``). A run that fails says which commit and command repeat it. The run goes on after its last
fault until that is settled.

Memory is read from the system every ten minutes of the mission; its slope over the second half is judged in runs
that are long enough to have one (``make soak``).
"""

import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from .endurance_fault import Fault
from .endurance_faults import FAULTS, Deck
from .endurance_judge import Episode, Standing
from .endurance_verdict import FaultRecord, Memory, MissionVerdict
from .endurance_world import World
from .inproc import FRAME_MAX_S, FRAME_MIN_S, mission
from .plant.plant import Plant, PlantConfig
from .randomness import stream

HOUR_S: Final = 3600.0
HOURS_MAX: Final = 720.0
EVERY_MIN_S: Final = 60.0
FIRST_FAULT_S: Final = 300.0
"""Time for the first boot and the first checkpoint."""
SETTLE_MAX_S: Final = 2.0 * HOUR_S
BETWEEN_S: Final = 20.0
"""Least time between two beginnings."""
MEMORY_EVERY_S: Final = 600.0
MEMORY_HOURS_MIN: Final = 6.0
MEMORY_SLOPE_MAX_MB_H: Final = 0.5
PAGE_MB: Final = 4096 / 1e6
SECTIONS: Final[dict[str, dict[str, Any]]] = {
    "payload": {"start_timeout_s": 60.0, "restart_window_s": 300.0, "quarantine_retry_s": 200.0},
    "checkpoint": {"interval_world_s": 300.0},
}
"""Where the mission's configuration differs from the shipped one: simulated workers start in seconds, and what one
fault did to a job is forgotten before the next one comes."""

Progress = Callable[[float, str], None]


def fly(
    hours: float = 24.0,
    frame_s: float = 1.0,
    seed: int = 1,
    every_s: float = 600.0,
    progress: Progress | None = None,
    faults: Sequence[Fault] = FAULTS,
) -> MissionVerdict:
    """Fly the mission and judge it.

    ``progress`` is called a hundred times a run with the share that is flown and a line. An interrupt
    (``KeyboardInterrupt``) ends the run with a verdict of what was flown. Raises ``ValueError`` in one line for an
    argument out of its range.
    """
    if not 0.0 < hours <= HOURS_MAX:
        raise ValueError(f"{hours:g} hours: must be over 0 and at most {HOURS_MAX:g}")
    if not FRAME_MIN_S <= frame_s <= FRAME_MAX_S:
        raise ValueError(f"frame of {frame_s:g} s: must be {FRAME_MIN_S:g} to {FRAME_MAX_S:g}")
    if not EVERY_MIN_S <= every_s <= hours * HOUR_S:
        raise ValueError(f"a fault every {every_s:g} s: must be {EVERY_MIN_S:g} to the length of the mission")
    return _Mission(hours, frame_s, seed, every_s, faults).fly(progress)


class _Mission:
    """One run and its books."""

    def __init__(self, hours: float, frame_s: float, seed: int, every_s: float, faults: Sequence[Fault]) -> None:
        self.hours, self.frame_s, self.seed, self.every_s = hours, frame_s, seed, every_s
        plant = Plant(PlantConfig(), seed=seed)
        self._config = mission(plant, **SECTIONS)
        self._world = World(self._config, plant, frame_s, seed)
        self._standing = Standing(self._config, plant.geometry.orbit.period_s)
        self._random = stream(seed, "endurance faults")
        self._deck = Deck(faults, stream(seed, "endurance order"))
        self._active: list[Episode] = []
        self._records: list[FaultRecord] = []
        self._due = self._begun = 0
        self._last_begin_s = float("-inf")
        self._memory: list[tuple[float, float]] = []
        self._work_s = 0.0
        self._frames = 0

    def fly(self, progress: Progress | None) -> MissionVerdict:
        end_s, interrupted = self.hours * HOUR_S, False
        wall_s, processor_s = time.monotonic(), time.process_time()
        now_s, shown = 0.0, 0
        try:
            while now_s < end_s or (self._active and now_s < end_s + SETTLE_MAX_S):
                self._frames += 1
                now_s = self._frames * self.frame_s
                if not self._frame(now_s, now_s < end_s):
                    break
                if progress is not None and now_s * 100.0 / end_s >= shown:
                    shown += 1
                    progress(min(1.0, now_s / end_s), self._line(now_s))
        except KeyboardInterrupt:
            interrupted = True
        self._records += [episode.record() for episode in self._active]
        evidence = self._world.evidence()
        return MissionVerdict(
            seed=self.seed,
            commit=commit(),
            repeat=self._command(),
            hours=self.hours,
            frame_s=self.frame_s,
            frames=self._frames,
            wall_s=time.monotonic() - wall_s,
            processor_s=time.process_time() - processor_s,
            digest=evidence.digest,
            due=self._due,
            faults=tuple(sorted(self._records, key=lambda record: record.number)),
            violations=tuple(self._standing.violations),
            violations_left_out=self._standing.left_out,
            mode_time_s=evidence.mode_time_s,
            safe_entries=self._standing.safe_entries,
            boots=evidence.boots,
            train_steps=self._world.jobs["train"].done,
            work_s=self._work_s,
            packets_made=evidence.packets_made,
            packets_pending=evidence.packets_pending,
            soc_min=evidence.soc_min,
            gpu_temp_max_degc=evidence.gpu_temp_max_degc,
            radiator_temp_max_degc=evidence.radiator_temp_max_degc,
            memory=slope(self._memory) if self.hours >= MEMORY_HOURS_MIN else None,
            interrupted=interrupted,
        )

    def _frame(self, now_s: float, dealing: bool) -> bool:
        """One frame and all that watches it; False when the executive raised, which ends the mission."""
        world, active = self._world, self._active
        during = tuple(episode.fault.name for episode in active)
        try:
            world.frame(now_s)
        except Exception as error:  # Whatever the core raises is the finding: a minor frame raises nothing.
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            self._standing.note(
                world, "exception in a frame", f"{type(error).__name__}: {error} at {place}", during
            )
            return False
        self._work_s += world.busy * self.frame_s
        alone = len(active) == 1
        for episode in active:
            episode.watch(world, alone)
        self._standing.watch(world, during, not world.plant.faults)
        if any(episode.settled for episode in active):
            self._records += [episode.record() for episode in active if episode.settled]
            self._active = [episode for episode in active if not episode.settled]
        if dealing:
            self._deal(now_s)
        if now_s >= len(self._memory) * MEMORY_EVERY_S:
            self._memory.append((now_s, resident_mb()))
        return True

    def _deal(self, now_s: float) -> None:
        if now_s >= FIRST_FAULT_S + self._due * self.every_s:
            self._due += 1
        if self._begun >= self._due or now_s - self._last_begin_s < BETWEEN_S:
            return
        fault = self._deck.deal(self._world, {episode.fault.name for episode in self._active})
        if fault is not None:
            self._begun += 1
            self._last_begin_s = now_s
            self._active.append(Episode(self._begun, fault, self._world, self._random))

    def _command(self) -> str:
        """What a user types to fly this mission again."""
        length = f"--hours {self.hours:g} --frame {self.frame_s:g} --every {self.every_s:g}"
        return f"hil endure {length} --seed {self.seed}"

    def _line(self, now_s: float) -> str:
        names = ", ".join(episode.fault.name for episode in self._active) or "no fault"
        return f"{now_s / HOUR_S:5.2f} h  {self._world.seen.mode:8s} {self._begun} faults begun; now {names}"


def resident_mb() -> float:
    """Resident memory of this process, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_MB


def slope(samples: Sequence[tuple[float, float]]) -> Memory:
    """Growth of resident memory by least squares over the second half of the samples (seconds, MB)."""
    half = samples[len(samples) // 2 :]
    mean_s = sum(s for s, _ in half) / len(half)
    mean_mb = sum(mb for _, mb in half) / len(half)
    spread = sum((s - mean_s) ** 2 for s, _ in half)
    rise = sum((s - mean_s) * (mb - mean_mb) for s, mb in half)
    return Memory(
        first_mb=samples[0][1],
        last_mb=samples[-1][1],
        slope_mb_per_h=HOUR_S * rise / spread if spread else 0.0,
        limit_mb_per_h=MEMORY_SLOPE_MAX_MB_H,
    )


def commit() -> str:
    """The commit of this checkout, with a plus when files differ from it; "unknown" without git."""
    folder = Path(__file__).resolve().parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=folder, capture_output=True, check=False)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.returncode else "")
