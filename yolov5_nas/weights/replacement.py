"""Options put in the place of others in a trained network, without training.

A layer's output has the same shape in every architecture of a space, so one layer can be replaced alone: its weights
are mapped, and its convolutions are reconstructed one after the other, each for what the parent's gives at the channels
that are kept, from what it now reads (`reconstruction`). All layers before the first that is replaced compute what the
parent's do, bit by bit, so they are run once for all options of a layer.
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
from .importance import Importances
from .mapping import Inherited, fitting, inherit
from .reconstruction import Places, estimating, is_solvable, normalising, solving
from .scaling import scaled
from .source import Name, Source, read_source

Outputs = list[Any]  # of a model's layers, those that no later layer reads being None
Target = tuple[Places, torch.Tensor]  # what a convolution gives before the activation: where, and (places, c2) there
Origins = Mapping[Name, tuple[Name, Any]]  # of a network's convolutions: the parent's, and which of its channels


class Parent:
    """A trained network, of which layers are replaced. It is never written to.

    Args:
        model: YOLOv5's, float32; its architecture is the default one of the space.
        space: the search space.
        images: (B, 3, H, W), of 0 to 1: what replaced layers are solved on.
        importances: of its channels, by `importance.taylor`.
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
        importances: Importances | None = None,
        reference: Any = None,
        frozen: Collection[int] = (),
    ):
        self.frozen = frozen
        self.host, self.space, self.images, self.file = host, space, images, file
        self.trained, self.default = model, space.default()
        on_cpu = {module: importance.cpu() for module, importance in (importances or {}).items()}
        self.source: Source = read_source(model.cpu(), space, file, on_cpu)
        self.model, _ = self._mapped(self.source, space, self.default)
        self.reference = self.model if reference is None else reference
        self.convs = convs_of(self.model, space)
        self.prefixes = Prefixes(self.model, [images])
        self.inner: dict[Name, Target] = {}

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
        model, inherited = self._mapped(self.source, self.space, architecture)
        if replaced := self.replaced(architecture):
            with torch.no_grad():
                self._settle(model, architecture, replaced, origins_of(inherited))
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
        self, architecture: Mapping[str, Value], model: Any, prefixes: Prefixes
    ) -> Iterator[list[torch.Tensor]]:
        """Return a child's raw outputs of each batch, (B, anchors, H, W, 5 + classes) for each stride."""
        first = self._first(architecture)
        for images, kept in prefixes.before(first):
            yield run_layers(model, images, first, len(model.model), kept)[-1][1]

    def formed(self, space: Space) -> Any:
        """The network at other widths or depths, or with another activation as a whole, in evaluation mode.

        Each layer is solved for what the parent's writes into the channels that it keeps.

        Args:
            space: of the same model YAML in another form; the network has its default architecture.

        Raises:
            UserError: a layer can't be sliced.
        """
        source, kept = scaled(self.source, self.space, space)
        model, inherited = self._mapped(source, space, space.default())
        origins = origins_of(inherited, {(i, ""): channels for i, channels in kept.items()})
        with torch.no_grad():
            targets = self.targets | self._inner(space.layers)
            layers = dict.fromkeys(range(len(space.rows)), True)
            settle(model, space, space.default(), layers, targets, origins, self.images, [])
        return model

    def _mapped(self, source: Source, space: Space, architecture: Mapping[str, Value]) -> tuple[Any, Inherited]:
        """Return the derived model of an architecture with a source's weights as they are mapped."""
        model = self.host.build(derive(space, architecture), nc=self.trained.model[-1].nc)
        inherited = inherit(source, space, architecture)
        taken, left = fitting(inherited.state, model.state_dict())
        if left:
            raise UserError("the parent's weights must fit its space", got=left[0], file=self.file)
        model.load_state_dict(taken)
        model.names = self.trained.names
        return model.to(self.images.device).float().eval().requires_grad_(False), inherited

    # How a child is made --------------------------------------------------------------------------------------------

    def _settle(self, model: Any, architecture: Mapping[str, Value], replaced: Sequence[int], origins: Origins) -> None:
        """Reconstruct the convolutions of replaced layers, and the last one of each layer that comes after.

        Layers that come after make up for much of what a replaced one could not keep.
        """
        after = (i for i, _ in self.targets if i > replaced[0] and i not in self.frozen)
        layers = {i: i in replaced for i in sorted({*replaced, *after})}
        ((_, kept),) = self.prefixes.before(self._first(architecture))
        settle(
            model, self.space, architecture, layers, self.targets | self._inner(replaced), origins, self.images, kept
        )

    @cached_property
    def targets(self) -> dict[Name, Target]:
        """What the convolutions that write each layer's output give; layers without one have none."""
        last = len(self.space.rows) - 1
        return self._targets([name for name in self.convs if name[0] == last or name == self._writer(name[0])])

    def _inner(self, layers: Collection[int]) -> dict[Name, Target]:
        """What the other convolutions of some layers give. Those of the layers that were asked for last are kept."""
        names = [name for name in self.convs if name[0] in layers and name not in self.targets]
        if missing := [name for name in names if name not in self.inner]:
            self.inner = {name: self.inner[name] for name in names if name in self.inner} | self._targets(missing)
        return {name: self.inner[name] for name in names}

    def _targets(self, names: Sequence[Name]) -> dict[Name, Target]:
        """What some convolutions give before the activation.

        Half of the places are drawn in proportion to how likely the parent sees an object there, since few have one.
        """
        target_by_name: dict[Name, Target] = {}
        seen = self.seen  # before the hooks are there

        def keep(name: Name) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
                weights = resized(seen, output.shape[2:])
                places = Places(output, torch.Generator().manual_seed(name[0]), weights + weights.mean())
                target_by_name[name] = places, places.of(output)

            return hook

        modules = {name: getattr(self.convs[name], "bn", self.convs[name]) for name in names}
        self._run([module.register_forward_hook(keep(name)) for name, module in modules.items()])
        return target_by_name

    def _writer(self, layer: int) -> Name:
        """The name of the convolution that writes a layer's output."""
        names = [name for name in self.convs if name[0] == layer]
        return (layer, "cv3") if (layer, "cv3") in names else names[-1]

    @cached_property
    def seen(self) -> torch.Tensor:
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


class Prefixes:
    """Outputs of the first layers of a network for some images, for networks that share these layers.

    Those that were asked for last are kept, up to a number of bytes; beyond it they are computed again.

    Args:
        batches: images (B, 3, H, W), of 0 to 1, or of 0 to 255 as bytes.
        limit: bytes.
    """

    def __init__(self, model: Any, batches: Sequence[torch.Tensor], limit: float = math.inf):
        self.model, self.batches, self.limit = model, batches, limit
        self.kept: list[tuple[int, Outputs]] = [(0, [])] * len(batches)

    def before(self, line: int) -> Iterator[tuple[torch.Tensor, Outputs]]:
        """Return each batch, of 0 to 1, with the outputs of the lines before one."""
        left, device = self.limit, next(self.model.parameters()).device
        for b, batch in enumerate(self.batches):
            images = batch if batch.is_floating_point() else batch.to(device).float() / 255
            at, outputs = self.kept[b] if self.kept[b][0] <= line else (0, [])
            outputs = run_layers(self.model, images, at, line, list(outputs))
            left -= sum(x.nbytes for x in outputs if x is not None)
            self.kept[b] = (line, outputs) if left >= 0 else (0, [])
            yield images, list(outputs)


def resized(seen: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """A map (B, H, W) at another size: the largest value of each place's own."""
    smaller = nn.functional.adaptive_max_pool2d(seen[:, None], [min(a, b) for a, b in zip(seen.shape[1:], size)])
    return nn.functional.interpolate(smaller, list(size), mode="nearest")[:, 0]


def convs_of(model: Any, space: Space) -> dict[Name, nn.Module]:
    """Return a network's `Conv`s by name, and the convolutions of its detection layer."""
    detect = {(len(space.rows) - 1, f"m.{j}"): conv for j, conv in enumerate(model.model[-1].m)}
    return {**read_source(model, space, "the network").modules, **detect}


def origins_of(inherited: Inherited, kept: Mapping[Name, torch.Tensor] | None = None) -> Origins:
    """Return which of the parent's convolutions, and which channels, those of a network were mapped from.

    Args:
        kept: the channels that writers of stock layers keep; by default all.
    """
    mapped = {name: (conv.origin, conv.channels) for name, conv in inherited.origins.items() if conv.origin}
    return mapped | {name: (name, channels) for name, channels in (kept or {}).items() if name not in mapped}


def lines_of(space: Space, architecture: Mapping[str, Value], layer: int) -> list[int]:
    """The lines of a derived model that a layer becomes."""
    return [j for j, line in enumerate(stock_lines(space, architecture)) if line.origin == layer]


def settle(
    model: Any,
    space: Space,
    architecture: Mapping[str, Value],
    layers: Mapping[int, bool],
    targets: Mapping[Name, Target],
    origins: Origins,
    images: torch.Tensor,
    kept: Outputs,
) -> None:
    """Reconstruct layers of a network one after the other, each convolution for what it really reads.

    Args:
        model: derived from an architecture of the space.
        layers: in their order, and whether the weights of each are mapped ones, whose batch norms know nothing yet.
        targets: of the parent's convolutions. Of a layer that is not mapped only the last convolution has one.
        origins: see `origins_of`; a convolution that is not named is the parent's of its name.
        images: (B, 3, H, W), of 0 to 1.
        kept: outputs of the lines before the first of the layers.
    """
    convs = convs_of(model, space)
    for i, is_mapped in layers.items():
        lines = lines_of(space, architecture, i)
        run_layers(model, images, len(kept), lines[0], kept)  # what lies between, as it is
        own = {name: conv for name, conv in convs.items() if name[0] == i and _is_solvable(conv)}
        with contextlib.ExitStack() as stack:
            solved = []
            for name, conv in own.items():
                origin, channels = origins.get(name, (name, None))
                if origin in targets:
                    places, values = targets[origin]
                    values = values if channels is None else values[:, channels]
                    stack.enter_context(solving(conv, places, values, is_replaced=is_mapped))
                    solved.append(conv)
            if is_mapped:
                stack.enter_context(estimating([model.model[j] for j in lines], but=solved))
            run_layers(model, images, lines[0], lines[-1] + 1, kept)


def _is_solvable(conv: nn.Module) -> bool:
    return isinstance(conv, nn.Conv2d) or is_solvable(conv)


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
