# ruff: noqa: E501 (one line for each bad line)
from __future__ import annotations

import doctest
import random
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import MODELS

from yolov5_nas.errors import UserError
from yolov5_nas.space import arithmetic, space
from yolov5_nas.space.choices import Choice, size_of
from yolov5_nas.space.layers import C3Layer
from yolov5_nas.space.space import Space

TINY = """\
nc: 2
depth_multiple: 1.0
width_multiple: 1.0
anchors:
  - [10, 13]
backbone:
  - [-1, 1, NASConv, [16, 3, 2]]
  - [-1, 2, NASC3, [32]]
head:
  - [[1], 1, Detect, [nc, anchors]]
"""
CONV, C3 = "[-1, 1, NASConv, [16, 3, 2]]", "[-1, 2, NASC3, [32]]"


def read(tmp_path: Path, text: str, **options: Any) -> Space:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    return Space.from_yaml(path, **options)


def options(space: Space) -> dict[str, tuple[Any, ...]]:
    return {label: choice.options for label, choice in space.choices.items()}


def conv_options(tmp_path: Path, args: str) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    space = read(tmp_path, TINY.replace(CONV, f"[-1, 1, NASConv, {args}]"))
    return space.choices["nasconv_0"].options, space.choices["nasconv_0_act"].options


def c3_options(tmp_path: Path, args: str) -> dict[str, tuple[Any, ...]]:
    return options(read(tmp_path, TINY.replace(C3, f"[-1, 2, NASC3, {args}]")))


# What the shipped files offer -----------------------------------------------------------------------------------------


def test_the_plain_file_has_the_size_that_the_design_promises() -> None:
    assert Space.from_yaml(MODELS / "yolov5s_nas.yaml").size == 9 * 6**4 * 108**4 == 1586874322944


@pytest.mark.parametrize("size", "nsmlx")
def test_every_size_of_the_plain_file_has_the_same_choices(size: str) -> None:
    assert options(Space.from_yaml(MODELS / f"yolov5{size}_nas.yaml")) == options(
        Space.from_yaml(MODELS / "yolov5s_nas.yaml")
    )


def test_the_plain_file_offers_what_the_design_lists() -> None:
    choices = Space.from_yaml(MODELS / "yolov5s_nas.yaml").choices
    assert choices["nasconv_0"].options == ("k6p2", "k4p1", "k8p3")
    assert choices["nasconv_1"].options == ("k3p1", "k5p2")
    assert choices["nasconv_1_act"].options == ("SiLU", "Identity", "ReLU")
    assert [label for label in choices if "_2" in label] == [
        *("c3_2", "nasconv_2-1", "nasconv_2-1_act", "nasconv_2-2", "nasconv_2-2_act")
    ]
    assert choices["c3_2"].options == (1.0, 1.5, 2.0)
    assert choices["nasconv_2-1"].options == ("k1p0", "k3p1")
    assert choices["nasconv_2-2_act"].options == ("SiLU", "Identity", "ReLU")


@pytest.mark.parametrize("size", "nsmlx")
def test_the_elastic_file_shrinks_and_grows_and_reaches_into_the_head(size: str) -> None:
    space = Space.from_yaml(MODELS / f"yolov5{size}_elastic.yaml")
    assert space.choices["c3_23"].options == (0.5, 0.75, 1.0, 1.5)
    assert space.choices["nasconv_0_act"].options == ("SiLU", "ReLU", "Hardswish")
    for layer in (layer for layer in space.layers.values() if isinstance(layer, C3Layer)):
        assert layer.depth and layer.depth.default == layer.repeats  # the default is stock's
        assert space.choices[f"c3_{layer.index}"].default == 1.0


# Small cases worked out by hand ---------------------------------------------------------------------------------------


def test_a_tiny_space_is_counted_as_on_paper(tmp_path: Path) -> None:
    assert read(tmp_path, TINY).size == (2 * 3) * (3 * 2 * 3 * 2 * 3)


def test_a_kernel_keeps_the_output_size_of_the_given_one(tmp_path: Path) -> None:
    assert conv_options(tmp_path, "[16, 1]")[0] == ("k1p0", "k3p1")  # no kernel of -1
    assert conv_options(tmp_path, "[16, 6, 2, 2]")[0] == ("k6p2", "k4p1", "k8p3")
    assert conv_options(tmp_path, "[16, 3, 1, None, 1, 2]")[0] == ("k3p2", "k5p4")  # dilated; k1p0 needs less than p
    assert conv_options(tmp_path, "[16, 3, 1, 2, 1, 2]")[0] == ("k3p2", "k1p0", "k5p4")  # p is given
    assert conv_options(tmp_path, "[16, 4, 4, 0]")[0] == ("k4p0", "k2p0", "k6p1", "k6p2")
    assert conv_options(tmp_path, "[16, 6, 2, 2, {kernel: [6, 3]}]")[0] == ("k6p2", "k3p1")


def test_the_kernel_options_keep_the_output_size_for_real(tmp_path: Path) -> None:
    for k, s, p in ((6, 2, 2), (3, 2, None), (3, 1, 0), (5, 1, None), (4, 4, 0), (7, 2, 3), (2, 2, 0)):
        sizes = {
            (64 + 2 * p_ - k_) // s + 1 for k_, p_ in map(arithmetic.parse_kernel, arithmetic.plain_kernels(k, s, p))
        }  # fmt: skip
        assert len(sizes) == 1


def test_an_activation_of_the_line_or_of_the_file_is_the_default(tmp_path: Path) -> None:
    assert conv_options(tmp_path, "[16, 3, 2, None, 1, 1, nn.ReLU()]")[1] == ("ReLU", "SiLU", "Identity")
    assert conv_options(tmp_path, "[16, 3, 2, None, 1, 1, False]")[1] == ("Identity", "SiLU", "ReLU")
    leaky = options(read(tmp_path, "activation: nn.LeakyReLU(0.1)\n" + TINY))
    assert leaky["nasconv_0_act"] == ("LeakyReLU(0.1)", "SiLU", "Identity", "ReLU") == leaky["nasconv_1-2_act"]


def test_a_mapping_overrides_the_options(tmp_path: Path) -> None:
    found = c3_options(tmp_path, "[32, {width: [0.5, 1], depth: [1, 2, 5], kernel: [1], act: [SiLU, nn.ELU()]}]")
    assert found["c3_1"] == (0.5, 1.0)
    assert found["c3_1_depth"] == (1, 2, 5)
    assert found["nasconv_1-1"] == found["nasconv_1-2"] == ("k1p0",)
    assert found["nasconv_1-1_act"] == found["nasconv_1-2_act"] == ("SiLU", "ELU")


def test_a_default_that_is_no_option_gives_way_to_the_first(tmp_path: Path) -> None:
    space = read(tmp_path, TINY.replace("[32]", "[32, {width: [2.0, 3.0], depth: [7, 9]}]"))
    assert (space.default()["c3_1"], space.default()["c3_1_depth"]) == (2.0, 7)


def test_widths_that_round_to_the_same_channels_are_one_option(tmp_path: Path) -> None:
    # hidden channels of [32]: 16; x 0.5 = 8, x 0.6 = 9.6 -> 16 as 1.0 is, x 1.1 -> 24, x 1.5 = 24
    assert c3_options(tmp_path, "[32, {width: [0.5, 0.6, 1.0, 1.1, 1.5]}]")["c3_1"] == (0.5, 1.0, 1.1)


def test_multiples_scale_widths_and_repeats_as_yolov5_does(tmp_path: Path) -> None:
    text = TINY.replace("depth_multiple: 1.0", "depth_multiple: 0.33").replace(
        "width_multiple: 1.0", "width_multiple: 1.4"
    )
    conv, c3 = read(tmp_path, text).layers.values()
    assert (conv.c2, c3.c2, c3.repeats) == (24, 48, 1)  # 22.4 and 44.8 rounded up to a multiple of 8; round(0.66)


def test_nc_and_imgsz_can_be_given(tmp_path: Path) -> None:
    text = TINY + "imgsz: [64, 128, 96]\n"
    assert read(tmp_path, text, nc=5).yaml["nc"] == 5
    assert read(tmp_path, text).default()["imgsz"] == 128
    assert read(tmp_path, text, imgsz=96).default()["imgsz"] == 96
    assert read(tmp_path, text).size == 3 * read(tmp_path, TINY).size


# Working with a space -------------------------------------------------------------------------------------------------


def test_at_counts_through_every_architecture_once(tmp_path: Path) -> None:
    space = read(tmp_path, TINY)
    everything = [space.at(i) for i in range(space.size)]
    assert len({a.id for a in everything}) == space.size
    assert everything[0] == space.default()
    assert not any(map(space.check, everything))
    with pytest.raises(IndexError, match="0 <= index < 648"):
        space.at(space.size)


def test_the_same_seed_samples_the_same_architectures() -> None:
    space = Space.from_yaml(MODELS / "yolov5n_elastic.yaml")
    first, again = ([space.sample(random.Random(seed)) for seed in range(20)] for _ in range(2))
    assert first == again
    assert len({a.id for a in first}) == 20
    assert not any(map(space.check, first))


def test_mutation_and_neighbours_change_exactly_one_label(tmp_path: Path) -> None:
    space = read(tmp_path, TINY)
    default = space.default()
    neighbours = list(space.neighbours(default))
    assert len(neighbours) == sum(len(o) - 1 for o in options(space).values())
    for other in [*neighbours, *(space.mutate(default, random.Random(seed)) for seed in range(50))]:
        assert sum(other[label] != default[label] for label in space.choices) == 1


def test_a_space_of_one_architecture_mutates_to_itself(tmp_path: Path) -> None:
    text = TINY.replace("[16, 3, 2]", "[16, 3, 2, {kernel: [3], act: [SiLU]}]")
    space = read(tmp_path, text.replace("[32]", "[32, {width: [1.0], kernel: [1], act: [SiLU]}]"))
    assert space.size == 1
    assert space.mutate(space.default(), random.Random(0)) == space.default()


def test_check_and_validate_agree(tmp_path: Path) -> None:
    space = read(tmp_path, TINY)
    good = space.default()
    assert space.check(good) is None
    space.validate(good)
    for bad, message in (
        (good.with_value("c3_9", 1.0), "labels must be the space's, got 'c3_9'"),
        (good.with_value("c3_1", 0.3), r"c3_1 must be one of its options, got 0.3; accepted: 1.0, 1.5, 2.0"),
        ({k: v for k, v in good.items() if k != "nasconv_0"}, "must have a value for nasconv_0; accepted: k3p1, k5p2"),
    ):
        with pytest.raises(UserError, match=message):
            space.validate(bad)


def test_reading_and_sampling_take_milliseconds() -> None:
    start = time.process_time()
    space = Space.from_yaml(MODELS / "yolov5x_elastic.yaml")
    for seed in range(1000):
        space.sample(random.Random(seed))
    assert time.process_time() - start < 3


def test_the_examples_in_the_docstrings_hold() -> None:
    for module in (arithmetic, space):
        result = doctest.testmod(module)
        assert result.attempted and not result.failed


# Bad input: one clear line, with the file and the line ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (CONV, "[-1, 1, NASConv, [16, 3, 2, {kernels: [3]}]]", ":7: unknown option of NASConv, got 'kernels'; accepted: kernel, act"),
        (CONV, "[-1, 1, NASConv, [16, 3, 2, {width: [1]}]]", ":7: unknown option of NASConv, got 'width'"),
        (C3, "[-1, 2, NASC3, [32, {stride: [1]}]]", ":8: unknown option of NASC3, got 'stride'; accepted: width, depth, kernel, act"),
        (C3, "[-1, 2, NASC3, [32, {width: 1.5}]]", ":8: NASC3 width must be a list of options, got 1.5"),
        (C3, "[-1, 2, NASC3, [32, {width: []}]]", r":8: NASC3 width must be a list of options, got \[\]"),
        (C3, "[-1, 2, NASC3, [32, {width: [-1.5]}]]", ":8: NASC3 width must be > 0, got -1.5"),
        (C3, "[-1, 2, NASC3, [32, {width: [1.0, 1.0]}]]", ":8: the options of c3_1 must all be different"),
        (C3, "[-1, 2, NASC3, [32, {depth: [0]}]]", ":8: NASC3 depth must be a whole number of bottlenecks of 1 to 1000, got 0"),
        (C3, "[-1, 2, NASC3, [32, {kernel: [2]}]]", ":8: NASC3 kernel must keep the output size of k1p0 at stride 1.*got 2"),
        (C3, "[-1, 2, NASC3, [32, {kernel: [0]}]]", ":8: NASC3 kernel must be a whole number of 1 to 1000, got 0"),
        (C3, "[-1, 2, NASC3, [32, {act: [Swish]}]]", ":8: NASC3 act must be an activation of torch.nn.*got 'Swish'; accepted: SiLU"),
        (C3, "[-1, 2, NASC3, [32, True, 1, 0.5, 1]]", r":8: NASC3 takes \[c2, shortcut, g, e\]"),
        (C3, "[-1, 2, NASC3, [32, True, 3]]", r":8: NASC3 hidden width must be a multiple of its groups \(3\), got 16"),
        (C3, "[-1, 2, NASC3, [24]]", ":8: NASC3 hidden width must be a multiple of 8 where kernels or activations are searched, got 12"),
        (C3, "[-1, 2, NASC3, [24, {kernel: [3], act: [SiLU]}]]", ":8: NASC3 hidden width must be a multiple of 8"),
        (C3, "[[-1], 2, NASC3, [32]]", r":8: NASC3 must read one layer, got \[-1\]"),
        (C3, "[4, 2, NASC3, [32]]", ":8: from must be -1 or name earlier layers, got 4"),
        (C3, "[-3, 2, NASC3, [32]]", ":8: from must be -1 or name earlier layers, got -3"),
        (C3, "[-1, 0, NASC3, [32]]", ":8: NASC3 needs a number of repeats of at least 1, got 0"),
        (C3, "[-1, 2, NASC3, []]", r":8: NASC3 needs its output channels as first argument, got \[\]"),
        (C3, "[-1, 2, C3, [wide]]", r":8: C3 needs its output channels as first argument, got \['wide'\]"),
        (C3, "[-1, 2, C3, [32, {act: [ReLU]}]]", ":8: only searchable layers take options, C3 does not"),
        (C3, "[-1, 2, NASC2, [32]]", ":8: unknown searchable layer, got 'NASC2'; accepted: NASConv, NASC3"),
        (C3, "[-1, 2, NASC3]", r":8: a layer must be \[from, number, module, args\], got \[-1, 2, 'NASC3'\]"),
        (CONV, "[-1, 1, NASC3, [16]]", ":7: NASC3 can't be the first layer"),
        (CONV, "[-1, 1, NASConv, [16, 3, 2, {kernel: [3.5]}]]", ":7: NASConv kernel must be a whole number of 1 to 1000, got 3.5"),
        (CONV, "[-1, 1, NASConv, [16, 4, 1, {kernel: [3]}]]", ":7: NASConv kernel must keep the output size of k4p2 at stride 1"),
        (CONV, "[-1, 1, NASConv, [16, 3, 2, {kernel: [3, 3]}]]", ":7: the options of nasconv_0 must all be different"),
        (CONV, "[-1, 1, NASConv, [16, None, 2]]", ":7: NASConv k must be a whole number of 1 to 1000"),
        (CONV, "[-1, 1, NASConv, [16, 3, 0]]", ":7: NASConv s must be a whole number of 1 to 1000, got 0"),
        (CONV, "[-1, 1, NASConv, [16, 3, 2, -1]]", ":7: NASConv p must be a whole number of 0 to 1000, got -1"),
        (CONV, "[-1, 1, NASConv, [16, 3, 2, 1, 3]]", r":7: NASConv output channels must be a multiple of its groups \(3\), got 16"),
        (CONV, "[-1, 1, NASConv, [16, 3, 2, 1, 1, 1, FReLU]]", ":7: NASConv act must be an activation of torch.nn"),
        (CONV, "[-1, 1, NASConv, [16, 3, 2, 1, 1, 1, nn.PReLU()]]", ":7: NASConv act must be .* without weights, got 'nn.PReLU"),
        (CONV, "[-1, 1, NASConv, [16, 3, 2, 1, 1, 1, True, 1]]", r":7: NASConv takes \[c2, k, s, p, g, d, act\]"),
        ("nc: 2", "nc: two", ":1: nc must be a whole number above 0, got 'two'"),
        ("nc: 2\n", "", "m.yaml: a model YAML must have the key nc"),
        ("depth_multiple: 1.0", "depth_multiple: 0", ":2: depth_multiple must be a number above 0, got 0"),
        ("[10, 13]", "[10, 13, 16]", r":4: anchors must be a list of widths and heights for each output, as many for each, got \[\[10, 13, 16\]\]"),
        ("nc: 2", "nc: 2\nchannel_multiple: 16", "m.yaml: channel_multiple must be 8"),
        ("nc: 2", "nc: 2\nactivation: FReLU()", r"m.yaml: activation must be an activation of torch.nn.*got 'FReLU\(\)'"),
        ("nc: 2", "nc: 2\nimgsz: []", "m.yaml: imgsz must be a list of different sizes"),
        ("nc: 2", "nc: 2\nimgsz: [64, 64]", "m.yaml: imgsz must be a list of different sizes"),
        ("nc: 2", "nc: 2\nimgsz: [-64]", r"m.yaml: imgsz must be a list of different sizes in pixels, got \[-64\]"),
        ("head:\n", "tail:\n", "m.yaml: a model YAML must have a backbone and a head"),
        ("backbone:\n", "backbone: 3\nspine:\n", "m.yaml: backbone must be a list of layers, got 3"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_with_its_rule_and_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TINY
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, TINY.replace(old, new))
    assert str(error.value).startswith(str(tmp_path / "m.yaml"))
    assert "\n" not in str(error.value)


def test_a_syntax_error_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"m\.yaml:8: invalid YAML") as error:
        read(tmp_path, TINY.replace(C3, C3 + "]"))
    assert error.value.line == 8


def test_a_binary_file_is_no_yaml(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"PK\x03\x04\x00\x00")
    with pytest.raises(UserError, match=r"w\.pt: invalid YAML") as error:
        Space.from_yaml(tmp_path / "w.pt")
    assert "\n" not in str(error.value)


def test_a_stock_yaml_has_nothing_to_search(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"m\.yaml: .*at least one NASConv or NASC3 layer, found none"):
        read(tmp_path, TINY.replace("NAS", ""))


def test_a_dataset_yaml_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"m\.yaml: .*dataset YAML: were --cfg and --data mixed up\?"):
        read(tmp_path, "path: ../coco\ntrain: images\nval: images\nnames: {0: person}\n")


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: the file can't be read \(No such file or directory\)"):
        Space.from_yaml(tmp_path / "none.yaml")


def test_an_imgsz_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--imgsz must be one of the sizes .*got 640; accepted: 64, 128"):
        read(tmp_path, TINY + "imgsz: [64, 128]\n", imgsz=640)


def test_from_dict_names_the_layer_where_there_is_no_line() -> None:
    model = yaml.safe_load(TINY.replace(C3, "[-1, 2, NASC3, [32, {width: [0]}]]"))
    with pytest.raises(UserError, match="model YAML: layer 1: NASC3 width must be > 0, got 0"):
        Space.from_dict(model)


def test_the_size_of_an_option() -> None:
    assert [size_of(option) for option in ("k6p2", "k10p4", 2, 0.5)] == [6, 10, 2, 0.5]
    assert [size_of(option) for option in ("SiLU", "LeakyReLU(0.1)", True)] == [None] * 3
    kernel, act = Choice("a", ("k10p4", "k6p2"), "k6p2"), Choice("b", ("SiLU", "ReLU"), "ReLU")
    assert (kernel.extreme(min), kernel.extreme(max)) == ("k6p2", "k10p4")
    assert kernel.is_sized and not act.is_sized and act.extreme(max) == "ReLU"
