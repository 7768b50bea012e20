"""The embedded engine's speed, with room for a busy machine; `make bench` reports the figure itself."""

from hil.plant.plant import Plant
from hil.plant.presets import FULL
from hil.plant.speed import reference_orbit, reference_times_real, times_real


def test_stepwise_from_python_it_is_fast_enough():
    """100,000 times real time is the requirement; half of it is the alarm."""
    assert times_real(repeats=3) > 50_000
    assert times_real(FULL, repeats=2) > 20_000


def test_the_baseline_is_a_plant_and_faster():
    assert 0.5 < reference_orbit() < 1.0
    assert reference_times_real(repeats=2) > 200_000


def test_what_is_not_read_is_not_worked_out():
    """The place of a step costs nothing until it is read, and is then that of its own instant."""
    from hil.plant.engine import Loads

    plant, twin = Plant(), Plant()
    kept = [plant.step(10.0, Loads()) for _ in range(50)]
    read = [(t.latitude_deg, t.longitude_deg, t.visible) for t in (twin.step(10.0, Loads()) for _ in range(50))]
    assert [(t.latitude_deg, t.longitude_deg, t.visible) for t in reversed(kept)] == read[::-1]
