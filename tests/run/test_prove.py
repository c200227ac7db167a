"""Is the gain real: the comparison in words, on planted scores, and a whole proof."""

import itertools
import random
import re
import shutil
from dataclasses import replace

import pytest
import yaml
from inline import InlineEngine, inline, untrained

from yolov5_nas.cli import main
from yolov5_nas.errors import UserError
from yolov5_nas.files import shipped
from yolov5_nas.records.journal import Journal, TrialRecord, TrialResult, read_journal, read_lines
from yolov5_nas.records.options import Options
from yolov5_nas.results.comparison import RESCALED, STOCK, ByImages, finished, for_new_images
from yolov5_nas.results.race import Race
from yolov5_nas.run import prove
from yolov5_nas.run.prepare import settings_of
from yolov5_nas.space.compile import derive, dump_model
from yolov5_nas.space.model_yaml import read_model_yaml
from yolov5_nas.space.space import Space

SPACE = Space.from_yaml(shipped("models") / "yolov5n_elastic.yaml", nc=10)
OPTIONS = Options()


@pytest.fixture
def run(host, digits_yaml, tmp_path):
    """A run of three trials as a search leaves it; trials 1 and 2 did better than stock, at its latency."""
    folder = tmp_path / "exp"
    folder.mkdir()
    o = Options(
        cfg="yolov5n_elastic.yaml", data=str(digits_yaml), imgsz=64, epochs=1, subset=0.1, device="cpu",
        optimizer="AdamW", val_period=1, workers=0, engine="local",
    )  # fmt: skip
    o.save(folder / "search.yaml")
    model, _ = read_model_yaml(shipped("models") / "yolov5n_elastic.yaml")
    (folder / "space.yaml").write_text(dump_model(model | {"nc": 10}))
    (folder / "hyp.yaml").write_text((shipped("data") / "hyp.short.yaml").read_text())
    journal = Journal(folder / "trials.jsonl")
    for number, (score, cost) in enumerate(((0.5, 1.0), (0.6, 1.0), (0.55, 0.95))):
        architecture = SPACE.sample(random.Random(number)) if number else SPACE.default()
        metrics = {"map50_95": score, "latency_ratio": cost, "params": 1e6}
        journal.append(TrialRecord(number, dict(architecture), "complete", score, metrics))
    return folder


def planted(scores, costs=None):
    """In place of a training: a contestant's score with a little noise of its seed."""

    def run_trial(architecture, settings, seed, folder):
        is_scaled = settings.stock is not None
        name = RESCALED if is_scaled else NAMES[tuple(sorted(architecture.items()))]
        noise = random.Random(f"{name} {seed}").uniform(-0.005, 0.005)
        cost = (costs or {}).get(name, 1.0)
        return TrialResult({"map50_95": scores[name] + noise, "latency_ratio": cost})

    return run_trial


NAMES = {
    tuple(sorted(SPACE.default().items())): STOCK,
    **{tuple(sorted(SPACE.sample(random.Random(n)).items())): f"trial {n}" for n in (1, 2)},
}


@pytest.fixture
def cheap_scale(monkeypatch):
    """Rescaling measured by the width alone."""
    monkeypatch.setattr(
        prove,
        "measure_architecture",
        lambda a, s: TrialResult({"latency_ratio": float(s.model["width_multiple"]) / 0.25}),
    )


def test_a_planted_better_one_is_told_from_a_planted_equal_one(run, cheap_scale, monkeypatch):
    scores = {STOCK: 0.70, RESCALED: 0.70, "trial 1": 0.75, "trial 2": 0.70}
    monkeypatch.setattr(prove, "run_trial", planted(scores))
    said = prove.prove(run, top=2, seeds=4, engine=InlineEngine())
    assert "A gain is shown: trial 1 detects better than stock YOLOv5 and stock YOLOv5 rescaled, at equal or" in said
    lines = {line.split(":")[0]: line for line in said.splitlines() if " against " in line}
    assert len(lines) == 4
    assert all(line.endswith(", beyond the seeds' spread") for name, line in lines.items() if name[:7] == "trial 1")
    assert all(", not beyond" in line for name, line in lines.items() if name[:7] == "trial 2")
    page = (run / "report.html").read_text()
    assert "With up to 3 seeds each (yolov5-nas prove): A gain is shown: trial 1" in page and "trained once" not in page
    assert re.search(r'<img alt="mAP50-95 above that of each rival. trial 1 and stock 1.00 of its cost: \+0.0', page)


def test_two_planted_equal_ones_show_no_gain(run, cheap_scale, monkeypatch):
    monkeypatch.setattr(prove, "run_trial", planted(dict.fromkeys((STOCK, RESCALED, "trial 1", "trial 2"), 0.7)))
    assert "No gain at equal or lower cost is shown" in prove.prove(run, 2, 4, engine=InlineEngine())


def test_an_engine_is_named_on_the_command_line(run, cheap_scale, monkeypatch, capsys):
    monkeypatch.setattr(prove, "run_trial", planted(dict.fromkeys((STOCK, RESCALED, "trial 1", "trial 2"), 0.7)))
    with inline():
        assert main(["prove", str(run), "--seeds", "2", "--engine", "local"]) == 0
    assert "No gain at equal or lower cost is shown" in capsys.readouterr().out


def test_one_trial_is_proved_alone(run, cheap_scale, monkeypatch, capsys):
    monkeypatch.setattr(prove, "run_trial", planted(dict.fromkeys((STOCK, RESCALED, "trial 1", "trial 2"), 0.7)))
    for number in ("0", "7"):
        assert main(["prove", str(run), "--trial", number]) == 2
        assert "--trial names none that can be proved" in capsys.readouterr().err and not (run / "prove").exists()
    prove.prove(run, seeds=2, trial=2, engine=InlineEngine())
    race, plan = finished(run, OPTIONS)
    assert plan.candidates == (2,) and set(race.contestants) == {STOCK, RESCALED, "trial 2"}
    capsys.readouterr()
    prove.prove(run, top=1, seeds=2, engine=InlineEngine())
    assert f"goes on with the trials [2]; to prove [1] in their place, delete {run}/prove" in capsys.readouterr().out
    with pytest.raises(UserError, match="a proof of 3 epochs of the trials"):
        prove.prove(run, seeds=2, trial=1, engine=InlineEngine())


def test_a_better_one_that_plain_scaling_equals_is_said(run, cheap_scale, monkeypatch):
    scores = {STOCK: 0.70, RESCALED: 0.75, "trial 1": 0.75, "trial 2": 0.70}
    monkeypatch.setattr(prove, "run_trial", planted(scores))
    assert "A gain is shown in part: trial 1 beats" in prove.prove(run, 2, 4, engine=InlineEngine())


def test_a_dearer_one_is_not_said_to_win(run, cheap_scale, monkeypatch):
    scores = {STOCK: 0.70, RESCALED: 0.80, "trial 1": 0.75, "trial 2": 0.70}
    costs = {"trial 1": 1.5, RESCALED: 1.5}
    monkeypatch.setattr(prove, "run_trial", planted(scores, costs))
    assert "No gain at equal or lower cost is shown" in prove.prove(run, 2, 4, engine=InlineEngine())


def test_interrupted_it_goes_on_and_trains_nothing_twice(run, cheap_scale, monkeypatch):
    monkeypatch.setattr(prove, "run_trial", planted(dict.fromkeys((STOCK, RESCALED, "trial 1", "trial 2"), 0.7)))
    with pytest.raises(KeyboardInterrupt):
        prove.prove(run, 2, 2, engine=InlineEngine({("prove", 3)}))
    prove.prove(run, 2, 2, engine=InlineEngine())
    records = Journal(run / "prove" / "trials.jsonl").records
    assert sorted(r.number for r in records if r.done) == list(range(8))
    assert [r.attempt for r in records if r.number == 3] == [1, 2, 2]
    prove.prove(run, 2, 3, engine=InlineEngine())  # one seed more
    race, plan = finished(run, OPTIONS)
    counts = [len(c.scores) for c in race.contestants.values()]
    assert counts[0] == max(counts) and min(counts) >= 2  # those of whom nothing is open got no third
    assert plan.seeds == (2, 3) and "planned for 2 seeds and raised to 3" in (run / "report.html").read_text()
    with pytest.raises(UserError, match="a proof of 3 epochs of the trials"):
        prove.prove(run, 1, 3, engine=InlineEngine())
    for other in ({"start": "weights"}, {"margin": 0.01}):
        with pytest.raises(UserError):
            prove.prove(run, 2, 3, engine=InlineEngine(), **other)


def test_stock_is_rescaled_to_the_winners_cost_along_yolov5s_own_family(host, run):
    settings = settings_of(run, Options().with_given(yaml.safe_load((run / "search.yaml").read_text())))
    assert prove.depth_of(0.25, settings) == prove.depth_of(0.5, settings) == 0.33
    assert prove.depth_of(1.0, settings) == 1.0
    scaled = prove.rescaled(settings, 0.33, 0.5)  # yolov5s
    model = host.build(derive(scaled.space, scaled.space.default()))
    stock = host.yolo.Model(str(host.location.root / "models" / "yolov5s.yaml"), nc=10)
    assert [p.shape for p in model.parameters()] == [p.shape for p in stock.parameters()]
    assert scaled.reference()[0] == derive(SPACE, SPACE.default())


def test_a_proof_of_the_command_line(run, capsys, monkeypatch):
    monkeypatch.setattr("yolov5_nas.run.judge.DRAWS", 5)
    with inline(), untrained():
        assert main(["prove", str(run), "--top", "1", "--seeds", "2", "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    assert "trial 1 against stock: mAP50-95" in out
    assert "trial 1 against stock rescaled: mAP50-95" in out
    assert "For new images (judged on" in out and "All were trained for 1 epochs from scratch" in out
    records = read_lines(run / "prove" / "trials.jsonl")
    records = [r for r in records if r.done]
    assert [r.state for r in records] == ["complete"] * 6
    assert [r.seed for r in records] == [1, 1, 1, 2, 2, 2]  # the search had 0
    scaled = [r for r in records if "width_multiple" in r.architecture]
    assert len(scaled) == 2
    assert len({r.metrics["params"] for r in scaled}) == 1
    assert read_journal(run)[0].metrics["params"] == 1e6  # the run's own journal is as it was


def test_nothing_to_prove(run, tmp_path, capsys):
    lines = (run / "trials.jsonl").read_text().splitlines(keepends=True)
    (run / "trials.jsonl").write_text(lines[0])
    assert main(["prove", str(run)]) == 2
    assert "nothing to prove" in capsys.readouterr().err
    assert not (run / "prove").exists()
    assert main(["prove", str(tmp_path)]) == 2


@pytest.mark.parametrize("flag", ["--top", "--seeds", "--epochs"])
def test_nothing_is_proved_by_none(run, capsys, flag):
    assert main(["prove", str(run), flag, "0"]) == 2
    assert f"error: {flag} must be at least 1, got 0" in capsys.readouterr().err
    assert not (run / "prove").exists()


def test_a_runtime_that_is_not_here(run, capsys):
    options = yaml.safe_load((run / "search.yaml").read_text())
    (run / "search.yaml").write_text(yaml.safe_dump({**options, "latency_backend": "engine"}))
    assert main(["prove", str(run)]) == 2
    assert "the runtime engine" in capsys.readouterr().err and not (run / "prove").exists()


def test_on_inherited_weights_the_best_of_all_others_are_proved(run):
    records = read_journal(run)
    stock, other = replace(records[0], reward=0.9), replace(records[1], reward=0.5)
    better = replace(other, number=2, reward=0.6)
    refused = replace(other, number=3, reward=0.8, error={"reason": "constraint", "message": ""})
    found = [stock, other, better, refused]  # stock is better and no dearer than they are
    found = [replace(r, metrics={"map50_95": r.reward, "latency_ratio": 1.0}) for r in found]
    with pytest.raises(UserError, match="nothing to prove"):
        prove._candidates(run, found, OPTIONS, 3)
    inherits = Options(weights="w.pt", inherit="base")
    assert [r.number for r in prove._candidates(run, found, inherits, 3)] == [2, 1]
    assert [r.number for r in prove._candidates(run, found, inherits, 1)] == [2]


def test_one_seed_says_what_it_can(run, cheap_scale, monkeypatch):
    monkeypatch.setattr(prove, "run_trial", planted(dict.fromkeys((STOCK, RESCALED, "trial 1", "trial 2"), 0.7)))
    assert "Nothing can be said of seeds yet" in prove.prove(run, 2, 1, engine=InlineEngine())
    race = Race((STOCK,), ("trial 1",), 1, 0.005)
    images = ByImages("val", 50, {STOCK: {"0": 0.7}, "trial 1": {"0": 0.8}}, {"trial 1, stock": 0.01})
    said = for_new_images([], images, race)
    assert "trial 1 against stock +0.1000 (95 %: +0.0804 to +0.1196), neither claim shown" in said
    assert "With one seed" in said and "which also chose the candidates" in said


def test_a_cheaper_one_within_the_margin_is_as_good(run, cheap_scale, monkeypatch):
    scores = {STOCK: 0.70, RESCALED: 0.60, "trial 1": 0.70, "trial 2": 0.66}
    monkeypatch.setattr(prove, "run_trial", planted(scores, {"trial 1": 0.8, "trial 2": 0.8, RESCALED: 0.8}))
    said = prove.prove(run, 2, 5, engine=InlineEngine(), margin=0.02)
    assert (
        "As good and cheaper: trial 1 is within 0.02 mAP50-95 of stock YOLOv5 at 0.80 times its cost (at most" in said
    )
    assert "trial 2 is within" not in said
    race, _ = finished(run, Options(margin=0.02))
    counts = {c.name: len(c.scores) for c in race.contestants.values()}
    assert counts["trial 1"] < 5 and counts["trial 2"] < 5  # hopeless: one to be better too, the other at all


def test_a_race_comes_to_the_same_wherever_it_was_killed(run, cheap_scale, monkeypatch):
    monkeypatch.setattr(prove, "run_trial", planted(dict.fromkeys((STOCK, RESCALED, "trial 1", "trial 2"), 0.7)))
    whole = prove.prove(run, 2, 3, engine=InlineEngine())
    journal = run / "prove" / "trials.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    for kept in range(0, len(lines), 5):
        journal.write_text("".join(lines[:kept]))
        assert prove.prove(run, 2, 3, engine=InlineEngine()) == whole


# Seeds ----------------------------------------------------------------------------------------------------------------


def as_search_with(run, *seeds):
    """Give the trials of a run's search seeds."""
    records = read_journal(run)
    (run / "trials.jsonl").unlink()
    journal = Journal(run / "trials.jsonl")
    for record, seed in zip(records, itertools.cycle(seeds)):
        journal.append(replace(record, seed=seed))


def proof_seeds(run):
    return [r.seed for r in read_journal(run / "prove")]


def test_no_seed_of_the_search_is_a_proofs(run, cheap_scale, monkeypatch):
    monkeypatch.setattr(prove, "run_trial", planted(dict.fromkeys((STOCK, RESCALED, "trial 1", "trial 2"), 0.7)))
    as_search_with(run, 0, 2)
    (run / "confirmed").mkdir()
    Journal(run / "confirmed/trials.jsonl").append(replace(read_journal(run)[1], seed=1))
    prove.prove(run, 1, 2, engine=InlineEngine())
    assert proof_seeds(run) == [3, 3, 3, 4, 4, 4]
    as_search_with(run, 0, 2, 5)  # the search went on, which changes nothing of a proof that was begun
    prove.prove(run, 1, 4, engine=InlineEngine())
    assert sorted(set(proof_seeds(run)))[:3] == [3, 4, 5]


def test_a_proof_begun_with_the_searchs_seed_goes_on_with_others(run, cheap_scale, monkeypatch, capsys):
    scores = {STOCK: 0.70, RESCALED: 0.70, "trial 1": 0.75, "trial 2": 0.70}
    monkeypatch.setattr(prove, "run_trial", planted(scores))
    as_search_with(run, 7)
    prove.prove(run, 1, 2, engine=InlineEngine())
    assert proof_seeds(run) == [0, 0, 0, 1, 1, 1]
    plan = yaml.safe_load((run / "prove/prove.yaml").read_text())
    assert plan.pop("search_seeds") == [7]
    (run / "prove/prove.yaml").write_text(yaml.safe_dump(plan))  # as earlier versions wrote it
    as_search_with(run, 0)
    assert len(finished(run, OPTIONS)[0].contestants[STOCK].scores) == 1
    capsys.readouterr()
    said = prove.prove(run, 1, 2, engine=InlineEngine())
    words = "3 trainings with seed 0 do not count: the search chose its winners by the same seed"
    assert words in said and words in capsys.readouterr().out and words in (run / "report.html").read_text()
    assert proof_seeds(run) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert set(finished(run, OPTIONS)[0].contestants[STOCK].scores) == {1, 2}
    journal = run / "prove/trials.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    for kept in range(6, len(lines), 5):
        journal.write_text("".join(lines[:kept]))
        again = prove.prove(run, 1, 2, engine=InlineEngine())
        assert again.replace(words, "") == said.replace(words, "") or kept < 6  # fewer of them were cut off
        assert set(finished(run, OPTIONS)[0].contestants[STOCK].scores) == {1, 2}


def test_five_seeds_unless_a_proof_was_begun_with_fewer(run, cheap_scale, monkeypatch, capsys):
    monkeypatch.setattr(prove, "run_trial", planted(dict.fromkeys((STOCK, RESCALED, "trial 1", "trial 2"), 0.7)))
    prove.prove(run, 1, engine=InlineEngine())
    assert finished(run, OPTIONS)[1].seeds == (5,)
    out = capsys.readouterr().out
    assert "at most 15 trainings of 3 epochs: 3 networks (stock, trial 1, stock rescaled) with up to 5 seeds" in out
    shutil.rmtree(run / "prove")
    prove.prove(run, 1, 2, engine=InlineEngine())
    assert "planned for" not in prove.prove(run, 1, engine=InlineEngine())
    assert "6 were begun before" in capsys.readouterr().out


def test_how_long_a_proof_takes_is_said_before_it_starts(run, cheap_scale, monkeypatch, capsys):
    monkeypatch.setattr(prove, "run_trial", planted(dict.fromkeys((STOCK, RESCALED, "trial 1", "trial 2"), 0.7)))
    records = read_journal(run)
    (run / "trials.jsonl").unlink()
    journal = Journal(run / "trials.jsonl")
    for record in records:
        journal.append(replace(record, seconds=100.0, budget={"epochs": 1}))
    prove.prove(run, 1, 2, engine=InlineEngine())
    out = capsys.readouterr().out
    assert "about 5 min each by the search's trials, 30 min in all at most (1 at a time)" in out
    assert out.index("30 min in all") < out.index("[1 of at most 6]")
