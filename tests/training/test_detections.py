"""mAP by image, and its bootstrap, beside what YOLOv5 computes of the same images."""

from dataclasses import replace

import numpy as np
import pytest

from yolov5_nas.training.detections import Detections, detect, resampled


@pytest.fixture(scope="module")
def found(host, small_settings, trained_n):
    with host.compatible():
        return detect(host, trained_n, small_settings, small_settings.imgsz, "val")


def detections_of(by_image):
    return Detections.of(by_image, sorted(by_image))


def test_with_each_image_once_it_is_what_val_run_says(host, found):
    metrics, by_image = found
    assert metrics["map50_95"] > 0
    assert detections_of(by_image).mean_ap(host) == pytest.approx(metrics["map50_95"], abs=1e-6)


def test_an_image_that_counts_twice_is_there_twice(host, found):
    _, by_image = found
    own = detections_of(by_image)
    twice = detections_of({**by_image, **{f"{path} again": one for path, one in list(by_image.items())[:5]}})
    times = np.array([2 if path in list(by_image)[:5] else 1 for path in sorted(by_image)])
    assert own.mean_ap(host, times) == pytest.approx(twice.mean_ap(host), abs=1e-3)  # between equal confidences
    assert own.mean_ap(host, 3 * np.ones(own.images, int)) == pytest.approx(own.mean_ap(host), abs=1e-3)
    assert own.mean_ap(host, np.zeros(own.images, int)) == 0.0


def test_networks_are_drawn_for_together(host, found):
    own = detections_of(found[1])
    worse = replace(own, right=own.right & (np.arange(len(own.right)) % 3 > 0)[:, None])
    drawn = resampled(host, [own, worse], 30)
    assert drawn.shape == (30, 2) and drawn[:, 0].std() > 0
    apart = drawn[:, 0] - drawn[:, 1]
    assert apart.min() > 0 and apart.std() < drawn[:, 0].std()
    assert drawn[:, 0].mean() == pytest.approx(own.mean_ap(host), abs=0.05)
    assert np.array_equal(drawn, resampled(host, [own, worse], 30))
