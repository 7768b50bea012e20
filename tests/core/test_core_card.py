"""The card of the profile and the card that the probe reads: a mismatch is told, the straight line flown."""

import pytest
from core_flight import Flight

from flightsw.core import card, executive
from flightsw.core.inputs import GpuSample
from flightsw.link.card import REFERENCE, linear

H200 = "NVIDIA H200"


def sample(number: int, name: str) -> GpuSample:
    return GpuSample(sequence=number, source="nvml", card=name, power_w=100.0)


# (names that the probe tells, what is said, whether the profile's curve is flown in the end)
CASES = {
    "the profile's own": (["NVIDIA H100 80GB HBM3"], [], True),
    "no name": (["", ""], [], True),
    "another model": ([H200], [H200], False),
    "another model, many samples": ([H200] * 5, [H200], False),
    "a sample without a name changes nothing": ([H200, "", ""], [H200], False),
    "the right card after the wrong one": ([H200, "NVIDIA H100"], [H200], True),
    "two wrong ones": ([H200, "NVIDIA A100"], [H200, "NVIDIA A100"], False),
}


@pytest.mark.parametrize(("names", "told", "fits"), CASES.values(), ids=CASES)
def test_a_name_is_judged_once(names: list[str], told: list[str], fits: bool) -> None:
    state, said = card.State(), []
    for number, name in enumerate(names):
        state, found = card.step(state, REFERENCE, sample(number, name))
        said += [(event.name, event.fields["card"], event.fields["profile"]) for event in found]
        assert card.step(state, REFERENCE, None) == (state, ())
    assert said == [("CARD_MISMATCH", name, REFERENCE.card) for name in told]
    flown = card.curve(state, REFERENCE, 90.0, 650.0)
    assert flown == (REFERENCE.train.rescaled(90.0, 650.0) if fits else linear(90.0, 650.0))


def test_a_flight_with_another_card_says_so_with_both_names() -> None:
    flight = Flight(executive.Config())
    flight.frame()
    assert flight.events("CARD_MISMATCH") == []
    flight.gpu_override = sample(50, H200)
    for _ in range(3):
        flight.frame()
    (event,) = flight.events("CARD_MISMATCH")
    assert event[2] == {"card": H200, "profile": "NVIDIA H100 80GB HBM3"}
    assert flight.vehicle.card == card.State(name=H200, fits=False)
