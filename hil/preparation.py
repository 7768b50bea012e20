"""Preparation of a run: a scenario and the operator's options become everything a flight begins with.

Here are the orbit and its forecast, the run folder, the daemon's mission file, and the instants of faults and
telecommands. Nothing is started: a flight that cannot be flown ends here with one line.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from flightsw.link.card import Profile
from flightsw.shell.card_profile import SHIPPED, ProfileError, load_profile

from .devices import choose
from .evidence import BenchHealth, Evidence, FaultRecord
from .faults import Fault, Surroundings, make_fault
from .machine import commit, machine, versions
from .mission import INFER, TRAIN, MissionPlan, OrbitNumbers, Scalar, render
from .operator import Order
from .plant.eps import EpsConfig
from .plant.plant import Plant, PlantConfig
from .plant.stations import DEFAULT_STATIONS
from .plant.windows import Forecast
from .randomness import stream
from .scenario import DeviceChoice, Interval, Scenario, Unavailable, resolve
from .wires import LinkKind

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


class Preparation:
    """What a run is made of, resolved."""

    def __init__(self, options: Options, announce: Callable[[str], None]) -> None:
        """Raises ``BenchError``, ``DeviceError`` or ``ScenarioError``; ``announce`` takes lines to display."""
        self._announce = announce
        scenario = options.scenario
        self.scenario = scenario
        self.seed = scenario.seed if options.seed is None else options.seed
        self.link = options.link or scenario.link
        self.warp = options.warp or scenario.warp
        self.choice = choose(options.device or scenario.device)
        orbit = options.orbit or scenario.orbit
        self.plant = self._make_plant(orbit)
        period_s = self.plant.geometry.orbit.period_s
        self.run: Interval = (0.0, scenario.duration_orbits * period_s)
        self._period_s = period_s
        self.forecast = self.plant.forecast(self.run[1])
        self._passes: list[Interval] = [(w.start_s, w.end_s) for w in self.forecast.contacts]
        self.folder = options.out / "run"
        self.card = self._load_card()

    def evidence(self) -> Evidence:
        """The run's evidence as it is before anything has flown."""
        return Evidence(
            scenario=self.scenario,
            seed=self.seed,
            link=self.link,
            device=self.choice.device,
            card="",
            orbit=self.plant.geometry.orbit.name,
            orbit_period_s=self._period_s,
            warp=self.warp,
            started_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=machine(),
            versions=versions(),
            commit=commit(),
            run=self.run,
            passes=[(p.start_s, p.end_s, p.station) for p in self.forecast.passes],
            faults=[],
            health=BenchHealth(faults=[]),
        )

    def _load_card(self) -> Profile:
        """The profile that the mission file names, which the simulated card follows."""
        name = str(self.scenario.mission.get("card", {}).get("profile", SHIPPED))
        try:
            return load_profile(name, self.folder)
        except ProfileError as error:
            raise BenchError(str(error)) from None

    def _make_plant(self, orbit: str) -> Plant:
        scenario = self.scenario
        try:
            return Plant(
                PlantConfig(
                    orbit=orbit,
                    start=scenario.start,
                    stations=tuple(scenario.stations) or DEFAULT_STATIONS,
                    eps=EpsConfig(initial_soc_fraction=scenario.soc_start),
                ),
                seed=self.seed,
            )
        except ValueError as error:
            raise BenchError(str(error)) from None

    def make_folder(self) -> Path:
        """A fresh run folder. Returns that of wires and sockets, elsewhere when its path is too long or odd."""
        try:
            shutil.rmtree(self.folder, ignore_errors=True)
            (self.folder / "meters").mkdir(parents=True)
        except OSError as error:
            raise BenchError(f"{self.folder}: {error.strerror}; take another --out") from None
        near = (self.folder / "wires").absolute()
        fits = len(str(near)) <= ENDPOINT_PATH_MAX and "@" not in str(near)
        ends = near if fits else Path(tempfile.mkdtemp(prefix="gpusat-"))
        ends.mkdir(exist_ok=True)
        return ends

    def jobs(self, meters: Mapping[str, Path]) -> tuple[dict[str, Scalar], ...]:
        """The training job and, if the scenario has one, the inference job, as the mission file names them."""
        payload, device = self.scenario.payload, self.choice.device
        preset = payload.preset if payload.preset != "auto" else ("char" if device == "cuda" else "tiny")
        seed = self.seed if payload.seed is None else payload.seed
        train: dict[str, Scalar] = {
            "kind": "train",
            "id": TRAIN,
            "preset": preset,
            "device": device,
            "seed": seed,
            "meter": str(meters[TRAIN]),
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
            "meter": str(meters[INFER]),
        }
        return train, infer

    def _orbit_numbers(self) -> OrbitNumbers:
        """Period and the first whole eclipse of the next two orbits, as orbit determination would give them."""
        later: Forecast = self.plant.forecast(2.0 * self._period_s)
        whole = [w for w in later.eclipses if w.start_s > later.start_s and w.end_s < later.end_s]
        first = whole[0] if whole else None
        return OrbitNumbers(
            period_s=round(self._period_s, 3),
            eclipse_s=round(first.duration_s, 3) if first else 0.0,
            eclipse_entry_s=round(first.start_s, 3) if first else None,
        )

    def write_mission(
        self, jobs: tuple[dict[str, Scalar], ...], avionics: str, radio: str, nvml_module: str
    ) -> Path:
        """Write the daemon's mission file, with the endpoints of its two wires."""
        limits = self.scenario.invariants
        plan = MissionPlan(
            name=f"hil-{self.scenario.name}",
            state_dir=str((self.folder / "state").absolute()),
            avionics=avionics,
            radio=radio,
            radio_bps=int(self.scenario.radio.downlink_bps * RADIO_SHARE),
            nvml_module=nvml_module,
            checkpoint_interval_s=self.scenario.payload.checkpoint_interval_s,
            warp=self.warp,
            orbit=self._orbit_numbers(),
            soc_floor=limits.soc_floor,
            gpu_temp_limit_degc=limits.gpu_temp_limit_degc,
            radiator_temp_limit_degc=limits.radiator_temp_limit_degc,
            jobs=jobs,
            overrides=self.scenario.mission,
        )
        path = self.folder / "mission.toml"
        path.write_text(render(plan), encoding="utf-8")
        return path

    def make_faults(self, around: Surroundings) -> tuple[list[Fault], list[FaultRecord]]:
        """The scenario's faults, and a record of each, also of those that do not apply to this run."""
        faults: list[Fault] = []
        records: list[FaultRecord] = []
        for plan in self.scenario.faults:
            instants = self._instants(plan.when, f"fault.{plan.id}")
            if isinstance(instants, Unavailable):
                record = FaultRecord(id=plan.id, kind=plan.kind, not_applicable=instants.reason, evidence={})
                records.append(record)
                self._announce(f"fault {plan.id} does not apply: {instants.reason}")
                continue
            for number, planned_s in enumerate(instants):
                name = plan.id if len(instants) == 1 else f"{plan.id}-{number + 1}"
                rng = stream(self.seed, f"fault.{name}.choice")
                fault = make_fault(msgspec.structs.replace(plan, id=name), planned_s, rng, around)
                faults.append(fault)
                records.append(fault.record)
        return faults, records

    def orders(self) -> list[Order]:
        """What the bench's operator sends, and when."""
        orders: list[Order] = []
        for plan in self.scenario.telecommands:
            instants = self._instants(plan.when, f"telecommand.{plan.id}")
            if isinstance(instants, Unavailable):
                self._announce(f"telecommand {plan.id} does not apply: {instants.reason}")
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
        eclipses = [(w.start_s, w.end_s) for w in self.forecast.eclipses]
        return resolve(when, self.seed, stream_name, self.run, self._passes, eclipses)
