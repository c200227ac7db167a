"""What the entries of a run's files must be, since people edit, cut and copy them: checked where they are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UserError
from ..space.model_yaml import load_yaml

T = TypeVar("T")

# A shape is a type, a tuple of alternatives, `[shape]` for a list, `{str: shape}` for a mapping of any names, or a
# mapping of names to shapes, where a name that ends in "?" may be absent. Further names are of later versions.
Shape = Any
NUMBERS: Shape = {str: float}
MOST = 1e300  # so that what is worked out from it is finite


def check_shape(value: Any, shape: Shape, name: str = "it") -> None:
    """Check a value that was read from JSON or YAML.

    Raises:
        ValueError: it is of another shape (says which part is, and what it must be).
    """
    if isinstance(shape, tuple):
        if not any(_fits(value, one) for one in shape):
            raise ValueError(f"{name} must be {' or '.join(map(_said, shape))}, got {value!r:.200}")
    elif isinstance(shape, list):
        _check_type(value, list, name)
        for i, entry in enumerate(value):
            check_shape(entry, shape[0], f"{name}[{i}]")
    elif isinstance(shape, Mapping):
        _check_type(value, dict, name)
        if absent := [key for key in shape if key is not str and not key.endswith("?") and key not in value]:
            raise ValueError(f"{name} must have {', '.join(absent)}")
        for key, entry in value.items():
            _check_type(key, str, f"a key of {name}")
            wanted = shape.get(key, shape.get(f"{key}?", shape.get(str)))
            if wanted is not None:
                check_shape(entry, wanted, key if name == "it" else f"{name}.{key}")
    else:
        _check_type(value, shape, name)


def read_json(path: Path, shape: Shape, make: Callable[[Any], T]) -> T:
    """Return what `make` makes of a JSON file.

    Raises:
        UserError: the file can't be read, or is of another shape.
    """
    return read_shape(path, lambda: json.loads(path.read_text(encoding="utf-8")), shape, make)


def read_yaml(path: Path, shape: Shape, make: Callable[[Any], T]) -> T:
    """Return what `make` makes of a YAML file.

    Raises:
        UserError: the file can't be read, or is of another shape.
    """
    return read_shape(path, lambda: load_yaml(path)[0], shape, make)


def read_shape(path: Path, read: Callable[[], Any], shape: Shape, make: Callable[[Any], T]) -> T:
    """Return what `make` makes of what `read` reads, errors naming the file."""
    try:
        found = read()
        check_shape(found, shape)
        return make(found)
    except UserError:
        raise
    except OSError as e:
        raise UserError(f"the file can't be read ({e.strerror or e})", file=path) from None
    except (ValueError, TypeError, RecursionError) as e:
        raise UserError(f"the file can't be read ({e})", accepted="the file as it was written", file=path) from None


def known(kind: type[T], entries: Mapping[str, Any]) -> T:
    """Return an object of a dataclass with those of the entries that it knows."""
    return kind(**{name: entries[name] for name in kind.__dataclass_fields__ if name in entries})  # type: ignore


def _fits(value: Any, shape: Shape) -> bool:
    try:
        check_shape(value, shape)
    except ValueError:
        return False
    return True


def _check_type(value: Any, kind: Any, name: str) -> None:
    """Raise a ValueError unless a value is of a type; a whole number is a number, true and infinity are none."""
    if kind is object or (kind is None and value is None):
        return
    kinds = (int, float) if kind is float else (kind or type(None),)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST
    if not isinstance(value, kinds) or (kind in (int, float) and not is_number):
        raise ValueError(f"{name} must be {_said(kind)}, got {value!r:.200}")


def _said(shape: Shape) -> str:
    if isinstance(shape, list | dict):
        return "a list" if isinstance(shape, list) else "a mapping"
    words = {None: "null", int: "a whole number", float: "a number", str: "a text", dict: "a mapping", list: "a list"}
    return words.get(shape, str(shape))
