"""Makes readings.ndjson: four machines of a bottling plant from Friday, 27 March 2026, to Monday noon. What goes wrong is
written out below, so that what the rules find can be known beforehand.

    python3 record.py > readings.ndjson
"""

import json
from datetime import datetime, timedelta, timezone

START = datetime(2026, 3, 27, tzinfo=timezone.utc)
END = datetime(2026, 3, 30, 12, tzinfo=timezone.utc)
MINUTE = timedelta(minutes=1)


def at(day: int, hour: int, minute: int = 0) -> datetime:
    """A time of March 2026, UTC."""
    return datetime(2026, 3, day, hour, minute, tzinfo=timezone.utc)


# The shift is from 06:00 to 22:00 in Paris: UTC+1, and from Sunday on UTC+2.
SHIFTS = [(at(27, 5, 10), at(27, 20, 50)), (at(30, 4, 10), at(30, 20))]

# Somebody forgets the packer on Friday night, and tries the compressor on Saturday morning.
FORGOTTEN = (at(27, 20, 50), at(27, 22, 40))
TRIED = (at(28, 9), at(28, 10, 30))

# The filler runs faster than it may on Friday from 13:00 to 14:00, and restarts at 15:30: its counter begins at 0.
TOO_FAST = (at(27, 13), at(27, 14))
RESTART = at(27, 15, 30)

# The bottle eye of the labeller is dirty on Friday from 09:00 to 10:20, and the packer is short of oil from 11:00 to 18:00.
DIRTY = (at(27, 9), at(27, 10, 20))
SHORT_OF_OIL = (at(27, 11), at(27, 18))


def within(time: datetime, span: tuple[datetime, datetime]) -> bool:
    return span[0] <= time < span[1]


class Noise:
    """Numbers that look like chance, the same on every machine (Numerical Recipes' linear congruential generator)."""

    def __init__(self, seed: int):
        self.state = seed

    def __call__(self, width: float) -> float:
        self.state = (self.state * 1664525 + 1013904223) % 2**32
        return (self.state / 2**31 - 1) * width


def filler(noise: Noise):
    bottles, motor = 61_000, 22.0
    time = START
    while time < END:
        running = any(within(time, shift) for shift in SHIFTS)
        if running:
            hourly = 14_400 if within(time, TOO_FAST) else 12_000
            bottles += round(hourly / 6 + noise(30))
        if time == RESTART:
            bottles = round(300 + noise(30))
        # 16 bits.
        bottles %= 65_536
        motor += ((66 if running else 21) - motor) * 0.3
        yield time, "filler-1", {"running": running, "bottles": bottles, "motor_c": round(motor + noise(0.8), 1)}
        time += 10 * MINUTE


def labeller(noise: Noise):
    time, dirty = START, False
    while time < END:
        running = any(within(time, shift) for shift in SHIFTS)
        # A dirty eye sees a bottle where there is none, and none where there is one.
        dirty = not dirty if within(time, DIRTY) else False
        yield time, "labeller-1", {"running": running, "jam": dirty, "labels": round(max(0.0, 1000 * running + noise(20) * running))}
        time += 5 * MINUTE


def packer(noise: Noise):
    motor, time = 22.0, START
    while time < END:
        running = any(within(time, shift) for shift in SHIFTS) or within(time, FORGOTTEN)
        usual = 88 if within(time, SHORT_OF_OIL) else 64
        motor += ((usual if running else 21) - motor) * 0.3
        yield time, "packer-1", {"running": running, "motor_c": round(motor + noise(0.8), 1)}
        time += 10 * MINUTE


def compressor(noise: Noise):
    time = START
    while time < END:
        running = any(within(time, shift) for shift in SHIFTS) or within(time, TRIED)
        yield time, "compressor-1", {"running": running, "bar": round((7.2 if running else 0.4) + noise(0.1), 2)}
        time += 10 * MINUTE


def main() -> None:
    readings = [*filler(Noise(1)), *labeller(Noise(2)), *packer(Noise(3)), *compressor(Noise(4))]
    for time, device, metrics in sorted(readings, key=lambda reading: reading[:2]):
        reading = {"device": device, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ"), "metrics": metrics}
        print(json.dumps(reading, separators=(",", ":")))


main()
