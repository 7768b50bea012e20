"""The Triton kernels: by the interpreter here, on a card where there is one; and nothing of them where Triton is not."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flightsw.gpu.integrity import kernels

CASES = Path(__file__).with_name("interpreted_kernels.py")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed (extra `dev`)")
def test_kernels_under_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov", "-q"]
    run = subprocess.run(
        [*command, "-o", "markers=flown: by tiles of the size that is flown", str(CASES)],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_processor_has_no_kernels():
    for ask in (kernels.digests, kernels.adamw, kernels.gemm):
        assert ask(torch.device("cpu")) is None


def test_integrity_does_not_load_triton():
    script = """
import sys, torch
from flightsw.gpu.integrity import digest, guarded_adamw
digest.digest(torch.zeros(9, dtype=torch.uint8))
assert not [name for name in sys.modules if name.split(".")[0] == "triton"]
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
