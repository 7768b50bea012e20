"""What outlives a restart of the real daemon, and the restarts that it orders itself (R11, R13)."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flight_bench import Flight

from flightsw.link.schema import Mode, Stage
from flightsw.shell.store import Store

pytestmark = pytest.mark.process

Launch = Callable[..., Flight]
QUICK = {"housekeeping": {"slow_interval_s": 1.0}}


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    with ExitStack() as resources:

        def start(**sections: dict[str, Any]) -> Flight:
            flight = Flight(tmp_path, "udp", resources, **{**QUICK, **sections})
            flight.start()
            return flight

        yield start


def done(flight: Flight, name: str, **arguments: Any) -> None:
    command = flight.send(name, **arguments)
    flight.until(lambda: any(v.stage == Stage.COMPLETION for v in flight.verifications(command)), what=name)


def test_r13_safe_outlives_a_kill_of_the_daemon(launch: Launch) -> None:
    flight = launch()
    flight.until(lambda: flight.events("WORKER_READY"), what="worker ready")
    done(flight, "mode.set", mode="SAFE")
    path = flight.state / "vehicle.b"
    flight.until(path.exists, what="SAFE is on the disk")
    flight.end(signal.SIGKILL)
    flight.start()
    flight.until(lambda: flight.events("BOOT", 2), what="second boot")
    flight.until(lambda: flight.newest("main").get("mode") == Mode.SAFE, what="SAFE again")
    assert not flight.events("WORKER_READY", 2)
    done(flight, "mode.set", mode="NOMINAL")
    flight.until(lambda: flight.events("WORKER_READY", 2), what="worker ready again")


def test_r13_a_torn_copy_is_told_and_an_unreadable_fact_is_refused(launch: Launch) -> None:
    flight = launch()
    flight.until(lambda: flight.newest("main"), what="telemetry")
    flight.end(signal.SIGTERM)
    (flight.state / "vehicle.a").write_bytes(b"torn")
    flight.start()
    fault = flight.until(lambda: flight.events("STORE_FAULT", 2), what="fault reported")[0]
    assert "vehicle.a: corrupt copy" in str(fault.fields["reason"])
    flight.end(signal.SIGTERM)
    assert Store(flight.state).save("vehicle", b"\xc1 no map") == ""
    flight.start()
    refused = flight.until(lambda: flight.events("DURABLE_REFUSED", 3), what="refusal reported")[0]
    assert refused.fields["key"] == "vehicle"
    flight.until(lambda: flight.events("WORKER_READY", 3), what="it flies on with the defaults")


def test_r11_a_mandatory_adapter_that_stays_failed_restarts_the_daemon_twice_then_safe(launch: Launch) -> None:
    flight = launch(
        avionics={"endpoint": "serial:/dev/ttyNOT"},
        supervisor={"backoff_first_s": 0.05, "backoff_max_s": 0.1, "restarts_max": 2},
        ladder={"adapter_failed_s": 1.0},
        mode={"stale_safe_s": 60.0},
    )
    for boot in (2, 3):
        life = flight.until(lambda b=boot: flight.events("BOOT", b), 30.0, f"boot {boot}")[0]
        assert life.fields["cause"] == "restart by the ladder"
    flight.until(lambda: flight.events("LADDER_EXHAUSTED", 3), 30.0, "no third restart")
    flight.until(lambda: flight.newest("main").get("mode") == Mode.SAFE, what="SAFE")
    flight.until(
        lambda: flight.newest("slow").get("ladder.daemon_restarts") == 2.0, what="the count, over restarts"
    )
    assert flight.newest("slow")["reset_cause"] == 4.0


def test_r11_the_ground_clears_the_crash_loop(launch: Launch) -> None:
    flight = launch(supervisor={"crash_loop_boots": 2})
    for number in (1, 2):
        flight.until(lambda n=number: flight.events("BOOT", n), what="boot")
        if number == 2:
            flight.until(lambda: flight.newest("slow").get("ladder.unclean_boots") == 1.0, what="one unclean boot")
            done(flight, "ladder.set", rung="crash_loop", value=0)
            flight.until(lambda: flight.newest("slow").get("ladder.unclean_boots") == 0.0, what="cleared")
        flight.end(signal.SIGKILL)
        flight.start()
    flight.until(lambda: flight.events("BOOT", 3), what="third boot")
    flight.until(lambda: flight.events("WORKER_READY", 3), what="it is no crash loop")
    assert not flight.events("CRASH_LOOP", 3)


def test_r12_a_missing_watchdog_device_is_one_line_and_the_flight_goes_on(launch: Launch) -> None:
    flight = launch(watchdog={"device": "/dev/no-watchdog-here"})
    fault = flight.until(lambda: flight.events("WATCHDOG_FAULT"), what="one event")[0]
    assert fault.fields["reason"] == "/dev/no-watchdog-here: No such file or directory; flying without it"
    flight.until(lambda: flight.newest("slow").get("watchdog.kicks", 0.0) >= 2.0, what="kicks go on")
    assert {event.seq for event in flight.events("WATCHDOG_FAULT")} == {fault.seq}
    assert flight.end(signal.SIGTERM) == 0
