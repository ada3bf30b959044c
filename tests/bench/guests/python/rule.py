"""What `cargo xtask bench guests` measures, in Python; the parameter `case` says which rule it is."""

from cases import CASES, Parameters
from watchfire_rule import Batch, Rule, RuleError, Subscription


class Guests(Rule):
    """What the bench of guests measures."""

    name = "guests"
    version = "0.1.0"
    state_version = 1
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
