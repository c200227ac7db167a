"""A search space and its architectures as NNI knows them: labels and values, no torch module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import nni
from nni.mutable import LabeledMutable, Mutable, MutableDict
from nni.nas.space import ExecutableModelSpace, ModelStatus

from ...space.architecture import Architecture, Value


class SymbolicSpace(ExecutableModelSpace):
    """NNI's form of a `Space`; frozen, of one architecture of it.

    Args:
        choices: `{label: options}`.
    """

    def __init__(self, choices: Mapping[str, Iterable[Value]] | None = None):
        super().__init__()
        self.mutables = MutableDict({label: nni.choice(label, list(v)) for label, v in (choices or {}).items()})
        self.evaluator = None
        self.sample: dict[str, Value] | None = None
        self.number: int | None = None  # of our trial

    def freeze(self, sample: Mapping[str, Value]) -> SymbolicSpace:
        """The architecture that a sample names.

        Raises:
            nni.mutable.SampleValidationError: the sample is not in the space.
        """
        self.validate(dict(sample))
        return frozen(sample)

    def executable_model(self) -> dict[str, Value]:
        """The architecture as `{label: value}`, which an evaluator of your own gets."""
        return dict(self.sample or {})

    def check_contains(self, sample: dict[str, Any]) -> Any:
        """The error that a sample is not in the space, or None."""
        return self.mutables.check_contains(sample)

    def leaf_mutables(self, is_leaf: Callable[[Mutable], bool]) -> Iterable[LabeledMutable]:
        """The choices."""
        yield from self.mutables.leaf_mutables(is_leaf)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"sample={self.sample}, status={self.status.value!r}"

    # NNI's serializer looks for this pair of names. The portal shows the entries of `mutation_summary` as the trial's
    # hyper-parameters.
    def _dump(self) -> dict[str, Any]:
        sample = self.sample or {}
        return {"mutation_summary": sample, "trial": self.number, "architecture": Architecture(sample).id}

    @classmethod
    def _load(cls, mutation_summary: dict[str, Value], trial: int | None, architecture: str) -> SymbolicSpace:
        return frozen(mutation_summary, trial)


def frozen(sample: Mapping[str, Value], number: int | None = None) -> SymbolicSpace:
    """One architecture, of whatever space."""
    model = SymbolicSpace()
    model.sample, model.number, model.status = dict(sample), number, ModelStatus.Frozen
    return model


def symbolic(space: Any) -> SymbolicSpace:
    """NNI's form of a `Space`; of None, an empty one."""
    return SymbolicSpace({c.label: c.options for c in space.choices.values()} if space else {})
