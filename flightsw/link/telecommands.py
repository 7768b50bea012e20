"""The dictionary's telecommands: opcode, PUS type, arguments, where each is allowed, and how long it may take.

Opcodes are never reused. The text is what an operator reads, in the ICD and in the command line's help.
"""

from typing import Final

from .apids import FILTERED_GROUPS, RECORDER_GROUPS
from .event_reports import EVENTS
from .integrity import LEVEL_NAMES, catalogue
from .schema import Argument, ArgumentType, Hazard, Mode, Severity, Telecommand
from .settings import SETTINGS, VALUE_MAX
from .tables import IMAGE_BYTES_MAX, LOADABLE, PIECE_BYTES_MAX, SEQUENCES, TABLES, Kind

JOB: Final = Argument(name="job", type=ArgumentType.TEXT, minimum=1, maximum=32, text="Job id as configured")
GROUP: Final = Argument(
    name="group", type=ArgumentType.ENUM, choices=("fast", "main", "slow"), text="Housekeeping group"
)
MUTABLE_EVENTS: Final = tuple(e for e in EVENTS if e.severity < Severity.CRITICAL and not e.security)
"""Events that a telecommand may mute: not what is critical, and not what an attacker would mute."""
TABLE: Final = Argument(
    name="table",
    type=ArgumentType.ENUM,
    choices=tuple(table.name for table in LOADABLE),
    codes=tuple(table.code for table in LOADABLE),
    text="Table",
)
PARAMETER: Final = Argument(
    name="parameter",
    type=ArgumentType.ENUM,
    choices=tuple(setting.name for setting in SETTINGS),
    codes=tuple(setting.id for setting in SETTINGS),
    text="Parameter of the configuration",
)
SEQUENCE: Final = Argument(
    name="sequence",
    type=ArgumentType.ENUM,
    choices=tuple(table.name for table in SEQUENCES),
    codes=tuple(table.code for table in SEQUENCES),
    text="Stored sequence",
)
EVENT_RING_MAX: Final = 1000
"""Events that the recorder's ring holds, over all boots."""
IN_SERVICE: Final = (Mode.NOMINAL, Mode.COMPUTE, Mode.DOWNLINK)

LADDER_RUNGS: Final = ("task", "daemon", "crash_loop")
RESETS_MAX: Final = 20
"""Resets that the boot record remembers."""
ACTION: Final = Argument(
    name="action",
    type=ArgumentType.INT,
    minimum=1,
    maximum=9999,
    text="Id of an actionpoint of the active table",
)

HOLD_MAX_S: Final = 2_592_000.0
"""Longest time for which an integrity level is held, 30 days; 0 is until it is released."""
OFF_MAX_S: Final = 86_400.0
"""Longest time without any check."""

TELECOMMANDS: Final[tuple[Telecommand, ...]] = (
    Telecommand(
        opcode=0x01, name="ping", service=17, subtype=1, text="Ask for one are-you-alive report (PUS 17,2)."
    ),
    Telecommand(
        opcode=0x02,
        name="arm",
        service=8,
        subtype=1,
        text="First of two steps of a hazardous command: arm its opcode for 60 s, once.",
        arguments=(
            Argument(name="opcode", type=ArgumentType.INT, minimum=1, maximum=0xFFFF, text="Opcode to arm"),
        ),
    ),
    Telecommand(
        opcode=0x10,
        name="mode.set",
        service=8,
        subtype=1,
        text="Enter SAFE, or leave it for NOMINAL. COMPUTE and DOWNLINK follow by themselves.",
        arguments=(
            Argument(
                name="mode",
                type=ArgumentType.ENUM,
                choices=("SAFE", "NOMINAL"),
                codes=(Mode.SAFE, Mode.NOMINAL),
                text="Mode to enter",
            ),
        ),
        modes=(Mode.SAFE, Mode.NOMINAL, Mode.COMPUTE, Mode.DOWNLINK),
    ),
    Telecommand(
        opcode=0x20,
        name="job.start",
        service=8,
        subtype=1,
        text="Start a configured job; it resumes from its newest verified checkpoint.",
        arguments=(JOB,),
        modes=IN_SERVICE,
        timeout_s=60.0,
    ),
    Telecommand(
        opcode=0x21,
        name="job.stop",
        service=8,
        subtype=1,
        text="Checkpoint a job, then stop its worker.",
        arguments=(JOB,),
        timeout_s=60.0,
    ),
    Telecommand(
        opcode=0x22,
        name="job.checkpoint",
        service=8,
        subtype=1,
        text="Commit a checkpoint of a training job now.",
        arguments=(JOB,),
        modes=IN_SERVICE,
        timeout_s=60.0,
    ),
    Telecommand(
        opcode=0x23,
        name="job.infer",
        service=8,
        subtype=1,
        text="Generate text with an inference job; the answer comes as a reply packet.",
        arguments=(
            JOB,
            Argument(name="prompt", type=ArgumentType.TEXT, minimum=1, maximum=800, text="Prompt"),
            Argument(
                name="max_tokens",
                type=ArgumentType.INT,
                minimum=1,
                maximum=512,
                default=64,
                text="Tokens to make",
            ),
            Argument(
                name="temperature",
                type=ArgumentType.FLOAT,
                minimum=0.0,
                maximum=2.0,
                default=0.8,
                text="Sampling temperature; 0 is greedy",
            ),
            Argument(
                name="top_k",
                type=ArgumentType.INT,
                minimum=0,
                maximum=1000,
                default=0,
                text="Sample among the k likeliest; 0 is all",
            ),
            Argument(
                name="seed",
                type=ArgumentType.INT,
                minimum=0,
                maximum=2**31 - 1,
                default=0,
                text="Sampling seed",
            ),
        ),
        modes=IN_SERVICE,
        timeout_s=300.0,
    ),
    Telecommand(
        opcode=0x30,
        name="governor.cap",
        service=8,
        subtype=1,
        text="Cap the GPU's power below what the governor would allow; 0 W idles it.",
        arguments=(
            Argument(
                name="power_cap_w", type=ArgumentType.FLOAT, unit="W", minimum=0.0, maximum=2000.0, text="Cap"
            ),
        ),
    ),
    Telecommand(
        opcode=0x31,
        name="gpu.rail",
        service=8,
        subtype=1,
        text="Switch the GPU's power rail. Off kills every worker.",
        arguments=(Argument(name="on", type=ArgumentType.BOOL, text="true is on"),),
        hazard=Hazard.HAZARDOUS,
    ),
    Telecommand(
        opcode=0x34,
        name="integrity.level",
        service=8,
        subtype=1,
        text="Hold the integrity level of all workers, or let it follow orbit and card again (AUTO). "
        + catalogue(),
        arguments=(
            Argument(
                name="level",
                type=ArgumentType.ENUM,
                # The code of a level is its own number; 0, which would be OFF, is AUTO.
                choices=("AUTO", *LEVEL_NAMES[1:]),
                text="Level to hold; AUTO releases it",
            ),
            Argument(
                name="hold_s",
                type=ArgumentType.FLOAT,
                unit="s",
                minimum=0.0,
                maximum=HOLD_MAX_S,
                default=0.0,
                text="Mission time to hold it for; 0 is until it is released or the daemon restarts",
            ),
        ),
    ),
    Telecommand(
        opcode=0x35,
        name="integrity.off",
        service=8,
        subtype=1,
        text="Switch all checks of the workers off, for a measurement: damage then leaves the computer unseen.",
        arguments=(
            Argument(
                name="hold_s",
                type=ArgumentType.FLOAT,
                unit="s",
                minimum=1.0,
                maximum=OFF_MAX_S,
                text="Mission time until the level follows orbit and card again",
            ),
        ),
        hazard=Hazard.HAZARDOUS,
    ),
    Telecommand(
        opcode=0x40,
        name="hk.enable",
        service=3,
        subtype=5,
        text="Enable periodic generation of a housekeeping group.",
        arguments=(GROUP,),
    ),
    Telecommand(
        opcode=0x41,
        name="hk.disable",
        service=3,
        subtype=6,
        text="Disable periodic generation of a housekeeping group.",
        arguments=(GROUP,),
    ),
    Telecommand(
        opcode=0x42,
        name="hk.request",
        service=3,
        subtype=27,
        text="Ask for one report of a housekeeping group now.",
        arguments=(GROUP,),
    ),
    Telecommand(
        opcode=0x43,
        name="hk.interval",
        service=3,
        subtype=31,
        text="Set the interval of a housekeeping group; with a longest interval it is reported on change.",
        arguments=(
            GROUP,
            Argument(
                name="interval_s",
                type=ArgumentType.FLOAT,
                unit="s",
                minimum=0.1,
                maximum=3600.0,
                text="Interval; with max_interval_s the least one",
            ),
            Argument(
                name="max_interval_s",
                type=ArgumentType.FLOAT,
                unit="s",
                minimum=0.0,
                maximum=3600.0,
                default=0.0,
                text="Longest interval between two reports on change; 0 is periodic",
            ),
        ),
    ),
    Telecommand(
        opcode=0x50,
        name="event.filter",
        service=5,
        subtype=128,
        text="Set the least severity that is reported. CRITICAL, FATAL and security events always are.",
        arguments=(
            Argument(
                name="severity",
                type=ArgumentType.ENUM,
                choices=tuple(s.name for s in Severity if s <= Severity.CRITICAL),
                text="Least severity reported",
            ),
        ),
    ),
    Telecommand(
        opcode=0x51,
        name="event.mute",
        service=5,
        subtype=129,
        text="Mute one event, or report it again; at most 32 are muted at the same time, until the next boot.",
        arguments=(
            Argument(
                name="event",
                type=ArgumentType.ENUM,
                choices=tuple(e.name for e in MUTABLE_EVENTS),
                codes=tuple(e.id for e in MUTABLE_EVENTS),
                text="Event to mute; not a CRITICAL, FATAL or security one",
            ),
            Argument(name="on", type=ArgumentType.BOOL, text="true mutes"),
        ),
    ),
    Telecommand(
        opcode=0x52,
        name="event.replay",
        service=5,
        subtype=130,
        text="Send the newest events of the ring again, oldest first, also those of earlier boots.",
        arguments=(
            Argument(
                name="count", type=ArgumentType.INT, minimum=1, maximum=EVENT_RING_MAX, text="Events, at most"
            ),
            Argument(
                name="severity",
                type=ArgumentType.ENUM,
                choices=tuple(s.name for s in Severity),
                default=int(Severity.DIAGNOSTIC),
                text="Least severity",
            ),
        ),
        timeout_s=600.0,
    ),
    Telecommand(
        opcode=0x61,
        name="recorder.filter",
        service=15,
        subtype=129,
        text="Record this many of every so many packets of a group until the next boot; all are sent live.",
        arguments=(
            Argument(
                name="group",
                type=ArgumentType.ENUM,
                choices=FILTERED_GROUPS,
                codes=tuple(RECORDER_GROUPS.index(name) for name in FILTERED_GROUPS),
                text="Recorder group; the others are recorded whole",
            ),
            Argument(name="keep", type=ArgumentType.INT, minimum=0, maximum=1000, text="Packets recorded"),
            Argument(name="of", type=ArgumentType.INT, minimum=1, maximum=1000, text="Of every so many"),
        ),
    ),
    Telecommand(
        opcode=0x62,
        name="recorder.quota",
        service=15,
        subtype=130,
        text="Set the part of the recorder's quota that a group may use, until the next boot.",
        arguments=(
            Argument(name="group", type=ArgumentType.ENUM, choices=RECORDER_GROUPS, text="Recorder group"),
            Argument(name="share", type=ArgumentType.FLOAT, minimum=0.001, maximum=1.0, text="Part of the quota"),
        ),
    ),
    Telecommand(
        opcode=0x60,
        name="recorder.acknowledge",
        service=15,
        subtype=128,
        text="The ground has archived these packets; the recorder need not send them again.",
        arguments=(
            Argument(name="boot", type=ArgumentType.INT, minimum=1, maximum=2**32 - 1, text="Boot count"),
            Argument(name="apid", type=ArgumentType.INT, minimum=0, maximum=0x7FF, text="APID"),
            Argument(name="first", type=ArgumentType.INT, minimum=0, maximum=2**53, text="First sequence"),
            Argument(name="last", type=ArgumentType.INT, minimum=0, maximum=2**53, text="Last sequence"),
        ),
    ),
    Telecommand(
        opcode=0x70,
        name="daemon.restart",
        service=8,
        subtype=1,
        text="Checkpoint, stop all workers and restart the daemon process.",
        hazard=Hazard.HAZARDOUS,
    ),
    Telecommand(
        opcode=0x71,
        name="ladder.set",
        service=8,
        subtype=1,
        text="Clear or raise a counter of the restart ladder.",
        arguments=(
            Argument(name="rung", type=ArgumentType.ENUM, choices=LADDER_RUNGS, text="Whose counter"),
            Argument(
                name="value",
                type=ArgumentType.INT,
                minimum=0,
                maximum=100,
                text="Failures, restarts or unclean boots to count; 0 clears",
            ),
            Argument(
                name="job",
                type=ArgumentType.TEXT,
                minimum=0,
                maximum=32,
                default="",
                text="Job of rung task; left out, every job",
            ),
        ),
    ),
    Telecommand(
        opcode=0x72,
        name="reset.report",
        service=8,
        subtype=1,
        text="Report the last resets, one event each, oldest first.",
        arguments=(
            Argument(
                name="count",
                type=ArgumentType.INT,
                minimum=1,
                maximum=RESETS_MAX,
                default=RESETS_MAX,
                text="How many",
            ),
        ),
    ),
    Telecommand(
        opcode=0x80,
        name="table.begin",
        service=8,
        subtype=1,
        text="Open the load of a table, or start it again; what is active stays.",
        arguments=(
            TABLE,
            Argument(
                name="size_bytes",
                type=ArgumentType.INT,
                unit="octets",
                minimum=1,
                maximum=IMAGE_BYTES_MAX,
                text="Size of the image",
            ),
            Argument(name="crc32", type=ArgumentType.INT, minimum=0, maximum=2**32 - 1, text="CRC-32 of the image"),
        ),
    ),
    Telecommand(
        opcode=0x81,
        name="table.data",
        service=8,
        subtype=1,
        text="One piece of an image, in any order; a piece may come again.",
        arguments=(
            TABLE,
            Argument(
                name="offset",
                type=ArgumentType.INT,
                minimum=0,
                maximum=IMAGE_BYTES_MAX - 1,
                text="Where in the image it begins",
            ),
            Argument(
                name="data", type=ArgumentType.BYTES, minimum=1, maximum=PIECE_BYTES_MAX, text="Octets of the image"
            ),
        ),
    ),
    Telecommand(
        opcode=0x82,
        name="table.validate",
        service=8,
        subtype=1,
        text="Check a load: complete, CRC, content. A fault is told and changes nothing.",
        arguments=(TABLE,),
    ),
    Telecommand(
        opcode=0x83,
        name="table.activate",
        service=8,
        subtype=1,
        text="Use a validated load from now on, and keep it over restarts.",
        arguments=(TABLE,),
    ),
    Telecommand(
        opcode=0x84,
        name="table.discard",
        service=8,
        subtype=1,
        text="Close the load of a table without using it.",
        arguments=(TABLE,),
    ),
    Telecommand(
        opcode=0x85,
        name="table.reset",
        service=8,
        subtype=1,
        text="Go back to the shipped default of a table, or to an empty one, and keep that over restarts.",
        arguments=(TABLE,),
    ),
    Telecommand(
        opcode=0x86,
        name="table.dump",
        service=8,
        subtype=1,
        text="Send the active image of a table, or a status, in packets (8,131).",
        arguments=(
            Argument(
                name="table",
                type=ArgumentType.ENUM,
                choices=tuple(table.name for table in TABLES),
                codes=tuple(table.code for table in TABLES),
                text="Table or status",
            ),
        ),
        timeout_s=120.0,
    ),
    Telecommand(
        opcode=0x88,
        name="parameter.stage",
        service=20,
        subtype=128,
        text="Change one value of the staged set, which begins as the active one; table.validate and table.activate"
        " parameters put the whole set in force at once.",
        arguments=(
            PARAMETER,
            Argument(
                name="value",
                type=ArgumentType.FLOAT,
                minimum=-VALUE_MAX,
                maximum=VALUE_MAX,
                text="Value in the parameter's own unit and range; 1 and 0 are true and false",
            ),
        ),
    ),
    Telecommand(
        opcode=0x89,
        name="parameter.report",
        service=20,
        subtype=1,
        text="Tell value, value of the file, staged value and range of a parameter in the final report.",
        arguments=(PARAMETER,),
    ),
    Telecommand(
        opcode=0x90,
        name="sequence.start",
        service=21,
        subtype=4,
        text="Start a loaded sequence; an absolute one at its first step that has not passed.",
        arguments=(SEQUENCE,),
    ),
    Telecommand(
        opcode=0x91,
        name="sequence.suspend",
        service=21,
        subtype=128,
        text="Let the time of a sequence stand still.",
        arguments=(SEQUENCE,),
    ),
    Telecommand(
        opcode=0x92,
        name="sequence.resume",
        service=21,
        subtype=129,
        text="Let the time of a suspended sequence run on; absolute steps that have become late are skipped.",
        arguments=(SEQUENCE,),
    ),
    Telecommand(
        opcode=0x93,
        name="sequence.step",
        service=21,
        subtype=130,
        text="Dispatch the next step of a suspended sequence now, whatever its time.",
        arguments=(SEQUENCE,),
    ),
    Telecommand(
        opcode=0x94,
        name="sequence.abort",
        service=21,
        subtype=5,
        text="End a sequence before its time.",
        arguments=(SEQUENCE,),
    ),
    Telecommand(
        opcode=0x95,
        name="sequence.append",
        service=21,
        subtype=131,
        text="Merge the validated load of an absolute sequence into the active one, without steps in the past.",
        arguments=(
            Argument(
                name="sequence",
                type=ArgumentType.ENUM,
                choices=tuple(table.name for table in SEQUENCES if table.kind is Kind.ABSOLUTE),
                codes=tuple(table.code for table in SEQUENCES if table.kind is Kind.ABSOLUTE),
                text="Absolute sequence",
            ),
        ),
    ),
    Telecommand(
        opcode=0xA0,
        name="action.state",
        service=12,
        subtype=128,
        text="Switch an actionpoint; it begins anew, and what stood of it has ended. Kept over restarts.",
        arguments=(
            ACTION,
            Argument(
                name="state",
                type=ArgumentType.ENUM,
                choices=("ACTIVE", "PASSIVE", "DISABLED"),
                text="ACTIVE acts, PASSIVE only reports, DISABLED is not looked at",
            ),
        ),
    ),
    Telecommand(
        opcode=0xA1,
        name="action.reset",
        service=12,
        subtype=129,
        text="Re-arm an actionpoint that acts once, clear its count, end what stands of it.",
        arguments=(ACTION,),
    ),
    Telecommand(
        opcode=0xA2,
        name="watch.report",
        service=12,
        subtype=130,
        text="Tell the value, the limit and the result of a watchpoint.",
        arguments=(
            Argument(
                name="watch",
                type=ArgumentType.INT,
                minimum=1,
                maximum=9999,
                text="Id of a watchpoint of the active table",
            ),
        ),
    ),
)
