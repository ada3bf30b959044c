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
            column = batch.numbers(metric)
            standing = states.rows(batch)
            # What is over raises or goes on, what stands may end; all other rows are done with here.
            rows = [
                row
                for row, (value, state) in enumerate(zip(column, standing))
                if value > limit or state.alert and value <= limit - deadband
            ]
            # A row may change what the next one of the same device finds, so the state is looked at once more.
            for row in rows:
                value = column[row]
                if value > limit:
                    standing[row].alert = True
                    batch.trigger(row, metric, severity, f"{metric} over its limit", value=value, limit=limit)
                elif standing[row].alert:
                    standing[row].alert = False
                    batch.clear(row, metric)
