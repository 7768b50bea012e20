"""A load for the bench: works the card as ordered, so that it can be measured (``hil calibrate gpu``).

    python -m flightsw.gpu.bench_load --meter FILE [--device auto|cpu|cuda] [--preset NAME]

The work is that of the workers: training is ``Trainer.micro_batch`` of the real workload, decoding the same model
with its cache, pacing the worker's ``Pacer``. Only "kernel" is artificial: matrix products of a wanted length, to
see how long a kernel in flight holds up a stop. Messages: ``flightsw.link.load``.

A new order interrupts at the end of the unit in flight. No clock, power limit or mode of the card is touched; a
partition of its multiprocessors (green context) exists in this process only and ends with it.
"""

import argparse
import contextlib
import functools
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import msgspec
import torch

from flightsw.gpu.channel import ORPHAN_GRACE_S, ORPHAN_STATUS
from flightsw.gpu.meter import Meter
from flightsw.gpu.pacing import Pacer
from flightsw.gpu.protocol import TrainSpec
from flightsw.gpu.workloads import corpus
from flightsw.gpu.workloads.gpt import GPT, PRESETS, Cache
from flightsw.gpu.workloads.job import JobFault, pick_device
from flightsw.gpu.workloads.recipe import model_config
from flightsw.gpu.workloads.trainer import NonFinite, Trainer
from flightsw.link import load
from flightsw.link.load import Answer, Order

WARM_UNITS: Final = 5
WARM_S: Final = 1.0
"""A warm-up runs ``WARM_UNITS`` units and no longer than this after the first."""
PRESET: Final = {"cpu": "tiny", "cuda": "gpt2-85m"}
LEARNING_RATE: Final = 1e-6
"""The model must stay finite for minutes; nobody wants it trained."""
SIDE: Final = {"cpu": 256, "cuda": 4096}
"""Rows of the square matrices of "kernel"."""


@functools.cache
def _corpus(context: int) -> corpus.Corpus:
    """The text to train on; read once for all sizes of a micro-batch."""
    return corpus.load("", context)


class Work(Protocol):
    """One kind of work, ready to run."""

    tokens: float

    def unit(self) -> None:
        """The least piece, finished on the device when this returns."""


class Train:
    """Optimiser steps of the training job."""

    def __init__(self, preset: str, batch: int, device: torch.device) -> None:
        spec = TrainSpec(preset=preset, batch_size=batch, learning_rate=LEARNING_RATE, deterministic=False)
        config = model_config(preset)
        self._trainer = Trainer(spec, _corpus(config.context), device)
        self.tokens = float((batch or PRESETS[preset].batch_size) * config.context)

    def unit(self) -> None:
        """One micro-batch, with the update of the weights."""
        with contextlib.suppress(NonFinite):
            self._trainer.micro_batch()


class Decode:
    """Tokens one by one for a batch of sequences, from the cache, over and over."""

    def __init__(self, preset: str, batch: int, device: torch.device) -> None:
        self._config = model_config(preset)
        rows = batch or 8
        torch.manual_seed(1)
        self._dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._model = GPT(self._config).to(device, self._dtype).eval()
        self._cache = Cache(self._config, rows, device, self._dtype)
        self._token = torch.zeros((rows, 1), dtype=torch.int64, device=device)
        # Half full: attention reads as much as it does in the middle of an answer.
        self._first = self._config.context // 2
        self._position = self._first
        self.tokens = float(rows)

    @torch.inference_mode()
    def unit(self) -> None:
        """One token for every row."""
        if self._position >= self._config.context:
            self._position = self._first
        positions = torch.full_like(self._token, self._position)
        logits = self._model.forward_cached(self._token, self._cache, positions)
        self._token = logits.argmax(dim=-1)
        self._token[:, 0].tolist()  # The host reads every token, as it does to answer.
        self._position += 1


class Kernel:
    """Matrix products in a row until ``length_s`` is full; how many follows from the time of one."""

    tokens = 0.0

    def __init__(self, length_s: float, device: torch.device) -> None:
        side = SIDE[device.type]
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._device = device
        self._a = torch.randn((side, side), device=device, dtype=dtype) / side**0.5
        self._out = torch.empty_like(self._a)
        self._count = 1
        self.unit()
        trial = 8
        start_s = time.monotonic()
        self._run(trial)
        self._count = max(1, round(length_s / ((time.monotonic() - start_s) / trial)))

    def unit(self) -> None:
        """As many products as fit."""
        self._run(self._count)

    def _run(self, count: int) -> None:
        for _ in range(count):
            torch.mm(self._a, self._a, out=self._out)
        if self._device.type == "cuda":
            torch.cuda.synchronize()


class Partition:
    """Part of the multiprocessors, entered around each unit; the whole card when 0 are asked for."""

    def __init__(self, sms: int, device: torch.device) -> None:
        """Raises ``JobFault`` where this torch or this device has no green contexts."""
        self._context: Any = None
        if not sms:
            return
        if device.type != "cuda":
            raise JobFault("sms", "a processor has no multiprocessors to partition")
        try:
            from torch.cuda.green_contexts import GreenContext

            self._context = GreenContext.create(num_sms=sms, device_id=device.index or 0)
        except (ImportError, RuntimeError, AttributeError, TypeError) as error:
            raise JobFault("sms", f"no green context of {sms} multiprocessors: {_line(error)}") from None

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Work inside is confined to the partition, and finished when this ends."""
        if self._context is None:
            yield
            return
        self._context.set_context()
        try:
            yield
            torch.cuda.synchronize()
        finally:
            self._context.pop_context()


class Load:
    """Runs the newest order. ``take`` and ``end`` are for the reading thread, ``run`` for the main thread."""

    def __init__(self, meter: Meter, device: torch.device, preset: str, answer: Callable[[Answer], None]) -> None:
        self._meter = meter
        self._device = device
        self._preset = preset
        self._answer = answer
        self._pacer = Pacer(0.0)
        self._changed = threading.Condition()
        self._order = Order(id=0)
        self._ended = False
        self._key: tuple[object, ...] = ()
        self._work: Work | None = None
        self._partition = Partition(0, device)
        self._unit_s = 0.0

    def take(self, order: Order) -> None:
        """The newest order; rest acts on the unit that would come next."""
        with self._changed:
            self._order = order
            self._pacer.set_duty(0.0 if order.work == "rest" or order.period_s else order.duty)
            self._pacer.wake()
            self._changed.notify_all()

    def end(self) -> None:
        """Leave ``run`` after the unit in flight."""
        with self._changed:
            self._ended = True
            self._pacer.wake()
            self._changed.notify_all()

    def run(self) -> None:
        """Work until ``end``."""
        done = 0
        while not self._ended:
            order = self._order
            if order.id != done:
                self._answer(self._prepared(order))
                done = order.id
            if order.work == "rest" or self._work is None:
                self._sleep_unless_new(order, None)
            elif order.period_s:
                self._cycle(order)
            elif self._pacer.wait_turn():
                self._unit()

    def _prepared(self, order: Order) -> Answer:
        if order.work == "rest":
            return Answer(id=order.id)
        key = (order.work, order.batch, order.sms, order.kernel_s)
        if key != self._key:
            # Nothing of the old work may stay on the device while the new one is built.
            self._work, self._key = None, ()
            try:
                self._partition = Partition(order.sms, self._device)
                work = self._made(order)
                self._unit_s = self._warm(work)
            except JobFault as fault:
                return Answer(id=order.id, ok=False, reason=fault.reason)
            except (RuntimeError, MemoryError) as error:
                # Out of memory, a kernel that this card does not have: that point of the sweep is left out.
                return Answer(id=order.id, ok=False, reason=_line(error))
            self._work, self._key = work, key
        assert self._work is not None, "a prepared order has its work"
        return Answer(id=order.id, units_tokens=self._work.tokens, unit_s=self._unit_s)

    def _made(self, order: Order) -> Work:
        match order.work:
            case "train":
                return Train(self._preset, order.batch, self._device)
            case "decode":
                return Decode(self._preset, order.batch, self._device)
            case _:
                return Kernel(order.kernel_s, self._device)

    def _warm(self, work: Work) -> float:
        """Time of one unit, s: the median of the warm ones."""
        times_s: list[float] = []
        end_s = float("inf")
        while len(times_s) < WARM_UNITS + 1 and time.monotonic() < end_s:
            start_s = time.monotonic()
            with self._partition.entered():
                work.unit()
            times_s.append(time.monotonic() - start_s)
            end_s = min(end_s, time.monotonic() + WARM_S)
        warm = sorted(times_s[1:] or times_s)
        return warm[len(warm) // 2]

    def _unit(self) -> None:
        assert self._work is not None
        start_s = time.monotonic()
        with self._partition.entered():
            self._work.unit()
        busy_s = time.monotonic() - start_s
        self._meter.add(busy_s)
        self._pacer.spent(busy_s)

    def _cycle(self, order: Order) -> None:
        """Strict cycles on a grid; a unit that overlaps the end of its share is not begun."""
        begin_s = time.monotonic()
        number = 0
        while self._order is order and not self._ended:
            start_s = begin_s + number * order.period_s
            while (
                self._order is order
                and not self._ended
                and time.monotonic() < start_s + order.duty * order.period_s
            ):
                self._unit()
            number = max(number + 1, int((time.monotonic() - begin_s) / order.period_s))
            self._sleep_unless_new(order, begin_s + number * order.period_s - time.monotonic())

    def _sleep_unless_new(self, order: Order, seconds: float | None) -> None:
        if seconds is not None and seconds <= 0.0:
            return
        with self._changed:
            self._changed.wait_for(lambda: self._order is not order or self._ended, seconds)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _read(taker: Load) -> None:
    """Orders from standard input until its end; then the process has a moment to leave by itself."""
    for line in sys.stdin.buffer:
        try:
            taker.take(load.decode_order(line[: load.LINE_BYTES_MAX]))
        except msgspec.MsgspecError as error:
            print(f"bench_load: {_line(error)}", file=sys.stderr)
    timer = threading.Timer(ORPHAN_GRACE_S, os._exit, args=(ORPHAN_STATUS,))
    timer.daemon = True
    timer.start()
    taker.end()


def _greeting(device: torch.device) -> Answer:
    card, multiprocessors, software = platform.processor() or platform.machine(), 0, f"torch {torch.__version__}"
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        card, multiprocessors = properties.name, properties.multi_processor_count
        software += f", CUDA {torch.version.cuda}"
    return Answer(id=-1, device=device.type, card=card, software=software, multiprocessors=multiprocessors)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m flightsw.gpu.bench_load", description="A load for the bench")
    parser.add_argument("--meter", required=True, help="file of the activity meter")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--preset", choices=tuple(PRESETS), help="model that trains and decodes")
    options = parser.parse_args(arguments)
    try:
        device, meter = pick_device(options.device), Meter(options.meter)
    except JobFault as fault:
        print(f"bench_load: {fault.reason}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"bench_load: {options.meter}: {error.strerror}", file=sys.stderr)
        return 2
    if device.type == "cpu":
        torch.set_num_threads(1)
    lock = threading.Lock()

    def answer(message: Answer) -> None:
        with lock:
            sys.stdout.buffer.write(load.encode(message))
            sys.stdout.buffer.flush()

    taker = Load(meter, device, options.preset or PRESET[device.type], answer)
    answer(_greeting(device))
    threading.Thread(target=_read, args=(taker,), name="orders", daemon=True).start()
    try:
        taker.run()
    except BrokenPipeError:
        # The bench is gone, and nobody is left to work for.
        os._exit(ORPHAN_STATUS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
