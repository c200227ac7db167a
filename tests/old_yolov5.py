"""Write a checkpoint as an old YOLOv5 wrote it, with random weights: `python old_yolov5.py CODE MODEL FILE`.

It imports that version's code, whose pickles name its classes, and gives it what today's numpy and Pillow lack.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import PIL.ImageFont
import torch


class Nothing(types.ModuleType):
    """A package that building a model does not need."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None


def main(code: Path, name: str, file: Path) -> None:
    sys.path.insert(0, str(code))
    for kind in (int, float, bool, object):
        vars(np).setdefault(kind.__name__, kind)
    for package in ("pkg_resources", "IPython", "IPython.display", "thop", "seaborn", "cv2"):
        if importlib.util.find_spec(package.split(".")[0]) is None:
            sys.modules[package] = Nothing(package)
    PIL.ImageFont.truetype = lambda *_, **__: None
    torch.hub.download_url_to_file = lambda *_, **__: None
    torch.set_grad_enabled(False)  # v3.1 and before changed parameters in place
    torch.manual_seed(0)
    model = importlib.import_module("models.yolo").Model(str(code / "models" / f"{name}.yaml"), ch=3, nc=10)
    model.nc, model.names = 10, [str(i) for i in range(10)]
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2)
    trained = argparse.Namespace(img_size=[64, 64])
    torch.save({"epoch": -1, "best_fitness": None, "model": model.half(), "optimizer": None, "opt": trained}, file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
