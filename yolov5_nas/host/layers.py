"""What the host builds of a model YAML, layer by layer, and the line that it can't build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, NamedTuple

from .yolov5 import Host

Shape = tuple[Any, ...]  # of a tensor; of several, their shapes


class BuiltLayer(NamedTuple):
    """A layer of a model: its number of parameters and its output's shape for a batch of one image."""

    parameters: int
    shape: Shape


class LayerError(Exception):
    """A layer that the host can't build, or that can't be run; `index` is its place in backbone + head."""

    def __init__(self, index: int, problem: str):
        super().__init__(problem)
        self.index, self.problem = index, problem


class Built:
    """The host's model of a stock YAML.

    Raises:
        LayerError: a layer can't be built or run.
    """

    def __init__(self, host: Host, cfg: Mapping[str, Any]):
        try:
            self.model = host.build(cfg).eval()
        except Exception as e:  # a module can raise anything
            raise _first_error(host, cfg) or LayerError(len(_rows(cfg)) - 1, _said(e)) from None

    @property
    def stride(self) -> int:
        """The largest of its outputs, of which input sizes are multiples."""
        return int(self.model.stride.max())

    def layers(self, imgsz: int) -> list[BuiltLayer]:
        """Its layers, run once on an image of `imgsz` x `imgsz` pixels.

        Raises:
            LayerError: a layer can't be run.
        """
        import torch

        image = torch.zeros(1, 3, imgsz, imgsz)  # as the images are, whatever the YAML's `ch` says
        outputs = _run(list(self.model.model), self.model.save, image)
        parameters = (sum(p.numel() for p in layer.parameters()) for layer in self.model.model)
        return [BuiltLayer(*pair) for pair in zip(parameters, map(_shape, outputs))]

    def outputs(self, image: Any) -> list[Any]:
        """Its layers' outputs for an image (1, 3, H, W).

        Raises:
            LayerError: a layer can't be run.
        """
        return list(_run(list(self.model.model), self.model.save, image))


def _first_error(host: Host, cfg: Mapping[str, Any]) -> LayerError | None:
    """The first layer that the host's parser can't build, or that can't be run; None if all can."""
    layers: Any = None
    rows, save = _rows(cfg), []
    for count in range(1, len(rows) + 1):
        try:
            layers, save = _parse(host, {**cfg, "backbone": rows[:count], "head": []})
        except Exception as e:
            return LayerError(count - 1, _said(e))
    try:
        import torch

        for _ in _run(list(layers), save, torch.zeros(1, 3, 256, 256)):  # as the host's `Model` does
            pass
    except LayerError as e:
        return e
    return None


def _parse(host: Host, cfg: Mapping[str, Any]) -> Any:
    default_act = host.common.Conv.default_act
    try:
        with host.quiet():
            return host.yolo.parse_model(deepcopy(dict(cfg)), [cfg.get("ch", 3)])
    finally:
        host.common.Conv.default_act = default_act


def _run(layers: list[Any], save: list[int], x: Any) -> Iterator[Any]:
    """Run layers one after another, as the host's `_forward_once` does, and give the output of each."""
    import torch

    kept: list[Any] = []
    for i, layer in enumerate(layers):
        try:
            if layer.f != -1:
                x = kept[layer.f] if isinstance(layer.f, int) else [x if j == -1 else kept[j] for j in layer.f]
            with torch.no_grad():
                x = layer(x)
            _shape(x)  # raises for what is no output
        except Exception as e:
            raise LayerError(i, _said(e)) from None
        yield x
        kept.append(x if i in save else None)


def _rows(cfg: Mapping[str, Any]) -> list[Any]:
    return [*cfg["backbone"], *cfg["head"]]


def _shape(output: Any) -> Shape:
    return tuple(map(_shape, output)) if isinstance(output, list | tuple) else tuple(output.shape)


def _said(error: Exception) -> str:
    """What an exception says, on one line."""
    return " ".join((str(error) or type(error).__name__).split())
