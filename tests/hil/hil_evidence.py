"""Evidence of a run in which everything went well, small enough to read; tests spoil one thing at a time."""

from hil.evidence import (
    TRUTH_COLUMNS,
    AnswerRecord,
    Archived,
    BenchHealth,
    CommandRecord,
    EventRecord,
    Evidence,
    FaultRecord,
    Onboard,
    ReplyRecord,
    TwinRecord,
)
from hil.scenario import Scenario, parse

SCENARIO = """
schema = "hil/1"
name = "synthetic"
title = "A synthetic run"
[[faults]]
id = "kill"
kind = "worker_kill"
[[faults]]
id = "flip"
kind = "checkpoint_flip"
[[faults]]
id = "outage"
kind = "radio_outage"
[[faults]]
id = "radiator"
kind = "radiator_degrade"
magnitude = 0.2
[[faults]]
id = "gauge"
kind = "battery_bias"
magnitude = 0.01
[[faults]]
id = "ecc"
kind = "gpu_ecc"
count = 3
[[faults]]
id = "xid"
kind = "gpu_xid"
xid = 48
[[faults]]
id = "weight"
kind = "weight_flip"
job = "infer"
[invariants]
checkpoints_min = 2
replies_min = 1
throttling = true
answers_twin = true
"""
END_S = 5700.0


def scenario() -> Scenario:
    return parse(SCENARIO, "synthetic.toml")


def event(world_s: float, name: str, severity: int = 1, **fields: object) -> EventRecord:
    return EventRecord(
        boot=1,
        sequence=int(world_s),
        world_s=world_s,
        name=name,
        severity=severity,
        text=f"{name} {fields}",
        fields=fields,
    )


def truth() -> dict[str, list[float]]:
    times = [10.0 * n for n in range(571)]
    dark = [2000.0 <= t < 4000.0 for t in times]
    rows: dict[str, list[float]] = {name: [0.0] * len(times) for name in TRUTH_COLUMNS}
    rows["world_s"] = times
    rows["machine_s"] = [t / 48.0 for t in times]
    rows["sun_fraction"] = [0.0 if d else 1.0 for d in dark]
    rows["array_power_w"] = [0.0 if d else 1200.0 for d in dark]
    rows["gpu_power_w"] = [260.0 if d else 600.0 for d in dark]
    rows["bus_power_w"] = [60.0] * len(times)
    rows["soc_fraction"] = [
        0.9 - (0.18 * (t - 2000.0) / 2000.0 if d else 0.0) for t, d in zip(times, dark, strict=True)
    ]
    rows["soc_reading"] = rows["soc_fraction"]
    rows["gpu_temp_degc"] = [40.0 if d else 75.0 for d in dark]
    rows["radiator_temp_degc"] = [30.0] * len(times)
    return rows


def faults() -> list[FaultRecord]:
    def fired(id: str, kind: str, at_s: float, **evidence: object) -> FaultRecord:
        return FaultRecord(id=id, kind=kind, planned_s=at_s, fired=True, fired_s=at_s, evidence=dict(evidence))

    return [
        fired("kill", "worker_kill", 1000.0, job="train", pid=7, killed_s=1000.0),
        fired("flip", "checkpoint_flip", 3000.0, job="train", pid=8, killed_s=3000.0, generation=5,
              file="gen-00000005.ckpt", byte=99, bit=3),
        fired("outage", "radio_outage", 900.0, lost=[(1, 0x21, 10), (1, 0x21, 11)], lost_packets=2),
        fired("radiator", "radiator_degrade", 100.0, magnitude=0.2),
        fired("gauge", "battery_bias", 100.0, magnitude=0.01),
        fired("ecc", "gpu_ecc", 400.0, ecc="uncorrected", count=3),
        fired("xid", "gpu_xid", 500.0, xid=48),
        fired("weight", "weight_flip", 600.0, job="infer", pid=9, generation=2, bit=30, restored_s=620.0),
    ]  # fmt: skip


def evidence() -> Evidence:
    """A run that deserves PASS."""
    identities = {(1, 0x21, n) for n in range(100)}
    steps = [0.0, 50.0, 40.0, 90.0, 70.0, 140.0]
    times = [100.0, 950.0, 1300.0, 2900.0, 3400.0, 5600.0]
    return Evidence(
        scenario=scenario(),
        seed=1,
        link="pty",
        device="cpu",
        card="Simulated GPU (hil)",
        orbit="leo_550",
        orbit_period_s=END_S,
        warp=48.0,
        started_utc="2026-01-01T00:00:00+00:00",
        machine={"processor": "test", "cores": "2"},
        versions={"python": "3.11"},
        commit="abc",
        run=(0.0, END_S),
        flown_until_s=END_S,
        wall_s=125.0,
        passes=[(800.0, 1300.0, "svalbard"), (4700.0, 5200.0, "awarua")],
        eclipses=[(2000.0, 4000.0)],
        truth=truth(),
        faults=faults(),
        commands=[CommandRecord(id="ask", name="job.infer", planned_s=850.0, sent_s=851.0, outcome="completed")],
        twin=TwinRecord(flown=True, steps=200, compared=[(0, 30, "aa", "aa"), (1, 60, "bb", "bb")], missing=[]),
        onboard=Onboard(
            packets=120,
            sent=110,
            acknowledged={(1, 0x21, n) for n in range(90)},
            identities={(1, 0x21, n) for n in range(120)},
            events=[
                event(0.0, "BOOT"),
                event(410.0, "GPU_ECC", 3, count=1, total=1),
                event(420.0, "GPU_ECC", 3, count=2, total=3),
                event(510.0, "GPU_XID", 3, xid=48, meaning="double bit ECC error"),
                event(625.0, "INTEGRITY_REPAIRED", 2, job="infer", count=1, detector="digest", where="weight norm"),
                event(1001.0, "WORKER_DIED", 3, job="train"),
                event(1250.0, "WORKER_READY", job="train", generation=2, step=40),
                event(3010.0, "CHECKPOINT_REJECTED", 2, job="train", generation=5, reason="digest"),
                event(3300.0, "WORKER_READY", job="train", generation=4, step=70),
                event(3500.0, "CHECKPOINT_COMMITTED", job="train", generation=6, step=90, digest="cc"),
            ],
            series={
                "train.step": (times, steps),
                "train.loss": (times, [5.0, 3.0, 3.1, 2.5, 2.6, 2.0]),
                "train.state": (times, [2.0] * 6),
                "train.tokens_per_s": (times, [1000.0] * 6),
                "governor.power_budget_w": (times, [600.0] * 6),
                "mode": ([0.0, 100.0, 900.0, 1300.0], [0.0, 3.0, 4.0, 3.0]),
            },
        ),
        archived=Archived(
            live={(1, 0x21, n) for n in range(50)},
            playback=identities - {(1, 0x21, n) for n in range(50)},
            events=[],
            replies=[
                ReplyRecord(
                    world_s=900.0, request=1, prompt="def ", text="f(x):\n", tokens=4, generation=2, finish="length"
                )
            ],
        ),
        answers=[AnswerRecord(request=1, world_s=900.0, generation=2, text="f(x):\n", twin_text="f(x):\n")],
        health=BenchHealth(slip_s=0.0, late_max_s=0.01, ticks=2500, faults=[]),
        channel={
            "down": {"offered": 130, "delivered": 125, "lost_outage": 2, "lost_noise": 3, "dropped_queue_full": 0}
        },
    )
