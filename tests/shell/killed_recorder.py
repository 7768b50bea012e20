"""A recorder that records, plays back and hears acknowledgements until it is killed; run by ``test_recorder_kill``.

It plays the station, too: of what was delivered most is acknowledged, the rest never. What the recorder
does is for the test to see in its database; "open" on standard output says that it is at work.
"""

import random
import sys
import threading
from pathlib import Path

from recorder_bench import Bench, event, identity, row


def main(folder: Path, boot: int, seed: int) -> None:
    rng, pause = random.Random(seed), threading.Event()
    bench = Bench(folder, quota_mb=1000.0, ack_timeout_s=0.2)
    recorder = bench.recorder
    recorder.open()
    print("open", flush=True)
    sequence = 0
    while True:
        for _ in range(rng.randrange(1, 30)):
            made = event(sequence, rng.randrange(6), boot) if rng.random() < 0.2 else row(sequence, boot=boot)
            recorder.record(made)
            sequence += 1
        recorder.play_back(rng.randrange(200, 4000))
        while bench.delivered:
            of_boot, apid, number = identity(bench.delivered.pop(0))
            if rng.random() < 0.7:
                recorder.acknowledge(of_boot, apid, number, number)
        pause.wait(0.002)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
