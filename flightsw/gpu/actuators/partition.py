"""SM partition: a worker on a part of the card's multiprocessors, by CUDA green contexts where PyTorch has them.

Fewer multiprocessors draw less and stop no later; unlike pacing they leave the rest of the card free at every
moment. Needs no privilege. The feature is found, not assumed: ``torch.cuda.green_contexts`` came with PyTorch 2.9
and is in beta, its CPU builds carry the module without the support, the driver must know it, and its interface
changed once: up to 2.11 a context is pushed and popped, later ones hand out a stream.

Sizes go in steps: at least ``SMS_MIN`` and in multiples of ``SMS_STEP`` on compute capability 9.0 (CUDA Driver API,
green contexts), which older ones meet too.
"""

import contextlib
import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

SMS_MIN: Final = 8
SMS_STEP: Final = 8
MODULE: Final = "torch.cuda.green_contexts"


class PartitionUnavailable(Exception):
    """There is no partition to be had here; the text says why."""


def size(fraction: float, sms: int) -> int:
    """Multiprocessors of a part of a card that has ``sms``: rounded to the step, at least the least, at most
    all."""
    if fraction >= 1.0:
        return sms
    steps = round(fraction * sms / SMS_STEP)
    return min(sms, max(SMS_MIN, steps * SMS_STEP))


def available(torch: Any, name: str = MODULE) -> str:
    """Empty when this PyTorch and this machine can make partitions, else why not."""
    module = _module(name)
    if module is None:
        return f"PyTorch {torch.__version__} has no {name}"
    if not getattr(module, "SUPPORTED", True):
        return f"PyTorch {torch.__version__} was built without green contexts"
    return "" if torch.cuda.is_available() else "no CUDA device is usable here"


@contextlib.contextmanager
def partition(torch: Any, fraction: float, name: str = MODULE) -> Iterator[int]:
    """Run what is inside on a part of the present device; gives the number of its multiprocessors.

    Raises ``PartitionUnavailable`` before anything inside has run.
    """
    if reason := available(torch, name):
        raise PartitionUnavailable(reason)
    sms = size(fraction, torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count)
    context = _module(name).GreenContext  # type: ignore[union-attr]
    try:
        made = context.create(num_sms=sms, device_id=torch.cuda.current_device())
        entered = torch.cuda.stream(made.Stream()) if hasattr(made, "Stream") else _pushed(made)
    except Exception as error:
        # A driver that is too old, a card that cannot be split: whatever it is, the whole card is still there.
        raise PartitionUnavailable(f"{sms} multiprocessors: {' '.join(str(error).split())[:200]}") from error
    with entered:
        yield sms


@contextlib.contextmanager
def _pushed(made: Any) -> Iterator[None]:
    made.set_context()
    try:
        yield
    finally:
        made.pop_context()


def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
