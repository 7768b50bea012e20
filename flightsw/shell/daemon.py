"""The daemon: everything is wired by hand here, then minor frames run until the end.

A minor frame collects what came, asks the core (``executive.step``) and executes what it answers. Telecommands do
not wait for a frame, ``executive.accept`` judges each on arrival, nor does a collapsing bus (``executive.alarm``).
An exception of the core is tier 1 of supervision: it is logged, the workers die, the process ends with status 1
and the boot record says so; the service manager starts it again, and a repeat comes up in SAFE.

An orderly end (SIGINT, SIGTERM, SIGHUP, telecommand): the core says goodbye, workers checkpoint and go while
frames run on, what is left is killed after ``worker.stop_timeout_s``, the recorder commits, the end is
written. A second signal skips the waiting.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from flightsw.config import MissionConfig
from flightsw.core import executive
from flightsw.core.durable import DURABLE_KEYS
from flightsw.core.effects import Effect
from flightsw.core.inputs import Inputs, RecorderStatus
from flightsw.core.supervision import FAULT_CYCLES
from flightsw.core.vehicle import Vehicle
from flightsw.gpu.protocol import Stop
from flightsw.link.avionics import SensorFrame
from flightsw.link.endpoint import parse_endpoint

from . import boot_record
from .avionics import Avionics
from .boot_record import End
from .chronicle import Chronicle
from .clock import Beat, Metronome, now_s
from .execute import execute
from .health import HealthMeter
from .last_words import STALL_FILE
from .planner_child import Planner
from .ports import Ports
from .radio import Radio
from .recorder import Recorder
from .setter import CYCLE_S as SETTER_CYCLE_S
from .setter import Setter
from .store import Store
from .store_writer import StoreWriter
from .supervisor import Adapter, RestartPolicy, statuses
from .watchdog import Watchdog
from .watchdog_device import WatchdogDevice, WatchdogDeviceError
from .workers import Probe, Workers

RECORDER_FILE: Final = "recorder.sqlite"
REAP_TIMEOUT_S: Final = 3.0
SETTLE_S: Final = 0.25
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_log: Final = logging.getLogger("flightd")


class Ending(msgspec.Struct, frozen=True):
    """How a life ended: ``failed`` by an exception, or in order, with the wish to come up again or not."""

    failed: bool
    restart: bool


async def fly(mission: MissionConfig) -> Ending:
    """One life of the daemon, on a state directory that is locked and has its log."""
    async with asyncio.TaskGroup() as group:
        return await Daemon(mission, group).run()


class Daemon:
    """Adapters, children and storage of one life, and the loop that connects them to the core."""

    def __init__(self, mission: MissionConfig, group: asyncio.TaskGroup) -> None:
        """Wire everything; children and adapters are tasks of ``group``."""
        self._mission = mission
        self._group = group
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._stop_reason = ""
        self._end: End = "stop"
        self._forced = False
        self._failure: Exception | None = None
        started_s = now_s()
        supervisor = mission.supervisor
        self._radio = radio = Radio(parse_endpoint(mission.radio.endpoint), self._on_telecommand)
        self._avionics = avionics = Avionics(parse_endpoint(mission.avionics.endpoint), self._on_sensors)
        self._probe = probe = Probe(mission.probe, mission.worker.probe_command)
        self._workers = Workers(mission.jobs, mission.worker.command, mission.worker.nice, group)
        planning = mission.core.planning
        self._planner = planner = Planner(mission.planner.command, mission.planner.nice, planning.deadline_s)
        self._health = HealthMeter(mission.state_dir, started_s)
        self._recorder = Recorder(
            mission.state_dir / RECORDER_FILE,
            retention=mission.core.recorder.retention({}),
            commit_interval_s=mission.core.recorder.commit_interval_s,
            deliver=self._deliver,
        )
        self._store = Store(mission.state_dir)
        self._chronicle = Chronicle(
            self._store,
            mission.state_dir,
            recorded_boot=self._recorder.open(),
            crash_loop_boots=supervisor.crash_loop_boots,
        )
        self._boot = self._chronicle.boot
        # After the chronicle, which reads what the last stall left in the file.
        device = _watchdog_device(mission.watchdog.device, mission.watchdog.timeout_s)
        stall_file = mission.state_dir / STALL_FILE
        self._watchdog = Watchdog(os.environ, mission.watchdog.stall_s, stall_file, device)
        self._booted = False
        self._durable, faults = load_durable(self._store)
        self._store_writer = StoreWriter(self._store, (*self._boot.faults, *faults))
        self._good_boot_s = started_s + supervisor.crash_loop_window_s
        policy = RestartPolicy(
            backoff_first_s=supervisor.backoff_first_s,
            backoff_max_s=supervisor.backoff_max_s,
            restarts_max=supervisor.restarts_max,
            window_s=supervisor.window_s,
        )
        self._adapters: tuple[Adapter, ...] = (
            Adapter("avionics", avionics.wire.run, lambda: avionics.wire.executions, policy, mandatory=True),
            Adapter("radio", radio.wire.run, lambda: radio.wire.executions, policy, mandatory=True),
            Adapter(
                "probe",
                probe.run,
                lambda: probe.executions,
                policy,
                mandatory=False,
                # Stuck when the probe itself would be killed for its silence.
                cycle_s=probe.silence_s / FAULT_CYCLES,
            ),
            *(
                (
                    Adapter(
                        "planner",
                        planner.run,
                        lambda: planner.executions,
                        policy,
                        mandatory=False,
                        cycle_s=planner.silence_s / FAULT_CYCLES,
                    ),
                )
                if planning.enabled
                else ()
            ),
        )
        self._setter = Setter(mission.setter) if mission.setter is not None else None
        if self._setter is not None:
            setter = self._setter
            self._adapters += (
                Adapter(
                    "setter",
                    setter.run,
                    lambda: setter.executions,
                    policy,
                    mandatory=False,
                    cycle_s=SETTER_CYCLE_S,
                ),
            )
        self._ports = Ports(
            radio=radio,
            avionics=avionics,
            recorder=self._recorder,
            workers=self._workers,
            planner=planner,
            store=self._store_writer,
            watchdog=self._watchdog,
            life=self,
        )

    def request_end(self, reason: str, end: End = "stop") -> None:
        """End in an orderly way after the present frame; the first reason stands."""
        if not self._stop.is_set():
            self._stop_reason, self._end = reason, end
            self._stop.set()

    def count_unclean_boots(self, count: int) -> None:
        """Write the boot record with this number of unclean boots in a row."""
        self._chronicle.count_unclean_boots(count, self._store_writer)

    async def run(self) -> Ending:
        """Boot, fly, end. An exception of the core ends up in the log and in the result."""
        self._loop.set_exception_handler(_log_stray)
        for number in SIGNALS:
            self._loop.add_signal_handler(number, self._on_signal, signal.Signals(number).name)
        supervised = [self._group.create_task(adapter.supervise()) for adapter in self._adapters]
        failure = "cancelled"
        try:
            await self._settle()
            self._boot_core()
            await self._fly()
            await self._farewell()
            failure = ""
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
            _log.critical(
                "the executive failed, the daemon ends: %s: %s", type(error).__name__, error, exc_info=True
            )
        finally:
            if self._setter is not None:
                await self._setter.stop()
            for task in supervised:
                task.cancel()
            for job in self._workers.running:
                self._workers.kill(job, "the daemon ends")
            self._close(failure)
        return Ending(bool(failure), self._end != "stop" and not failure)

    async def _settle(self) -> None:
        """Give the wires a moment to open, so that the boot report can be heard; fly without one that does not."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                for wire in (self._radio.wire, self._avionics.wire):
                    await wire.opened.wait()

    def _boot_core(self) -> None:
        boot, at_s = self._boot, now_s()
        self._vehicle, effects = executive.boot(
            self._mission.core,
            boot_count=boot.record.boot_count,
            cause=boot_record.CAUSE_TEXTS[boot.cause],
            crash_loop=boot.crash_loop,
            config_hash=self._mission.config_hash,
            now_s=at_s,
            unclean_boots=boot.record.unclean_in_a_row,
            crash_window_s=self._mission.supervisor.crash_loop_window_s,
            durable=self._durable,
            power_on=boot.power_on,
            resets=boot.record.resets,
        )
        self._booted = True
        self._execute(effects, at_s)
        self._metronome = Metronome(1.0 / self._mission.frame.rate_hz, at_s)
        # What was made so far lives as long as the process: the collector need not walk over it in a frame.
        gc.collect()
        gc.freeze()

    async def _fly(self) -> None:
        self._frame(await self._metronome.wait())
        self._watchdog.ready(f"flying, boot {self._boot.record.boot_count}")
        while not self._stop.is_set():
            self._frame(await self._metronome.wait())

    def _frame(self, beat: Beat) -> None:
        """One minor frame; raises what the core raised, here or in ``accept``."""
        if self._failure is not None:
            raise self._failure
        at_s = now_s()
        if self._setter is not None:
            self._setter.take()
        inputs = Inputs(
            sensors=self._avionics.take(),
            gpu=self._probe.take(),
            reports=self._workers.take(),
            plans=self._planner.take(),
            adapters=(*statuses(self._adapters), self._recorder.adapter_status()),
            recorder=self._recorder_status(),
            health=self._health.read(
                at_s,
                late_s=beat.late_s,
                skipped=beat.skipped,
                radio_frames_bad=self._radio.frames_bad,
                avionics_frames_bad=self._avionics.frames_bad,
                watchdog_kicks=self._watchdog.kicks,
                watchdog_confirmed=self._watchdog.confirmed,
                watchdog_fault=self._watchdog.fault,
                unclean_boots=self._chronicle.unclean_boots,
            ),
        )
        self._vehicle, effects = executive.step(self._vehicle, self._mission.core, inputs, at_s)
        self._execute(effects, at_s)
        if at_s >= self._good_boot_s:
            self._good_boot_s = float("inf")
            self.count_unclean_boots(0)
        self._chronicle.beat(self._vehicle, at_s, self._store_writer)

    def _on_telecommand(self, packet: bytes) -> None:
        # A command that comes before the core is there is lost, and the ground repeats it.
        self._between_frames(executive.accept, packet)

    def _on_sensors(self, frame: SensorFrame) -> None:
        self._between_frames(executive.alarm, frame)

    def _between_frames(self, entrance: Callable[..., tuple[Vehicle, tuple[Effect, ...]]], unit: object) -> None:
        """Hand something that cannot wait to the core, once it is there."""
        if self._failure is not None or not self._booted:
            return
        at_s = now_s()
        try:
            self._vehicle, effects = entrance(self._vehicle, self._mission.core, unit, at_s)
            self._execute(effects, at_s)
        except Exception as error:
            # The event loop called this and would only log it: the next frame raises it.
            self._failure = error

    def _deliver(self, packets: list[bytes]) -> None:
        # On the recorder's thread. At the very end the loop may be gone; the next life plays them back.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._radio.play_back, packets)

    def _on_signal(self, name: str) -> None:
        self._forced = self._stop.is_set()
        self.request_end(name)

    def _execute(self, effects: Iterable[Effect], at_s: float) -> None:
        for effect in effects:
            execute(effect, self._ports, self._boot.record.boot_count, at_s)

    def _recorder_status(self) -> RecorderStatus:
        status = self._recorder.status()
        fault = status.fault or self._store_writer.fault
        radio = self._radio
        return msgspec.structs.replace(
            status, sent=radio.sent, sent_bytes=radio.sent_bytes, playback=radio.playback, fault=fault
        )

    async def _farewell(self) -> None:
        """Let workers checkpoint and go while frames run on; kill what is left."""
        at_s = now_s()
        _log.info("ending: %s", self._stop_reason)
        self._watchdog.stopping(self._stop_reason)
        self._workers.close()
        self._vehicle, effects = executive.shutdown(self._vehicle, self._mission.core, self._stop_reason, at_s)
        self._execute(effects, at_s)
        for job in self._workers.running:
            self._workers.tell(job, Stop())
        await self._frames_until_gone(at_s + self._mission.worker.stop_timeout_s, patient=True)
        for job in self._workers.running:
            reason = "forced end" if self._forced else "did not stop in time"
            _log.warning("job %s is killed: %s", job, reason)
            self._workers.kill(job, reason)
        await self._frames_until_gone(now_s() + REAP_TIMEOUT_S, patient=False)

    async def _frames_until_gone(self, deadline_s: float, *, patient: bool) -> None:
        while self._workers.running and now_s() < deadline_s and not (patient and self._forced):
            self._frame(await self._metronome.wait())

    def _close(self, failure: str) -> None:
        """Commit, write how this life ended, release. A disk that refuses is a line in the log."""
        if fault := self._recorder.close():
            _log.error("%s", fault)
        self._store_writer.close()
        if failure:
            fault = self._chronicle.close("failed", failure)
        else:
            fault = self._chronicle.close(self._end, self._stop_reason)
        if fault:
            _log.error("store: %s", fault)
        # The kernel's timer runs on through a restart: the next life must be there in time.
        self._watchdog.close(orderly=not failure and self._end == "stop")


def _watchdog_device(path: str, timeout_s: int) -> WatchdogDevice | str:
    """The configured device, or why there is none: "" when none is wanted."""
    try:
        return WatchdogDevice(path, timeout_s) if path else ""
    except WatchdogDeviceError as error:
        return str(error)


def load_durable(store: Store) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """What the store has of the core's durable facts, and what is wrong with their copies.

    A bad copy is written anew from the good one at once: two copies are the point of the store.
    """
    found: dict[str, bytes] = {}
    faults: list[str] = []
    for key in DURABLE_KEYS:
        loaded = store.load(key)
        faults += loaded.faults
        if loaded.payload is None:
            continue
        found[key] = loaded.payload
        if loaded.faults and (fault := store.save(key, loaded.payload)):
            faults.append(fault)
    return found, tuple(faults)


def _log_stray(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An exception in a callback of an adapter: told in one line; the adapter's supervisor goes on."""
    _log.error("%s: %r", context.get("message", "event loop"), context.get("exception"))
