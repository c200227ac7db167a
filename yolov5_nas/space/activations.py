"""The activations that a layer may have, and their names."""

from __future__ import annotations

import re
from typing import Any

PLAIN_ACTS = ("SiLU", "Identity", "ReLU")
ACTIVATIONS = (  # those without weights: YOLOv5 gives all repeats of a line the same instance
    *PLAIN_ACTS,
    "ReLU6",
    "LeakyReLU",
    "ELU",
    "GELU",
    "Mish",
    "Hardswish",
    "Hardsigmoid",
    "Hardtanh",
    "Sigmoid",
    "Softplus",
    "Tanh",
)


def activation_name(act: Any) -> str | None:
    """`ReLU`, `nn.ReLU()` and `nn.LeakyReLU(0.1)` as `ReLU` and `LeakyReLU(0.1)`; None for anything else."""
    value = r"(?:\w+ *= *)?(?:[+-]?\d[\d.e-]*|True|False)"
    pattern = rf"(?:torch\.)?(?:nn\.)?(\w+)(?:\(((?:{value}(?:, *{value})*)?)\))?"
    match = re.fullmatch(pattern, act.strip()) if isinstance(act, str) else None
    if not match or match[1] not in ACTIVATIONS:
        return None
    return f"{match[1]}({match[2]})" if match[2] else match[1]


def activation_of(module: Any) -> str | None:
    """Return the name of an activation module, such as `LeakyReLU(negative_slope=0.1)`; None for anything else."""
    text = re.sub(r"(, )?(inplace=\w+|approximate='none')", "", str(module))  # YOLOv5 sets the one; GELU's default
    return activation_name(f"nn.{text}")


def activation_argument(name: Any) -> str:
    """Return an activation as a model YAML has it: `nn.ReLU()` of `ReLU`."""
    return f"nn.{name}" if str(name).endswith(")") else f"nn.{name}()"
