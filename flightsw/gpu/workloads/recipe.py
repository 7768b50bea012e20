"""The recipe of a training: what does not depend on the model at hand and must be the same in every run of a job.

Kernels that give the same bits every time, the schedule of the learning rate (a function of the step alone: linear
warm-up, then 1/√step, so a longer or shorter ``max_steps`` does not change the path), the clipping of gradients.
"""

import math
import os
from typing import Final

import torch
from torch import Tensor

from flightsw.gpu.workloads.gpt import PRESETS, GPTConfig
from flightsw.gpu.workloads.job import JobFault

WARMUP_STEPS: Final = 30
DECAY_STEPS: Final = 1000
"""Step from which the learning rate falls with 1/√step."""
GRADIENT_NORM_MAX: Final = 1.0


def make_deterministic(*, compiled: bool) -> None:
    """Choose bit-reproducible kernels. Call before anything has touched CUDA: cuBLAS reads its variable once."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    if compiled:
        torch.use_deterministic_algorithms(True)
    else:
        # The same switch for eager kernels. The call above loads the compiler: seconds at every start.
        torch.set_deterministic_debug_mode("error")
    torch.backends.cudnn.benchmark = False
    # The memory-efficient attention kernel adds gradients in no fixed order; flash and math can do better.
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)


def model_config(preset: str) -> GPTConfig:
    """Model of a preset; ``JobFault`` names the presets when there is none such."""
    if preset not in PRESETS:
        raise JobFault("spec", f'preset "{preset}" is unknown; there are {", ".join(PRESETS)}')
    return PRESETS[preset].model


def learning_rate_factor(step: int) -> float:
    """Share of the peak learning rate for the update after ``step`` finished steps: 0 to 1."""
    return min((step + 1) / WARMUP_STEPS, math.sqrt(DECAY_STEPS / max(step, DECAY_STEPS)))


def clipping(norm: Tensor) -> Tensor:
    """Factor (0-d, at most 1) that brings gradients of this norm (0-d) to ``GRADIENT_NORM_MAX``, as torch does."""
    return torch.clamp(GRADIENT_NORM_MAX / (norm + 1e-6), max=1.0)
