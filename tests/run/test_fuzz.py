"""Model, data and hyper-parameter YAMLs, broken at random: each is taken as YOLOv5 takes it, or refused with a reason.

What stock YOLOv5 builds and this refuses:

- repeats or anchors above 1000, which stock builds until the memory is full;
- numbers of channels, kernels, strides and the like that are no whole numbers above 0 in searchable lines, whose
  options are worked out from them;
- `anchors` with another number of rows than Detect reads, of which stock ignores some;
- `names` whose keys are not 0, 1, 2, ...: labels of a class above their number would not be seen before the training;
- negative hyper-parameters, `momentum` of 1 or more and `anchor_t` of 0, with which trainings fail or learn nothing.
"""

import random
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from datasets import write_data
from inline import inline, untrained

from yolov5_nas.cli import main
from yolov5_nas.errors import UserError
from yolov5_nas.files import shipped
from yolov5_nas.records.journal import read_journal
from yolov5_nas.records.options import Options
from yolov5_nas.run.prepare import prepare
from yolov5_nas.space.compile import derive, stock_form
from yolov5_nas.space.space import Space

VALUES = (
    *(None, True, False, "x", "", "1e-3", "None", -1, 0, 1, 2, 3, 7, 64, 1.5, 0.33, -0.5, 1e6, 10**9, 10**30),
    *(float("inf"), float("nan"), [], [1], [[]], {}, {"a": 1}, "nn.SiLU()", "Conv", "NASConv", "a" * 5000),
)


def places(tree, path=()):
    """The paths of all values of a tree, containers included."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def mutated(tree, rng):
    """A copy with one to three changes."""
    tree = deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        *way, last = rng.choice(list(places(tree)) or [("x",)])
        parent = tree
        for key in way:
            parent = parent[key]
        change = rng.choice(("value", "value", "sign", "drop", "extra", "double", "swap"))
        value = parent.get(last) if isinstance(parent, dict) else parent[last]
        if change == "value":
            parent[last] = rng.choice(VALUES)
        elif change == "sign" and isinstance(value, int | float):
            parent[last] = -value
        elif change == "drop":
            parent.pop(last, None) if isinstance(parent, dict) else parent.pop(last)
        elif change == "extra" and isinstance(parent, dict):
            parent[rng.choice(("extra", 3, None, "act", "imgsz"))] = rng.choice(VALUES)
        elif isinstance(parent, list):
            other = rng.randrange(len(parent))
            if change == "double":
                parent.insert(other, deepcopy(value))
            else:
                parent[last], parent[other] = parent[other], parent[last]
    return tree


def broken_text(text, rng):
    """A file's bytes with something in them that is no YAML, or none of this encoding."""
    content = text.encode()
    at = rng.randrange(len(content))
    return rng.choice(
        (
            b"\xef\xbb\xbf" + content,
            content[:at],
            content[:at]
            + rng.choice((b"\x00", b"\xff\xfe", b"\t", b"{", b"'", b": ", b"\xe9", b"&a", b"*b"))
            + content[at:],
            text.encode("utf-16"),
            content.replace(b"\n", b"\r\n"),
            b"",
        )
    )


@pytest.fixture(scope="module")
def valid(host, tmp_path_factory):
    """A valid file of each kind."""
    folder = tmp_path_factory.mktemp("valid")
    return {
        "cfg": shipped("models") / "yolov5n_elastic.yaml",
        "data": write_data(folder / "set", labels=("0 .5 .5 .1 .1", "1 .5 .5 .2 .2")),
        "hyp": shipped("data") / "hyp.short.yaml",
    }


def mutation(seed, valid, folder):
    """The three files, one of which is broken."""
    rng = random.Random(seed)
    kind = rng.choice(("cfg", "cfg", "data", "hyp"))
    files, text = dict(valid), valid[kind].read_text()
    files[kind] = folder / f"{kind}.yaml"
    if rng.random() < 0.2:
        files[kind].write_bytes(broken_text(text, rng))
    else:
        files[kind].write_text(yaml.safe_dump(mutated(yaml.safe_load(text), rng)))
    return {name: str(path) for name, path in files.items()}


def stock_size(host, files):
    """The parameters of what the host's `train.py` would build of these files."""
    texts = {name: Path(path).read_text(errors="ignore") for name, path in files.items()}
    model, hyp, data = (yaml.safe_load(texts[name]) for name in ("cfg", "hyp", "data"))
    nc = len(data["names"]) if data.get("names") else data["nc"]
    anchors = float(hyp.get("anchors") or 0) or None
    return sum(p.numel() for p in host.build({**stock_form(model), "nc": nc}, anchors=anchors).parameters())


@pytest.mark.parametrize("first", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(50, 500, 50))])
def test_a_broken_file_is_taken_as_stock_takes_it_or_refused(host, valid, tmp_path, first, monkeypatch):
    monkeypatch.chdir(tmp_path)
    taken = 0
    for seed in range(first, first + 50):
        files = mutation(seed, valid, tmp_path)
        before = sorted(tmp_path.iterdir())
        try:
            found = prepare(Options(**files, device="cpu", engine="local", imgsz=64))
        except UserError as e:
            assert "\n" not in str(e) and len(str(e)) < 3000, seed
        else:
            taken += 1
            space = Space.from_dict(found.model)
            if all(choice.is_stock for choice in space.choices.values()):
                own = sum(p.numel() for p in host.build(derive(space, space.default())).parameters())
                assert own == stock_size(host, files), seed
        assert sorted(tmp_path.iterdir()) == before, seed
    assert 5 <= taken <= 45  # both are tried


@pytest.mark.parametrize("first", [1000, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1004, 1020, 4))])
def test_so_it_is_on_the_command_line(host, valid, tmp_path, capsys, first, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in range(first, first + 4):
        files = mutation(seed, valid, tmp_path)
        argv = [word for name, path in files.items() for word in (f"--{name}", path)]
        argv += ["--project", f"runs{seed}", "--epochs", "1", "--trials", "1", "--imgsz", "64", "--device", "cpu"]
        with inline(), untrained():
            code = main(["search", *argv, "--engine", "local"])
        err = capsys.readouterr().err
        assert "Traceback" not in err
        if code == 2:
            assert len(err.splitlines()) == 1 and err.startswith("error: ")
            assert not (tmp_path / f"runs{seed}").exists()
        else:
            (record,) = read_journal(tmp_path / f"runs{seed}/exp")
            assert (code, record.state) == (0, "complete")
            assert record.metrics["params"] == stock_size(host, files)


def test_a_rate_that_diverges_is_a_failed_trial(host, digits_yaml, tmp_path):
    hyp = tmp_path / "hyp.yaml"
    hyp.write_text((shipped("data") / "hyp.short.yaml").read_text().replace("lr0: 0.004", "lr0: 1e6", 1))
    flags = ["--hyp", hyp, "--data", digits_yaml, "--project", tmp_path, "--subset", "0.1", "--imgsz", "64"]
    flags += ["--epochs", "2", "--trials", "1", "--device", "cpu", "--engine", "local", "--optimizer", "SGD"]
    with inline():
        assert main(["search", *map(str, flags)]) == 1
    (record,) = read_journal(tmp_path / "exp")
    assert (record.state, record.error["reason"]) == ("failed", "nan")
