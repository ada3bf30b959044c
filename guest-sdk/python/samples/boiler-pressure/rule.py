"""Pressure of a boiler: over its limit for a while."""

from dataclasses import dataclass

from watchfire_rule import (
    Debounce,
    Device,
    Hysteresis,
    Reading,
    Rule,
    States,
    Subscription,
    parameter,
    seconds,
)


@dataclass
class Parameters:
    high: float = parameter(
        12, minimum=0, maximum=400, unit="bar", description="Alert when the pressure is above."
    )
    deadband: float = parameter(
        0.5, minimum=0, unit="bar", description="How far below the limit it has to come to clear."
    )
    hold: float = parameter(10, minimum=0, unit="s", description="For how long it must be above.")


@dataclass(slots=True)
class Pressure:
    over: Hysteresis
    held: Debounce
    raised: bool


class BoilerPressure(Rule):
    """The pressure of a boiler was above its limit for some time."""

    name = "boiler-pressure"
    version = "0.1.0"
    parameters: Parameters
    states = States(Pressure)

    def start(self) -> Subscription:
        self.hold = seconds(self.parameters.hold)
        return Subscription(["pressure"])

    def on_reading(self, device: Device, reading: Reading, state: Pressure) -> None:
        pressure = reading.number("pressure")
        if pressure is None:
            return
        high = self.parameters.high
        state.over.update(pressure, high, high - self.parameters.deadband)
        if state.held.update(state.over.active, reading.time, self.hold):
            state.raised = True
            # Said again with each reading: it keeps the values of the alert current.
            device.trigger("pressure", "critical", "the pressure is too high", pressure=pressure, limit=high)
        elif state.raised and not state.over.active:
            state.raised = False
            device.clear("pressure")
