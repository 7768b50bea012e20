"""The child's end of the pipe: whole messages in, whole messages out, and an end when the daemon ends."""

import contextlib
import functools
import os
import subprocess
import sys

import pytest

from flightsw.gpu import protocol
from flightsw.gpu.channel import ORPHAN_STATUS, Channel
from tests.background import Background, Child

PACE = protocol.Pace(0.625)
STOP = protocol.Stop()
GENERATE = protocol.Generate(request=7, prompt="fn π", max_tokens=3, temperature=0.5, top_k=2, seed=9)


@contextlib.contextmanager
def through_a_pipe(*pieces, close=True):
    """A channel whose stream is these pieces, written one by one."""
    read_fd, write_fd = os.pipe()

    def feed():
        for piece in pieces:
            os.write(write_fd, piece)
        if close:
            os.close(write_fd)

    with Background(feed):
        yield Channel(read_fd, os.open(os.devnull, os.O_WRONLY))


def drained(channel):
    found = []
    while (message := channel.receive()) is not None:
        found.append(message)
    return found


STREAM = b"".join(protocol.encode(message) for message in (PACE, GENERATE, STOP))


@pytest.mark.parametrize(
    "pieces",
    [[STREAM], [bytes([b]) for b in STREAM], [STREAM[:11], STREAM[11:]], [STREAM + b"\x05\x00"]],
    ids=["whole", "byte by byte", "torn", "cut-off tail"],
)
def test_messages_come_out_as_they_went_in(pieces):
    with through_a_pipe(*pieces) as channel:
        assert drained(channel) == [PACE, GENERATE, STOP]
    assert channel.malformed == 0


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", b"\x80", b"\x81\xa4kind\xa4nope", b"\x82\xa4kind\xa4pace\xa4duty\xa1x", b"\x91" * 9000],
    ids=["empty", "reserved", "no tag", "unknown tag", "wrong type", "nested"],
)
def test_a_malformed_message_is_counted_and_the_next_one_read(body, capfd):
    frame = protocol.LENGTH_PREFIX.pack(len(body)) + body
    with through_a_pipe(frame + protocol.encode(PACE)) as channel:
        assert drained(channel) == [PACE]
    assert channel.malformed == 1
    assert "malformed" in capfd.readouterr().err


def test_a_length_beyond_the_bound_ends_the_stream(capfd):
    frame = protocol.LENGTH_PREFIX.pack(protocol.MESSAGE_BYTES_MAX + 1) + b"x" * 100
    with through_a_pipe(frame, close=False) as channel:
        assert channel.receive() is None
    assert "over" in capfd.readouterr().err


def test_threads_that_send_at_once_do_not_mix_their_messages():
    read_fd, write_fd = os.pipe()
    channel = Channel(os.open(os.devnull, os.O_RDONLY), write_fd)
    text = "x" * 20_000  # Over what a pipe takes in one piece.

    def send(request):
        for _ in range(20):
            channel.send(protocol.SaveFailed(reason=f"{request}" + text))

    reasons = []
    with contextlib.ExitStack() as senders, open(read_fd, "rb") as stream:
        for n in range(3):
            senders.enter_context(Background(functools.partial(send, n)))
        for _ in range(60):
            (length,) = protocol.LENGTH_PREFIX.unpack(stream.read(4))
            reasons.append(protocol.decode_from_child(stream.read(length)).reason)
    os.close(write_fd)
    assert sorted(reasons) == sorted(f"{n}" + text for n in range(3) for _ in range(20))


CHILD = """
import os, subprocess, sys, threading
from flightsw.gpu import protocol
from flightsw.gpu.channel import Channel
channel = Channel.on_standard_streams(grace_s=0.05)
first = channel.receive()
print("a library prints")
os.write(1, b"so does C\\n")
subprocess.run(["echo", "and a grandchild"], check=True)
assert sys.stdin.read() == ""
channel.send(protocol.SaveFailed(reason=repr(first)))
channel.start(lambda message: channel.send(protocol.SaveFailed(reason=repr(message))), lambda: None)
threading.Event().wait()
"""


@pytest.mark.process
def test_standard_output_stays_clean_and_an_orphan_ends():
    pipe = subprocess.PIPE
    with Child([sys.executable, "-c", CHILD], stdin=pipe, stdout=pipe, stderr=pipe) as child:
        out, err = child.communicate(STREAM, timeout=60)  # Ends its input: the daemon is gone.
    reasons = []
    while out:
        (length,) = protocol.LENGTH_PREFIX.unpack(out[:4])
        reasons.append(protocol.decode_from_child(out[4 : 4 + length]).reason)
        out = out[4 + length :]
    assert reasons == [repr(PACE), repr(GENERATE), repr(STOP)]
    assert child.returncode == ORPHAN_STATUS
    assert all(words in err for words in (b"a library prints", b"so does C", b"and a grandchild"))
