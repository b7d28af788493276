"""What a child does once it is locked up: one of `ROLES`. Plain Python, nothing of ours beside the two files it needs.

A program and its tests run in two children that exchange plain values. So whatever a program defines (an `==` that is
always true, a patched `assert`, a forged message) can do no more than return a value: the verdict is written by the
child that never runs a line of it, and the program's child never holds the tests.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType, ModuleType
from typing import Any

PAYLOAD, OUTPUT, CHANNEL = 3, 4, 5
"""Descriptors: what to do; where the trainer reads; the socket between a program and its tests."""

LONGEST_MESSAGE = 16 * 2**20
COMMON = "math cmath re json random itertools functools collections heapq bisect string operator typing dataclasses"
COMMON += " datetime decimal fractions statistics copy enum abc io array time textwrap contextlib numbers threading"


def load_common_modules() -> None:
    """Imported once by the server, so that no child spends time on them."""
    for name in COMMON.split():
        __import__(name)


def load_mathematics() -> None:
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    assert verify(parse("$\\frac{1}{2}$"), parse("$0.5$")), "a first comparison, which loads what it needs"


def _payload() -> dict[str, Any]:
    with os.fdopen(PAYLOAD, "rb") as file:
        file.seek(0)
        return json.loads(file.read())


def _said(error: BaseException) -> str:
    """An exception in one line."""
    text = _text(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _text(error: BaseException) -> str:
    """Its own `__str__` may be the program's, and may raise as well."""
    try:
        return str(error)[:200]
    except BaseException:
        return ""


# --- a program with standard input and output -------------------------------------------------------------------------


def run_program() -> None:
    """As a script. Exit code 1 where it raises, its own where it exits."""
    source: str = _payload()["program"]
    os.dup2(OUTPUT, 1)
    os.close(OUTPUT)
    module = sys.modules["__main__"] = ModuleType("__main__")
    code = 0
    try:
        exec(compile(source, "<program>", "exec"), vars(module))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        code = 1
    sys.stdout.flush()
    os._exit(code & 255)


# --- a program whose functions are called -----------------------------------------------------------------------------


def serve_program() -> None:
    """Run the program as a module, then answer for what it defines until nobody asks any more."""
    source: str = _payload()["program"]
    os.close(OUTPUT)
    sys.set_int_max_str_digits(0)
    module = sys.modules["program"] = ModuleType("program")
    objects: list[Any] = []
    try:
        exec(compile(source, "<program>", "exec"), vars(module))
    except BaseException as error:
        return _send({"raised": [type(error).__name__, _text(error)]})
    _send({"defines": [name for name in vars(module) if not name.startswith("__")]})
    while (asked := _receive()) is not None:
        try:
            _send({"value": _to_plain(_answer(asked, vars(module), objects), objects)})
        except BaseException as error:
            _send({"raised": [type(error).__name__, _text(error)]})


def _answer(asked: Mapping[str, Any], names: Mapping[str, Any], objects: list[Any]) -> Any:
    match asked["verb"]:
        case "name":
            return names[asked["name"]]
        case "attribute":
            return getattr(objects[asked["of"]], asked["name"])
        case "items":  # of an iterator one by one, for it may not end
            it = objects[asked["of"]]
            return it if iter(it) is it else list(it)
        case "next" | "str" | "repr" as verb:
            return getattr(builtins, verb)(objects[asked["of"]])
        case _:
            args, kwargs = _from_plain(asked["arguments"], objects.__getitem__)
            return objects[asked["of"]](*args, **kwargs)


# --- its tests --------------------------------------------------------------------------------------------------------


class Unsendable(Exception):
    """A test hands the program something that is not plain data."""


class Ended(Exception):
    """The program's process is gone."""


class Remote:
    """Something of the program's that is not plain data: a function, a class, an instance, a generator.

    It is equal only to itself, and has no length and no items: an object that answered each such question as it liked
    could be right in every part that a test looks at, and wrong as a whole. Tests look at what it yields.
    """

    def __init__(self, number: int):
        self.__number = number

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _ask(verb="call", of=self.__number, arguments=_to_plain((args, kwargs), None))

    def __getattr__(self, name: str) -> Any:
        return _ask(verb="attribute", of=self.__number, name=name)

    def __iter__(self) -> Any:
        items = _ask(verb="items", of=self.__number)
        return iter(items) if isinstance(items, list) else items

    def __next__(self) -> Any:
        return _ask(verb="next", of=self.__number)

    def __str__(self) -> str:
        return _ask(verb="str", of=self.__number)

    def __repr__(self) -> str:
        return _ask(verb="repr", of=self.__number)

    @property
    def _number(self) -> int:
        return self.__number


def _ask(**question: Any) -> Any:
    try:
        _send(question)
    except OSError:
        raise Ended("the program ended before its tests did") from None
    try:
        return _from_plain(_next_answer()["value"], Remote)
    except StopIteration as error:  # which ends a loop of the test's without a word, where it was no iterator's
        if question["verb"] == "next":
            raise
        raise RuntimeError(f"StopIteration: {error}") from None


def _next_answer() -> dict[str, Any]:
    answer = _receive()
    if answer is None:
        raise Ended("the program ended before its tests did")
    if "raised" in answer:
        kind, text = (str(part) for part in answer["raised"])
        known = getattr(builtins, kind, None)
        raise known(text) if isinstance(known, type) and issubclass(known, Exception) else Exception(f"{kind}: {text}")
    return answer


def run_tests() -> None:
    """Write `{"passed": [...], "reason": ...}`, or `{"unscorable": reason}` where the tests themselves are at fault."""
    asked = _payload()
    sys.set_int_max_str_digits(0)
    try:
        verdict = _verdict(asked["setup"], asked["tests"])
    except Unsendable as error:
        verdict = {"unscorable": str(error)}
    with os.fdopen(OUTPUT, "w") as file:
        json.dump(verdict, file)


def _verdict(setup: str, tests: Sequence[str]) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "tests"}
    try:
        compiled = [compile(test, "<test>", "exec") for test in tests]
        exec(compile(setup, "<setup>", "exec"), namespace)
    except Exception as error:
        return {"unscorable": f"the tests cannot run: {_said(error)}"}
    asked_for = {name for code in compiled for name in _names(code)}
    # A name of Python's own or of the setup's is never the program's to give.
    asked_for -= {*namespace, *vars(builtins)}
    try:
        defined = _next_answer()["defines"]
        namespace |= {name: _ask(verb="name", name=name) for name in asked_for.intersection(defined)}
    except Exception as error:
        return {"passed": [False] * len(tests), "reason": f"the program does not run: {_said(error)}"}
    reason, passed = "", list[bool]()
    for text, code in zip(tests, compiled, strict=True):
        fault = _fault(code, namespace)
        passed.append(not fault)
        reason = reason or (fault and f"{fault} in: {text.strip()[:200]}")
    return {"passed": passed, "reason": reason}


def _fault(code: CodeType, namespace: dict[str, Any]) -> str:
    try:
        exec(code, namespace)
    except Unsendable:
        raise
    except BaseException as error:
        return _said(error)
    return ""


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


# --- plain values between two processes -------------------------------------------------------------------------------


def _to_plain(value: Any, objects: list[Any] | None) -> Any:
    """Plain data as JSON. Anything else is kept in `objects` and named by its number; in a test it cannot be sent."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, list):
        return [_to_plain(v, objects) for v in value]
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [_to_plain(v, objects) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[_to_plain(k, objects), _to_plain(v, objects)] for k, v in value.items()]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, Remote):
        return {"object": value._number}
    if objects is None:
        raise Unsendable(f"a test passes a {type(value).__name__}, and only plain data can be passed to a program")
    objects.append(value)
    return {"object": len(objects) - 1}


def _from_plain(value: Any, of_object: Callable[[int], Any]) -> Any:
    if isinstance(value, list):
        return [_from_plain(v, of_object) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    match kind:
        case "object":
            return of_object(inner)
        case "bytes":
            return bytes.fromhex(inner)
        case "complex":
            return complex(*inner)
        case "dict":
            return {_from_plain(k, of_object): _from_plain(v, of_object) for k, v in inner}
        case _:
            make = {"tuple": tuple, "set": set, "frozenset": frozenset}[kind]
            return make(_from_plain(v, of_object) for v in inner)


def _send(message: Mapping[str, Any]) -> None:
    data = json.dumps(message).encode()
    if len(data) > LONGEST_MESSAGE:
        data = json.dumps({"raised": ["MemoryError", "the value is too large"]}).encode()
    rest = memoryview(len(data).to_bytes(4, "little") + data)
    while rest:
        rest = rest[os.write(CHANNEL, rest) :]


def _receive() -> dict[str, Any] | None:
    """The next message, or nothing where the other end is gone or does not keep to the form."""
    length = int.from_bytes(_read(4), "little")
    if not 0 < length <= LONGEST_MESSAGE:
        return None
    data = _read(length)
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _read(length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        try:
            piece = os.read(CHANNEL, min(length - len(parts), 1 << 16))
        except OSError:
            return b""
        if not piece:
            return b""
        parts += piece
    return bytes(parts)


# --- mathematics ------------------------------------------------------------------------------------------------------


def compare_mathematics() -> None:
    """Write `{"gold": false}` where the gold answer cannot be read, else `{"equal": ...}`. The gold answer goes first:
    the comparison is not symmetric."""
    from math_verify import parse, verify

    asked = _payload()
    gold = parse(_as_mathematics(asked["gold"]), parsing_timeout=None)  # pyright: ignore[reportArgumentType]
    with os.fdopen(OUTPUT, "w") as file:
        if not gold:
            json.dump({"gold": False}, file)
            return
        file.write("\n")  # the gold answer is read: what takes long from here on is the model's
        file.flush()
        answer = parse(asked["answer"], parsing_timeout=None)  # pyright: ignore[reportArgumentType]
        if not answer:
            json.dump({"equal": False, "reason": "no mathematical answer"}, file)
            return
        try:
            equal = verify(gold, answer, timeout_seconds=None, raise_on_error=True)
            verdict = {"equal": equal, "reason": f"{answer[0]} against {gold[0]}"[:300]}
        except Exception as error:
            verdict = {"error": _said(error)}
        json.dump(verdict, file)


def _as_mathematics(gold: str) -> str:
    """A bare gold answer such as `\\frac{1}{2}` is LaTeX; one with marks of its own is read by them."""
    return gold if "$" in gold or "\\boxed" in gold or "\\[" in gold or "\\(" in gold else f"${gold}$"


# --- a look around ----------------------------------------------------------------------------------------------------


def try_to_escape() -> None:
    """Write what succeeded of what must be impossible: nothing, where the locks hold."""
    import socket

    attempts: dict[str, Callable[[], object]] = {
        "read /etc/passwd": lambda: os.open("/etc/passwd", os.O_RDONLY),
        "list /": lambda: os.listdir("/"),
        "write /tmp": lambda: os.open("/tmp", os.O_TMPFILE | os.O_RDWR),
        "start a process": os.fork,
        "run a program": lambda: os.execv("/bin/true", ["true"]),
        "open a socket": socket.socket,
        "send a signal": lambda: os.kill(os.getppid(), 0),
    }
    done: list[str] = []
    for name, attempt in attempts.items():
        try:
            attempt()
            done.append(name)
        except OSError:
            pass
    with os.fdopen(OUTPUT, "w") as file:
        json.dump(done, file)


ROLES: dict[str, Callable[[], None]] = {
    "program": run_program,
    "serve": serve_program,
    "tests": run_tests,
    "mathematics": compare_mathematics,
    "look": try_to_escape,
}
