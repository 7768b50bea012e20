"""Skyfield over its offline data (JPL DE421): the independent witness for Sun, shadow and passes."""

import warnings
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from skyfield.api import Loader


@pytest.fixture(scope="session")
def sky() -> Iterator[SimpleNamespace]:
    """``planets`` and ``time`` of Skyfield; files are closed at the end."""
    with warnings.catch_warnings():
        # The package warns that its file of earth orientation has expired; only the ephemeris is used.
        warnings.simplefilter("ignore")
        from skyfield_data import get_skyfield_data_path

        load = Loader(get_skyfield_data_path(), verbose=False)
    planets = load("de421.bsp")
    yield SimpleNamespace(planets=planets, time=load.timescale(builtin=True))
    planets.close()
