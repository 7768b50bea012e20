"""Margins grow with what is not known, and never fall under what the loop needs."""

import pytest

from flightsw.core.margins import Margins, margins

CONTROL = Margins(soc=0.001, gpu_k=0.5, radiator_k=0.25)


@pytest.mark.parametrize(
    ("z", "sigmas", "expected"),
    [
        (0.0, (0.003, 0.3, 0.3), CONTROL),
        (3.5, (0.0, 0.0, 0.0), CONTROL),
        (3.5, (0.002, 0.3, 0.1), Margins(soc=0.008, gpu_k=1.55, radiator_k=0.6)),
    ],
)
def test_margins(z: float, sigmas: tuple[float, float, float], expected: Margins) -> None:
    found = margins(z, CONTROL, *sigmas)
    assert (found.soc, found.gpu_k, found.radiator_k) == pytest.approx(
        (expected.soc, expected.gpu_k, expected.radiator_k)
    )
