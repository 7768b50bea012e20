"""Whole runs in virtual time from a few numbers: ``inproc`` as a command, and as a benchmark of its own speed.

Both measure processor time, which is the same on a busy machine; the benchmark also steps the plant alone, so that
the executive's own share is the difference of the two.
"""

from time import process_time

import msgspec

from .inproc import FRAME_MAX_S, FRAME_MIN_S, ORBIT_S, mission, run_inproc
from .plant.plant import Loads, Plant, PlantConfig


def orbit_benchmark(rate_hz: float) -> tuple[float, float]:
    """Processor seconds of one 95-minute orbit in ``inproc`` at ``rate_hz``, and of its plant alone."""
    plant, frame_s = Plant(seed=1), 1.0 / rate_hz
    config = mission(plant)
    begin_s = process_time()
    run_inproc(config, plant, ORBIT_S, frame_s, seed=1)
    whole_s = process_time() - begin_s
    alone, loads = Plant(seed=1), Loads(gpu_power_w=400.0)
    begin_s = process_time()
    for _ in range(round(ORBIT_S / frame_s)):
        alone.step(frame_s, loads)
        alone.sense()
    return whole_s, process_time() - begin_s


def command(
    orbits: float = 1.0, rate_hz: float = 10.0, seed: int = 1, orbit: str = "leo_550", json: bool = False
) -> int:
    """``hil inproc``: fly and print the evidence, as JSON or as a table; 0 when no limit was broken, else 1.

    Raises ``ValueError`` in one line for an argument out of range.
    """
    if not rate_hz > 0.0:
        raise ValueError(f"rate of {rate_hz:g} Hz: must be {1.0 / FRAME_MAX_S:g} to {1.0 / FRAME_MIN_S:g}")
    plant = Plant(PlantConfig(orbit=orbit, start="demonstrative"), seed=seed)
    begin_s = process_time()
    evidence = run_inproc(mission(plant), plant, orbits * plant.geometry.orbit.period_s, 1.0 / rate_hz, seed)
    cpu_s = process_time() - begin_s
    if json:
        print(msgspec.json.encode(evidence).decode())
    else:
        for name, value in msgspec.structs.asdict(evidence).items():
            if name != "events":
                print(f"{name:24} {value}")
        print(f"{'events':24} {len(evidence.events)}")
        print(f"{'processor_s':24} {cpu_s:.2f}")
    return 0 if evidence.ok else 1
