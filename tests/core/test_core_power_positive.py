"""Power-positive SAFE: the balance of an orbit, and what a configuration without one is told."""

import pytest

from flightsw.core import eps, executive, parameter_set
from flightsw.core.power_positive import Config, balance, check
from flightsw.link.errors import TableError

POWER = eps.Config()


def test_the_worst_case_of_the_nominal_satellite() -> None:
    """Array at 85 % and 85 % of that, 36 min of eclipse, bus 30 % over, transmitter on: by hand."""
    orbit = balance(Config(), POWER)
    assert (orbit.load_w, orbit.eclipse_s) == (60.0 * 1.3 + 10.0, 2160.0)
    assert orbit.array_w == pytest.approx(1200.0 * 0.85 * 0.85)
    assert orbit.out_wh == pytest.approx(88.0 * 2160.0 / 0.95 / 3600.0)
    # The charge limit, not the array, bounds what goes in.
    assert orbit.in_wh == pytest.approx(0.95 * 350.0 * 3540.0 / 3600.0)
    assert orbit.margin_wh == pytest.approx(271.4, abs=0.1)
    # An idle card on top would be carried, too.
    assert balance(Config(), POWER, gpu_w=80.0).margin_wh == pytest.approx(220.9, abs=0.1)


@pytest.mark.parametrize(
    ("changes", "worst", "positive"),
    [
        ({}, {}, True),
        ({"array_power_w": 100.0}, {}, False),
        ({"array_power_w": 210.0}, {}, True),
        ({"array_power_w": 195.0}, {}, False),
        ({"array_power_w": 195.0}, {"array_end_of_life": 1.0}, True),
        ({"array_power_w": 0.0}, {}, False),
        ({"bus_power_w": 400.0}, {}, False),
        ({"bus_power_w": 0.0, "transmitter_power_w": 0.0}, {}, True),
        ({"charge_power_max_w": 50.0}, {}, False),
        ({"eclipse_s": 5000.0}, {}, False),
        # Longer than the orbit: always dark.
        ({}, {"eclipse_worst_s": 9000.0}, False),
        ({}, {"margin_wh": 300.0}, False),
        ({"capacity_wh": 60.0}, {}, False),
    ],
)
def test_configurations(changes: dict[str, float], worst: dict[str, float], positive: bool) -> None:
    config, power = Config(**worst), eps.Config(**changes)
    if positive:
        check(config, power)
        return
    with pytest.raises(ValueError, match=r"^SAFE (is not power positive|empties the battery): [^\n]*$"):
        check(config, power)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"array_power_w": 150.0}, r"SAFE is not power positive: 88 W with the GPU off, 108 W of array for 3540 s"),
        (
            {"capacity_wh": 60.0},
            r"SAFE empties the battery: .* 55.6 Wh; eps.soc_safe = 0.701 of eps.capacity_wh = 60",
        ),
    ],
)
def test_a_vehicle_that_is_not_power_positive_is_refused(changes: dict[str, float], message: str) -> None:
    """At load, and when parameters are changed in flight."""
    with pytest.raises(ValueError, match=message):
        executive.Config(eps=eps.Config(**changes))
    with pytest.raises(TableError, match=message):
        parameter_set.build(executive.Config(), {f"eps.{key}": value for key, value in changes.items()})
