"""State of devices: dataclasses of fixed size, cached in the instance, loaded once for each device that is met,
and written back once a callback, only what changed."""

from __future__ import annotations

import dataclasses
from struct import Struct, error as StructError
from typing import TYPE_CHECKING, Any, Callable, Generic, Iterable, Iterator, TypeVar, get_type_hints

from . import contract
from .callback import running

if TYPE_CHECKING:
    from .batch import Batch
    from .device import Device

S = TypeVar("S")

#: How many devices are loaded at once where all are asked for.
AT_ONCE = 1024


def slot_of(name: str) -> int:
    """The slot for what a name stands for: FNV-1a (32 bit) of its UTF-8. A rule that keeps state by metric keeps
    each metric's in the slot of its name, so that parameters may come in another order tomorrow."""
    hash = 0x811C9DC5
    for byte in name.encode():
        hash = (hash ^ byte) * 0x01000193 & 0xFFFFFFFF
    return hash


class Array:
    """`Array(n)` in an annotation of a state: a list of exactly n numbers, at first all zero. A type checker wants
    it to be written `Annotated[list[float], Array(n)]`, which is the same."""

    def __init__(self, length: int):
        if length < 1:
            raise ValueError(f"an array has at least one number, not {length}")
        self.length = length

    def __call__(self) -> list[float]:
        # A type of an annotation has to be something that can be called; it makes what it stands for.
        return [0.0] * self.length

    def __repr__(self) -> str:
        return f"Array({self.length})"


class Layout(Generic[S]):
    """How a dataclass lies in a blob: its fields in the order written, little-endian, without gaps."""

    def __init__(self, kind: type[S]):
        names: dict[str, Any] = {}
        walked = _Walk(names)
        make = walked.walk(kind, kind.__name__, "s")
        self.kind = kind
        self.fields = walked.fields
        self._struct = Struct("<" + "".join(walked.formats))
        self.size = self._struct.size
        #: The blob of "nothing".
        self.zeros = bytes(self.size)
        # One expression for all fields, nested ones too: a loop over them would cost more than they do.
        names["pack"] = self._struct.pack
        self._pack: Callable[[S], bytes] = eval(f"lambda s: pack({', '.join(walked.reads)})", names)
        self._make: Callable[[tuple[Any, ...]], S] = eval(f"lambda v: {make}", names)

    def zero(self) -> S:
        """The state of a device of which nothing is kept."""
        return self.unpack(self.zeros)

    def unpack(self, blob: bytes) -> S:
        """What a blob of exactly this size says."""
        return self._make(self._struct.unpack(blob))

    def pack(self, state: S) -> bytes:
        """The blob; or an error that names the field which cannot be kept."""
        try:
            return self._pack(state)
        except (StructError, TypeError, AttributeError, OverflowError):
            self._explain(state)
            raise

    def pack_all(self, states: Iterable[S]) -> list[bytes]:
        """The blob of each."""
        states = list(states)
        try:
            return list(map(self._pack, states))
        except (StructError, TypeError, AttributeError, OverflowError):
            for state in states:
                self._explain(state)
            raise

    def _explain(self, state: Any) -> None:
        """Raises where a field has a value that does not fit."""
        for path, kind in self.fields:
            value = state
            for name in path.split(".")[1:]:
                value = getattr(value, name)
            where = f"{self.kind.__name__}{path[1:]}"
            if kind is int:
                contract.whole(where, value)
            elif kind is float and not isinstance(value, (int, float)):
                raise TypeError(f"{where} is a number, not {value!r}")
            elif isinstance(kind, Array):
                if len(value) != kind.length:
                    raise ValueError(f"{where} has {kind.length} numbers, not {len(value)}")
                contract.column_of(where, value)


class _Walk:
    """Goes through the fields of a dataclass and of those in it."""

    def __init__(self, names: dict[str, Any]):
        self.names = names
        self.formats: list[str] = []
        self.reads: list[str] = []
        self.fields: list[tuple[str, Any]] = []
        self.count = 0

    def walk(self, kind: Any, where: str, path: str) -> str:
        """Takes a dataclass in; gives the expression that makes it of the values `v`."""
        if not dataclasses.is_dataclass(kind) or not isinstance(kind, type):
            raise TypeError(f"{where} is kept as state and no dataclass: {kind!r}")
        hints = get_type_hints(kind, include_extras=True)
        arguments = []
        for field in dataclasses.fields(kind):
            here = f"{where}.{field.name}"
            if not field.init:
                raise TypeError(f"{here}: a field of a state is one of its arguments (init=False)")
            hint = hints[field.name]
            for extra in getattr(hint, "__metadata__", ()):
                hint = extra if isinstance(extra, Array) else hint
            expression = self._field(hint, here, f"{path}.{field.name}")
            self._check_default(field, here)
            arguments.append(f"{field.name}={expression}")
        if not arguments:
            raise TypeError(f"{where} is kept as state and has no fields")
        name = f"k{len(self.names)}"
        self.names[name] = kind
        return f"{name}({', '.join(arguments)})"

    def _field(self, hint: Any, where: str, path: str) -> str:
        at = self.count
        if hint in (float, int, bool):
            self.formats.append({float: "d", int: "q", bool: "?"}[hint])
            self.reads.append(path)
            self.fields.append((path, hint))
            self.count += 1
            return f"v[{at}]"
        if isinstance(hint, Array):
            self.formats.append(f"{hint.length}d")
            self.reads.append(f"*{path}")
            self.fields.append((path, hint))
            self.count += hint.length
            return f"list(v[{at}:{self.count}])"
        if dataclasses.is_dataclass(hint):
            return self.walk(hint, where, path)
        raise TypeError(f"{where} is a {hint!r}: a state is of float, int, bool, Array(n) and dataclasses of them")

    @staticmethod
    def _check_default(field: dataclasses.Field[Any], where: str) -> None:
        if field.default is not dataclasses.MISSING and field.default != 0:
            raise TypeError(f"{where} begins as {field.default!r}: a state begins as nothing, all zero")


_layouts: dict[type, Layout[Any]] = {}


def layout(kind: type[S]) -> Layout[S]:
    """The layout of a dataclass, made once."""
    if kind not in _layouts:
        _layouts[kind] = Layout(kind)
    return _layouts[kind]


def zero(kind: type[S]) -> S:
    """A state of which nothing is kept: all zero."""
    return layout(kind).zero()


def pack(state: Any) -> bytes:
    """A state as its blob: for migrations and tests."""
    return layout(type(state)).pack(state)


def unpack(kind: type[S], blob: bytes) -> S:
    """What a blob says; one of another size is an error."""
    if len(blob) != layout(kind).size:
        raise ValueError(f"a {kind.__name__} has {layout(kind).size} bytes, not {len(blob)}")
    return layout(kind).unpack(blob)


class States(Generic[S]):
    """What a rule keeps for each device in one slot: objects of a dataclass, to be changed in place.

    Declared as an attribute of the rule. The one named `states` is what callbacks get as `state`.
    """

    def __init__(self, kind: type[S], slot: int = 0):
        if not 0 <= slot < 1 << 32:
            raise ValueError(f"a slot is a number of 32 bits, not {slot}")
        self.slot = slot
        self.layout = layout(kind)
        self._callback: Any = None
        self._instance: Any = None
        #: By handle. What is here was loaded, whether something is stored or not.
        self._objects: dict[int, S] = {}
        #: The blob of each as the host has it.
        self._blobs: dict[int, bytes] = {}
        #: Whose object was given out in this callback, so that it may have changed.
        self._given: set[int] = set()

    def __getitem__(self, device: Device) -> S:
        """The state of a device. The first in a callback that is not cached loads for all devices of the callback."""
        state = self.peek(device)
        self._given.add(device.handle)
        return state

    def peek(self, device: Device) -> S:
        """The same, only to be looked at: a change may not be stored."""
        callback = running()
        if self._callback is not callback:
            self._begin()
        handle = device.handle
        state = self._objects.get(handle)
        if state is None:
            self._load({handle, *callback.handles})
            state = self._objects[handle]
        return state

    def rows(self, batch: Batch) -> list[S]:
        """The state of the device of each row: the same object for rows of the same device."""
        return list(map(self.given(batch.handles).__getitem__, batch.handles))

    def selected(self) -> Iterator[tuple[Device, S]]:
        """Every device that the rule selects, with its state."""
        after = None
        while handles := contract.host.selected(after, AT_ONCE):
            after = handles[-1]
            objects = self.given(handles)
            device = running().devices
            for handle in handles:
                yield device[handle], objects[handle]

    def given(self, handles: Iterable[int]) -> dict[int, S]:
        """The objects by handle, with those of these devices among them: loaded, and saved at the end."""
        if self._callback is not running():
            self._begin()
        handles = set(handles)
        # Of a dict: `- keys()` would go through all that is cached, not through those few.
        if missing := handles.difference(self._objects):
            self._load(missing)
        self._given |= handles
        return self._objects

    def save(self) -> None:
        """Hands over what changed. Done at the end of a callback."""
        handles = sorted(self._given)
        self._given.clear()
        blobs, zeros = self._blobs, self.layout.zeros
        packed = self.layout.pack_all(map(self._objects.__getitem__, handles))
        changed = [(handle, blob) for handle, blob in zip(handles, packed) if blobs[handle] != blob]
        if not changed:
            return
        blobs.update(changed)
        parts = [b"" if blob == zeros else blob for _, blob in changed]
        contract.host.store(self.slot, [handle for handle, _ in changed], list(map(len, parts)), b"".join(parts))

    def _begin(self) -> None:
        callback = running()
        if self._instance is not callback.instance:
            # Another life of the rule: after a callback that failed, what is here may never have been stored.
            self._instance = callback.instance
            self._objects.clear()
            self._blobs.clear()
        self._given.clear()
        self._callback = callback
        callback.tables.append(self)

    def _load(self, handles: Iterable[int]) -> None:
        missing = sorted(handle for handle in handles if handle not in self._objects)
        lengths, data = contract.host.load(self.slot, missing)
        size, zeros, unpack = self.layout.size, self.layout.zeros, self.layout.unpack
        at = 0
        for handle, length in zip(missing, lengths):
            # A blob of another size is of another layout, which migration should have taken care of.
            blob = bytes(data[at : at + size]) if length == size else zeros
            at += length
            self._objects[handle] = unpack(blob)
            self._blobs[handle] = blob
