"""Conditions of actionpoints as operators write them: ``gpu.hot and not (soc.low or stale(gpu.die))``.

    condition = term { "or" term }
    term      = factor { "and" factor }
    factor    = "not" factor | "(" condition ")" | "stale" "(" watchpoint ")" | watchpoint

A watchpoint is its name or its id. On board a condition is in reverse Polish notation over ids:
``compile_condition`` makes it, ``condition_text`` turns it back with as few brackets as give the same again.
"""

import re
from collections.abc import Mapping
from typing import Final

from flightsw.link.limit_tables import OPERATIONS

from .names import likely

DEPTH_MAX: Final = 20
"""Deepest nesting that is read; a condition that fits on board needs less."""
ID_DIGITS_MAX: Final = 4
_TOKEN: Final = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_.]*|\d+|[()])")
_PRECEDENCE: Final = {"or": 1, "and": 2, "not": 3}
_HIGHEST: Final = 4


class ConditionError(ValueError):
    """What is wrong with a condition, and at which column, counted from 1."""

    def __init__(self, column: int, message: str) -> None:
        super().__init__(f"column {column}: {message}")


def compile_condition(text: str, ids: Mapping[str, int]) -> tuple[int | str, ...]:
    """Reverse Polish notation of a condition over the watchpoints ``ids`` by name; raises ``ConditionError``."""
    return _Parser(text, ids).whole()


def condition_text(condition: tuple[int | str, ...], names: Mapping[int, str]) -> str:
    """The readable form; watchpoints without a name, or with one that means something else, stay ids."""
    stack: list[tuple[str, int]] = []
    for token in condition:
        if isinstance(token, int):
            name = names.get(token, "")
            stack.append((str(token) if name in ("", *OPERATIONS) else name, _HIGHEST))
        elif token == "stale":
            stack.append((f"stale({stack.pop()[0]})", _HIGHEST))
        elif token == "not":
            stack.append((f"not {_bracketed(stack.pop(), _PRECEDENCE['not'])}", _PRECEDENCE["not"]))
        else:
            right, left = stack.pop(), stack.pop()
            level = _PRECEDENCE[token]
            # Both are read from the left, so an equal one on the right needs its brackets.
            stack.append((f"{_bracketed(left, level)} {token} {_bracketed(right, level + 1)}", level))
    assert len(stack) == 1, condition
    return stack[0][0]


def _bracketed(operand: tuple[str, int], level: int) -> str:
    text, precedence = operand
    return text if precedence >= level else f"({text})"


class _Parser:
    def __init__(self, text: str, ids: Mapping[str, int]) -> None:
        self._ids = ids
        self._end = len(text.rstrip()) + 1
        self._tokens: list[tuple[str, int]] = []
        self._next = 0
        position = 0
        while text[position:].strip():
            token = _TOKEN.match(text, position)
            if token is None:
                column = position + len(text[position:]) - len(text[position:].lstrip())
                raise ConditionError(column + 1, f"{text[column]!r} has no meaning here")
            self._tokens.append((token[1], token.start(1) + 1))
            position = token.end()

    def whole(self) -> tuple[int | str, ...]:
        condition = self._infix("or", 0)
        if self._next < len(self._tokens):
            token, column = self._tokens[self._next]
            raise ConditionError(column, f'{token!r} after the end: expected "and" or "or"')
        return condition

    def _infix(self, operation: str, depth: int) -> tuple[int | str, ...]:
        """A chain of one operation, "or" of "and"s, read from the left."""
        value = self._operand(operation, depth)
        while self._peek() == operation:
            self._next += 1
            value = (*value, *self._operand(operation, depth), operation)
        return value

    def _operand(self, operation: str, depth: int) -> tuple[int | str, ...]:
        return self._infix("and", depth) if operation == "or" else self._factor(depth)

    def _factor(self, depth: int) -> tuple[int | str, ...]:
        token, column = self._take('a watchpoint, "not", "stale(" or "("')
        if depth > DEPTH_MAX:
            raise ConditionError(column, f"nested more than {DEPTH_MAX} deep")
        if token == "not":
            return (*self._factor(depth + 1), "not")
        if token == "(":
            inner = self._infix("or", depth + 1)
            self._expect(")")
            return inner
        if token == "stale":
            self._expect("(")
            watchpoint = self._watchpoint(*self._take("a watchpoint"))
            self._expect(")")
            return (watchpoint, "stale")
        return (self._watchpoint(token, column),)

    def _watchpoint(self, token: str, column: int) -> int:
        if token in (*OPERATIONS, "(", ")"):
            raise ConditionError(column, f"expected a watchpoint, found {token!r}")
        if token.isdigit() and len(token) <= ID_DIGITS_MAX:
            return int(token)
        if token not in self._ids:
            raise ConditionError(column, f"no watchpoint {token!r}{likely(token, (*self._ids, *OPERATIONS))}")
        return self._ids[token]

    def _peek(self) -> str:
        return self._tokens[self._next][0] if self._next < len(self._tokens) else ""

    def _take(self, wanted: str) -> tuple[str, int]:
        if self._next >= len(self._tokens):
            raise ConditionError(self._end, f"ends where {wanted} is expected")
        self._next += 1
        return self._tokens[self._next - 1]

    def _expect(self, wanted: str) -> None:
        token, column = self._take(f"{wanted!r}")
        if token != wanted:
            raise ConditionError(column, f"expected {wanted!r}, found {token!r}")
