"""What a training learns from a teacher's predictions, besides the labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import UserError
from ..host.yolov5 import Host


class Teacher:
    """A trained network that others learn from; it is not trained itself.

    Args:
        model: stock YOLOv5, of the students' classes and anchors.
    """

    def __init__(self, model: Any, device: torch.device):
        self.model = model.to(device).float().eval().requires_grad_(False)

    def predict(self, images: torch.Tensor) -> list[torch.Tensor]:
        """What the detection layer gives, (B, anchors, H, W, 5 + classes) for each stride, without gradients.

        Args:
            images: (B, 3, height, width), from 0 to 1.
        """
        with torch.no_grad():
            return [x.float() for x in self.model(images)[1]]


def read_teacher(weights: Path, model: Any, host: Host) -> Any:
    """A teacher's network for a student.

    Raises:
        UserError: it is of other classes, anchors or strides.
    """
    teacher = host.load_checkpoint(weights)
    own, theirs = model.model[-1], teacher.model[-1]
    if type(theirs).__name__ != "Detect" or not hasattr(theirs, "anchors"):
        raise UserError("the teacher (--distill) must be a detection model of YOLOv5", file=weights)
    if theirs.nc != own.nc:
        rule = "the teacher (--distill) must have the data's number of classes"
        raise UserError(rule, got=theirs.nc, accepted=[own.nc], file=weights)
    pixels = [(d.anchors * d.stride.view(-1, 1, 1)).float().cpu() for d in (own, theirs)]  # (strides, anchors, 2)
    if pixels[0].shape != pixels[1].shape or not torch.allclose(*pixels, rtol=1e-2):
        shown = [p.flatten(1).int().tolist() for p in pixels]
        rule = "the teacher (--distill) must have the students' anchors"
        raise UserError(rule, got=shown[1], accepted=[shown[0]], file=weights)
    return teacher


def distillation(student: list[torch.Tensor], teacher: list[torch.Tensor], hyp: Mapping[str, float]) -> torch.Tensor:
    """How far a student's predictions are from a teacher's, with YOLOv5's gains; the teacher says where objects are.

    Args:
        student, teacher: raw outputs of the detection layer, (B, anchors, H, W, 5 + classes) for each stride; the
            teacher's without gradients.
        hyp: gains `box`, `obj`, `cls`.

    Returns:
        A scalar: cross entropy of objectness over all places; of classes, and squared difference of boxes (in
        YOLOv5's sigmoid form), weighted by the teacher's objectness.
    """
    total = student[0].new_zeros(())
    for s, t in zip(student, teacher):
        soft = t.sigmoid()
        weight = soft[..., 4:5] / soft[..., 4:5].sum().clamp(min=1e-6)
        obj = F.binary_cross_entropy_with_logits(s[..., 4], soft[..., 4])
        cls = (weight * F.binary_cross_entropy_with_logits(s[..., 5:], soft[..., 5:], reduction="none")).sum()
        box = (weight * (s[..., :4].sigmoid() - soft[..., :4]).square()).sum()
        total = total + hyp["obj"] * obj + hyp["cls"] * cls / soft[..., 5:].shape[-1] + 4 * hyp["box"] * box
    return total
