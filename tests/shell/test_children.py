"""Child processes for real: good order, every kind of misbehaviour, and nobody left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from flightsw.core import inputs
from flightsw.gpu import protocol
from flightsw.shell.children import LOG_LINES_BURST, MESSAGES_QUEUED_MAX, Child, Exit
from flightsw.shell.workers import Probe, ProbeError, Workers, as_report

pytestmark = pytest.mark.process

SCRIPT = str(Path(__file__).with_name("scripted_worker.py"))
SPEC = protocol.TrainSpec(id="train")


def child(manner: str, *, niceness: int = 0) -> Child:
    return Child("train", (sys.executable, SCRIPT, manner), SPEC, niceness)


async def until(condition: Callable[[], object], timeout_s: float = 15.0) -> None:
    """Let the event loop turn until the condition holds."""
    pause = asyncio.Event()
    async with asyncio.timeout(timeout_s):
        while not condition():
            try:
                await asyncio.wait_for(pause.wait(), 0.01)
            except TimeoutError:
                continue


def gone(pid: int) -> bool:
    """No such process, or only its zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def written(pid: int | None) -> int:
    """Bytes that a process has written so far."""
    return int(Path(f"/proc/{pid}/io").read_text().partition("wchar: ")[2].split()[0])


def fly(scenario: Callable[[asyncio.TaskGroup], "asyncio.Future[None]"]) -> None:
    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            await scenario(group)

    asyncio.run(run())


def test_a_worker_in_good_order() -> None:
    async def scenario(group: asyncio.TaskGroup) -> None:
        one = child("good")
        task = group.create_task(one.run())
        heard: list[object] = []
        await until(lambda: heard.extend(one.take(64)) or any(isinstance(m, protocol.Heartbeat) for m in heard))
        assert isinstance(heard[0], protocol.Ready)
        assert heard[0].pid == one.pid
        assert one.send(protocol.Checkpoint("test"))
        assert one.send(protocol.Stop())
        assert await task == Exit(0, "ended in an orderly way")
        heard += one.take(1000)
        assert [type(m) for m in heard if isinstance(m, protocol.Committed | Exit)] == [
            protocol.Committed,
            protocol.Committed,
            Exit,
        ]
        assert one.pid is None
        assert not one.send(protocol.Stop())

    fly(scenario)


# (manner, words of the reason, return code)
ENDS = (
    ("fails", "ended with status 3: the corpus cannot be read", 3),
    ("garbage", "killed: sent something that is no message", -9),
    ("huge", "killed: announced 2147483648 bytes, at most 1048576 are allowed", -9),
)


@pytest.mark.parametrize(("manner", "reason", "returncode"), ENDS, ids=[e[0] for e in ENDS])
def test_ends(manner: str, reason: str, returncode: int) -> None:
    async def scenario(group: asyncio.TaskGroup) -> None:
        end = await child(manner).run()
        assert end.reason.startswith(reason)
        assert end.returncode == returncode

    fly(scenario)


def test_a_program_that_is_not_there_is_told_by_name() -> None:
    async def scenario(group: asyncio.TaskGroup) -> None:
        one = Child("train", ("no-such-program",), SPEC)
        end = await one.run()
        assert end == Exit(126, "ended with status 126: cannot start no-such-program: No such file or directory")
        assert one.take(9) == [end]

    fly(scenario)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_signal_is_told_by_name(number: signal.Signals) -> None:
    async def scenario(group: asyncio.TaskGroup) -> None:
        one = child("silent")
        task = group.create_task(one.run())
        await until(lambda: one.pid)
        assert one.pid is not None
        os.kill(one.pid, number)
        assert await task == Exit(-number, f"ended by {number.name}")

    fly(scenario)


def test_a_kill_takes_the_grandchild_too() -> None:
    async def scenario(group: asyncio.TaskGroup) -> None:
        one = child("grandchild")
        task = group.create_task(one.run())
        heard: list[object] = []
        await until(lambda: heard.extend(one.take(9)) or heard)
        ready = heard[0]
        assert isinstance(ready, protocol.Ready)
        assert not gone(ready.pid)
        one.kill("test")
        assert (await task).reason == "killed: test"
        await until(lambda: gone(ready.pid))

    fly(scenario)


def test_a_kill_before_the_start_holds() -> None:
    async def scenario(group: asyncio.TaskGroup) -> None:
        one = child("good")
        one.kill("changed our mind")
        assert (await one.run()).reason == "killed: changed our mind"

    fly(scenario)


def test_a_flood_is_held_back_and_the_loop_lives() -> None:
    async def scenario(group: asyncio.TaskGroup) -> None:
        one = child("flood")
        task = group.create_task(one.run())
        await until(lambda: one.received >= MESSAGES_QUEUED_MAX)
        # The child blocks on its full pipe: what it has written stands still for a hundred turns of ours.
        counts: list[int] = []
        await until(lambda: counts.append(written(one.pid)) or len(set(counts[-100:])) == 1 < 100 <= len(counts))
        for _ in range(5):
            before = one.received
            assert len(one.take(10)) == 10
            await until(lambda before=before: one.received >= before + 10)
            assert one.received <= before + 10
        one.kill("enough")
        assert (await task).returncode == -signal.SIGKILL

    fly(scenario)


def test_a_child_that_does_not_read_costs_bounded_memory() -> None:
    async def scenario(group: asyncio.TaskGroup) -> None:
        one = Child("train", ("sleep", "3600"), SPEC)
        task = group.create_task(one.run())
        await until(lambda: one.pid)
        outcomes = [one.send(protocol.Checkpoint("x" * 1000)) for _ in range(2000)]
        assert outcomes[0]
        assert not outcomes[-1]
        one.kill("enough")
        await task

    fly(scenario)


def test_standard_error_is_bounded_and_printable(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(group: asyncio.TaskGroup) -> None:
        one = child("chatty")
        task = group.create_task(one.run())
        await until(lambda: len(caplog.records) > LOG_LINES_BURST)
        one.kill("enough")
        await task

    with caplog.at_level("INFO", "flightd.train"):
        fly(scenario)
    lines = [r.getMessage() for r in caplog.records]
    assert lines[0].startswith("line 0 ")
    assert all(text.isprintable() for text in lines)
    assert any("lines were dropped" in text for text in lines)
    assert len(lines) < 20 * LOG_LINES_BURST


def test_cancelling_leaves_nobody_behind() -> None:
    pids: list[int] = []

    async def scenario(group: asyncio.TaskGroup) -> None:
        one = child("deaf")
        task = group.create_task(one.run())
        await until(lambda: one.take(9))
        assert one.pid is not None
        pids.append(one.pid)
        task.cancel()
        await until(lambda: gone(pids[0]))

    fly(scenario)


def test_niceness_reaches_the_program() -> None:
    async def scenario(group: asyncio.TaskGroup) -> None:
        one = child("deaf", niceness=7)
        task = group.create_task(one.run())
        await until(lambda: one.take(9))
        assert one.pid is not None
        assert os.getpriority(os.PRIO_PROCESS, one.pid) == os.getpriority(os.PRIO_PROCESS, 0) + 7
        one.kill("enough")
        await task

    fly(scenario)


def test_children_die_with_a_daemon_that_is_killed(eventually: Callable[..., None]) -> None:
    """The parent dies by SIGKILL while its child neither reads nor writes: only the leash ends it."""
    code = textwrap.dedent("""
        import asyncio, sys
        from flightsw.gpu.protocol import TrainSpec
        from flightsw.shell.children import Child

        async def main():
            one = Child("train", ("sleep", "3600"), TrainSpec())
            async with asyncio.TaskGroup() as group:
                group.create_task(one.run())
                while one.pid is None:
                    await asyncio.sleep(0)
                print(one.pid, flush=True)

        asyncio.run(main())
    """)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        eventually(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", what="the leash became sleep")
        parent.kill()
    eventually(lambda: gone(pid), what="the child is gone")


def test_workers_by_job() -> None:
    async def scenario(group: asyncio.TaskGroup) -> None:
        specs = (protocol.TrainSpec(id="a"), protocol.TrainSpec(id="b"))
        workers = Workers(specs, (sys.executable, SCRIPT, "good"), 0, group)
        reports: list[inputs.Report] = []
        workers.start("a")
        workers.start("a")
        workers.start("b")
        assert workers.running == ("a", "b")

        def take(kind: type, job: str) -> list[inputs.Report]:
            reports.extend(workers.take())
            return [r for r in reports if isinstance(r, kind) and r.job == job]

        await until(lambda: take(inputs.WorkerReady, "a") and take(inputs.WorkerProgress, "b"))
        workers.kill("b", "test")
        await until(lambda: take(inputs.WorkerExited, "b"))
        assert take(inputs.WorkerExited, "b")[0].reason == "killed: test"
        assert workers.running == ("a",)
        assert not workers.tell("b", protocol.Stop())
        workers.close()
        workers.start("b")
        assert workers.running == ("a",)
        assert workers.tell("a", protocol.Stop())
        await until(lambda: take(inputs.WorkerExited, "a"))
        assert len(take(inputs.WorkerReady, "a")) == 1
        assert workers.running == ()

    fly(scenario)


def test_probe_gives_the_newest_sample_and_its_end_is_an_error() -> None:
    async def scenario(group: asyncio.TaskGroup) -> None:
        probe = Probe(protocol.ProbeSpec(), (sys.executable, SCRIPT, "probe"))
        task = group.create_task(expect_end(probe))
        samples: list[inputs.GpuSample] = []
        await until(lambda: samples.append(sample) if (sample := probe.take()) else len(samples) > 2)
        assert samples[0].power_w == 123.0
        assert samples[0].unsupported == ("ecc_uncorrected",)
        assert probe.executions >= len(samples)
        task.cancel()

    async def expect_end(probe: Probe) -> None:
        with pytest.raises(ProbeError):
            await probe.run()

    fly(scenario)


MESSAGES = (
    (Exit(-9, "x"), inputs.WorkerExited(job="j", returncode=-9, reason="x")),
    (
        protocol.Rejected(generation=3, reason="digest"),
        inputs.CheckpointRejected(job="j", generation=3, reason="digest"),
    ),
    (protocol.SaveFailed(reason="no space"), inputs.CheckpointFailed(job="j", reason="no space")),
    (protocol.Swapped(generation=2, step=90), inputs.ModelSwapped(job="j", generation=2, step=90)),
    (
        protocol.IntegrityReport(
            level="storm",
            checks=90,
            detected=10,
            repaired=4,
            recomputed=3,
            contained=2,
            open=1,
            scrubs=7,
            last_detector="digest",
            last_where="weight head",
        ),
        inputs.WorkerIntegrity(
            job="j",
            level="storm",
            checks=90,
            detected=10,
            repaired=4,
            recomputed=3,
            contained=2,
            open=1,
            scrubs=7,
            last_detector="digest",
            last_where="weight head",
        ),
    ),
    (protocol.Fault(code="corpus", reason="gone"), inputs.WorkerFault(job="j", code="corpus", reason="gone")),
    (protocol.Sample(sequence=1, source="nvml"), None),
)


@pytest.mark.parametrize(("message", "report"), MESSAGES, ids=[type(m[0]).__name__ for m in MESSAGES])
def test_messages_become_inputs(message: protocol.FromChild | Exit, report: inputs.Report | None) -> None:
    assert as_report("j", message) == report
