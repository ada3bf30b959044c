"""Parameters: the fields of a dataclass, and the JSON Schema that comes of them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal, get_args, get_origin, get_type_hints

#: What a field may be, and what it is called in the schema.
TYPES = {float: "number", int: "integer", str: "string", bool: "boolean"}

_KEY = "watchfire"


def parameter(
    default: Any = dataclasses.MISSING,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    unit: str | None = None,
    description: str | None = None,
) -> Any:
    """A field of a dataclass of parameters. Without a default a deployment has to say it."""
    said = {"minimum": minimum, "maximum": maximum, "unit": unit, "description": description}
    metadata = {_KEY: {name: value for name, value in said.items() if value is not None}}
    if isinstance(default, list):
        # A default that may change is shared by all objects: dataclasses refuse it.
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata, kw_only=True)
    return dataclasses.field(default=default, metadata=metadata, kw_only=True)


def schema_of(kind: type) -> str:
    """The JSON Schema of a dataclass of parameters."""
    hints = get_type_hints(kind)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for field in dataclasses.fields(kind):
        where = f"{kind.__name__}.{field.name}"
        entry = _type_of(where, hints[field.name])
        default = _default_of(field)
        said = field.metadata.get(_KEY, {})
        if default is dataclasses.MISSING:
            required.append(field.name)
        else:
            _convert(where, hints[field.name], default)
            entry["default"] = _plain(default)
        for name in ("minimum", "maximum", "unit", "description"):
            if name in said:
                entry[name] = _plain(said[name])
        if "enum" in entry:
            entry["enum"] = entry.pop("enum")  # last, as in all schemas of rules
        properties[field.name] = entry
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    schema["additionalProperties"] = False
    return json.dumps(schema, ensure_ascii=False)


def read(kind: type, document: str) -> Any:
    """The object of a dataclass of parameters that a JSON document stands for."""
    given = json.loads(document)
    hints = get_type_hints(kind)
    values = {}
    for field in dataclasses.fields(kind):
        if field.name in given:
            values[field.name] = _convert(field.name, hints[field.name], given[field.name])
    try:
        return kind(**values)
    except TypeError as error:
        raise TypeError(f"parameters: {error}") from None


def _default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _plain(value: Any) -> Any:
    """A number as people write it: 80 and not 80.0."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value)
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value


def _type_of(where: str, hint: Any) -> dict[str, Any]:
    if hint in TYPES:
        return {"type": TYPES[hint]}
    if get_origin(hint) is Literal and all(isinstance(choice, str) for choice in get_args(hint)):
        return {"type": "string", "enum": list(get_args(hint))}
    if get_origin(hint) is list and get_args(hint) in ((str,), (float,)):
        return {"type": "array", "items": {"type": TYPES[get_args(hint)[0]]}}
    raise TypeError(
        f"{where} is a {hint!r}: a parameter is a float, int, str, bool, Literal of texts, list[str] or list[float];"
        " for another, give the schema of all as text, in `schema` of the rule"
    )


def _convert(where: str, hint: Any, value: Any) -> Any:
    """A value of JSON as the type of its field. 80 is a float too, and 80.0 is an int to a JSON Schema."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and number:
        return float(value)
    if hint is int and number and value == int(value):
        return int(value)
    if hint in (str, bool) and isinstance(value, hint):
        return value
    if get_origin(hint) is Literal and value in get_args(hint):
        return value
    if get_origin(hint) is list and isinstance(value, list):
        return [_convert(where, get_args(hint)[0], entry) for entry in value]
    raise TypeError(f"{where}: {value!r} is no {getattr(hint, '__name__', hint)}")


def plain(document: str) -> dict[str, Any]:
    """The parameters of a rule without a dataclass for them."""
    given: dict[str, Any] = json.loads(document)
    return given
