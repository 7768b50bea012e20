"""Faults: what they do to real processes and files, and that they say so when they could not."""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from flightsw.link.codec import pack_housekeeping
from flightsw.link.dictionary import APID_HK_FAST, GROUP_BY_NAME
from flightsw.link.packet import TmPacket, encode_tm
from hil.channel import Channel, ChannelConfig
from hil.faults import (
    ARMED_MAX_S,
    Surroundings,
    children_of,
    flip_bit,
    make_fault,
    newest_generation,
    process_state,
)
from hil.instruments.card_health import CardHealth
from hil.scenario import FaultPlan

Eventually = Callable[..., None]

# A stand-in for a worker, as the kernel sees one: the module's name in its command line, the meter in its map.
WORKER = """
import mmap, sys, time
file = open(sys.argv[2], "r+b")
held = mmap.mmap(file.fileno(), 16)
print("up", flush=True)
time.sleep(600)
"""


# One that holds what it serves: the bytes of a file, in memory of its own; a line on standard input shows them.
SERVER = """
import mmap, sys
file = open(sys.argv[2], "r+b")
held = mmap.mmap(file.fileno(), 16)
served = bytearray(open(sys.argv[3], "rb").read())
print("up", flush=True)
for line in sys.stdin:
    if line != "?\\n":
        place, value = map(int, line.split())
        served[place] = value
    print(served.hex(), flush=True)
"""


class Plant:
    """Remembers what was injected."""

    def __init__(self) -> None:
        self.active: dict[str, float] = {}

    def inject(self, kind: str, magnitude: float) -> None:
        self.active[kind] = magnitude

    def clear(self, kind: str) -> None:
        del self.active[kind]


class Rig:
    """A daemon (this test), a plant, a channel and a folder of checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plant = Plant()
        self.channel = Channel(ChannelConfig(delay_s=0.0), random.Random(1), random.Random(2))
        self.meters = {name: folder / name for name in ("train", "infer")}
        for path in self.meters.values():
            path.write_bytes(bytes(16))
        self.card = CardHealth()
        self.around = Surroundings(
            self.plant, self.channel, os.getpid, folder / "checkpoints", self.meters, self.card
        )
        self.processes: list[subprocess.Popen[bytes]] = []

    def worker(self, job: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, "flightsw.gpu.worker", str(self.meters[job])], stdout=subprocess.PIPE
        )
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        return process

    def generations(self, *numbers: int, job: str = "train") -> None:
        ring = self.folder / "checkpoints" / job
        ring.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            (ring / f"gen-{number:08d}.ckpt").write_bytes(bytes([number]) * 5000)

    def fault(self, kind: str, at_s: float = 100.0, **fields: object) -> object:
        plan = FaultPlan(id="f", kind=kind, **fields)  # type: ignore[arg-type]
        return make_fault(plan, at_s, random.Random(3), self.around)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        if process.stdin is not None:
            process.stdin.close()


def test_a_worker_is_found_by_what_the_kernel_says(rig: Rig) -> None:
    train, infer = rig.worker("train"), rig.worker("infer")
    assert rig.around.worker_pid("train") == train.pid
    assert rig.around.worker_pid("infer") == infer.pid
    assert {train.pid, infer.pid} <= set(children_of(os.getpid()))
    assert rig.around.worker_pid("nobody") is None


def test_a_kill_fires_only_when_the_process_is_gone(rig: Rig, eventually: Eventually) -> None:
    worker, fault = rig.worker("train"), rig.fault("worker_kill")
    assert fault.tick(99.0, 0.0) == ""
    assert worker.poll() is None
    said: list[str] = []
    eventually(lambda: said.append(fault.tick(100.0, 0.0)) or said[-1], 5, "the kill")
    assert worker.wait(5) == -9
    assert fault.record.fired
    assert fault.record.evidence["pid"] == worker.pid
    assert fault.over


def test_a_kill_without_a_worker_says_that_it_did_not_fire(rig: Rig) -> None:
    fault = rig.fault("worker_kill")
    assert fault.tick(100.0, 10.0) == ""
    assert "did not fire" in fault.tick(101.0, 10.0 + ARMED_MAX_S + 1.0)
    assert not fault.record.fired
    assert "no worker" in fault.record.detail


def test_a_flip_changes_one_bit_of_the_newest_generation_and_kills(rig: Rig, eventually: Eventually) -> None:
    worker, fault = rig.worker("train"), rig.fault("checkpoint_flip")
    rig.generations(3, 4, 5)
    eventually(lambda: fault.tick(100.0, 0.0), 5, "the flip")
    assert worker.wait(5) == -9
    seen = fault.record.evidence
    damaged = (rig.folder / "checkpoints" / "train" / seen["file"]).read_bytes()
    assert seen["generation"] == 5
    assert sum((a ^ b).bit_count() for a, b in zip(damaged, b"\5" * 5000, strict=True)) == 1
    assert (rig.folder / "checkpoints" / "train" / "gen-00000004.ckpt").read_bytes() == b"\4" * 5000


def test_a_flip_without_a_fallback_lets_the_worker_live(rig: Rig) -> None:
    worker, fault = rig.worker("train"), rig.fault("checkpoint_flip")
    rig.generations(0)
    fault.tick(100.0, 0.0)
    fault.tick(100.0, ARMED_MAX_S + 1.0)
    assert not fault.record.fired
    assert process_state(worker.pid) in {"S", "R"}


def test_half_written_and_rejected_generations_are_not_the_newest(rig: Rig) -> None:
    rig.generations(1, 2)
    ring = rig.folder / "checkpoints" / "train"
    (ring / "gen-00000003.ckpt.tmp").write_bytes(b"x")
    (ring / "gen-00000004.ckpt.bad").write_bytes(b"x")
    assert newest_generation(ring) == (2, ring / "gen-00000002.ckpt")
    assert newest_generation(ring / "missing") is None


def test_a_flip_leaves_the_time_stamp(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    before = path.stat().st_mtime_ns
    done = flip_bit(path, random.Random(1))
    assert path.stat().st_mtime_ns == before
    assert path.read_bytes()[int(done["byte"])] == done["new"]


def packet(sequence: int) -> bytes:
    group = GROUP_BY_NAME["fast"]
    values = [1.0, float(sequence), 50.0] + [0.0] * (len(group.parameters) - 3)
    return encode_tm(
        TmPacket(
            apid=APID_HK_FAST, sequence_count=sequence, service=3, subtype=25, message_count=0, destination=0,
            time_quality=2, tai_s=2e9, body=pack_housekeeping(group, values),
        )
    )  # fmt: skip


def test_an_outage_fires_with_the_first_lost_packet_and_names_them(rig: Rig) -> None:
    fault = rig.fault("radio_outage", duration_s=50.0)
    rig.channel.locked = True
    assert "carrier stays locked" in fault.tick(100.0, 0.0)
    assert not fault.record.fired
    for sequence in (7, 8):
        rig.channel.down.offer(packet(sequence), 0.0)
    assert list(rig.channel.downlink(5.0)) == []
    fault.tick(120.0, 0.4)
    assert fault.record.fired
    assert "over" in fault.tick(151.0, 1.0)
    assert not rig.channel.outage
    assert fault.record.evidence["lost"] == [(1, APID_HK_FAST, 7), (1, APID_HK_FAST, 8)]


def test_an_outage_without_a_pass_does_not_fire(rig: Rig) -> None:
    fault = rig.fault("radio_outage")
    fault.tick(100.0, 0.0)
    fault.tick(100.0, ARMED_MAX_S + 1.0)
    assert (fault.record.fired, rig.channel.outage) == (False, False)


@pytest.mark.parametrize(("kind", "magnitude"), [("radiator_degrade", 0.3), ("battery_bias", -0.01)])
def test_a_plant_fault_lasts_and_is_restored(rig: Rig, kind: str, magnitude: float) -> None:
    fault = rig.fault(kind, magnitude=magnitude, duration_s=60.0)
    fault.tick(100.0, 0.0)
    assert rig.plant.active == {kind: magnitude}
    fault.tick(161.0, 2.0)
    assert rig.plant.active == {}
    assert (fault.record.fired_s, fault.record.ended_s) == (100.0, 161.0)


def test_what_is_still_on_at_the_end_is_restored(rig: Rig) -> None:
    fault = rig.fault("radiator_degrade", magnitude=0.3)
    fault.tick(100.0, 0.0)
    fault.finish(5000.0)
    fault.finish(5000.0)
    assert rig.plant.active == {}


@pytest.mark.parametrize(
    ("kind", "fields", "shown", "evidence"),
    [
        ("gpu_ecc", {"count": 12, "ecc": "corrected"}, (12, 0, ()), {"ecc": "corrected", "count": 12}),
        ("gpu_ecc", {}, (0, 1, ()), {"ecc": "uncorrected", "count": 1}),
        ("gpu_xid", {"xid": 48}, (0, 0, (48,)), {"xid": 48}),
        ("gpu_xid", {"xid": 79}, (0, 0, (79,)), {"xid": 79}),
    ],
)
def test_a_fault_of_the_card_is_an_instant(
    rig: Rig, kind: str, fields: dict[str, object], shown: tuple[object, ...], evidence: dict[str, object]
) -> None:
    fault = rig.fault(kind, **fields)
    assert fault.tick(99.0, 0.0) == ""
    assert "fault f" in fault.tick(100.5, 0.1)
    assert (fault.over, fault.record.fired, fault.record.fired_s) == (True, True, 100.5)
    assert (rig.card.ecc_corrected, rig.card.ecc_uncorrected, rig.card.xids) == shown
    assert fault.record.evidence == evidence
    assert fault.tick(101.0, 0.2) == ""
    assert rig.card.xid_count <= 1


@pytest.mark.parametrize(("real", "why"), [(True, "real one"), (False, "no power")])
def test_a_card_that_cannot_be_injected_into_makes_no_fault(rig: Rig, real: bool, why: str) -> None:
    rig.card.rail(False)
    if real:
        rig.around.card = None
    fault = rig.fault("gpu_xid", xid=48)
    assert fault.tick(100.0, 0.0) == ""
    said = fault.tick(101.0, ARMED_MAX_S + 0.1)
    assert "did not fire" in said
    assert why in said
    assert (fault.record.fired, rig.card.xid_count) == (False, 0)


class Server:
    """A stand-in for an inference worker whose weights can be looked at."""

    def __init__(self, rig: Rig, weights: bytes) -> None:
        path = rig.folder / "weights"
        path.write_bytes(weights)
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, "flightsw.gpu.worker", str(rig.meters["infer"]), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        rig.processes.append(self.process)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"up\n"

    def held(self, line: str = "?") -> bytes:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        return bytes.fromhex(self.process.stdout.readline().decode())


def weights_on_disk(rig: Rig, weights: bytes) -> None:
    ring = rig.folder / "checkpoints" / "train"
    ring.mkdir(parents=True)
    entry = {"name": "model.w", "dtype": "float32", "shape": [len(weights) // 4], "digest": "0" * 32}
    manifest = msgspec.json.encode({"tensors": [entry]})
    head = b"GPUSATCK" + (1).to_bytes(4, "little") + len(manifest).to_bytes(4, "little") + bytes(16)
    (ring / "gen-00000002.ckpt").write_bytes(head + manifest + weights)


def test_a_weight_flips_in_the_memory_of_the_worker_and_is_watched(rig: Rig, eventually: Eventually) -> None:
    weights = random.Random(9).randbytes(4000)
    server = Server(rig, weights)
    weights_on_disk(rig, weights)
    fault = rig.fault("weight_flip", job="infer", bit=30)
    eventually(lambda: fault.tick(100.0, 0.0), 20, "the flip")
    seen = fault.record.evidence
    assert fault.record.fired
    assert (seen["pid"], seen["generation"], seen["tensor"], seen["bit"]) == (server.process.pid, 2, "w", 30)
    damaged = server.held()
    (place,) = [at for at, (a, b) in enumerate(zip(weights, damaged, strict=True)) if a != b]
    assert place == seen["element"] * 4 + 3
    assert damaged[place] ^ weights[place] == 0x40
    fault.tick(130.0, 1.0)
    assert "restored_s" not in seen
    server.held(f"{place} {weights[place]}")
    fault.tick(140.0, 2.0)
    assert seen["restored_s"] == 140.0
    fault.tick(150.0, 3.0)
    fault.finish(160.0)
    assert (seen["restored_s"], fault.record.ended_s, fault.over) == (140.0, 160.0, True)


@pytest.mark.parametrize(
    ("served", "stored", "says"),
    [
        (None, b"\1", "no worker of job infer was alive"),
        (b"\1", None, "no generation is in train yet"),
        (b"\1", b"\2", "no generation's weights were found in"),
    ],
)
def test_a_weight_that_cannot_be_found_never_fires(
    rig: Rig, eventually: Eventually, served: bytes | None, stored: bytes | None, says: str
) -> None:
    if served:
        Server(rig, random.Random(served[0]).randbytes(4000))
    if stored:
        weights_on_disk(rig, random.Random(stored[0]).randbytes(4000))
    fault = rig.fault("weight_flip", job="infer")
    eventually(lambda: fault.tick(100.0, 0.0) or says in fault.record.detail, 20, "the reason")
    assert "did not fire" in fault.tick(101.0, ARMED_MAX_S + 1.0)
    assert says in fault.record.detail
    assert not fault.record.fired


def test_a_worker_that_died_after_the_flip_is_no_repair(rig: Rig, eventually: Eventually) -> None:
    weights = random.Random(9).randbytes(4000)
    server = Server(rig, weights)
    weights_on_disk(rig, weights)
    fault = rig.fault("weight_flip", job="infer")
    eventually(lambda: fault.tick(100.0, 0.0), 20, "the flip")
    server.process.kill()
    server.process.wait()
    fault.tick(130.0, 1.0)
    fault.finish(140.0)
    assert "restored_s" not in fault.record.evidence
    assert fault.record.fired
