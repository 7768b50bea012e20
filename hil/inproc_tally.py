"""The books of a run in virtual time: a recorder kept as numbers, and a tally that ends as ``Evidence``.

Numbers only: nothing of the core is needed to count what a frame has shown. Extremes and violations are of the
plant's truth, at every frame, not of what the executive was told.
"""

from collections import Counter, deque
from collections.abc import Collection
from typing import Final

from .inproc_evidence import Evidence, LoggedEvent
from .inproc_payload import SimulatedJob
from .plant.truth import Truth

EVENTS_MAX: Final = 10_000
PENDING_MAX: Final = 500_000


class Recorder:
    """Store and forward as numbers: what was sent live, what waits, most important first, then oldest.

    What waits is kept in runs of packets of one size, because a day of housekeeping is a few sizes.
    """

    def __init__(self) -> None:
        self.live = self.playback = self.shed = self.made = self.sent_bytes = self.replayed = self.pending = 0
        self._runs: dict[int, deque[list[int]]] = {}

    def take(self, priority: int, size_bytes: int, *, live: bool, in_contact: bool, record: bool) -> None:
        """Send a packet when ``live``, and record it when ``record``; in contact the station has it at once."""
        self.made += 1
        self.sent_bytes += size_bytes * live
        if live and in_contact:
            self.live += 1
        elif not record:
            return
        elif self.pending < PENDING_MAX:
            self.pending += 1
            runs = self._runs.setdefault(priority, deque())
            if runs and runs[-1][0] == size_bytes:
                runs[-1][1] += 1
            else:
                runs.append([size_bytes, 1])
        else:
            self.shed += 1

    def play(self, budget_bytes: int) -> None:
        """Play back up to this many bytes."""
        for priority in sorted(self._runs):
            runs = self._runs[priority]
            while runs:
                size_bytes, count = runs[0]
                played = min(count, budget_bytes // size_bytes)
                budget_bytes -= played * size_bytes
                self.sent_bytes += played * size_bytes
                self.playback += played
                self.pending -= played
                if played < count:
                    runs[0][1] -= played
                    return
                runs.popleft()


class Tally:
    """What every frame adds to: times in a mode, in eclipse, in contact; extremes, violations, energy, events."""

    def __init__(
        self, frame_s: float, soc_floor: float, gpu_temp_limit_degc: float, radiator_temp_limit_degc: float
    ) -> None:
        self.energy_j = 0.0
        self._frame_s, self._soc_floor = frame_s, soc_floor
        self._gpu_limit, self._radiator_limit = gpu_temp_limit_degc, radiator_temp_limit_degc
        self._frames = self._checkpoints = 0
        self._modes: Counter[str] = Counter()
        self._eclipse = self._contact = self._low = self._hot = 0
        self._watts = {False: 0.0, True: 0.0}
        self._soc_min, self._gpu_max, self._radiator_max = 1.0, float("-inf"), float("-inf")
        self._events: list[LoggedEvent] = []
        self._left_out = 0

    def observe(self, truth: Truth, mode: str) -> None:
        """Count one frame, flown in ``mode``."""
        dark = truth.sun_fraction < 0.5
        self._frames += 1
        self._modes[mode] += 1
        self._eclipse += dark
        self._contact += truth.in_contact
        self._watts[dark] += truth.gpu_rail_power_w
        self.energy_j += truth.gpu_rail_power_w * self._frame_s
        self._low += truth.soc_fraction < self._soc_floor
        self._hot += truth.gpu_temp_degc > self._gpu_limit or truth.radiator_temp_degc > self._radiator_limit
        self._soc_min = min(self._soc_min, truth.soc_fraction)
        self._gpu_max = max(self._gpu_max, truth.gpu_temp_degc)
        self._radiator_max = max(self._radiator_max, truth.radiator_temp_degc)

    def log(self, event: LoggedEvent) -> None:
        """Keep an event; over ``EVENTS_MAX`` it is only counted."""
        if event.name == "CHECKPOINT_COMMITTED":
            self._checkpoints += 1
        if len(self._events) < EVENTS_MAX:
            self._events.append(event)
        else:
            self._left_out += 1

    def evidence(
        self,
        *,
        digest: str,
        soc_end: float,
        jobs: Collection[SimulatedJob],
        recorder: Recorder,
        boots: int,
        watchdog_kicks: int,
    ) -> Evidence:
        """The run's books, closed."""
        frame_s = self._frame_s
        return Evidence(
            digest=digest,
            frames=self._frames,
            duration_s=self._frames * frame_s,
            frame_s=frame_s,
            mode_time_s={name: count * frame_s for name, count in sorted(self._modes.items())},
            eclipse_s=self._eclipse * frame_s,
            contact_s=self._contact * frame_s,
            soc_min=self._soc_min,
            soc_floor=self._soc_floor,
            soc_end=soc_end,
            soc_violation_s=self._low * frame_s,
            gpu_temp_max_degc=self._gpu_max,
            gpu_temp_limit_degc=self._gpu_limit,
            radiator_temp_max_degc=self._radiator_max,
            radiator_temp_limit_degc=self._radiator_limit,
            temp_violation_s=self._hot * frame_s,
            gpu_power_sun_w=self._watts[False] / max(1, self._frames - self._eclipse),
            gpu_power_eclipse_w=self._watts[True] / max(1, self._eclipse),
            train_steps=sum(job.step for job in jobs if job.trains),
            checkpoints=self._checkpoints,
            worker_starts=sum(job.starts for job in jobs),
            worker_kills=sum(job.kills for job in jobs),
            boots=boots,
            watchdog_kicks=watchdog_kicks,
            packets_made=recorder.made,
            packets_live=recorder.live,
            packets_playback=recorder.playback,
            packets_pending=recorder.pending,
            packets_shed=recorder.shed,
            events=tuple(self._events),
            events_left_out=self._left_out,
        )
