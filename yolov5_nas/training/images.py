"""The images of a data set, as a training and a score see them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from ..cost.device_lock import DeviceLock, LockedLoader
from ..host.yolov5 import Host
from ..records.journal import ByClass
from .process import dataset_kept, forking
from .settings import Settings

BATCHES = 8  # of training images, by which batch norm's statistics are estimated and layers refitted
VALIDATED = ("precision", "recall", "map50", "map50_95", "val_box_loss", "val_obj_loss", "val_cls_loss")


class Images:
    """YOLOv5's loaders of both splits, some training images for calibration, and validation.

    Args:
        imgsz: input size in pixels.
        stride: the model's largest.
        hyp: hyper-parameters, of which the augmentation's are read.
        seed: of the order, and of what `some` draws.
    """

    def __init__(
        self, host: Host, s: Settings, imgsz: int, batch_size: int, stride: int, hyp: Mapping[str, Any], seed: int
    ):
        self.host, self.settings, self.imgsz, self.batch_size = host, s, imgsz, batch_size
        self.stride, self.hyp, self.seed = max(stride, 32), hyp, seed
        self.classes: ByClass = ()  # of the latest validation
        self.train, self.dataset = self._training_loader()
        self.val = Split(host, s, "val", imgsz, 2 * batch_size, self.stride, hyp)

    def some(self) -> Iterator[torch.Tensor]:
        """Some batches of training images, (B, 3, H, W) from 0 to 255, drawn at random by the seed."""
        size, order = self.batch_size, list(range(len(self.dataset)))
        if not self.settings.rect:  # or those of a batch have their shape in common, and their place
            random.Random(self.seed).shuffle(order)
        for i in range(0, min(len(order), BATCHES * size), size):
            yield self.dataset.collate_fn([self.dataset[j] for j in order[i : i + size]])[0]

    def scaled(self, batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Batches as a model takes them: from 0 to 1, on the device, one at a time."""
        return (images.to(self.settings.device).float() / 255 for images in batches)

    def validate(self, model: Any, compute_loss: Any = None) -> dict[str, float]:
        """`val.run` of a model, by the names of `VALIDATED`; the losses are 0 without `compute_loss`."""
        results, classes = self.val.validate(model, compute_loss)
        names = [str(name) for _, name in sorted(dict(self.settings.data["names"]).items())]
        self.classes = tuple(zip(names, classes)) if len(names) == len(classes) > 1 else ()
        return results

    def close(self) -> None:
        """End the turn of a loop that an exception left, and the loaders' processes."""
        _end(self.train)
        self.val.close()

    def _training_loader(self) -> tuple[LockedLoader, Any]:
        """YOLOv5's loader of the training images; the data set behind it, decoded images included, is kept for later
        trials."""
        s = self.settings
        with dataset_kept(self.host), forking():
            loader, dataset = self.host.create_dataloader(
                s.data["train"],
                self.imgsz,
                self.batch_size,
                self.stride,
                s.single_cls,
                hyp=self.hyp,
                augment=True,
                cache=None if s.cache == "val" else s.cache,
                rect=s.rect,
                rank=-1,
                workers=s.workers,
                prefix="train: ",
                shuffle=True,
                seed=self.seed,
            )
        return LockedLoader(loader, DeviceLock(s.device)), dataset


class Split:
    """The images of a split that are validated on, in YOLOv5's rectangular batches or as squares.

    Args:
        split: `val` or `test`.
        imgsz: input size in pixels.
        batch_size: of a validation.
        stride: the model's largest.
        hyp: of the augmentation, which validation has none of.
    """

    def __init__(
        self,
        host: Host,
        s: Settings,
        split: str,
        imgsz: int,
        batch_size: int,
        stride: int,
        hyp: Mapping[str, Any],
        square: bool = False,
    ):
        self.host, self.settings, self.imgsz, self.batch_size = host, s, imgsz, batch_size
        with dataset_kept(host), forking():
            loader, _ = host.create_dataloader(
                s.data[split],
                imgsz,
                batch_size,
                stride,
                s.single_cls,
                hyp=hyp,
                cache=s.cache,
                rect=not square,
                pad=0.5,
                rank=-1,
                workers=s.workers * 2,
                prefix=f"{split}: ",
            )
        self.loader = LockedLoader(loader, DeviceLock(s.device))

    def validate(
        self, model: Any, compute_loss: Any = None, by_image: dict[str, Any] | None = None
    ) -> tuple[dict[str, float], list[float | None]]:
        """`val.run` of a model, by the names of `VALIDATED`; and mAP50-95 of each class. See `Host.validate`."""
        s = self.settings
        results, classes = self.host.validate(
            by_image,
            data=dict(s.data),
            batch_size=self.batch_size,
            imgsz=self.imgsz,
            half=s.device.startswith("cuda"),
            model=model,
            single_cls=s.single_cls,
            dataloader=self.loader,
            plots=False,
            compute_loss=compute_loss,
        )
        return dict(zip(VALIDATED, results)), classes

    def close(self) -> None:
        """End the turn of a loop that an exception left, and the loader's processes."""
        _end(self.loader)


def _end(loader: LockedLoader) -> None:
    loader.close()
    # Ends its processes now. Where the garbage collector does, each takes 5 s: its queue goes first.
    loader.loader.iterator = None


def plain_dataset(host: Host, s: Settings, imgsz: int, stride: int) -> Any:
    """The training images as they are: square, without augmentation, decoded when they are asked for."""
    with dataset_kept(host):
        return host.create_dataloader(
            s.data["train"],
            imgsz,
            s.batch_size,
            stride,
            s.single_cls,
            hyp=dict(s.hyp_used),
            augment=False,
            workers=0,
            prefix="train: ",
        )[1]
