"""What a rule is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from . import contract
from .batch import Batch, Reading
from .contract import RuleError
from .device import Device
from .state import States


@dataclass
class Schedule:
    """A time at which a rule is called."""

    name: str
    """What the rule calls it."""
    cron: str
    """Five-field cron in its Unix meaning."""
    zone: str | None = None
    """IANA time zone; None: UTC."""


@dataclass
class Subscription:
    """What a rule wants to be called for."""

    metrics: list[str] = field(default_factory=list)
    """Metrics of the readings that it gets; empty: all. A trailing `*` matches any suffix."""
    silence: int | Literal["registry"] | None = None
    """Microseconds after which a device counts as silent; or twice the interval that the registry expects of it."""
    schedules: list[Schedule] = field(default_factory=list)
    """When it is called whatever comes."""

    def check(self) -> None:
        """Raises where it is none."""
        for what, entries, kind in (("metrics", self.metrics, str), ("schedules", self.schedules, Schedule)):
            if isinstance(entries, str) or not all(isinstance(entry, kind) for entry in entries):
                raise TypeError(f"{what} of a subscription is a list of {kind.__name__}, not {entries!r}")
        for metric in self.metrics:
            contract.text("a metric", metric)
        for schedule in self.schedules:
            contract.text("the name of a schedule", schedule.name)
            contract.text("the cron of a schedule", schedule.cron)
            if schedule.zone is not None:
                contract.text("the zone of a schedule", schedule.zone)
        if self.silence not in (None, "registry") and contract.whole("silence", self.silence) < 0:
            raise ValueError(f"silence is a span in microseconds, not {self.silence}")


class Rule:
    """A rule. A project has one class that inherits this. What `start` and one of `on_reading` and `on_batch` do has
    to be written; the other callbacks are for who wants them.

    What a rule keeps in its attributes is a cache: the instance may be replaced before any callback. After a
    callback that raised, the object is made anew. So what a later verdict depends on goes into states.
    """

    name: str
    """Of the module: 1 to 64 characters of `a-z 0-9 - _ .`."""
    version: str = "0.1.0"
    """Of the module."""
    description: str | None = None
    """One or two sentences; None: the first paragraph of the docstring."""
    schema: str | None = None
    """The JSON Schema of the parameters as text, where a dataclass cannot say it. Without an annotated dataclass
    the parameters are then a dict."""
    state_version: int | None = None
    """The version of the layout of the state, from 1; 0: keeps none; None: 1 where the class declares states."""

    parameters: Any
    """What the deployment gives. To be annotated with a dataclass, which is their declaration."""
    states: States[Any] | None = None
    """What is kept for each device, and given to the callbacks as `state`."""

    #: What it subscribed to.
    subscription: Subscription

    def start(self) -> Subscription:
        """Makes the rule ready from `self.parameters`, and says what it wants to be called for: a pure function of the
        parameters. An error refuses the deploy. May log, and call nothing else."""
        raise NotImplementedError(f"{type(self).__name__} has no start")

    def on_reading(self, device: Device, reading: Reading, state: Any) -> None:
        """A row of the batch that has one of the metrics of the subscription, in the order of the log."""

    def on_batch(self, batch: Batch) -> None:
        """Readings, as columns. Where it is not written, it calls on_reading for each row."""
        batch.each(self.on_reading, self.subscription.metrics, self.states)

    def on_timer(self, device: Device, tag: int, at: int, state: Any) -> None:
        """A timer that is due."""

    def on_silence(self, device: Device, last: int | None, state: Any) -> None:
        """A device that fell silent. `last` is the event time of its last reading; None: never any."""

    def on_schedule(self, name: str, at: int) -> None:
        """A schedule of the subscription."""

    @classmethod
    def migrate(cls, old_version: int, slot: int, blob: bytes) -> Any:
        """State of an older state_version, brought up to the present one: an object of a dataclass, or a blob; None
        or nothing at all: the state ends. A pure function."""
        raise RuleError(f"state of version {old_version} cannot be taken over")
