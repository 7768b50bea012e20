"""The ring: whatever happens while saving, an older generation stands and the newest good one is found."""

import errno
import os
import resource

import pytest
import torch

from flightsw.gpu.checkpoint import ring as ring_module
from flightsw.gpu.checkpoint.ring import Ring, SaveError


def tensors(step, size=300):
    random = torch.tensor([step % 256], dtype=torch.uint8)
    return {"model.weight": torch.full((size,), float(step)), "random.host": random}


@pytest.fixture
def ring(tmp_path):
    ring = Ring(tmp_path / "job" / "checkpoints")
    assert ring.open_for_writing() == ()
    yield ring
    ring.close()


def commit(ring, *steps):
    return [ring.commit(step, {"tokens": step}, tensors(step)) for step in steps]


def flip(path, at=-9):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_an_empty_ring_has_nothing(ring):
    restored = ring.newest()
    assert (restored.manifest, restored.rejected, ring.latest(), ring.generations()) == (None, (), None, [])


def test_the_newest_generation_comes_back_and_old_ones_go(ring):
    commits = commit(ring, 10, 20, 30, 40, 50, 60)
    assert ring.generations() == [5, 4, 3, 2]
    restored = ring.newest()
    assert restored.manifest.step == 60
    assert restored.manifest.facts == {"tokens": 60}
    assert torch.equal(restored.tensors["model.weight"], tensors(60)["model.weight"])
    assert ring.latest() == ring_module.Pointer(5, 60, commits[-1].digest)
    assert commits[-1].digest == restored.manifest.digest
    assert commits[-1].size_bytes == ring.path(5).stat().st_size


def test_files_are_private(ring):
    commit(ring, 1)
    assert ring.folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in ring.folder.iterdir()} == {
        "gen-00000000.ckpt": 0o600,
        "latest": 0o600,
        "lock": 0o600,
    }


def test_damaged_generations_are_skipped_once_with_a_reason_and_their_numbers_never_come_again(ring):
    commit(ring, 10, 20, 30)
    flip(ring.path(2))
    os.truncate(ring.path(1), 100)
    restored = ring.newest()
    assert restored.manifest.generation == 0
    assert [(r.generation, r.reason.split()[0]) for r in restored.rejected] == [(2, "tensor"), (1, "cut")]
    assert ring.newest().rejected == ()
    assert commit(ring, 15)[0].generation == 3
    assert ring.newest().rejected == ()
    ring.close()
    again = Ring(ring.folder)
    again.open_for_writing()
    assert commit(again, 25)[0].generation == 4
    again.close()


def test_a_reader_reports_damage_and_moves_nothing(ring):
    commit(ring, 10, 20)
    flip(ring.path(1))
    reader = Ring(ring.folder)
    for _ in range(2):
        restored = reader.newest(lambda name: name.startswith("model."))
        assert [r.generation for r in restored.rejected] == [1]
        assert sorted(restored.tensors) == ["model.weight"]
    assert ring.generations() == [1, 0]


def test_quarantine_is_bounded(ring):
    for step in range(8):
        commit(ring, step)
        flip(ring.path(step))
        ring.newest()
    commit(ring, 9)
    assert len(list(ring.folder.glob("*.bad"))) == ring_module.QUARANTINE_MAX


def test_a_file_under_another_number_is_no_generation(ring):
    commit(ring, 10)
    os.rename(ring.path(0), ring.path(7))
    restored = ring.newest()
    assert restored.manifest is None
    assert "holds 0" in restored.rejected[0].reason


def test_a_committed_generation_whose_file_is_gone_is_reported(ring):
    commit(ring, 10, 20)
    ring.path(1).unlink()
    restored = ring.newest()
    assert restored.manifest.step == 10
    assert [(r.generation, "missing" in r.reason) for r in restored.rejected] == [(1, True)]


@pytest.mark.parametrize("damage", [b"", b"\x00" * 40, b"5 60 " + b"a" * 32 + b" 0123456789abcdef\n", b"x" * 5000])
def test_a_damaged_pointer_is_reported_and_the_generations_serve(ring, damage):
    commit(ring, 10, 20)
    (ring.folder / "latest").write_bytes(damage)
    assert ring.latest() is None
    restored = ring.newest()
    assert restored.manifest.step == 20
    assert [r.generation for r in restored.rejected] == [-1]


def test_every_bit_flip_of_the_pointer_is_noticed(ring):
    commit(ring, 10, 20)
    path = ring.folder / "latest"
    data, good = path.read_bytes(), ring.latest()
    for at in range(len(data)):
        for bit in range(8):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
            assert ring.latest() in (None, good)


def test_a_half_written_file_is_cleared_and_reported_at_the_next_start(ring):
    commit(ring, 10)
    (ring.folder / "gen-00000001.ckpt.tmp").write_bytes(b"half")
    ring.close()
    again = Ring(ring.folder)
    assert [(r.generation, "half-written" in r.reason) for r in again.open_for_writing()] == [(1, True)]
    assert commit(again, 20)[0].generation == 2
    again.close()


def test_foreign_files_are_let_alone(ring):
    names = ["notes.txt", "gen-1.ckpt", "gen-00000001.ckpt.old", "gen-0000000x.ckpt"]
    for name in names:
        (ring.folder / name).write_bytes(b"mine")
    commit(ring, *range(6))
    assert all((ring.folder / name).read_bytes() == b"mine" for name in names)


def test_a_second_writer_is_refused(ring, monkeypatch):
    monkeypatch.setattr(ring_module, "LOCK_WAIT_S", 0.1)
    with pytest.raises(SaveError, match="another worker still writes here"):
        Ring(ring.folder).open_for_writing()


def test_an_unusable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SaveError, match=r"file/sub: Not a directory"):
        Ring(tmp_path / "file" / "sub").open_for_writing()


def test_a_ring_has_at_least_four_generations(tmp_path):
    with pytest.raises(ValueError, match="at least 4"):
        Ring(tmp_path, 3)


# --- failures while saving -----------------------------------------------------------------------------------


def test_a_file_size_limit_of_the_system_leaves_the_older_generations(ring):
    """A real refusal by the kernel in the middle of the tensors."""
    commit(ring, 10, 20)
    before = sorted(os.listdir(ring.folder))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(SaveError, match=r"generation 2 .*File too large"):
            ring.commit(30, {}, tensors(30, size=100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(os.listdir(ring.folder)) == before
    assert ring.newest().manifest.step == 20
    assert commit(ring, 40)[0].generation == 3


CALLS = ("open", "write", "fsync", "rename")


class Nth:
    """Lets the first calls of some functions of ``os`` through and breaks call number ``n``."""

    def __init__(self, monkeypatch, n, error):
        self.left = n
        for name in CALLS:
            monkeypatch.setattr(os, name, self.wrap(getattr(os, name), error))

    def wrap(self, function, error):
        def call(*arguments, **options):
            self.left -= 1
            if self.left == 0:
                raise error
            return function(*arguments, **options)

        return call


CALLS_PER_COMMIT = 13
"""Counted by the last test of this table: beyond it the commit goes through."""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["no space", "input/output error"])
@pytest.mark.parametrize("n", range(1, CALLS_PER_COMMIT + 1))
def test_an_error_of_any_call_is_a_failed_save_and_nothing_else(ring, monkeypatch, n, number):
    commit(ring, 10, 20)
    with monkeypatch.context() as patch:
        Nth(patch, n, OSError(number, os.strerror(number)))
        with pytest.raises(SaveError, match=os.strerror(number)):
            commit(ring, 30)
    assert not list(ring.folder.glob("gen-*.tmp"))
    assert ring.latest().generation in ring.generations()  # "latest" never runs ahead of what is there.
    assert ring.newest().manifest.step in (20, 30)  # 30: verified and in place, only the pointer failed.
    assert ring.path(0).exists()
    assert ring.path(1).exists()
    assert commit(ring, 40)[0].generation == 3
    assert ring.newest().manifest.step == 40
    assert ring.newest().rejected == ()


class PowerCut(BaseException):
    """Nothing catches it: what it leaves behind is what a dead process leaves."""


@pytest.mark.parametrize("n", range(1, CALLS_PER_COMMIT + 1))
def test_a_death_at_any_call_leaves_a_ring_that_goes_on(ring, monkeypatch, n):
    commit(ring, 10, 20)
    with monkeypatch.context() as patch:
        Nth(patch, n, PowerCut())
        with pytest.raises(PowerCut):
            commit(ring, 30)
    ring.close()
    again = Ring(ring.folder)
    assert again.latest().generation in again.generations()
    rejected = again.open_for_writing()
    assert {r.generation for r in rejected} <= {2}
    restored = again.newest()
    assert restored.manifest.step in (20, 30)
    assert torch.equal(restored.tensors["model.weight"], tensors(restored.manifest.step)["model.weight"])
    assert commit(again, 40)[0].generation in (2, 3)
    assert again.newest().manifest.step == 40
    again.close()


def test_the_table_covers_every_call(ring, monkeypatch):
    commit(ring, 10, 20)
    with monkeypatch.context() as patch:
        count = Nth(patch, CALLS_PER_COMMIT + 1, PowerCut())
        commit(ring, 30)
    assert count.left == 1


def test_a_file_that_reads_back_wrong_is_not_committed(ring, monkeypatch):
    commit(ring, 10)
    sync = os.fsync

    def rot(fd):
        sync(fd)
        path = os.readlink(f"/proc/self/fd/{fd}")
        if path.endswith(".ckpt.tmp"):
            os.truncate(path, os.path.getsize(path) - 1)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", rot)
        with pytest.raises(SaveError, match="read back wrong"):
            commit(ring, 20)
    assert ring.generations() == [0]
    assert ring.latest().step == 10
