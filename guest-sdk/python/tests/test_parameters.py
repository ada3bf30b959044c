"""The schema that comes of a dataclass of parameters, and the object that comes of a document."""

import json
import unittest
from dataclasses import dataclass, field
from typing import Literal

from watchfire_rule import Device, Reading, Rule, Subscription, parameter
from watchfire_rule.parameters import read, schema_of
from watchfire_rule.testing import Play


@dataclass
class Parameters:
    high: float = parameter(80.0, minimum=-1000, maximum=1000, unit="°C", description="Above it.")
    readings: int = parameter(minimum=1)
    name: str = "plant"
    latch: bool = False
    mode: Literal["auto", "manual"] = "auto"
    sites: list[str] = field(default_factory=list)
    steps: list[float] = parameter([1.5, 2])


class Schema(unittest.TestCase):
    def test_each_type(self) -> None:
        self.assertEqual(
            json.loads(schema_of(Parameters)),
            {
                "type": "object",
                "properties": {
                    "high": {
                        "type": "number",
                        "default": 80,
                        "minimum": -1000,
                        "maximum": 1000,
                        "unit": "°C",
                        "description": "Above it.",
                    },
                    "readings": {"type": "integer", "minimum": 1},
                    "name": {"type": "string", "default": "plant"},
                    "latch": {"type": "boolean", "default": False},
                    "mode": {"type": "string", "default": "auto", "enum": ["auto", "manual"]},
                    "sites": {"type": "array", "items": {"type": "string"}, "default": []},
                    "steps": {"type": "array", "items": {"type": "number"}, "default": [1.5, 2]},
                },
                "required": ["readings"],
                "additionalProperties": False,
            },
        )
        # As people write it, which is not the same to every reader of JSON.
        self.assertIn('"default": 80,', schema_of(Parameters))
        self.assertIn("°C", schema_of(Parameters))

    def test_what_is_no_parameter_is_named(self) -> None:
        @dataclass
        class Odd:
            limits: dict[str, float]

        @dataclass
        class Wrong:
            high: float = "a lot"  # type: ignore[assignment]

        with self.assertRaisesRegex(TypeError, "Odd.limits"):
            schema_of(Odd)
        with self.assertRaisesRegex(TypeError, "Wrong.high: 'a lot' is no float"):
            schema_of(Wrong)

    def test_a_document_becomes_an_object(self) -> None:
        given = read(Parameters, '{"high": 12, "readings": 3.0, "steps": [1], "mode": "manual"}')
        self.assertEqual(given, Parameters(high=12.0, readings=3, steps=[1.0], mode="manual"))
        self.assertEqual([type(given.high), type(given.readings), type(given.steps[0])], [float, int, float])
        with self.assertRaisesRegex(TypeError, "readings"):
            read(Parameters, "{}")


class Own(Rule):
    """A rule with a schema of its own."""

    name = "own"
    schema = '{"type": "object", "properties": {"limits": {"type": "object", "default": {}}}}'

    def start(self) -> Subscription:
        self.metrics = list(self.parameters["limits"])
        return Subscription(self.metrics)

    def on_reading(self, device: Device, reading: Reading, state: None) -> None:
        pass


class OwnSchema(unittest.TestCase):
    def test_the_parameters_are_a_dict(self) -> None:
        play = Play(Own, {"limits": {"temperature": 3}})
        self.assertEqual(play.subscription.metrics, ["temperature"])
        self.assertEqual(play.module.describe().parameters, Own.schema)
        self.assertEqual(play.module.describe().state_version, 0)


if __name__ == "__main__":
    unittest.main()
