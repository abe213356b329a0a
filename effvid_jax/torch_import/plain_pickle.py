"""A pickle interpreter that can only build plain data.

`pickle.loads` runs whatever a file tells it to, and narrowing `Unpickler.find_class` is not enough:
its BUILD instruction sets attributes on any object it was given, functions of ours included. So
this file interprets the instructions itself (`pickletools` splits the stream): a stack machine over
numbers, strings, bytes, lists, tuples, dicts and sets. Names of classes and functions are only
looked up in a table that the caller passes; nothing is ever imported.
"""

from __future__ import annotations

import contextlib
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from effvid_jax.errors import UserError

_PUSH = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8".split())
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Refused(UserError):
    """The pickle asks for something that is no plain data.

    Attributes:
        name: what it asks for.
        entry: of the outermost dict, where that is; '' where nothing was there yet: it is the pickled object
            itself; None: neither.
        strings: all strings of the pickle, names of entries among them.
    """

    def __init__(self, name: str):
        super().__init__(f"it refers to {name!r}")
        self.name = name
        self.entry: str | None = None
        self.strings: frozenset[str] = frozenset()


class Name(str):
    """'module.qualname' of a class or function in a pickle: only a name, never the thing itself."""


def load(stream: BinaryIO, calls: Mapping[str, Callable | None],
         build: Callable[[Any, Any], Any] = lambda obj, state: _no_state(obj),
         persistent_load: Callable[[Any], Any] | None = None) -> Any:
    """Reads one pickle and leaves `stream` just behind it.

    Args:
        stream: seekable binary file.
        calls: 'module.qualname' -> function that the pickle may call, or None for a name that it
            may mention but not call.
        build: `build(obj, state)` returns `obj` with the state that a BUILD instruction gives it.
        persistent_load: resolves persistent ids; None refuses them.

    Returns:
        The unpickled value.

    Raises:
        Refused: a name outside `calls`, or an instruction that plain data does not need.
        Exception: of any kind when the stream is damaged (IndexError, TypeError, ValueError, ...).
    """
    stack: list[Any] = []
    marks: list[int] = []
    start = stream.tell()
    try:
        return _run(stream, stack, marks, calls, build, persistent_load)
    except Refused as error:
        error.entry, error.strings = _entry(stack, marks), _strings(stream, start)
        raise


def _run(stream, stack, marks, calls, build, persistent_load) -> Any:
    """The stack machine of `load`."""
    memo: dict[int, Any] = {}
    places: dict[int, list[int]] = {}  # id of what is in the memo -> its keys

    def remember(key: int) -> None:
        memo[key] = stack[-1]
        places.setdefault(id(stack[-1]), []).append(key)

    def pop_to_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for opcode, arg, _ in pickletools.genops(stream):
        op = opcode.name
        if op in _PUSH:
            stack.append(arg)
        elif op in ("BINPUT", "LONG_BINPUT", "PUT"):
            remember(arg)
        elif op == "MEMOIZE":
            remember(len(memo))
        elif op in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[arg])
        elif op == "MARK":
            marks.append(len(stack))
        elif op in _CONSTANTS:
            stack.append(_CONSTANTS[op]())
        elif op in _TUPLES:
            n = _TUPLES[op]
            stack[-n:] = [tuple(stack[-n:])]
        elif op == "TUPLE":
            stack.append(tuple(pop_to_mark()))
        elif op == "LIST":
            stack.append(pop_to_mark())
        elif op in ("APPEND", "APPENDS"):
            items = pop_to_mark() if op == "APPENDS" else [stack.pop()]
            _expect(stack[-1], list).extend(items)
        elif op == "DICT":
            stack.append(_pairs(pop_to_mark()))
        elif op in ("SETITEM", "SETITEMS"):
            items = pop_to_mark() if op == "SETITEMS" else [stack.pop(-2), stack.pop()]
            _expect(stack[-1], dict).update(_pairs(items))
        elif op == "ADDITEMS":
            items = pop_to_mark()
            _expect(stack[-1], set).update(map(hashable, items))
        elif op == "FROZENSET":
            stack.append(frozenset(map(hashable, pop_to_mark())))
        elif op == "GLOBAL":
            stack.append(_name(".".join(arg.split(" ", 1)), calls))
        elif op == "STACK_GLOBAL":
            attribute, module = _expect(stack.pop(), str), _expect(stack.pop(), str)
            stack.append(_name(f"{module}.{attribute}", calls))
        elif op in ("REDUCE", "NEWOBJ"):
            args, name = _expect(stack.pop(), tuple), _expect(stack.pop(), Name)
            function = calls[name]
            if function is None:
                raise Refused(f"{name}()")
            stack.append(function(*args))
        elif op == "BUILD":
            state, old = stack.pop(), stack[-1]
            new = build(old, state)
            if new is not old:  # the memo must not keep the object without its state
                stack[-1] = new
                memo.update({key: new for key in places.pop(id(old), ()) if memo[key] is old})
        elif op in ("BINPERSID", "PERSID") and persistent_load is not None:
            stack.append(persistent_load(stack.pop() if op == "BINPERSID" else arg))
        elif op == "POP":
            stack.pop()
        elif op == "POP_MARK":
            pop_to_mark()
        elif op == "DUP":
            stack.append(stack[-1])
        elif op == "STOP":
            return stack.pop()
        elif op == "INST":  # creates an instance without REDUCE
            raise Refused(".".join(arg.split(" ", 1)))
        elif op not in ("PROTO", "FRAME"):
            raise Refused(f"pickle instruction {op}")
    raise UserError("the pickle has no end")  # genops raises first; kept for its contract


def _entry(stack: list[Any], marks: list[int]) -> str | None:
    """Which entry of the outermost dict is being built, see `Refused.entry`."""
    if not stack:
        return ""
    if not isinstance(stack[0], dict):
        return None
    first, end = (marks[0], marks[1] if len(marks) > 1 else len(stack)) if marks else (1, len(stack))
    key = first + max(0, end - first - 1) // 2 * 2  # keys and values alternate
    return stack[key] if key < len(stack) and isinstance(stack[key], str) else None


def _strings(stream: BinaryIO, start: int) -> frozenset[str]:
    """All strings of a pickle, as far as it can be read."""
    found = set()
    stream.seek(start)
    with contextlib.suppress(Exception):  # it may be damaged as well
        found.update(arg for opcode, arg, _ in pickletools.genops(stream)
                     if opcode.name in _PUSH and isinstance(arg, str))
    return frozenset(found)


def hashable(key: Any) -> Any:
    """`key` if it is a plain scalar; tuples are refused, as their hash recurses without limit."""
    if key is None or isinstance(key, (str, bytes, bool, int, float)):
        return key
    raise TypeError(f"a {type(key).__name__} as key of a dict or member of a set")


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return {hashable(k): v for k, v in zip(items[::2], items[1::2], strict=True)}


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"a {type(value).__name__} where a {kind.__name__} is needed")
    return value


def _name(name: str, calls: Mapping[str, Any]) -> Name:
    if name not in calls:
        raise Refused(name)
    return Name(name)


def _no_state(obj: Any):
    raise Refused(f"a state for a {type(obj).__name__}")
