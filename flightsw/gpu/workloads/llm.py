"""The extra ``llm``: a causal language model of transformers behind the same engine interface as our own GPT.

**Batches.** Prompts fill a cache of their own row by row. A filled row joins the common cache of all rows that
decode: rows are padded on the left to the longest one, the attention mask hides the padding, and position
numbers count real tokens only. When rows leave, they and the padding that all others share are cut out. The
cache keeps whole histories, also for layers that attend to a sliding window: the model's own mask narrows them,
and rows of different ages can be joined.

Instruction models get the prompt through their own chat template; others continue the bare text.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor

from flightsw.gpu.integrity.finding import Report
from flightsw.gpu.integrity.kv import Place, Rows
from flightsw.gpu.integrity.kv_caches import watch

CONTEXT_MAX: Final = 2048
"""Longest window in tokens, whatever the model could; it bounds the memory of a row."""
ROWS_MAX: Final = 256
"""Rows of an engine whose owner says nothing; the largest batch that a specification may ask for."""


class LlmEngine:
    """``generation.Engine`` over a causal language model of transformers."""

    fill_rows_max = 1

    def __init__(self, model: Any, tokenizer: Any, device: torch.device, rows: int = ROWS_MAX) -> None:
        config = model.config.get_text_config()
        self.context = min(int(getattr(config, "max_position_embeddings", CONTEXT_MAX)), CONTEXT_MAX)
        self.stop_tokens = _stop_tokens(model, tokenizer)
        self.module = model
        self._rows = rows
        self._tokenizer = tokenizer
        self._device = device
        self._filling: dict[int, Any] = {}
        """Caches of rows whose prompt is being fed, or waits to join."""
        self._joined: list[int] = []
        """Rows of the common cache, in its order."""
        self._cache: Any = None
        self._lengths: list[int] = []
        """Real tokens of the rows of the common cache; the mask is made of them for every step."""
        self._undo: Callable[[], None] = lambda: None
        self._row_digests: Rows | None = None
        self.row_memory: tuple[Tensor, ...] = ()

    def watch_rows(self, report: Report) -> Rows:
        """Digests of the caches, from now on; a row is found wherever it is."""
        layers = int(self.module.config.get_text_config().num_hidden_layers)
        self._row_digests = Rows(self._rows, self.context, layers, self._place, report)
        return self._row_digests

    def encode(self, text: str) -> list[int]:
        """Tokens with the model's own beginning, through its chat template where it has one."""
        if self._tokenizer.chat_template:
            turn = [{"role": "user", "content": text}]
            text = self._tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
            tokens = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            tokens = self._tokenizer(text)["input_ids"]
        return list(tokens) or [self._tokenizer.eos_token_id or 0]

    def text(self, tokens: Sequence[int]) -> str:
        """Text without special tokens."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    @torch.inference_mode()
    def fill(self, rows: Sequence[int], starts: Sequence[int], chunks: Sequence[Sequence[int]]) -> Tensor:
        """One chunk of one row, into that row's own cache."""
        (row,), (start,), (chunk,) = rows, starts, chunks
        if start == 0:
            self.release(row)
            self._filling[row] = self._observed(_empty_cache())
        cache = self._filling[row]
        self._undo = lambda: self._filling.update({row: self._observed(_cut(cache, start))})
        positions = torch.arange(start, start + len(chunk), device=self._device)[None]
        mask = torch.ones((1, start + len(chunk)), dtype=torch.long, device=self._device)
        idx = torch.tensor([chunk], device=self._device)
        with self._told([row], [range(start, start + len(chunk))]):
            return self._forward(idx, mask, positions, cache)

    @torch.inference_mode()
    def step(self, rows: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """One token of every row; rows that were filled since the last step join first."""
        self._join([row for row in rows if row in self._filling])
        assert sorted(rows) == sorted(self._joined)
        places = [self._joined.index(row) for row in rows]
        order = [rows.index(row) for row in self._joined]
        idx = torch.tensor([[tokens[place]] for place in order], device=self._device)
        at = torch.tensor([[positions[place]] for place in order], device=self._device)
        before = list(self._lengths)
        self._undo = lambda: self._take_back(before)
        self._lengths = [length + 1 for length in before]
        with self._told(self._joined, at.tolist()):
            return self._forward(idx, self._mask(), at, self._cache)[places]

    def undo(self) -> None:
        """Cut the tokens of the last pass off; rows that joined for it stay joined."""
        self._undo()

    def release(self, row: int) -> None:
        """Cut the row out of the common cache, and the padding that no other row needs."""
        self._filling.pop(row, None)
        if row not in self._joined:
            return
        keep = [place for place, other in enumerate(self._joined) if other != row]
        self._joined.remove(row)
        longest = max(self._lengths)
        self._lengths = [self._lengths[place] for place in keep]
        first = longest - max(self._lengths, default=longest)
        layers = [(keys[keep, :, first:], values[keep, :, first:]) for keys, values in _layers(self._cache)]
        self._cache = self._observed(_cache_of(layers)) if keep else None

    def _join(self, rows: Sequence[int]) -> None:
        if not rows:
            return
        parts = [_layers(self._filling.pop(row)) for row in rows]
        self._lengths += [part[0][0].shape[-2] for part in parts]
        if self._joined:
            parts.insert(0, _layers(self._cache))
        length = max(self._lengths)
        cache = _cache_of(
            [
                (
                    torch.cat([_padded(part[layer][0], length, dim=2) for part in parts]),
                    torch.cat([_padded(part[layer][1], length, dim=2) for part in parts]),
                )
                for layer in range(len(parts[0]))
            ]
        )
        self._cache = self._observed(cache)
        self._joined += rows

    def _mask(self) -> Tensor:
        """1 where a row of the common cache has a token, 0 for the padding in front of it: (rows, longest)."""
        longest = max(self._lengths)
        padding = torch.tensor([[longest - length] for length in self._lengths], device=self._device)
        return (torch.arange(longest, device=self._device) >= padding).long()

    def _take_back(self, lengths: list[int]) -> None:
        self._lengths = lengths
        self._cache = self._observed(_cut(self._cache, max(lengths)))

    def _observed(self, cache: Any) -> Any:
        """The same cache, telling the digests what is added to it."""
        return cache if self._row_digests is None else watch(cache, self._row_digests)

    @contextmanager
    def _told(self, rows: Sequence[int], slots: Sequence[Sequence[int]]) -> Iterator[None]:
        """Tell the digests which rows and slots a forward pass writes."""
        if self._row_digests is None:
            yield
            return
        self._row_digests.begin(rows, [list(some) for some in slots])
        yield
        self._row_digests.end()

    def _place(self, row: int) -> Place | None:
        """Where a row is in memory; None when it is in no cache."""
        if row in self._filling:
            return Place(_layers(self._filling[row]), 0, 0)
        if row not in self._joined:
            return None
        index = self._joined.index(row)
        return Place(_layers(self._cache), index, max(self._lengths) - self._lengths[index])

    def _forward(self, idx: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        out = self.module(
            input_ids=idx,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = out.logits[:, -1].float().cpu()
        return logits


def _stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """End tokens as the model's own settings and its tokenizer name them."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    several = configured if isinstance(configured, list | tuple) else [configured]
    return frozenset(int(token) for token in (*several, tokenizer.eos_token_id) if token is not None)


def _empty_cache() -> Any:
    from transformers import DynamicCache

    # Without a configuration every layer keeps its whole history; see the module's text.
    return DynamicCache()


def _cache_of(layers: Sequence[tuple[Tensor, Tensor]]) -> Any:
    cache = _empty_cache()
    for layer, (keys, values) in enumerate(layers):
        cache.update(keys, values, layer)
    return cache


def _layers(cache: Any) -> list[tuple[Tensor, Tensor]]:
    """Keys and values (rows, heads, tokens, width) of every layer."""
    return [(layer.keys, layer.values) for layer in cache.layers]


def _cut(cache: Any, length: int) -> Any:
    """The same cache with the first ``length`` tokens only."""
    if not length:
        return _empty_cache()
    return _cache_of([(keys[:, :, :length], values[:, :, :length]) for keys, values in _layers(cache)])


def _padded(tensor: Tensor, length: int, dim: int) -> Tensor:
    """Zeros in front, up to ``length``."""
    missing = length - tensor.shape[dim]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim)
