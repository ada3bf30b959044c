"""The callback that runs: what it saw and what it did so far. Handed over once, at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from . import contract
from .contract import NAN, Value

if TYPE_CHECKING:
    from .batch import Reading
    from .device import Device
    from .state import States


class Devices(dict[int, "Device"]):
    """Device objects by handle, made when they are asked for."""

    def __init__(self, make: Callable[[int], Device]):
        super().__init__()
        self._make = make

    def __missing__(self, handle: int) -> Device:
        device = self[handle] = self._make(handle)
        return device


class Instance:
    """One life of a rule object, from its `start` to its end or to a callback that failed. What is cached for it
    is not to be used in another."""

    def __init__(self, make_device: Callable[[int], Device]):
        self.devices = Devices(make_device)


class Callback:
    """What one callback saw and did."""

    def __init__(self, instance: Instance, handles: list[int], rows: int = 0):
        self.instance = instance
        self.devices = instance.devices
        #: The devices that it is about: what one of them needs, the others will need too.
        self.handles = handles
        #: How many rows there are; 0 outside of batches.
        self.rows = rows
        #: What on_reading gets, while rows are gone through.
        self.reading: Reading | None = None
        self.tables: list[States[Any]] = []
        #: By (device, tag): the time it is set to, or None where it is cancelled. The last one counts.
        self.timers: dict[tuple[int, int], int | None] = {}
        self.emitted: list[tuple[str, int, str, Value]] = []
        self.derived: dict[str, list[Any]] = {}
        self.mask: bytearray | None = None
        #: How often which attribute was not in the cache.
        self.asked: dict[str, int] = {}
        self._now: int | None = None
        self._version: int | None = None

    @property
    def row(self) -> int | None:
        """The row that on_reading is at."""
        return None if self.reading is None else self.reading.row

    @property
    def now(self) -> int:
        """The time of the log."""
        if self._now is None:
            self._now = contract.host.now()
        return self._now

    @property
    def version(self) -> int:
        """The version of the device registry."""
        if self._version is None:
            self._version = contract.host.version()
        return self._version

    def derive(self, metric: str, row: int, value: Any) -> None:
        """One value of a derived column; the other rows have none unless they get one."""
        column = self.derived.get(metric)
        if column is None:
            column = self.derived[contract.text("a metric", metric)] = [NAN] * self.rows
        column[row] = value

    def hand_over(self) -> None:
        """Everything that was collected."""
        host = contract.host
        for table in self.tables:
            table.save()
        for metric, column in self.derived.items():
            host.derive(metric, contract.column_of(f"derived {metric}", column))
        if self.mask is not None:
            host.keep(bytes(self.mask))
        if self.emitted:
            host.emit(self.emitted)
        if self.timers:
            moved = [(device, tag, at) for (device, tag), at in self.timers.items() if at is not None]
            ended = [key for key, at in self.timers.items() if at is None]
            if moved:
                host.set_timers(moved)
            if ended:
                host.cancel_timers(ended)


_running: Callback | None = None


def running() -> Callback:
    """The callback that runs."""
    if _running is None:
        raise RuntimeError("this can be asked for in a callback only, not in start or at the top of a file")
    return _running


def run(callback: Callback | None) -> None:
    """Says which callback runs from now on."""
    global _running
    _running = callback


def now() -> int:
    """The time of the log at this callback, in microseconds since 1970: the only clock there is. It never goes
    back, and a replay sees the same."""
    return running().now


def emit(device: str, metric: str, value: Value, time: int) -> None:
    """A new reading on the output stream, for any registered device, by its name; also one that stands for a site."""
    running().emitted.append(
        (
            contract.text("the name of a device", device),
            contract.whole("a time", time),
            contract.text("a metric", metric),
            contract.value_of(f"the value of {metric}", value),
        )
    )
