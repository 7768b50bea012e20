"""Caches that tell the digests of their rows what is written: our own GPT's, and those of transformers."""

from typing import Any

import torch
from torch import Tensor

from flightsw.gpu.integrity.attention_log import AttentionLog
from flightsw.gpu.integrity.finding import Report
from flightsw.gpu.integrity.kv import Place, Rows
from flightsw.gpu.workloads.gpt import Cache


def gpt_rows(cache: Cache, report: Report) -> Rows:
    """Digests of a ``gpt.Cache``, which from now on tells them what is written. Row i is row i of the cache."""

    def locate(row: int) -> Place:
        return Place(list(zip(cache.keys, cache.values, strict=True)), row, 0)

    plain = cache.keys[0].dtype is torch.float32 and cache.keys[0].device.type == "cpu"
    log = AttentionLog(cache.keys, cache.values, report) if plain else None
    rows = Rows(cache.rows, cache.context, len(cache.keys), locate, report, log)
    cache.observer = rows
    return rows


def watch(cache: Any, rows: Rows) -> Any:
    """Let a transformers ``DynamicCache`` tell ``rows`` what is added to it; gives the same cache back.

    Its owner calls ``rows.begin`` with the rows of the batch and their slots before the forward pass, and
    ``rows.end`` after it. To be called on every new cache object, *after* it was filled from an older one.
    """
    update = cache.update

    def watched(key_states: Tensor, value_states: Tensor, layer_idx: int, *more: Any, **named: Any) -> Any:
        rows.write(layer_idx, key_states.transpose(1, 2), value_states.transpose(1, 2))
        return update(key_states, value_states, layer_idx, *more, **named)

    cache.update = watched
    return cache
