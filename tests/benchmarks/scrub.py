"""What the integrity kernels cost on the device at hand: digest, guarded update, product with row sums.

    OMP_NUM_THREADS=1 python tests/benchmarks/scrub.py [cpu | cuda]

Each figure comes with what it is held against, measured in turn with it in the same run: the digest against the
fastest plain read there is (torch's sum of 64-bit words), the update against torch's fused AdamW, the product
against torch's own. On CUDA the time between two events counts, on the CPU the processor time of this thread; the
median of ``TURNS`` is the figure, their spread stands beside it. The bytes of a figure are those that have to move:
each word once for the digest, 28 bytes a parameter for the update.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Final

import msgspec
import torch

from flightsw.gpu.integrity import digest, kernels
from flightsw.gpu.integrity.adamw_slot import KINDS, Slot
from flightsw.gpu.integrity.guarded_adamw import GuardedAdamW

TURNS: Final = 15
WARM_UP: Final = 3
"""Calls before the clock: kernels are compiled, memory is mapped."""
UPDATE_BYTES: Final = 28
"""Of a float32 parameter: p, g, m and v are read, p, m and v are written."""


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds a call, of something and of what it is held against; medians, and the middle half's spread."""

    seconds: float
    seconds_spread: float
    baseline_s: float
    baseline_spread_s: float

    @property
    def ratio(self) -> float:
        """How many times as long as the baseline."""
        return self.seconds / self.baseline_s


def scrub(device: torch.device, size_bytes: int) -> Timed:
    """One digest of this many bytes, against one plain sum of them."""
    words = torch.randint(-(2**62), 2**62, (size_bytes // 8,), dtype=torch.int64, device=device)
    memory = words.view(torch.uint8)
    return _in_turn(device, lambda: digest.digest(memory), lambda: words.sum())


def update(device: torch.device, shapes: list[tuple[int, ...]]) -> Timed:
    """One guarded update of float32 parameters of these shapes, against torch's fused AdamW."""
    parameters, firsts, seconds = ([torch.randn(shape, device=device) for shape in shapes] for _ in range(3))
    gradients = [torch.randn(shape, device=device) for shape in shapes]
    seconds = [second.square_() for second in seconds]
    steps = [torch.full((), 100.0, device=device) for _ in shapes]
    slots = [
        Slot(
            **dict(zip(KINDS, tensors, strict=True)),
            digests=tuple(digest.digest(tensor.reshape(-1).view(torch.uint8)) for tensor in tensors),
            weight_decay=0.1,
        )
        for tensors in zip(parameters, firsts, seconds, steps, strict=True)
    ]
    guarded = GuardedAdamW(slots, betas=(0.9, 0.99), epsilon=1e-8)
    other = [[tensor.clone() for tensor in tensors] for tensors in (parameters, firsts, seconds, steps)]

    def plain() -> None:
        torch._foreach_add_(other[3], 1)
        torch._fused_adamw_(
            other[0], gradients, other[1], other[2], [], other[3], lr=1e-4, beta1=0.9, beta2=0.99, weight_decay=0.1,
            eps=1e-8, amsgrad=False, maximize=False,
        )  # fmt: skip

    timed = _in_turn(device, lambda: guarded.step(gradients, 1e-4), plain)
    assert not guarded.step(gradients, 1e-4).unusable, "undamaged state was called damaged"
    return timed


def product(device: torch.device, m: int, k: int, n: int) -> Timed | None:
    """A bfloat16 product (m, k) (k, n) with its row sums, against torch's without; None without a kernel."""
    kernel = kernels.gemm(device)
    if kernel is None:
        return None
    a, weight = (torch.randn(shape, device=device).bfloat16() for shape in ((m, k), (n, k)))
    return _in_turn(device, lambda: kernel.mm(a, weight.T), lambda: torch.mm(a, weight.T))


def gpt_shapes(layers: int, width: int, context: int = 1024, vocabulary: int = 256) -> list[tuple[int, ...]]:
    """Shapes of a GPT's parameters, tied embedding: 12 layers of 768 are 85 M, 24 of 1024 are 303 M."""
    block = [
        (width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,), (width,), (width,),
        (4 * width, width), (4 * width,), (width, 4 * width), (width,),
    ]  # fmt: skip
    return [(vocabulary, width), (context, width), *(shape for _ in range(layers) for shape in block), (width,)]


def _in_turn(device: torch.device, call: Callable[[], object], baseline: Callable[[], object]) -> Timed:
    for _ in range(WARM_UP):
        call()
        baseline()
    taken = [(_seconds(device, call), _seconds(device, baseline)) for _ in range(TURNS)]
    (first, first_spread), (second, second_spread) = (_middle(list(times)) for times in zip(*taken, strict=True))
    return Timed(seconds=first, seconds_spread=first_spread, baseline_s=second, baseline_spread_s=second_spread)


def _middle(times_s: list[float]) -> tuple[float, float]:
    low, median, high = statistics.quantiles(times_s, n=4)
    return median, high - low


def _seconds(device: torch.device, call: Callable[[], object]) -> float:
    if device.type != "cuda":
        begun_s = time.thread_time()
        call()
        return time.thread_time() - begun_s
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def main() -> int:
    """Measure what the device at hand can hold in reasonable time, and print it."""
    device = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu")
    on_card = device.type == "cuda"
    torch.set_num_threads(1)
    size_bytes = (16 << 30) if on_card else (256 << 20)
    timed = scrub(device, size_bytes)
    print(f"digest of {size_bytes >> 20} MiB: {_rate(size_bytes, timed)}; plain sum as baseline")
    for layers, width in ((12, 768), (24, 1024)) if on_card else ((3, 96), (6, 384), (12, 768)):
        shapes = gpt_shapes(layers, width)
        count = sum(torch.Size(shape).numel() for shape in shapes)
        timed = update(device, shapes)
        print(f"update of {count / 1e6:.1f} M parameters: {_rate(UPDATE_BYTES * count, timed)}; torch as baseline")
    for m, k, n in ((8192, 768, 2304), (8192, 1024, 4096), (8192, 4096, 4096)):
        if found := product(device, m, k, n):
            tera = 2 * m * k * n / found.seconds / 1e12
            print(f"product {m} x {k} x {n}: {tera:.0f} TFLOP/s, {100 * (found.ratio - 1):+.1f} % beside torch")
    return 0


def _rate(size_bytes: int, timed: Timed) -> str:
    spread = 100 * timed.seconds_spread / timed.seconds
    return (
        f"{size_bytes / timed.seconds / 1e9:.2f} GB/s (spread {spread:.0f} %), {1000 * timed.seconds:.2f} ms, "
        f"{timed.ratio:.2f} times the {1000 * timed.baseline_s:.2f} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
