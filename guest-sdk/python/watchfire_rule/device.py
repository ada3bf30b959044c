"""Devices: objects that cost nothing until something is asked of them."""

from __future__ import annotations

from typing import Iterator

from . import contract
from .callback import running
from .contract import SEVERITIES, Severity, Value

#: How many devices are asked for at once where all are gone through.
AT_ONCE = 1024


class Device:
    """A device of this partition. The same object for the same device as long as the rule object lives; it
    means nothing elsewhere, so it does not go into state."""

    __slots__ = ("handle", "_version", "_name", "_attributes")

    def __init__(self, handle: int):
        self.handle = handle
        self._version = -1
        self._name: str | None = None
        self._attributes: dict[str, Value | None] = {}

    def __repr__(self) -> str:
        return f"Device({self.handle})"

    @property
    def name(self) -> str:
        """Its id in the registry."""
        self._refresh()
        if self._name is None:
            self._name = contract.host.name(self.handle)
        return self._name

    @property
    def type(self) -> str | None:
        """Its type in the registry, where it has one."""
        return self._text("type")

    @property
    def site(self) -> str | None:
        """Its site in the registry, where it has one."""
        return self._text("site")

    def label(self, name: str) -> str | None:
        """One of its labels, where it has it."""
        return self._text(contract.text("the name of a label", name))

    def trigger(self, key: str, severity: Severity, summary: str, /, **details: Value) -> None:
        """Says that a condition stands. The summary is for people; numbers go into details. In on_reading it carries
        the row, which gives the alert its time."""
        trigger(self.handle, running().row, key, severity, summary, details)

    def clear(self, key: str) -> None:
        """Says that a condition does not stand; of what was not triggered this is nothing."""
        contract.host.clear(self.handle, contract.text("a key", key), running().row)

    def set_timer(self, tag: int, at: int) -> None:
        """Calls on_timer when the time of the log passes `at`. Setting one again moves it."""
        running().timers[self.handle, _tag(tag)] = contract.whole("the time of a timer", at)

    def cancel_timer(self, tag: int) -> None:
        """Ends a timer; one that is not set is none."""
        running().timers[self.handle, _tag(tag)] = None

    def _text(self, name: str) -> str | None:
        self._refresh()
        try:
            value = self._attributes[name]
        except KeyError:
            value = fetch(name, self)
        return value if value is None or isinstance(value, str) else str(value)

    def _refresh(self) -> None:
        version = running().version
        if self._version != version:
            self._version = version
            self._name = None
            self._attributes.clear()


def _tag(tag: int) -> int:
    tag = contract.whole("the tag of a timer", tag)
    if not 0 <= tag < 1 << 32:
        raise ValueError(f"the tag of a timer is a number of 32 bits, not {tag}")
    return tag


def fetch(name: str, device: Device) -> Value | None:
    """An attribute that is not cached. The first miss in a callback asks for that device alone, as an alert would;
    the second shows that all devices of the callback will be asked for."""
    callback = running()
    misses = callback.asked[name] = callback.asked.get(name, 0) + 1
    handles = [device.handle] if misses == 1 else list({device.handle: None, **dict.fromkeys(callback.handles)})
    for handle, value in zip(handles, contract.host.attribute(name, handles)):
        one = callback.devices[handle]
        one._refresh()
        one._attributes[name] = value
    return device._attributes[name]


def trigger(handle: int, row: int | None, key: str, severity: str, summary: str, details: dict[str, Value]) -> None:
    """Hands an alert over, once it is sure that it can be."""
    if severity not in SEVERITIES:
        raise ValueError(f"a severity is one of {', '.join(SEVERITIES)}, not {severity!r}")
    contract.host.trigger(
        handle,
        contract.text("a key", key),
        severity,
        contract.text("a summary", summary),
        [(name, contract.value_of(f"detail {name}", value)) for name, value in details.items()],
        row,
    )


def find(name: str) -> Device | None:
    """A registered device of this partition, by name."""
    handle = contract.host.find(contract.text("the name of a device", name))
    # Handle 0 is a device.
    return None if handle is None else running().devices[handle]


def selected_devices() -> Iterator[Device]:
    """Every device that the rule selects."""
    after = None
    while handles := contract.host.selected(after, AT_ONCE):
        after = handles[-1]
        yield from map(running().devices.__getitem__, handles)
