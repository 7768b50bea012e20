"""The far ends of the wires, and the tick that moves the world behind them.

    avionics wire   ◄── sensors of the plant, ──► switches of the computer
    radio wires     satellite ◄── channel ──► station

World time is machine time times warp. The world only ever advances in the tick; when the machine was too busy for a
tick, the world is held back and the slip is counted: a bench that cannot keep its time says so.
"""

import math
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from flightsw.link import avionics
from flightsw.link.errors import LinkError

from .channel import Channel
from .devices import Instrument
from .evidence import BenchHealth, TruthLog
from .plant.plant import Loads
from .preparation import Preparation
from .randomness import stream
from .wires import make_wire

TICK_S: Final = 0.05
TICK_MAX_S: Final = 0.25
ACTUATOR_SILENCE_S: Final = 2.0
"""Silence of the computer after which the power board drops the GPU's rail, machine seconds."""


class FarEnds:
    """Plant and channel at their wires. The card's ``instrument`` is given before the first tick."""

    instrument: Instrument

    def __init__(self, plan: Preparation, ends: Path, health: BenchHealth) -> None:
        """Make the wires in the folder ``ends``."""
        self._avionics = make_wire(plan.link, ends, "avionics")
        self._radio = make_wire(plan.link, ends, "radio-satellite")
        self._station_wire = make_wire(plan.link, ends, "radio-station")
        self._wires = (self._avionics, self._radio, self._station_wire)
        self.avionics_endpoint = self._avionics.endpoint
        self.radio_endpoint = self._radio.endpoint
        self.station_endpoint = self._station_wire.endpoint
        radio = plan.scenario.radio
        self.channel = Channel(radio, stream(plan.seed, "channel.down"), stream(plan.seed, "channel.up"))
        self.truth = TruthLog()
        self.actuators_seen = 0
        self._plant, self._warp, self._health = plan.plant, plan.warp, health
        self._rail_wanted = False
        self._soc_told = plan.plant.truth().soc_fraction
        self._transmitter_on = False
        self._actuators_at_s = -math.inf

    def close(self) -> None:
        """Close the wires."""
        for wire in reversed(self._wires):
            wire.close()

    def send_sensors(self, *, radio_lock: bool) -> None:
        """Read the plant's sensors and send them to the daemon; nothing while they are silent."""
        frame = self._plant.sense(warp=self._warp, radio_lock=radio_lock)
        if frame is not None:
            self._avionics.send(avionics.encode(frame))
            self._soc_told = frame.soc_fraction

    def ticks(self, log: bool = True) -> Iterator[float]:
        """Advance the world once per ``TICK_S``, serving the wires in between; yields machine time."""
        last_s = time.monotonic()
        due_s = last_s + TICK_S
        while True:
            self.serve_until(due_s)
            now_s = time.monotonic()
            health = self._health
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
        gpu_w = self.instrument.power_w(dt_s, now_s, rail_on)
        if gpu_w is None:
            fault = "the power meter of the card gave no reading"
            if fault not in self._health.faults:
                self._health.faults.append(fault)
            gpu_w = self._plant.truth().gpu_rail_power_w
        loads = Loads(gpu_power_w=gpu_w, gpu_rail_on=rail_on, transmitter_on=self._transmitter_on)
        truth = self._plant.step(dt_s * self._warp, loads)
        self.instrument.show(truth)
        self.channel.locked = truth.in_contact
        self.send_sensors(radio_lock=truth.in_contact)
        if log:
            self.truth.add(
                {
                    "world_s": truth.world_s,
                    "machine_s": now_s,
                    "sun_fraction": truth.sun_fraction,
                    "array_power_w": truth.array_power_w,
                    "gpu_power_w": truth.gpu_rail_power_w,
                    "bus_power_w": truth.load_power_w - truth.gpu_rail_power_w,
                    "soc_fraction": truth.soc_fraction,
                    "soc_reading": self._soc_told,
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

    def serve_until(self, until_s: float) -> None:
        """Serve the wires and the channel until ``until_s``, at least once."""
        while True:
            now_s = time.monotonic()
            self._serve(now_s)
            timeout_s = min(until_s, self.channel.due_s()) - time.monotonic()
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
                self.actuators_seen += 1
        for unit in self._radio.receive():
            self.channel.down.offer(unit, now_s)
        for unit in self._station_wire.receive():
            self.channel.up.offer(unit, now_s)
        for unit in self.channel.downlink(now_s):
            self._station_wire.send(unit)
        for unit in self.channel.uplink(now_s):
            self._radio.send(unit)
        for wire in self._wires:
            wire.flush()
