"""The Triton kernels: by the interpreter, compiled for the card, and nothing of them where they are not wanted."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flightsw.gpu.integrity import digest, kernels
from flightsw.gpu.integrity.adamw_slot import KINDS, Slot
from flightsw.gpu.integrity.digest import BLOCK_BYTES
from flightsw.gpu.integrity.guarded_adamw import GuardedAdamW

HERE = Path(__file__).parent
with_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (extra `dev`)"
)


@with_triton
def test_kernels_under_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov", "-q"]
    run = subprocess.run(
        [*command, "-o", "markers=flown: by tiles of the size that is flown", str(HERE / "interpreted_kernels.py")],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What the kernels take when compiled for an H100; the interpreter sees none of that."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    run = subprocess.run(
        [sys.executable, str(HERE / "compiled_kernels.py")],
        env={**environment, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@with_triton
@pytest.mark.parametrize(
    ("kernel", "registers_max", "instruction"),
    [
        ("digest", 51, "cp.async.cg.shared.global"),  # Five programs of 256 threads on a multiprocessor.
        ("adamw", 128, "cp.async.ca.shared.global"),  # Two.
        ("gemm", 255, "wgmma.mma_async"),  # One or more; what counts is that the tensor core's own form is used.
    ],
)
def test_kernels_compile_for_the_card(compiled, kernel, registers_max, instruction):
    assert compiled[kernel]["registers"] <= registers_max
    assert compiled[kernel]["stack_bytes"] == 0  # Nothing spilled.
    assert instruction in compiled[kernel]["ptx"]
    assert "atom" not in compiled[kernel]["ptx"]


def test_a_processor_has_kernels_of_its_own():
    pytest.importorskip("numba")
    assert kernels.digests(torch.device("cpu")) is kernels.native(torch.device("cpu"), "native_digest") is not None


def test_a_processor_without_them_has_none():
    with kernels.plain():
        for ask in (kernels.digests, kernels.adamw, kernels.gemm):
            assert ask(torch.device("cpu")) is None


@pytest.mark.gpu
@with_triton
@pytest.mark.parametrize("size", [1, 4099, BLOCK_BYTES, 40 * BLOCK_BYTES + 12_345])
def test_the_card_gives_the_processor_s_digests(size):
    memory = torch.randint(0, 256, (size,), generator=torch.Generator().manual_seed(size), dtype=torch.uint8)
    assert kernels.digests(torch.device("cuda")) is not None
    assert torch.equal(digest.digest(memory.cuda()).cpu(), digest.digest(memory))


@pytest.mark.gpu
@with_triton
def test_the_card_s_update_is_torch_s_bit_for_bit():
    slots, plain = [], []
    for number, shape in enumerate(((3,), (7, 5), (digest.BLOCK_WORDS + 13,), (1000, 777))):
        generator = torch.Generator().manual_seed(number)
        parameter, first, second = (torch.randn(shape, generator=generator).cuda() for _ in range(3))
        tensors = (parameter, first * 0.01, second.square(), torch.tensor(41.0 + number, device="cuda"))
        plain.append([tensor.clone() for tensor in tensors])
        sums = tuple(digest.digest(tensor.reshape(-1).view(torch.uint8)) for tensor in tensors)
        slots.append(Slot(**dict(zip(KINDS, tensors, strict=True)), digests=sums, weight_decay=0.1))
    update = GuardedAdamW(slots, betas=(0.9, 0.99), epsilon=1e-8)
    for _ in range(3):
        gradients = [torch.randn_like(slot.parameter) for slot in slots]
        outcome = update.step(gradients, 3e-3)
        torch._foreach_add_([state[3] for state in plain], 1)
        torch._fused_adamw_(
            [state[0] for state in plain], gradients, [state[1] for state in plain], [state[2] for state in plain],
            [], [state[3] for state in plain], lr=3e-3, beta1=0.9, beta2=0.99, weight_decay=0.1, eps=1e-8,
            amsgrad=False, maximize=False,
        )  # fmt: skip
        assert not outcome.unusable
        for slot, state in zip(slots, plain, strict=True):
            for tensor, sums, other in zip(slot.tensors, slot.digests, state, strict=True):
                assert torch.equal(tensor, other)
                assert torch.equal(digest.digest(tensor.reshape(-1).view(torch.uint8)), sums)


@pytest.mark.gpu
@with_triton
@pytest.mark.parametrize(("m", "k", "n"), [(1, 64, 64), (1000, 768, 2304), (4096, 4096, 4096)])
def test_the_card_s_products_and_sums(m, k, n):
    product = kernels.gemm(torch.device("cuda"))
    a, weight = (torch.randn(shape, device="cuda").bfloat16() for shape in ((m, k), (n, k)))
    found, sums = product.mm(a, weight.T)
    exact = a.double() @ weight.double().T
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-2)
    size = (a.double().abs() @ weight.double().abs().T).sum(dim=1)
    assert ((sums - exact.sum(dim=1)).abs() <= 1e-6 * size).all()
