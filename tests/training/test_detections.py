"""mAP by image, and its bootstrap, beside what YOLOv5 computes of the same images.

Only the comparison with YOLOv5 needs a network. What that detects differs between processors, so all else is of arrays.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from yolov5_nas.training.detections import Detections, detect, resampled

IMAGES, LABELS, CLASSES = 40, 6, 3


def detections_of(by_image):
    return Detections.of(by_image, sorted(by_image))


@pytest.fixture(scope="module")
def by_image():
    """Made-up detections, as `Host.validate` gives them: each label is found more or less exactly, or missed."""
    rng, thresholds = np.random.default_rng(0), np.linspace(0.5, 0.95, 10)

    def image():
        labels = rng.integers(0, CLASSES, LABELS).astype(np.float32)
        ious = np.where(rng.random(LABELS) < 2 / 3, rng.uniform(0.4, 1.0, LABELS), 0.0)
        confidences = 0.6 * rng.random(LABELS) + 0.4 * ious
        return tuple(map(torch.from_numpy, (ious[:, None] >= thresholds, confidences, labels, labels)))

    return {f"{i:02}.png": image() for i in range(IMAGES)}


@pytest.fixture(scope="module")
def own(by_image):
    return detections_of(by_image)


def test_with_each_image_once_it_is_what_val_run_says(host, small_settings, trained_n):
    with host.compatible():
        metrics, by_image = detect(host, trained_n, small_settings, small_settings.imgsz, "val")
    assert metrics["map50_95"] > 0  # else there is nothing to compare
    assert detections_of(by_image).mean_ap(host) == pytest.approx(metrics["map50_95"], abs=1e-6)


def test_an_image_that_counts_twice_is_there_twice(host, by_image, own):
    twice = detections_of({**by_image, **{f"{path} again": one for path, one in list(by_image.items())[:5]}})
    times = np.array([2 if path in list(by_image)[:5] else 1 for path in sorted(by_image)])
    assert own.mean_ap(host, times) == pytest.approx(twice.mean_ap(host), abs=1e-3)  # between equal confidences
    assert abs(own.mean_ap(host, times) - own.mean_ap(host)) > 3e-3
    assert own.mean_ap(host, 3 * np.ones(own.images, int)) == pytest.approx(own.mean_ap(host), abs=1e-3)
    assert own.mean_ap(host, np.zeros(own.images, int)) == 0.0


def test_networks_are_drawn_for_together(host, own):
    worse = replace(own, right=own.right & (np.arange(len(own.right)) % 6 > 0)[:, None])
    drawn = resampled(host, [own, worse], 30)
    assert drawn.shape == (30, 2) and drawn[:, 0].std() > 0
    apart, alone = drawn[:, 0] - drawn[:, 1], drawn[:, 0] - resampled(host, [worse], 30, seed=1)[:, 0]
    assert apart.min() > 0 and apart.std() < 0.7 * alone.std()  # of the same images they differ less than of others
    assert drawn[:, 0].mean() == pytest.approx(own.mean_ap(host), abs=0.05)
    assert np.array_equal(drawn, resampled(host, [own, worse], 30))
