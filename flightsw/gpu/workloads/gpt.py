"""A GPT of the nanoGPT class over bytes: pre-norm blocks, learned positions, GELU, tied embedding.

The vocabulary is the 256 byte values, so every text file is a corpus and no tokenizer has to be carried along.
Training calls ``forward``: one causal pass over whole windows. Generation calls ``forward_cached``: keys and
values of earlier tokens stay in a ``Cache`` whose slot *is* the absolute position of a token, row by row, so that
sequences of different lengths decode in one batch and a row can be given to a new request at any time.

What a cached pass writes where, and sees, follows from rows and positions. These are the host's own numbers, so
they are worked out there, once for all layers: on a processor a decode step is short, and each operation that says
what the host knows already costs as much as one that computes. For the same reason a cached pass hands its
operations over by name (``hands``): under a guard each is told, and need not be seen.

Shapes: B rows, T tokens, H heads, D = width / H, C = context.
"""

from collections.abc import Sequence
from typing import Annotated, Final, Protocol, TypeAlias

import msgspec
import numpy as np
import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from flightsw.gpu.workloads.hands import PLAIN, Hands, hands_of

BYTE_VOCABULARY: Final = 256
PADDING: Final = -1
"""Position of a token that is none: it is computed and thrown away, and no row's cache sees it."""

Line: TypeAlias = Sequence[int]
Table: TypeAlias = Sequence[Line]
"""Whole numbers of the host, (B,) and (B, T)."""


class GPTConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shape of a model. Part of every checkpoint, so that a reader needs nothing else."""

    layers: Annotated[int, Meta(ge=1, le=128)]
    """Transformer blocks."""
    heads: Annotated[int, Meta(ge=1, le=128)]
    """Attention heads; they divide the width."""
    width: Annotated[int, Meta(ge=8, le=16384)]
    """Residual width."""
    context: Annotated[int, Meta(ge=8, le=65536)]
    """Longest window in tokens."""
    vocabulary: Annotated[int, Meta(ge=2, le=2**20)] = BYTE_VOCABULARY
    """Token values."""
    dropout: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    """Dropout in training."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by {self.heads} heads")


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """A model and the micro-batch it is usually trained with."""

    model: GPTConfig
    batch_size: int


PRESETS: Final[dict[str, Preset]] = {
    # For tests: a step costs a few milliseconds.
    "micro": Preset(model=GPTConfig(layers=2, heads=2, width=32, context=32), batch_size=4),
    # For one slow processor core: a micro-batch stays far below a tenth of a second.
    "tiny": Preset(model=GPTConfig(layers=3, heads=4, width=96, context=64), batch_size=8),
    # The character configuration of nanoGPT, which Starcloud-1 trained in orbit.
    "char": Preset(model=GPTConfig(layers=6, heads=6, width=384, context=256, dropout=0.2), batch_size=64),
    # Two blocks of GPT-2 small: on a processor, what a thing costs beside them is what it costs on GPT-2.
    "gpt2-14m": Preset(model=GPTConfig(layers=2, heads=12, width=768, context=256), batch_size=4),
    # The body of GPT-2 small without its 50,257-token vocabulary: 85 M parameters.
    "gpt2-85m": Preset(model=GPTConfig(layers=12, heads=12, width=768, context=1024), batch_size=8),
    # That of GPT-2 medium, which has 350 M parameters with its vocabulary and 302 M without.
    "gpt2-302m": Preset(model=GPTConfig(layers=24, heads=16, width=1024, context=1024), batch_size=8),
}


class Observer(Protocol):
    """Is told what one ``forward_cached`` writes, as it is written; ``integrity.kv`` takes digests of it."""

    def begin(self, rows: Line, positions: Table) -> None:
        """Rows (B,) and positions (B, T), ``PADDING`` included."""

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Keys and values (B, T, H, D) in the type of the cache."""

    def end(self) -> None:
        """All layers have written."""


class Cache:
    """Keys and values of a batch of sequences: per layer two tensors (rows, H, C + 1, D).

    The last slot takes what padding tokens write and is never read by a real one.
    """

    observer: Observer | None = None

    def __init__(
        self, config: GPTConfig, rows: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.rows = rows
        self.context = config.context
        shape = (rows, config.heads, config.context + 1, config.width // config.heads)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.layers)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.layers)]


_SEEN: Final = np.array((-np.inf, 0.0), dtype=np.float32)
"""What is added to the weight of a slot that is hidden, or seen."""


class _View:
    """Where one ``forward_cached`` call writes and what it may see; the same for every layer."""

    def __init__(
        self,
        cache: Cache,
        idx: Tensor | Table,
        positions: Table,
        rows: Line | None,
        dtype: torch.dtype,
        hands: Hands,
    ) -> None:
        self.cache = cache
        self.hands = hands
        places = np.array(positions, dtype=np.int64)
        # The host must know the longest row, so that attention reads no more of the cache than is in use.
        longest = int(places.max()) + 1
        if longest > cache.context:
            raise ValueError(f"position {longest - 1} does not fit a context of {cache.context}")
        self._used = max(longest, 1)
        lines = range(cache.rows) if rows is None else rows
        if cache.observer is not None:
            cache.observer.begin(lines, positions)
        device = cache.keys[0].device
        slots = np.where(places < 0, cache.context, places)
        numbers = [slots, np.broadcast_to(np.array(lines)[:, None], slots.shape), places.clip(min=0)]
        if not isinstance(idx, Tensor):
            numbers.append(np.array(idx))
        # All in one piece: a card is given them at once.
        self._slots, self._rows, self.positions, *tokens = hands.given(np.stack(numbers), device).unbind()
        self._gathered = None if rows is None else hands.given(np.array(rows), device)
        self.tokens = idx if isinstance(idx, Tensor) else tokens[0]
        """Token values (B, T)."""
        seen = np.arange(self._used) <= slots[:, None, :, None]
        # Made once: given what is seen as truth values, attention makes the same of them in every layer.
        mask = (
            hands.given(seen, device).log()
            if device.type != "cpu"
            else hands.given(_SEEN[seen.view(np.int8)], device)
        )
        self.mask = _as(mask, dtype)
        """What is added to the weight of each slot, (B, 1, T, used): 0, or −∞ where it is not seen."""

    def exchange(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, T, H, D) of the new tokens and give back all that is in use, (B, H, used, D)."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        new = (_as(key, keys.dtype), _as(value, values.dtype))
        if self.cache.observer is not None:
            self.cache.observer.write(layer, *new)
        self.hands.stored((keys, values), self._rows, self._slots, new)
        return self._in_use(keys, key.dtype), self._in_use(values, value.dtype)

    def _in_use(self, store: Tensor, dtype: torch.dtype) -> Tensor:
        used = store[:, :, : self._used]
        return _as(used if self._gathered is None else self.hands.gathered(used, self._gathered), dtype)


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in a type; nothing is asked of torch when it is in that already."""
    return tensor if tensor.dtype is dtype else tensor.to(dtype)


class Dropout(nn.Dropout):
    """Dropout that is no operation where it drops nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else x


class Attention(nn.Module):
    """Causal self-attention by ``scaled_dot_product_attention``."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, layer: int = 0, view: _View | None = None, windows: int = 1) -> Tensor:
        """``x`` (B, T, width) with a view; without one the tokens of B ``windows``, (B · T, width)."""
        width = x.shape[-1]
        if view is None:
            parts = self.qkv(x).view(windows, -1, 3, self.heads, width // self.heads).unbind(2)
            query, key, value = (part.transpose(1, 2) for part in parts)  # Each (B, H, T, D).
            dropout = self.dropout if self.training else 0.0
            y = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout)
            out: Tensor = self.out(y.transpose(1, 2).reshape(x.shape))
            return out
        batch, tokens, _ = x.shape
        heads = (batch, tokens, 3, self.heads, width // self.heads)
        hands = view.hands
        query, key, value = hands.projected(self.qkv, x).view(heads).unbind(2)  # Each (B, T, H, D).
        key, value = view.exchange(layer, key, value)
        y = hands.attended(query.transpose(1, 2), key, value, view.mask)
        y = hands.reshaped(y if tokens == 1 else y.transpose(1, 2), (batch, tokens, width))
        return hands.projected(self.out, y)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.norm_mlp = nn.LayerNorm(config.width)
        self.expand = nn.Linear(config.width, 4 * config.width)
        self.contract = nn.Linear(4 * config.width, config.width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, layer: int = 0, view: _View | None = None, windows: int = 1) -> Tensor:
        """As ``Attention``."""
        if view is not None:
            return self._cached(x, layer, view)
        x = x + self.dropout(self.attention(self.norm_attention(x), windows=windows))
        y: Tensor = x + self.dropout(self.contract(F.gelu(self.expand(self.norm_mlp(x)), approximate="tanh")))
        return y

    def _cached(self, x: Tensor, layer: int, view: _View) -> Tensor:
        hands = view.hands
        x = hands.added(x, self.dropout(self.attention(hands.normed(self.norm_attention, x), layer, view)))
        y = hands.bent(hands.projected(self.expand, hands.normed(self.norm_mlp, x)))
        return hands.added(x, self.dropout(hands.projected(self.contract, y)))


class GPT(nn.Module):
    """The model. Weights are drawn from torch's default generator: seed it before construction."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self._initialise()

    def _initialise(self) -> None:
        """GPT-2: normal 0.02, residual projections scaled down by √(2 · layers)."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                (nn.init.zeros_ if name.endswith("bias") else nn.init.ones_)(parameter)
                continue
            residual = name.endswith(("attention.out.weight", "contract.weight"))
            nn.init.normal_(parameter, std=0.02 / (2 * self.config.layers) ** 0.5 if residual else 0.02)

    @property
    def parameter_count(self) -> int:
        """Number of weights; the tied embedding counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, vocabulary) of windows ``idx`` (B, T), and the mean loss when targets (B, T) are given.

        Raises ``ValueError`` when T is over the context.
        """
        if idx.shape[1] > self.config.context:
            raise ValueError(f"{idx.shape[1]} tokens do not fit a context of {self.config.context}")
        positions = torch.arange(idx.shape[1], device=idx.device)
        # Tokens one after the other: with windows apart a linear layer is four operations for torch, else two.
        x = self.dropout(self.tokens(idx) + self.positions(positions)).flatten(0, 1)
        for block in self.blocks:
            x = block(x, windows=len(idx))
        flat = F.linear(self.norm(x), self.tokens.weight)
        logits = flat.view(*idx.shape, -1)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(flat.float(), targets.flatten())

    def forward_cached(
        self, idx: Tensor | Table, cache: Cache, positions: Tensor | Table, rows: Tensor | Line | None = None
    ) -> Tensor:
        """Logits (B, T, vocabulary) of new tokens, seeing what ``cache`` holds of their rows.

        ``idx`` and ``positions`` are (B, T), int64 or the host's own numbers; a token's position is its index in
        its own sequence, or ``PADDING`` where a shorter row has none (its logits mean nothing). Positions of a row
        must continue what was fed before; starting again at 0 reuses the row. ``rows`` (B,) names the cache rows
        that take part, all different; None is all of them in order. Raises ``ValueError`` when a position is not
        below the context.
        """
        if isinstance(positions, Tensor):
            positions = positions.tolist()
        if isinstance(rows, Tensor):
            rows = rows.tolist()
        weight = self.tokens.weight
        # What has no name among the hands has to be seen: dropout, a cache of another type.
        told = not self.training and cache.keys[0].dtype is weight.dtype
        hands = hands_of(weight) if told else PLAIN
        with hands.aside():
            view = _View(cache, idx, positions, rows, weight.dtype, hands)
            x = hands.added(
                hands.embedded(self.tokens, view.tokens), hands.embedded(self.positions, view.positions)
            )
            x = self.dropout(x)
            for layer, block in enumerate(self.blocks):
                x = block(x, layer, view)
            logits = hands.product(hands.normed(self.norm, x), weight)
            if cache.observer is not None:
                cache.observer.end()
        return logits
