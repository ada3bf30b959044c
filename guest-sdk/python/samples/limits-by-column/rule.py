"""Upper limits of many metrics, a column at a time."""

from dataclasses import dataclass

from watchfire_rule import Batch, Rule, RuleError, Severity, States, Subscription, parameter, slot_of


@dataclass
class Parameters:
    metrics: list[str] = parameter(["temperature"], description="What is watched.")
    limits: list[float] = parameter([80.0], description="Alert when the metric is above: one for each metric.")
    deadband: float = parameter(0, minimum=0, description="How far below its limit a metric has to come to clear.")
    severity: Severity = parameter("major", description="Of all alerts.")


@dataclass(slots=True)
class Standing:
    alert: bool


class LimitsByColumn(Rule):
    """Alerts while a metric is above its limit; clears once it is back by the deadband. Keys are the metrics."""

    name = "limits-by-column"
    version = "0.1.0"
    state_version = 1
    parameters: Parameters

    def start(self) -> Subscription:
        metrics, limits = self.parameters.metrics, self.parameters.limits
        if len(metrics) != len(limits):
            raise RuleError(f"{len(metrics)} metrics have {len(limits)} limits")
        # In the slot of its name: tomorrow the metrics may come in another order.
        self.watched = [(metric, limit, States(Standing, slot_of(metric))) for metric, limit in zip(metrics, limits)]
        return Subscription(metrics)

    def on_batch(self, batch: Batch) -> None:
        deadband, severity = self.parameters.deadband, self.parameters.severity
        for metric, limit, states in self.watched:
            column, standing = batch.numbers(metric), states.rows(batch)
            # Only devices that have an alert or get one matter, and they are few; all other rows are done with here.
            matter = {handle for handle, state in zip(batch.handles, standing) if state.alert}
            matter.update([batch.handles[row] for row in batch.above(metric, limit)])
            if not matter:
                continue
            for row in [row for row, handle in enumerate(batch.handles) if handle in matter]:
                value, state = column[row], standing[row]
                if value > limit:
                    state.alert = True
                    batch.trigger(row, metric, severity, f"{metric} over its limit", value=value, limit=limit)
                elif state.alert and value <= limit - deadband:
                    state.alert = False
                    batch.clear(row, metric)
