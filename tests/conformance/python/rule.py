"""Every case of the conformance suite, in one component; the parameter `case` says which."""

from typing import Any

from cases import CASES, Parameters, migrate
from watchfire_rule import Batch, Device, Rule, RuleError, Subscription


class Conformance(Rule):
    """Every case of the conformance suite."""

    name = "conformance"
    version = "0.1.0"
    state_version = 2
    parameters: Parameters

    def start(self) -> Subscription:
        case = CASES.get(self.parameters.case)
        if case is None:
            raise RuleError(f"unknown case {self.parameters.case}")
        self.case = case()
        self.case.parameters = self.parameters
        self.case.subscription = self.case.start()
        self.states = self.case.states
        return self.case.subscription

    def on_batch(self, batch: Batch) -> None:
        self.case.on_batch(batch)

    def on_timer(self, device: Device, tag: int, at: int, state: Any) -> None:
        self.case.on_timer(device, tag, at, state)

    def on_silence(self, device: Device, last: int | None, state: Any) -> None:
        self.case.on_silence(device, last, state)

    def on_schedule(self, name: str, at: int) -> None:
        self.case.on_schedule(name, at)

    @classmethod
    def migrate(cls, old_version: int, slot: int, blob: bytes) -> Any:
        return migrate(old_version, slot, blob)
