"""The training guard as a table: what is suspect, what is not, and how often it is wrong."""

import math
import random

import pytest
import torch
from msgspec.structs import replace
from worker_harness import tiny_corpus

from flightsw.gpu import protocol
from flightsw.gpu.integrity import training_guard
from flightsw.gpu.integrity.training_guard import Config, Observed, State
from flightsw.gpu.workloads import train
from flightsw.gpu.workloads.recipe import learning_rate_factor

CONFIG = Config()


def observed(step=0, loss=2.0, norm=0.5, update=1e-3, rate=1e-3):
    return Observed(step=step, loss=loss, gradient_norm=norm, update=update, learning_rate=rate)


def settled(steps=100, seed=1, spread=0.1):
    """A guard after clean steps that vary by so much, as logarithms."""
    state, rng = State(), random.Random(seed)
    for number in range(steps):
        loss, norm, update = (value * math.exp(rng.gauss(0.0, spread)) for value in (2.0, 0.5, 1e-3))
        state, verdict = training_guard.step(state, CONFIG, observed(number, loss, norm, update))
        assert verdict.ok, verdict.reason
    return state


# (change of a usual step, words of the reason; empty is ok)
AFTER_WARM_UP = (
    ({}, ""),
    ({"loss": 3.0}, ""),
    ({"loss": 0.02}, ""),  # Better is no alarm.
    ({"loss": 0.0}, ""),
    ({"loss": -1.0}, ""),
    ({"loss": 20.0}, "loss 20 is over"),
    ({"loss": math.nan}, "loss is nan"),
    ({"loss": math.inf}, "loss is inf"),
    ({"norm": 0.9}, ""),
    ({"norm": 5.0}, "gradient norm 5 is over"),
    ({"norm": 1e38}, "gradient norm 1e\\+38 is over"),
    ({"norm": 0.02}, "gradient norm 0.02 is under"),
    ({"norm": 0.0}, "gradient norm is 0"),
    ({"norm": math.inf}, "gradient norm is inf"),
    ({"norm": math.nan}, "gradient norm is nan"),
    ({"update": None}, ""),
    ({"update": 0.0}, "update over weights and learning rate is 0"),
    ({"update": 1.0}, "update over weights and learning rate 1000 is over"),
    ({"update": 1e-6}, "update over weights and learning rate 0.001 is under"),
    ({"update": math.nan}, "update over weights and learning rate is nan"),
)


@pytest.mark.parametrize(("change", "words"), AFTER_WARM_UP)
def test_what_is_suspect(change, words):
    state = settled()
    after, verdict = training_guard.step(state, CONFIG, observed(100, **change))
    assert verdict.ok is not bool(words)
    if words:
        with pytest.raises(AssertionError, match=f"step 100: {words}"):
            raise AssertionError(verdict.reason)
        assert after.history == state.history  # A suspect does not teach.
        assert (after.judged, after.suspects) == (101, 1)
    else:
        assert (after.judged, after.suspects) == (101, 0)


@pytest.mark.parametrize("change", [{"loss": math.nan}, {"norm": math.inf}, {"norm": 0.0}, {"update": math.inf}])
def test_warm_up_excuses_no_number_that_is_none(change):
    assert not training_guard.step(State(), CONFIG, observed(**change))[1].ok


def test_warm_up_judges_nothing_else_and_ends():
    state = State()
    for number in range(CONFIG.warm_up):
        state, verdict = training_guard.step(state, CONFIG, observed(number, norm=10.0 ** (number % 5)))
        assert verdict.ok
    state = State()
    for number in range(CONFIG.warm_up):
        state, _ = training_guard.step(state, CONFIG, observed(number))
    assert not training_guard.step(state, CONFIG, observed(norm=0.8))[1].ok  # Constant before: the floor decides.
    assert training_guard.step(state, CONFIG, observed(norm=0.55))[1].ok


def test_the_schedule_is_no_change():
    state = State()
    for number in range(400):
        rate = 1e-3 * learning_rate_factor(number)
        state, verdict = training_guard.step(state, CONFIG, observed(number, update=0.7 * rate, rate=rate))
        assert verdict.ok, verdict.reason
    # The same update with the learning rate of the warm-up's first step is thirty times too large.
    assert not training_guard.step(state, CONFIG, observed(update=0.7e-3, rate=1e-3 / 30))[1].ok


def test_the_window_forgets():
    state = settled(300)
    assert [len(past) for past in state.history] == [CONFIG.window] * 3


def test_a_few_outliers_do_not_open_the_band():
    state = settled()
    for number in range(CONFIG.proven_max - 1):
        state, verdict = training_guard.step(state, CONFIG, observed(number, norm=50.0), proven=True)
        assert verdict.ok
    assert not training_guard.step(state, CONFIG, observed(norm=50.0))[1].ok


def test_a_step_that_was_proven_counts_and_a_new_way_of_training_begins_anew():
    state = settled()
    replays = 0
    for number in range(200):
        state, verdict = training_guard.step(state, CONFIG, observed(number, norm=50.0))
        if not verdict.ok:
            replays += 1
            state, verdict = training_guard.step(state, CONFIG, observed(number, norm=50.0), proven=True)
            assert verdict.ok
    assert replays == CONFIG.proven_max
    assert not training_guard.step(state, CONFIG, observed(norm=0.5))[1].ok


def test_genuine_suspects_must_come_in_a_row():
    state = settled()
    for number in range(3 * CONFIG.proven_max):
        assert not training_guard.step(state, CONFIG, observed(number, norm=50.0))[1].ok
        state, _ = training_guard.step(state, CONFIG, observed(number, norm=50.0), proven=True)
        state, _ = training_guard.step(state, CONFIG, observed(number))
    assert len(state.history[1]) == CONFIG.window


def test_no_proof_makes_nan_a_number():
    state = settled()
    after, verdict = training_guard.step(state, CONFIG, observed(loss=math.nan), proven=True)
    assert not verdict.ok
    assert after == state


def test_a_configuration_that_never_judges_is_refused():
    with pytest.raises(ValueError, match="warm_up 64 is over window 32"):
        Config(window=32, warm_up=64)


@pytest.mark.parametrize(("seed", "micro_batches"), [(1, 1), (2, 2)])
def test_false_alarms_over_a_clean_run(tmp_path, seed, micro_batches):
    """An undisturbed run from its first step on, with accumulation and without."""
    threads = torch.get_num_threads()
    spec = protocol.TrainSpec(
        preset="micro", device="cpu", corpus=tiny_corpus(tmp_path), seed=seed, micro_batches=micro_batches,
        learning_rate=3e-3,
    )  # fmt: skip
    trainer = train.prepare(spec)
    state, reasons = State(), []
    while trainer.step < 400:
        if trainer.micro_batch():
            seen = Observed(
                step=trainer.step, loss=trainer.loss, gradient_norm=trainer.gradient_norm_last,
                learning_rate=spec.learning_rate,
            )  # fmt: skip
            state, verdict = training_guard.step(state, CONFIG, seen)
            reasons += [verdict.reason] if not verdict.ok else []
    torch.set_deterministic_debug_mode("default")
    torch.set_num_threads(threads)
    assert reasons == []
    # The checker checked: with a band of one σ the same run is full of alarms.
    narrow = replace(CONFIG, sigmas_above=1.0, sigmas_below=1.0)
    assert not training_guard.step(state, narrow, replace(seen, gradient_norm=seen.gradient_norm * 3))[1].ok
