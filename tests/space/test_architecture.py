from __future__ import annotations

import doctest
import pickle

import pytest

from yolov5_nas.space import architecture
from yolov5_nas.space.architecture import Architecture

ONE = Architecture({"c3_2": 1.5, "nasconv_0": "k6p2"})


def test_the_id_depends_on_the_choices_only() -> None:
    assert ONE.id == Architecture({"nasconv_0": "k6p2", "c3_2": 1.5}).id == "1a0a7559a3"
    assert ONE.id != ONE.with_value("c3_2", 2.0).id


def test_json_brings_it_back() -> None:
    assert ONE.to_json() == '{"c3_2":1.5,"nasconv_0":"k6p2"}'
    assert Architecture.from_json(ONE.to_json()) == ONE


def test_it_is_a_mapping_that_can_be_a_key() -> None:
    assert dict(ONE) == {"c3_2": 1.5, "nasconv_0": "k6p2"}
    assert len(ONE) == 2 and list(ONE) == ["c3_2", "nasconv_0"]
    assert {ONE: 1}[Architecture({"nasconv_0": "k6p2", "c3_2": 1.5})] == 1


def test_nothing_changes_it() -> None:
    choices = {"c3_2": 1.5}
    one = Architecture(choices)
    choices["c3_2"] = 2.0
    assert one["c3_2"] == 1.5
    assert one.with_value("c3_2", 2.0)["c3_2"] == 2.0 and one["c3_2"] == 1.5
    with pytest.raises(AttributeError):
        one.choices = {}  # type: ignore[misc]


def test_it_survives_the_way_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(ONE)) == ONE


def test_the_examples_in_the_docstrings_hold() -> None:
    result = doctest.testmod(architecture)
    assert result.attempted and not result.failed
