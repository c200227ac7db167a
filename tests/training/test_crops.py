"""Crops of large images with their labels."""

import pytest
import torch

from yolov5_nas.training.crops import cropped


def marked(boxes, size=640):
    """An image whose pixels are their column and row, and the labels of boxes (x1, y1, x2, y2) in pixels."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    image = torch.stack((columns, rows, rows)).float()
    xyxy = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    xywh = torch.cat(((xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]), 1) / size
    return image[None], torch.cat((torch.zeros(len(xywh), 1), torch.arange(len(xywh))[:, None], xywh), 1)


def test_images_that_are_no_larger_stay_whole():
    images, targets = marked([[10, 10, 50, 60]], size=320)
    assert all(a is b for a, b in zip(cropped(images, targets, 320, 0), (images, targets)))


@pytest.mark.parametrize("seed", range(20))
def test_a_crop_has_an_object_at_its_place(seed):
    boxes = [[0, 0, 30, 20], [600, 620, 640, 640], [100, 300, 180, 380], [300, 20, 340, 90]]
    images, targets = marked(boxes)
    (crop,), labels = cropped(images, targets, 320, seed)
    assert crop.shape == (3, 320, 320) and len(labels) >= 1
    x, y = crop[0, 0, 0], crop[1, 0, 0]
    for _, number, *box in labels.tolist():
        centre, size = torch.tensor(box[:2]) * 320, torch.tensor(box[2:]) * 320
        low, high = centre - size / 2 + torch.tensor([x, y]), centre + size / 2 + torch.tensor([x, y])
        wanted = torch.tensor(boxes[int(number)], dtype=torch.float32)
        edges = torch.tensor([x, y, x, y]), torch.tensor([x + 320, y + 320] * 2)
        assert torch.allclose(torch.cat((low, high)), wanted.clamp(*edges), atol=1e-3)
        assert (size > 0).all()


def test_an_image_without_objects_is_cropped_anywhere():
    images, targets = marked([])
    places = {tuple(cropped(images, targets, 320, seed)[0][0, :2, 0, 0].tolist()) for seed in range(8)}
    assert len(places) == 8 and all(0 <= value <= 320 for place in places for value in place)


def test_a_rectangular_image_is_cropped_along_its_longer_side():
    images, targets = marked([[500, 200, 520, 230]])
    crops, labels = cropped(images[:, :, :256], targets * torch.tensor([1, 1, 1, 640 / 256, 1, 640 / 256]), 320, 0)
    assert crops.shape == (1, 3, 256, 320) and len(labels) == 1
    assert float(labels[0, 3]) * 256 == pytest.approx(215)
