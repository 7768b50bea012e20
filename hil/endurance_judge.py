"""The judge of the long mission: one episode per fault, and the rules that stand at every frame.

An ``Episode`` runs a fault's row (``endurance_fault``): begin, steps, end; it looks for the answers until the
deadline, for what is forbidden until the end, and for the recovery afterwards. What is forbidden, and the time of
a recovery, count only while no other fault is active, because that one may rightly hold the vehicle down. For the
same reason the clock of a recovery stands still in SAFE while the true charge or a true temperature is where SAFE
must not end.

``Standing`` holds what must be true whatever happens:

- SAFE and BOOT mean payload off: nothing is started or paced there, and nothing works any more once the time that a
  worker has to stop is over;
- a SAFE that sheds the rail has it off after the same time;
- the true charge and temperatures keep the limits, within the tolerances named here;
- the watchdog is kicked in every frame, unless a mandatory adapter stands still;
- a settled SAFE draws no more than its stated watts, and over a whole orbit the battery does not lose charge.
"""

from random import Random
from typing import Final

from flightsw.core import executive

from .endurance_fault import Fault
from .endurance_verdict import ANSWERED, NOT_RECOVERED, UNANSWERED, FaultRecord, Violation
from .endurance_world import World

SOC_TOLERANCE: Final = 0.06
"""The true charge may be this far under its floor: a gauge that reads 0.05 too much takes most of it."""
TEMPERATURE_TOLERANCE_K: Final = 3.0
GRACE_S: Final = 3.0
"""Beyond the time-outs of stop and kill: frames, reports and switches take their turns."""
SAFE_LOAD_TOLERANCE_W: Final = 1.0
ORBIT_SOC_TOLERANCE: Final = 0.005
VIOLATIONS_MAX: Final = 100
SHEDDING: Final = ("state of charge", "bus under-voltage", "GPU over-temperature", "radiator over-temperature")
"""Reasons of SAFE, as its event says them, with which the GPU's rail is switched off."""


class Episode:
    """One fault from its beginning to its settlement."""

    def __init__(self, number: int, fault: Fault, world: World, random: Random) -> None:
        self.fault, self.number = fault, number
        self.begun_s = world.now_s
        self._frame_s = world.frame_s
        self._end_s = world.now_s + random.uniform(*fault.span_s)
        self.ended_s: float | None = None
        self._steps = list(fault.steps)
        self._answers = list(fault.answers)
        self._occurred = [c for c in fault.recovered if c.latched]
        self._states = [c for c in fault.recovered if not c.latched]
        self._answer_s: float | None = None
        self._recovery_s: float | None = None
        self._recovering_s = 0.0
        self._wrong = ""
        fault.begin(world, random)

    @property
    def settled(self) -> bool:
        """Whether nothing more can come of it."""
        return self.ended_s is not None and (self._recovery_s is not None or self._overdue)

    @property
    def _overdue(self) -> bool:
        return self._recovering_s > self.fault.recovery_s

    def watch(self, world: World, alone: bool) -> None:
        """After a frame: act what is due, see what is to be seen."""
        now_s, fault = world.now_s, self.fault
        since_s = now_s - self.begun_s
        while self._steps and since_s >= self._steps[0][0]:
            self._steps.pop(0)[1](world)
        if self._answers and since_s <= fault.deadline_s:
            self._answers = [answer for answer in self._answers if not answer.seen(world)]
            if not self._answers:
                self._answer_s = since_s
        if self.ended_s is None:
            for forbidden in fault.forbidden:
                if alone and not self._wrong and forbidden.seen(world):
                    self._wrong = f"not allowed: {forbidden.text}, {since_s:.0f} s after the beginning"
            if now_s >= self._end_s and not self._steps:
                fault.end(world)
                self.ended_s = now_s
            return
        if self._answers and since_s <= fault.deadline_s:
            return
        if alone and (world.fit or world.seen.mode != "SAFE"):
            self._recovering_s += self._frame_s
        self._occurred = [condition for condition in self._occurred if not condition.seen(world)]
        if not self._occurred and all(condition.seen(world) for condition in self._states):
            self._recovery_s = now_s - self.ended_s

    def record(self) -> FaultRecord:
        """How it went, so far."""
        outcome, missing = ANSWERED, ""
        if self._answers or self._wrong:
            outcome = UNANSWERED
            absent = " and ".join(answer.text for answer in self._answers)
            within = f"not within {self.fault.deadline_s:g} s: {absent}" if absent else ""
            missing = "; ".join(part for part in (within, self._wrong) if part)
        elif self._recovery_s is None:
            outcome = NOT_RECOVERED
            needed = " and ".join(c.text for c in (*self._occurred, *self._states))
            missing = f"not within {self.fault.recovery_s:g} s of its end: {needed}"
        return FaultRecord(
            number=self.number,
            name=self.fault.name,
            begun_s=self.begun_s,
            ended_s=self._end_s if self.ended_s is None else self.ended_s,
            outcome=outcome,
            answer_s=0.0 if not self.fault.answers else self._answer_s,
            recovery_s=self._recovery_s,
            missing=missing,
        )


class Standing:
    """Rules that hold at every frame; ``violations`` has each breach once, when it begins."""

    def __init__(self, config: executive.Config, orbit_s: float) -> None:
        payload, heat = config.payload, config.thermal
        self._patience_s = payload.stop_timeout_s + payload.kill_timeout_s + GRACE_S
        self._soc_least = config.eps.soc_floor - SOC_TOLERANCE
        self._gpu_most = heat.gpu_limit_degc + TEMPERATURE_TOLERANCE_K
        self._radiator_most = heat.radiator_limit_degc + TEMPERATURE_TOLERANCE_K
        self._idle_w = config.governor.gpu_idle_w
        self._orbit_s = orbit_s
        self._mode, self._mode_s = "BOOT", 0.0
        self._sheds, self._adapters_move = False, True
        self._orbit_from: tuple[float, float] | None = None
        self._broken: set[str] = set()
        self.violations: list[Violation] = []
        self.left_out = 0
        self.safe_entries = 0

    def note(self, world: World, rule: str, detail: str, during: tuple[str, ...]) -> None:
        """Write a breach down."""
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(Violation(at_s=world.now_s, rule=rule, detail=detail, during=during))
        else:
            self.left_out += 1

    def watch(self, world: World, during: tuple[str, ...], plant_healthy: bool) -> None:
        """Look at one frame."""
        broken: dict[str, str] = {}
        truth, seen = world.plant.truth(), world.seen
        if truth.soc_fraction < self._soc_least:
            broken["true charge under its floor"] = f"{truth.soc_fraction:.3f} < {self._soc_least:.3f}"
        if truth.gpu_temp_degc > self._gpu_most:
            broken["GPU node over its limit"] = f"{truth.gpu_temp_degc:.1f} degC > {self._gpu_most:g}"
        if truth.radiator_temp_degc > self._radiator_most:
            broken["radiator over its limit"] = f"{truth.radiator_temp_degc:.1f} degC > {self._radiator_most:g}"
        if not world.down:
            # The frame in which the computer comes up ends no minor frame.
            if self._adapters_move and not seen.kicked and not seen.booted:
                broken["watchdog not kicked"] = "all adapters move"
            self._adapters_move = not world.adapter_change
            self._of_mode(world, broken)
        if self._mode == "SAFE" and not world.down:
            self._positive(world, broken, plant_healthy)
        else:
            self._orbit_from = None
        for rule, detail in broken.items():
            if rule not in self._broken:
                self.note(world, rule, detail, during)
        self._broken = set(broken)

    def _of_mode(self, world: World, broken: dict[str, str]) -> None:
        seen = world.seen
        for name, text in seen.events:
            if name == "SAFE_ENTERED":
                self.safe_entries += 1
                self._sheds = any(reason in text for reason in SHEDDING)
        if seen.mode != self._mode or seen.booted:
            self._mode, self._mode_s = seen.mode, world.now_s
            if self._mode != "SAFE":
                self._sheds = False
        if self._mode not in ("SAFE", "BOOT"):
            return
        if seen.started:
            broken["worker started in SAFE or BOOT"] = ", ".join(sorted(seen.started))
        if any(duty > 0.0 for duty in seen.paced.values()):
            broken["duty given in SAFE or BOOT"] = str(seen.paced)
        if world.now_s - self._mode_s > self._patience_s:
            alive = [name for name, job in world.jobs.items() if job.alive]
            if alive or world.busy > 0.0:
                broken["SAFE or BOOT with payload on"] = f"alive: {', '.join(alive)}, busy {world.busy:.2f}"
            if self._sheds and world.plant.truth().gpu_rail_on:
                broken["SAFE does not shed the rail"] = "the rail is on"

    def _positive(self, world: World, broken: dict[str, str], plant_healthy: bool) -> None:
        """Power in SAFE: watts now, and charge over an orbit."""
        if world.now_s - self._mode_s <= self._patience_s or not plant_healthy:
            self._orbit_from = None
            return
        truth, eps = world.plant.truth(), world.plant.config.eps
        most_w = eps.bus_power_w + eps.transmitter_power_w + (self._idle_w if truth.gpu_rail_on else 0.0)
        if truth.load_power_w > most_w + SAFE_LOAD_TOLERANCE_W:
            broken["SAFE draws too much"] = f"{truth.load_power_w:.0f} W > {most_w:.0f} W"
        if self._orbit_from is None:
            self._orbit_from = (world.now_s, truth.soc_fraction)
        elif world.now_s - self._orbit_from[0] >= self._orbit_s:
            before = self._orbit_from[1]
            self._orbit_from = (world.now_s, truth.soc_fraction)
            if truth.soc_fraction < min(before, 1.0 - ORBIT_SOC_TOLERANCE) - ORBIT_SOC_TOLERANCE:
                broken["SAFE loses charge over an orbit"] = f"{before:.3f} → {truth.soc_fraction:.3f}"
