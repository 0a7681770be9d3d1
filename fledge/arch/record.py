"""Frozen dataclasses as JSON and as dotted settings (`arch.depth=4`), both ways and checked by their annotations."""

import difflib
import json
import re
import types
import typing
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, Literal, Union, get_args, get_origin


def to_json(record) -> Any:
    """Plain JSON values; where a field may hold one of several dataclasses, `kind` says which."""
    if is_dataclass(record):
        hints = typing.get_type_hints(type(record))
        return {f.name: _tagged(getattr(record, f.name), hints[f.name]) for f in fields(record)}
    if isinstance(record, (tuple, list)):
        return [to_json(item) for item in record]
    if isinstance(record, dict):
        return {key: to_json(value) for key, value in record.items()}
    return record


def _tagged(value, hint) -> Any:
    if is_dataclass(value) and len(_records(hint)) > 1:
        return {"kind": type(value).__name__, **to_json(value)}
    return to_json(value)


def from_json(hint, data, where: str = "") -> Any:
    """The value of type `hint` that `to_json` wrote as `data`.

    Raises `ValueError` naming the dotted place, what stands there and what is needed; unknown names get the nearest one.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _from_union(hint, data, where)
    if is_dataclass(hint) and isinstance(hint, type):
        return _from_record(hint, data, where)
    if origin is tuple:
        if isinstance(data, dict) and get_args(arguments[0])[:1] == (str,):
            data = list(data.items())  # pairs, as people write them
        if not isinstance(data, (list, tuple)):
            raise ValueError(f"{where} is {data!r}, but a list is needed")
        if len(arguments) == 2 and arguments[1] is ...:
            return tuple(from_json(arguments[0], item, f"{where}.{i}") for i, item in enumerate(data))
        if len(data) != len(arguments):
            raise ValueError(f"{where} has {len(data)} items, but {len(arguments)} are needed")
        return tuple(from_json(a, item, f"{where}.{i}") for i, (a, item) in enumerate(zip(arguments, data, strict=True)))
    if origin is dict:
        return {key: from_json(arguments[1], value, f"{where}.{key}") for key, value in data.items()}
    if origin is Literal:
        if data not in arguments:
            raise ValueError(
                f"{where} is {data!r}, but it is one of {', '.join(map(str, arguments))}{did_you_mean(str(data), map(str, arguments))}"
            )
        return data
    if hint is Any:
        return data
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if not isinstance(data, hint) or (hint is int and isinstance(data, bool)):
        raise ValueError(f"{where} is {data!r}, but a value of type {hint.__name__} is needed")
    return data


def _from_union(hint, data, where: str) -> Any:
    members = get_args(hint)
    if data is None:
        if types.NoneType in members:
            return None
        raise ValueError(f"{where} is none, but it needs a value")
    records = _records(hint)
    if records and isinstance(data, dict):
        kinds = {member.__name__: member for member in records}
        kind = data.get("kind", records[0].__name__)
        if kind not in kinds:
            raise ValueError(f"{where}.kind is {kind!r}, but it is one of {', '.join(kinds)}{did_you_mean(str(kind), kinds)}")
        return _from_record(kinds[kind], {key: value for key, value in data.items() if key != "kind"}, where)
    complaints = []
    for member in members:
        if member is not types.NoneType:
            try:
                return from_json(member, data, where)
            except ValueError as complaint:
                complaints.append(str(complaint))
    raise ValueError(complaints[-1])


def _from_record(kind: type, data, where: str) -> Any:
    if not isinstance(data, dict):
        raise ValueError(f"{where} is {data!r}, but the fields of a {kind.__name__} are needed")
    hints, known = typing.get_type_hints(kind), {f.name: f for f in fields(kind)}
    for name in data:
        if name not in known:
            raise ValueError(f"{_join(where, name)} is unknown{did_you_mean(name, known)}")
    for name, f in known.items():
        if name not in data and f.default is MISSING and f.default_factory is MISSING:
            raise ValueError(f"{_join(where, name)} is missing")
    values = {name: from_json(hints[name], value, _join(where, name)) for name, value in data.items()}
    try:
        return kind(**values)
    except ValueError as complaint:
        raise ValueError(f"{where or kind.__name__}: {complaint}") from None


def with_setting(record, path: str, text: str) -> Any:
    """`record` with the field at the dotted `path` (list items by number) set to `text`, read as JSON and else as a string.

    `optimizer.kind=Muon` puts another of the types that may stand there, with its own defaults.

    >>> with_setting(Run(...), "optimizer.rate", "1e-3")
    """
    return _set(record, path.split("."), parse(text), "")


def _set(record, names: list[str], value, where: str) -> Any:
    name, rest = names[0], names[1:]
    place = _join(where, name)
    if isinstance(record, tuple):
        if not name.isdigit() or int(name) >= len(record):
            raise ValueError(f"{place} is unknown: {where} has items 0 to {len(record) - 1}")
        changed = list(record)
        if not rest:
            raise ValueError(f"{place} is a whole {type(record[0]).__name__}: set one of its fields")
        changed[int(name)] = _set(record[int(name)], rest, value, place)
        return tuple(changed)
    if not is_dataclass(record):
        raise ValueError(f"{place} is unknown: {where} is a single value")
    known = [f.name for f in fields(record)]
    if name not in known:
        raise ValueError(f"{place} is unknown{did_you_mean(name, known)}")
    if rest and getattr(record, name) is None:
        raise ValueError(f"{place} is none here, so {_join(place, rest[0])} cannot be set: switch it on first, with {place}={{}}")
    hint = typing.get_type_hints(type(record))[name]
    if rest == ["kind"]:
        new = from_json(hint, {"kind": value}, place)
    else:
        new = _set(getattr(record, name), rest, value, place) if rest else from_json(hint, value, place)
    try:
        return replace(record, **{name: new})
    except ValueError as complaint:
        raise ValueError(f"{place}: {complaint}") from None


def differences(old, new, where: str = "") -> list[str]:
    """The dotted settings in which two values of `to_json` differ, as `place: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        return [line for name in names for line in differences(old.get(name), new.get(name), _join(where, name))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [line for i, (a, b) in enumerate(zip(old, new, strict=True)) for line in differences(a, b, f"{where}.{i}")]
    return [] if old == new else [f"{where}: {json.dumps(old)} -> {json.dumps(new)}"]


def did_you_mean(name: str, known) -> str:
    """A clause for an error: the nearest known name, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f": did you mean {near[0]}?" if near else f": known are {', '.join(known)}"


def _records(hint) -> list[type]:
    return [member for member in get_args(hint) if is_dataclass(member)]


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def parse(text: str) -> Any:
    """A setting as typed: JSON, true/false/none in any case, numbers such as `.5` too, else the text itself."""
    if text.lower() in ("true", "false", "none", "null"):
        return {"true": True, "false": False}.get(text.lower())
    text = re.sub(r"^([+-]?)\.(?=\d)", r"\g<1>0.", text)
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
