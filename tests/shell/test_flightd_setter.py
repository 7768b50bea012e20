"""The daemon and the card's settings: untouched unless asked for, put back however the daemon ends."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flight_bench import Flight

pytestmark = pytest.mark.process

GPU_TESTS = Path(__file__).parents[1] / "gpu"
FRESH = {
    "limit": 700_000, "low": 200_000, "high": 700_000, "locked": 0, "max_clock": 1980, "uuid": "GPU-a", "fail": {},
    "calls": [],
}  # fmt: skip


class Card:
    """The card in a file, and a flight over it."""

    def __init__(self, folder: Path, resources: ExitStack) -> None:
        self.folder, self._resources = folder, resources
        self.file = folder / "card.json"
        self.file.write_text(json.dumps(FRESH))

    @property
    def limit(self) -> int:
        return json.loads(self.file.read_text())["limit"]

    @property
    def calls(self) -> list[Any]:
        return json.loads(self.file.read_text())["calls"]

    def launch(self, **actuators: Any) -> Flight:
        probe = {"source": "nvml", "nvml_module": "file_nvml"}
        sections: dict[str, Any] = {"probe": probe, "worker": {"probe_command": []}}
        if actuators:
            sections["actuators"] = actuators
        flight = Flight(self.folder, "udp", self._resources, **sections)
        self.start(flight)
        return flight

    def start(self, flight: Flight) -> None:
        path = os.pathsep.join([str(GPU_TESTS), os.environ.get("PYTHONPATH", "")])
        flight.start(FILE_NVML=str(self.file), PYTHONPATH=path)


@pytest.fixture
def card(tmp_path: Path) -> Iterator[Card]:
    with ExitStack() as resources:
        yield Card(tmp_path, resources)


def test_by_default_no_setter_is_ever_called(card: Card) -> None:
    flight = card.launch()
    flight.until(lambda: flight.events("WORKER_READY"), what="worker ready")
    flight.until(lambda: len(flight.actuators) > 30, what="frames")
    assert flight.end(signal.SIGTERM) == 0
    assert card.calls == []
    assert "flightd.setter" not in flight.output
    assert not (flight.state / "actuators.saved").exists()


def test_a_limit_is_held_and_put_back_at_an_orderly_end(card: Card) -> None:
    flight = card.launch(power_limit_w=450.0)
    flight.until(lambda: card.limit == 450_000, what="the limit is set")
    assert flight.end(signal.SIGTERM) == 0
    assert card.limit == 700_000
    assert "put back: power_limit 700000 mW" in flight.output


def test_a_limit_is_put_back_when_the_daemon_is_killed(card: Card) -> None:
    flight = card.launch(power_limit_w=450.0)
    flight.until(lambda: card.limit == 450_000, what="the limit is set")
    flight.end(signal.SIGKILL)
    flight.until(lambda: card.limit == 700_000, what="end of file puts it back")
    flight.until(lambda: not (flight.state / "actuators.saved").exists(), what="the file goes")


def test_what_a_killed_setter_left_is_put_back_although_nothing_is_switched_on_any_more(card: Card) -> None:
    card.file.write_text(json.dumps({**FRESH, "limit": 450_000}))
    state = card.folder / "state"
    state.mkdir()
    (state / "actuators.saved").write_text('{"card": "GPU-a", "values": {"power_limit": 700000}, "format": 1}')
    flight = card.launch()
    flight.until(lambda: card.limit == 700_000, what="put back")
    flight.until(lambda: len(flight.actuators) > 10, what="frames")
    assert flight.end(signal.SIGTERM) == 0
    assert not flight.events("ADAPTER_RESTARTED")


def test_a_refused_limit_is_an_event_and_the_daemon_flies_on(card: Card) -> None:
    flight = card.launch(power_limit_w=100.0)
    event = flight.until(lambda: flight.events("ADAPTER_RESTARTED"), what="the refusal is told")[0]
    assert event.fields["adapter"] == "setter"
    assert "allowed are 200000 to 700000" in event.fields["reason"]
    assert flight.end(signal.SIGTERM) == 0
    assert card.calls == []
