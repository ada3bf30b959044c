"""The log of the rule: what `watchfire rule tail` shows."""

from __future__ import annotations

from . import contract
from .contract import Level


def write(level: Level, message: object) -> None:
    """A line at a level. A text that is none in UTF-8 is shown as near as it can be."""
    contract.host.log(level, str(message).encode("utf-8", "replace").decode())


def debug(message: object) -> None:
    """For whoever looks for a mistake."""
    write("debug", message)


def info(message: object) -> None:
    """Worth knowing."""
    write("info", message)


def warn(message: object) -> None:
    """Something is not as it should be, and the rule goes on."""
    write("warn", message)


def error(message: object) -> None:
    """Something is wrong."""
    write("error", message)
