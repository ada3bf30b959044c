"""The samples: what they say must not depend on where batches are cut and when instances are replaced."""

import importlib.util
import random
import sys
import unittest
from pathlib import Path
from typing import Any

from watchfire_rule import Rule
from watchfire_rule.glue import rule_of
from watchfire_rule.testing import Play

SAMPLES = Path(__file__).parent.parent / "samples"


def sample(name: str) -> type[Rule]:
    """The rule of a sample; its dataclasses look their module up, so it is known under its name."""
    spec = importlib.util.spec_from_file_location(name, SAMPLES / name / "rule.py")
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return rule_of(module)


class Samples(unittest.TestCase):
    def check(self, name: str, parameters: dict[str, Any], metrics: dict[str, tuple[float, float]]) -> None:
        chance = random.Random(7)
        rows: list[Any] = []
        for time in range(400):
            values = {metric: chance.uniform(*span) for metric, span in metrics.items() if chance.random() < 0.9}
            rows.append((f"device-{chance.randrange(5)}", time * 1_000_000, values))
        said = []
        for size, fresh in ((400, False), (7, False), (1, False), (1, True), (64, True)):
            play = Play(sample(name), parameters)
            for at in range(0, len(rows), size):
                play.batch(rows[at : at + size])
                for alert in play.effects.alerts:
                    alert.row = at + (alert.row or 0)
                if fresh:
                    play.replace()
            # A batch may be gone through metric by metric.
            said.append((sorted(play.alerts, key=lambda alert: (alert.row, alert.key)), play.state))
        self.assertGreater(len(said[0][0]), 20)
        for other in said[1:]:
            self.assertEqual(other, said[0])

    def test_boiler_pressure(self) -> None:
        self.check("boiler-pressure", {"high": 10, "deadband": 6, "hold": 5}, {"pressure": (3, 15)})

    def test_limits_by_column(self) -> None:
        parameters = {"metrics": ["a", "b"], "limits": [10, 20], "deadband": 2}
        self.check("limits-by-column", parameters, {"a": (0, 15), "b": (0, 30)})


if __name__ == "__main__":
    unittest.main()
