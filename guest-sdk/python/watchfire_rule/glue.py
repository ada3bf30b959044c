"""Between the class of a rule and the contract: the rule object of an instance, and failures that keep their text."""

from __future__ import annotations

import dataclasses
import inspect
from functools import wraps
from types import ModuleType
from typing import Any, Callable, Iterable, TypeVar, get_type_hints

from . import contract, parameters
from .batch import Batch
from .callback import Callback, Instance, run
from .contract import RuleError
from .device import Device
from .helpers import SlidingWindow
from .rule import Rule, Subscription
from .state import States, layout

F = TypeVar("F", bound=Callable[..., Any])

#: Where Python's own modules lie.
_LIBRARY = str(getattr(dataclasses, "__file__", None) or "?").rpartition("/")[0] + "/"


@dataclasses.dataclass
class Manifest:
    """What a module says of itself."""

    name: str
    version: str
    description: str
    parameters: str
    state_version: int


def told(error: BaseException) -> str:
    """What the operator reads of an exception: its text, and the place in the rule where it was raised. The lines of
    the code itself would have to be read from files, and there are none."""
    try:
        text = str(error)
    except Exception:
        text = "an exception that cannot say what it is"
    if not isinstance(error, RuleError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
        place, trace = "", error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            ours = trace.tb_frame.f_globals.get("__package__") == __package__
            if not ours and not code.co_filename.startswith(_LIBRARY):
                place = f" ({code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} in {code.co_name})"
            trace = trace.tb_next
        text += place
    return text.encode("utf-8", "replace").decode()


def guarded(function: F) -> F:
    """An exception becomes the error of the callback; what is not caught would be a trap without words."""

    @wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except BaseException as error:
            raise RuleError(told(error)) from error

    return call  # type: ignore[return-value]


def rule_of(module: ModuleType) -> type[Rule]:
    """The one class of a module that is a rule and that no other there inherits from."""
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Rule)]
    own = [kind for kind in dict.fromkeys(kinds) if kind.__module__ == module.__name__]
    leaves = [kind for kind in own if not any(other is not kind and issubclass(other, kind) for other in own)]
    if len(leaves) != 1:
        names = ", ".join(kind.__name__ for kind in leaves) or "none"
        raise TypeError(
            f"{module.__name__}.py has one class that inherits Rule and that no other there inherits: {names}"
        )
    return leaves[0]


class Module:
    """A module: the exports of the contract, in plain values. Whatever fails raises RuleError with a text."""

    def __init__(self, kind: type[Rule]):
        self.kind = kind
        self.rule: Rule | None = None
        self.instance = Instance(Device)
        if not isinstance(getattr(kind, "name", None), str):
            raise TypeError(f'{kind.__name__} has no name: name = "..." is what the module is called')
        hint = get_type_hints(kind).get("parameters")
        self.parameters: type | None = hint if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None
        if kind.schema is not None:
            self.schema = kind.schema
        else:
            self.schema = parameters.schema_of(self.parameters) if self.parameters else ""

    @guarded
    def describe(self) -> Manifest:
        """The manifest."""
        kind = self.kind
        version = kind.state_version
        if version is None:
            declared = [value for base in kind.__mro__ for value in vars(base).values()]
            version = int(any(isinstance(value, (States, SlidingWindow)) for value in declared))
        description = kind.description
        if description is None:
            description = " ".join((inspect.cleandoc(kind.__doc__ or "")).partition("\n\n")[0].split())
        return Manifest(
            contract.text("the name of a rule", kind.name),
            contract.text("the version of a rule", kind.version),
            contract.text("the description of a rule", description),
            contract.text("the schema of a rule", self.schema),
            contract.whole("the state_version of a rule", version),
        )

    @guarded
    def start(self) -> Subscription:
        """Makes the rule."""
        return self._make().subscription

    @guarded
    def on_batch(self) -> None:
        """Readings."""
        rule = self._ready()
        callback = Callback(self.instance, contract.host.devices(), contract.host.rows())
        self._call(callback, lambda: rule.on_batch(Batch(callback)))

    @guarded
    def on_timers(self, due: list[tuple[int, int, int]]) -> None:
        """Timers that are due at one time, as (device, tag, at)."""
        rule = self._ready()
        callback = Callback(self.instance, [device for device, _, _ in due])

        def each() -> None:
            states = self._states(rule, callback)
            for handle, tag, at in due:
                rule.on_timer(callback.devices[handle], tag, at, states.get(handle))

        self._call(callback, each)

    @guarded
    def on_silence(self, silent: list[tuple[int, int | None]]) -> None:
        """Devices that fell silent at one time, as (device, last)."""
        rule = self._ready()
        callback = Callback(self.instance, [device for device, _ in silent])

        def each() -> None:
            states = self._states(rule, callback)
            for handle, last in silent:
                rule.on_silence(callback.devices[handle], last, states.get(handle))

        self._call(callback, each)

    @guarded
    def on_schedule(self, name: str, at: int) -> None:
        """A schedule."""
        rule = self._ready()
        self._call(Callback(self.instance, []), lambda: rule.on_schedule(name, at))

    @guarded
    def migrate(self, old_version: int, slot: int, lengths: Iterable[int], data: bytes) -> tuple[list[int], bytes]:
        """State of an older version. Nothing remains nothing."""
        blobs, at = [], 0
        for length in lengths:
            blob = bytes(data[at : at + length])
            at += length
            blobs.append(_blob_of(self.kind.migrate(old_version, slot, blob)) if blob else b"")
        return list(map(len, blobs)), b"".join(blobs)

    def _make(self) -> Rule:
        rule = self.kind()
        document = contract.host.parameters()
        rule.parameters = parameters.read(self.parameters, document) if self.parameters else parameters.plain(document)
        subscription = rule.start()
        if not isinstance(subscription, Subscription):
            raise TypeError(f"start gives a Subscription, not {subscription!r}")
        subscription.check()
        rule.subscription = subscription
        self.instance = Instance(Device)
        self.rule = rule
        return rule

    def _ready(self) -> Rule:
        return self._make() if self.rule is None else self.rule

    def _states(self, rule: Rule, callback: Callback) -> dict[int, Any]:
        return {} if rule.states is None else rule.states.given(callback.handles)

    def _call(self, callback: Callback, what: Callable[[], None]) -> None:
        # The host drops the effects of a callback that failed, so that what the rule remembers of them is wrong: it is
        # made anew before the next one.
        self.rule, rule = None, self.rule
        run(callback)
        try:
            what()
            callback.hand_over()
        finally:
            run(None)
        self.rule = rule


def _blob_of(state: Any) -> bytes:
    if state is None:
        return b""
    if isinstance(state, (bytes, bytearray)):
        return bytes(state)
    if not dataclasses.is_dataclass(state) or isinstance(state, type):
        raise TypeError(f"migrate gives an object of a dataclass or a blob, not {state!r}")
    own = layout(type(state))
    blob = own.pack(state)
    return b"" if blob == own.zeros else blob
