"""Trainings that learn from a teacher, on part of the digits."""

from dataclasses import replace

import pytest
import torch

from yolov5_nas.errors import UserError
from yolov5_nas.space.compile import derive
from yolov5_nas.space.space import Space
from yolov5_nas.training.distillation import distillation, read_teacher
from yolov5_nas.training.trial import run_trial


def test_a_student_like_its_teacher_is_nearer_than_another():
    torch.manual_seed(0)
    teacher = [torch.randn(2, 3, s, s, 15) * 3 for s in (8, 4, 2)]
    hyp = {"box": 0.05, "obj": 1.0, "cls": 0.5}

    def distance(noise):
        return float(distillation([t + noise * torch.randn_like(t) for t in teacher], teacher, hyp))

    assert distance(0.0) < distance(0.5) < distance(2.0)
    student = [t.clone().requires_grad_() for t in teacher]
    distillation(student, teacher, hyp).backward()
    assert all(s.grad.abs().max() < 1e-6 for s in student)  # the teacher itself is the best student


def test_a_training_learns_from_its_parent_or_another_network(small_settings, trained_n):
    settings = replace(small_settings, epochs=1, weights=str(trained_n), constraints=())
    architecture = settings.space.default()
    alone, taught, by_file = (
        run_trial(architecture, replace(settings, distill=teacher), 1) for teacher in (None, "parent", str(trained_n))
    )
    assert taught.curve[-1]["box_loss"] != alone.curve[-1]["box_loss"]
    assert [p["box_loss"] for p in taught.curve] == [p["box_loss"] for p in by_file.curve]
    assert taught.metrics["map50_95"] == by_file.metrics["map50_95"]


def test_a_base_has_no_parent_to_learn_from_but_another_teacher(small_settings):
    settings = replace(small_settings, weights="w.pt", distill="parent", base_epochs=3)
    assert settings.teacher == "w.pt" and settings.of_base().teacher is None
    assert replace(settings, distill="other.pt").of_base().teacher == "other.pt"


OTHERS = {
    "classes": ({"nc": 3}, "the data's number of classes, got 3; accepted: 10"),
    "anchors": ({"anchors": 4}, "must have the students' anchors"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_teacher_of_others_is_refused(small_settings, host, tmp_path, name):
    changes, words = OTHERS[name]
    model = {**small_settings.model, "nc": 10}
    student, teacher = (host.build(derive(s, s.default())) for s in map(Space.from_dict, (model, {**model, **changes})))
    host.save_checkpoint(teacher, tmp_path / "t.pt")
    with pytest.raises(UserError, match=words):
        read_teacher(tmp_path / "t.pt", student, host)
    host.save_checkpoint(student, tmp_path / "same.pt")
    assert read_teacher(tmp_path / "same.pt", student, host).model[-1].nc == 10
