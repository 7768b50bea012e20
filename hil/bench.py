"""The bench: flies the unmodified daemon and the real station on wires whose far ends it plays itself.

    prepare   run folder, wires, plant, channel, faults, configuration; then station, twin, daemon as processes
    boot      the world stands still until the daemon's first actuator frame
    fly       20 ticks a machine second: plant, sensors, actuators, channel, faults, operator, truth
    land      the daemon is asked to end while its world goes on; then the station, then the twin
    collect   recorder, archive and journal become evidence

World time is machine time times warp. The world only ever advances in the tick; when the machine was too busy for a
tick, the world is held back and the slip is counted: a bench that cannot keep its time says so.

Every wait has a deadline. Ctrl-C ends a flight early and in order; what was flown is still collected and judged.
"""

import contextlib
import math
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final

import msgspec

from flightsw.link import avionics
from flightsw.link.errors import LinkError
from ground.client import ArchiveReader, GroundError

from .channel import Channel
from .devices import Instrument, SimulatedCard, choose, open_card
from .display import Display, View
from .evidence import (
    Archived,
    BenchHealth,
    EventRecord,
    Evidence,
    FaultRecord,
    ReplyRecord,
    TruthLog,
    read_onboard,
)
from .faults import Fault, Surroundings, make_fault
from .instruments.card_state import ENVIRONMENT as CARD_ENVIRONMENT
from .machine import commit, machine, versions
from .mission import INFER, TRAIN, MissionPlan, OrbitNumbers, Scalar, render
from .operator import Operator, Order
from .plant.eps import EpsConfig
from .plant.plant import Loads, Plant, PlantConfig
from .plant.stations import DEFAULT_STATIONS
from .plant.windows import Forecast
from .processes import Child
from .randomness import stream
from .scenario import DeviceChoice, Interval, Scenario, Unavailable, resolve
from .summary import dark_spans
from .twin import Twin, compare
from .umbilical import Umbilical
from .wires import LinkKind, make_wire

TICK_S: Final = 0.05
TICK_MAX_S: Final = 0.25
SHOW_S: Final = 0.25
TWIN_LEASH_S: Final = 1.0
ACTUATOR_SILENCE_S: Final = 2.0
"""Silence of the computer after which the power board drops the GPU's rail, machine seconds."""
BOOT_MAX_S: Final = 60.0
LAND_MAX_S: Final = 45.0
STATION_STOP_S: Final = 10.0
TWIN_MAX_S: Final = 240.0
ENDPOINT_PATH_MAX: Final = 80
RADIO_SHARE: Final = 0.9
"""Share of the channel's rate that the daemon is told, so that its queue in the channel stays short."""


class BenchError(Exception):
    """The bench cannot fly this; the text is one line for the operator."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is made of. None takes the scenario's own."""

    scenario: Scenario
    out: Path
    seed: int | None = None
    link: LinkKind | None = None
    orbit: str | None = None
    device: DeviceChoice | None = None
    warp: float | None = None


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
        scenario = options.scenario
        self._display = display
        self._scenario = scenario
        self._seed = scenario.seed if options.seed is None else options.seed
        self._link = options.link or scenario.link
        self._warp = options.warp or scenario.warp
        self._choice = choose(options.device or scenario.device)
        orbit = options.orbit or scenario.orbit
        self._plant = self._make_plant(orbit)
        period_s = self._plant.geometry.orbit.period_s
        self._run: Interval = (0.0, scenario.duration_orbits * period_s)
        self._period_s = period_s
        self._forecast = self._plant.forecast(self._run[1])
        self._passes: list[Interval] = [(w.start_s, w.end_s) for w in self._forecast.contacts]
        self._folder = options.out / "run"
        self._evidence = Evidence(
            scenario=scenario,
            seed=self._seed,
            link=self._link,
            device=self._choice.device,
            card="",
            orbit=self._plant.geometry.orbit.name,
            orbit_period_s=period_s,
            warp=self._warp,
            started_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=machine(),
            versions=versions(),
            commit=commit(),
            run=self._run,
            passes=[(p.start_s, p.end_s, p.station) for p in self._forecast.passes],
            faults=[],
            health=BenchHealth(faults=[]),
        )
        self._truth = TruthLog()
        self._rail_wanted = False
        self._transmitter_on = False
        self._actuators_at_s = -math.inf
        self._actuators_seen = 0
        self._interrupts = 0
        self._children: list[Child] = []
        self._shown_at_s = self._leashed_at_s = -math.inf

    # --- prepare ---------------------------------------------------------------------------------------------

    def _make_plant(self, orbit: str) -> Plant:
        scenario = self._scenario
        try:
            return Plant(
                PlantConfig(
                    orbit=orbit,
                    start=scenario.start,
                    stations=tuple(scenario.stations) or DEFAULT_STATIONS,
                    eps=EpsConfig(initial_soc_fraction=scenario.soc_start),
                ),
                seed=self._seed,
            )
        except ValueError as error:
            raise BenchError(str(error)) from None

    def _make_folder(self) -> None:
        """A fresh run folder; wires and sockets go elsewhere when its path is too long or odd for them."""
        try:
            shutil.rmtree(self._folder, ignore_errors=True)
            (self._folder / "meters").mkdir(parents=True)
        except OSError as error:
            raise BenchError(f"{self._folder}: {error.strerror}; take another --out") from None
        near = (self._folder / "wires").absolute()
        fits = len(str(near)) <= ENDPOINT_PATH_MAX and "@" not in str(near)
        self._ends = near if fits else Path(tempfile.mkdtemp(prefix="gpusat-"))
        self._ends.mkdir(exist_ok=True)

    def _make_wires(self) -> None:
        self._avionics = make_wire(self._link, self._ends, "avionics")
        self._radio = make_wire(self._link, self._ends, "radio-satellite")
        self._station_wire = make_wire(self._link, self._ends, "radio-station")
        self._wires = (self._avionics, self._radio, self._station_wire)
        radio = self._scenario.radio
        self._channel = Channel(radio, stream(self._seed, "channel.down"), stream(self._seed, "channel.up"))

    def _jobs(self) -> tuple[dict[str, Scalar], ...]:
        payload, device = self._scenario.payload, self._choice.device
        preset = payload.preset if payload.preset != "auto" else ("char" if device == "cuda" else "tiny")
        seed = self._seed if payload.seed is None else payload.seed
        train: dict[str, Scalar] = {
            "kind": "train",
            "id": TRAIN,
            "preset": preset,
            "device": device,
            "seed": seed,
            "meter": str(self._meters[TRAIN]),
        }
        if payload.corpus:
            train["corpus"] = str(Path(payload.corpus).absolute())
        if not payload.infer:
            return (train,)
        infer: dict[str, Scalar] = {
            "kind": "infer",
            "id": INFER,
            "model": f"job:{TRAIN}",
            "device": device,
            "meter": str(self._meters[INFER]),
        }
        return train, infer

    def _orbit_numbers(self) -> OrbitNumbers:
        """Period and the first whole eclipse of the next two orbits, as orbit determination would give them."""
        later: Forecast = self._plant.forecast(2.0 * self._period_s)
        whole = [w for w in later.eclipses if w.start_s > later.start_s and w.end_s < later.end_s]
        first = whole[0] if whole else None
        return OrbitNumbers(
            period_s=round(self._period_s, 3),
            eclipse_s=round(first.duration_s, 3) if first else 0.0,
            eclipse_entry_s=round(first.start_s, 3) if first else None,
        )

    def _write_mission(self, jobs: tuple[dict[str, Scalar], ...]) -> Path:
        limits = self._scenario.invariants
        plan = MissionPlan(
            name=f"hil-{self._scenario.name}",
            state_dir=str((self._folder / "state").absolute()),
            avionics=self._avionics.endpoint,
            radio=self._radio.endpoint,
            radio_bps=int(self._scenario.radio.downlink_bps * RADIO_SHARE),
            nvml_module=self._instrument.nvml_module,
            checkpoint_interval_s=self._scenario.payload.checkpoint_interval_s,
            warp=self._warp,
            orbit=self._orbit_numbers(),
            soc_floor=limits.soc_floor,
            gpu_temp_limit_degc=limits.gpu_temp_limit_degc,
            radiator_temp_limit_degc=limits.radiator_temp_limit_degc,
            jobs=jobs,
            overrides=self._scenario.mission,
        )
        path = self._folder / "mission.toml"
        path.write_text(render(plan), encoding="utf-8")
        return path

    def _make_faults(self) -> None:
        around = Surroundings(
            PlantWorld(self._plant),
            self._channel,
            lambda: self._daemon.pid if self._daemon.returncode is None else None,
            self._folder / "state" / "checkpoints",
            self._meters,
        )
        self._faults: list[Fault] = []
        for plan in self._scenario.faults:
            instants = self._instants(plan.when, f"fault.{plan.id}")
            if isinstance(instants, Unavailable):
                record = FaultRecord(id=plan.id, kind=plan.kind, not_applicable=instants.reason, evidence={})
                self._evidence.faults.append(record)
                self._display.announce(f"fault {plan.id} does not apply: {instants.reason}")
                continue
            for number, planned_s in enumerate(instants):
                name = plan.id if len(instants) == 1 else f"{plan.id}-{number + 1}"
                rng = stream(self._seed, f"fault.{name}.choice")
                fault = make_fault(msgspec.structs.replace(plan, id=name), planned_s, rng, around)
                self._faults.append(fault)
                self._evidence.faults.append(fault.record)

    def _orders(self) -> list[Order]:
        orders: list[Order] = []
        for plan in self._scenario.telecommands:
            instants = self._instants(plan.when, f"telecommand.{plan.id}")
            if isinstance(instants, Unavailable):
                self._display.announce(f"telecommand {plan.id} does not apply: {instants.reason}")
                continue
            orders.extend(
                Order(
                    planned_s=start_s + k * plan.every_s, id=plan.id, name=plan.send, arguments=dict(plan.arguments)
                )
                for start_s in instants
                for k in range(plan.count)
            )
        return orders

    def _instants(self, when: Any, stream_name: str) -> list[float] | Unavailable:
        eclipses = [(w.start_s, w.end_s) for w in self._forecast.eclipses]
        return resolve(when, self._seed, stream_name, self._run, self._passes, eclipses)

    # --- the flight ------------------------------------------------------------------------------------------

    def fly(self) -> Evidence:
        """Everything from the run folder to the evidence; raises ``BenchError`` when it cannot begin."""
        self._make_folder()
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
        self._collect()
        return self._evidence

    def _start(self, stack: contextlib.ExitStack) -> None:
        folder = self._folder
        self._meters = {name: (folder / "meters" / name).absolute() for name in (TRAIN, INFER)}
        self._make_wires()
        for wire in self._wires:
            stack.callback(wire.close)
        card_file = (folder / "card.state").absolute()
        self._instrument: Instrument = (
            open_card() if self._choice.device == "cuda" else SimulatedCard(card_file, list(self._meters.values()))
        )
        stack.callback(self._instrument.close)
        self._evidence.card = self._instrument.name
        jobs = self._jobs()
        mission = self._write_mission(jobs)
        stack.callback(self._kill_children)
        self._start_station(stack)
        self._daemon = self._child(
            "flightd",
            [sys.executable, "-m", "flightsw", "--config", str(mission)],
            {CARD_ENVIRONMENT: str(card_file)},
        )
        self._make_faults()
        self._umbilical = Umbilical(folder / "state" / "recorder.sqlite")
        self._umbilical.start()
        stack.callback(self._umbilical.close)
        self._twin_spec = dict(jobs[0])
        self._twin: Twin | None = None
        if self._scenario.invariants.twin and self._choice.device == "cpu":
            self._start_twin()

    def _start_station(self, stack: contextlib.ExitStack) -> None:
        self._socket_path = self._ends / "station.sock"
        self._archive = self._folder / "archive.sqlite"
        self._station = self._child(
            "station",
            [
                *(sys.executable, "-m", "ground.cli", "listen", "--plain", "--link", self._station_wire.endpoint),
                *("--archive", str(self._archive), "--socket", str(self._socket_path)),
            ],
        )
        self._operator = Operator(self._socket_path, self._orders())
        stack.callback(self._operator.close)
        fault = self._operator.wait_for_station()
        if fault:
            raise BenchError(f"the ground station did not start: {fault}; {self._station.obituary()}")

    def _start_twin(self) -> None:
        self._twin = Twin(self._twin_spec, (self._folder / "twin").absolute())

    def _child(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> Child:
        try:
            child = Child(name, command, self._folder / f"{name}.log", environment)
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
        while self._actuators_seen == 0 and not self._interrupts:
            if self._daemon.returncode is not None:
                raise BenchError(self._daemon.obituary())
            now_s = time.monotonic()
            if now_s > deadline_s:
                raise BenchError(
                    f"the flight daemon sent no actuator frame within {BOOT_MAX_S:.0f} s (log: {self._daemon.log})"
                )
            self._avionics.send(avionics.encode(self._plant.sense(warp=self._warp, radio_lock=False)))
            self._show(now_s, "boot")
            self._wait_and_serve(now_s + TICK_S)

    def _loop(self) -> None:
        end_s = self._run[1]
        for now_s in self._ticks():
            truth = self._plant.truth()
            if truth.world_s >= end_s or self._interrupts or not self._all_alive():
                break
            for said in self._operator.tick(truth.world_s):
                self._display.announce(said)
            for fault in self._faults:
                if said := fault.tick(truth.world_s, now_s):
                    self._display.announce(said)
            self._leash_twin(now_s)
            self._show(now_s, "flight")
        self._evidence.flown_until_s = min(self._plant.truth().world_s, end_s)
        for fault in self._faults:
            fault.finish(self._evidence.flown_until_s)

    def _ticks(self, log: bool = True) -> Iterator[float]:
        """Advance the world once per ``TICK_S``, serving the wires in between; yields machine time."""
        last_s = time.monotonic()
        due_s = last_s + TICK_S
        while True:
            self._wait_and_serve(due_s)
            now_s = time.monotonic()
            health = self._evidence.health
            health.late_max_s = max(health.late_max_s, now_s - due_s)
            health.ticks += 1
            dt_s = now_s - last_s
            if dt_s > TICK_MAX_S:
                health.slip_s += dt_s - TICK_MAX_S
                dt_s = TICK_MAX_S
            last_s = now_s
            due_s = max(due_s + TICK_S, now_s)
            self._advance(dt_s, now_s, log)
            yield now_s

    def _advance(self, dt_s: float, now_s: float, log: bool) -> None:
        """One tick of the world."""
        silent = now_s - self._actuators_at_s > ACTUATOR_SILENCE_S
        rail_on = self._rail_wanted and not silent
        gpu_w = self._instrument.power_w(dt_s, now_s, rail_on)
        if gpu_w is None:
            fault = "the power meter of the card gave no reading"
            if fault not in self._evidence.health.faults:
                self._evidence.health.faults.append(fault)
            gpu_w = self._plant.truth().gpu_rail_power_w
        loads = Loads(gpu_power_w=gpu_w, gpu_rail_on=rail_on, transmitter_on=self._transmitter_on)
        truth = self._plant.step(dt_s * self._warp, loads)
        self._instrument.show(truth)
        self._channel.locked = truth.in_contact
        frame = self._plant.sense(warp=self._warp, radio_lock=truth.in_contact)
        self._avionics.send(avionics.encode(frame))
        if log:
            self._truth.add(
                {
                    "world_s": truth.world_s,
                    "machine_s": now_s,
                    "sun_fraction": truth.sun_fraction,
                    "array_power_w": truth.array_power_w,
                    "gpu_power_w": truth.gpu_rail_power_w,
                    "bus_power_w": truth.load_power_w - truth.gpu_rail_power_w,
                    "soc_fraction": truth.soc_fraction,
                    "soc_reading": frame.soc_fraction,
                    "gpu_temp_degc": truth.gpu_temp_degc,
                    "radiator_temp_degc": truth.radiator_temp_degc,
                    "gpu_rail_on": float(truth.gpu_rail_on),
                    "radio_lock": float(truth.in_contact),
                    "elevation_deg": max((elevation for _, elevation in truth.visible), default=0.0),
                    "proton_flux_cm2_s": truth.proton_flux_cm2_s,
                    "latitude_deg": truth.latitude_deg,
                    "longitude_deg": truth.longitude_deg,
                }
            )

    def _wait_and_serve(self, until_s: float) -> None:
        """Serve the wires and the channel until ``until_s``, at least once."""
        while True:
            now_s = time.monotonic()
            self._serve(now_s)
            timeout_s = min(until_s, self._channel.due_s()) - time.monotonic()
            if time.monotonic() >= until_s:
                return
            select.select(self._wires, [], [], max(0.0, timeout_s))

    def _serve(self, now_s: float) -> None:
        for unit in self._avionics.receive():
            try:
                message = avionics.decode(unit)
            except LinkError:
                continue
            if isinstance(message, avionics.ActuatorFrame):
                self._rail_wanted = message.gpu_rail_on
                self._transmitter_on = message.transmitter_on
                self._actuators_at_s = now_s
                self._actuators_seen += 1
        for unit in self._radio.receive():
            self._channel.down.offer(unit, now_s)
        for unit in self._station_wire.receive():
            self._channel.up.offer(unit, now_s)
        for unit in self._channel.downlink(now_s):
            self._station_wire.send(unit)
        for unit in self._channel.uplink(now_s):
            self._radio.send(unit)
        for wire in self._wires:
            wire.flush()

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

    # --- landing ---------------------------------------------------------------------------------------------

    def _land(self) -> None:
        """Ask the daemon to end, with its world going on; then stop the station."""
        self._display.announce("landing: the daemon stops its workers")
        self._daemon.signal(signal.SIGTERM)
        deadline_s = time.monotonic() + LAND_MAX_S
        for now_s in self._ticks(log=False):
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
        if not self._scenario.invariants.twin:
            return
        onboard = read_onboard(self._folder / "state" / "recorder.sqlite")
        committed = committed_checkpoints(onboard.events)
        detail = ""
        if committed and not self._interrupts:
            if self._twin is None:
                self._start_twin()
            assert self._twin is not None
            last = max(step for _, step, _ in committed)
            self._display.announce(f"the undisturbed twin flies to step {last}")
            detail = self._twin.reach(last, TWIN_MAX_S, self._twin_progress)
        elif self._interrupts:
            detail = "the run was interrupted before the twin was compared"
        if self._twin is not None:
            self._twin.journal.read_on()
            self._twin.stop()
            self._evidence.twin = compare(committed, self._twin.journal.digests, detail)

    def _twin_progress(self, done: int, wanted: int) -> bool:
        self._display.twin(done, wanted)
        return not self._interrupts

    def _leash_twin(self, now_s: float) -> None:
        if self._twin is None or now_s - self._leashed_at_s < TWIN_LEASH_S:
            return
        self._leashed_at_s = now_s
        step = self._umbilical.value("train.step")
        self._twin.keep_near(step if math.isfinite(step) else 0.0)

    def _kill_children(self) -> None:
        for child in self._children:
            child.kill()
        if getattr(self, "_twin", None) is not None:
            assert self._twin is not None
            self._twin.stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._interrupts += 1
        self._evidence.interrupted = True

    # --- what is seen and kept -------------------------------------------------------------------------------

    def _show(self, now_s: float, phase: str) -> None:
        if now_s - self._shown_at_s < SHOW_S:
            return
        self._shown_at_s = now_s
        truth = self._plant.truth()
        station = next((p for p in self._forecast.passes if p.start_s <= truth.world_s < p.end_s), None)
        later = next((p for p in self._forecast.passes if p.start_s > truth.world_s), None)
        self._display.show(
            View(
                phase=phase,
                title=self._scenario.title,
                now_s=now_s,
                world_s=truth.world_s,
                end_s=self._run[1],
                warp=self._warp,
                sun_fraction=truth.sun_fraction,
                array_w=truth.array_power_w,
                gpu_w=truth.gpu_rail_power_w,
                rail_on=truth.gpu_rail_on,
                soc=truth.soc_fraction,
                soc_floor=self._scenario.invariants.soc_floor,
                gpu_degc=truth.gpu_temp_degc,
                gpu_limit_degc=self._scenario.invariants.gpu_temp_limit_degc,
                radiator_degc=truth.radiator_temp_degc,
                radiator_limit_degc=self._scenario.invariants.radiator_temp_limit_degc,
                passing=station.station if station else "",
                pass_left_s=station.end_s - truth.world_s if station else 0.0,
                next_pass=later.station if later else "",
                next_pass_s=later.start_s - truth.world_s if later else 0.0,
                outage=self._channel.outage,
                values=self._umbilical.values,
                events=list(self._umbilical.events),
                event_counts=dict(self._umbilical.event_counts),
                recorded=self._umbilical.recorded,
                acknowledged=self._umbilical.acknowledged,
                replies=self._umbilical.replies,
                status=self._operator.status,
                faults=[(record.id, record.kind, record.fired) for record in self._evidence.faults],
                twin_step=self._twin.journal.last if self._twin is not None else None,
            )
        )

    def _collect(self) -> None:
        evidence = self._evidence
        evidence.truth = self._truth.columns
        evidence.eclipses = dark_spans(evidence.column("world_s"), evidence.column("sun_fraction"))
        evidence.onboard = read_onboard(self._folder / "state" / "recorder.sqlite")
        evidence.commands = [sent.record() for sent in self._operator.sent]
        if isinstance(self._instrument, SimulatedCard):
            evidence.meter_resets = self._instrument.gpu.meter_resets
        evidence.channel = {
            "down": msgspec.structs.asdict(self._channel.down.counters),
            "up": msgspec.structs.asdict(self._channel.up.counters),
        }
        try:
            with ArchiveReader(self._archive) as reader:
                evidence.archived = read_archive(reader)
        except GroundError as error:
            evidence.health.faults.append(str(error))


def committed_checkpoints(events: list[EventRecord]) -> list[tuple[int, int, str]]:
    """(generation, step, digest) of every checkpoint that training announced as committed."""
    return [
        (int(e.fields.get("generation", -1)), int(e.fields.get("step", -1)), str(e.fields.get("digest", "")))
        for e in events
        if e.name == "CHECKPOINT_COMMITTED" and e.fields.get("job") == TRAIN
    ]


def read_archive(reader: ArchiveReader) -> Archived:
    """The ground's archive as evidence, through its public reader."""
    prompts = {row.id: str(row.arguments.get("prompt", "")) for row in reader.commands()}
    archived = Archived(live=set(), playback=set(), events=[], replies=[])
    for boot, apid, sequence, playback in reader.identities():
        (archived.playback if playback else archived.live).add((boot, apid, sequence))
    archived.events = [
        EventRecord(
            boot=e.boot,
            sequence=e.sequence,
            world_s=e.world_s,
            name=e.name,
            severity=e.severity,
            text=e.text,
            fields={},
        )
        for e in reader.events()
    ]
    archived.replies = [
        ReplyRecord(
            world_s=row.world_s,
            request=row.request,
            prompt=prompts.get(row.command, ""),
            text=row.text,
            tokens=row.tokens,
            generation=row.generation,
            finish=row.finish,
        )
        for row in reader.replies()
        if row.complete
    ]
    return archived
