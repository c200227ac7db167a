"""Options put in the place of a network's own, on YOLOv5's models with random weights and statistics."""

import random

import pytest
import torch
from test_mapping import smooth, space_of, trained
from torch.optim.swa_utils import update_bn

from yolov5_nas.errors import UserError
from yolov5_nas.files import shipped
from yolov5_nas.space.compile import derive
from yolov5_nas.space.model_yaml import read_model_yaml
from yolov5_nas.space.space import Space
from yolov5_nas.weights.importance import taylor
from yolov5_nas.weights.mapping import inherit
from yolov5_nas.weights.replacement import Parent, Prefixes, convs_of, run_layers
from yolov5_nas.weights.source import architecture_of, read_source

IMAGES = smooth(96, 1)
BATCHES = list(smooth(8, 2).split(4))
SPACE = space_of("n_elastic")


def network(host, space, architecture=None):
    model = trained(host.build(derive(space, architecture or space.default()))).float()
    update_bn([IMAGES], model)
    return model.eval()


@pytest.fixture(scope="module")
def parent(host):
    return Parent(host, network(host, SPACE), SPACE, IMAGES)


def with_values(**values):
    return {**SPACE.default(), **values}


def raw(parent, architecture, model=None):
    model, prefixes = model or parent.child(architecture), Prefixes(parent.model, BATCHES)
    return [torch.cat([x.flatten(1) for x in y], 1) for y in parent.outputs(architecture, model, prefixes)]


def missed(parent, architecture, model=None):
    """Share of the variance of what the parent predicts that a child does not."""
    own, theirs = torch.cat(raw(parent, architecture, model)), torch.cat(raw(parent, SPACE.default()))
    return float((own - theirs).square().mean() / theirs.var())


# What a network is ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_an_architecture_is_read_from_its_network(host, seed):
    architecture = SPACE.sample(random.Random(seed))
    source = read_source(network(host, SPACE, architecture), SPACE, "w.pt")
    assert architecture_of(source, SPACE, "w.pt") == architecture


def test_values_that_the_yaml_lacks_are_read_too_and_become_options(host):
    model, _ = read_model_yaml(shipped("models") / "yolov5n_nas.yaml")
    own = {"c3_2": 0.5, "c3_4_depth": 1, "nasconv_0": "k4p1", "nasconv_3_act": "Hardswish"}
    space = Space.from_dict({**model, "default": own})
    assert {label: space.default()[label] for label in own} == own
    assert space.choices["c3_4_depth"].options == (2, 1) and 0.5 in space.choices["c3_2"].options
    plain = Space.from_dict(model)
    source = read_source(network(host, space), plain, "w.pt")
    found = architecture_of(source, plain, "w.pt")
    assert {label: found[label] for label in own} == own


def test_a_layer_of_the_users_own_is_named(host):
    model = network(host, SPACE)
    model.model[6].m[0].cv1.act = torch.nn.ReLU()
    with pytest.raises(UserError, match="layer 6 has other activations within than SiLU"):
        architecture_of(read_source(model, SPACE, "w.pt"), SPACE, "w.pt")


# What becomes of it ---------------------------------------------------------------------------------------------------


def test_without_a_replacement_a_child_is_its_parent_bit_by_bit(parent):
    model = parent.trained
    with torch.no_grad():
        expected = [torch.cat([x.flatten(1) for x in model(images)[1]], 1) for images in BATCHES]
    assert all(torch.equal(a, b) for a, b in zip(raw(parent, SPACE.default()), expected))
    child = parent.child(SPACE.default()).state_dict()
    assert all(torch.equal(value, child[name]) for name, value in model.state_dict().items())


def test_what_comes_before_the_first_replacement_stays_the_parents(parent):
    architecture = with_values(c3_13=0.5)
    child, own = parent.child(architecture).state_dict(), parent.model.state_dict()
    before = [name for name in own if int(name.split(".")[1]) < 13]
    assert len(before) > 100 and all(torch.equal(own[name], child[name]) for name in before)
    assert not torch.equal(own["model.17.cv3.conv.weight"], child["model.17.cv3.conv.weight"])  # makes up for it


# Those that gain a tenth or more even where weights are random.
CHANGES = [
    {"c3_4": 0.5},
    {"c3_6_depth": 2, "nasconv_5_act": "ReLU", "c3_13": 0.5},
    {"nasconv_3_act": "ReLU"},
    {"nasconv_0": "k4p1"},
    {"c3_2": 0.5, "nasconv_3_act": "ReLU", "c3_17": 0.5},
]


def test_frozen_layers_are_not_solved(host, parent):
    frozen = Parent(host, parent.trained, SPACE, IMAGES, frozen=[6])
    own, theirs = (p.child(with_values(c3_4=0.5)).state_dict() for p in (frozen, parent))
    weights = [name for name in own if name.startswith("model.6.")]
    assert all(torch.equal(own[name], parent.model.state_dict()[name]) for name in weights)
    assert not all(torch.equal(theirs[name], own[name]) for name in weights)


@pytest.mark.parametrize("values", CHANGES, ids=str)
def test_a_child_is_nearer_to_its_parent_than_mapped_weights_are(parent, values):
    architecture = with_values(**values)
    mapped, _ = parent._mapped(parent.source, parent.space, architecture)
    assert missed(parent, architecture) < missed(parent, architecture, mapped)


def test_it_computes_what_yolov5_computes_of_it_the_same_each_time(parent):
    """Also where the layer is written out line by line, and whatever else was asked in between."""
    architecture = with_values(**{"c3_6": 0.5, "nasconv_6-2_act": "ReLU"})
    first = raw(parent, architecture)
    raw(parent, with_values(c3_2=0.5))
    child = parent.child(architecture)
    with torch.no_grad():
        whole = [torch.cat([x.flatten(1) for x in child(images)[1]], 1) for images in BATCHES]
    assert all(torch.equal(a, b) for a, b in zip(first, whole))
    assert child.training is False and all(m.momentum == 0.03 for m in child.modules() if hasattr(m, "momentum"))


@pytest.mark.parametrize("values", CHANGES, ids=str)
def test_a_training_begins_with_the_network_that_was_solved(parent, values):
    """Batches give the statistics that it has, though it was solved at places that were drawn otherwise."""
    models = parent.child(with_values(**values)), parent.start(with_values(**values))
    with torch.no_grad():
        child, start, trained = (
            torch.cat([x.flatten() for x in y]) for y in (*(m(IMAGES)[1] for m in models), models[1].train()(IMAGES))
        )
    assert torch.allclose(child, start, atol=1e-3)
    assert (start - trained).square().mean() < 1e-6 * start.var()


def test_the_parent_is_never_written_to(host, parent):
    before = {name: value.clone() for name, value in parent.model.state_dict().items()}
    for values in CHANGES[:3]:
        raw(parent, with_values(**values))
    assert all(torch.equal(value, before[name]) for name, value in parent.model.state_dict().items())


def test_layers_before_a_replacement_are_run_once(parent, monkeypatch):
    calls = []

    def counted(model, images, start, end, kept):
        calls.append((model is parent.model, start, end))
        return run_layers(model, images, start, end, kept)

    monkeypatch.setattr("yolov5_nas.weights.replacement.run_layers", counted)
    prefixes = Prefixes(parent.model, BATCHES)
    for width in (0.5, 0.75):
        list(parent.outputs(with_values(c3_23=width), parent.child(with_values(c3_23=width)), prefixes))
    own = [(start, end) for is_parent, start, end in calls if is_parent and end > start]
    # Objects, what writers give, what the layer gives within, what comes before it; and each batch.
    assert len(own) <= 4 + len(BATCHES)


def test_grouped_convolutions_are_not_solved(host):
    """Batch norm gets its statistics all the same."""
    model, _ = read_model_yaml(shipped("models") / "yolov5n_elastic.yaml")
    model["backbone"][3] = [-1, 1, "NASConv", [256, 3, 2, None, 4, {"kernel": [3, 5], "act": ["SiLU", "ReLU"]}]]
    space = Space.from_dict({**model, "nc": 4})
    own = Parent(host, network(host, space), space, IMAGES)
    child = own.child({**space.default(), "nasconv_3_act": "ReLU"})
    conv, theirs = child.model[3], own.model.model[3]
    assert torch.equal(conv.conv.weight, theirs.conv.weight)
    assert not torch.equal(conv.bn.running_mean, theirs.bn.running_mean)


# Inside a layer -------------------------------------------------------------------------------------------------------


def taught(host, model):
    """The baseline of a network whose channels' importance is known."""
    known = taylor(model, ((x, None) for x in IMAGES[:32].split(4)), lambda raw, _: sum(x.square().mean() for x in raw))
    return Parent(host, model, SPACE, IMAGES, importances=known)


def widened(host, layer):
    """A network half of whose hidden channels in a layer are copies of the others, and its narrow architecture."""
    narrow = with_values(**{f"c3_{layer}": 0.5})
    source = read_source(network(host, SPACE, narrow), SPACE, "narrow")
    model = host.build(derive(SPACE, SPACE.default())).float().eval()
    model.load_state_dict(inherit(source, SPACE, SPACE.default()).state)
    return model, narrow


@pytest.mark.parametrize("layer", [4, 17])  # with a shortcut, and without one
def test_channels_that_are_copies_of_others_are_no_loss(host, layer):
    """Their importance alone keeps both of some pairs and none of others, which misses a tenth and more."""
    model, narrow = widened(host, layer)
    assert missed(taught(host, model), narrow) < 1e-3


def missed_within(model, targets, origins):
    """Share of the variance that each convolution misses of what the parent's gives at the channels that it keeps."""
    given = {}

    def keep(name):
        return lambda module, args, output: given.update({name: output.clone()})  # the activation works in place

    convs = {name: conv for name, conv in convs_of(model, SPACE).items() if name in targets}
    handles = [conv.bn.register_forward_hook(keep(name)) for name, conv in convs.items()]
    with torch.no_grad():
        model(IMAGES)
    for handle in handles:
        handle.remove()
    misses = {}
    for name, output in given.items():
        places, values = targets[name]
        wanted = values[:, origins[name].channels]
        misses[name[1]] = float((places.of(output) - wanted).square().mean() / wanted.var())
    return misses


def test_the_convolutions_in_a_narrower_layer_give_what_the_parents_give_at_the_kept_channels(host):
    own, architecture = taught(host, network(host, SPACE)), with_values(c3_4=0.75)
    mapped, inherited = own._mapped(own.source, SPACE, architecture)
    targets = own._inner([4])
    assert [name for _, name in targets] == ["cv1", "cv2", "m.0.cv1", "m.0.cv2", "m.1.cv1", "m.1.cv2"]
    before, after = (missed_within(model, targets, inherited.origins) for model in (mapped, own.child(architecture)))
    assert all(after[name] < before[name] for name in ("m.0.cv1", "m.0.cv2", "m.1.cv1", "m.1.cv2"))
    assert max(after["cv1"], after["cv2"]) < 1e-3  # they read all that they read before


def test_what_reads_nothing_keeps_its_weights(host):
    """A layer whose outputs are all 0, before one that is reconstructed."""
    model = network(host, SPACE)
    for x in (model.model[3].bn.weight, model.model[3].bn.bias):
        x.data.zero_()
    own = Parent(host, model, SPACE, IMAGES[:1])
    child = own.child(with_values(c3_4=0.5))
    assert all(value.isfinite().all() for value in child.state_dict().values())
    weight = child.model[4].cv1.conv.weight
    assert any(torch.equal(weight[0], row) for row in own.model.model[4].cv1.conv.weight)


def test_prefixes_beyond_their_limit_are_computed_again(parent):
    kept, none = Prefixes(parent.model, BATCHES), Prefixes(parent.model, BATCHES, limit=0)
    for line in (4, 9, 2):
        for (_, a), (_, b) in zip(kept.before(line), none.before(line)):
            assert all(x is y is None or torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert all(outputs == [] for _, outputs in none.kept) and all(outputs for _, outputs in kept.kept)
