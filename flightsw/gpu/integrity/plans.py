"""What is done about an operator, and how often that was."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from flightsw.gpu.integrity.late_looks import Kind
from flightsw.gpu.integrity.operations import Cover

Handler = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


class Plan(msgspec.Struct):
    """Of one operator, and how often it was seen in which layer."""

    cover: Cover
    handler: Handler | None
    """None for what only makes memory, or a view of it."""
    noted: Kind | None
    """How it is noted in a pass without gradients."""
    seen: Counter[str] = msgspec.field(default_factory=Counter)
    unseen: Counter[str] = msgspec.field(default_factory=Counter)
    """Of these, those with tensors of a type of their own."""
