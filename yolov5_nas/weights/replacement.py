"""Options put in the place of others in a trained network, without training.

A layer's output has the same shape in every architecture of a space, so one layer can be replaced alone: its weights
are mapped, its batch norms get the statistics of what they now see, and its last convolution is solved for what the
parent's layer writes (`reconstruction`). All layers before the first that is replaced compute what the parent's do, bit
by bit, so they are run once for all options of a layer.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..host.yolov5 import Host
from ..space.architecture import Value
from ..space.compile import derive, stock_lines
from ..space.space import Space
from .importance import Counts
from .mapping import fitting, inherit
from .reconstruction import Places, estimating, is_solvable, normalising, solving
from .scaling import scaled
from .source import Source, read_source

Outputs = list[Any]  # of a model's layers, those that no later layer reads being None
Wanted = dict[int, list[tuple[Places, torch.Tensor]]]  # of each layer, see `Parent.wanted`


class Parent:
    """A trained network, of which layers are replaced. It is never written to.

    Args:
        model: YOLOv5's, float32; its architecture is the default one of the space.
        space: the search space.
        images: (B, 3, H, W), of 0 to 1: what replaced layers are solved on.
        counts: how much its channels count, by `importance.taylor`.
        reference: the network that it was made of, where it was (see `formed`).
        frozen: layers that are left as they are.
    """

    def __init__(
        self,
        host: Host,
        model: Any,
        space: Space,
        images: torch.Tensor,
        file: str = "the weights",
        counts: Counts | None = None,
        reference: Any = None,
        frozen: Collection[int] = (),
    ):
        self.frozen = frozen
        self.host, self.space, self.images, self.file = host, space, images, file
        self.trained, self.default = model, space.default()
        on_cpu = {module: count.cpu() for module, count in (counts or {}).items()}
        self.source: Source = read_source(model.cpu(), space, file, on_cpu)
        self.model = self._mapped(self.source, space, self.default)
        self.reference = self.model if reference is None else reference
        self.writers = writers_of(self.model, space)
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
        model = self._mapped(self.source, self.space, architecture)
        if replaced := self.replaced(architecture):
            with torch.no_grad():
                self._settle(model, architecture, replaced)
        return model

    def start(self, architecture: Mapping[str, Value]) -> Any:
        """As `child`, for a training to start from: normalised by batches it computes what was solved."""
        model = self.child(architecture)
        first = self._first(architecture) if self.reference is self.model else 0
        lines = enumerate(stock_lines(self.space, architecture))
        ours = [model.model[j] for j, line in lines if j >= first and line.origin not in self.frozen]
        with torch.no_grad(), normalising(ours):
            run_layers(model, self.images, 0, len(model.model), [])
        return model

    def outputs(
        self, architecture: Mapping[str, Value], model: Any, batches: Sequence[torch.Tensor], key: str
    ) -> Iterator[Any]:
        """What a child's detection layer gives for each batch; layers that are the parent's are run once for a key."""
        first = self._first(architecture)
        for images, kept in zip(batches, self._prefix(first, batches, key)):
            yield run_layers(model, images, first, len(model.model), list(kept))[-1]

    def formed(self, space: Space) -> Any:
        """The network at other widths or depths, or with another activation as a whole, in evaluation mode.

        Each layer is solved for what the parent's writes into the channels that it keeps.

        Args:
            space: of the same model YAML in another form; the network has its default architecture.

        Raises:
            UserError: a layer can't be sliced.
        """
        source, kept = scaled(self.source, self.space, space)
        model, last = self._mapped(source, space, space.default()), len(self.space.rows) - 1
        wanted = {
            i: [(places, values if i == last else values[:, kept[i]]) for places, values in found]
            for i, found in self.wanted.items()
        }
        with torch.no_grad():
            settle(model, space, space.default(), dict.fromkeys(range(last + 1), True), wanted, self.images, [])
        return model

    def _mapped(self, source: Source, space: Space, architecture: Mapping[str, Value]) -> Any:
        """The derived model of an architecture with a source's weights as they are mapped."""
        model = self.host.build(derive(space, architecture), nc=self.trained.model[-1].nc)
        taken, left = fitting(inherit(source, space, architecture).state, model.state_dict())
        if left:
            raise UserError("the parent's weights must fit its space", got=left[0], file=self.file)
        model.load_state_dict(taken)
        model.names = self.trained.names
        return model.to(self.images.device).float().eval().requires_grad_(False)

    # How a child is made --------------------------------------------------------------------------------------------

    def _settle(self, model: Any, architecture: Mapping[str, Value], replaced: Sequence[int]) -> None:
        """Solve what is replaced and all that comes after it.

        Layers that come after make up for much of what a replaced one could not keep.
        """
        after = (i for i in self.wanted if i > replaced[0] and i not in self.frozen)
        layers = {i: i in replaced for i in sorted({*replaced, *after})}
        kept = list(self._prefix(self._first(architecture), [self.images], "solved")[0])
        settle(model, self.space, architecture, layers, self.wanted, self.images, kept)

    @cached_property
    def wanted(self) -> Wanted:
        """What the convolutions that write each layer's output give before the activation: at which places, and
        (places, c2) there. Of layers without one there is nothing.

        Half of the places are drawn in proportion to how likely the parent sees an object there, since few have one.
        """
        found: Wanted = {}
        seen = self._seen()

        def taken(i: int) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
                weights = resized(seen, output.shape[2:])
                places = Places(output, torch.Generator().manual_seed(i), weights + weights.mean())
                found.setdefault(i, []).append((places, places.of(output)))

            return hook

        convs = [(i, getattr(conv, "bn", conv)) for i, convs in self.writers.items() for conv in convs]
        self._run([module.register_forward_hook(taken(i)) for i, module in convs])
        return found

    def _seen(self) -> torch.Tensor:
        """How likely the parent sees an object, (B, H, W) at the finest stride."""
        found: list[torch.Tensor] = []
        detect = self.model.model[-1]

        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            found.append(output.unflatten(1, (detect.na, -1))[:, :, 4].sigmoid().amax(1))

        self._run([conv.register_forward_hook(hook) for conv in detect.m])
        finest = max((objectness.shape[1:] for objectness in found), key=math.prod)
        return torch.stack([resized(objectness, finest) for objectness in found]).amax(0)

    def _run(self, handles: Sequence[Any]) -> None:
        """Let the images through, for some hooks."""
        try:
            run_layers(self.model, self.images, 0, len(self.model.model), [])
        finally:
            for handle in handles:
                handle.remove()

    def _first(self, architecture: Mapping[str, Value]) -> int:
        """The first line that is not the parent's; the detection layer's where all are."""
        replaced = self.replaced(architecture)
        return lines_of(self.space, architecture, replaced[0])[0] if replaced else len(self.model.model) - 1

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


def resized(seen: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """A map (B, H, W) at another size: the largest value of each place's own."""
    smaller = nn.functional.adaptive_max_pool2d(seen[:, None], [min(a, b) for a, b in zip(seen.shape[1:], size)])
    return nn.functional.interpolate(smaller, list(size), mode="nearest")[:, 0]


def writers_of(model: Any, space: Space) -> dict[int, list[nn.Module]]:
    """The convolutions that write each layer's output: a `Conv`, or those of the detection layer."""
    found = {i: [conv] for i, conv in read_source(model, space, "the network").writers().items()}
    return {**found, len(space.rows) - 1: list(model.model[-1].m)}


def lines_of(space: Space, architecture: Mapping[str, Value], layer: int) -> list[int]:
    """The lines of a derived model that a layer becomes."""
    return [j for j, line in enumerate(stock_lines(space, architecture)) if line.origin == layer]


def settle(
    model: Any,
    space: Space,
    architecture: Mapping[str, Value],
    layers: Mapping[int, bool],
    wanted: Wanted,
    images: torch.Tensor,
    kept: Outputs,
) -> None:
    """Solve layers of a network one after the other, each for what it really reads.

    Args:
        model: derived from an architecture of the space.
        layers: in their order, and whether the weights of each are mapped ones, whose batch norms know nothing yet.
        wanted: see `Parent.wanted`.
        images: (B, 3, H, W), of 0 to 1.
        kept: outputs of the lines before the first of the layers.
    """
    writers = writers_of(model, space)
    for i, is_mapped in layers.items():
        lines = lines_of(space, architecture, i)
        run_layers(model, images, len(kept), lines[0], kept)  # what lies between, as it is
        solved = [w for w in writers.get(i, []) if isinstance(w, nn.Conv2d) or is_solvable(w)] if i in wanted else []
        with contextlib.ExitStack() as stack:
            if is_mapped:
                stack.enter_context(estimating([model.model[j] for j in lines], but=solved))
            for writer, (places, given) in zip(solved, wanted.get(i, [])):
                stack.enter_context(solving(writer, places, given, is_replaced=is_mapped))
            run_layers(model, images, lines[0], lines[-1] + 1, kept)


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
