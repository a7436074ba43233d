"""Arithmetic over the size columns of a trace, such as a service time from tokens. It knows no policy.

A text is parsed, held against a short list of what may stand in it, and evaluated here, one column at a
time: no part of it is ever executed as Python.
"""

from __future__ import annotations

import ast
import math
import operator
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Final

from gateway.simulator.traces import Trace

_BINARY: Final[dict[type[ast.operator], Callable[[float, float], float]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_CALLS: Final[dict[str, Callable[..., float]]] = {"min": min, "max": max}
_LONGEST = 2000

Column = Sequence[float] | float
"""A value per request, or the same for all."""


def compile_expression(text: str) -> Callable[[Trace], array[float]]:
    """What `text` says, as a function that gives one value per request of a trace.

    There may be numbers, names of columns, + - * /, a minus sign, parentheses, min(…) and max(…).
    Raises ValueError for anything else. The function raises ValueError for a column that the trace does
    not have, and for a value that is negative, infinite or not a number, naming the request.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"an expression of {len(text)} characters; {_LONGEST} are allowed")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError(f"{text!r} is not an arithmetic expression") from None
    try:
        _check(tree, text)
    except RecursionError:
        raise ValueError(f"{text!r} is nested too deeply") from None

    def evaluate(trace: Trace) -> array[float]:
        value = _value(tree, trace)
        column = array("d", _rows(value, len(trace)))
        for row, number in enumerate(column):
            if not 0 <= number < math.inf:
                raise ValueError(f"{text!r} is {number} for request {row}{_sizes(trace, row)}")
        return column

    return evaluate


def _check(node: ast.expr, text: str) -> None:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            _constant(value)
        case ast.Name():
            pass
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            _check(operand, text)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div(), right=right):
            _check(left, text)
            _check(right, text)
        case ast.Call(func=ast.Name(id=name), args=[_, _, *_] as arguments, keywords=[]) if name in _CALLS:
            for argument in arguments:
                _check(argument, text)
        case _:
            part = ast.get_source_segment(text.strip(), node) or text
            raise ValueError(
                f"{text!r}: {part!r} cannot stand there; there may be numbers, names of columns, + - * /, "
                "parentheses, and min and max of two or more values"
            )


def _constant(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError("a number in the expression is too large") from None


def _value(node: ast.expr, trace: Trace) -> Column:
    match node:
        case ast.Constant(value=int() | float() as value):
            return _constant(value)
        case ast.Name(id=name):
            if name not in trace.sizes:
                columns = ", ".join(sorted(trace.sizes)) or "no columns"
                raise ValueError(f"trace {trace.name} has no column {name!r}; it has {columns}")
            return trace.sizes[name]
        case ast.UnaryOp(op=sign, operand=operand):
            column = _value(operand, trace)
            return _apply(operator.mul, [column, -1.0], trace) if isinstance(sign, ast.USub) else column
        case ast.BinOp(left=left, op=sign, right=right):
            return _apply(_BINARY[type(sign)], [_value(left, trace), _value(right, trace)], trace)
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return _apply(_CALLS[name], [_value(argument, trace) for argument in arguments], trace)
    raise AssertionError(node)


def _apply(function: Callable[..., float], values: list[Column], trace: Trace) -> Column:
    try:
        if all(isinstance(value, float) for value in values):
            return function(*values)
        return array("d", map(function, *(_rows(value, len(trace)) for value in values)))
    except ZeroDivisionError:
        row = next(row for row, number in enumerate(_rows(values[1], len(trace))) if number == 0)
        raise ValueError(f"division by 0 for request {row}{_sizes(trace, row)}") from None


def _rows(value: Column, count: int) -> Iterable[float]:
    return repeat(value, count) if isinstance(value, float) else value


def _sizes(trace: Trace, row: int) -> str:
    told = ", ".join(f"{name} {values[row]:g}" for name, values in trace.sizes.items())
    return f" ({told})" if told else ""
