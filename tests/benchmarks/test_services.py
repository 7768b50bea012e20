"""Part ``services``: latency over real wires, a limit that does nothing is found out, coverage adds up."""

from pathlib import Path

import crossings
import pytest
from services import coverage


@pytest.mark.process
@pytest.mark.parametrize("kind", ["pty", "udp"])
def test_a_crossing_has_its_response_on_the_wire(kind: str, tmp_path: Path) -> None:
    latencies_s = crossings.measure(tmp_path, kind, 3, seed=1, tables=False)
    assert len(latencies_s) == 3
    # Not the goal of the benchmark: this machine may be busy with other tests.
    assert all(0.0 < latency_s < crossings.ANSWER_MAX_S for latency_s in latencies_s)


@pytest.mark.process
def test_a_limit_without_a_response_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossings, "LIMITS", {"nothing": {"gpu_temp_degc": 60.0}})
    monkeypatch.setattr(crossings, "ANSWER_MAX_S", 2.0)
    with pytest.raises(RuntimeError, match="rail off after: nothing: not within 2 s"):
        crossings.measure(tmp_path, "pty", 1, seed=1, tables=False)


def test_coverage_counts_lines_and_branches_of_a_folder() -> None:
    def entry(run: int, every: int, taken: int, branches: int) -> dict[str, dict[str, int]]:
        return {
            "summary": {
                "covered_lines": run,
                "num_statements": every,
                "covered_branches": taken,
                "num_branches": branches,
            }
        }

    files = {
        "flightsw/core/a.py": entry(8, 8, 2, 2),
        "flightsw/core/b.py": entry(3, 8, 0, 2),
        "flightsw/link/a.py": entry(1, 1, 0, 0),
    }
    assert coverage(files, "flightsw/core/") == pytest.approx(100.0 * 13 / 20)
    assert coverage(files, "flightsw/link/") == 100.0
