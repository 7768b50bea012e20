"""How fast virtual time is: one orbit of executive and plant in this process, and the plant alone.

Processor time is measured, which is the same on a busy machine; the executive's own share is the difference of the
two.
"""

from time import process_time

from .inproc import ORBIT_S, mission, run_inproc
from .plant.plant import Loads, Plant


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
