"""What a rule sees and does, on both levels, and what is refused."""

import json
import math
import operator
import types
import unittest
from typing import Any

from watchfire_rule import (
    Batch,
    Device,
    Reading,
    Rule,
    RuleError,
    Schedule,
    Subscription,
    emit,
    find,
    log,
    now,
    selected_devices,
)
from watchfire_rule.glue import rule_of
from watchfire_rule.testing import Alert, Effects, Play


def rule(metrics: list[str] | None = None, **members: Any) -> type[Rule]:
    """A rule of some functions."""

    def start(self: Rule) -> Subscription:
        return Subscription(metrics or [])

    return type("Some", (Rule,), {"name": "some", "start": start, **members})


def one(on_reading: Any, values: dict[str, Any] | None = None) -> Effects:
    """What comes of one reading."""
    return Play(rule(on_reading=on_reading)).batch([("d", 7, values or {"x": 1.0})])


class PerDevice(unittest.TestCase):
    def test_rows_without_the_metrics_are_passed_over(self) -> None:
        seen: list[Any] = []

        def on_reading(self: Rule, device: Device, reading: Reading, state: None) -> None:
            seen.append((reading.row, reading.time, reading.number("a"), reading.text("b"), reading.flag("c")))

        rows = [("d", 1, {"x": 1.0}), ("d", 2, {"a": 5.0}), ("e", 3, {"b": "t", "x": 1.0}), ("e", 4, {"c": False})]
        expected = [(1, 2, 5.0, None, None), (2, 3, None, "t", None), (3, 4, None, None, False)]
        for metrics, wanted in (
            (["a", "b", "c"], expected),
            (["b*", "c", "zz"], expected[1:]),
            (["zz"], []),
            ([], [(0, 1, None, None, None), *expected]),
        ):
            seen.clear()
            Play(rule(metrics, on_reading=on_reading)).batch(rows)
            self.assertEqual(seen, wanted)

    def test_effects_are_handed_over_once(self) -> None:
        def on_reading(self: Rule, device: Device, reading: Reading, state: None) -> None:
            x = reading.number("x")
            if x:
                reading.derive("twice", x * 2)
                device.trigger("key", "minor", "text", whole=1, text="t", flag=True, key=2.5)
            else:
                reading.drop()
                device.clear("key")
            emit("plant", "x", reading.row, now())
            device.set_timer(1, 100)
            device.set_timer(2, 100)
            device.cancel_timer(2)
            log.info(f"row {reading.row}")

        play = Play(rule(on_reading=on_reading))
        effects = play.batch([("d", 1, {"x": 1.0}), ("d", 2, {"x": 0.0})], now=50)
        self.assertEqual(effects.derived["twice"][0], 2.0)
        self.assertTrue(math.isnan(effects.derived["twice"][1]))
        self.assertEqual(effects.mask, b"\1\0")
        details = {"whole": 1.0, "text": "t", "flag": True, "key": 2.5}
        self.assertEqual(effects.alerts, [Alert("d", "key", "minor", "text", details, 0), Alert("d", "key", row=1)])
        self.assertEqual(effects.emitted, [("plant", 50, "x", 0.0), ("plant", 50, "x", 1.0)])
        self.assertEqual(play.timers, {("d", 1): 100})
        self.assertEqual(play.logged, [("info", "row 0"), ("info", "row 1")])

    def test_wrong_types_are_refused_with_a_text(self) -> None:
        for what, text in (
            (lambda d, r: d.trigger("k", "bad", "s"), "a severity is one of info, .* not 'bad'"),
            (lambda d, r: d.trigger("k", math.nan, "s"), "a severity is one of"),
            (lambda d, r: d.trigger(5, "major", "s"), "a key is a text, not 5"),
            (lambda d, r: d.trigger("k", "major", "s", x=[1]), r"detail x is a number, a text or a flag, not \[1\]"),
            (lambda d, r: d.trigger("\ud800", "major", "s"), "UnicodeEncodeError"),
            (lambda d, r: d.clear(None), "a key is a text, not None"),
            (lambda d, r: d.set_timer(-1, 5), "the tag of a timer is a number of 32 bits"),
            (lambda d, r: d.set_timer(1, 5.5), "the time of a timer is a whole number, not 5.5"),
            (lambda d, r: r.derive("y", "z"), "derived y is a number in each row, not 'z' as in row 0"),
            (lambda d, r: r.derive(5, 1.0), "a metric is a text, not 5"),
            (lambda d, r: r.number(None), "a metric is a text, not None"),
            (lambda d, r: emit(d, "x", 1.0, 5), "the name of a device is a text, not Device"),
            (lambda d, r: emit("d", "x", None, 5), "the value of x is a number, a text or a flag, not None"),
        ):
            with self.assertRaisesRegex(RuleError, text):
                one(lambda self, device, reading, state, what=what: what(device, reading))

    def test_a_failure_says_where_and_a_foreseen_one_says_its_text(self) -> None:
        def divides(self: Rule, device: Device, reading: Reading, state: None) -> None:
            1 / 0

        def elsewhere(self: Rule, device: Device, reading: Reading, state: None) -> None:
            json.loads("{")

        def foreseen(self: Rule, device: Device, reading: Reading, state: None) -> None:
            raise RuleError("poison: 666")

        with self.assertRaisesRegex(RuleError, r"^ZeroDivisionError: .* \(test_rule.py:\d+ in divides\)$"):
            one(divides)
        with self.assertRaisesRegex(RuleError, r"^JSONDecodeError: .* \(test_rule.py:\d+ in elsewhere\)$"):
            one(elsewhere)
        with self.assertRaisesRegex(RuleError, "^poison: 666$"):
            one(foreseen)


class PerBatch(unittest.TestCase):
    ROWS = [("d", 1, {"x": 1.0, "mode": "on"}), ("e", 2, {"x": 3.0, "y": 2.0}), ("d", 3, {"open": True, "y": 1.0})]

    def run_batch(self, function: Any) -> tuple[Any, Effects]:
        answers: list[Any] = []
        play = Play(rule(on_batch=lambda self, batch: answers.append(function(batch))))
        play.register("e", site="lyon")
        effects = play.batch(self.ROWS)
        return answers[0], effects

    def test_columns(self) -> None:
        def look(batch: Batch) -> Any:
            return (
                batch.rows,
                batch.stream,
                batch.times,
                [device.name for device in batch.devices],
                batch.numbers("x")[:2],
                math.isnan(batch.numbers("x")[2]),
                batch.texts("mode"),
                batch.flags("open"),
                batch.attribute("site"),
                [tuple(column) for column in batch.columns][:2],
            )

        names, columns = ["d", "e", "d"], [("x", "number"), ("mode", "text")]
        texts, flags, sites = ["on", None, None], [None, None, True], [None, "lyon", None]
        expected = (3, "readings", [1, 2, 3], names, [1.0, 3.0], True, texts, flags, sites, columns)
        self.assertEqual(self.run_batch(look)[0], expected)

    def test_which_rows(self) -> None:
        def look(batch: Batch) -> Any:
            groups = {device.name: rows for device, rows in batch.by_device().items()}
            return (
                batch.above("x", 1),
                batch.below("x", 3),
                batch.equal("mode", "on"),
                batch.equal("open", True),
                list(batch.having(["x"])),
                list(batch.having(["x", "o*"])),
                groups,
            )

        expected = ([1], [0], [0], [2], [0, 1], [0, 1, 2], {"d": [0, 2], "e": [1]})
        self.assertEqual(self.run_batch(look)[0], expected)

    def test_what_comes_of_it(self) -> None:
        def work(batch: Batch) -> None:
            batch.derive("product", batch.combine(operator.mul, "x", "y"))
            batch.keep(x == x for x in batch.numbers("x"))
            batch.trigger(1, "k", "info", "s", x=1)
            batch.clear(2, "k")

        effects = self.run_batch(work)[1]
        self.assertEqual(effects.derived["product"][1], 6.0)
        self.assertEqual(effects.mask, b"\1\1\0")
        self.assertEqual(effects.alerts, [Alert("e", "k", "info", "s", {"x": 1.0}, 1), Alert("d", "k", row=2)])
        for wrong in (lambda batch: batch.derive("z", [1.0]), lambda batch: batch.keep([True])):
            with self.assertRaisesRegex(RuleError, "has 1 entries for 3 rows"):
                self.run_batch(wrong)


class Registry(unittest.TestCase):
    def test_what_was_asked_is_cached_by_version(self) -> None:
        names: list[Any] = []

        def on_reading(self: Rule, device: Device, reading: Reading, state: None) -> None:
            names.append((device.name, device.site, device.label("line")))

        play = Play(rule(on_reading=on_reading))
        for name in "abc":
            play.register(name, site="lyon", line="3")
        rows = [(name, 1, {"x": 1.0}) for name in "abcabc"]
        play.batch(rows)
        self.assertEqual(names[:2], [("a", "lyon", "3"), ("b", "lyon", "3")])
        # The first alone, the second shows that all will be asked.
        self.assertEqual(
            [call for call in play.calls if "site" in call], ["attribute site of 1", "attribute site of 3"]
        )
        play.calls.clear()
        play.batch(rows)
        self.assertNotIn("name", play.calls)
        play.register("a", site="nice")
        play.batch(rows[:1])
        self.assertEqual(names[-1], ("a", "nice", None))

    def test_handle_0_is_a_device(self) -> None:
        found: list[Any] = []

        def on_schedule(self: Rule, name: str, at: int) -> None:
            found.append((find("a"), find("zz"), len(list(selected_devices()))))

        play = Play(rule(on_schedule=on_schedule))
        for number in range(2500):
            play.register("a" if number == 0 else f"d{number}")
        play.schedule("s", 1)
        self.assertEqual((found[0][0].handle, found[0][1:]), (0, (None, 2500)))

    def test_outside_of_callbacks_there_is_none(self) -> None:
        def start(self: Rule) -> Subscription:
            return Subscription([str(now())])

        with self.assertRaisesRegex(RuleError, "in a callback only"):
            Play(type("Early", (Rule,), {"name": "early", "start": start}))


class Subscriptions(unittest.TestCase):
    def test_what_is_none_is_refused(self) -> None:
        for subscription, text in (
            (Subscription("temperature"), "metrics of a subscription is a list of str"),  # type: ignore[arg-type]
            (Subscription([5]), "metrics of a subscription"),  # type: ignore[list-item]
            (Subscription(silence=1.5), "silence is a whole number, not 1.5"),  # type: ignore[arg-type]
            (Subscription(silence=-1), "silence is a span"),
            (Subscription(schedules=["daily"]), "schedules of a subscription"),  # type: ignore[list-item]
            (Subscription(schedules=[Schedule("daily", 6)]), "the cron of a schedule"),  # type: ignore[arg-type]
            (None, "start gives a Subscription, not None"),
        ):
            with self.assertRaisesRegex(RuleError, text):
                Play(type("Some", (Rule,), {"name": "some", "start": lambda self, s=subscription: s}))


class Modules(unittest.TestCase):
    def test_the_rule_of_a_module_is_the_one_that_none_inherits(self) -> None:
        module = types.ModuleType("rule")
        base = type("Base", (Rule,), {"__module__": "rule"})
        leaf = type("Leaf", (base,), {"__module__": "rule"})
        vars(module).update(Rule=Rule, Base=base, Leaf=leaf)
        self.assertIs(rule_of(module), leaf)
        vars(module).update(Other=type("Other", (Rule,), {"__module__": "rule"}))
        with self.assertRaisesRegex(TypeError, "Leaf, Other"):
            rule_of(module)

    def test_migration_goes_through_all_blobs(self) -> None:
        def migrate(cls: type[Rule], old_version: int, slot: int, blob: bytes) -> bytes:
            return blob * 2

        play = Play(rule(migrate=classmethod(migrate)))
        self.assertEqual(play.module.migrate(1, 0, [2, 0, 1], b"abc"), ([4, 0, 2], b"ababcc"))
        with self.assertRaisesRegex(RuleError, "^state of version 7 cannot be taken over$"):
            Play(rule()).module.migrate(7, 0, [1], b"a")

    def test_timers_and_silence(self) -> None:
        def on_timer(self: Rule, device: Device, tag: int, at: int, state: None) -> None:
            device.trigger("late", "major", "s", tag=tag, at=at)
            device.set_timer(tag, at + 10)

        def on_silence(self: Rule, device: Device, last: int | None, state: None) -> None:
            device.trigger("silent", "major", "s", never=last is None)

        def on_reading(self: Rule, device: Device, reading: Reading, state: None) -> None:
            device.set_timer(3, 20)

        play = Play(rule(on_reading=on_reading, on_timer=on_timer, on_silence=on_silence))
        play.batch([("d", 1, {"x": 1.0})])
        self.assertEqual(play.fire(25).alerts, [Alert("d", "late", "major", "s", {"tag": 3.0, "at": 20.0})])
        self.assertEqual(play.timers, {("d", 3): 30})
        self.assertEqual(play.silence({"d": None}, 50).alerts[0].details, {"never": True})


if __name__ == "__main__":
    unittest.main()
