"""Write a Watchfire rule in Python.

A rule is a class that inherits `Rule`, in a file `rule.py`:

    from dataclasses import dataclass
    from watchfire_rule import Device, Reading, Rule, Subscription, parameter

    @dataclass
    class Parameters:
        high: float = parameter(80, unit="°C", description="Above it.")

    class Hot(Rule):
        \"\"\"Temperature over a limit.\"\"\"

        name = "hot"
        parameters: Parameters

        def start(self) -> Subscription:
            return Subscription(["temperature"])

        def on_reading(self, device: Device, reading: Reading, state: None) -> None:
            x = reading.number("temperature")
            if x > self.parameters.high:
                device.trigger("hot", "major", "temperature over the limit", value=x)
            else:
                device.clear("hot")
"""

from . import log
from .batch import Batch, Column, Reading
from .callback import emit, now
from .contract import NAN, RuleError, Severity, Value
from .device import Device, find, selected_devices
from .helpers import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    Debounce,
    Edge,
    Ewma,
    Hysteresis,
    RateOfChange,
    SlidingWindow,
    TumblingWindow,
    Window,
    seconds,
)
from .parameters import parameter
from .rule import Rule, Schedule, Subscription
from .state import Array, States, pack, slot_of, unpack, zero

__version__ = "0.1.0"

__all__ = [
    "Array",
    "Batch",
    "Column",
    "DAY",
    "Debounce",
    "Device",
    "Edge",
    "Ewma",
    "HOUR",
    "Hysteresis",
    "MINUTE",
    "NAN",
    "RateOfChange",
    "Reading",
    "Rule",
    "RuleError",
    "SECOND",
    "Schedule",
    "Severity",
    "SlidingWindow",
    "States",
    "Subscription",
    "TumblingWindow",
    "Value",
    "Window",
    "emit",
    "find",
    "log",
    "now",
    "pack",
    "parameter",
    "seconds",
    "selected_devices",
    "slot_of",
    "unpack",
    "zero",
]
