"""Named random streams: one seed for a run, an independent stream for every consumer.

A stream is seeded by HMAC-SHA256(seed, name). A new consumer, or one that draws more often, therefore shifts
nobody else's numbers, and ``seed`` plus the commit reproduce every draw of a run.
"""

import hashlib
import hmac
import random


def stream(seed: int, name: str) -> random.Random:
    """The stream of ``name`` under ``seed``; equal arguments give equal streams on every machine."""
    digest = hmac.new(str(seed).encode(), name.encode(), hashlib.sha256).digest()
    return random.Random(int.from_bytes(digest, "big"))
