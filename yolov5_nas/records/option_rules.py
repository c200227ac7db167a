"""What options must be, one by one and together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..errors import UserError
from .option import flag

if TYPE_CHECKING:
    from .options import Options

PARENT = "parent"  # as a teacher


def check_together(o: Options) -> None:
    """Raise a UserError where an option is out of its range, or cannot be combined with another."""
    _check_numbers(o)
    _check_inherit(o)
    _check_one_shot(o)
    _check_audit(o)
    _check_replace(o)
    _check_distill(o)


def _check_numbers(o: Options) -> None:
    if o.seed >= 2**32:
        raise UserError("--seed must be below 2**32", got=o.seed)
    if not 0 < o.subset <= 1:
        raise UserError("--subset must be a share above 0 and at most 1", got=o.subset)
    if o.hours is not None and not o.hours > 0:
        raise UserError("--hours must be above 0", got=o.hours)
    if not math.isfinite(o.exponent):
        raise UserError("--exponent must be a number", got=o.exponent)
    if not 0 <= o.label_smoothing < 1:
        raise UserError("--label-smoothing must be at least 0 and below 1", got=o.label_smoothing)
    if not 0 < o.margin < 1:
        raise UserError("--margin must be above 0 and below 1", got=o.margin)
    if o.half and o.precision != "fp16":
        raise UserError("--half is --precision fp16", got=f"--precision {o.precision}")
    if any(layer < 0 for layer in o.freeze):
        raise UserError("--freeze takes layers' numbers, or how many", got=o.freeze)


def _check_inherit(o: Options) -> None:
    given = o.weights or o.base_epochs
    if o.inherit == "none" and given:
        raise UserError("--inherit none cannot be combined with --weights or --base-epochs")
    if o.inherit == "base" and not given:
        raise UserError("--inherit base needs --weights or --base-epochs")


def _check_one_shot(o: Options) -> None:
    if o.one_shot is None:
        return
    if o.base_epochs:
        raise UserError("--one-shot cannot be combined with --base-epochs: it gives the weights")
    if o.one_shot == 0 and not o.weights:
        raise UserError("--one-shot 0 trains nothing, so it needs the --weights of a supernet")


def _check_audit(o: Options) -> None:
    if not o.proxy and (o.audit or o.audit_epochs):
        accepted = ("--weights", "--base-epochs", "--one-shot", "--prune")
        raise UserError("--audit and --audit-epochs need a proxy to check", accepted=accepted)
    if o.only_prunes and o.audit_epochs:
        raise UserError("--audit-epochs is not for --prune alone: what it ended is trained to its --epochs")


def _check_replace(o: Options) -> None:
    if o.method == "one-shot" and o.one_shot is None:
        raise UserError("--method one-shot needs --one-shot EPOCHS")
    if o.method != "replace":
        if not o.trials:
            raise UserError("--trials must be at least 1 (0 is for --method replace)", got=o.trials)
        return
    if not o.weights:
        raise UserError("--method replace needs --weights: the checkpoint whose layers are replaced")
    for name, value in {
        "strategy": o.strategy,
        "one_shot": o.one_shot,
        "objectives": o.objectives,
    }.items():
        if value not in (None, ()):
            raise UserError(f"{flag(name)} is not for --method replace", got=value)
    for name in ("inherit", "prune", "audit", "audit_epochs", "confirm"):
        if getattr(o, name) not in (None, False, "base", 0):
            raise UserError(f"{flag(name)} is not for --method replace", got=getattr(o, name))
    _ = o.plans


def _check_distill(o: Options) -> None:
    if o.distill and o.one_shot is not None:
        raise UserError("--distill is not for --one-shot, whose supernet is its own teacher", got=o.distill)
    if o.distill == PARENT and not (o.weights or o.base_epochs):
        raise UserError("--distill parent needs --weights or --base-epochs", accepted="a checkpoint")
