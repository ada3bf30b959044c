"""The cases: each is a rule of its own."""

import math
from dataclasses import dataclass

from watchfire_rule import (
    SECOND,
    Batch,
    Debounce,
    Device,
    Edge,
    Ewma,
    Hysteresis,
    RateOfChange,
    Reading,
    Rule,
    RuleError,
    Schedule,
    SlidingWindow,
    States,
    Subscription,
    TumblingWindow,
    emit,
    find,
    log,
    now,
    parameter,
    seconds,
    slot_of,
    unpack,
)


@dataclass
class Parameters:
    case: str = parameter("threshold")
    high: float = parameter(80, minimum=-1000, maximum=1000, unit="°C", description="Above it.")
    deadband: float = parameter(5)
    alpha: float = parameter(0.1, minimum=0, maximum=1)
    hold: float = parameter(30, unit="s")
    name: str = parameter("plant")


class Case(Rule):
    """A case; most want readings with some metrics and nothing else."""

    metrics: list[str]
    parameters: Parameters

    def start(self) -> Subscription:
        return Subscription(self.metrics)


@dataclass(slots=True)
class Active:
    active: bool


@dataclass(slots=True)
class Count:
    count: int


class Threshold(Case):
    metrics = ["temperature"]
    states = States(Active)

    def on_reading(self, device: Device, reading: Reading, state: Active) -> None:
        x, high = reading.number("temperature"), self.parameters.high
        if x is None:
            return
        if not state.active and x > high:
            state.active = True
            device.trigger("hot", "major", "temperature over the limit", value=x, limit=high)
        elif state.active and x < high - self.parameters.deadband:
            state.active = False
            device.clear("hot")


class ThresholdBatch(Case):
    metrics = ["temperature"]
    states = States(Active)

    def on_batch(self, batch: Batch) -> None:
        high, back = self.parameters.high, self.parameters.high - self.parameters.deadband
        temperature, states = batch.numbers("temperature"), self.states.rows(batch)
        for row, (x, state) in enumerate(zip(temperature, states)):
            if state.active:
                if x < back:
                    state.active = False
                    batch.clear(row, "hot")
            elif x > high:
                state.active = True
                batch.trigger(row, "hot", "major", "temperature over the limit", value=x, limit=high)


@dataclass(slots=True)
class Vibration:
    ewma: Ewma


class EwmaCase(Case):
    metrics = ["vibration"]
    states = States(Vibration)

    def start(self) -> Subscription:
        if not self.parameters.alpha > 0:
            raise RuleError("alpha is not above 0")
        return super().start()

    def on_reading(self, device: Device, reading: Reading, state: Vibration) -> None:
        x, ewma = reading.number("vibration"), state.ewma
        if x is None:
            return
        z = ewma.deviation(x)
        if ewma.count >= 10 and abs(z) > 3:
            device.trigger("odd", "minor", "vibration deviates", z=z)
        ewma.update(x, self.parameters.alpha)
        reading.derive("vibration_mean", ewma.mean)
        reading.derive("vibration_variance", ewma.variance)


class Sliding(Case):
    metrics = ["flow"]
    window = SlidingWindow(slot_of("window"), 6, 60 * SECOND)

    def on_reading(self, device: Device, reading: Reading, state: None) -> None:
        x = reading.number("flow")
        if x is None:
            return
        self.window.add(device, reading.time, x)
        over = self.window.over(device, reading.time)
        reading.derive("flow_mean", over.mean)
        reading.derive("flow_min", over.min)
        reading.derive("flow_max", over.max)
        reading.derive("flow_count", over.count)


@dataclass(slots=True)
class Flow:
    window: TumblingWindow


class Tumbling(Case):
    metrics = ["flow"]
    states = States(Flow)

    def on_reading(self, device: Device, reading: Reading, state: Flow) -> None:
        x = reading.number("flow")
        closed = None if x is None else state.window.add(reading.time, x, 60 * SECOND)
        if closed is not None:
            emit(device.name, "flow_1m", closed.mean, closed.end)
            emit(device.name, "flow_1m_max", closed.max, closed.end)


@dataclass(slots=True)
class Level:
    rate: RateOfChange


class Rate(Case):
    metrics = ["level"]
    states = States(Level)

    def on_reading(self, device: Device, reading: Reading, state: Level) -> None:
        x = reading.number("level")
        if x is not None:
            reading.derive("level_rate", state.rate.update(reading.time, x))


@dataclass(slots=True)
class Door:
    held: Debounce
    raised: bool


class DebounceCase(Case):
    metrics = ["open"]
    states = States(Door)

    def on_reading(self, device: Device, reading: Reading, state: Door) -> None:
        is_open = reading.flag("open")
        if is_open is None:
            return
        if state.held.update(is_open, reading.time, seconds(self.parameters.hold)) and not state.raised:
            state.raised = True
            device.trigger("open", "warning", "open for too long", since=state.held.since)
        elif not is_open and state.raised:
            state.raised = False
            device.clear("open")


@dataclass(slots=True)
class Tank:
    high: Hysteresis


class HysteresisCase(Case):
    metrics = ["level"]
    states = States(Tank)

    def on_reading(self, device: Device, reading: Reading, state: Tank) -> None:
        x, high = reading.number("level"), self.parameters.high
        if x is None:
            return
        edge = state.high.update(x, high, high - self.parameters.deadband)
        if edge is Edge.RISING:
            device.trigger("level", "major", "level is high")
        elif edge is Edge.FALLING:
            device.clear("level")


class Timers(Case):
    metrics = ["start", "done"]

    def on_reading(self, device: Device, reading: Reading, state: None) -> None:
        if reading.flag("start"):
            device.set_timer(1, now() + 10 * SECOND)
        if reading.flag("done"):
            device.cancel_timer(1)
            device.clear("overdue")

    def on_timer(self, device: Device, tag: int, at: int, state: None) -> None:
        device.trigger("overdue", "major", "not done in time", tag=tag)


@dataclass(slots=True)
class Heard:
    silent: bool


class Silence(Case):
    states = States(Heard)

    def start(self) -> Subscription:
        return Subscription(["temperature"], silence=30 * SECOND)

    def on_reading(self, device: Device, reading: Reading, state: Heard) -> None:
        if state.silent:
            state.silent = False
            device.clear("silent")

    def on_silence(self, device: Device, last: int | None, state: Heard) -> None:
        state.silent = True
        details = {} if last is None else {"last": float(last)}
        device.trigger("silent", "warning", "no readings", **details)


class ScheduleCase(Case):
    states = States(Count)

    def start(self) -> Subscription:
        return Subscription(["temperature"], schedules=[Schedule("hourly", "0 * * * *")])

    def on_reading(self, device: Device, reading: Reading, state: Count) -> None:
        state.count += 1

    def on_schedule(self, name: str, at: int) -> None:
        total = devices = 0
        for _, state in self.states.selected():
            devices += 1
            total += state.count
            state.count = 0
        emit(self.parameters.name, "readings", total, at)
        emit(self.parameters.name, "devices", devices, at)


class Stream(Case):
    metrics = ["voltage", "current"]

    def on_reading(self, device: Device, reading: Reading, state: None) -> None:
        voltage, current = reading.number("voltage"), reading.number("current")
        if voltage is not None and current is not None:
            reading.derive("power", voltage * current)


class Keep(Case):
    metrics = ["changed"]

    def on_reading(self, device: Device, reading: Reading, state: None) -> None:
        changed = reading.number("changed")
        if changed is None or not changed > 0:
            reading.drop()


class EmitSite(Case):
    metrics = ["temperature"]

    def on_reading(self, device: Device, reading: Reading, state: None) -> None:
        x, site = reading.number("temperature"), device.site
        if x is not None and site is not None:
            emit(site, "site_temperature", x, reading.time)


class Restart(Case):
    metrics = ["n"]
    states = States(Count)

    def on_reading(self, device: Device, reading: Reading, state: Count) -> None:
        state.count += 1
        if state.count % 3 == 0:
            device.trigger("third", "info", "every third", count=state.count)


class ParametersCase(Case):
    metrics = ["temperature"]

    def on_reading(self, device: Device, reading: Reading, state: None) -> None:
        x = reading.number("temperature")
        if x is None:
            return
        if x > self.parameters.high:
            device.trigger("limit", "major", "temperature over the limit")
        else:
            device.clear("limit")


@dataclass(slots=True)
class Total:
    count: int
    total: float


class Migration(Case):
    metrics = ["n"]
    states = States(Total)

    def on_reading(self, device: Device, reading: Reading, state: Total) -> None:
        x = reading.number("n")
        if x is None:
            return
        state.count += 1
        state.total += x
        device.trigger("total", "info", "total so far", count=state.count, total=state.total)


def migrate(old_version: int, slot: int, blob: bytes) -> Total:
    """State of version 1, where there was a count alone."""
    if old_version != 1:
        raise RuleError(f"state of version {old_version} cannot be taken over")
    if slot != 0:
        raise RuleError("no such slot")
    count = unpack(Count, blob).count
    return Total(count, count * 1.0)


class TextFlag(Case):
    metrics = ["mode", "running"]

    def on_reading(self, device: Device, reading: Reading, state: None) -> None:
        mode, running = reading.text("mode"), reading.flag("running")
        if mode == "fault" and running:
            device.trigger("fault", "critical", "fault while running", mode=mode, running=running)
        elif mode is not None and mode != "fault":
            device.clear("fault")


class Missing(Case):
    metrics = ["a", "b"]

    def on_reading(self, device: Device, reading: Reading, state: None) -> None:
        if reading.number("a") is not None:
            device.clear("a-missing")
        elif reading.number("b") is not None:
            device.trigger("a-missing", "major", "a is missing")


@dataclass(slots=True)
class Last:
    last: int
    count: int


class Late(Case):
    metrics = ["n"]
    states = States(Last)

    def on_reading(self, device: Device, reading: Reading, state: Last) -> None:
        if reading.time < state.last:
            state.count += 1
            device.trigger("late", "info", "a late reading", by=state.last - reading.time, count=state.count)
        else:
            state.last = reading.time


class Error(Case):
    metrics = ["n"]
    states = States(Count)

    def on_reading(self, device: Device, reading: Reading, state: Count) -> None:
        if reading.number("n") == 666:
            raise RuleError("poison: 666")
        state.count += 1
        reading.derive("count", state.count)


class Trap(Case):
    metrics = ["n"]
    states = States(Count)

    def on_reading(self, device: Device, reading: Reading, state: Count) -> None:
        if reading.number("n") == 667:
            raise RuntimeError("trap: 667")
        state.count += 1
        reading.derive("count", state.count)


def exponential(x: float) -> float:
    """As other languages have it: too large is infinite, and no exception."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


class Math(Case):
    metrics = ["x"]

    def on_reading(self, device: Device, reading: Reading, state: None) -> None:
        x = reading.number("x")
        if x is None:
            return
        derive = reading.derive
        derive("sum", x + 0.1)
        derive("difference", x - 0.1)
        derive("product", x * 1.1)
        derive("quotient", x / 3)
        derive("root", math.sqrt(abs(x)))
        derive("sine", math.sin(x))
        derive("exponential", exponential(x / 100))
        derive("logarithm", math.log(abs(x) + 1))
        derive("power", abs(x) ** 0.3)
        # floor gives a whole number, and the sign of a zero is lost with it.
        derive("floor", math.copysign(math.floor(x), x))


class Devices(Case):
    metrics = ["temperature"]

    def on_reading(self, device: Device, reading: Reading, state: None) -> None:
        device.trigger(
            "seen",
            "info",
            "device seen",
            name=device.name,
            type=device.type or "none",
            line=device.label("line") or "none",
            found=find(self.parameters.name) is not None,
        )


class Log(Case):
    metrics = ["n"]

    def on_reading(self, device: Device, reading: Reading, state: None) -> None:
        n = reading.number("n")
        if n is not None:
            log.info(f"n is {int(n)}")


CASES: dict[str, type[Case]] = {
    "threshold": Threshold,
    "threshold-batch": ThresholdBatch,
    "ewma": EwmaCase,
    "sliding": Sliding,
    "tumbling": Tumbling,
    "rate": Rate,
    "debounce": DebounceCase,
    "hysteresis": HysteresisCase,
    "timers": Timers,
    "silence": Silence,
    "schedule": ScheduleCase,
    "stream": Stream,
    "keep": Keep,
    "emit-site": EmitSite,
    "restart": Restart,
    "parameters": ParametersCase,
    "migration": Migration,
    "text-flag": TextFlag,
    "missing": Missing,
    "late": Late,
    "error": Error,
    "trap": Trap,
    "math": Math,
    "devices": Devices,
    "log": Log,
}
