"""Runs a rule natively, without WebAssembly: for tests of rules, and of this SDK.

    play = Play(BoilerPressure, {"high": 12})
    play.batch([("boiler-1", 0, {"pressure": 13.0}), ("boiler-1", 20_000_000, {"pressure": 13.0})])
    assert [alert.key for alert in play.alerts] == ["pressure"]

The real thing is `watchfire rule test`: it knows when timers are due, who is silent, and where a batch may be cut.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Iterable, Mapping

from . import contract
from .contract import NAN, Value
from .glue import Module
from .rule import Rule, Subscription


@dataclass
class Alert:
    """A trigger; or a clear, which has no severity."""

    device: str
    key: str
    severity: str | None = None
    summary: str = ""
    details: dict[str, Value] = field(default_factory=dict)
    row: int | None = None


@dataclass
class Effects:
    """What a callback did. Of one that failed nothing is kept."""

    alerts: list[Alert] = field(default_factory=list)
    derived: dict[str, list[float]] = field(default_factory=dict)
    mask: bytes | None = None
    emitted: list[tuple[str, int, str, Value]] = field(default_factory=list)
    stored: list[tuple[int, int, bytes]] = field(default_factory=list)
    timers: dict[tuple[str, int], int | None] = field(default_factory=dict)


class Play:
    """A rule with everything around it. What the last callback did is in `effects`; `alerts` and `emitted` have that
    of all."""

    def __init__(self, kind: type[Rule], parameters: Mapping[str, Any] | None = None):
        contract.set_host(self)
        self.module = Module(kind)
        self.document = self._filled(parameters or {})
        self.clock = 0
        self.registry: list[str] = []
        self.attributes: dict[str, dict[str, Value]] = {}
        self.registry_version = 1
        self.state: dict[tuple[int, int], bytes] = {}
        self.timers: dict[tuple[str, int], int] = {}
        self.alerts: list[Alert] = []
        self.emitted: list[tuple[str, int, str, Value]] = []
        self.logged: list[tuple[str, str]] = []
        self.calls: list[str] = []
        self.effects = Effects()
        self._rows: list[tuple[int, int, Mapping[str, Value]]] = []
        self.subscription: Subscription = self.module.start()

    def register(self, name: str, **attributes: Value) -> int:
        """A device, with its type, site and labels; gives its handle."""
        if name not in self.registry:
            self.registry.append(name)
        self.attributes[name] = attributes
        self.registry_version += 1
        return self.registry.index(name)

    def batch(self, rows: Iterable[tuple[str, int, Mapping[str, Value]]], now: int | None = None) -> Effects:
        """Readings as (device, event time, values by metric). The log's time is that of the last unless it is said."""
        self._rows = [(self._handle(device), time, values) for device, time, values in rows]
        last = max((time for _, time, _ in self._rows), default=self.clock)
        return self._call(self.module.on_batch, now=last if now is None else now)

    def fire(self, now: int) -> Effects:
        """All timers that are due at a time."""
        due = sorted((at, device, tag) for (device, tag), at in self.timers.items() if at <= now)
        for _, device, tag in due:
            del self.timers[device, tag]
        timers = [(self._handle(device), tag, at) for at, device, tag in due]
        return self._call(self.module.on_timers, timers, now=now)

    def silence(self, silent: Mapping[str, int | None], now: int) -> Effects:
        """Devices that fell silent, and when they were last heard."""
        devices = [(self._handle(device), last) for device, last in silent.items()]
        return self._call(self.module.on_silence, devices, now=now)

    def schedule(self, name: str, at: int) -> Effects:
        """A schedule."""
        return self._call(self.module.on_schedule, name, at, now=at)

    def replace(self) -> None:
        """A fresh instance, as there may be one before any callback."""
        self.module = Module(self.module.kind)
        self.module.start()

    def blob(self, device: str, slot: int = 0) -> bytes:
        """What is stored of a device; empty: nothing."""
        return self.state.get((slot, self._handle(device)), b"")

    def _filled(self, given: Mapping[str, Any]) -> str:
        schema = json.loads(self.module.schema or "{}")
        defaults = {n: p["default"] for n, p in schema.get("properties", {}).items() if "default" in p}
        return json.dumps({**defaults, **given})

    def _handle(self, device: str) -> int:
        if device not in self.registry:
            self.register(device)
        return self.registry.index(device)

    def _call(self, function: Any, *arguments: Any, now: int) -> Effects:
        contract.set_host(self)
        self.clock = max(self.clock, now)
        self.effects = Effects()
        try:
            function(*arguments)
        except BaseException:
            self.effects = Effects()
            raise
        finally:
            self._rows = []
        self.alerts += self.effects.alerts
        self.emitted += self.effects.emitted
        for slot, device, blob in self.effects.stored:
            if blob:
                self.state[slot, device] = blob
            else:
                self.state.pop((slot, device), None)
        for key, at in self.effects.timers.items():
            self.timers.pop(key, None)
            if at is not None:
                self.timers[key] = at
        return self.effects

    # ---------------------------------------------------------------- contract.Host

    def stream(self) -> str:
        return "readings"

    def rows(self) -> int:
        return len(self._rows)

    def columns(self) -> list[tuple[str, str]]:
        kinds = {bool: "flag", str: "text", float: "number", int: "number"}
        found = [(metric, kinds[type(value)]) for _, _, values in self._rows for metric, value in values.items()]
        return list(dict.fromkeys(found))

    def devices(self) -> list[int]:
        return [device for device, _, _ in self._rows]

    def times(self) -> list[int]:
        return [time for _, time, _ in self._rows]

    def _column(self, metric: str, *kinds: type) -> list[Any]:
        self.calls.append(f"column {metric}")
        column = [values.get(metric) for _, _, values in self._rows]
        return [value if type(value) in kinds else None for value in column]

    def numbers(self, metric: str) -> list[float]:
        return [NAN if value is None else float(value) for value in self._column(metric, float, int)]

    def texts(self, metric: str) -> tuple[list[str], list[int]]:
        column = self._column(metric, str)
        dictionary = sorted({text for text in column if text is not None})
        return dictionary, [0xFFFFFFFF if text is None else dictionary.index(text) for text in column]

    def flags(self, metric: str) -> bytes:
        return bytes(255 if flag is None else int(flag) for flag in self._column(metric, bool))

    def now(self) -> int:
        return self.clock

    def name(self, device: int) -> str:
        self.calls.append("name")
        return self.registry[device]

    def attribute(self, name: str, devices: list[int]) -> list[Value | None]:
        self.calls.append(f"attribute {name} of {len(devices)}")
        return [self.attributes[self.registry[device]].get(name) for device in devices]

    def find(self, name: str) -> int | None:
        return self.registry.index(name) if name in self.registry else None

    def selected(self, after: int | None, limit: int) -> list[int]:
        first = 0 if after is None else after + 1
        return list(range(len(self.registry)))[first : first + limit]

    def version(self) -> int:
        return self.registry_version

    def trigger(
        self,
        device: int,
        key: str,
        severity: str,
        summary: str,
        details: list[tuple[str, Value]],
        row: int | None,
    ) -> None:
        self.effects.alerts.append(Alert(self.registry[device], key, severity, summary, dict(details), row))

    def clear(self, device: int, key: str, row: int | None) -> None:
        self.effects.alerts.append(Alert(self.registry[device], key, row=row))

    def keep(self, mask: bytes) -> None:
        self.effects.mask = mask

    def derive(self, metric: str, values: list[float]) -> None:
        self.effects.derived[metric] = values

    def emit(self, readings: list[tuple[str, int, str, Value]]) -> None:
        self.effects.emitted += readings

    def load(self, slot: int, devices: list[int]) -> tuple[list[int], bytes]:
        self.calls.append(f"load {len(devices)} of {slot}")
        blobs = [self.state.get((slot, device), b"") for device in devices]
        return list(map(len, blobs)), b"".join(blobs)

    def store(self, slot: int, devices: list[int], lengths: list[int], data: bytes) -> None:
        self.calls.append(f"store {len(devices)} of {slot}")
        at = 0
        for device, length in zip(devices, lengths):
            self.effects.stored.append((slot, device, data[at : at + length]))
            at += length

    def set_timers(self, timers: list[tuple[int, int, int]]) -> None:
        self.effects.timers.update({(self.registry[device], tag): at for device, tag, at in timers})

    def cancel_timers(self, timers: list[tuple[int, int]]) -> None:
        self.effects.timers.update({(self.registry[device], tag): None for device, tag in timers})

    def parameters(self) -> str:
        return self.document

    def log(self, level: contract.Level, message: str) -> None:
        self.logged.append((level, message))
