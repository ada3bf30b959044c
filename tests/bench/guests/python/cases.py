"""The cases: each is a rule of its own. What they do is in the table of ../README.md."""

from dataclasses import dataclass, field
from operator import attrgetter

from watchfire_rule import Batch, Device, Ewma, Reading, Rule, States, Subscription, parameter

METRIC = "temperature"
METRICS = [METRIC, "pressure", "vibration", "current", "humidity"]
ALPHA = 0.05
SIGMAS = 6
WARM_UP = 30


@dataclass
class Parameters:
    case: str = parameter("ewma-batch")
    high: float = parameter(100, description="Trigger above it.")


class Case(Rule):
    """A case: what is not said otherwise looks at one metric."""

    parameters: Parameters

    def start(self) -> Subscription:
        return Subscription([METRIC])


class EwmaBatch(Case):
    states = States(Ewma)

    def on_batch(self, batch: Batch) -> None:
        column, states = batch.numbers(METRIC), self.states.rows(batch)
        for row, (x, ewma) in enumerate(zip(column, states)):
            if x != x:
                continue
            if ewma.count >= WARM_UP and abs(z := ewma.deviation(x)) > SIGMAS:
                batch.trigger(row, "odd", "minor", "far from its usual values", value=x, z=z)
            ewma.update(x, ALPHA)


class EwmaDevice(Case):
    states = States(Ewma)

    def on_reading(self, device: Device, reading: Reading, state: Ewma) -> None:
        x = reading.number(METRIC)
        if x is None:
            return
        if state.count >= WARM_UP and abs(z := state.deviation(x)) > SIGMAS:
            device.trigger("odd", "minor", "far from its usual values", value=x, z=z)
        state.update(x, ALPHA)


@dataclass(slots=True)
class Five:
    """An Ewma of each metric."""

    temperature: Ewma = field(default_factory=Ewma)
    pressure: Ewma = field(default_factory=Ewma)
    vibration: Ewma = field(default_factory=Ewma)
    current: Ewma = field(default_factory=Ewma)
    humidity: Ewma = field(default_factory=Ewma)


class FiveBatch(Case):
    states = States(Five)

    def start(self) -> Subscription:
        return Subscription(METRICS)

    def on_batch(self, batch: Batch) -> None:
        states = self.states.rows(batch)
        for metric in METRICS:
            ewmas = map(attrgetter(metric), states)
            for row, (x, ewma) in enumerate(zip(batch.numbers(metric), ewmas)):
                if x != x:
                    continue
                if ewma.count >= WARM_UP and abs(z := ewma.deviation(x)) > SIGMAS:
                    batch.trigger(row, metric, "minor", "far from its usual values", value=x, z=z)
                ewma.update(x, ALPHA)


class LimitBatch(Case):
    def on_batch(self, batch: Batch) -> None:
        column = batch.numbers(METRIC)
        for row in batch.above(METRIC, self.parameters.high):
            batch.trigger(row, "limit", "major", "over the limit", value=column[row])


class LimitDevice(Case):
    def on_reading(self, device: Device, reading: Reading, state: None) -> None:
        x = reading.number(METRIC)
        if x is not None and x > self.parameters.high:
            device.trigger("limit", "major", "over the limit", value=x)


CASES: dict[str, type[Case]] = {
    "ewma-batch": EwmaBatch,
    "ewma-device": EwmaDevice,
    "five-batch": FiveBatch,
    "limit-batch": LimitBatch,
    "limit-device": LimitDevice,
}
