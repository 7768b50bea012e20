"""Card profiles: the curve both ways, and every rule of the format refused when it is broken."""

import math

import msgspec
import pytest

from flightsw.link.card import REFERENCE, Alias, Profile, Setting, Stop, Workload, linear, reference_workload

CHECK_VALUES = (
    (80, 0.0),
    (150, 0.173),
    (200, 0.296),
    (300, 0.540),
    (400, 0.708),
    (500, 0.827),
    (600, 0.921),
    (700, 1),
)
"""Power-thermal-orbit reference, section 6.2."""


@pytest.mark.parametrize(("power_w", "throughput"), CHECK_VALUES)
def test_reference_curve(power_w: float, throughput: float) -> None:
    assert reference_workload(points=200).throughput_at(power_w) == pytest.approx(throughput, abs=6e-4)


@pytest.mark.parametrize("points", [2, 16, 60])
def test_both_directions_agree(points: int) -> None:
    curve = reference_workload(points=points)
    for power_w in range(80, 701, 20):
        assert curve.power_at(curve.throughput_at(power_w)) == pytest.approx(power_w, abs=1e-6)


def test_outside_the_curve_is_its_end() -> None:
    curve = reference_workload()
    assert (curve.throughput_at(0.0), curve.throughput_at(900.0)) == (0.0, 1.0)
    assert (curve.power_at(-1.0), curve.power_at(2.0)) == (80.0, 700.0)
    assert math.isnan(curve.throughput_at(math.nan))


REFUSED = {
    "not equally many": ((80.0, 300.0, 700.0), (0.0, 1.0), "equally many"),
    "does not begin at 0": ((80.0, 700.0), (0.1, 1.0), "from 0 to 1"),
    "does not end at 1": ((80.0, 700.0), (0.0, 0.9), "from 0 to 1"),
    "power falls": ((80.0, 300.0, 200.0), (0.0, 0.5, 1.0), "must both rise"),
    "throughput stands": ((80.0, 300.0, 400.0), (0.0, 1.0, 1.0), "must both rise"),
    "not concave": ((80.0, 400.0, 500.0), (0.0, 0.2, 1.0), "rises there"),
}


@pytest.mark.parametrize(("power_w", "throughput", "why"), REFUSED.values(), ids=REFUSED)
def test_bad_curve_is_refused(power_w: tuple[float, ...], throughput: tuple[float, ...], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Workload(power_w=power_w, throughput=throughput)


@pytest.mark.parametrize(("idle_w", "maximum_w"), [(80.0, 280.0), (80.0, math.nan)])
def test_a_card_too_small_for_the_reference_curve(idle_w: float, maximum_w: float) -> None:
    with pytest.raises(ValueError, match="over 200 W"):
        reference_workload(idle_w, maximum_w)


def test_profile_round_trip() -> None:
    profile = Profile(card="test", provenance="assumed", train=reference_workload())
    assert msgspec.json.decode(msgspec.json.encode(profile), type=Profile) == profile


@pytest.mark.parametrize(("idle_w", "maximum_w"), [(40.0, 350.0), (80.0, 500.0), (60.0, 1000.0)])
def test_rescaled_keeps_the_shape(idle_w: float, maximum_w: float) -> None:
    curve = REFERENCE.train.rescaled(idle_w, maximum_w)
    assert (curve.idle_w, curve.maximum_w) == (idle_w, maximum_w)
    for power_w in range(80, 701, 31):
        same_w = idle_w + (power_w - 80.0) * (maximum_w - idle_w) / 620.0
        assert curve.throughput_at(same_w) == pytest.approx(REFERENCE.train.throughput_at(power_w))


def test_rescaled_to_its_own_ends_is_the_curve_itself() -> None:
    assert REFERENCE.train.rescaled(80.0, 700.0) is REFERENCE.train


def test_the_straight_line_promises_no_more_than_any_curve() -> None:
    line = linear(80.0, 700.0)
    for power_w in range(81, 700, 7):
        assert line.throughput_at(power_w) == pytest.approx((power_w - 80.0) / 620.0)
        assert line.throughput_at(power_w) < REFERENCE.train.throughput_at(power_w)


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("NVIDIA H100 80GB HBM3", True),
        (" nvidia  H100 80GB hbm3", True),
        ("NVIDIA H100", True),
        ("Simulated GPU (hil)", True),
        ("NVIDIA H200", False),
        ("NVIDIA H100 NVL", False),
        ("", False),
    ],
)
def test_a_profile_knows_its_card_by_name(name: str, fits: bool) -> None:
    assert REFERENCE.fits(name) is fits


def test_what_was_measured_travels_with_the_profile() -> None:
    setting = Setting(duty=0.5, batch=8, sms=64, power_w=310.0, throughput=0.4, power_sigma_w=3.0)
    profile = msgspec.structs.replace(
        REFERENCE,
        train=msgspec.structs.replace(REFERENCE.train, settings=(setting,)),
        stops=(Stop(kernel_s=0.01, p50_s=0.006, worst_s=0.012, count=20),),
        aliases=(Alias(period_s=0.1, bias_w=-80.0, scatter_w=4.0),),
    )
    assert msgspec.json.decode(msgspec.json.encode(profile), type=Profile) == profile
