"""SM partition: found, not assumed; sizes in steps; both interfaces of PyTorch; else the whole card."""

import contextlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from flightsw.gpu.actuators.partition import PartitionUnavailable, available, partition, size

NAME = "green_double"


@pytest.mark.parametrize(
    ("fraction", "sms", "expected"),
    [(1.0, 132, 132), (0.5, 132, 64), (0.25, 132, 32), (0.01, 132, 8), (0.99, 132, 128), (0.5, 10, 8), (0.1, 4, 4)],
)
def test_sizes(fraction: float, sms: int, expected: int) -> None:
    assert size(fraction, sms) == expected


class Double:
    """A torch with a device, and a module of green contexts; ``log`` is what was done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, manner: str = "streams") -> None:
        log: list[Any] = []
        self.log = log

        class Pushed:
            @staticmethod
            def create(num_sms: int, device_id: int) -> "Pushed":
                if manner == "refuses":
                    raise RuntimeError("driver is\ntoo old")
                log.append(("create", num_sms, device_id))
                return Streams() if manner == "streams" else Pushed()

            def set_context(self) -> None:
                log.append("push")

            def pop_context(self) -> None:
                log.append("pop")

        class Streams(Pushed):
            def Stream(self) -> str:
                return "stream"

        @contextlib.contextmanager
        def stream(which: str) -> Any:
            log.append(f"into {which}")
            yield
            log.append(f"out of {which}")

        module = ModuleType(NAME)
        module.GreenContext = Pushed
        module.SUPPORTED = manner != "unsupported"
        if manner == "absent":
            monkeypatch.setitem(sys.modules, NAME, None)
        else:
            monkeypatch.setitem(sys.modules, NAME, module)
        self.torch = SimpleNamespace(
            __version__="2.99",
            cuda=SimpleNamespace(
                is_available=lambda: manner != "no device",
                current_device=lambda: 3,
                get_device_properties=lambda device: SimpleNamespace(multi_processor_count=132),
                stream=stream,
            ),
        )


@pytest.mark.parametrize(
    ("manner", "expected"),
    [
        ("streams", [("create", 64, 3), "into stream", "work", "out of stream"]),
        ("pushed", [("create", 64, 3), "push", "work", "pop"]),
    ],
)
def test_work_runs_inside(monkeypatch: pytest.MonkeyPatch, manner: str, expected: list[Any]) -> None:
    double = Double(monkeypatch, manner)
    with partition(double.torch, 0.5, NAME) as sms:
        double.log.append("work")
    assert (sms, double.log) == (64, expected)


def test_a_context_is_left_when_the_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    double = Double(monkeypatch, "pushed")
    with pytest.raises(ZeroDivisionError), partition(double.torch, 0.5, NAME):
        raise ZeroDivisionError
    assert double.log[-1] == "pop"


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ("absent", "PyTorch 2.99 has no green_double"),
        ("unsupported", "PyTorch 2.99 was built without green contexts"),
        ("no device", "no CUDA device is usable here"),
        ("refuses", "64 multiprocessors: driver is too old"),
    ],
)
def test_why_not(monkeypatch: pytest.MonkeyPatch, manner: str, reason: str) -> None:
    double = Double(monkeypatch, manner)
    with pytest.raises(PartitionUnavailable, match=reason), partition(double.torch, 0.5, NAME):
        raise AssertionError("nothing may run")


def test_the_installed_pytorch_answers() -> None:
    reason = available(torch)
    assert (reason == "") == (torch.cuda.is_available() and hasattr(torch._C, "_CUDAGreenContext"))
