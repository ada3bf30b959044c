"""The module that becomes the component: the rule of the project's `rule.py`, behind the exports of the contract.

Only the build imports this: `wit_world` is made by it. (What lies in `bindings/` is for editors.) The rule is
imported while the component is built, and lies in its memory from then on, with everything that it imported; an
import within a function would look for files, and there are none.
"""

from __future__ import annotations

from typing import Any

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports import handler
from wit_world.imports import alerts, clock, config, output, readings, state, timers
from wit_world.imports import devices as registry
from wit_world.imports import log as logs
from wit_world.imports.types import Blobs, Detail, Value_Boolean, Value_Number, Value_Text

import rule as project

from . import contract
from .contract import RuleError
from .glue import Module, rule_of


def _value(value: contract.Value) -> Any:
    if isinstance(value, bool):
        return Value_Boolean(value)
    return Value_Text(value) if isinstance(value, str) else Value_Number(value)


_KINDS = {readings.Kind.NUMBER: "number", readings.Kind.TEXT: "text", readings.Kind.BOOLEAN: "flag"}
_SEVERITIES = {severity.name.lower(): severity for severity in alerts.Severity}
_LEVELS = {level.name.lower(): level for level in logs.Level}


class ComponentHost:
    """The imports of the contract."""

    stream = staticmethod(readings.stream_name)
    rows = staticmethod(readings.rows)
    devices = staticmethod(readings.devices)
    times = staticmethod(readings.times)
    numbers = staticmethod(readings.numbers)
    flags = staticmethod(readings.booleans)
    now = staticmethod(clock.now)
    name = staticmethod(registry.name)
    find = staticmethod(registry.find)
    selected = staticmethod(registry.selected)
    version = staticmethod(registry.version)
    clear = staticmethod(alerts.clear)
    keep = staticmethod(output.keep)
    derive = staticmethod(output.derive)
    parameters = staticmethod(config.json)

    def columns(self) -> list[tuple[str, str]]:
        return [(column.metric, _KINDS[column.kind]) for column in readings.columns()]

    def texts(self, metric: str) -> tuple[list[str], list[int]]:
        column = readings.texts(metric)
        return column.dictionary, column.codes

    def attribute(self, name: str, handles: list[int]) -> list[contract.Value | None]:
        return [None if value is None else value.value for value in registry.attribute(name, handles)]

    def trigger(
        self,
        device: int,
        key: str,
        severity: str,
        summary: str,
        details: list[tuple[str, contract.Value]],
        row: int | None,
    ) -> None:
        named = [Detail(name, _value(value)) for name, value in details]
        alerts.trigger(alerts.Alert(device, key, _SEVERITIES[severity], summary, named, row, None))

    def emit(self, emitted: list[tuple[str, int, str, contract.Value]]) -> None:
        output.emit([output.Reading(device, time, metric, _value(value)) for device, time, metric, value in emitted])

    def load(self, slot: int, handles: list[int]) -> tuple[list[int], bytes]:
        blobs = state.load(slot, handles)
        return blobs.lengths, blobs.data

    def store(self, slot: int, handles: list[int], lengths: list[int], data: bytes) -> None:
        state.store(slot, handles, Blobs(lengths, data))

    def set_timers(self, moved: list[tuple[int, int, int]]) -> None:
        timers.set([timers.Timer(device, tag, at) for device, tag, at in moved])

    def cancel_timers(self, ended: list[tuple[int, int]]) -> None:
        timers.cancel([timers.Timer(device, tag, 0) for device, tag in ended])

    def log(self, level: contract.Level, message: str) -> None:
        logs.write(_LEVELS[level], message)


contract.set_host(ComponentHost())
_module = Module(rule_of(project))
# Asked here, what is wrong with it fails the build, with a text; `describe` itself has no error to give.
_manifest = _module.describe()


def _answer(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except RuleError as error:
        raise Err(str(error)) from None


class Handler(exports.Handler):
    def describe(self) -> handler.Manifest:
        of = _manifest
        return handler.Manifest(of.name, of.version, of.description, of.parameters, of.state_version, None)

    def start(self) -> handler.Subscription:
        wanted = _answer(_module.start)
        if wanted.silence is None:
            silence: Any = handler.Silence_Off()
        elif wanted.silence == "registry":
            silence = handler.Silence_Registry()
        else:
            silence = handler.Silence_After(wanted.silence)
        schedules = [handler.Schedule(one.name, one.cron, one.zone) for one in wanted.schedules]
        return handler.Subscription(list(wanted.metrics), silence, schedules, None)

    def on_batch(self) -> None:
        _answer(_module.on_batch)


class TimerHandler(exports.TimerHandler):
    def on_timers(self, due: list[timers.Timer]) -> None:
        _answer(_module.on_timers, [(timer.device, timer.tag, timer.at) for timer in due])


class SilenceHandler(exports.SilenceHandler):
    def on_silence(self, silent: list[Any]) -> None:
        _answer(_module.on_silence, [(device.device, device.last) for device in silent])


class ScheduleHandler(exports.ScheduleHandler):
    def on_schedule(self, name: str, at: int) -> None:
        _answer(_module.on_schedule, name, at)


class StateMigration(exports.StateMigration):
    def migrate(self, old_version: int, slot: int, states: Blobs) -> Blobs:
        return Blobs(*_answer(_module.migrate, old_version, slot, states.lengths, states.data))
