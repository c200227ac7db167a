"""Replacement searches from a checkpoint to reports: real scores and refits, made-up trainings and latencies."""

import html
import json
import os
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml
from inline import inline, untrained

from yolov5_nas import search
from yolov5_nas.cli import main
from yolov5_nas.errors import TrialError, UserError
from yolov5_nas.files import shipped
from yolov5_nas.host.locate import find
from yolov5_nas.records.journal import read_journal, read_lines
from yolov5_nas.records.options import Options
from yolov5_nas.records.reward import Target
from yolov5_nas.records.run_folder import RunFolder
from yolov5_nas.results.judged import read as read_judged
from yolov5_nas.results.replacement import cost_of, keeps, read_table, winners, words
from yolov5_nas.results.report import closing_table
from yolov5_nas.results.rivals import rivals as find_rivals
from yolov5_nas.run.check_parent import with_method
from yolov5_nas.run.planning import best_of
from yolov5_nas.run.rivals import distinct, formed
from yolov5_nas.run.stages import asked_before, with_earlier
from yolov5_nas.space.architecture import Architecture
from yolov5_nas.space.compile import derive
from yolov5_nas.space.space import Space

TARGETS = ("latency_ratio=0.95,0.85",)
STAGES = ("parent", "replacements", "latencies", "plans")


@pytest.fixture(scope="module", autouse=True)
def few_latencies():
    """Each architecture is built twice to be measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yolov5_nas.run.replace.MEASURED", 5)
        patch.setattr("yolov5_nas.run.rivals.SCALES", (0.9, 0.75))
        patch.setattr("yolov5_nas.run.judge.DRAWS", 5)
        patch.setattr("yolov5_nas.run.rivals.LEFT", 0.2)  # 64 px have but 32 below them
        yield


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A YAML in which three layers of yolov5n can shrink."""
    text = (shipped("models") / "yolov5n_elastic.yaml").read_text().splitlines()
    model = yaml.safe_load("\n".join(text))
    kept = {0: {"kernel": [4, 6]}, 6: {"width": [0.5, 0.75, 1.0], "depth": [2, 3]}, 23: {"width": [0.5, 1.0]}}
    rows = [*model["backbone"], *model["head"]]
    for i, row in enumerate(rows):
        if row[2].startswith("NAS"):
            row[3] = row[3][:-1]
            row[2] = row[2].removeprefix("NAS")
        if i in kept:
            row[2], row[3] = (
                "NAS" + row[2],
                [*row[3], {**kept[i], "act": ["SiLU"], "kernel": kept[i].get("kernel", [1])}],
            )
    path = tmp_path_factory.mktemp("few") / "few.yaml"
    path.write_text(yaml.safe_dump(model))
    return path


@pytest.fixture
def asked(few, trained_n, digits_yaml, tmp_path):
    tiny = {"imgsz": 64, "epochs": 2, "subset": 0.1, "device": "cpu", "engine": "local", "project": str(tmp_path)}
    return {
        "cfg": str(few),
        "weights": str(trained_n),
        "data": str(digits_yaml),
        "target": ["gflops=0.04,0.038"],
        **tiny,
    }


def found_by(folder):
    """What the stages and the trials found, without times and paths."""
    lines = {}
    for name in (*STAGES, ".", "rivals", "rivals/latencies"):
        path = folder / name / "trials.jsonl"
        lines[name] = [(r.number, r.id, r.state, dict(r.metrics)) for r in read_lines(path) if r.done]
        for _, _, _, metrics in lines[name]:
            metrics.pop("epoch_seconds", None)
    return lines


@pytest.fixture(scope="module")
def whole(few, trained_n, digits_yaml, tmp_path_factory):
    """A finished run's folder."""
    with inline(), untrained():
        result = search(
            cfg=str(few), weights=str(trained_n), data=str(digits_yaml), target=list(TARGETS), imgsz=64,
            epochs=2, subset=0.1, device="cpu", engine="local", project=str(tmp_path_factory.mktemp("whole")),
        )  # fmt: skip
    assert result.is_compared and not result.interrupted
    return result.folder


def options_of(run):
    return Options().with_given(yaml.safe_load((run / "search.yaml").read_text()))


# From the checkpoint to the report ------------------------------------------------------------------------------------


def test_it_goes_from_a_checkpoint_to_a_winner_for_each_target(whole):
    o = options_of(whole)
    assert o.method == "replace" and o.reward == "map"
    records = read_journal(whole)
    space = Space.from_yaml(RunFolder(whole).space)
    assert dict(records[0].architecture) == dict(space.default())
    found = winners(whole, records, o)
    assert [w.name for w in found] == ["latency_ratio=0.95", "latency_ratio=0.85"]
    for winner, limit in zip(found, (0.95, 0.85)):
        assert winner.record.metrics["latency_ratio"] <= 1.01 * limit
        folder = whole / "targets" / winner.name
        assert (folder / "weights/best.pt").exists() and (folder / "model.yaml").exists()
    assert json.loads((whole / "best/architecture.json").read_text()) == dict(found[0].record.architecture)
    report = (whole / "report.html").read_text()
    for text in ("x parent", "Plans, before they were trained", "What each option costs and saves"):
        assert text in report
    location = find()
    program = f"python {location.root}/train.py" if location.kind == "clone" else "yolov5-nas with train.py"
    assert f"{program} --weights {whole.resolve()}/best/weights/best.pt" in report


def test_it_says_whether_there_is_a_network_to_change_to(whole):
    o = options_of(whole)
    records = read_journal(whole)
    parent = records[0].metrics["map50_95"]

    def said(fall):
        others = [replace(r, metrics={**r.metrics, "map50_95": parent - fall}) for r in records[1:] if r.done]
        return words(whole, [records[0], *others], o)

    assert "Within 0.005 of the parent's mAP50-95, or above it: latency_ratio=0.95, latency_ratio=0.85." in said(0.004)
    assert "None is as accurate as the parent: the best loses 0.100." in said(0.1)


def test_winners_have_rivals_of_their_cost(whole):
    o = options_of(whole)
    records = read_journal(whole)
    found = winners(whole, records, o)
    rivals = find_rivals(whole, found, o)
    assert [(r.winner.name, r.kind) for r in rivals] == [(w.name, kind) for w in found for kind in ("scale", "imgsz")]
    for rival in rivals:
        assert rival.record.metrics["latency_ratio"] < 1 and rival.record.budget["epochs"] == 2
        apart = [label for label, value in rival.architecture.items() if records[0].architecture.get(label) != value]
        assert set(apart) == {"scale", "imgsz"}
    before = read_lines(whole / "parent/trials.jsonl")[-1].metrics["map50_95"]  # of a real training
    records[0] = replace(records[0], metrics={**records[0].metrics, "map50_95": 2 * before + 0.01})
    said = closing_table(whole, records)
    assert said.count("rival: parent") == 4
    assert re.search(r"has mAP50-95 0\.\d+, and had 0\.\d+ before.\nSo it was far from trained out", said)
    report = (whole / "report.html").read_text()
    assert "of its widths" in report and "Rivals are the parent in forms of a winner's cost" in html.unescape(report)


def test_a_plan_measured_at_half_of_its_latency_wins_no_target_and_sizes_no_rival(whole, tmp_path, capsys):
    """As on a busy machine: its interval is 3.6 %, and the fit and its training say that it costs twice as much."""
    run = shutil.copytree(whole, tmp_path / "run")
    o = options_of(run)
    records = read_journal(run)
    odd = winners(run, records, o)[1].record
    true = odd.metrics["latency_ratio"]
    before = [r.architecture.id for r in find_rivals(run, winners(run, records, o), o)]
    _change(run / "plans/trials.jsonl", odd.id, 0.357, 0.036)
    assert winners(run, records, o)[1].record is None  # 0.357 and the trained one disagree: neither is believed
    said = words(run, records, o)
    assert "latency_ratio=0.85: missed. The nearest trained network, trial" in said and "too noisy to tell" in said
    latency = next(r for r in read_journal(run / "latencies") if r.number)
    _change(run / "latencies/trials.jsonl", latency.id, 0.5 * latency.metrics["latency_ratio"], 0.01)
    with inline(), untrained():
        search(resume=run)
    assert "[measured again 1] latency_ratio 0." in capsys.readouterr().out
    assert latency.id in {r.id for r in read_journal(run / "latencies/again")}  # of five, another may seem wrong too
    again = [r.id for r in read_journal(run / "plans/again")]
    assert again.count(odd.id) == 2
    records = read_journal(run)
    for winner, limit in zip(winners(run, records, o), (0.95, 0.85)):
        assert winner.record.metrics["latency_ratio"] <= 1.01 * limit
    assert cost_of(run, odd, "latency_ratio", o) == pytest.approx(true, rel=0.01)
    assert [r.architecture.id for r in find_rivals(run, winners(run, records, o), o)] == before
    with inline(), untrained():
        search(resume=run)
    assert [r.id for r in read_journal(run / "plans/again")] == again


def _change(journal, id, ratio, error):
    """Change the latency of a network in a journal."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines:
        if line["id"] == id and line["state"] == "complete":
            line["metrics"] |= {"latency_ratio": ratio, "latency_error": error}
            line["conditions"]["trusted"] = error <= 0.02
    journal.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_a_winner_is_judged_by_images_that_chose_nothing(whole):
    records = read_journal(whole)
    judged = read_judged(whole)
    assert judged.split == "test" and judged.images == 32 and judged.parent == records[0].id
    found = winners(whole, records, options_of(whole))
    rivals = {rival.record.id for rival in find_rivals(whole, found, options_of(whole))}
    assert judged.networks.keys() == {records[0].id, *(w.record.id for w in found), *rivals}
    assert all(one["low"] <= one["high"] for one in judged.networks.values())
    table = closing_table(whole, records)
    assert "mAP50-95 test" in table and "On the 32 test images, which chose nothing, the parent has" in table


def test_scales_that_round_to_the_same_widths_are_one():
    space = Space.from_yaml("yolov5n_elastic.yaml", nc=10)
    found = distinct(space, [n / 100 for n in range(99, 24, -1)])
    widths = [space.in_form({}).multiples.model["width_multiple"] * scale * 1024 for scale in found]
    assert 1.0 not in found and len(found) < 30 and found == sorted(found, reverse=True)
    assert len({-(-w // 8) for w in widths}) == len(widths)


def test_its_table_has_what_was_scored_and_what_was_measured(whole):
    o = options_of(whole)
    table = read_table(whole, o)
    assert set(table.items) == {0, 6, 23} and len(table.items[6]) == 5
    assert all(
        "latency_ratio" in item.saves and item.unsure["latency_ratio"] > 0 for g in table.items.values() for item in g
    )
    scored = read_lines(whole / "replacements/trials.jsonl")
    assert sum(r.done for r in scored) == 1 + 1 + 5 + 1
    whole_plans = [r for r in read_lines(whole / "plans/trials.jsonl") if r.done]
    assert all("rise" in r.metrics and "latency_ratio" in r.metrics for r in whole_plans)


def test_other_targets_are_planned_without_scoring_anything_again(whole, tmp_path, capsys):
    run = shutil.copytree(whole, tmp_path / "run")
    before = found_by(run)
    journal = run / "latencies/trials.jsonl"
    journal.write_text(journal.read_text().replace('"trusted":true', '"trusted":false'))
    with inline(), untrained():
        result = search(resume=run, target=["latency_ratio=0.9"])
    after = found_by(run)
    for stage in ("parent", "replacements", "latencies"):
        assert after[stage] == before[stage]
    assert after["plans"][: len(before["plans"])] == before["plans"]
    assert after["."][: len(before["."])] == before["."]
    assert [
        w.name
        for w in winners(run, result.trials, Options().with_given(yaml.safe_load((run / "search.yaml").read_text())))
    ] == ["latency_ratio=0.9"]
    out = capsys.readouterr().out
    assert "now proposes another" not in out and "warning: 6 of 6 latencies can't be trusted" in out


def test_scores_of_another_reconstruction_are_measured_again(whole, tmp_path, capsys):
    run = shutil.copytree(whole, tmp_path / "run")
    journals = [run / "replacements/trials.jsonl", run / "plans/trials.jsonl"]
    for journal in journals:
        text = journal.read_text()
        assert ',"reconstruction":2' in text
        journal.write_text(text.replace(',"reconstruction":2', ""))
    before = [journal.read_text() for journal in journals]
    with inline(), untrained():
        search(resume=run)
        assert [journal.with_suffix(".old.jsonl").read_text() for journal in journals] == before
        assert all(r.budget["reconstruction"] == 2 for j in journals for r in read_lines(j) if r.state == "complete")
        assert capsys.readouterr().out.count("whose reconstruction was another") == 2
        after = found_by(run)
        search(resume=run)
    assert found_by(run) == after and "whose reconstruction" not in capsys.readouterr().out


def test_a_plan_whose_cost_was_not_measured_keeps_to_no_target_of_it(whole):
    """As those that were planned for GFLOPs alone, when a latency is asked for later."""
    parent, plan = (read_lines(whole / f"{stage}/trials.jsonl")[-1] for stage in ("parent", "plans"))
    o, targets = options_of(whole), [Target("latency_ratio", 9)]
    assert keeps(plan, targets, o, parent)
    unmeasured = replace(plan, metrics={k: v for k, v in plan.metrics.items() if not k.startswith("latency")})
    assert not keeps(unmeasured, targets, o, parent)


def test_of_plans_as_good_one_within_its_target_is_taken(whole):
    parent, plan = (read_lines(whole / f"{stage}/trials.jsonl")[-1] for stage in ("parent", "plans"))

    def network(rise, ratio):
        return replace(plan, metrics={**plan.metrics, "rise": rise, "rise_error": 0.001, "latency_ratio": ratio})

    near, within, worse = network(0.0056, 0.805), network(0.0058, 0.794), network(0.0068, 0.78)
    targets = (Target("latency_ratio", 0.8),)
    assert best_of([near, within, worse], targets, parent) is within
    assert best_of([near, worse], targets, parent) is near


def test_a_stage_is_asked_for_what_it_has_first_and_then_for_what_is_new(whole):
    """So that a resume for other targets scores the options of another form of the network, too."""
    files, space = RunFolder(whole).replacements, Space.from_yaml(whole / "space.yaml")
    before = asked_before(files)
    new = [Architecture({**space.default(), "c3_6": 0.75, "c3_23": 0.5}), before[2]]
    assert with_earlier(files, new) == [*before, new[0]]


def test_rivals_have_widths_that_grouped_layers_can_have(small_settings, monkeypatch):
    monkeypatch.setattr("yolov5_nas.run.rivals.SCALES", (0.85, 0.75))
    model = yaml.safe_load((shipped("models") / "yolov5n_elastic.yaml").read_text())
    model["backbone"][3] = [-1, 1, "NASConv", [256, 3, 2, None, 16]]
    scales = formed(replace(small_settings, model=model), 32).space.choices["scale"].options
    assert scales == (1.0, 0.75)  # of 64 and 48 channels; 0.85 has 56


def test_no_trial_is_trained_where_none_is_asked_for(asked, host, tmp_path, capsys, monkeypatch):
    """And of what may be wrong with the checkpoint and the data it is warned."""
    monkeypatch.setattr("yolov5_nas.run.replace.LEARNT", 0.5)
    model = host.load_checkpoint(Path(asked["weights"]))
    model.names = {i: f"n{i}" for i in range(10)}
    host.save_checkpoint(model, tmp_path / "named.pt")
    with inline(), untrained():
        few = {"weights": str(tmp_path / "named.pt"), "subset": 0.05}
        result = search(**{**asked, **few}, method="replace", trials=0)
    assert result.is_compared and result.trials == ()
    assert result.ending == "the plans are made; --trials 0 trains none"
    out = capsys.readouterr().out
    assert "its classes have other names" in out and "warning: scores are of 16 training images" in out
    assert "method: replace" in out and "gflops=0.04: loss" in out and "--trials 0 trains none" in out
    assert "warning: the parent has hardly learnt to detect" in out
    assert (result.folder / "report.html").exists() and not (result.folder / "trials.jsonl").exists()
    (result.folder / "report.html").unlink()
    assert main(["report", str(result.folder)]) == 0
    assert "latency of stock YOLOv5" not in (result.folder / "report.html").read_text()
    assert "Targets with a plan: 2 of 2. Nothing was trained yet (--resume with --trials" in capsys.readouterr().out
    for command in ("export", "prove"):
        assert main([command, str(result.folder)]) == 2
        assert "no trial of this run has begun" in capsys.readouterr().err


def test_a_search_that_is_interrupted_in_every_stage_goes_on_and_ends_the_same(asked, whole, capsys):
    places = {("parent", 0), ("replacements", 0), ("replacements", 4), ("latencies", 2), ("plans", 1), ("exp", 1)}
    places |= {("rivals", 1)}
    with inline(places), untrained():
        found = search(**{**asked, "target": list(TARGETS)})
        while found.interrupted:
            if not found.trials:
                assert re.search(r"with a plan: [012] of 2. Nothing was trained yet \(--resume goes on", found.table())
                assert (found.folder / "report.html").exists()
                assert main(["report", str(found.folder)]) == 0
            found = search(resume=found.folder)
    assert not places
    out = capsys.readouterr().out
    assert "exp goes on, and keeps 4 scored options, 0 latencies, 0 scored plans, 0 trials" in out
    assert "to come: the table, latencies and plans" in out and "7 trainings of " in out
    assert found_by(found.folder) == found_by(whole)


@pytest.fixture(name="formed")
def _formed(few, tmp_path):
    """The YAML with choices of the network as a whole."""
    whole = {"imgsz": [64, 96], "scale": [0.5, 1.0], "activation": ["SiLU", "ReLU"]}
    (tmp_path / "formed.yaml").write_text(yaml.safe_dump({**yaml.safe_load(few.read_text()), **whole}))
    return tmp_path / "formed.yaml"


def test_scale_and_input_size_are_planned_with_layers(asked, formed, host, capsys):
    """An activation is a form like these, and scored in test_parent."""
    model = yaml.safe_load(formed.read_text())
    model["backbone"][6][3][-1] |= {"width": [0.5, 1.0], "depth": [3]}
    model["backbone"][0][3][-1] |= {"kernel": [6]}  # each option is scored in each form
    formed.write_text(yaml.safe_dump({k: v for k, v in model.items() if k != "activation"}))
    targets = ["gflops=0.085,0.03"]  # of 0.094 at 96 px
    given = {**asked, "cfg": str(formed), "imgsz": 96, "target": targets, "epochs": 1, "rivals": "none"}
    with inline({("replacements", 6), ("plans", 3)}), untrained():
        result = search(**given)
        assert result.interrupted
        result = search(resume=search(resume=result.folder).folder)
    assert not result.interrupted and result.is_compared
    space = Space.from_yaml(result.folder / "space.yaml")
    scored = [r for r in read_lines(result.folder / "replacements/trials.jsonl") if r.done]
    assert dict(scored[0].architecture) == dict(space.default()) and scored[0].metrics["form_rise"] == 0.0
    zeros = {r.id: r for r in scored}
    zero = zeros[
        space.outer(space.in_form({**space.forms[0], "scale": 0.5}).default(), {**space.forms[0], "scale": 0.5}).id
    ]
    assert zero.metrics["form_rise"] > 0 == zero.metrics["rise"]
    plans = [r for r in read_lines(result.folder / "plans/trials.jsonl") if r.done]
    assert {r.architecture["imgsz"] for r in plans} == {64, 96}
    assert any(r.architecture["scale"] == 0.5 for r in plans)
    out = capsys.readouterr().out
    assert "forms: 3 of the parent" in out and "gflops=0.085 at 64 px" in out
    assert "then at most 5 trainings of 1 epochs" in out  # the parent, and two targets at two sizes
    trained = read_journal(result.folder)
    assert {r.state for r in trained} == {"complete"} and len({r.architecture["imgsz"] for r in trained}) == 2
    for record in trained:
        weights = host.load_checkpoint(result.folder / f"trials/{record.number}/weights.pt")
        assert weights.model[0].conv.weight.shape[0] == 16 * record.architecture["scale"]


def test_a_winner_that_is_fed_back_in_is_a_parent_too(whole, asked, tmp_path, capsys):
    """Whose values the YAML may lack."""
    weights = str(whole / "targets/latency_ratio=0.85/weights/best.pt")
    architecture = json.loads((whole / "targets/latency_ratio=0.85/architecture.json").read_text())
    with inline(), untrained():
        result = search(**{**asked, "weights": weights, "target": ["gflops=0.035"], "trials": 0, "method": "replace"})
    assert dict(Space.from_yaml(result.folder / "space.yaml").default()) == architecture
    first = read_lines(result.folder / "parent/trials.jsonl")[0]
    assert first.architecture == architecture


def test_a_checkpoint_of_other_classes_is_fine_tuned_first(asked, host, tmp_path, capsys):
    space = Space.from_yaml("yolov5n_elastic.yaml")
    weights = tmp_path / "coco.pt"
    host.save_checkpoint(host.build(derive(space, space.default()), nc=80), weights)
    with inline(), untrained():
        result = search(**{**asked, "weights": str(weights), "base_epochs": 3, "trials": 0, "method": "replace"})
    out = capsys.readouterr().out
    assert "is fine-tuned for 3 epochs" in out
    assert read_lines(result.folder / "parent/trials.jsonl")[-1].curve[-1]["epoch"] == 3
    assert (result.folder / "parent/trials/0/weights.pt").exists()


def test_which_method_runs(trained_n, capsys):
    weights = {"weights": str(trained_n)}
    assert with_method({}) == {} and with_method({**weights, "trials": 5}) == {**weights, "trials": 5}
    found = with_method(weights)
    assert (found["method"], found["cfg"], found["trials"]) == ("replace", "yolov5n_elastic.yaml", None)
    assert found["target"] == ("latency_ratio=0.9,0.8,0.7",)
    assert "method: replace, since --weights is a checkpoint" in capsys.readouterr().out
    assert "method" not in with_method({**weights, "inherit": "base"})


def test_a_pruned_checkpoint_is_told_from_one_of_another_size(host, tmp_path):
    model = host.build(yaml.safe_load((host.location.root / "models/yolov5n.yaml").read_text()))
    own = {name: getattr(model.model[0], name) for name in ("i", "f", "type", "np")}
    model.model[0] = host.common.Conv(3, 13, 6, 2, 2)
    vars(model.model[0]).update(own)
    model.model[1].conv = torch.nn.Conv2d(13, 32, 3, 2, 1, bias=False)
    host.save_checkpoint(model, tmp_path / "pruned.pt")
    with pytest.raises(UserError, match=r"is pruned to widths that YOLOv5's parser can't build.*got '13 channels"):
        with_method({"weights": str(tmp_path / "pruned.pt"), "yolov5": os.environ.get("YOLOV5_ROOT")})


# What can't be taken --------------------------------------------------------------------------------------------------


REFUSED = {
    "a target out of reach": ({"target": ["gflops=0.001"]}, "reaches the target gflops=0.001"),
    "a ratio of 1": ({"target": ["latency_ratio=1.0"]}, "must be below 1"),
    "no checkpoint": ({"weights": None}, "--method replace needs --weights"),
    "no such teacher": ({"distill": "none.pt"}, "none.pt"),
    "a strategy": ({"strategy": "random"}, "--strategy is not for --method replace"),
    "two metrics of several values": ({"target": ["gflops=1,2", "params=1,2"]}, "one of them with several values"),
    "another size's YAML": ({"cfg": "yolov5s_elastic.yaml"}, "is it of another size, or a P6 model?"),
    "a P6 model's YAML": ({"cfg": "p6"}, "layer 9 is SPPF in them, not Conv"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_one_line_and_nothing_is_written(asked, tmp_path, capsys, name):
    changes, words = REFUSED[name]
    given = {**asked, "method": "replace", **changes}
    if given["cfg"] == "p6":
        given["cfg"] = str(tmp_path / "p6.yaml")
        rows = yaml.safe_load((shipped("models") / "yolov5n_elastic.yaml").read_text())
        rows["backbone"].insert(9, [-1, 1, "Conv", [1024, 3, 1]])
        rows["head"] = [
            [[f + (f >= 9) for f in r[0]] if isinstance(r[0], list) else r[0], *r[1:]] for r in rows["head"]
        ]
        (tmp_path / "p6.yaml").write_text(yaml.safe_dump(rows))
    argv = ["search"]
    for option, value in given.items():
        if value is not None:
            argv += [f"--{option.replace('_', '-')}", *(value if isinstance(value, list) else [value])]
    before = set(tmp_path.iterdir())
    with inline(), untrained():
        assert main(list(map(str, argv))) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and words in line, line
    assert {p for p in tmp_path.iterdir() if p.name != "p6.yaml"} <= before


FORMS = {
    "another number of classes": ({}, "80", "needs a checkpoint of the data's classes"),
    "frozen layers": ({"freeze": [3]}, "own", "--freeze can't keep layers where scale and activation"),
    "a supernet to train": ({"one_shot": 3, "weights": None}, "own", "--one-shot has no supernet"),
    "another scale alone": ({"scale": [0.5]}, "own", "scale must list 1.0"),
    "groups": ({"groups": 4}, "own", "layer 3 (Conv) has groups, and can't be sliced"),
}


@pytest.mark.parametrize("name", FORMS)
def test_weights_that_have_no_such_form_are_refused(asked, formed, host, tmp_path, name):
    changes, classes, words = FORMS[name]
    model = yaml.safe_load(formed.read_text()) | {k: v for k, v in changes.items() if k == "scale"}
    if "groups" in changes:
        model["backbone"][3] = [-1, 1, "Conv", [256, 3, 2, None, changes["groups"]]]
    formed.write_text(yaml.safe_dump(model))
    space = Space.from_dict({**model, "scale": [1.0]}, nc=10 if classes == "own" else int(classes))
    host.save_checkpoint(host.build(derive(space, space.default())), tmp_path / "w.pt")
    given = {k: v for k, v in changes.items() if k not in ("scale", "groups")}
    given = {
        **asked,
        "target": [],
        "cfg": str(formed),
        "weights": str(tmp_path / "w.pt"),
        "imgsz": 96,
        "trials": 2,
        **given,
    }
    with inline(), untrained(), pytest.raises(UserError) as e:
        search(**given)
    assert words in str(e.value)


def test_a_checkpoint_of_before_v6_needs_a_yaml_of_its_own(host, trained_n, tmp_path):
    model = host.load_checkpoint(trained_n)
    focus = host.common.Focus(3, 16)
    focus.i, focus.f, focus.type, focus.np = 0, -1, "Focus", 0
    model.model[0] = focus
    host.save_checkpoint(model, tmp_path / "old.pt")
    with pytest.raises(UserError, match=r"older than YOLOv5 v6\.0 \(Focus\)"):
        with_method({"weights": str(tmp_path / "old.pt")})


def test_a_latency_that_can_not_be_measured_is_one_line(asked, capsys, monkeypatch):
    def fail(*_, **__):
        raise TrialError("latency", "no driver")

    monkeypatch.setattr("yolov5_nas.run.check_parent.measure_architecture", fail)
    with inline(), untrained(), pytest.raises(UserError, match=r"the network can't be measured .*no driver"):
        search(**{**asked, "target": list(TARGETS)})


def test_a_layer_that_computes_something_else_is_named(asked, host, trained_n, tmp_path):
    model = host.load_checkpoint(trained_n)
    model.model[9].m = torch.nn.MaxPool2d(9, 1, 4)
    host.save_checkpoint(model, tmp_path / "own.pt")
    with inline(), untrained(), pytest.raises(UserError, match="layer 9 computes something else"):
        search(**{**asked, "weights": str(tmp_path / "own.pt")})


def test_the_options_of_the_method_are_kept(whole):
    o = options_of(whole)
    assert asdict(o)["trials"] is None and [len(plan) for plan in o.plans] == [1, 1]


# Proof ----------------------------------------------------------------------------------------------------------------


def test_a_proof_goes_on_from_the_parents_weights(whole, tmp_path, capsys):
    run = shutil.copytree(whole, tmp_path / "exp")
    first = winners(run, read_journal(run), options_of(run))[0].record
    with inline():
        assert main(["prove", str(run), "--top", "1", "--seeds", "2", "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    assert f"trial {first.number} against parent: mAP50-95" in out
    assert f"trial {first.number} against parent rescaled" in out
    assert "from the weights that the search started from" in out and "on 32 of test" in out
    records = [r for r in read_lines(run / "prove/trials.jsonl") if r.state == "complete"]
    assert [r.seed for r in records[:3]] == [1, 1, 1] and {r.budget["weights"] for r in records} == {
        yaml.safe_load((run / "search.yaml").read_text())["weights"]
    }
    parent, rescaled, winner = (r.metrics for r in records[:3])
    assert winner["gflops"] < parent["gflops"] and rescaled["params"] < parent["params"]
    report = (run / "report.html").read_text()
    assert "Is the gain real?" in report
