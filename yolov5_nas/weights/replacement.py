"""Options put in the place of others in a trained network, without training.

A layer's output has the same shape in every architecture of a space, so one layer can be replaced alone: its weights
are mapped, its batch norms get the statistics of what they now see, and its last convolution is solved for what the
parent's layer writes (`reconstruction`). All layers before the first that is replaced compute what the parent's do, bit
by bit, so they are run once for all options of a layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..host.yolov5 import Host
from ..space.architecture import Value
from ..space.compile import derive, stock_lines
from ..space.space import Space
from .mapping import fitting, inherit
from .reconstruction import Places, estimating, is_solvable, solving
from .source import Source, read_source

Outputs = list[Any]  # of a model's layers, those that no later layer reads being None


class Parent:
    """A trained network, of which layers are replaced. It is never written to.

    Args:
        model: YOLOv5's, float32; its architecture is the default one of the space.
        space: the search space.
        images: (B, 3, H, W), of 0 to 1: what replaced layers are solved on.
    """

    def __init__(self, host: Host, model: Any, space: Space, images: torch.Tensor, file: str = "the weights"):
        self.host, self.space, self.images, self.file = host, space, images, file
        self.trained, self.default = model, space.default()
        self.source: Source = read_source(model.cpu(), space, file)
        self.model = self._mapped(self.default)
        self.writers = read_source(self.model, space, file).writers()
        self.prefixes: dict[Any, tuple[int, list[Outputs]]] = {}

    def replaced(self, architecture: Mapping[str, Value]) -> list[int]:
        """The layers in which an architecture differs from the parent's."""
        return [
            i
            for i, layer in self.space.layers.items()
            if any(architecture[choice.label] != self.default[choice.label] for choice in layer.choices)
        ]

    def child(self, architecture: Mapping[str, Value]) -> Any:
        """The network of an architecture with the parent's knowledge, in evaluation mode; the same each time.

        Raises:
            UserError: the architecture is not of the space.
        """
        model = self._mapped(architecture)
        if replaced := self.replaced(architecture):
            with torch.no_grad():
                self._settle(model, architecture, replaced)
        return model

    def outputs(
        self, architecture: Mapping[str, Value], model: Any, batches: Sequence[torch.Tensor], key: str
    ) -> Iterator[Any]:
        """What a child's detection layer gives for each batch; layers that are the parent's are run once for a key."""
        first = self._first(architecture)
        for images, kept in zip(batches, self._prefix(first, batches, key)):
            yield run_layers(model, images, first, len(model.model), list(kept))[-1]

    def _mapped(self, architecture: Mapping[str, Value]) -> Any:
        """The derived model of an architecture with the parent's weights as they are mapped."""
        model = self.host.build(derive(self.space, architecture), nc=self.trained.model[-1].nc)
        taken, left = fitting(inherit(self.source, self.space, architecture).state, model.state_dict())
        if left:
            raise UserError("the parent's weights must fit its space", got=left[0], file=self.file)
        model.load_state_dict(taken)
        model.names = self.trained.names
        return model.to(self.images.device).float().eval().requires_grad_(False)

    # How a child is made --------------------------------------------------------------------------------------------

    def _settle(self, model: Any, architecture: Mapping[str, Value], replaced: Sequence[int]) -> None:
        """Solve what is replaced and all that comes after it, one layer after the other, each for what it really reads.

        Layers that come after make up for much of what a replaced one could not keep.
        """
        writers = read_source(model, self.space, self.file).writers()
        kept = list(self._prefix(self._first(architecture), [self.images], "solved")[0])
        for i in sorted({*replaced, *(i for i in self.wanted if i > replaced[0])}):
            lines = self._lines(architecture, i)
            run_layers(model, self.images, len(kept), lines[0], kept)  # what lies between, as it is
            writer = writers[i] if i in self.wanted and is_solvable(writers[i]) else None
            with contextlib.ExitStack() as stack:
                if i in replaced:
                    stack.enter_context(estimating([model.model[j] for j in lines], but=writer))
                if writer is not None:
                    stack.enter_context(solving(writer, *self.wanted[i], is_replaced=i in replaced))
                run_layers(model, self.images, lines[0], lines[-1] + 1, kept)

    @cached_property
    def wanted(self) -> dict[int, tuple[Places, torch.Tensor]]:
        """What the convolution that writes each layer's output gives before the activation: at which places, and
        (places, c2) there. Of layers without one there is nothing."""
        found: dict[int, tuple[Places, torch.Tensor]] = {}

        def taken(i: int) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
                places = Places(output, torch.Generator().manual_seed(i))
                found[i] = places, places.of(output)

            return hook

        handles = [conv.bn.register_forward_hook(taken(i)) for i, conv in self.writers.items()]
        try:
            run_layers(self.model, self.images, 0, len(self.model.model) - 1, [])
        finally:
            for handle in handles:
                handle.remove()
        return found

    def _lines(self, architecture: Mapping[str, Value], layer: int) -> list[int]:
        """The lines of a derived model that a layer becomes."""
        return [j for j, line in enumerate(stock_lines(self.space, architecture)) if line.origin == layer]

    def _first(self, architecture: Mapping[str, Value]) -> int:
        """The first line that is not the parent's; the detection layer's where all are."""
        replaced = self.replaced(architecture)
        return self._lines(architecture, replaced[0])[0] if replaced else len(self.model.model) - 1

    def _prefix(self, first: int, batches: Sequence[torch.Tensor], key: str) -> list[Outputs]:
        """What the parent's layers before a line give for some batches. Those of one line are kept."""
        at, found = self.prefixes.get(key, (-1, []))
        if at != first:
            self.prefixes.pop(key, None)
            start = at if 0 <= at < first else 0
            old = found if start else [[] for _ in batches]
            del found
            found = [run_layers(self.model, images, start, first, kept) for images, kept in zip(batches, old)]
            self.prefixes[key] = first, found
        return found


def run_layers(model: Any, images: torch.Tensor, start: int, end: int, kept: Outputs) -> Outputs:
    """Run layers `start` to `end` (which is left out) of a YOLOv5 model, as its `_forward_once` does.

    Args:
        images: (B, 3, H, W), of 0 to 1.
        kept: outputs of the layers before, to which those of these are added.

    Returns:
        `kept`, in which only what later layers read is left.
    """
    with torch.no_grad():
        for i in range(start, end):
            layer = model.model[i]
            sources = [layer.f] if isinstance(layer.f, int) else layer.f
            x = [(images if i == 0 else kept[i - 1]) if j == -1 else kept[j] for j in sources]
            kept.append(layer(x[0] if isinstance(layer.f, int) else x))
    for j in range(len(kept) - 1):
        if j not in model.save:
            kept[j] = None
    return kept
