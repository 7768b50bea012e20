"""AdamW over a model's named parameters, by torch's own fused kernel.

``torch.optim.AdamW`` does the same arithmetic, but its class loads torch's compiler at first use: 2.4 s of
processor time on every start of a worker, which is every recovery. Here moments exist from the start under the
names of their parameters, as a checkpoint wants them, and are only ever changed in place.
"""

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

BETAS: Final = (0.9, 0.99)
EPSILON: Final = 1e-8
WEIGHT_DECAY: Final = 0.1
"""Decay of matrices; biases and norms are not decayed."""


class AdamW:
    """Decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101)."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = dict(model.named_parameters())
        self._moments = {
            name: {
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            }
            for name, parameter in self._parameters.items()
        }

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Tensors beside the weights, named ``<parameter>.<moment>``: always the same objects."""
        for name, moments in self._moments.items():
            for moment, tensor in moments.items():
                yield f"{name}.{moment}", tensor

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Apply the gradients to every parameter."""
        for decays in (True, False):
            names = [name for name, parameter in self._parameters.items() if (parameter.dim() >= 2) is decays]
            gradients = [self._parameters[name].grad for name in names]
            assert all(gradient is not None for gradient in gradients), "a step needs a backward pass"
            adamw(
                [self._parameters[name] for name in names],
                [gradient for gradient in gradients if gradient is not None],
                [self._moments[name]["exp_avg"] for name in names],
                [self._moments[name]["exp_avg_sq"] for name in names],
                [],
                [self._moments[name]["step"] for name in names],
                fused=True,
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=learning_rate,
                weight_decay=WEIGHT_DECAY if decays else 0.0,
                eps=EPSILON,
                maximize=False,
            )
