"""The bench: flies the unmodified daemon and the real station on wires whose far ends it plays itself.

    prepare   run folder, mission, faults, telecommands (``preparation``); then station, twin, daemon as processes
    boot      the world stands still until the daemon's first actuator frame
    fly       20 ticks a machine second (``far_ends``): plant, channel, faults, operator, truth
    land      the daemon is asked to end while its world goes on; then the station, then the twin
    collect   recorder, archive and journal become evidence (``observation``)

Every wait has a deadline. Ctrl-C ends a flight early and in order; what was flown is still collected and judged.
"""

import contextlib
import math
import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Final

from .answers import compare_answers
from .devices import Instrument, SimulatedCard, model_of, open_card
from .display import Display
from .evidence import Evidence, read_onboard
from .far_ends import TICK_S, FarEnds
from .faults import Surroundings
from .instruments.card_state import ENVIRONMENT as CARD_ENVIRONMENT
from .mission import INFER, TRAIN
from .observation import collect, committed_checkpoints, view
from .operator import Operator
from .plant.plant import Plant
from .preparation import BenchError, Options, Preparation
from .processes import Child
from .twin import Companion
from .umbilical import Umbilical

SHOW_S: Final = 0.25
BOOT_MAX_S: Final = 60.0
LAND_MAX_S: Final = 45.0
STATION_STOP_S: Final = 10.0


class PlantWorld:
    """Faults of a scenario in the plant's own words."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant

    def inject(self, kind: str, magnitude: float) -> None:
        if kind == "radiator_degrade":
            self._plant.inject(kind, factor=1.0 - magnitude)
        else:
            self._plant.inject(kind, offset=magnitude)

    def clear(self, kind: str) -> None:
        self._plant.clear(kind)


class Flight:
    """One run. ``fly`` does everything and returns the evidence, also when it was interrupted."""

    def __init__(self, options: Options, display: Display) -> None:
        """Prepare without starting anything; raises ``BenchError``, ``DeviceError`` or ``ScenarioError``."""
        self._display = display
        self._plan = Preparation(options, display.announce)
        self._evidence = self._plan.evidence()
        self._recorder = self._plan.folder / "state" / "recorder.sqlite"
        self._interrupts = 0
        self._children: list[Child] = []
        self._shown_at_s = -math.inf

    def fly(self) -> Evidence:
        """Everything from the run folder to the evidence; raises ``BenchError`` when it cannot begin."""
        self._ends = self._plan.make_folder()
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        started_s = time.monotonic()
        try:
            with contextlib.ExitStack() as stack:
                stack.callback(shutil.rmtree, self._ends, ignore_errors=True)
                self._start(stack)
                self._boot()
                self._loop()
                self._land()
                self._end_twin()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        self._evidence.wall_s = time.monotonic() - started_s
        collect(
            self._evidence,
            truth=self._far.truth,
            recorder=self._recorder,
            archive=self._archive,
            sent=self._operator.sent,
            instrument=self._far.instrument,
            channel=self._far.channel,
        )
        if self._plan.scenario.invariants.answers_twin and not self._interrupts:
            self._compare_answers()
        return self._evidence

    def _compare_answers(self) -> None:
        """Ask an undisturbed worker what was asked on board, after the flight."""
        folder = self._plan.folder
        ring = folder / "state" / "checkpoints" / TRAIN
        jobs = self._plan.jobs({name: Path() for name in (TRAIN, INFER)})
        self._evidence.answers, self._evidence.answers_detail = compare_answers(
            self._evidence.archived.replies, jobs[-1], ring, folder / "answers", self._display.announce
        )

    def _start(self, stack: contextlib.ExitStack) -> None:
        plan, folder = self._plan, self._plan.folder
        meters = {name: (folder / "meters" / name).absolute() for name in (TRAIN, INFER)}
        self._far = FarEnds(plan, self._ends, self._evidence.health)
        stack.callback(self._far.close)
        card_file = (folder / "card.state").absolute()
        instrument: Instrument = (
            open_card()
            if plan.choice.device == "cuda"
            else SimulatedCard(card_file, list(meters.values()), model_of(plan.card))
        )
        stack.callback(instrument.close)
        self._far.instrument = instrument
        self._evidence.card = instrument.name
        jobs = plan.jobs(meters)
        mission = plan.write_mission(
            jobs, self._far.avionics_endpoint, self._far.radio_endpoint, instrument.nvml_module
        )
        self._companion = Companion(dict(jobs[0]), (folder / "twin").absolute())
        stack.callback(self._kill_children)
        self._start_station(stack)
        self._daemon = self._child(
            "flightd",
            [sys.executable, "-m", "flightsw", "--config", str(mission)],
            {CARD_ENVIRONMENT: str(card_file)},
        )
        around = Surroundings(
            PlantWorld(plan.plant),
            self._far.channel,
            lambda: self._daemon.pid if self._daemon.returncode is None else None,
            folder / "state" / "checkpoints",
            meters,
            instrument.health,
        )
        self._faults, self._evidence.faults = plan.make_faults(around)
        self._umbilical = Umbilical(self._recorder)
        self._umbilical.start()
        stack.callback(self._umbilical.close)
        if plan.scenario.invariants.twin and plan.choice.device == "cpu":
            self._companion.start()

    def _start_station(self, stack: contextlib.ExitStack) -> None:
        self._socket_path = self._ends / "station.sock"
        self._archive = self._plan.folder / "archive.sqlite"
        self._station = self._child(
            "station",
            [
                *(sys.executable, "-m", "ground.cli", "listen", "--plain", "--link", self._far.station_endpoint),
                *("--archive", str(self._archive), "--socket", str(self._socket_path)),
            ],
        )
        self._operator = Operator(self._socket_path, self._plan.orders())
        stack.callback(self._operator.close)
        fault = self._operator.wait_for_station()
        if fault:
            raise BenchError(f"the ground station did not start: {fault}; {self._station.obituary()}")

    def _child(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> Child:
        try:
            child = Child(name, command, self._plan.folder / f"{name}.log", environment)
        except OSError as error:
            raise BenchError(f"{name} cannot be started: {error.strerror}") from None
        self._children.append(child)
        return child

    def _boot(self) -> None:
        """Show the daemon a world that stands still until it acts for the first time."""
        self._display.announce("to command it from another terminal:")
        self._display.announce(f"  export GROUND_SOCKET={self._socket_path.absolute()}")
        self._display.announce(f"  export GROUND_ARCHIVE={self._archive.absolute()}")
        self._display.announce("starting the flight daemon")
        deadline_s = time.monotonic() + BOOT_MAX_S
        while self._far.actuators_seen == 0 and not self._interrupts:
            if self._daemon.returncode is not None:
                raise BenchError(self._daemon.obituary())
            now_s = time.monotonic()
            if now_s > deadline_s:
                raise BenchError(
                    f"the flight daemon sent no actuator frame within {BOOT_MAX_S:.0f} s (log: {self._daemon.log})"
                )
            self._far.send_sensors(radio_lock=False)
            self._show(now_s, "boot")
            self._far.serve_until(now_s + TICK_S)

    def _loop(self) -> None:
        end_s = self._plan.run[1]
        for now_s in self._far.ticks():
            truth = self._plan.plant.truth()
            if truth.world_s >= end_s or self._interrupts or not self._all_alive():
                break
            for said in self._operator.tick(truth.world_s):
                self._display.announce(said)
            for fault in self._faults:
                if said := fault.tick(truth.world_s, now_s):
                    self._display.announce(said)
            self._companion.leash(now_s, self._umbilical.value("train.step"))
            self._show(now_s, "flight")
        self._evidence.flown_until_s = min(self._plan.plant.truth().world_s, end_s)
        for fault in self._faults:
            fault.finish(self._evidence.flown_until_s)

    def _all_alive(self) -> bool:
        """False when the daemon or the station has gone; says so in the evidence."""
        if self._daemon.returncode is not None:
            self._evidence.daemon_died = self._daemon.obituary()
            self._display.announce(self._evidence.daemon_died)
            return False
        if self._station.returncode is not None:
            self._evidence.health.faults.append(self._station.obituary())
            self._display.announce(self._station.obituary())
            return False
        return True

    def _land(self) -> None:
        """Ask the daemon to end, with its world going on; then stop the station."""
        self._display.announce("landing: the daemon stops its workers")
        self._daemon.signal(signal.SIGTERM)
        deadline_s = time.monotonic() + LAND_MAX_S
        for now_s in self._far.ticks(log=False):
            if self._daemon.returncode is not None:
                break
            if now_s > deadline_s or self._interrupts > 1:
                how = "it was killed after a second interrupt" if self._interrupts > 1 else "it had to be killed"
                if self._interrupts <= 1 and not self._evidence.daemon_died:
                    self._evidence.daemon_died = f"flightd did not end within {LAND_MAX_S:.0f} s of SIGTERM: {how}"
                break
            self._show(now_s, "landing")
        code = self._daemon.returncode
        if code not in (0, None) and not self._evidence.daemon_died:
            self._evidence.daemon_died = self._daemon.obituary()
        self._daemon.kill()
        self._operator.close()
        if not self._station.stop(STATION_STOP_S) and self._interrupts <= 1:
            self._evidence.health.faults.append(f"the station had to be killed (log: {self._station.log})")

    def _end_twin(self) -> None:
        """Let the twin reach the last committed checkpoint, then compare."""
        if not self._plan.scenario.invariants.twin:
            return
        committed = committed_checkpoints(read_onboard(self._recorder).events)
        interrupted = self._interrupts > 0
        record = self._companion.finish(committed, interrupted, self._display.announce, self._twin_progress)
        if record is not None:
            self._evidence.twin = record

    def _twin_progress(self, done: int, wanted: int) -> bool:
        self._display.twin(done, wanted)
        return not self._interrupts

    def _kill_children(self) -> None:
        for child in self._children:
            child.kill()
        self._companion.stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._interrupts += 1
        self._evidence.interrupted = True

    def _show(self, now_s: float, phase: str) -> None:
        if now_s - self._shown_at_s < SHOW_S:
            return
        self._shown_at_s = now_s
        self._display.show(
            view(
                self._plan,
                phase,
                now_s,
                outage=self._far.channel.outage,
                umbilical=self._umbilical,
                status=self._operator.status,
                faults=self._evidence.faults,
                twin_step=self._companion.step,
            )
        )
