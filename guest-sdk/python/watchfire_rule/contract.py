"""What a rule may call, in plain values, and what may be handed over.

In a component the functions of `wit/rule.wit` stand behind `host` (see component.py), in a native test those of
testing.py: so that everything else here runs without WebAssembly. The bindings end in a bare `unreachable` where
they get a value of a wrong type; so everything that comes from a rule is checked here before.
"""

from __future__ import annotations

from operator import index
from typing import Any, Iterable, Literal, Protocol, Union, get_args

#: What a detail, an attribute or an emitted reading can be: a number, a text, a flag.
Value = Union[float, str, bool]

#: How bad an alert is, from the least.
Severity = Literal["info", "warning", "minor", "major", "critical"]

#: How a line of the log is marked.
Level = Literal["debug", "info", "warn", "error"]

#: The same as a tuple, to look up and to go through.
SEVERITIES: tuple[str, ...] = get_args(Severity)

NAN = float("nan")


class RuleError(Exception):
    """A failure that is foreseen: its text reaches the operator as it is, without a place in the code."""


class Host(Protocol):
    """The imports of the contract; its comments are the reference. Devices are handles."""

    def stream(self) -> str: ...
    def rows(self) -> int: ...
    def columns(self) -> list[tuple[str, str]]: ...
    def devices(self) -> list[int]: ...
    def times(self) -> list[int]: ...
    def numbers(self, metric: str) -> list[float]: ...
    def texts(self, metric: str) -> tuple[list[str], list[int]]: ...
    def flags(self, metric: str) -> bytes: ...

    def now(self) -> int: ...
    def name(self, device: int) -> str: ...
    def attribute(self, name: str, devices: list[int]) -> list[Value | None]: ...
    def find(self, name: str) -> int | None: ...
    def selected(self, after: int | None, limit: int) -> list[int]: ...
    def version(self) -> int: ...

    def trigger(
        self,
        device: int,
        key: str,
        severity: str,
        summary: str,
        details: list[tuple[str, Value]],
        row: int | None,
    ) -> None: ...
    def clear(self, device: int, key: str, row: int | None) -> None: ...

    def keep(self, mask: bytes) -> None: ...
    def derive(self, metric: str, values: list[float]) -> None: ...
    def emit(self, readings: list[tuple[str, int, str, Value]]) -> None: ...

    def load(self, slot: int, devices: list[int]) -> tuple[list[int], bytes]: ...
    def store(self, slot: int, devices: list[int], lengths: list[int], data: bytes) -> None: ...
    def set_timers(self, timers: list[tuple[int, int, int]]) -> None: ...
    def cancel_timers(self, timers: list[tuple[int, int]]) -> None: ...

    def parameters(self) -> str: ...
    def log(self, level: Level, message: str) -> None: ...


#: Who answers. Set once, by component.py or testing.py.
host: Host


def set_host(new: Host) -> None:
    """Says who answers from now on."""
    global host
    host = new


def text(what: str, value: Any) -> str:
    """A text, or an error that says what should be one."""
    if not isinstance(value, str):
        raise TypeError(f"{what} is a text, not {value!r}")
    # Half of a surrogate pair is a str and no text: a UnicodeEncodeError here, a trap without words later.
    value.encode()
    return value


def whole(what: str, value: Any) -> int:
    """A whole number of 64 bits, or an error that says what should be one."""
    try:
        number = index(value)
    except TypeError:
        raise TypeError(f"{what} is a whole number, not {value!r}") from None
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"{what} has to fit 64 bits, which {number} does not")
    return number


def value_of(what: str, value: Any) -> Value:
    """A number, a text or a flag, or an error that says what should be one. A whole number becomes a number."""
    if isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return float(value)
    if isinstance(value, str):
        return text(what, value)
    raise TypeError(f"{what} is a number, a text or a flag, not {value!r}")


def column_of(what: str, values: Iterable[Any]) -> list[float]:
    """A column of numbers; None becomes NaN, no value."""
    values = list(values)
    # Two passes in C for what is right; what is wrong is looked for after.
    kinds = set(map(type, values))
    if kinds <= {float}:
        return values
    if kinds <= {float, int, bool, type(None)}:
        return [NAN if value is None else float(value) for value in values]
    for row, value in enumerate(values):
        if value is not None and not isinstance(value, (float, int)):
            raise TypeError(f"{what} is a number in each row, not {value!r} as in row {row}")
    return [NAN if value is None else float(value) for value in values]
