"""Exhaustive exploration of mode × FDIR × payload: every state that can be reached, under all that can happen.

The executive is stepped from every state found with every choice of its walk (``exploration_walks``), breadth
first, until nothing new appears. Proved on the way and on the graph that results:

(a) SAFE means payload off and power positive, in every frame (``exploration_rules``);
(b) every fault has its response, in every state that it can come in (``exploration_answers``);
(c) every SAFE can be left by its own exit rule, and by no other;
(d) there is no dead state: from each one a job at work can be reached;
(e) every row of the tables of modes, lives and responses was taken, or cannot be (``exploration_coverage``);
(f) the abstraction holds: vehicles of one essence, by sample, go to the same states.

A violation comes with the shortest way to it from the first boot. The walk is complete and deterministic.
"""

import gc
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from flightsw.core import executive
from flightsw.core.lifecycle import Life
from flightsw.core.mode import PAYLOAD_MODES

from .exploration_answers import Answer, answers, flown, leaves
from .exploration_coverage import UNREACHABLE, rows, taken
from .exploration_model import Key, Moment, Node, after, configuration, essence, fresh, store_key
from .exploration_report import ExploreReport, Violation, WalkReport
from .exploration_rules import broken, power_of
from .exploration_walks import WALKS, Choice, Walk, choices

STATES_MAX: Final = 20_000
SAMPLE_EVERY: Final = 997
"""One in so many vehicles that come to a known essence is kept and compared; a prime, which favours no choice."""
SAMPLES_MAX: Final = 25

Progress = Callable[[str, int], None]


class Graph:
    """What one walk has found: nodes by number, the way to each, and where every choice of each leads."""

    def __init__(self, walk: Walk) -> None:
        self.walk, self.config = walk, configuration(walk)
        self.power = power_of(self.config)
        self.nodes: list[Node] = []
        self.number: dict[Key, int] = {}
        self.parent: list[tuple[int, Choice] | None] = []
        self.next: list[list[int]] = []
        self.rows: set[str] = set()
        self.samples: list[tuple[int, Node]] = []
        self.transitions = self.tried = 0
        self.unanswered: list[Violation] = []
        self._choices = choices(walk)
        self._place = {life: {choice: n for n, choice in enumerate(row)} for life, row in self._choices.items()}
        self._flown: dict[tuple[Key, Choice], Node] = {}
        every = {choice for row in self._choices.values() for choice in row if not choice.boot}
        self.later: list[Answer] = []
        """Faults that are more than one choice: they are tried when the walk is done."""
        self._at_once: dict[Choice, list[Answer]] = {}
        for row in answers(walk):
            if len(row.frames) == 1 and row.frames[0] in every:
                self._at_once.setdefault(row.frames[0], []).append(row)
            else:
                self.later.append(row)

    def fly(self, node: Node, choice: Choice) -> Node:
        """Where a choice leads: read from the graph where it was taken, flown once for each essence where not."""
        key = essence(node)
        known, place = self.number.get(key), self._place[node.vehicle.payload.jobs[0].life].get(choice)
        if known is not None and place is not None:
            return self.nodes[self.next[known][place]]
        if (key, choice) not in self._flown:
            self._flown[key, choice] = after(node, self.config, choice)[-1].node
        return self._flown[key, choice]

    def possible(self, node: Node) -> tuple[Choice, ...]:
        """What may happen to this node."""
        return self._choices[node.vehicle.payload.jobs[0].life]

    def trace(self, number: int, *more: str) -> tuple[str, ...]:
        """The way to a node, one line a choice, and what comes after it."""
        lines: list[str] = []
        while (step := self.parent[number]) is not None:
            node = self.nodes[number].vehicle
            where = f"{node.mode.mode.name} ({node.mode.cause or '-'}), job {node.payload.jobs[0].life.name}"
            lines.append(f"{step[1]} → {where}")
            number = step[0]
        return ("first boot", *reversed(lines), *more)

    def explore(self, progress: Progress | None) -> Iterator[Violation]:
        """Breadth first until nothing new appears; ends at the first frame that breaks a rule."""
        start = fresh(self.walk, self.config)
        self._add(essence(start), start, None)
        frontier = deque([0])
        boots: dict[Key, int] = {}
        while frontier:
            here = frontier.popleft()
            node = self.nodes[here]
            leads: list[int] = []
            for choice in self.possible(node):
                self.transitions += 1
                boot = (choice.boot, store_key(node))
                if choice.boot and boot in boots:
                    leads.append(boots[boot])
                    continue
                before = node
                moments = after(node, self.config, choice)
                for moment in moments:
                    for rule in broken(before, choice, moment, self.power):
                        yield Violation(walk=self.walk.name, rule=rule, trace=self.trace(here, str(choice)))
                        return
                    self.rows |= taken(before, moment)
                    before = moment.node
                for row in self._at_once.get(choice, ()):
                    if row.fits(node.vehicle):
                        self.judge(here, row, [Moment(node, ()), *moments])
                key = essence(before)
                known = self.number.get(key)
                if known is None:
                    known = self._add(key, before, (here, choice))
                    frontier.append(known)
                elif self.transitions % SAMPLE_EVERY == 0 and len(self.samples) < SAMPLES_MAX:
                    self.samples.append((known, before))
                leads.append(known)
                if choice.boot:
                    boots[boot] = known
            self.next[here] = leads
            if progress is not None and here % 100 == 0:
                progress(self.walk.name, len(self.nodes))

    def judge(self, number: int, row: Answer, moments: list[Moment]) -> None:
        """Whether a fault in this node has led to its answer."""
        self.tried += 1
        if not row.seen(moments):
            rule = f"{row.fault}: not answered ({row.text})"
            frames = [str(choice) for choice in row.frames]
            self.unanswered.append(Violation(walk=self.walk.name, rule=rule, trace=self.trace(number, *frames)))

    def dead(self) -> list[int]:
        """States from which no job at work can be reached any more."""
        back: list[list[int]] = [[] for _ in self.nodes]
        for source, targets in enumerate(self.next):
            for target in set(targets):
                back[target].append(source)
        alive = {n for n, node in enumerate(self.nodes) if _productive(node.vehicle)}
        frontier = deque(alive)
        while frontier:
            for source in back[frontier.popleft()]:
                if source not in alive:
                    alive.add(source)
                    frontier.append(source)
        return [number for number in range(len(self.nodes)) if number not in alive]

    def _add(self, key: Key, node: Node, parent: tuple[int, Choice] | None) -> int:
        if len(self.nodes) >= STATES_MAX:
            raise RuntimeError(
                f"walk {self.walk.name!r}: over {STATES_MAX} states, its essence tells too much apart"
            )
        self.number[key] = len(self.nodes)
        self.nodes.append(node)
        self.parent.append(parent)
        self.next.append([])
        return len(self.nodes) - 1


def explore(walks: tuple[Walk, ...] = WALKS, progress: Progress | None = None) -> ExploreReport:
    """Walk everything and prove (a) to (f)."""
    # Everything that is found is kept to the end: to look for garbage in it again and again finds none.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _all(walks, progress)
    finally:
        if collecting:
            gc.enable()


def _all(walks: tuple[Walk, ...], progress: Progress | None) -> ExploreReport:
    begun_s, processor_s = time.monotonic(), time.process_time()
    reports: list[WalkReport] = []
    violations: list[Violation] = []
    seen: set[str] = set()
    for walk in walks:
        report, found, rows_seen = _explored(walk, progress)
        reports.append(report)
        violations += found
        seen |= rows_seen
    every = rows()
    return ExploreReport(
        walks=tuple(reports),
        rows=len(every),
        rows_taken=len(seen & set(every)),
        rows_unreachable={row: why for row, why in UNREACHABLE.items() if row in every},
        rows_missed=tuple(row for row in every if row not in seen and row not in UNREACHABLE),
        power=power_of(configuration(walks[0])),
        violations=tuple(violations),
        seconds=time.monotonic() - begun_s,
        processor_s=time.process_time() - processor_s,
    )


def _explored(walk: Walk, progress: Progress | None) -> tuple[WalkReport, list[Violation], set[str]]:
    begun_s = time.monotonic()
    graph = Graph(walk)
    found = list(graph.explore(progress))
    exits = 0
    if not found:
        booted: set[Key] = set()
        for number, node in enumerate(graph.nodes):
            for row in graph.later:
                if row.boots:
                    key = (node.vehicle.mode.mode, node.vehicle.mode.cause, store_key(node))
                    if key in booted:
                        continue
                    booted.add(key)
                if row.fits(node.vehicle):
                    graph.judge(number, row, flown(row, node, graph.config))
            ends = leaves(node, graph.fly)
            found += [Violation(walk=walk.name, rule=rule, trace=graph.trace(number)) for rule in ends]
            exits += node.vehicle.mode.mode.name == "SAFE"
        found += graph.unanswered
        found += [
            Violation(walk=walk.name, rule="dead state: no job can ever work again", trace=graph.trace(number))
            for number in graph.dead()
        ]
        found += _unlike(graph)
    first: dict[str, Violation] = {}
    for violation in found:
        # Nodes are numbered breadth first, so the first of a rule has the shortest way.
        first.setdefault(violation.rule, violation)
    report = WalkReport(
        name=walk.name,
        states=len(graph.nodes),
        transitions=graph.transitions,
        faults_tried=graph.tried,
        exits_tried=exits,
        samples=len(graph.samples),
        seconds=time.monotonic() - begun_s,
    )
    return report, list(first.values()), graph.rows


def _unlike(graph: Graph) -> Iterator[Violation]:
    """Second vehicles of an essence that go elsewhere than the first."""
    for number, node in graph.samples:
        for choice, lead in zip(graph.possible(node), graph.next[number], strict=True):
            if graph.number.get(essence(after(node, graph.config, choice)[-1].node)) != lead:
                rule = f"two vehicles of one essence go different ways: {choice}"
                yield Violation(walk=graph.walk.name, rule=rule, trace=graph.trace(number, str(choice)))


def _productive(vehicle: executive.Vehicle) -> bool:
    return vehicle.mode.mode in PAYLOAD_MODES and vehicle.payload.jobs[0].life is Life.RUNNING
