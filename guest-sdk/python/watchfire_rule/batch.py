"""The readings of a callback: a batch as columns, and one reading at a time.

An interpreter pays for each operation of a row and hardly anything for a column. So what is done for all rows is
done by map, zip and comprehensions, and a row of on_reading costs one call and two assignments.
"""

from __future__ import annotations

from functools import cached_property
from itertools import repeat
from typing import Any, Callable, Generic, Iterable, Iterator, NamedTuple, Sequence, TypeVar

from . import contract
from .callback import Callback
from .contract import Severity, Value
from .device import Device, fetch, trigger
from .state import States

T = TypeVar("T")

_FLAG = {0: False, 1: True}


class Column(NamedTuple):
    """A column with at least one value in the batch."""

    metric: str
    kind: str
    """`number`, `text` or `flag`."""


class _Columns(dict[str, list[T]], Generic[T]):
    """Columns by metric, fetched when they are first asked for."""

    def __init__(self, fetch: Callable[[str], list[T]]):
        super().__init__()
        self._fetch = fetch

    def __missing__(self, metric: str) -> list[T]:
        column = self[metric] = self._fetch(contract.text("a metric", metric))
        return column


def _numbers(metric: str) -> list[float]:
    return contract.host.numbers(metric)


def _texts(metric: str) -> list[str | None]:
    dictionary, codes = contract.host.texts(metric)
    return list(map(dict(enumerate(dictionary)).get, codes))


def _flags(metric: str) -> list[bool | None]:
    return list(map(_FLAG.get, contract.host.flags(metric)))


class Reading:
    """A row of the batch. One object for all rows: it is good until on_reading returns."""

    __slots__ = ("row", "time", "_numbers", "_texts", "_flags", "_callback", "_derived")

    row: int
    """Its place in the batch, which is chance."""
    time: int
    """When the device says it measured, in microseconds since 1970. May go back."""

    def __init__(self, batch: Batch):
        self._numbers = batch._numbers
        self._texts = batch._texts
        self._flags = batch._flags
        self._callback = batch._callback
        self._derived = batch._callback.derived

    def number(self, metric: str) -> float | None:
        """The number of a metric, where the row has one."""
        value = self._numbers[metric][self.row]
        return value if value == value else None

    def text(self, metric: str) -> str | None:
        """The text of a metric, where the row has one."""
        return self._texts[metric][self.row]

    def flag(self, metric: str) -> bool | None:
        """The flag of a metric, where the row has one."""
        return self._flags[metric][self.row]

    def derive(self, metric: str, value: float | None) -> None:
        """Adds a number to the row on the output stream. None or NaN: no value."""
        try:
            self._derived[metric][self.row] = value
        except KeyError:
            self._callback.derive(metric, self.row, value)

    def keep(self) -> None:
        """Takes a drop() back."""
        if self._callback.mask is not None:
            self._callback.mask[self.row] = 1

    def drop(self) -> None:
        """Leaves the row out of the output stream."""
        if self._callback.mask is None:
            self._callback.mask = bytearray(b"\1") * self._callback.rows
        self._callback.mask[self.row] = 0


class Batch:
    """The readings of a callback. Rows are in the order of the log; where the batch was cut is chance. Each
    column is fetched once, when it is first asked for; it is shared, so it is not to be changed."""

    def __init__(self, callback: Callback):
        self._callback = callback
        self._numbers: _Columns[float] = _Columns(_numbers)
        self._texts: _Columns[str | None] = _Columns(_texts)
        self._flags: _Columns[bool | None] = _Columns(_flags)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self._callback.rows

    @property
    def handles(self) -> list[int]:
        """The device of each row as a small number, for what goes by dicts and sets."""
        return self._callback.handles

    @cached_property
    def devices(self) -> list[Device]:
        """The device of each row."""
        return list(map(self._callback.devices.__getitem__, self.handles))

    @cached_property
    def times(self) -> list[int]:
        """The event time of each row: when the device says it measured. May go back."""
        return contract.host.times()

    @cached_property
    def stream(self) -> str:
        """The stream that the readings are of."""
        return contract.host.stream()

    @cached_property
    def columns(self) -> list[Column]:
        """The columns with at least one value."""
        return [Column(metric, kind) for metric, kind in contract.host.columns()]

    def numbers(self, metric: str) -> list[float]:
        """A column of numbers; NaN: no value."""
        return self._numbers[metric]

    def texts(self, metric: str) -> list[str | None]:
        """A column of texts; None: no value."""
        return self._texts[metric]

    def flags(self, metric: str) -> list[bool | None]:
        """A column of flags; None: no value."""
        return self._flags[metric]

    def attribute(self, name: str) -> list[Value | None]:
        """`type`, `site` or a label of the device of each row."""
        known: dict[int, Value | None] = {}
        for device in dict.fromkeys(self.devices):
            device._refresh()
            known[device.handle] = device._attributes[name] if name in device._attributes else fetch(name, device)
        return list(map(known.get, self.handles))

    # ---------------------------------------------------------------- which rows

    def above(self, metric: str, limit: float) -> list[int]:
        """The rows whose number is above a limit."""
        return [row for row, value in enumerate(self._numbers[metric]) if value > limit]

    def below(self, metric: str, limit: float) -> list[int]:
        """The rows whose number is below a limit."""
        return [row for row, value in enumerate(self._numbers[metric]) if value < limit]

    def equal(self, metric: str, value: str | bool) -> list[int]:
        """The rows with a text or flag."""
        column: Sequence[Any] = self._flags[metric] if isinstance(value, bool) else self._texts[metric]
        return [row for row, one in enumerate(column) if one == value]

    def having(self, metrics: Iterable[str] = ()) -> Sequence[int]:
        """The rows with a value of any of these metrics, which may be patterns (`temp*`); without any: all rows."""
        metrics = list(metrics)
        everything = range(self.rows)
        if not metrics:
            return everything
        names = {metric for metric in metrics if not metric.endswith("*")}
        starts = tuple(metric[:-1] for metric in metrics if metric.endswith("*"))
        found: set[int] = set()
        for metric, kind in self.columns:
            if metric not in names and not metric.startswith(starts):
                continue
            if kind == "number":
                column = self._numbers[metric]
                # A sum that is a number is of numbers alone; so the usual column is looked through in C.
                total = sum(column)
                if total == total:
                    return everything
                found.update([row for row, value in enumerate(column) if value == value])
            else:
                others: Sequence[Any] = self._texts[metric] if kind == "text" else self._flags[metric]
                if None not in others:
                    return everything
                found.update([row for row, value in enumerate(others) if value is not None])
            if len(found) == self.rows:
                return everything
        return sorted(found)

    def by_device(self, rows: Iterable[int] | None = None) -> dict[Device, list[int]]:
        """The rows of each device, of all or of these, in order."""
        devices = self.devices
        groups: dict[Device, list[int]] = {}
        for row in range(self.rows) if rows is None else rows:
            groups.setdefault(devices[row], []).append(row)
        return groups

    def combine(self, function: Callable[..., float], *metrics: str) -> list[float]:
        """A column of a function of others, row by row. With one of `operator` or `math` no line of Python runs for
        a row; NaN goes through those of `operator`."""
        return list(map(function, *map(self._numbers.__getitem__, metrics)))

    # ---------------------------------------------------------------- what comes of it

    def trigger(self, row: int, key: str, severity: Severity, summary: str, /, **details: Value) -> None:
        """Says that a condition of the device of a row stands; the row gives the alert its time."""
        trigger(self.handles[row], row, key, severity, summary, details)

    def clear(self, row: int, key: str) -> None:
        """Says that a condition of the device of a row does not stand."""
        contract.host.clear(self.handles[row], contract.text("a key", key), row)

    def derive(self, metric: str, values: Iterable[float | None]) -> None:
        """Adds or replaces a column of numbers on the output stream. None or NaN: no value."""
        self._callback.derived[contract.text("a metric", metric)] = self._for_each_row(metric, list(values))

    def keep(self, mask: Iterable[Any]) -> None:
        """Leaves the rows out of the output stream for which it says False (or 0, or None)."""
        self._callback.mask = bytearray(self._for_each_row("the mask", list(map(bool, mask))))

    def _for_each_row(self, what: str, values: list[Any]) -> list[Any]:
        if len(values) != self.rows:
            raise ValueError(f"{what} has {len(values)} entries for {self.rows} rows")
        return values

    # ---------------------------------------------------------------- one reading at a time

    def each(
        self, on_reading: Callable[[Device, Reading, Any], None], metrics: Iterable[str], states: States[Any] | None
    ) -> None:
        """Calls on_reading for each row that has one of these metrics."""
        rows = self.having(metrics)
        if not rows:
            return
        handles, times = self.handles, self.times
        if len(rows) != self.rows:
            handles, times = list(map(handles.__getitem__, rows)), list(map(times.__getitem__, rows))
        devices = map(self._callback.devices.__getitem__, handles)
        kept: Iterator[Any] = repeat(None) if states is None else map(states.given(handles).__getitem__, handles)
        reading = self._callback.reading = Reading(self)
        for reading.row, device, reading.time, state in zip(rows, devices, times, kept):
            on_reading(device, reading, state)
        self._callback.reading = None
