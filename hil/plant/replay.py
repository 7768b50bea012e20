"""The replay engine: a recording behind the same interface as the engines that compute.

    plant = ReplayPlant(read_record(path))
    plant.step(1.0, Loads(gpu_power_w=300.0))       # the row that held at that time

Between two rows the earlier one holds. What the loads ask for changes nothing: the world is over. So the engine
says what it could not follow (``remarks``): how many steps asked for another GPU power than was recorded. Faults of
sensors act, because a recording is of truth and sensors read it; every other fault is refused. A forecast is what
the record has ahead, and both end where it ends.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from flightsw.link.avionics import SensorFrame

from .disturbances import SENSOR_FAULTS, FaultTable, checked_fault, known_fault
from .engine import Loads, check_step
from .radiation import SAA_FLUX_CM2_S
from .recording import Record, read_record
from .sensors import SENSOR_NAMES, SensorSuite
from .truth import Truth
from .windows import HORIZON_MAX_S, Forecast, Pass, intervals, union

SAME_POWER_W: Final = 1.0
"""Loads nearer to the recorded ones than this are the recorded ones."""
TIME_ROUNDING_S: Final = 1e-6


class ReplayPlant:
    """Plays a record. Not thread-safe."""

    def __init__(self, record: Record, seed: int = 0, sensor_noise: float = 1.0) -> None:
        """``seed`` and ``sensor_noise`` are those of the sensors that look at the record."""
        self._record = record
        self._world_s = record.start_s
        self._truth = record.truth(0)
        self._sensors = SensorSuite(seed, sensor_noise)
        self._faults = FaultTable()
        self._steps = self._unfollowed = 0
        self._furthest_w = 0.0

    @classmethod
    def of(cls, path: Path, seed: int = 0) -> "ReplayPlant":
        """Plays a file; ``ValueError`` with one line when it cannot be read or played."""
        return cls(read_record(path), seed)

    @property
    def remarks(self) -> str:
        """What the recording could not follow."""
        text = f"replay of {self._record.source}: loads change nothing"
        if self._unfollowed:
            text += (
                f"; {self._unfollowed} of {self._steps} steps asked for another GPU power than was recorded, "
                f"by up to {self._furthest_w:.0f} W"
            )
        return text

    def truth(self) -> Truth:
        """State after the last step."""
        return self._truth

    def step(self, dt_s: float, loads: Loads) -> Truth:
        """Go on by ``dt_s`` seconds; ``ValueError`` past the record's end, or as every engine."""
        check_step(dt_s, loads)
        world_s, record = self._world_s + dt_s, self._record
        if world_s > record.end_s + TIME_ROUNDING_S:
            raise ValueError(f"replay of {record.source}: ends at {record.end_s:g} s, {world_s:g} s was asked for")
        self._world_s = world_s
        self._truth = truth = record.truth(record.index(world_s + TIME_ROUNDING_S))
        asked_w = loads.gpu_power_w if loads.gpu_rail_on else 0.0
        apart_w = abs(asked_w - truth.gpu_rail_power_w)
        self._steps += 1
        if not apart_w <= SAME_POWER_W:
            self._unfollowed += 1
            self._furthest_w = max(self._furthest_w, apart_w)
        return truth

    def sense(self, *, warp: float = 1.0, radio_lock: bool = False) -> SensorFrame | None:
        """One sample of every sensor; None while the sensors are silent."""
        return self._sensors.frame(self._truth, warp=warp, radio_lock=radio_lock)

    def inject(self, fault_name: str, **parameters: float | str) -> None:
        """Switch a fault of a sensor on; ``ValueError`` for any other, whose world is over."""
        known_fault(fault_name)
        if fault_name not in SENSOR_FAULTS:
            raise ValueError(
                f"plant fault {fault_name}: a replay cannot be disturbed, it takes only {', '.join(SENSOR_FAULTS)}"
            )
        key, value = checked_fault(fault_name, parameters, {"sensor": SENSOR_NAMES})
        self._faults.active[key] = value
        self._sensors.apply(self._faults)

    def clear(self, fault_name: str) -> None:
        """Switch a fault off; one that is not on stays off. ``ValueError`` for an unknown name."""
        self._faults.clear(fault_name)
        self._sensors.apply(self._faults)

    @property
    def faults(self) -> Mapping[str, float]:
        """Active faults by key, with their number."""
        return dict(self._faults.active)

    def forecast(self, horizon_s: float) -> Forecast:
        """What the record has ahead; ``ValueError`` for a horizon past its end, or as every engine."""
        start_s, record = self._world_s, self._record
        if not 0.0 < horizon_s <= HORIZON_MAX_S:
            raise ValueError(f"forecast horizon {horizon_s:g} s: must be over 0 and at most {HORIZON_MAX_S:.0f}")
        end_s = start_s + horizon_s
        if end_s > record.end_s + TIME_ROUNDING_S:
            raise ValueError(
                f"replay of {record.source}: ends at {record.end_s:g} s, a forecast to {end_s:g} s was asked for"
            )
        passes = self._passes(start_s, end_s)
        return Forecast(
            start_s=start_s,
            end_s=end_s,
            eclipses=intervals(lambda t: 0.5 - record.number("sun_fraction", record.index(t)), start_s, end_s),
            passes=tuple(passes),
            contacts=union(passes),
            anomalies=intervals(
                lambda t: record.number("proton_flux_cm2_s", record.index(t)) - SAA_FLUX_CM2_S, start_s, end_s
            ),
        )

    def _passes(self, start_s: float, end_s: float) -> list[Pass]:
        record = self._record
        rows = range(record.index(start_s), record.index(end_s) + 1)
        seen = [dict(record.cells("visible", row)) for row in rows]
        passes = []
        for station in sorted({name for row in seen for name in row}):
            # A row holds until the next one.
            begin_s, highest = None, 0.0
            for row, there in zip(rows, seen, strict=True):
                at_s = max(start_s, record.times_s[row])
                if station in there:
                    begin_s = at_s if begin_s is None else begin_s
                    highest = max(highest, there[station])
                elif begin_s is not None:
                    passes.append(Pass(station=station, start_s=begin_s, end_s=at_s, elevation_max_deg=highest))
                    begin_s, highest = None, 0.0
            if begin_s is not None:
                passes.append(Pass(station=station, start_s=begin_s, end_s=end_s, elevation_max_deg=highest))
        passes.sort(key=lambda p: (p.start_s, p.station))
        return passes
