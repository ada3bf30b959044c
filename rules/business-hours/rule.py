"""Business hours: something that is on outside of the hours of a weekly schedule, or within them."""

from dataclasses import dataclass
from typing import Literal

from watchfire_rule import (
    Device,
    Reading,
    Rule,
    RuleError,
    Schedule,
    Severity,
    States,
    Subscription,
    parameter,
)

from week import Week

#: What is known of the time, of a device: nothing yet, or what a schedule said last.
UNKNOWN, WITHIN, OUTSIDE = 0, 1, 2


@dataclass
class Parameters:
    metric: str = parameter(description="What is on or off: a flag, or a number that is on above the limit.")
    limit: float = parameter(0, unit="of the metric", description="A number above it is on.")
    hours: list[str] = parameter(
        ["mon-fri 06:00-22:00"],
        description="The hours, by the quarter, each as 'mon-fri 06:00-22:00'; what ends before it begins is over midnight.",
    )
    zone: str = parameter("UTC", description="The IANA time zone that the hours are in, such as Europe/Berlin.")
    when: Literal["outside", "within"] = parameter(
        "outside", description="Alert on what is on outside of the hours, or within them."
    )
    severity: Severity = parameter("warning")


@dataclass(slots=True)
class Running:
    on: bool
    #: Whether the alert stands.
    raised: bool
    #: UNKNOWN, WITHIN or OUTSIDE, as of the last quarter of an hour. It is kept for each device: an instance may be
    #: replaced at any time, and a device is registered at any.
    hours: int


class BusinessHours(Rule):
    """Something that is on outside of the hours of a weekly schedule in a time zone, or within them."""

    name = "business-hours"
    version = "0.1.0"
    parameters: Parameters
    states = States(Running)

    def start(self) -> Subscription:
        if not self.parameters.metric or self.parameters.metric.endswith("*"):
            raise RuleError("metric is the name of one metric")
        try:
            week = Week(self.parameters.hours)
        except ValueError as error:
            raise RuleError(str(error)) from None
        lines = {"within": week.schedules(True), "outside": week.schedules(False)}
        if not lines["within"] or not lines["outside"]:
            raise RuleError("the hours are none of the week, or all of it")
        zone = self.parameters.zone
        schedules = [Schedule(f"{name} {line}", line, zone) for name in lines for line in lines[name]]
        self.condition = OUTSIDE if self.parameters.when == "outside" else WITHIN
        return Subscription([self.parameters.metric], schedules=schedules)

    def on_reading(self, device: Device, reading: Reading, state: Running) -> None:
        metric = self.parameters.metric
        value = reading.flag(metric)
        if value is None:
            value = reading.number(metric)
            if value is None:
                return
            state.on = value > self.parameters.limit
        else:
            state.on = value
        self.judge(device, state, value=value)

    def on_schedule(self, name: str, at: int) -> None:
        hours = WITHIN if name.startswith("within ") else OUTSIDE
        for device, state in self.states.selected():
            if state.hours != hours:
                state.hours = hours
                self.judge(device, state)

    def judge(self, device: Device, state: Running, **details: float | bool) -> None:
        key = f"{self.parameters.metric}.hours"
        if state.on and state.hours == self.condition:
            # Said again with each reading: it keeps the alert's values current.
            state.raised = True
            when = "outside of" if self.condition == OUTSIDE else "within"
            summary = f"{self.parameters.metric} is on {when} business hours"
            device.trigger(key, self.parameters.severity, summary, **details)
        elif state.raised:
            state.raised = False
            device.clear(key)
