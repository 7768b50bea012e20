"""The measurement of the integrity kernels works: small sizes, times that can be times."""

import pytest
import scrub
import torch

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "measure",
    [lambda: scrub.scrub(CPU, 1 << 20), lambda: scrub.update(CPU, [(300, 300), (7,)])],
    ids=["digest", "update"],
)
def test_a_figure_is_a_time_beside_that_of_its_baseline(measure):
    timed = measure()
    assert 0 < timed.seconds < 1
    assert 0 < timed.baseline_s < 1
    assert timed.ratio == timed.seconds / timed.baseline_s


def test_there_is_no_product_to_measure_without_a_kernel():
    assert scrub.product(CPU, 8, 8, 8) is None


@pytest.mark.parametrize(("layers", "width", "millions"), [(12, 768, 86), (24, 1024, 304)])
def test_shapes_are_those_of_the_models_that_the_issue_names(layers, width, millions):
    count = sum(torch.Size(shape).numel() for shape in scrub.gpt_shapes(layers, width))
    assert round(count / 1e6) == millions
