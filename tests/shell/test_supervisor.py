"""Supervision policy as a table, the restart loop, the frame clock and the effects."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from flightsw.core import effects, eps, governor, plan_request, planning
from flightsw.core.vehicle import Config
from flightsw.gpu import protocol
from flightsw.link.card import reference_workload
from flightsw.link.schema import Severity
from flightsw.shell.clock import Metronome
from flightsw.shell.execute import execute
from flightsw.shell.health import HealthMeter
from flightsw.shell.log import EventLog
from flightsw.shell.ports import Ports
from flightsw.shell.recorder_tables import Row
from flightsw.shell.state_directory import StateDirectory, StateDirectoryError
from flightsw.shell.store import Store
from flightsw.shell.store_writer import KEYS_MAX, StoreWriter
from flightsw.shell.supervisor import Adapter, RestartPolicy, decide

POLICY = RestartPolicy(backoff_first_s=0.5, backoff_max_s=4.0, restarts_max=3, window_s=100.0)

# (times of failures, pause and verdict after the last)
FAILURES = (
    ([0.0], 0.5, False),
    ([0.0, 1.0], 1.0, False),
    ([0.0, 1.0, 2.0], 2.0, False),
    ([0.0, 1.0, 2.0, 3.0], 4.0, True),
    ([0.0, 1.0, 2.0, 3.0, 4.0], 4.0, True),
    ([0.0, 100.0], 0.5, False),
    ([0.0, 50.0, 99.0, 149.0], 2.0, False),
    ([0.0, 1.0, 2.0, 3.0, 102.5], 1.0, False),
)


@pytest.mark.parametrize(("times", "pause_s", "failed"), FAILURES, ids=[str(f[0]) for f in FAILURES])
def test_restart_policy(times: list[float], pause_s: float, failed: bool) -> None:
    history: tuple[float, ...] = ()
    for at_s in times:
        decision = decide(POLICY, history, at_s)
        history = decision.history
    assert (decision.pause_s, decision.failed) == (pause_s, failed)


def test_thousands_of_failures_stay_bounded() -> None:
    history: tuple[float, ...] = ()
    for number in range(3000):
        decision = decide(POLICY, history, number * 1e-3)
        history = decision.history
    assert decision.pause_s == 4.0
    assert len(history) == 1024


def test_an_adapter_is_restarted_reported_and_recovers() -> None:
    class Flaky:
        runs = work = 0

        async def run(self) -> None:
            self.runs += 1
            if self.runs <= 3:
                raise OSError(f"broken {self.runs}")
            if self.runs == 4:
                raise KeyError("a bug of ours")
            while True:
                self.work += 1
                await asyncio.sleep(0)

    async def scenario() -> None:
        flaky = Flaky()
        policy = RestartPolicy(backoff_first_s=0.01, backoff_max_s=0.02, restarts_max=2, window_s=0.3)
        adapter = Adapter("flaky", flaky.run, lambda: flaky.work, policy, mandatory=True)
        seen: dict[int, str] = {}
        executions: list[int] = []
        async with asyncio.TaskGroup() as group, asyncio.timeout(10.0):
            task = group.create_task(adapter.supervise())
            while flaky.work < 3:
                status = adapter.status()
                seen[status.restarts] = status.reason
                executions.append(status.executions)
                await asyncio.sleep(0)
            assert adapter.status().failed
            while adapter.status().failed:  # noqa: ASYNC110 - what is polled is a pure reading of the clock.
                await asyncio.sleep(0)
            assert adapter.status().reason == ""
            task.cancel()
        assert seen == {0: "", 1: "broken 1", 2: "broken 2", 3: "broken 3", 4: "KeyError: 'a bug of ours'"}
        # It is attended to while it is down, so the watchdog is not starved by a known failure.
        assert executions == sorted(executions)
        assert executions[-1] > 3

    asyncio.run(scenario())


# (time of the wake-up on a 0.1 s grid that begins at 0, deadlines skipped)
SKIPS = ((0.0, 0), (0.05, 0), (0.099, 0), (0.11, 1), (0.35, 3), (-1.0, 0))


@pytest.mark.parametrize(("at_s", "skipped"), SKIPS)
def test_late_frames_are_skipped_not_bunched(at_s: float, skipped: int) -> None:
    assert Metronome(0.1, 0.0).skip(at_s) == skipped


def test_the_grid_is_absolute() -> None:
    metronome = Metronome(0.1, 0.0)
    assert metronome.skip(0.25) == 2
    assert metronome.skip(0.25) == 0
    assert metronome.skip(0.31) == 1


class Notebook:
    """Every port at once: writes down what it was asked, answers as told."""

    def __init__(self, answer: bool) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self._answer = answer

    def __getattr__(self, name: str) -> Any:
        def note(*arguments: Any, **named: Any) -> bool:
            self.asked.append((name, *arguments, *named.values()))
            return self._answer

        return note


def telemetry(live: bool) -> effects.Telemetry:
    return effects.Telemetry(apid=33, sequence=5, priority=2, world_s=7.5, packet=b"tm", live=live, group=3)


def row(sent: bool) -> Row:
    return Row(boot=4, apid=33, sequence=5, priority=2, world_s=7.5, sent=sent, packet=b"tm", group=3)


ACTUATE = effects.Actuate(frame_count=3, gpu_rail_on=True, transmitter_on=False)
REPLAY = effects.Replay(7, 100, Severity.WARNING)
RETENTION = effects.SetRetention(quota_bytes=9, ack_timeout_s=8.0, shares=(0.5,), max_ages_s=(7.0,))
PLAN_REQUEST = plan_request.request(
    Config().planning,
    Config().eps,
    Config().thermal,
    planning.situation_of(
        eps.start(Config().eps),
        Config().governor,
        governor.start(Config().governor),
        governor.Situation(0.1, 0.9, 60.0, 35.0, False, 1234.0, 1150.0, True),
        Config().thermal.heat,
        reference_workload(),
        77.0,
    ),
    1,
)
GENERATE = {"request": 9, "prompt": "p", "max_tokens": 4, "temperature": 0.5, "top_k": 3, "seed": 1}
EFFECTS: tuple[tuple[effects.Effect, bool, list[tuple[Any, ...]]], ...] = (
    (telemetry(True), True, [("send", b"tm"), ("record", row(True))]),
    (telemetry(True), False, [("send", b"tm"), ("record", row(False))]),
    (telemetry(False), True, [("record", row(False))]),
    (ACTUATE, True, [("actuate", ACTUATE)]),
    (effects.SetPace("a", 0.25), True, [("tell", "a", protocol.Pace(0.25))]),
    (effects.SetVigilance("a", "storm"), True, [("tell", "a", protocol.Vigilance("storm"))]),
    (effects.StartWorker("a"), True, [("start", "a")]),
    (effects.StopWorker("a"), True, [("tell", "a", protocol.Stop())]),
    (effects.KillWorker("a", "hung"), True, [("kill", "a", "hung")]),
    (effects.SaveCheckpoint("a", "interval"), True, [("tell", "a", protocol.Checkpoint("interval"))]),
    (effects.SubmitRequest(job="a", **GENERATE), True, [("tell", "a", protocol.Generate(**GENERATE))]),
    (effects.RequestPlan(PLAN_REQUEST, 0.5), True, [("ask", PLAN_REQUEST, 0.5)]),
    (effects.Playback(900), True, [("play_back", 900)]),
    (REPLAY, True, [("replay", REPLAY)]),
    (RETENTION, True, [("retain", RETENTION)]),
    (effects.Acknowledge(1, 2, 3, 4), True, [("acknowledge", 1, 2, 3, 4)]),
    (effects.Announce(Severity.INFO, "BOOT", "text"), True, []),
    (effects.Persist("mode", b"x"), True, [("put", "mode", b"x")]),
    (effects.KickWatchdog(), True, [("kick", 100.0)]),
    (effects.Restart("asked"), True, [("request_end", "asked", "restart")]),
    (effects.Restart("no way out", by_ladder=True), True, [("request_end", "no way out", "ladder")]),
    (effects.CountUncleanBoots(2), True, [("count_unclean_boots", 2)]),
)


@pytest.mark.parametrize(("effect", "answer", "asked"), EFFECTS, ids=lambda v: type(v).__name__)
def test_what_an_effect_means(effect: effects.Effect, answer: bool, asked: list[tuple[Any, ...]]) -> None:
    notebook = Notebook(answer)
    execute(effect, Ports(*[notebook] * len(Ports._fields)), 4, 100.0)
    assert notebook.asked == asked


def test_the_table_covers_every_effect() -> None:
    assert {type(row[0]) for row in EFFECTS} == set(effects.Effect.__args__)


@pytest.mark.parametrize("severity", Severity)
def test_an_event_is_logged_with_its_severity(severity: Severity, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "flightd.event"):
        execute(
            effects.Announce(severity, "NAME", "100 % text"), Ports(*[Notebook(True)] * len(Ports._fields)), 1, 0.0
        )
    assert "100 % text" in caplog.text
    expected = (
        "CRITICAL" if severity >= Severity.CRITICAL else {"DIAGNOSTIC": "DEBUG"}.get(severity.name, severity.name)
    )
    assert caplog.records[0].levelname == expected


def test_store_writer_writes_the_newest_and_shows_faults(tmp_path: Path) -> None:
    writer = StoreWriter(Store(tmp_path), ["boot.a: corrupt copy of 3 bytes"])
    assert "corrupt" in writer.fault
    for number in range(50):
        writer.put("mode", b"%d" % number)
    writer.close()
    assert Store(tmp_path).load("mode").payload == b"49"
    gone = StoreWriter(Store(tmp_path / "gone"))
    gone.put("mode", b"x")
    gone.close()
    assert "store: mode.a: No such file or directory" in gone.fault


def test_store_writer_is_bounded(tmp_path: Path) -> None:
    import threading

    hold = threading.Event()
    writer = StoreWriter(Store(tmp_path))
    writer.order("first", lambda: "" if hold.wait(10.0) else "late")
    for number in range(KEYS_MAX + 2):
        writer.put(f"k{number}", b"")
    assert "facts wait to be written" in writer.fault
    hold.set()
    writer.close()


def test_health_is_read_once_a_second(tmp_path: Path) -> None:
    meter = HealthMeter(tmp_path, 0.0)
    read = lambda at_s, skipped=0: meter.read(  # noqa: E731
        at_s,
        late_s=0.001,
        skipped=skipped,
        radio_frames_bad=1,
        avionics_frames_bad=2,
        watchdog_kicks=3,
        watchdog_confirmed=True,
        watchdog_fault="deaf",
        unclean_boots=4,
    )
    first = read(0.0)
    assert 5.0 < first.rss_mb < 4000.0
    assert first.disk_free_mb > 0.0
    second = read(0.5, 2)
    assert (second.rss_mb, second.frames_skipped, second.frame_late_s) == (first.rss_mb, 2, 0.001)
    third = read(1.5, 1)
    assert third.frames_skipped == 3
    assert (third.watchdog_kicks, third.watchdog_confirmed, third.watchdog_fault, third.unclean_boots) == (
        3,
        True,
        "deaf",
        4,
    )
    assert third.cpu_fraction >= 0.0


def test_log_goes_to_terminal_and_file_and_rotates(tmp_path: Path) -> None:
    with (tmp_path / "terminal").open("w") as terminal:
        log = EventLog(tmp_path, level="info", max_bytes=10_000, backups=2, terminal=terminal)
        for number in range(600):
            logging.getLogger("flightd.train").info("number %d of many", number)
        logging.getLogger("flightd.event").critical("%-20s %s", "SAFE_ENTERED", "SAFE: 100 % sure")
        logging.getLogger("flightd").debug("not shown")
        log.close()
    lines = (tmp_path / "terminal").read_text().splitlines()
    assert len(lines) == 601
    assert lines[0].endswith("Z INFO     train: number 0 of many")
    assert lines[-1].endswith("Z CRITICAL SAFE_ENTERED         SAFE: 100 % sure")
    assert "\x1b" not in "".join(lines)
    assert {p.name for p in tmp_path.glob("flightd.log*")} == {"flightd.log", "flightd.log.1", "flightd.log.2"}


def test_a_log_file_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    with (tmp_path / "terminal").open("w") as terminal:
        log = EventLog(tmp_path / "gone", level="info", max_bytes=10_000, backups=1, terminal=terminal)
        log.close()
    assert "the log goes to the terminal only" in (tmp_path / "terminal").read_text()


def test_one_owner_of_a_state_directory(tmp_path: Path) -> None:
    first = StateDirectory(tmp_path / "deep" / "state")
    with pytest.raises(StateDirectoryError, match=r"in use by another flightd \(process \d+\); stop that one"):
        StateDirectory(tmp_path / "deep" / "state")
    first.release()
    StateDirectory(tmp_path / "deep" / "state").release()
    assert (tmp_path / "deep" / "state").stat().st_mode & 0o077 == 0


def test_a_state_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StateDirectoryError, match="is no folder; choose another"):
        StateDirectory(tmp_path / "state")
    with pytest.raises(StateDirectoryError, match="cannot be made or written: Not a directory"):
        StateDirectory(tmp_path / "state" / "below")
