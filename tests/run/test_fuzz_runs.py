"""Run folders, broken at random: `--resume`, `report`, `export` and `prove` do as they should, or say why not.

What is taken though it was changed is what nobody could know: another number in a journal's line, say.
"""

import json
import random
import shutil

import pytest
import yaml
from datasets import write_data
from inline import inline, untrained
from old_runs import copied
from test_fuzz import broken_text, mutated

from yolov5_nas.cli import main

COMMANDS = {  # and how often each is tried; a search is told to train no more, since it has what it asked for
    "report": (["report", "{}"], 10),
    "export": (["export", "{}", "--trial", "1", "--out", "{}/mine"], 6),
    "resume": (["search", "--resume", "{}"], 2),
    "prove": (["prove", "{}", "--top", "1", "--epochs", "1", "--seeds", "1"], 2),
}
READ = (  # what these commands read, and how often each is broken
    *("trials.jsonl",) * 6,
    *("search.yaml", "space.yaml", "prove/trials.jsonl", "prove/prove.yaml", "judged.json", "deployed.json") * 2,
    *("hyp.yaml", "hyp.inherit.yaml", "audit/trials.jsonl", "confirmed/trials.jsonl", "prove/judged.json"),
    *("trials/1/model.yaml", "trials/0/weights.pt", "trials/1/weights.pt", "best/architecture.json"),
)
JUDGED = {"split": "test", "images": 4, "parent": "a", "networks": {"a": {"map50_95": 0.1, "low": 0.0, "high": 0.1}}}
DEPLOYED = {
    "rows": [
        {
            "number": 1,
            "name": "trial 1",
            "form": ["onnx", "fp32"],
            "metrics": {"map50_95": 0.1, "megabytes": 2.0},
            "conditions": {"batch": 1},
            "kept": [],
            "believed": None,
            "problem": "",
        }
    ],
    "reference": "stock",
    "margin": 0.005,
}


def broken_lines(lines, rng):
    """A journal with lines missing, torn, doubled, in another order, of another version or with other values."""
    at = rng.randrange(len(lines))
    change = rng.choice(("value", "value", "value", "drop", "double", "swap", "tear", "version", "none", "bytes"))
    if change in ("value", "version"):
        entries = json.loads(lines[at])
        if change == "version":
            entries["version"] = rng.choice((1, 2, 3, 99, "2", None, 1.5))
            entries["of_tomorrow"] = {"a": 1}
        lines[at] = json.dumps(entries if change == "version" else mutated(entries, rng)).encode() + b"\n"
    elif change == "drop":
        del lines[at]
    elif change == "double":
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif change == "swap":
        rng.shuffle(lines)
    elif change == "tear":
        lines[at:] = [lines[at][: rng.randrange(len(lines[at]))]]
    elif change == "bytes":
        cut = rng.randrange(len(lines[at]))
        lines[at] = lines[at][:cut] + rng.choice((b"\x00", b"\xff", b"\n", b"{", b'"')) + lines[at][cut:]
    return b"".join(lines) if change != "none" else b""


def swap_one(run, rng):
    """Give a run another data set, YOLOv5 or weights, and say which."""
    options = yaml.safe_load((run / "search.yaml").read_text())
    other = rng.choice(("data", "no data", "yolov5", "weights"))
    if other == "weights":
        shutil.copy(run / "trials/2/weights.pt", run / f"trials/{rng.choice((0, 1))}/weights.pt")
    else:
        data = {"data": write_data(run.parent / "other"), "no data": "/nowhere/data.yaml"}
        options |= {"yolov5": "/nowhere"} if other == "yolov5" else {"data": str(data[other])}
        (run / "search.yaml").write_text(yaml.safe_dump(options))
    return other


def break_one(run, rng):
    """Break one of a run's files, and return its name."""
    if rng.random() < 0.1:
        return swap_one(run, rng)
    path = run / rng.choice([name for name in READ if (run / name).exists()])
    change = rng.random()
    if change < 0.1:
        path.unlink()
        if rng.random() < 0.3:
            path.mkdir()
    elif path.suffix == ".jsonl":
        path.write_bytes(broken_lines(path.read_bytes().splitlines(keepends=True), rng))
    elif path.suffix == ".pt":
        content = path.read_bytes()
        path.write_bytes(rng.choice((b"", content[: rng.randrange(len(content))], b"text", content[::-1])))
    elif change < 0.3:
        path.write_bytes(broken_text(path.read_text(), rng))
    elif path.suffix == ".json":
        path.write_text(json.dumps(mutated(json.loads(path.read_text()), rng)))
    else:
        path.write_text(yaml.safe_dump(mutated(yaml.safe_load(path.read_text()), rng)))
    return path.relative_to(run)


def state(run):
    """What a folder holds."""
    return {
        str(path.relative_to(run)): path.read_bytes() if path.is_file() else None
        for path in run.rglob("*")
        if path.name != ".lock"
    }


@pytest.fixture(scope="module")
def whole(host, digits_yaml, tmp_path_factory):
    """A run that was finished, proved and deployed, and which the others are copies of."""
    run = copied("finished", host, digits_yaml, tmp_path_factory.mktemp("whole"))
    (run / "judged.json").write_text(json.dumps(JUDGED))
    (run / "deployed.json").write_text(json.dumps(DEPLOYED))
    shutil.copytree(run / "audit", run / "confirmed")
    with inline(), untrained():
        assert main(["search", "--resume", str(run)]) == 0  # which writes what the version before did not
    return run


def try_one(seed, whole, folder, capsys):
    """Break a copy of a run, call a command on it, and return its exit code."""
    rng = random.Random(seed)
    run = shutil.copytree(whole, folder / f"{seed}")
    name = rng.choice([name for name, (_, times) in COMMANDS.items() for _ in range(times)])
    broken = break_one(run, rng)
    before = state(run)
    capsys.readouterr()
    code = main([word.format(run) for word in COMMANDS[name][0]])
    err = capsys.readouterr().err
    where = f"seed {seed}: {name} with another {broken}: {code} {err[-300:]}"
    assert code in (0, 1, 2), where
    if code == 2:
        lines = err.splitlines()
        assert err.count("error: ") == 1 and "error: " in lines[-1] and len(lines[-1]) < 3000, where
        assert state(run) == before, where
    shutil.rmtree(run)
    return code


@pytest.mark.parametrize("first", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (100, 200))])
def test_a_broken_run_is_read_right_or_refused_and_stays_as_it_is(whole, tmp_path, capsys, first):
    with inline(), untrained():
        codes = [try_one(seed, whole, tmp_path, capsys) for seed in range(first, first + 100)]
    assert 10 < codes.count(2) < 60 and codes.count(0) > 40  # both are tried
