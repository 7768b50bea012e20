"""Random small programs by seed: layers, activations in place, views, sums over passes, training or evaluation."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.gpu.played import Player, Program, Step

optim = torch.optim
WIDTHS = (3, 8, 13, 16, 32)
DTYPES = (torch.float32, torch.float32, torch.float32, torch.float64, torch.bfloat16)
OPTIMISERS: tuple[Callable[[Any], optim.Optimizer], ...] = (
    lambda parameters: optim.SGD(parameters, lr=0.01, momentum=0.9),
    lambda parameters: optim.AdamW(parameters, foreach=False),
    lambda parameters: optim.Adam(parameters, amsgrad=True, foreach=True),
    lambda parameters: optim.Adagrad(parameters),
)

Draw = Callable[[int], int]
"""A whole number below this one."""


class Views(nn.Module):
    """Cuts, turns, joins and writes parts of its input, as ``which`` says."""

    def __init__(self, which: int) -> None:
        super().__init__()
        self.which = which

    def forward(self, x: Tensor) -> Tensor:
        match self.which:
            case 0:
                one, other = x.chunk(2, 0) if len(x) % 2 == 0 else (x, x)
                return torch.cat((other, one), 0)[: len(x)]
            case 1:
                return x.t().contiguous().t() * 0.5 + x.flip(0)
            case 2:
                y = x.clone()
                y[:, ::2] *= 0.5
                y[1:3].add_(1.0)
                return y
            case 3:
                return torch.where(x > 0.0, x, x.expm1()).cumsum(-1) * 0.1
            case 4:
                return x - x.mean(-1, keepdim=True).expand_as(x) + x.sum(0) * 0.01
            case _:
                y = torch.zeros_like(x)
                y[x.argsort(0)[:, 0]] = x
                return y.index_add(0, torch.arange(len(x)).flip(0), x)


class Attends(nn.Module):
    """Its rows attend to each other."""

    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.three, self.causal = nn.Linear(width, 3 * width), causal

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.three(x)[None, None].chunk(3, -1)
        out = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return out[0, 0] + x


class Recurs(nn.Module):
    def __init__(self, kind: type[nn.GRU | nn.LSTM], width: int) -> None:
        super().__init__()
        self.cells = kind(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(x[:, None])[0][:, 0]


def layer(draw: Draw, width: int) -> tuple[nn.Module, int]:
    """A random layer for rows of this width, and the width of its result."""
    wide = WIDTHS[draw(len(WIDTHS))]
    layers: tuple[Callable[[], nn.Module], ...] = (
        lambda: nn.Linear(width, wide, bias=bool(draw(3))),
        lambda: nn.Sequential(nn.Linear(width, wide), nn.GELU(("none", "tanh")[draw(2)])),
        lambda: nn.Sequential(nn.Linear(width, wide), nn.ReLU(inplace=bool(draw(2)))),
        lambda: nn.Sequential(nn.Linear(width, wide), nn.LeakyReLU(0.1, inplace=True)),
        lambda: nn.Sequential(nn.Linear(width, wide), nn.BatchNorm1d(wide)),
        lambda: nn.Sequential(nn.Linear(width, wide), nn.Dropout(0.2, inplace=bool(draw(2)))),
    )
    same: tuple[Callable[[], nn.Module], ...] = (
        lambda: nn.LayerNorm(width),
        lambda: nn.RMSNorm(width),
        lambda: nn.SiLU(),
        lambda: nn.Softmax(-1),
        lambda: Views(draw(6)),
        lambda: Attends(width, causal=bool(draw(2))),
        lambda: Recurs((nn.GRU, nn.LSTM)[draw(2)], width),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(width, width)),
    )
    if draw(2):
        return layers[draw(len(layers))](), wide
    return same[draw(len(same))](), width


def random_program(seed: int) -> Program:
    """The same one for the same seed."""

    def program(player: Player) -> tuple[nn.Module, list[optim.Optimizer], Step]:
        generator = torch.Generator().manual_seed(seed)

        def draw(below: int) -> int:
            return int(torch.randint(below, (1,), generator=generator))

        torch.manual_seed(seed)
        rows, width = (4, 7, 12, 20)[draw(4)], WIDTHS[draw(len(WIDTHS))]
        first, parts = width, []
        for _ in range(2 + draw(5)):
            part, width = layer(draw, width)
            parts.append(part)
        dtype = DTYPES[draw(len(DTYPES))]
        model = nn.Sequential(*parts).to(dtype)
        training = bool(draw(4)) and any(True for _ in model.parameters())
        passes, to_none, turned = 1 + draw(2), bool(draw(2)), bool(draw(2))
        optimisers = [OPTIMISERS[draw(len(OPTIMISERS))](model.parameters())] if training else []
        wide = {"wide": False} if dtype is torch.bfloat16 else {}
        player.protect(model.train(training), optimisers[0] if optimisers else None, **wide)
        context = (torch.no_grad, torch.inference_mode)[draw(2)]

        def rows_now() -> Tensor:
            x = torch.randn(rows, first, dtype=dtype)
            return torch.randn(first, rows, dtype=dtype).t() if turned else x

        def serve(number: int) -> Any:
            with context(), player.running():
                result = model(rows_now())
            player.settle()
            return result

        def train(number: int) -> Any:
            optimisers[0].zero_grad(set_to_none=to_none)
            losses = []
            for _ in range(passes):
                with player.running():
                    losses.append(model(rows_now()).square().mean())
                    losses[-1].backward()
            player.update(optimisers[0])
            return losses

        return model, optimisers, train if training else serve

    return program
