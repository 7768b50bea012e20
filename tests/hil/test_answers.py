"""Answers beside those of an undisturbed worker: a real worker and checkpoint, and what is said without one."""

from pathlib import Path

import pytest
import torch

from flightsw.gpu.checkpoint.ring import Ring
from flightsw.gpu.protocol import TrainSpec
from flightsw.gpu.workloads.corpus import load
from flightsw.gpu.workloads.trainer import Trainer
from hil.answers import compare_answers
from hil.evidence import ReplyRecord

JOB = {"kind": "infer", "id": "infer", "model": "job:train", "device": "cpu"}
ASKED = {"job": "infer", "prompt": "import ", "max_tokens": 12, "temperature": 0.9, "seed": 3}


def reply(text: str, request: int = 1, generation: int = 0, finish: str = "length", **asked: object) -> ReplyRecord:
    return ReplyRecord(
        world_s=1.0, request=request, prompt="import ", text=text, tokens=12, generation=generation, finish=finish,
        arguments={**ASKED, **asked},
    )  # fmt: skip


@pytest.mark.process
def test_a_released_answer_is_held_against_the_undisturbed_one(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("abcdefgh" * 200)
    trainer = Trainer(TrainSpec(preset="micro"), load(str(tmp_path / "text"), 32), torch.device("cpu"))
    ring = Ring(tmp_path / "ring")
    ring.open_for_writing()
    ring.commit(0, trainer.facts(), {**trainer.live(), **trainer.random_states})
    said: list[str] = []
    replies = [
        reply("x", 1),
        reply("x", 2, seed=4),
        reply("x", 3),
        reply("no answer", 4, finish="failed"),
        reply("x", 5, generation=7),
    ]
    answers, detail = compare_answers(replies, JOB, ring.folder, tmp_path / "twin", said.append)
    assert [answer.request for answer in answers] == [1, 2, 3]
    assert answers[0].twin_text == answers[2].twin_text != answers[1].twin_text
    assert all(len(answer.twin_text) >= 6 and answer.text == "x" for answer in answers)
    assert detail == "generation 7 is no longer in the ring, so 1 answers have no twin"
    assert len(said) == 2


@pytest.mark.process
def test_a_worker_that_cannot_serve_gives_no_twin(tmp_path: Path) -> None:
    (tmp_path / "gen-00000000.ckpt").write_bytes(b"no checkpoint")
    job = {**JOB, "model": "nonsense"}
    answers, detail = compare_answers([reply("x")], job, tmp_path, tmp_path / "twin", lambda line: None)
    assert answers == []
    assert 'model is "nonsense"' in detail


def test_nothing_released_needs_no_worker(tmp_path: Path) -> None:
    failed = [reply("late", finish="failed")]
    assert compare_answers(failed, JOB, tmp_path, tmp_path, lambda line: None) == ([], "")
