"""The hours of a week: read from text, and made into schedules. What a local time is, and when clocks change, is known to
the host alone, so the schedules say to the rule whether it is within the hours."""

DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

#: Quarters of an hour: what hours begin and end at.
QUARTERS = 96


class Week:
    """Which quarters of an hour of a week are within the hours."""

    def __init__(self, texts: list[str]):
        self.within = [[False] * QUARTERS for _ in DAYS]
        for text in texts:
            try:
                self._add(text)
            except ValueError as error:
                raise ValueError(f"hours are written as 'mon-fri 06:00-22:00', not as {text!r}: {error}") from None

    def _add(self, text: str) -> None:
        days, _, span = text.strip().lower().partition(" ")
        begin, _, end = span.strip().partition("-")
        first, last = _quarter(begin), _quarter(end)
        if first == last:
            raise ValueError("they begin when they end")
        for day in _days(days):
            # Over midnight: the rest is of the day behind it.
            for quarter in range(first, last if last > first else last + QUARTERS):
                self.within[(day + quarter // QUARTERS) % 7][quarter % QUARTERS] = True

    def schedules(self, within: bool) -> list[str]:
        """Cron lines that come at every quarter that is within the hours, or at every other one."""
        # Days with the same hours share a line, and hours with the same minutes.
        lines: dict[tuple[str, str], list[int]] = {}
        for day, quarters in enumerate(self.within):
            hours: dict[str, list[int]] = {}
            for hour in range(24):
                minutes = [minute for minute in (0, 15, 30, 45) if quarters[hour * 4 + minute // 15] is within]
                if minutes:
                    hours.setdefault(_list(minutes), []).append(hour)
            for minutes, some in hours.items():
                lines.setdefault((minutes, _list(some)), []).append(day)
        return [f"{minutes} {hours} * * {_list(days)}" for (minutes, hours), days in lines.items()]


def _list(numbers: list[int]) -> str:
    return ",".join(map(str, numbers))


def _quarter(text: str) -> int:
    hour, colon, minute = text.strip().partition(":")
    if not colon or not (hour.isdecimal() and minute.isdecimal() and len(minute) == 2):
        raise ValueError(f"{text.strip()!r} is no time of day")
    minutes = int(hour) * 60 + int(minute)
    if minutes > 24 * 60 or int(minute) > 59:
        raise ValueError(f"{text.strip()!r} is no time of day")
    if minutes % 15:
        raise ValueError(f"{text.strip()!r} is no quarter of an hour")
    return minutes // 15


def _days(text: str) -> list[int]:
    days: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        begin = _day(first)
        # From Saturday to Monday is over Sunday.
        count = (_day(last) - begin) % 7 if dash else 0
        days.extend((begin + more) % 7 for more in range(count + 1))
    return days


def _day(text: str) -> int:
    if text not in DAYS:
        raise ValueError(f"{text!r} is no day: {', '.join(DAYS)}")
    return DAYS.index(text)
