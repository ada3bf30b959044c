"""What rules often need. Each is a dataclass: a field of a state, changed in place, stored with it.

The order of operations is part of what they promise: the same readings give the same bits in every language.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import sqrt

from .contract import NAN
from .device import Device
from .state import States

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def seconds(value: float) -> int:
    """Seconds as microseconds, to the nearest."""
    return round(value * SECOND)


@dataclass(slots=True)
class Ewma:
    """Exponentially weighted mean and variance: Finch, "Incremental calculation of weighted mean and variance",
    2009, section 9."""

    mean: float = 0.0
    variance: float = 0.0
    count: int = 0

    def update(self, x: float, alpha: float) -> None:
        """Takes a value in; alpha is its weight."""
        if self.count == 0:
            self.mean = x
            self.variance = 0.0
        else:
            delta = x - self.mean
            step = alpha * delta
            self.mean += step
            self.variance = (1 - alpha) * (self.variance + step * delta)
        self.count += 1

    def deviation(self, x: float) -> float:
        """How many standard deviations a value is away from the mean; 0 while there is no variance."""
        return 0.0 if self.variance == 0 else (x - self.mean) / sqrt(self.variance)


@dataclass(slots=True)
class RateOfChange:
    """How fast a value changes from reading to reading."""

    value: float = 0.0
    time: int = 0
    known: bool = False

    def update(self, time: int, x: float) -> float | None:
        """Units per second since the reading before; None for the first, and for a late or repeated one, which is not
        what the next is compared with either."""
        if self.known and time <= self.time:
            return None
        rate = (x - self.value) / ((time - self.time) / 1e6) if self.known else None
        self.value, self.time, self.known = x, time, True
        return rate


class Edge(Enum):
    """What an update of a Hysteresis did."""

    RISING = "rising"
    FALLING = "falling"
    UNCHANGED = "unchanged"


@dataclass(slots=True)
class Hysteresis:
    """A condition with two limits: one to begin, another to end."""

    active: bool = False

    def update(self, x: float, on: float, off: float) -> Edge:
        """With on >= off it is for high values: begins above `on`, ends below `off`. With on < off for low ones."""
        if self.active:
            if x < off if on >= off else x > off:
                self.active = False
                return Edge.FALLING
        elif x > on if on >= off else x < on:
            self.active = True
            return Edge.RISING
        return Edge.UNCHANGED


@dataclass(slots=True)
class Debounce:
    """A condition that has to last."""

    since: int = 0
    pending: bool = False

    def update(self, condition: bool, time: int, hold: int) -> bool:
        """Whether the condition has stood for `hold` microseconds, as of this reading."""
        if not condition:
            self.pending = False
            return False
        if not self.pending:
            self.pending = True
            self.since = time
        return time - self.since >= hold


@dataclass(slots=True, frozen=True)
class Window:
    """What is known of the values of a span of time. Without any (count 0) sum is 0 and the others are NaN."""

    start: int
    end: int
    count: int
    sum: float
    min: float
    max: float

    @property
    def mean(self) -> float:
        """Their mean."""
        return self.sum / self.count if self.count else NAN


@dataclass(slots=True)
class TumblingWindow:
    """Windows of a span, one after the other, beginning at multiples of it."""

    index: int = 0
    count: int = 0
    sum: float = 0.0
    min: float = 0.0
    max: float = 0.0

    def add(self, time: int, x: float, span: int) -> Window | None:
        """Takes a value in; gives the window before, where this value is the first of a later one. A value of an
        earlier window is too late, and ignored."""
        index = time // span
        closed = None
        if self.count and index <= self.index:
            if index == self.index:
                _take(self, x)
            return None
        if self.count:
            start = self.index * span
            closed = Window(start, start + span, self.count, self.sum, self.min, self.max)
        _open(self, index, x)
        return closed


@dataclass(slots=True)
class Piece:
    """A piece of a SlidingWindow, as it is kept."""

    index: int = 0
    count: int = 0
    sum: float = 0.0
    min: float = 0.0
    max: float = 0.0


def _open(piece: TumblingWindow | Piece, index: int, x: float) -> None:
    piece.index = index
    piece.count = 1
    piece.sum = piece.min = piece.max = x


def _take(piece: TumblingWindow | Piece, x: float) -> None:
    piece.count += 1
    piece.sum += x
    if x < piece.min:
        piece.min = x
    if x > piece.max:
        piece.max = x


class SlidingWindow:
    """The last `span` microseconds of values, in pieces. Each piece has a slot of its own, so that a value rewrites
    one piece and not the window. Declared as an attribute of the rule, not as a field of a state."""

    def __init__(self, first_slot: int, pieces: int, span: int):
        if pieces < 1 or span < pieces:
            raise ValueError(f"a window of {span} microseconds has no {pieces} pieces")
        self.length = span // pieces
        self.pieces = [States(Piece, (first_slot + i) % (1 << 32)) for i in range(pieces)]

    def add(self, device: Device, time: int, x: float) -> None:
        """Takes a value in. One that is older than the whole window is too late, and ignored."""
        index = time // self.length
        piece = self.pieces[index % len(self.pieces)][device]
        if piece.count and index <= piece.index:
            if index == piece.index:
                _take(piece, x)
        else:
            _open(piece, index, x)

    def over(self, device: Device, time: int) -> Window:
        """What is in the pieces up to that of a time."""
        last = time // self.length
        first = last - len(self.pieces) + 1
        count, total, least, most = 0, 0.0, NAN, NAN
        for index in range(first, last + 1):
            piece = self.pieces[index % len(self.pieces)].peek(device)
            if piece.count and piece.index == index:
                # Also what a NaN is compared with is then the first value.
                least = piece.min if not count or piece.min < least else least
                most = piece.max if not count or piece.max > most else most
                count += piece.count
                total += piece.sum
        return Window(first * self.length, (last + 1) * self.length, count, total, least, most)
