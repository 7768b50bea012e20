"""The campaign on real subjects: counted, replayed, interrupted, gone on with; and red when a detector is
broken."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from flightsw.gpu.integrity import checksum, native_product, resident
from flightsw.gpu.integrity.digest import digest
from flightsw.gpu.integrity.scrub import Scrubber
from flightsw.gpu.integrity.weights import Weights
from hil import machine
from hil.integrity import __main__ as program
from hil.integrity import account, alone, answers_part, compute_part, second, state_part
from hil.integrity.campaign import Campaign, Order, Progress
from hil.integrity.injection import NoSuchTarget, draw
from hil.integrity.injector import NeverFired
from hil.integrity.ledger import CSV, Ledger, read
from hil.integrity.plan import GROUPS, Group, PlanError, groups, origin, prior_named, scale_for
from hil.integrity.shapes import EVEN, PUBLISHED, NoShape
from hil.integrity.tally import rows
from hil.integrity.testees import Roster
from tests.background import Child

STEPS = 40
SEED = 3
HIL = (sys.executable, "-c", "from hil.cli import main; main()")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def testees() -> Roster:
    return Roster(SEED, STEPS)


def group(part: str, **changes: object) -> Group:
    return Group(**{"part": part, "subject": "gpt-bfloat16", "prior": "even", "quota": 4} | changes)


def run(trial, one: Group, count: int) -> list:
    """Ends of the first injections of a group."""
    info, prior = one.narrowed(trial.info), prior_named(one.prior)
    return [trial.one(draw(SEED, index, info, prior)) for index in range(count)]


@pytest.fixture
def guarded(testees: Roster):
    """Makes a trial of the compute path; its guard is taken away afterwards."""
    made = []

    def make() -> compute_part.Trial:
        made.append(compute_part.Trial(testees, "gpt-bfloat16"))
        return made[-1]

    yield make
    for trial in made:
        trial.close()


STATE = group("state", prior="even:2", target="weights")
BEFORE = group("compute", target="output_before_rounding")


# --- plan --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [EVEN, PUBLISHED, EVEN.only(strided_words_max=2), EVEN.only("nan", "strided")])
def test_a_prior_is_found_by_its_name(prior) -> None:
    assert prior_named(prior.name) == prior


def test_an_id_says_how_to_draw_it_again(testees: Roster) -> None:
    info = testees.named("gpt-float32").info
    for one in (group("state", target="weights"), group("compute", target="*output*", operation="mm")):
        narrowed, prior = one.narrowed(info), prior_named(one.prior)
        for index in range(5):
            injection = draw(SEED, index, narrowed, prior)
            drawn = origin(injection.id)
            assert drawn.part == one.part
            assert draw(drawn.seed, drawn.index, drawn.narrowed(info), drawn.prior) == injection


@pytest.mark.parametrize(
    ("work", "error", "said"),
    [
        (lambda t: prior_named("odd"), PlanError, 'prior "odd" is unknown; there are published, uniform_bit, even'),
        (lambda t: t.named("gpt-float8"), PlanError, 'subject "gpt-float8" is unknown; there are train-float32'),
        (
            lambda t: group("state", target="kv_cache").narrowed(t.named("gpt-bfloat16").info),
            NoSuchTarget,
            "kv_cache",
        ),
        (lambda t: origin("1.2"), ValueError, "SEED.INDEX.PRIOR.SUBJECT"),
        (lambda t: scale_for(0), PlanError, "--n 0"),
        (lambda t: prior_named("uniform_bit:nan"), NoShape, "nan"),
    ],
)
def test_bad_input_is_one_line(testees: Roster, work, error, said: str) -> None:
    with pytest.raises(error) as caught:
        work(testees)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_plan_has_the_faults_that_the_goals_need() -> None:
    assert sum(one.quota for one in GROUPS if one.part == "state") >= 3838
    assert sum(one.quota for one in GROUPS if one.part == "compute" and "float32" not in one.subject) >= 381
    assert [one.quota for one in groups(("state",), 1e-9)] == [1] * len(groups(("state",), 1.0))
    assert sum(one.quota for one in groups(("state",), scale_for(400))) >= 400


# --- trials, and their mutants -----------------------------------------------------------------------------------


def test_state_faults_are_seen_and_put_right(testees: Roster) -> None:
    found = run(state_part.Trial(testees, "gpt-bfloat16"), STATE, 40)
    changed = [end for fired, end in found if fired.changed]
    assert all(end.outcome in ("corrected", "detected") and not end.released for end in changed)
    assert all(end.repaired == (fired.words32 == 1) for fired, end in found if fired.changed)
    assert any(end.effect != "masked" for end in changed)


def test_mutant_third_sum(testees: Roster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its third sum the digest may put a wrong word right: nothing is repaired, or something badly."""

    def wrong(memory: torch.Tensor) -> torch.Tensor:
        sums = digest(memory)
        sums[:, 2] += sums[:, 0]
        return sums

    monkeypatch.setattr(resident, "digest", wrong)
    found = run(state_part.Trial(testees, "gpt-bfloat16"), STATE, 40)
    assert sum(end.repaired for _, end in found) < 0.5 * len(found)


def test_compute_faults_before_rounding_are_seen(guarded) -> None:
    found = run(guarded(), BEFORE, 25)
    assert not any(end.released for _, end in found)
    assert {"checksum"} == {name for _, end in found for name in end.detectors}


def test_mutant_wide_threshold(guarded, monkeypatch: pytest.MonkeyPatch, request) -> None:
    monkeypatch.setattr(checksum, "LIKELY", 1000.0 * checksum.LIKELY)
    checksum.bounds.cache_clear()
    request.addfinalizer(checksum.bounds.cache_clear)
    found = run(guarded(), BEFORE, 25)
    assert any(end.released for _, end in found)


def test_detectors_alone(guarded) -> None:
    trial = guarded()
    info = BEFORE.narrowed(trial.info)
    noticed = [trial.alone(draw(SEED, index, info, prior_named("even:nan"))) for index in range(3)]
    assert all("checksum" in names and "transit" not in names for names in noticed)
    after = group("compute", target="output_after_rounding").narrowed(trial.info)
    noticed = [trial.alone(draw(SEED, index, after, prior_named("even:multi_bit"))) for index in range(3)]
    assert all("transit" in names for names in noticed)


def test_no_wrong_answer_leaves_the_server(testees: Roster) -> None:
    trial = answers_part.Trial(testees, "serve-float32")
    found = run(trial, group("answers", subject="serve-float32", target="weights", prior="even:byte_contiguous"), 4)
    assert not any(end.released for _, end in found)
    assert any(end.detectors for _, end in found)


def test_mutant_gate_that_releases_everything(testees: Roster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scrubber, "begun_after", lambda self, mark: True)
    monkeypatch.setattr(Scrubber, "spoiled", lambda self, mark: False)
    monkeypatch.setattr(Scrubber, "turn", lambda self, worked_s, share: True)
    monkeypatch.setattr(Scrubber, "finish_pass", lambda self, max_s, mark=None: True)
    # The second wall: sums of weights that were taken when these were good. Taken now they fit what is there.
    monkeypatch.setattr(Weights, "sums_of", lambda self, w: native_product.kept(w))
    trial = answers_part.Trial(testees, "serve-float32")
    found = run(
        trial, group("answers", subject="serve-float32", target="weights", prior="even:byte_contiguous"), 12
    )
    assert any(end.released for _, end in found)


# --- the campaign ----------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """What Ctrl-C is in these tests."""


def order(folder: Path, *, scale: float = 1e-9) -> Order:
    return Order(folder=folder, seed=SEED, scale=scale, parts=("state",), steps=STEPS)


def test_whole_partial_and_gone_on_with(tmp_path: Path) -> None:
    seen: list[Progress] = []

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == 5:
            raise Interrupted

    with pytest.raises(Interrupted):
        Campaign(order(tmp_path)).carry_out(stop)
    partial = {row["id"] for row in read(tmp_path)}
    assert len(partial) == 5
    found = account.account(tmp_path, command="c", commit="", seed=SEED, ending="partial", reason="interrupted")
    assert found.exit_code == 130

    before = (tmp_path / CSV).read_text()
    Campaign(order(tmp_path)).carry_out(seen.append)
    assert (tmp_path / CSV).read_text().startswith(before), "what was done is not done again"
    assert seen[-1].done == pytest.approx(1.0)
    found = account.account(tmp_path, command="c", commit="", seed=SEED, ending="whole")
    assert found.exit_code == 0
    assert found.injections == len({row["id"] for row in read(tmp_path)})
    assert {line.part for line in found.by_target} == {"state"}
    harmful = [row for row in rows(tmp_path) if row.harmful]
    assert harmful
    assert all(row.caught for row in harmful)
    assert alone.read(tmp_path).keys() == {row.id for row in harmful}

    again, fired, end, _ = Campaign(order(tmp_path)).replay(harmful[0].id)
    row = next(row for row in read(tmp_path) if row["id"] == again.id)
    assert (end.effect, end.outcome) == (row["effect"], row["outcome"])
    assert "+".join(f"{value:x}" for value in fired.new) == row["new"]

    with pytest.raises(PlanError, match="holds a campaign of seed 3"):
        Campaign(Order(folder=tmp_path, seed=4, parts=("state",), steps=STEPS)).carry_out(seen.append)


class Blind:
    """A trial whose faults never fire."""

    def __init__(self, testees: Roster, subject: str) -> None:
        self.info = testees.named(subject).info

    def one(self, injection):
        raise NeverFired(f"injection {injection.id} never fired")

    def alone(self, injection):
        return ()


def test_a_fault_that_never_fired_is_no_pass(tmp_path: Path) -> None:
    with pytest.raises(NeverFired):
        Campaign(order(tmp_path), {"state": Blind}).carry_out(lambda progress: None)
    found = account.account(tmp_path, command="c", commit="", seed=SEED, ending="invalid", reason="it never fired")
    assert found.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "1.6"], "it has the form SEED.INDEX.PRIOR.SUBJECT"),
        (["--only", "1.6.odd.gpt-bfloat16"], 'prior "odd" is unknown'),
        (["--only", "1.6.even.gpt-float8"], 'subject "gpt-float8" is unknown'),
        (["--n", "-1"], "--n -1"),
        (["--out", "/dev/null/x"], "Not a directory"),
    ],
)
def test_command_line_refuses(arguments: list[str], said: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["hil", *arguments])
    assert program.main() == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_the_report_names_the_commit_that_ran(tmp_path: Path, monkeypatch, capsys) -> None:
    head = ["ran"]
    monkeypatch.setattr(machine, "commit", lambda: head[-1])
    # Somebody commits while the campaign runs.
    monkeypatch.setattr(Campaign, "carry_out", lambda self, tell: head.append("later"))
    with Ledger(tmp_path):
        pass
    monkeypatch.setattr(sys, "argv", ["hil", "--part", "state", "--json", "--quiet", "--out", str(tmp_path)])
    assert program.main() == 0
    assert json.loads(capsys.readouterr().out)["commit"] == "ran"
    assert head == ["ran", "later"]


@pytest.mark.process
def test_an_interruption_leaves_a_valid_ledger_and_says_so(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "hil.integrity",
        "--n",
        "100000",
        "--part",
        "state",
        "--json",
        "--out",
        str(tmp_path),
    ]
    with Child(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        child.stderr.readline()  # The first progress: it is at work.
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    report = json.loads(out)
    assert report["ending"] == "partial"
    assert report["injections"] == len(list(read(tmp_path)))
    assert (tmp_path / "report.html").exists()


# --- second injectors --------------------------------------------------------------------------------------------


def high_bits(module: nn.Module, seed: int) -> Iterator[second.Choice]:
    """As a package would choose: the highest bit of the exponent, one weight after the other."""
    name, parameter = next(iter(module.named_parameters()))
    words = parameter.detach().flatten().view(torch.int32)
    for element in range(len(words)):
        old = int(words[element]) & 0xFFFF_FFFF
        yield second.Choice(name, element, len(words), old, old ^ 1 << 30)


def test_a_second_injector_goes_on_where_it_was_and_counts_all(
    testees: Roster, tmp_path: Path, monkeypatch
) -> None:
    packages = (("torch", "torch", "stack-float32", high_bits), ("nobody", "nobody", "stack-float32", high_bits))
    monkeypatch.setattr(second, "PACKAGES", packages)
    for count in (3, 5):
        ran, missing = second.carry_out(tmp_path, testees, count)
        assert ran.ran
        assert re.match(rf"{count} weights of stack-float32: ([1-9]) of \1 harmful caught, 100 % \[", ran.text)
        assert [row.injector for row in rows(tmp_path)] == ["torch"] * count
        assert (missing.ran, "No module named 'nobody'" in missing.text) == (False, True)
