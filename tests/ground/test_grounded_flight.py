"""The ground's largest bench ends whole, whatever fails: no process and no thread is left, the error is told."""

import contextlib
import select
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from grounded_flight import GroundedFlight

from tests.background import Background

pytestmark = pytest.mark.process


class Planted(Exception):
    """The error of a test, or of the world it flies in."""


def fail() -> None:
    raise Planted


def in_the_test(flight: GroundedFlight) -> None:
    fail()


def in_the_world(flight: GroundedFlight) -> None:
    flight.turn = fail  # type: ignore[assignment,method-assign]


@pytest.mark.parametrize("failure", [in_the_test, in_the_world])
def test_a_failure_is_shown_and_leaves_nothing_behind(
    tmp_path: Path, eventually: Callable[..., None], failure: Callable[[GroundedFlight], None]
) -> None:
    before = threading.enumerate()
    flights: list[GroundedFlight] = []

    def fly() -> None:
        with contextlib.ExitStack() as resources:
            flights.append(flight := GroundedFlight(tmp_path, resources))
            with flight.flying() as client:
                eventually(lambda: client.status().contact, 20, "contact")
                failure(flight)

    with pytest.raises(Planted):
        fly()
    (flight,) = flights
    assert threading.enumerate() == before
    assert flight.process is None
    assert not flight.line.path.is_symlink(), "the line is closed"


def test_telemetry_after_the_station_is_gone_has_a_line_to_come_down_on(tmp_path: Path) -> None:
    """The daemon flies on after the station; whoever ends it hears what it says until then."""
    with contextlib.ExitStack() as resources:
        flight = GroundedFlight(tmp_path, resources)
        with flight.flying():
            pass
        assert select.select([flight.radio], [], [], 20.0)[0], "the daemon flies on"
    assert flight.packets


def test_a_thread_that_fails_fails_its_block() -> None:
    with pytest.raises(Planted), Background(fail):
        pass
    with pytest.raises(Planted) as told, Background(fail):
        raise ValueError("first")
    assert isinstance(told.value.__context__, ValueError)
