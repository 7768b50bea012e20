"""The measurement of the shed works: a few alarms on real processes, each with a latency that can be one."""

from pathlib import Path

import pytest
import shed


@pytest.mark.process
def test_the_rail_goes_off_after_an_alarm_that_stands(tmp_path: Path) -> None:
    latencies_s = shed.gpu_off(tmp_path, 2)
    assert len(latencies_s) == 2
    # The ride-through is part of it; the bound leaves room for a machine under tests.
    assert all(0.1 <= latency_s < shed.ANSWER_MAX_S for latency_s in latencies_s)


@pytest.mark.process
def test_the_worker_stops_between_two_parts_of_a_micro_batch(tmp_path: Path) -> None:
    latencies_s = shed.last_kernel(tmp_path, 3)
    assert len(latencies_s) == 3
    assert all(0.0 <= latency_s < shed.ANSWER_MAX_S for latency_s in latencies_s)
