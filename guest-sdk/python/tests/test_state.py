"""How state lies in a blob, and when it is loaded and stored."""

import struct
import unittest
from dataclasses import dataclass
from typing import Annotated, Any

from watchfire_rule import Array, Debounce, Device, Ewma, Reading, Rule, States, Subscription
from watchfire_rule import pack, slot_of, unpack, zero
from watchfire_rule.testing import Play


@dataclass(slots=True)
class All:
    number: float
    whole: int
    flag: bool
    few: Array(3)
    ewma: Ewma
    typed: Annotated[list[float], Array(2)]
    held: Debounce


@dataclass(slots=True)
class Count:
    count: int = 0


class Counter(Rule):
    """Counts.

    And more.
    """

    name = "counter"
    states = States(Count)

    def start(self) -> Subscription:
        return Subscription(["n"])

    def on_reading(self, device: Device, reading: Reading, state: Count) -> None:
        n = reading.number("n")
        if n == 666:
            raise ValueError("poison")
        state.count = "many" if n == 5 else state.count + 1 if n else 0  # type: ignore[assignment]


class Layout(unittest.TestCase):
    def test_fields_lie_in_the_order_written_without_gaps(self) -> None:
        state = All(1.5, -2, True, [1.0, 2.0, 3.0], Ewma(4.0, 5.0, 6), [7.0, 8.0], Debounce(9, True))
        expected = struct.pack("<dq?3dddq2dq?", 1.5, -2, True, 1, 2, 3, 4, 5, 6, 7, 8, 9, True)
        self.assertEqual(pack(state), expected)
        self.assertEqual(unpack(All, expected), state)

    def test_nothing_is_all_zero(self) -> None:
        self.assertEqual(zero(All), All(0.0, 0, False, [0.0] * 3, Ewma(), [0.0, 0.0], Debounce()))
        self.assertEqual(set(pack(zero(All))), {0})

    def test_what_cannot_be_kept_is_named(self) -> None:
        @dataclass
        class Text:
            name: str

        @dataclass
        class Begins:
            count: int = 5

        for kind, what in ((Text, "Text.name"), (Begins, "Begins.count begins as 5"), (int, "no dataclass")):
            with self.assertRaisesRegex(TypeError, what):
                States(kind)  # type: ignore[type-var]
        state = zero(All)
        for field, value, what in (
            ("number", "x", "All.number is a number, not 'x'"),
            ("whole", 1.5, "All.whole is a whole number, not 1.5"),
            ("whole", 1 << 63, "All.whole has to fit 64 bits"),
            ("few", [1.0], "All.few has 3 numbers, not 1"),
        ):
            with self.assertRaisesRegex((TypeError, ValueError), what):
                pack(replaced(state, field, value))
        state.ewma.count = None  # type: ignore[assignment]
        with self.assertRaisesRegex(TypeError, "All.ewma.count is a whole number, not None"):
            pack(state)

    def test_a_blob_of_another_size_is_none(self) -> None:
        with self.assertRaisesRegex(ValueError, "a Count has 8 bytes, not 3"):
            unpack(Count, b"abc")

    def test_slots_of_names_are_those_of_fnv_1a(self) -> None:
        self.assertEqual([slot_of(""), slot_of("a"), slot_of("foobar")], [0x811C9DC5, 0xE40C292C, 0xBF9CF968])


def replaced(state: Any, field: str, value: Any) -> Any:
    copy = unpack(type(state), pack(state))
    setattr(copy, field, value)
    return copy


class Caching(unittest.TestCase):
    def test_loaded_once_and_stored_where_it_changed(self) -> None:
        play = Play(Counter)
        play.batch([("a", 1, {"n": 1.0}), ("b", 2, {"n": 0.0}), ("a", 3, {"n": 1.0}), ("c", 3, {"x": 1.0})])
        self.assertEqual(play.calls, ["column n", "load 2 of 0", "store 1 of 0"])
        self.assertEqual((play.blob("a"), play.blob("b")), (struct.pack("<q", 2), b""))
        play.calls.clear()
        play.batch([("a", 4, {"n": 1.0}), ("c", 4, {"n": 0.0})])
        self.assertEqual(play.calls, ["column n", "load 1 of 0", "store 1 of 0"])

    def test_what_becomes_nothing_is_removed(self) -> None:
        play = Play(Counter)
        play.batch([("a", 1, {"n": 1.0})])
        self.assertEqual(play.batch([("a", 2, {"n": 0.0})]).stored, [(0, 0, b"")])
        self.assertEqual(play.state, {})

    def test_a_fresh_instance_finds_what_the_old_one_stored(self) -> None:
        play = Play(Counter)
        for time in range(3):
            play.batch([("a", time, {"n": 1.0})])
            play.replace()
        self.assertEqual(play.blob("a"), struct.pack("<q", 3))

    def test_a_blob_of_another_size_counts_as_nothing(self) -> None:
        play = Play(Counter)
        play.register("a")
        play.state[0, 0] = b"abc"
        play.batch([("a", 1, {"n": 1.0})])
        self.assertEqual(play.blob("a"), struct.pack("<q", 1))

    def test_what_a_failed_callback_did_is_forgotten(self) -> None:
        play = Play(Counter)
        play.batch([("a", 1, {"n": 1.0})])
        with self.assertRaisesRegex(Exception, "ValueError: poison"):
            play.batch([("a", 2, {"n": 1.0}), ("a", 3, {"n": 666.0})])
        with self.assertRaisesRegex(Exception, "Count.count is a whole number, not 'many'"):
            play.batch([("a", 4, {"n": 5.0})])
        play.batch([("a", 5, {"n": 1.0})])
        self.assertEqual(play.blob("a"), struct.pack("<q", 2))


if __name__ == "__main__":
    unittest.main()
