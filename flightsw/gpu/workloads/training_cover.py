"""What covers a training job beside the operations of its passes, and what does not.

The rows follow from the job alone. A worker prints those that are gaps when it starts; the rest is for who asks.
"""

import msgspec

from flightsw.gpu.protocol import TrainSpec


class Row(msgspec.Struct, frozen=True):
    """``by`` says what covers it; ``gap`` what that leaves open, empty when nothing is."""

    what: str
    by: str
    gap: str = ""


def training_cover(spec: TrainSpec) -> tuple[Row, ...]:
    """Rows of a job at any level but OFF."""
    passes = Row("forward and backward", "checked operation by operation, as the level samples them")
    if spec.compile:
        passes = Row(
            "forward and backward", "sampled steps run again, training guard",
            "compiled code is not seen operation by operation; in steps that are not sampled only what makes loss, "
            "gradient norm or update stand out is found",
        )  # fmt: skip
    replay = Row(
        "whole steps", "sampled and suspect ones run again, gradients compared bit for bit, two of three win"
    )
    if not spec.deterministic:
        replay = Row(
            "whole steps", "suspect ones run again, the second run is used",
            "runs of this job need not agree bit for bit, so none is sampled and nothing is compared; "
            "set deterministic = true",
        )  # fmt: skip
    return (
        Row("weights and moments", "digests, verified before every update and every checkpoint"),
        Row("step counts", "digests, and counters kept twice"),
        Row(
            "gradients at rest",
            "digests from the end of the backward pass to the update, as the level samples transit",
        ),
        Row("update", "rehearsed and compared, as the level samples repetition"),
        Row("random states, data order", "compared with copies whenever work goes on"),
        Row("corpus, batch at hand", "gathered from two copies and compared"),
        passes,
        replay,
    )


def gaps(spec: TrainSpec) -> tuple[str, ...]:
    """What is not covered, one line each."""
    return tuple(f"not covered: {row.what}: {row.gap}" for row in training_cover(spec) if row.gap)
