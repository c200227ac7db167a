"""An architecture is data: one value for every label of a search space."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Value = str | int | float


@dataclass(frozen=True)
class Architecture(Mapping[str, Value]):
    """An immutable `{label: value}` with an id that depends on nothing else.

    Weights, training settings and the order of labels don't change the id, so it is the key for duplicates and files.

    >>> Architecture({"c3_2": 1.5, "nasconv_0": "k6p2"}).id
    '1a0a7559a3'
    """

    choices: Mapping[str, Value]

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", dict(self.choices))

    def __getitem__(self, label: str) -> Value:
        return self.choices[label]

    def __iter__(self) -> Iterator[str]:
        return iter(self.choices)

    def __len__(self) -> int:
        return len(self.choices)

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def id(self) -> str:
        """Ten hexadecimal digits of the SHA-1 of the sorted JSON."""
        return hashlib.sha1(self.to_json().encode(), usedforsecurity=False).hexdigest()[:10]

    def with_value(self, label: str, value: Value) -> Architecture:
        """A copy in which one label has another value."""
        return Architecture({**self.choices, label: value})

    def to_json(self) -> str:
        """Canonical JSON: sorted labels, no spaces."""
        return json.dumps(dict(self.choices), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """The architecture that `to_json` wrote."""
        return cls(json.loads(text))
