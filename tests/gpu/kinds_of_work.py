"""One small piece of work of every kind of operation, the operands for it, and faults that its results can have."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from tests.gpu.struck_mode import Damage, flip, value

GENERATOR = torch.Generator().manual_seed(1)
X, W, C = (torch.randn(shape, generator=GENERATOR) for shape in ((32, 24), (24, 40), (40,)))
B1, B2 = (torch.randn(shape, generator=GENERATOR) for shape in ((3, 20, 12), (3, 12, 18)))
Q = torch.randn(2, 2, 16, 8, generator=GENERATOR)

WORK: dict[str, Callable[[], Any]] = {
    "mm": lambda: torch.mm(X, W),
    "addmm": lambda: torch.addmm(C, X, W, beta=0.5, alpha=-2.0),
    "bmm": lambda: torch.bmm(B1, B2),
    "baddbmm": lambda: torch.baddbmm(torch.randn(1, 1, 18, generator=torch.Generator().manual_seed(1)), B1, B2),
    "gelu": lambda: F.gelu(X, approximate="tanh"),
    "_softmax": lambda: torch.softmax(X, dim=-1),
    "native_layer_norm": lambda: F.layer_norm(X, (24,)),
    "embedding": lambda: F.embedding(torch.tensor([3, 1, 3]), X),
    "add": lambda: X + X,
    "sum": lambda: X.sum(0),
    "_scaled_dot_product_flash_attention_for_cpu": lambda: F.scaled_dot_product_attention(Q, Q, Q, is_causal=True),
    "convolution": lambda: F.conv1d(B1, torch.ones(4, 20, 3)),
    "index": lambda: X[torch.tensor([5, 2])],
    "_to_copy": lambda: X.to(torch.float64),
    "clone": lambda: X.t().clone(),
    "cat": lambda: torch.cat([X, X]),
    "topk": lambda: X.topk(3),
}  # fmt: skip
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
FAULTS: dict[str, Damage] = {
    "exponent": flip(30),
    "sign": flip(31),
    "mantissa": flip(22),
    "nan": value(math.nan),
    "huge": value(1e36),
}
