"""The helpers, by tables of what goes in and what is expected."""

import math
import unittest

from watchfire_rule import (
    SECOND,
    Debounce,
    Device,
    Edge,
    Ewma,
    Hysteresis,
    RateOfChange,
    Reading,
    Rule,
    SlidingWindow,
    Subscription,
    TumblingWindow,
    Window,
    seconds,
    slot_of,
)
from watchfire_rule.testing import Play


class Fields(unittest.TestCase):
    def test_ewma(self) -> None:
        ewma = Ewma()
        self.assertEqual(ewma.deviation(5.0), 0.0)
        for x, mean, variance in ((1.0, 1.0, 0.0), (3.0, 2.0, 1.0), (2.0, 2.0, 0.5)):
            ewma.update(x, 0.5)
            self.assertEqual((ewma.mean, ewma.variance), (mean, variance))
        self.assertEqual(ewma.count, 3)
        self.assertEqual(ewma.deviation(3.0), 1.0 / math.sqrt(0.5))

    def test_the_order_of_operations_of_ewma(self) -> None:
        ewma, alpha = Ewma(0.1, 0.2, 1), 0.3
        ewma.update(0.7, alpha)
        delta = 0.7 - 0.1
        self.assertEqual(ewma.mean, 0.1 + alpha * delta)
        self.assertEqual(ewma.variance, (1 - alpha) * (0.2 + (alpha * delta) * delta))

    def test_rate_of_change(self) -> None:
        rate = RateOfChange()
        table = ((1, 2.0, None), (3, 5.0, 1.5), (3, 9.0, None), (2, 50.0, None), (5, 4.0, -0.5))
        for time, x, expected in table:
            self.assertEqual(rate.update(time * SECOND, x), expected)

    def test_hysteresis(self) -> None:
        up, down, same = Edge.RISING, Edge.FALLING, Edge.UNCHANGED
        high, low = Hysteresis(), Hysteresis()
        for x, expected in ((80, same), (80.1, up), (90, same), (75, same), (74.9, down), (74.9, same)):
            self.assertIs(high.update(x, 80, 75), expected)
        for x, expected in ((10, same), (9.9, up), (15, same), (15.1, down), (math.nan, same)):
            self.assertIs(low.update(x, 10, 15), expected)
        once = Hysteresis()
        for x, expected in ((5, same), (6, up), (5, same), (4, down)):
            self.assertIs(once.update(x, 5, 5), expected)

    def test_debounce(self) -> None:
        held = Debounce()
        table = ((True, 1, False), (True, 2, False), (True, 3, True), (False, 4, False), (True, 5, False))
        for condition, time, expected in table:
            self.assertIs(held.update(condition, time, 2), expected)
        self.assertTrue(held.update(True, 5, 0))

    def test_tumbling_window(self) -> None:
        window = TumblingWindow()
        for time, x in ((0, 2.0), (59, 4.0), (30, 3.0)):
            self.assertIsNone(window.add(time * SECOND, x, 60 * SECOND))
        closed = window.add(130 * SECOND, 8.0, 60 * SECOND)
        self.assertEqual(closed, Window(0, 60 * SECOND, 3, 9.0, 2.0, 4.0))
        self.assertEqual(closed and closed.mean, 3.0)
        self.assertIsNone(window.add(119 * SECOND, 100.0, 60 * SECOND))
        self.assertEqual(window, TumblingWindow(2, 1, 8.0, 8.0, 8.0))
        self.assertEqual(TumblingWindow().add(-1, 1.0, 60), None)

    def test_seconds(self) -> None:
        self.assertEqual([seconds(30), seconds(0.1), seconds(4.35)], [30_000_000, 100_000, 4_350_000])


class Flow(Rule):
    """The last minute in six pieces."""

    name = "flow"
    window = SlidingWindow(slot_of("window"), 6, 60 * SECOND)

    def start(self) -> Subscription:
        return Subscription(["flow"])

    def on_reading(self, device: Device, reading: Reading, state: None) -> None:
        self.window.add(device, reading.time, reading.number("flow") or 0.0)
        over = self.window.over(device, reading.time)
        for name in ("count", "sum", "min", "max", "mean"):
            reading.derive(name, getattr(over, name))


class Sliding(unittest.TestCase):
    def test_over_the_pieces(self) -> None:
        play = Play(Flow)
        rows = [("d", at * SECOND, {"flow": x}) for at, x in ((0, 2.0), (15, 4.0), (59, 6.0), (60, 9.0), (58, 8.0))]
        derived = play.batch(rows).derived
        self.assertEqual(derived["sum"][:4], [2.0, 6.0, 12.0, 19.0])
        self.assertEqual(derived["min"][:4], [2.0, 2.0, 2.0, 4.0])
        # 58 s lies in the piece that 59 s opened; that of 0 s was replaced by 60 s.
        self.assertEqual([derived[name][4] for name in ("count", "sum", "max")], [3.0, 18.0, 8.0])
        self.assertEqual(derived["mean"][2], 4.0)
        self.assertEqual(play.module.describe().state_version, 1)

    def test_too_late_is_ignored(self) -> None:
        play = Play(Flow)
        derived = play.batch([("d", at * SECOND, {"flow": 1.0}) for at in (65, 5)]).derived
        self.assertEqual((derived["count"], derived["sum"]), ([1.0, 0.0], [1.0, 0.0]))
        self.assertTrue(math.isnan(derived["mean"][1]) and math.isnan(derived["min"][1]))

    def test_a_value_rewrites_one_piece(self) -> None:
        play = Play(Flow)
        play.batch([("d", 1, {"flow": 1.0}), ("e", 1, {"flow": 1.0})])
        self.assertEqual([call for call in play.calls if call.startswith("store")], [f"store 2 of {slot_of('window')}"])
        # All pieces of all devices of the batch at once.
        self.assertEqual(sum(call.startswith("load 2") for call in play.calls), 6)

    def test_slots_go_round(self) -> None:
        self.assertEqual([piece.slot for piece in SlidingWindow(0xFFFFFFFF, 2, 10).pieces], [0xFFFFFFFF, 0])


if __name__ == "__main__":
    unittest.main()
