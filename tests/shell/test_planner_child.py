"""The planner's process for real: the solver itself, doubles that hang or lie, the daemon that outlives them."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from flight_bench import Flight
from msgspec.structs import replace

from flightsw.core import eps, governor, planning, thermal
from flightsw.core.plan import Plan, PlanRequest
from flightsw.core.plan_request import flaw, request
from flightsw.gpu import protocol
from flightsw.link.card import reference_workload
from flightsw.link.parameters import PLANNER_STATES
from flightsw.planner.protocol import Solve, decode_plan
from flightsw.shell import planner_child
from flightsw.shell.planner_child import Planner, PlannerError
from tests.background import Child

pytestmark = pytest.mark.process

SCRIPT = str(Path(__file__).with_name("scripted_planner.py"))
WAITING, FOLLOWING, FALLBACK = (float(PLANNER_STATES.index(n)) for n in ("WAITING", "FOLLOWING", "FALLBACK"))
DEADLINE_S = 20.0


def asked(number: int = 1, **changes: Any) -> PlanRequest:
    """A request as the core makes it, at boot, in sun, an eclipse in 20 minutes."""
    power, heat, card = eps.Config(), thermal.Config(), governor.Config()
    state = replace(eps.start(power), entry_s=2200.0)
    seen = governor.Situation(0.1, 0.9, 60.0, 35.0, False, 1200.0, 1150.0, True)
    now = planning.situation_of(state, card, governor.start(card), seen, heat.heat, reference_workload(), 1000.0)
    return replace(request(planning.Config(), power, heat, now, number), **changes)


def fly(scenario: Callable[[Planner], Awaitable[None]], manner: str = "", deadline_s: float = DEADLINE_S) -> str:
    """Run a planner with a scenario beside it; returns what its process ended of, "" when it did not."""

    async def run() -> str:
        planner = Planner((sys.executable, SCRIPT, manner) if manner else (), 0, deadline_s)
        serving, acting = asyncio.ensure_future(planner.run()), asyncio.ensure_future(scenario(planner))
        await asyncio.wait((serving, acting), return_when=asyncio.FIRST_COMPLETED, timeout=60.0)
        for task in (serving, acting):
            task.cancel()
        results = await asyncio.gather(serving, acting, return_exceptions=True)
        if isinstance(results[1], AssertionError):
            raise results[1]
        return str(results[0]) if isinstance(results[0], PlannerError) else ""

    return asyncio.run(run())


async def answers(planner: Planner, wanted: int = 1) -> list[Plan]:
    """Turn until so many answers came."""
    pause, plans = asyncio.Event(), []
    async with asyncio.timeout(30.0):
        while len(plans) < wanted:
            plans += planner.take()
            with suppress(TimeoutError):
                await asyncio.wait_for(pause.wait(), 0.01)
    return plans


async def ask(planner: Planner, sent: PlanRequest, deadline_s: float = DEADLINE_S) -> None:
    """Turn until the process is there to hear it."""
    pause = asyncio.Event()
    async with asyncio.timeout(30.0):
        while not planner.ask(sent, deadline_s):
            with suppress(TimeoutError):
                await asyncio.wait_for(pause.wait(), 0.01)


def test_the_real_planner_answers_and_survives_bad_requests() -> None:
    async def scenario(planner: Planner) -> None:
        bad = (
            (asked(1, energy_j=float("nan")), "energy_j = nan: it must be finite"),
            (asked(2, sunlit=(1.0,)), "steps and the forecast 1: sunlit needs one share per step"),
            (asked(3, capacity_j=-1.0), "capacity_j = -1: it must be over 0"),
        )
        for sent, fault in bad:
            await ask(planner, sent)
            (plan,) = await answers(planner)
            assert plan.id == sent.id
            assert fault in plan.fault
        await ask(planner, asked(4), 0.0)
        (plan,) = await answers(planner)
        assert plan.fault == "no plan: the deadline has passed"
        await ask(planner, asked(5))
        (plan,) = await answers(planner)
        assert flaw(plan, asked(5)) == ""
        assert 0.0 < plan.solve_s < 1.0
        assert planner.executions > 0

    assert fly(scenario) == ""


def test_a_stopped_planner_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP on the real one, after it has shown that it works."""
    monkeypatch.setattr(planner_child, "SILENCE_S", 0.3)

    async def scenario(planner: Planner) -> None:
        await ask(planner, asked(1))
        await answers(planner)
        (pid,) = planners_of(os.getpid())
        os.kill(pid, signal.SIGSTOP)
        await ask(planner, asked(2), 0.1)
        await answers(planner)

    assert fly(scenario, deadline_s=0.1) == "killed: silent for 0.3 s after its deadline"


SILENT = ("sleeps", "mute")


@pytest.mark.parametrize("manner", SILENT)
def test_a_planner_that_never_answers_is_killed(manner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner_child, "SILENCE_S", 0.3)

    async def scenario(planner: Planner) -> None:
        await ask(planner, asked(1), 0.1)
        # A second request does not buy it time.
        await ask(planner, asked(2), 60.0)
        assert planner.executions == 0
        await answers(planner)

    assert fly(scenario, manner) == "killed: silent for 0.3 s after its deadline"


ENDS = (
    ("dies", "ended with status 3: no licence for this solver"),
    ("garbage", "killed: sent something that is no message: Object missing required field `id`"),
)


@pytest.mark.parametrize(("manner", "reason"), ENDS)
def test_a_planner_that_ends_is_an_error_for_its_supervisor(manner: str, reason: str) -> None:
    async def scenario(planner: Planner) -> None:
        await ask(planner, asked(1))
        await answers(planner)

    assert fly(scenario, manner).startswith(reason)


LIES = (
    ("empty", "for other steps"),
    ("nan", "not finite"),
    ("greedy", "leaves 80 to 700 W"),
)


@pytest.mark.parametrize(("manner", "fault"), LIES)
def test_what_a_lying_planner_says_is_not_followed(manner: str, fault: str) -> None:
    async def scenario(planner: Planner) -> None:
        await ask(planner, asked(1))
        (plan,) = await answers(planner)
        assert fault in flaw(plan, asked(1))

    assert fly(scenario, manner) == ""


def test_nobody_to_ask() -> None:
    planner = Planner((), 0, 0.5)
    assert not planner.ask(asked(), 0.5)
    assert planner.take() == ()
    assert planner.executions == 0


def test_the_process_ends_with_its_input_and_not_by_an_interrupt() -> None:
    pipe = subprocess.PIPE
    with Child([sys.executable, "-m", "flightsw.planner"], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        process.stdin.write(protocol.encode(Solve(asked(1), DEADLINE_S)))
        process.stdin.flush()
        assert process.stdout is not None
        (size,) = protocol.LENGTH_PREFIX.unpack(process.stdout.read(protocol.LENGTH_PREFIX.size))
        assert decode_plan(process.stdout.read(size)).fault == ""
        process.send_signal(signal.SIGINT)
        body = b"\xc1 no request"
        process.stdin.write(protocol.LENGTH_PREFIX.pack(len(body)) + body)
        out, error = process.communicate(protocol.encode(Solve(asked(2), DEADLINE_S)), timeout=30.0)
    assert decode_plan(out[protocol.LENGTH_PREFIX.size :]).id == 2
    assert b"dropped a malformed message" in error
    assert b"Traceback" not in error
    assert process.returncode == 0


def planners_of(parent: int) -> list[int]:
    """Planner processes below a process, through the leash that replaced itself."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes()
            if (
                int(stat[1]) == parent
                and stat[0] != "Z"
                and (b"flightsw.planner" in command or b"scripted_planner" in command)
            ):
                found.append(int(folder.name))
    return found


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Flight]]:
    """``launch(manner)`` starts a daemon with this planner, an eclipse far off and plans every few seconds."""
    with ExitStack() as resources:

        def start(manner: str = "", **keys: Any) -> Flight:
            flight = Flight(
                tmp_path,
                "udp",
                resources,
                planner={"command": [sys.executable, SCRIPT, manner] if manner else []},
                planning={"enabled": True, "replan_s": 1.0, "replan_min_s": 1.0, "plan_age_max_s": 3.0, **keys},
                eps={"eclipse_entry_s": 5000.0},
            )
            flight.start()
            return flight

        yield start


def state_of(flight: Flight) -> float:
    return flight.newest("main").get("planner.state", -1.0)


def test_a_flight_follows_the_real_planner_loses_it_and_gets_it_back(launch: Callable[..., Flight]) -> None:
    flight = launch(deadline_s=1.0, plan_age_max_s=5.0)
    flight.until(lambda: state_of(flight) == FOLLOWING, 30.0, "a plan is followed")
    flight.until(lambda: flight.newest("main")["governor.limit"] > 0.0, what="the governor works")
    flight.until(lambda: flight.newest("slow").get("planner.solve_ms", 0.0) > 0.0, 30.0, "its time is told")
    assert flight.process is not None
    (pid,) = planners_of(flight.process.pid)
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0) + 5
    os.kill(pid, signal.SIGSTOP)
    flight.until(lambda: flight.events("PLAN_FALLBACK"), 30.0, "the plan is lost")
    assert flight.events("PLAN_FALLBACK")[0].fields["reason"] == "no answer within 1 s"
    assert flight.newest("main")["governor.power_budget_w"] > 80.0
    os.kill(pid, signal.SIGKILL)
    flight.until(lambda: flight.events("PLAN_RESUMED"), 30.0, "another planner answers")
    assert any(event.fields["adapter"] == "planner" for event in flight.events("ADAPTER_RESTARTED"))
    assert flight.end(signal.SIGTERM) == 0
    assert "Traceback" not in flight.output


@pytest.mark.parametrize("manner", ["mute", "nan"])
def test_a_flight_without_a_usable_plan_flies_in_closed_form(launch: Callable[..., Flight], manner: str) -> None:
    flight = launch(manner)
    flight.until(lambda: flight.newest("main").get("governor.power_budget_w", 0.0) > 80.0, what="the card works")
    flight.until(lambda: flight.newest("main").get("train.step", 0) > 3, what="training goes on")
    assert state_of(flight) == WAITING
    assert flight.events("PLAN_FALLBACK") == []
    assert flight.end(signal.SIGTERM) == 0


def test_a_planner_that_dies_at_every_request_is_an_adapter_that_failed(launch: Callable[..., Flight]) -> None:
    flight = launch("dies")
    flight.until(lambda: flight.events("ADAPTER_FAILED"), 40.0, "it is given up")
    fields = flight.events("ADAPTER_FAILED")[0].fields
    assert fields["adapter"] == "planner"
    assert "no licence for this solver" in str(fields["reason"])
    assert flight.newest("main")["governor.power_budget_w"] > 80.0


def test_a_planner_that_is_not_wanted_is_not_started(launch: Callable[..., Flight]) -> None:
    flight = launch(enabled=False)
    flight.until(lambda: flight.newest("main").get("train.step", 0) > 3, what="training goes on")
    assert flight.process is not None
    assert planners_of(flight.process.pid) == []
    assert state_of(flight) == PLANNER_STATES.index("OFF")
