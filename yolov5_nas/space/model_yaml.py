"""Read a YAML; check a model YAML's keys and the shape of its lines. Errors name the file and the line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from .arithmetic import is_number

MOST = 1000  # repeats, anchors or kernel size: more would exhaust the memory, or hang, before any error is shown


def load_yaml(path: Path) -> tuple[Any, yaml.Node | None]:
    """A YAML file's content and its node tree (which knows line numbers).

    Raises:
        UserError: the file is missing or unreadable, or is no YAML (with the line).
    """
    try:
        text = path.read_text(encoding="utf-8", errors="ignore")
    except OSError as e:
        raise UserError(f"the file can't be read ({e.strerror or e})", file=path) from None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        return (loader.construct_document(node) if node else None), node
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        problem = " ".join(str(getattr(e, "problem", None) or e).split())
        raise UserError(f"invalid YAML: {problem}", file=path, line=mark.line + 1 if mark else None) from None
    except (ValueError, RecursionError) as e:  # 2026-13-45 is taken for a date
        raise UserError(f"invalid YAML: {e}", file=path) from None


def top_level_lines(node: yaml.Node | None) -> dict[str, int]:
    """The line of each key of a mapping."""
    return {key.value: key.start_mark.line + 1 for key, _ in node.value} if isinstance(node, yaml.MappingNode) else {}


def read_model_yaml(path: Path) -> tuple[dict[str, Any], list[int]]:
    """A model YAML as a dict, and the line number of each of its layers.

    It may lack `anchors`, since the hyper-parameters can give them.

    Raises:
        UserError: it has no backbone and head, or lacks a key that YOLOv5 needs.
    """
    model, node = load_yaml(path)
    if not isinstance(model, dict) or not {"backbone", "head"} <= set(model):
        hint = ""
        if isinstance(model, dict) and {"train", "val", "names"} & set(model):
            hint = " (this is a dataset YAML: were --cfg and --data mixed up?)"
        raise UserError(f"a model YAML must have a backbone and a head{hint}", file=path)
    key_lines = top_level_lines(node)
    for key in ("nc", "depth_multiple", "width_multiple", *(["anchors"] if "anchors" in model else [])):
        if key not in model:
            raise UserError(f"a model YAML must have the key {key}", file=path)
        if rule := _top_level_rule(key, model[key]):
            raise UserError(rule, got=model[key], file=path, line=key_lines.get(key))
    return model, _layer_lines(model, node, path)


def _layer_lines(model: Mapping[str, Any], node: yaml.Node | None, path: Path) -> list[int]:
    """The line number of each layer, which has four entries."""
    assert isinstance(node, yaml.MappingNode)
    nodes = {key.value: value for key, value in node.value}
    lines: list[int] = []
    for part in ("backbone", "head"):
        if not isinstance(model[part], list) or not model[part]:
            raise UserError(f"{part} must be a list of layers", got=model[part], file=path)
        for row, row_node in zip(model[part], nodes[part].value):
            line = row_node.start_mark.line + 1
            if not (isinstance(row, list) and len(row) == 4 and isinstance(row[2], str) and isinstance(row[3], list)):
                raise UserError("a layer must be [from, number, module, args]", got=row, file=path, line=line)
            lines.append(line)
    return lines


def _top_level_rule(key: str, value: Any) -> str | None:
    """The rule that the value of a model YAML's key breaks, if it does."""
    if isinstance(value, list) and key == "anchors":
        pairs = value and all(isinstance(a, list) and a and len(a) % 2 == 0 for a in value)
        alike = pairs and len({len(a) for a in value}) == 1 and all(_is_size(x) for a in value for x in a)
        return None if alike else "anchors must be a list of widths and heights for each output, as many for each"
    whole = key in ("nc", "anchors")
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not 0 < value < math.inf:
        return f"{key} must be a {'whole ' if whole else ''}number above 0"
    if key == "anchors" and value > MOST:
        return f"anchors must be at most {MOST}"
    return None


def _is_size(x: Any) -> bool:
    return is_number(x) and 0 < x < math.inf
