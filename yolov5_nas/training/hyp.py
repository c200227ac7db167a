"""Hyper-parameters: a YAML read and checked before anything trains by it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import shipped
from ..records.options import TABLE
from ..space.model_yaml import MOST, load_yaml, top_level_lines

OURS = ("optimizer", "nominal_batch", "warmup_iterations")  # keys that YOLOv5 does not know
OPTIMIZERS = TABLE["optimizer"].choices
WHOLE = {"nominal_batch": 1, "warmup_iterations": 0}  # and the least that they may be


def read_hyp(path: Path) -> dict[str, Any]:
    """The hyper-parameters of a file. A number such as `1e-3`, which YAML reads as text, is converted to a number.

    Raises:
        UserError: a key that YOLOv5 needs is missing, or a value is none that a training can use (with the line).
    """
    hyp, node = load_yaml(path)
    shipped_keys, _ = load_yaml(shipped("data") / "hyp.short.yaml")
    needed = set(shipped_keys) - set(OURS)
    if not isinstance(hyp, dict) or not needed <= set(hyp):
        missing = sorted(needed - set(hyp)) if isinstance(hyp, dict) else sorted(needed)
        raise UserError(
            "a hyper-parameter YAML must have YOLOv5's keys", accepted=f"also {', '.join(missing)}", file=path
        )
    lines = top_level_lines(node)
    read = {}
    for key, value in hyp.items():
        number = _number(value)
        read[key] = number if key in needed or key in WHOLE or key == "anchors" else value
        if rule := _rule(key, value, number, key in needed):
            raise UserError(rule, got=value, file=path, line=lines.get(key))
    if "optimizer" in hyp:
        read["optimizer"] = next(name for name in OPTIMIZERS if name.lower() == str(hyp["optimizer"]).lower())
    if anchors := read.pop("anchors", None):  # 0, as in YOLOv5: those of the model YAML
        read["anchors"] = round(anchors)
    return read


def with_number(hyp: Mapping[str, Any], anchors: int | None) -> dict[str, Any]:
    """Return hyper-parameters with this number of anchors at each place, without one for None."""
    rest = {name: value for name, value in hyp.items() if name != "anchors"}
    return {**rest, "anchors": anchors} if anchors else rest


def _number(value: Any) -> float | None:
    """A finite number, also one in words that YAML takes for text; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    return value if isinstance(value, int | float) else number


def _rule(key: str, value: Any, number: float | None, is_needed: bool) -> str | None:
    """The rule that a value breaks, if it does."""
    if key == "optimizer":
        known = str(value).lower() in (name.lower() for name in OPTIMIZERS)
        return None if known else f"optimizer must be one of {', '.join(OPTIMIZERS)}"
    if key == "anchors":  # YOLOv5 rounds it; its own hyp.VOC.yaml has 3.412
        return None if number == 0 or 1 <= round(number or 0) <= MOST else f"anchors must be 0, or 1 to {MOST}"
    if key in WHOLE:
        whole = number is not None and number == int(number) and WHOLE[key] <= number
        return None if whole else f"{key} must be a whole number of at least {WHOLE[key]}"
    if not is_needed:  # others are not ours to know
        return None
    if number is None:
        return f"{key} must be a number, with a point for its decimals"
    if number < 0:
        return f"{key} must be at least 0"
    if key == "momentum" and number >= 1:
        return "momentum must be below 1"
    return "anchor_t must be above 0" if key == "anchor_t" and number == 0 else None
