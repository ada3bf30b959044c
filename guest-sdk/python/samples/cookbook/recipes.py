"""The recipes: each is a rule of its own. docs/cookbook.md quotes them."""

from dataclasses import dataclass
from typing import Any

from watchfire_rule import (
    MINUTE,
    Device,
    Hysteresis,
    Reading,
    Rule,
    Severity,
    SlidingWindow,
    States,
    Subscription,
    log,
    parameter,
    slot_of,
)


@dataclass
class Parameters:
    recipe: str = parameter("limit-of-label", description="Which one of them.")
    high: float = parameter(80, unit="°C", description="The limit.")
    deadband: float = parameter(2, minimum=0, unit="°C", description="How far below it clears.")


class Recipe(Rule):
    metrics: list[str]
    parameters: Parameters

    def start(self) -> Subscription:
        return Subscription(self.metrics)


class LimitOfLabel(Recipe):
    metrics = ["temperature"]

    def limit(self, device: Device) -> float:
        label = device.label("limit")
        try:
            return float(label) if label else self.parameters.high
        except ValueError:
            log.warn(f"{device.name}: the label limit is no number: {label}")
            return self.parameters.high

    def on_reading(self, device: Device, reading: Reading, state: None) -> None:
        x, high = reading.number("temperature"), self.limit(device)
        if x is None:
            return
        if x > high:
            device.trigger("hot", "major", "temperature over the limit", value=x, limit=high)
        elif x < high - self.parameters.deadband:
            device.clear("hot")


class Phases(Recipe):
    metrics = ["current_1", "current_2", "current_3"]

    def on_reading(self, device: Device, reading: Reading, state: None) -> None:
        for phase in self.metrics:
            x = reading.number(phase)
            if x is None:
                continue
            if x > 16:
                device.trigger(phase, "major", "a phase carries too much", current=x)
            elif x < 15:
                device.clear(phase)


STEPS: list[tuple[float, Severity]] = [(95, "critical"), (85, "major"), (75, "minor")]


class Escalating(Recipe):
    metrics = ["temperature"]

    def on_reading(self, device: Device, reading: Reading, state: None) -> None:
        x = reading.number("temperature")
        if x is None:
            return
        for limit, severity in STEPS:
            if x > limit:
                device.trigger("hot", severity, "temperature over the limit", value=x, limit=limit)
                return
        device.clear("hot")


@dataclass(slots=True)
class Boiler:
    hot: Hysteresis
    pumping: bool


class WhileRunning(Recipe):
    metrics = ["temperature", "pump"]
    states = States(Boiler)

    def on_reading(self, device: Device, reading: Reading, state: Boiler) -> None:
        pump, x = reading.flag("pump"), reading.number("temperature")
        if pump is not None:
            state.pumping = pump
        if x is not None:
            state.hot.update(x, self.parameters.high, self.parameters.high - self.parameters.deadband)
        if state.hot.active and not state.pumping:
            device.trigger("hot-and-still", "critical", "it is hot and the pump does not run")
        else:
            device.clear("hot-and-still")


class SiteMean(Recipe):
    metrics = ["site_temperature"]
    window = SlidingWindow(slot_of("site"), 6, MINUTE)

    def on_reading(self, device: Device, reading: Reading, state: None) -> None:
        x = reading.number("site_temperature")
        if x is None:
            return
        self.window.add(device, reading.time, x)
        over = self.window.over(device, reading.time)
        if over.mean > self.parameters.high:
            device.trigger("hot", "major", "the site is hot", mean=over.mean, readings=over.count)
        elif over.mean < self.parameters.high - self.parameters.deadband:
            device.clear("hot")


RECIPES: dict[str, Any] = {
    "limit-of-label": LimitOfLabel,
    "phases": Phases,
    "escalating": Escalating,
    "while-running": WhileRunning,
    "site-mean": SiteMean,
}
