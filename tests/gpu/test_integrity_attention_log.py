"""The log of attention: decode steps of a served batch are looked at when a row is to be released, not before."""

from collections.abc import Sequence

import pytest
import torch

from flightsw.gpu.integrity import kernels
from flightsw.gpu.integrity.attention_log import LOGGED_MAX
from flightsw.gpu.integrity.finding import Finding
from flightsw.gpu.integrity.kv_caches import gpt_rows
from flightsw.gpu.integrity.protect import protect
from flightsw.gpu.workloads.gpt import GPT, Cache, GPTConfig
from flightsw.link.integrity import Level
from tests.gpu.struck_mode import LARGEST, Struck, flip, strike, value

pytestmark = pytest.mark.skipif(
    kernels.native(torch.device("cpu"), "native_late") is None, reason="the log needs Numba (extra native)"
)

CONFIG = GPTConfig(layers=2, heads=3, width=48, context=LOGGED_MAX + 40)
ROWS = 3
PROMPT = 7
ATTENTION = "scaled_dot_product_attention"


class Served:
    """A guarded model with a watched cache that decodes step by step."""

    def __init__(self, *, logged: bool = True) -> None:
        torch.manual_seed(5)
        self.findings: list[Finding] = []
        self.model = GPT(CONFIG).eval().requires_grad_(False)
        self.cache = Cache(CONFIG, ROWS)
        self.rows = gpt_rows(self.cache, self.findings.append)
        self.guard = protect(self.model, level=Level.STORM, report=self.findings.append)
        self.guard.mode.leave((*self.cache.keys, *self.cache.values))
        assert self.rows.log is not None
        if logged:
            self.guard.mode.hand_over(self.rows.log)
        self.length = 0
        self.feed([[3, 1, 4, 1, 5, 9, 2]] * ROWS)

    def feed(
        self, tokens: Sequence[Sequence[int]], rows: Sequence[int] | None = None, at: int | None = None
    ) -> bool:
        """One pass; whether it settled."""
        start = self.length if at is None else at
        with torch.inference_mode(), self.guard.running():
            positions = [list(range(start, start + len(line))) for line in tokens]
            self.model.forward_cached(tokens, self.cache, positions, rows)
        self.length = start + len(tokens[0])
        return self.guard.settle()

    def steps(self, count: int) -> bool:
        return all([self.feed([[token % 256] for token in range(ROWS)]) for _ in range(count)])

    def sound(self) -> list[bool]:
        return [self.rows.verify(row, self.length) for row in range(ROWS)]


def test_sound_steps_are_found_sound_however_many() -> None:
    served = Served()
    assert served.steps(LOGGED_MAX + 20)
    assert served.sound() == [True] * ROWS
    assert served.findings == []


@pytest.mark.parametrize(
    "fault", [flip(30, LARGEST), flip(31, LARGEST), flip(22, LARGEST), value(float("nan"), 20)]
)
@pytest.mark.parametrize("after", [1, 20, LOGGED_MAX + 5])
def test_wrong_attention_of_a_step_is_found_before_its_row_is_released(fault: object, after: int) -> None:
    served = Served()
    with Struck(ATTENTION, fault, nth=1):  # type: ignore[arg-type]
        served.feed([[1], [2], [3]])
    assert served.steps(after)
    assert served.sound().count(False) == 1
    assert {(found.detector, found.outcome) for found in served.findings} >= {("checksum", "contained")}


def test_without_a_log_a_step_is_looked_at_as_it_is_made() -> None:
    served = Served(logged=False)
    with Struck(ATTENTION, flip(30, LARGEST)):
        assert not served.feed([[1], [2], [3]])


def test_a_chunk_of_a_prompt_is_looked_at_as_it_is_made() -> None:
    served = Served()
    with Struck(ATTENTION, flip(30, LARGEST)):
        assert not served.feed([[1, 2], [2, 3], [3, 4]])


def test_a_result_that_is_hit_on_its_way_from_a_step_taints_the_pass() -> None:
    """The log has the right one: the next operation reads another."""
    served = Served()
    struck = Struck(ATTENTION, flip(20, LARGEST))
    with torch.inference_mode(), served.guard.running(), struck:
        served.model.forward_cached([[1], [2], [3]], served.cache, [[served.length]] * ROWS)
    assert struck.fired
    assert not served.guard.settle()


def test_a_key_that_was_wrong_for_one_step_only_is_found() -> None:
    served = Served()
    key = served.cache.keys[1][2, 1, 3]
    strike(flip(30), key)
    served.feed([[1], [2], [3]])
    strike(flip(30), key)
    served.steps(3)
    assert served.sound() == [True, True, False]


def test_a_step_that_is_run_again_writes_over_what_it_logged() -> None:
    served = Served()
    with Struck(ATTENTION, flip(30, LARGEST)):
        served.feed([[1], [2], [3]])
    served.feed([[1], [2], [3]], at=served.length - 1)
    served.steps(2)
    assert served.sound() == [True] * ROWS


def test_some_rows_of_the_batch_are_logged_where_they_belong() -> None:
    served = Served()
    with Struck(ATTENTION, flip(30, LARGEST)):
        served.feed([[1], [2]], rows=[2, 0])
    assert [served.rows.verify(row, served.length) for row in (0, 2)].count(False) == 1
    assert served.rows.verify(1, served.length - 1)


def test_a_row_that_begins_anew_is_not_blamed_for_the_last_one() -> None:
    served = Served()
    with Struck(ATTENTION, flip(30, LARGEST)):
        served.feed([[1], [2], [3]])
    assert served.sound().count(False) == 1
    served.feed([[1, 2, 3]] * ROWS, at=0)
    served.steps(2)
    assert served.sound() == [True] * ROWS


def test_without_kernels_nothing_is_logged() -> None:
    served = Served()
    with kernels.plain(), Struck("_scaled_dot_product_flash_attention_for_cpu", flip(22, LARGEST)):
        served.feed([[1], [2], [3]])
        assert [found.outcome for found in served.findings] == ["recomputed"]
        assert served.sound() == [True] * ROWS


def test_scores_without_a_bound_are_blamed_once_and_looked_at_as_they_are_made_from_then_on() -> None:
    served = Served()
    served.model.blocks[0].attention.qkv.weight.mul_(30000.0)
    served.guard.adopt()
    for expected in (False, True):
        served.feed([[3, 1, 4]] * ROWS, at=0)
        assert served.steps(3)
        assert all(served.sound()) == expected
