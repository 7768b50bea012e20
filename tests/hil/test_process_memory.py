"""Memory of a real child process: found by content, changed from outside, and refused where it must be."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hil.checkpoint_file import raw_bytes, stored_tensors
from hil.process_memory import (
    PROBE_BYTES,
    STEP_BYTES,
    MemoryDenied,
    ProcessMemory,
    Search,
    writable_regions,
)
from hil.served_weights import ServedWeights

# The child holds a content twice: in a large mapping of its own, across a seam of the search, and on its heap. It
# answers each line on standard input with a digest of what it holds.
CHILD = """
import hashlib, mmap, sys
content = bytes.fromhex(sys.stdin.readline())
large = mmap.mmap(-1, {large}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
large[{at} : {at} + len(content)] = content
held = bytearray(content)
del content
print("up", flush=True)
for line in sys.stdin:
    at = {at}
    print(hashlib.sha256(large[at : at + len(held)]).hexdigest(), hashlib.sha256(held).hexdigest(), flush=True)
"""
LARGE = 2 * STEP_BYTES + 4096
AT = STEP_BYTES - 100
"""The content begins just before the end of the first piece."""


class Held:
    """The child and its content."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD.format(large=LARGE, at=AT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.say(content.hex()) == ["up"]

    def say(self, line: str) -> list[str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().split()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for end in (self.process.stdin, self.process.stdout):
            if end is not None:
                end.close()


@pytest.fixture
def held() -> Iterator[Held]:
    child = Held(random.Random(4).randbytes(5000))
    yield child
    child.close()


@pytest.fixture
def memory(held: Held) -> Iterator[ProcessMemory]:
    opened = ProcessMemory(held.process.pid)
    yield opened
    opened.close()


def search(memory: ProcessMemory, contents: dict[str, bytes]) -> Search:
    found = Search(memory, contents)
    while not found.step():
        pass
    return found


def test_a_content_is_found_wherever_it_lies(held: Held, memory: ProcessMemory) -> None:
    absent = random.Random(5).randbytes(5000)
    # One that begins alike is none.
    similar = held.content[:-1] + bytes([held.content[-1] ^ 1])
    found = search(memory, {"held": held.content, "absent": absent, "similar": similar})
    assert {place.name for place in found.places} == {"held"}
    assert len({place.address for place in found.places}) == len(found.places) >= 2
    # A copy in freed memory may be overwritten at any time; the two that are held stay.
    there = [place for place in found.places if found.still_there(place)]
    assert len(there) >= 2
    assert all(memory.read(place.address, 5000) == held.content for place in there)
    assert found.searched_bytes >= LARGE


def test_a_flip_is_one_bit_in_the_running_process(held: Held, memory: ProcessMemory) -> None:
    before = held.say("digest")
    found = search(memory, {"held": held.content})
    places = [place for place in found.places if found.still_there(place)]
    for place in places:
        old, new = memory.flip(place.address + 7, b"\x10")
        assert old == held.content[7:8]
        assert new == bytes([old[0] ^ 0x10])
    after = held.say("digest")
    assert before[0] == before[1]
    assert after[0] == after[1] != before[0]
    assert not any(found.still_there(place) for place in places)
    damaged = held.content[:7] + new + held.content[8:]
    for place in places:
        if memory.read(place.address, len(damaged)) == damaged:
            memory.flip(place.address + 7, b"\x10")
    assert held.say("digest") == before


def test_only_private_writable_memory_is_searched(held: Held) -> None:
    regions = writable_regions(held.process.pid)
    assert regions
    assert all(start < end for start, end in regions)
    maps = Path(f"/proc/{held.process.pid}/maps").read_text()
    (stack,) = [line.split("-")[0] for line in maps.splitlines() if line.endswith("[stack]")]
    assert int(stack, 16) not in {start for start, _ in regions}


def test_memory_that_is_gone_reads_as_nothing(memory: ProcessMemory) -> None:
    assert memory.read(4096, 16) == b""
    with pytest.raises(MemoryDenied, match="0x1000 is gone"):
        memory.flip(4096, b"\1")


def test_a_process_that_is_gone_is_one_line(held: Held, memory: ProcessMemory) -> None:
    pid = held.process.pid
    held.process.kill()
    held.process.wait()
    with pytest.raises(MemoryDenied, match=f"process {pid}: its memory cannot be reached"):
        ProcessMemory(pid)
    with pytest.raises(MemoryDenied, match=f"process {pid}"):
        writable_regions(pid)
    assert memory.read(4096, 16) == b""


PR_SET_DUMPABLE = 4
CLOSED = """
import ctypes, os, sys
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
ctypes.CDLL(None).prctl({dumpable}, 0)
print("up", flush=True)
sys.stdin.read()
"""


def test_memory_that_is_closed_says_what_to_do() -> None:
    """A process without the right to trace looks at one that may not be traced."""
    closed = subprocess.Popen(
        [sys.executable, "-c", CLOSED.format(dumpable=PR_SET_DUMPABLE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert closed.stdout is not None
    assert closed.stdin is not None
    try:
        assert closed.stdout.readline() == b"up\n"
        code = (
            "import os, sys\n"
            "from hil.process_memory import MemoryDenied, ProcessMemory\n"
            "if os.getuid() == 0:\n    os.setgid(65534); os.setuid(65534)\n"
            f"try:\n    ProcessMemory({closed.pid})\nexcept MemoryDenied as error:\n    print(error)\n"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    finally:
        closed.kill()
        closed.wait()
        closed.stdin.close()
        closed.stdout.close()
    assert "its memory may not be touched" in out
    assert "ptrace_scope at most 1" in out
    assert out.count("\n") == 1


@pytest.mark.parametrize("size", [PROBE_BYTES - 1, 0])
def test_a_content_that_is_too_short_is_refused(memory: ProcessMemory, size: int) -> None:
    with pytest.raises(ValueError, match="can be searched for"):
        Search(memory, {"short": bytes(size)})


def checkpoint(path: Path, tensors: dict[str, tuple[str, bytes]]) -> None:
    """A file as the flight software's format describes it; the digest is not looked at."""
    sizes = {"float32": 4, "bfloat16": 2}
    manifest = msgspec.json.encode(
        {
            "tensors": [
                {"name": name, "dtype": dtype, "shape": [len(data) // sizes[dtype]], "digest": "0" * 32}
                for name, (dtype, data) in tensors.items()
            ]
        }
    )
    head = b"GPUSATCK" + (1).to_bytes(4, "little") + len(manifest).to_bytes(4, "little") + bytes(16)
    path.write_bytes(head + manifest + b"".join(data for _, data in tensors.values()))


def test_a_tensor_is_read_from_a_checkpoint_of_the_flight_software(tmp_path: Path) -> None:
    """The bench's own reader against the flight software's writer."""
    torch = pytest.importorskip("torch")
    from flightsw.gpu.checkpoint import format

    tensors = {"model.a": torch.arange(70.0), "optimiser.b": torch.ones(3), "model.c": torch.ones(5).bfloat16()}
    entries = format.describe(tensors)
    manifest = format.Manifest(
        generation=3, step=9, digest=format.state_digest(entries), facts={"job": "t"}, tensors=entries
    )
    format.write(tmp_path / "gen-00000003.ckpt", manifest, tensors)
    found = {tensor.name: tensor for tensor in stored_tensors(tmp_path / "gen-00000003.ckpt")}
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert raw_bytes(tmp_path / "gen-00000003.ckpt", found[name]) == bytes(format.tensor_bytes(tensor))
    assert found["model.c"].element_bytes == 2


def test_the_served_generation_is_hit_and_watched(held: Held, tmp_path: Path) -> None:
    """Generation 6 is on disk and not served; 5 is, and one bit of it is hit in every copy."""
    other = random.Random(6).randbytes(5000)
    for number, data in ((4, other[::-1]), (5, held.content), (6, other)):
        checkpoint(
            tmp_path / f"gen-{number:08d}.ckpt",
            {
                "model.w": ("float32", data),
                "optimiser.w": ("float32", data[::-1]),
                "model.tiny": ("float32", data[:8]),
            },
        )
    before = held.say("digest")
    weights = ServedWeights(held.process.pid, tmp_path, random.Random(1), bit=30)
    try:
        assert weights.flip() is None  # Nothing was searched yet.
        while not weights.step():
            pass
        seen = weights.flip()
        assert seen is not None
        assert (seen["generation"], seen["tensor"], seen["bit"], seen["read_back"]) == (5, "w", 30, True)
        assert seen["old"] ^ seen["new"] == 0x40
        assert held.content[seen["element"] * 4 + 3] == seen["old"]
        after = held.say("digest")
        assert after[0] == after[1] != before[0]
        assert weights.restored() == 0
        byte = seen["element"] * 4 + 3
        damaged = held.content[:byte] + bytes([seen["new"]]) + held.content[byte + 1 :]
        repair = ProcessMemory(held.process.pid)
        starts = [int(address, 16) - byte for address in seen["addresses"]]
        still = [start for start in starts if repair.read(start, len(damaged)) == damaged]
        # The right byte in a copy that is not whole is no repair.
        repair.write(still[0] + byte, bytes([seen["old"]]))
        repair.flip(still[0], b"\1")
        assert weights.restored() == 0
        repair.flip(still[0], b"\1")
        assert weights.restored() == 1
        repair.close()
    finally:
        weights.close()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "no generation is in"),
        ({"gen-00000001.ckpt": {"optimiser.w": ("float32", bytes(4000))}}, "holds no weights"),
        ({"gen-00000001.ckpt": {"model.w": ("float32", bytes(4000))}}, "nothing but zeros"),
        ({"gen-00000001.ckpt": {"model.w": ("bfloat16", bytes(range(250)) * 16)}}, "bit 30 does not exist"),
        ({"gen-00000001.ckpt": None}, "no checkpoint that the bench can read"),
    ],
)
def test_a_ring_that_offers_nothing_is_one_line(tmp_path: Path, files: dict[str, object], says: str) -> None:
    for name, tensors in files.items():
        if tensors is None:
            (tmp_path / name).write_bytes(json.dumps({"no": "checkpoint"}).encode() * 9)
        else:
            checkpoint(tmp_path / name, tensors)
    with pytest.raises(ValueError, match=says) as caught:
        ServedWeights(os.getpid(), tmp_path, random.Random(1), bit=30)
    assert "\n" not in str(caught.value)
