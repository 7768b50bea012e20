"""R9, the card's own reports: ECC counts and XIDs become events and parameters, whatever the probe sends."""

import msgspec
import pytest
from core_flight import Flight

from flightsw.core import executive, gpu_health
from flightsw.core.getters import GETTERS
from flightsw.core.gpu_health import ECC_REPORT_S, Config, State
from flightsw.core.inputs import GpuSample, Inputs
from flightsw.link.xid import XID_MEANINGS, XID_MILD, xid_meaning

CONFIG = Config(xid_hold_s=60.0)


class Card:
    """Samples of a card and the events that they led to."""

    def __init__(self) -> None:
        self.state, self.number = State(), 0

    def sample(self, now_s: float, **fields: object) -> list[tuple[object, ...]]:
        self.number += 1
        return self._step(GpuSample(sequence=self.number, source="test", **fields), now_s)

    def nothing(self, now_s: float) -> list[tuple[object, ...]]:
        return self._step(None, now_s)

    def _step(self, sample: GpuSample | None, now_s: float) -> list[tuple[object, ...]]:
        self.state, found = gpu_health.step(self.state, CONFIG, sample, now_s)
        return [(event.name, *event.fields.values()) for event in found]


def test_r9_uncorrected_errors_are_reported_at_once_and_history_is_not() -> None:
    card = Card()
    assert card.sample(0.0, ecc_uncorrected=7) == [], "before this daemon"
    assert card.sample(0.2, ecc_uncorrected=7) == []
    assert card.sample(0.4, ecc_uncorrected=9) == [("GPU_ECC", 2, 9)]
    assert card.sample(0.6, ecc_uncorrected=None) == [], "a failed reading is no zero"
    assert card.sample(0.8, ecc_uncorrected=10) == [("GPU_ECC", 1, 10)]
    assert card.sample(1.0, ecc_uncorrected=0) == [], "the driver started again"
    assert card.sample(1.2, ecc_uncorrected=1) == [("GPU_ECC", 1, 1)]
    assert card.sample(1.4, ecc_uncorrected=0) == []
    card.sample(1.6, ecc_uncorrected=5)
    assert card.sample(1.8, ecc_uncorrected=3) == [("GPU_ECC", 3, 3)], "started again, and three errors since"


def test_r9_corrected_errors_are_gathered() -> None:
    card = Card()
    card.sample(0.0, ecc_corrected=100)
    assert card.sample(0.2, ecc_corrected=101) == [("GPU_ECC_CORRECTED", 1, 101)]
    for tick in range(2, 50):
        assert card.sample(0.2 * tick, ecc_corrected=100 + tick) == []
    assert card.nothing(0.2 + ECC_REPORT_S) == [("GPU_ECC_CORRECTED", 48, 149)]
    assert card.nothing(1000.0) == []


def test_r9_each_xid_is_an_event_with_its_meaning() -> None:
    card = Card()
    assert card.sample(0.0, xids=(), xid_count=0) == []
    assert card.sample(0.2, xids=(48, 63, 45), xid_count=3) == [
        ("GPU_XID", 48, "double bit ECC error"),
        ("GPU_XID", 63, "ECC page retirement or row remapping recorded"),
        ("GPU_XID", 45, "preemptive cleanup, due to previous errors"),
    ]
    assert card.sample(0.4, xids=(48, 63, 45), xid_count=3) == []
    assert card.sample(0.6, xids=(48, 63, 45, 999), xid_count=4) == [("GPU_XID", 999, xid_meaning(999))]
    assert card.state.xid_count == 4


def test_r9_xids_that_came_too_fast_are_counted() -> None:
    card = Card()
    card.sample(0.0, xid_count=0)
    assert card.sample(0.2, xids=(61, 62), xid_count=12) == [
        ("GPU_XID_LOST", 10),
        ("GPU_XID", 61, XID_MEANINGS[61]),
        ("GPU_XID", 62, XID_MEANINGS[62]),
    ]
    assert card.state.xid_count == 12


def test_r9_a_probe_that_starts_again_counts_from_zero() -> None:
    card = Card()
    card.sample(0.0, xids=(31, 31, 31), xid_count=3)
    assert card.sample(1.0, xids=(), xid_count=0) == []
    assert card.sample(1.2, xids=(79,), xid_count=1) == [("GPU_XID", 79, "GPU has fallen off the bus")]
    card.number = 0
    assert card.sample(2.0, xids=(13,), xid_count=1) == [("GPU_XID", 13, "graphics engine exception")]
    assert card.state.xid_count == 5


@pytest.mark.parametrize(
    ("reports", "shown"),
    [
        ([(0.0, 48), (0.1, 63), (0.2, 45)], 63),  # Mild ones do not hide what they follow.
        ([(0.0, 45)], 45),
        ([(0.0, 45), (0.1, 31)], 31),
        ([(0.0, 45), (0.1, 48)], 48),
        ([(0.0, 48), (61.0, 45)], 45),
        ([(0.0, 48), (59.0, 45)], 48),
        ([(0.0, 12345), (0.1, 13)], 12345),  # What is not known is grave.
    ],
)
def test_r9_the_xid_shown_is_the_gravest_of_late(reports: list[tuple[float, int]], shown: int) -> None:
    card = Card()
    card.sample(-1.0, xid_count=0)
    for count, (now_s, _number) in enumerate(reports, start=1):
        card.sample(now_s, xids=tuple(n for _, n in reports[:count]), xid_count=count)
    assert card.state.xid == shown
    assert card.nothing(now_s + 60.1) == []
    assert (card.state.xid, card.state.xid_count) == (0, len(reports))


@pytest.mark.parametrize(
    ("fields", "supported"),
    [
        ({"xid_count": 0}, True),
        ({"xid_count": None, "unsupported": ("xid",)}, False),
        ({"xid_count": None}, False),
    ],
)
def test_r9_what_the_card_does_not_tell_is_no_zero(fields: dict[str, object], supported: bool) -> None:
    card = Card()
    card.sample(0.0, **fields)
    assert card.state.xid_supported is supported
    card.sample(0.2, xid_count=2, xids=(13, 13))
    card.sample(0.4, xid_count=None)
    assert card.state.xid_supported, "one failed reading takes nothing back"
    card.sample(0.6, xid_count=None, unsupported=("xid",))
    assert not card.state.xid_supported


@pytest.mark.parametrize(("field", "bad"), [("xid_hold_s", 0.5), ("xid_hold_s", 86_401.0), ("hold", 1.0)])
def test_r9_configuration_out_of_range_is_refused(field: str, bad: float) -> None:
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert({field: bad}, Config)


def test_every_mild_xid_has_a_meaning() -> None:
    assert set(XID_MEANINGS) >= XID_MILD
    assert "catalogue" in xid_meaning(0)


def test_r9_parameters_and_events_of_the_card_in_flight() -> None:
    flight = Flight(executive.Config())
    flight.fly(2.0)
    names = ("gpu.ecc_corrected", "gpu.ecc_uncorrected", "gpu.xid", "gpu.xid_count", "gpu.throttle_reasons")

    def values() -> list[float]:
        return [GETTERS[name](flight.vehicle) for name in names]

    assert all(value != value for value in values()), "this card tells nothing"
    for sequence, ecc, xids in ((1000, 4, ()), (1001, 6, (48, 45))):
        flight.now_s += 0.1
        sample = GpuSample(
            sequence=sequence, source="sim", ecc_corrected=ecc, ecc_uncorrected=1, throttle_reasons=4,
            xids=xids, xid_count=len(xids),
        )  # fmt: skip
        flight.vehicle, effects = executive.step(flight.vehicle, flight.config, Inputs(gpu=sample), flight.now_s)
        flight.effects += effects
    assert values() == [6.0, 1.0, 48.0, 2.0, 4.0]
    assert [name for _, name, _ in flight.events() if name.startswith("GPU_")] == [
        "GPU_XID",
        "GPU_XID",
        "GPU_ECC_CORRECTED",
    ]
