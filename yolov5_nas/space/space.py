"""The search space: labelled choices read from a YOLOv5 model YAML that names NASConv and NASC3.

A space is data. It is read, listed, counted and sampled in milliseconds, without torch and without YOLOv5.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import shipped
from .architecture import Architecture, Value
from .arithmetic import Multiples
from .choices import Choice
from .forms import form_choices, forms, in_form, inner, outer
from .layers import SEARCHABLE, C3Layer, Layer, LayerParser, with_default
from .model_yaml import read_model_yaml


@dataclass(frozen=True)
class Space:
    """An ordered set of labelled choices over one YOLOv5 model YAML.

    >>> import random
    >>> space = Space.from_yaml("yolov5n_nas.yaml")
    >>> space.size, len(space.choices), space.choices["c3_2"].options
    (1586874322944, 30, (1.0, 1.5, 2.0))
    >>> space.default()["nasconv_0"], space.sample(random.Random(0))["nasconv_0"]
    ('k6p2', 'k4p1')
    >>> print(space.check({**space.default(), "c3_2": 3}))
    c3_2 must be one of its options, got 3; accepted: 1.0, 1.5, 2.0

    Args:
        yaml: the model YAML as a dict, searchable layers included.
        layers: the searchable layers by their line's index in backbone + head.
        whole: choices of the network as a whole (see `forms`), where the YAML lists several options.
        source: the file it was read from, for messages.
    """

    yaml: Mapping[str, Any]
    layers: Mapping[int, Layer]
    whole: tuple[Choice, ...] = ()
    source: str = "model YAML"
    choices: Mapping[str, Choice] = field(init=False)
    compiled: dict[str, Any] = field(init=False, repr=False, compare=False, default_factory=dict)  # see `compile`
    formed: dict[str, Space] = field(init=False, repr=False, compare=False, default_factory=dict)  # see `in_form`

    def __post_init__(self) -> None:
        found = [c for layer in self.layers.values() for c in layer.choices] + list(self.whole)
        object.__setattr__(self, "choices", {c.label: c for c in found})

    @classmethod
    def from_yaml(cls, path: str | Path, nc: int | None = None, imgsz: int | None = None) -> Space:
        """Read a space from a file.

        Args:
            path: a YOLOv5 model YAML with at least one NASConv or NASC3 line, or the name of a shipped one.
            nc: number of classes, instead of the YAML's.
            imgsz: default input size in pixels, where the YAML makes the input size a choice.

        Raises:
            UserError: the file is missing, is no such YAML, or a line of it can't be searched (file and line given).
        """
        if not Path(path).exists() and (shipped("models") / path).is_file():
            path = shipped("models") / path
        model, lines = read_model_yaml(Path(path))
        return cls.from_dict(model, nc=nc, imgsz=imgsz, source=str(path), lines=lines)

    @classmethod
    def from_dict(
        cls,
        model: Mapping[str, Any],
        nc: int | None = None,
        imgsz: int | None = None,
        source: str = "model YAML",
        lines: Sequence[int] = (),
    ) -> Space:
        """As `from_yaml`, from the loaded YAML; `lines` are the line numbers of its layers, for messages."""
        model = {**model, "nc": nc or model["nc"]}
        whole = form_choices(model, imgsz, source)
        plain = in_form(model, whole, forms(whole)[0])
        parser = LayerParser(plain, source, lines)
        rows = [*model["backbone"], *model["head"]]
        for i, row in enumerate(rows):
            parser.check(i, row)
        layers = {i: parser.layer(i, row) for i, row in enumerate(rows) if row[2] in SEARCHABLE}
        layers = {i: with_default(layer, plain.get("default") or {}) for i, layer in layers.items()}
        if not layers:
            raise UserError(
                "a model YAML to search needs at least one NASConv or NASC3 layer, found none"
                " (replace a Conv by NASConv or a C3 by NASC3, or take a shipped one such as yolov5n_nas.yaml)",
                file=source,
            )
        space = cls(model, layers, whole, source)
        for form in space.forms:
            space.in_form(form)  # raises where it can't be built
        return space

    @property
    def rows(self) -> list[list[Any]]:
        """The YAML's lines, `[from, number, module, args]`."""
        return [*self.yaml["backbone"], *self.yaml["head"]]

    @cached_property
    def multiples(self) -> Multiples:
        """The YAML's width and depth multiples and its activation, of the default form."""
        return Multiples(in_form(self.yaml, self.whole, self.forms[0]))

    # Forms ----------------------------------------------------------------------------------------------------------

    @cached_property
    def forms(self) -> list[dict[str, Value]]:
        """All forms of the network, the default architecture's first; `[{}]` where the form is no choice."""
        return forms(self.whole)

    def form_of(self, architecture: Mapping[str, Value]) -> dict[str, Value]:
        """The form of an architecture."""
        return {choice.label: architecture[choice.label] for choice in self.whole}

    def in_form(self, form: Mapping[str, Value]) -> Space:
        """The space of all architectures of a form, in which nothing of the form is a choice.

        Raises:
            UserError: a layer can't be built at the form's widths.
        """
        if not self.whole:
            return self
        key = repr(sorted(form.items()))
        if key not in self.formed:
            plain = form == self.forms[0]
            model = in_form(self.yaml, self.whole, form, None if plain else self.layers)
            try:
                self.formed[key] = Space.from_dict(model, source=self.source)
            except UserError as e:
                words = ", ".join(f"{label} {value}" for label, value in form.items())
                raise UserError(f"{e.rule} (at {words})", got=e.got, file=self.source) from None
        return self.formed[key]

    def inner(self, architecture: Mapping[str, Value]) -> Architecture:
        """An architecture in the space of its form; what is no option there becomes its equivalent, or the default."""
        if not self.whole:
            return Architecture(architecture)
        space, found = self.in_form(self.form_of(architecture)), inner(architecture, self.whole)
        values = dict(found)
        for layer in space.layers.values():
            values |= {c.label: _nearest(layer, c, values[c.label]) for c in layer.choices if c.label in values}
        return Architecture({label: values[label] for label in space.choices if label in values})

    def outer(self, architecture: Mapping[str, Value], form: Mapping[str, Value]) -> Architecture:
        """The architecture of this space that corresponds to one of a form's space: the reverse of `inner`."""
        return outer(architecture, form, self.whole, self.choices) if self.whole else Architecture(architecture)

    # Architectures ------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many architectures the space holds."""
        return math.prod(len(c.options) for c in self.choices.values())

    def default(self) -> Architecture:
        """Stock YOLOv5, or the nearest to it that the options allow; where the YAML names a `default`, that."""
        return Architecture({label: c.default for label, c in self.choices.items()})

    def at(self, index: int) -> Architecture:
        """The architecture of a number from 0 to `size` - 1 (mixed radix, the last label running fastest)."""
        if not 0 <= index < self.size:
            raise IndexError(f"0 <= index < {self.size} must hold, but got {index}")
        picked = {}
        for label, choice in reversed(list(self.choices.items())):
            index, digit = divmod(index, len(choice.options))
            picked[label] = choice.options[digit]
        return Architecture({label: picked[label] for label in self.choices})

    def sample(self, rng: random.Random) -> Architecture:
        """An architecture drawn uniformly."""
        return Architecture({label: rng.choice(c.options) for label, c in self.choices.items()})

    def mutate(self, architecture: Architecture, rng: random.Random) -> Architecture:
        """A copy with one label changed to another of its options (Real et al. 2019, section 2)."""
        open_labels = [c for c in self.choices.values() if len(c.options) > 1]
        if not open_labels:
            return architecture
        choice = rng.choice(open_labels)
        return architecture.with_value(
            choice.label, rng.choice([o for o in choice.options if o != architecture[choice.label]])
        )

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """All architectures that differ in exactly one label, in the order of the labels and their options."""
        for choice in self.choices.values():
            for option in choice.options:
                if option != architecture[choice.label]:
                    yield architecture.with_value(choice.label, option)

    def to_nni(self) -> Any:
        """NNI's symbolic form of the space (an `ExecutableModelSpace`), for those who drive NNI themselves.

        Its `freeze` takes `{label: value}`; the frozen space's `sample` is such a dict.
        """
        # By name: NNI is optional and takes seconds to import, and `space` may not import from `engines`.
        return import_module("yolov5_nas.engines.nni.space").symbolic(self)

    def check(self, architecture: Mapping[str, Value]) -> UserError | None:
        """The reason why an architecture is not of this space, or None."""
        for label in architecture:
            if label not in self.choices:
                return UserError("an architecture's labels must be the space's", got=label, accepted=self.choices)
        for label, choice in self.choices.items():
            if label not in architecture:
                return UserError(f"an architecture must have a value for {label}", accepted=choice.options)
            if architecture[label] not in choice.options:
                return UserError(
                    f"{label} must be one of its options", got=architecture[label], accepted=choice.options
                )
        return None

    def validate(self, architecture: Mapping[str, Value]) -> None:
        """Raise what `check` returns."""
        if error := self.check(architecture):
            raise error


def _nearest(layer: Layer, choice: Choice, value: Value) -> Value:
    """A value, where it is an option; else the option of the same hidden width, or the default."""
    if value in choice.options or not isinstance(layer, C3Layer) or choice != layer.width:
        return value if value in choice.options else choice.default
    same = (o for o in choice.options if layer.hidden(float(o)) == layer.hidden(float(value)))
    return next(same, choice.default)
