"""Faults put into a training, one at a time: each ends put right, and the run is its undisturbed twin's.

Every fault is also run with integrity off, where the same run must part from the twin: what is not seen to do harm
proves nothing about the guard.
"""

import pytest
import torch

from flightsw.link.integrity import Level
from tests.gpu.training_faults import PARTS, REPAIRED, RUN_AGAIN, WEIGHT, OneFault, Run, flip, twin


def in_live(name, **where):
    return lambda run: flip(run.trainer.live()[name], **where)


def in_gradients(run):
    flip(run.trainer.model.blocks[0].expand.weight.grad, word=300)


def in_host_generator(run):
    torch.rand(1)


def in_data_order(run):
    torch.rand(1, generator=run.trainer.batches.order)


def in_kept_states(run):
    run.trainer.random_states["random.order"][96] ^= 4  # In a word that step 2 draws.
    run.trainer.batches.order.set_state(run.trainer.random_states["random.order"])


def in_corpus(run):
    run.trainer.batches.tokens[::3] ^= 1


def in_batch(run):
    run.trainer.at_hand[0][3, 7] ^= 8


def in_step_counter(run):
    run.trainer.step -= 1


# (name, after how many parts of step 2, what is damaged, what must have been found)
AT_REST = (
    ("weight at the boundary", 0, in_live(WEIGHT), {REPAIRED, RUN_AGAIN}),
    ("weight within a step", 1, in_live(WEIGHT), {REPAIRED, RUN_AGAIN}),
    ("weight before the update", PARTS, in_live(WEIGHT), {REPAIRED, RUN_AGAIN}),
    ("first moment", 2, in_live(f"optimiser.{WEIGHT[6:]}.exp_avg", bit=28), {REPAIRED}),
    ("second moment", 2, in_live(f"optimiser.{WEIGHT[6:]}.exp_avg_sq", bit=28), {REPAIRED}),
    ("optimiser's step count", 2, in_live(f"optimiser.{WEIGHT[6:]}.step", word=0, bit=22), {REPAIRED}),
    ("gradients between two parts", 2, in_gradients, {("transit", "contained"), RUN_AGAIN}),
    ("gradients before the update", PARTS, in_gradients, {("transit", "contained"), RUN_AGAIN}),
    ("torch's generator at the boundary", 0, in_host_generator, {("transit", "repaired")}),
    ("torch's generator within a step", 2, in_host_generator, {("transit", "contained"), RUN_AGAIN}),
    ("data order at the boundary", 0, in_data_order, {("transit", "repaired")}),
    ("data order within a step", 1, in_data_order, {("transit", "contained"), RUN_AGAIN}),
    ("random states that are kept", 0, in_kept_states, {("transit", "repaired")}),
    ("corpus", 0, in_corpus, {REPAIRED}),
    ("corpus within a step", 2, in_corpus, {REPAIRED}),
    ("batch at hand", 1, in_batch, {("transit", "contained"), RUN_AGAIN}),
    ("step counter", 0, in_step_counter, {("transit", "repaired")}),
    ("step counter within a step", 1, in_step_counter, {("transit", "contained"), RUN_AGAIN}),
)


@pytest.mark.parametrize(("name", "parts", "damage", "found"), AT_REST, ids=[row[0] for row in AT_REST])
def test_damage_at_rest(storm_spec, name, parts, damage, found):
    straight = twin(storm_spec, 2)
    # Only weights are seen by the compute path's guard, too; the rest is quicker without it.
    run = Run(storm_spec, blind="weight" not in name).until(1, parts)
    damage(run)
    assert run.finish(2) == straight
    assert found <= run.outcomes(), run.found
    bare = Run(storm_spec, Level.OFF).until(1, min(parts, PARTS - 1))  # Without a turn after the last part.
    damage(bare)
    assert bare.finish(2) != straight


# (operation, which one of step 2's first part; None: of step 2's last turn, its update)
ARITHMETIC = (
    ("aten::addmm", 2), ("aten::mm", 3), ("aten::gelu", 1), ("aten::native_layer_norm", 1),
    ("aten::gelu_backward", 1), ("aten::embedding_dense_backward", 1), ("aten::_fused_adamw_", None),
    ("aten::linalg_vector_norm", None),
)  # fmt: skip


@pytest.mark.parametrize(("name", "number"), ARITHMETIC, ids=[name for name, _ in ARITHMETIC])
def test_an_error_of_the_arithmetic(storm_spec, name, number, plain):
    """In torch's own operators, those of the update among them."""
    straight = twin(storm_spec, 2)

    def disturbed(level):
        run = Run(storm_spec, level).until(1, 0 if number else PARTS - (level is Level.OFF))
        with OneFault(name, number or 1) as fault:
            run.turn()
        assert fault.fired == 1
        return run

    run = disturbed(Level.STORM)
    assert run.finish(2) == straight
    assert run.outcomes()
    assert all(outcome in ("recomputed", "contained") for _, outcome in run.outcomes()), run.found
    assert disturbed(Level.OFF).finish(2) != straight


@pytest.mark.parametrize("name", ["aten::addmm", "aten::gelu"])
def test_a_result_that_changes_on_its_way(storm_spec, name):
    straight = twin(storm_spec, 2)

    def disturbed(level):
        fault = OneFault(name, 10**9)
        run = Run(storm_spec, level, above=fault).until(1)
        fault.left = 1
        run.turn()
        assert fault.fired == 1
        return run

    run = disturbed(Level.STORM)
    assert run.finish(2) == straight
    assert RUN_AGAIN in run.outcomes(), run.found
    assert disturbed(Level.OFF).finish(2) != straight


@pytest.mark.parametrize("level", Level)
def test_no_level_changes_a_bit_without_the_processor_s_kernels(storm_spec, level, plain):
    assert Run(storm_spec, level).finish() == twin(storm_spec)


@pytest.mark.parametrize("level", Level)
def test_no_level_changes_a_bit(storm_spec, level):
    run = Run(storm_spec, level)
    assert run.finish() == twin(storm_spec)
    assert run.found == []
    assert run.guarded.take_checks() > 0 or level is Level.OFF
    assert run.guarded.take_checks() == 0


def test_the_level_switched_while_it_trains_changes_no_bit(storm_spec):
    straight = twin(storm_spec, 12)
    run = Run(storm_spec, Level.OFF)
    levels = [Level.STORM, Level.OFF, Level.STANDARD, Level.WATCH, Level.STORM, Level.WATCH, Level.OFF]
    while run.trainer.step < 12:
        if run.turns % 7 == 3:
            run.guarded.level = levels[run.turns // 7 % len(levels)]
        run.turn()
    assert run.journal == straight
    assert run.found == []
