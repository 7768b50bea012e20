"""The inference job: bounded queue, one reply per request, hot swap between answers, only verified weights."""

from pathlib import Path

import msgspec
import pytest
import torch
from worker_harness import WorkerProcess

from flightsw.gpu.checkpoint.ring import Rejection, Ring
from flightsw.gpu.meter import Meter
from flightsw.gpu.pacing import Pacer
from flightsw.gpu.protocol import (
    Fault,
    Generate,
    Heartbeat,
    InferSpec,
    IntegrityReport,
    Pace,
    Ready,
    Rejected,
    Reply,
    Stop,
    Swapped,
    Vigilance,
)
from flightsw.gpu.workloads import infer, model_at_hand
from flightsw.gpu.workloads.gpt import GPT, PRESETS
from flightsw.gpu.workloads.infer import Server
from flightsw.gpu.workloads.job import Job, JobFault
from flightsw.gpu.workloads.served import GptEngine, Model, RingSource
from flightsw.gpu.workloads.sources import open_source

CPU = torch.device("cpu")
CONFIG = PRESETS["micro"].model


def gpt(seed: int) -> GPT:
    torch.manual_seed(seed)
    return GPT(CONFIG)


def request(number: int, **changes: object) -> Generate:
    values = {"prompt": "hello", "max_tokens": 6, "temperature": 0.0, "top_k": 0, "seed": 0} | changes
    return Generate(request=number, **values)


class Shelf:
    """A source whose models a test puts on the shelf."""

    def __init__(self, *models: Model) -> None:
        self.models = list(models)

    def first(self) -> Model | None:
        return self.newer()

    def newer(self) -> Model | None:
        return self.models.pop(0) if self.models else None

    def again(self) -> Model | None:
        return self.newer()

    def close(self) -> None:
        pass


class Bench:
    """A server on a real job, with its messages in a list; time between looks for models is no matter here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, source: Shelf, **changes: object) -> None:
        monkeypatch.setattr(model_at_hand, "POLL_S", 0.0)
        monkeypatch.setattr(infer, "IDLE_S", 0.0)
        self.sent: list[object] = []
        self.job = Job(self.sent.append, Pacer(1.0), Meter())
        self.server = Server(InferSpec(batch_max=2, **changes), self.job, source)
        self.server.begin(CPU)

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.server.turn()

    def until(self, condition) -> None:
        for _ in range(2000):
            if condition():
                return
            self.server.turn()
        raise AssertionError(f"never; sent {self.sent}")

    def replies(self) -> dict[int, Reply]:
        found = [message for message in self.sent if isinstance(message, Reply)]
        assert len({reply.request for reply in found}) == len(found), "one reply per request"
        return {reply.request: reply for reply in found}


def model(generation: int, rows: int = 2) -> Model:
    return Model(GptEngine(gpt(generation), rows, CPU), generation, 10 * generation)


def test_every_request_gets_one_reply_and_is_counted(monkeypatch) -> None:
    bench = Bench(monkeypatch, Shelf(model(1)), integrity="off")
    for number in range(5):
        bench.job.post(request(number))
    bench.until(lambda: len(bench.replies()) == 5)
    for reply in bench.replies().values():
        assert (reply.finish, reply.tokens, reply.generation) == ("length", 6, 1)
        assert reply.duration_s >= 0.0
    progress = bench.job.progress
    assert (progress.tokens, progress.step, progress.pending) == (30, 5, 0)
    assert bench.job.meter.micro_batches == 3 * 6, "two rows: three waves of one fill and five steps"


def test_queue_is_bounded_and_refusals_are_clear(monkeypatch) -> None:
    bench = Bench(monkeypatch, Shelf(), queue_max=2)
    for number in range(4):
        bench.job.post(request(number))
    bench.job.post(request(9, max_tokens=0))
    bench.turns(1)
    replies = bench.replies()
    assert set(replies) == {2, 3, 9}
    assert {reply.finish for reply in replies.values()} == {"failed"}
    assert "queue is full: 2 requests" in replies[2].text
    assert "max_tokens" in replies[9].text
    assert bench.job.progress.pending == 2


def test_hot_swap_waits_for_running_answers(monkeypatch) -> None:
    shelf = Shelf(model(1))
    bench = Bench(monkeypatch, shelf)
    bench.job.post(request(0, max_tokens=30))
    bench.turns(3)
    shelf.models.append(model(2))
    bench.turns(2)
    bench.job.post(request(1))
    bench.until(lambda: len(bench.replies()) == 2)
    kinds = [type(message) for message in bench.sent if not isinstance(message, IntegrityReport)]
    assert kinds == [Ready, Reply, Swapped, Reply]
    assert {number: reply.generation for number, reply in bench.replies().items()} == {0: 1, 1: 2}
    alone = Bench(monkeypatch, Shelf(model(1)))
    alone.job.post(request(0, max_tokens=30))
    alone.until(alone.replies)
    assert alone.replies()[0].text == bench.replies()[0].text, "the answer is the old weights' alone"


def test_requests_wait_for_a_first_checkpoint(monkeypatch) -> None:
    shelf = Shelf()
    bench = Bench(monkeypatch, shelf)
    assert bench.sent[0].generation == -1
    bench.job.post(request(0))
    bench.turns(3)
    assert bench.replies() == {}
    shelf.models.append(model(4))
    bench.until(bench.replies)
    assert bench.replies()[0].generation == 4


def test_without_a_model_requests_fail_in_the_end(monkeypatch) -> None:
    monkeypatch.setattr(infer, "MODEL_WAIT_MAX_S", 0.0)
    bench = Bench(monkeypatch, Shelf())
    bench.job.post(request(0))
    bench.turns(1)
    assert "job:train has no verified checkpoint" in bench.replies()[0].text
    assert bench.replies()[0].generation == -1


def test_stop_answers_what_runs_and_what_waits(monkeypatch) -> None:
    bench = Bench(monkeypatch, Shelf(model(1)))
    for number in range(4):
        bench.job.post(request(number, max_tokens=500))
    bench.turns(5)
    bench.server.fail_all("stopped")
    assert {reply.finish for reply in bench.replies().values()} == {"failed"}
    assert len(bench.replies()) == 4
    assert bench.job.progress.pending == 0


def test_broken_weights_release_nothing(monkeypatch) -> None:
    broken = gpt(1)
    with torch.no_grad():
        broken.norm.weight[3] = float("nan")
    bench = Bench(monkeypatch, Shelf(Model(GptEngine(broken, 2, CPU), 1, 1)))
    bench.job.post(request(0))
    bench.until(bench.replies)
    reply = bench.replies()[0]
    assert (reply.finish, reply.tokens) == ("failed", 0)
    assert "not finite" in reply.text


def test_an_idle_server_makes_progress_but_no_heat(monkeypatch) -> None:
    bench = Bench(monkeypatch, Shelf(model(1)))
    before = bench.job.progress.progress
    bench.turns(3)
    assert bench.job.progress.progress == before + 3
    assert bench.job.meter.micro_batches == 0


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (InferSpec(model="job:train"), "checkpoint_dir"),
        (InferSpec(model="job:"), "job:ID"),
        (InferSpec(model="gpt-2"), "hf:DIRECTORY"),
    ],
    ids=str,
)
def test_a_wrong_specification_is_one_clear_line(spec: InferSpec, named: str) -> None:
    with pytest.raises(JobFault, match=named) as caught:
        open_source(spec, CPU, Job(lambda message: None, Pacer(1.0), Meter()))
    assert caught.value.code == "spec"


# --- the ring as a source --------------------------------------------------------------------------------------


class Trained:
    """A ring with a writer, as the training job would hold it."""

    def __init__(self, folder: Path) -> None:
        self.ring = Ring(folder)
        self.ring.open_for_writing()

    def commit(self, seed: int, **facts: str) -> int:
        weights = {f"model.{name}": tensor.detach() for name, tensor in gpt(seed).named_parameters()}
        facts = {"gpt": msgspec.json.encode(CONFIG).decode()} | facts
        extra = {"optimiser.step": torch.zeros(4096)}
        return self.ring.commit(10 * seed, facts, weights | extra).generation

    def flip(self, generation: int, place: float = 0.5) -> None:
        path = self.ring.path(generation)
        data = bytearray(path.read_bytes())
        data[int(place * len(data))] ^= 0x10
        path.write_bytes(data)


@pytest.fixture
def trained(tmp_path: Path):
    writer = Trained(tmp_path / "ring")
    yield writer
    writer.ring.close()


@pytest.fixture
def source(trained: Trained):
    told: list[Rejection] = []
    one = RingSource(trained.ring.folder, 2, CPU, told.append)
    one.told = told
    yield one
    one.close()


def test_newest_verified_generation_is_served(trained: Trained, source: RingSource) -> None:
    for seed in (1, 2, 3):
        newest = trained.commit(seed)
    found = source.first()
    assert (found.generation, found.step) == (newest, 30)
    expected = GptEngine(gpt(3), 1, CPU).fill([0], [0], [[1, 2, 3]])
    assert torch.equal(found.engine.fill([0], [0], [[1, 2, 3]]), expected)
    assert source.newer() is None


@pytest.mark.parametrize("place", [0.0, 0.01, 0.5, 0.999], ids=str)
def test_corrupt_newest_is_rejected_once_and_the_older_serves(
    trained: Trained, source: RingSource, eventually, place: float
) -> None:
    good, bad = trained.commit(1), trained.commit(2)
    trained.flip(bad, place)
    assert source.first().generation == good
    assert [one.generation for one in source.told] == [bad]
    worse = trained.commit(3)
    trained.flip(worse, place)
    eventually(lambda: (source.newer(), len(source.told) >= 2)[1], 20, "second rejection")
    next_good = trained.commit(4)
    found: list[Model] = []
    eventually(lambda: (found.append(source.newer()), found[-1])[1], 20, "newer generation")
    assert found[-1].generation == next_good
    assert [one.generation for one in source.told] == [bad, worse], "told once"


def test_damage_never_turns_the_served_model_back(trained: Trained, source: RingSource, eventually) -> None:
    first, second = trained.commit(1), trained.commit(2)
    assert source.first().generation == second
    trained.flip(second)
    third = trained.commit(3)
    trained.flip(third)
    seen = [source.newer()]
    eventually(lambda: (seen.append(source.newer()), len(source.told) >= 2)[1], 20, "both rejections")
    seen += [source.newer() for _ in range(3)]
    assert set(seen) == {None}, f"generation {first} verifies, but is older than what is served"


def test_a_model_is_held_against_its_checkpoint_and_loaded_again(trained: Trained, source: RingSource) -> None:
    trained.commit(1)
    newest = trained.commit(2)
    first = source.first()
    assert first.flaw() == ""
    with torch.no_grad():
        first.engine.module.norm.weight[3] += 1.0
    assert first.flaw() == f"norm.weight in memory is not what generation {newest} has"
    again = source.again()
    assert (again.generation, again.flaw()) == (newest, "")
    assert source.newer() is None


def test_an_older_checkpoint_serves_when_the_newest_is_gone_at_a_reload(
    trained: Trained, source: RingSource
) -> None:
    older, newest = trained.commit(1), trained.commit(2)
    assert source.first().generation == newest
    trained.flip(newest)
    assert source.again().generation == older
    trained.flip(older)
    assert source.again() is None


def test_a_checkpoint_of_something_else_is_rejected(trained: Trained, source: RingSource) -> None:
    trained.commit(1, gpt="")
    assert source.first() is None
    assert "which GPT" in source.told[0].reason
    trained.commit(2, gpt='{"layers":3,"heads":2,"width":32,"context":32}')
    other = RingSource(trained.ring.folder, 2, CPU, source.told.append)
    assert other.first() is None
    other.close()
    assert "do not fit" in source.told[-1].reason


# --- the real process ------------------------------------------------------------------------------------------


@pytest.mark.process
def test_worker_serves_swaps_rejects_and_stops(trained: Trained) -> None:
    spec = InferSpec(checkpoint_dir=str(trained.ring.folder), batch_max=4, device="cpu")
    with WorkerProcess(spec) as worker:
        assert worker.expect(Ready).generation == -1
        worker.send(Pace(duty=1.0))
        worker.send(request(1))
        assert worker.expect(Heartbeat, lambda beat: beat.pending == 1).tokens == 0
        first = trained.commit(1)
        assert worker.expect(Swapped).generation == first
        assert worker.expect(Reply).generation == first
        second = trained.commit(2)
        assert worker.expect(Swapped).generation == second
        worker.send(request(2))
        assert worker.expect(Reply).finish == "length"
        worker.send(Vigilance(level="storm"))
        assert worker.expect(IntegrityReport, lambda report: report.level == "storm").detected == 0
        half = trained.ring.folder / "half"
        half.write_bytes(trained.ring.path(second).read_bytes()[:-7])
        half.rename(trained.ring.path(second + 1))
        assert worker.expect(Rejected).generation == second + 1
        worker.send(Pace(duty=0.0))
        worker.send(request(3))
        worker.expect(Heartbeat, lambda beat: beat.pending == 1)
        worker.send(Stop())
        assert worker.wait() == 0
    last = worker.all(Reply)[-1]
    assert (last.request, last.finish) == (3, "failed")
    assert not worker.all(Fault)
    assert len(worker.all(Rejected)) == 1
