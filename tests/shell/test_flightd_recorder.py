"""R5, R6, R16 on the real process: events of an earlier boot asked for, the policy set, the link capped."""

import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from flight_bench import Flight

from flightsw.link.dictionary import APID_EVENT, DESTINATION_PLAYBACK
from flightsw.link.schema import FailureCode, Stage

pytestmark = pytest.mark.process

Launch = Callable[..., Flight]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    with ExitStack() as resources:

        def start(**sections: dict[str, Any]) -> Flight:
            flight = Flight(tmp_path, "udp", resources, **sections)
            flight.start()
            return flight

        yield start


def completed(flight: Flight, command: int) -> Any:
    """Its completion report, once there is one."""
    return next((v for v in flight.verifications(command) if v.stage >= Stage.COMPLETION), None)


def test_r5_events_of_an_earlier_boot_are_replayed(launch: Launch) -> None:
    """They were acknowledged long ago: only the ring still has them for us."""
    flight = launch()
    flight.until(lambda: flight.events("WORKER_READY"), what="worker ready")
    for packet in list(flight.packets):
        flight.acknowledge(*packet.identity, packet.seq)
    assert flight.end(signal.SIGKILL) == -signal.SIGKILL
    with closing(sqlite3.connect(flight.state / "recorder.sqlite")) as connection:
        rows = connection.execute("SELECT boot, sequence FROM events").fetchall()
    kept = {(boot, APID_EVENT, sequence) for boot, sequence in rows}
    assert len(kept) >= 3
    flight.packets.clear()
    flight.start()
    flight.until(lambda: flight.events("BOOT", 2), what="second boot")
    command = flight.send("event.replay", count=1000, severity="DIAGNOSTIC")
    done = flight.until(lambda: completed(flight, command), what="replayed")
    assert done.code == FailureCode.NONE
    flight.until(lambda: kept <= {p.identity for p in flight.packets}, what="events of the first boot")
    again = [p for p in flight.packets if p.identity in kept]
    assert {p.packet.destination for p in again} == {DESTINATION_PLAYBACK}
    assert int(done.text.split()[0]) >= len(kept)
    flight.until(lambda: flight.events("EVENTS_REPLAYED"), what="told as an event")


def test_r16_filter_and_quota_are_commanded_and_telemetered(launch: Launch) -> None:
    flight = launch(housekeeping={"slow_interval_s": 1.0})
    flight.until(lambda: flight.newest("slow").get("recorder.hk_fast_share") == 0.5, what="told at boot")
    for name, arguments in (
        ("recorder.filter", {"group": "hk_fast", "keep": 1, "of": 10}),
        ("recorder.quota", {"group": "hk_fast", "share": 0.25}),
        ("hk.request", {"group": "slow"}),
    ):
        command = flight.send(name, **arguments)
        flight.until(lambda c=command: completed(flight, c), what=name)
    flight.until(lambda: flight.newest("slow").get("recorder.hk_fast_share") == 0.25, what="share")
    values = flight.until(
        lambda: (v := flight.newest("slow")).get("tm.filtered", 0) > 5 and v, what="packets that are not recorded"
    )
    assert values["recorder.hk_fast_kept_fraction"] == 0.1
    assert values["recorder.ring"] >= 1
    assert values["recorder.full"] == 0.0
    assert values["recorder.event_mb"] > 0.0


def test_r6_a_slow_radio_is_not_overrun(launch: Launch) -> None:
    """At 9,600 bit/s housekeeping at the control rate does not fit: events and verification do."""
    rate_bps = 9600
    flight = launch(radio={"rate_bps": rate_bps}, housekeeping={"slow_interval_s": 2.0})
    flight.until(lambda: flight.events("WORKER_READY"), what="worker ready")
    flight.until(lambda: flight.newest("slow").get("link.utilisation_fraction", 0) > 0.5, 40.0, "measured")
    values = flight.newest("slow")
    # The first window also has what the bucket had saved up.
    assert values["link.utilisation_fraction"] <= 1.3
    assert values["tm.deferred"] > 50
    uptime_s = values["uptime_s"]
    octets = sum(len(p.packet.body) for p in flight.packets)
    assert octets * 8 < rate_bps * (uptime_s + 3.0)
    events = [p for p in flight.packets if p.packet.apid == APID_EVENT]
    assert all(p.packet.destination != DESTINATION_PLAYBACK for p in events[:5])
