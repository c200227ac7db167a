"""The report: planted effects found again, and nothing that breaks where a run has little to tell."""

import csv
import re
import shlex
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import synthetic

from yolov5_nas.cli import main
from yolov5_nas.records.journal import Journal, TrialRecord, read_journal
from yolov5_nas.records.options import Options
from yolov5_nas.results.effects import MIN_TRIALS, effects
from yolov5_nas.results.page import _failures, figures
from yolov5_nas.results.plots import axes_of, pareto
from yolov5_nas.results.report import closing_table, report, summary, usage
from yolov5_nas.results.winner import options_of
from yolov5_nas.strategies.regression import fence

PICTURES = ("pareto.png", "progress.png", "choices.png")


@pytest.fixture(scope="module")
def trials():
    return synthetic.records(200)


@pytest.fixture(scope="module")
def run(trials, tmp_path_factory):
    """A run in which everything happened, with its report."""
    found = trials[:40]
    found[5] = replace(found[5], conditions={**found[5].conditions, "trusted": False})
    found[6] = fail(found[6], "oom", "CUDA out of memory")
    found[7] = fail(found[7], "oom", "CUDA out of memory")
    found[8] = fail(found[8], "nan", "map50_95 is nan <&>")
    for i, cost in ((9, "1.25"), (10, "1.5")):
        message = f"latency_ratio is {cost}, which breaks latency_ratio<=1.2"
        found[i] = replace(fail(found[i], "constraint", message), state="infeasible", metrics=found[i].metrics)
    found[11] = replace(found[11], state="started", reward=None, metrics={}, seconds=None)
    folder = synthetic.write(tmp_path_factory.mktemp("runs") / "exp", found, constraint=["latency_ratio<=1.2"])
    report(folder)
    return folder


def fail(record, reason, message):
    error = {"reason": reason, "message": message}
    return replace(record, state="failed", reward=None, metrics={}, curve=(), error=error)


def page(folder):
    return (folder / "report.html").read_text()


def rows(html):
    """The cells of the table of trials, as shown."""
    body = html.split("<tbody>")[1].split("</tbody>")[0]
    cells = (re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in body.split("<tr")[1:])
    return [[re.sub(r"<[^>]*>", "", cell).strip() for cell in row] for row in cells]


# Effects -------------------------------------------------------------------------------------------------------------


def test_planted_effects_are_found_again_and_hardly_any_other(trials):
    default = synthetic.space().default()
    found = {(e.label, e.option): e for e in effects(trials, "map50_95", default)}
    for item, truth in synthetic.ACCURACY.items():
        assert found[item].matters
        assert found[item].mean == pytest.approx(truth, rel=0.3)
    others = [e for item, e in found.items() if item not in synthetic.ACCURACY]
    assert len(others) > 80
    assert sum(e.matters for e in others) <= 0.1 * len(others)
    assert all(e.default == default[e.label] for e in found.values())


def test_a_cost_is_a_share_of_the_stock_architectures(trials):
    doubled = [replace(r, metrics={"gflops": 2 * r.metrics["latency_ratio"]}) for r in trials]
    found = {(e.label, e.option): e for e in effects(doubled, "gflops", synthetic.space().default(), 2.0)}
    for item, truth in synthetic.COST.items():
        assert found[item].matters
        assert found[item].mean == pytest.approx(truth, abs=0.02)


def test_few_trials_leave_more_uncertainty(trials):
    default = synthetic.space().default()
    wide, narrow = (
        {(e.label, e.option): e.high - e.low for e in effects(trials[:n], "map50_95", default)} for n in (60, 200)
    )
    assert all(wide[item] > narrow[item] for item in synthetic.ACCURACY)


def test_noise_alone_matters_little(trials):
    noise = [replace(r, metrics={"map50_95": 0.5 + int(r.id, 16) % 1000 / 1e5}) for r in trials]
    found = effects(noise, "map50_95", synthetic.space().default())
    assert sum(e.matters for e in found) <= 0.05 * len(found)


@pytest.mark.parametrize("count", [0, 1, 3, MIN_TRIALS - 1])
def test_too_few_trials_have_no_effects(trials, count):
    assert effects(trials[:count], "map50_95", synthetic.space().default()) == []
    [_, _, figure] = figures(Path("run"), trials[:count], Options())
    assert figure.png is None
    assert figure.text == (f"This takes at least {MIN_TRIALS} complete trials; the run has {count}.",)


def test_trials_that_do_not_differ_have_no_effects(trials):
    same = [replace(trials[0], number=i) for i in range(20)]
    assert effects(same, "map50_95", trials[0].architecture) == []
    assert effects([replace(r, metrics={"map50_95": 0.5}) for r in trials], "map50_95", trials[0].architecture) == []


def test_an_option_that_all_trials_but_the_first_have_breaks_nothing(trials):
    moved = [replace(r, architecture={**r.architecture, "nasconv_0": "k4p1"}) for r in trials]
    assert effects(moved, "map50_95", trials[0].architecture)


def test_the_fence_by_hand():
    # Lower quartile 8, highest 10: far below is 8 - 1.5 x 2 = 5.
    assert fence([7, 8, 9, 9.5, 10]) == 5
    assert fence([3.0]) == 3.0


# The page ------------------------------------------------------------------------------------------------------------


def test_it_holds_everything_itself(run):
    html = page(run)
    assert html.count('src="data:image/png;base64,') == 3
    assert not re.findall(r"https?://|<link|src=\"(?!data:)|@import", html)
    for name in PICTURES:
        assert min(cv2.imread(str(run / name)).shape[:2]) > 300


def test_it_is_rebuilt_the_same_from_the_journal_and_search_yaml(run):
    before = page(run)
    for path in run.iterdir():
        if path.name not in ("trials.jsonl", "search.yaml"):
            path.unlink()
    report(run)
    assert page(run) == before


def test_a_run_without_search_yaml_has_a_report_too(trials, tmp_path):
    folder = synthetic.write(tmp_path / "exp", trials[:10])
    (folder / "search.yaml").unlink()
    report(folder)
    assert "detect.py --weights" in page(folder)
    assert "--imgsz" not in page(folder).split("</pre>")[0]


def test_the_table_has_every_trial_the_best_reward_first(run):
    table, records = rows(page(run)), read_journal(run)
    assert len(table) == len(records)
    rewards = [float(row[2]) for row in table if row[2] != "-"]
    assert rewards == sorted(rewards, reverse=True)
    assert table[0][1].startswith("best")
    states = {int(row[0]): row[1] for row in table}
    assert states[6] == "failed (oom)"
    assert states[9] == "infeasible"
    assert states[11] == "running or cut off"
    assert "stock" in states[0]


def test_headings_sort_by_the_unrounded_values(run):
    html = page(run)
    assert html.count("<th><button>") + html.count('<th class="text"><button>') == 11
    assert f'data-v="{read_journal(run)[1].metrics["params"]}"' in html
    assert "localeCompare" in html


def test_failures_are_counted_by_reason(run):
    found = {(state, reason): (count, message) for state, reason, count, message in _failures(read_journal(run))}
    assert found[("failed", "oom")] == (2, "CUDA out of memory")
    assert found[("failed", "nan")] == (1, "map50_95 is nan <&>")
    assert found[("infeasible", "latency_ratio<=1.2")][0] == 2
    assert found[("started", "runs, or was cut off")][0] == 1
    assert "map50_95 is nan &lt;&amp;&gt;" in page(run)


def test_conditions_of_the_latency_and_what_is_not_to_be_trusted_are_said(run):
    html = page(run)
    assert re.search(r"backend</td><td[^>]*>onnx<", html)
    assert re.search(r"runs</td><td[^>]*>20 to 59<", html)
    assert "1 of 36 measurements can&#39;t be trusted" in html
    marked = [row for row in rows(html) if any(cell.endswith("?") for cell in row)]
    assert [int(row[0]) for row in marked] == [5]


def test_what_was_proved_and_measured_again_has_its_sections(tmp_path):
    trials = synthetic.records(12)
    folder = synthetic.write(tmp_path / "run", trials)
    report(folder)
    assert "Is the gain real?" not in page(folder)
    again = Journal(folder / "remeasured" / "onnx-cpu.jsonl")
    again.path.parent.mkdir()
    conditions = {"runtime": "onnxruntime 1", "device": "cpu (y)", "dtype": "float32", "batch": 1, "trusted": False}
    for i, record in enumerate(trials):  # ranked the other way round
        again.append(
            replace(record, reward=-record.reward, conditions=conditions if i else conditions | {"trusted": True})
        )
    proof = Journal(folder / "prove" / "trials.jsonl")
    proof.path.parent.mkdir()
    (folder / "prove" / "prove.yaml").write_text("epochs: 3\ncandidates: [3]\nrescaled: null\n")
    for seed in range(3):
        for record, score in ((trials[0], 0.5), (trials[3], 0.6)):
            metrics = {"map50_95": score + seed / 1000, "latency_ratio": 1.0}
            proof.append(TrialRecord(len(proof.records), record.architecture, "complete", score, metrics, seed=seed))
    report(folder)
    html = page(folder)
    assert "<h2>Is the gain real?</h2>" in html
    assert "A gain is shown: trial 3 detects better than stock YOLOv5, at equal or lower cost." in html
    assert "<h2>Measured again: onnx-cpu</h2>" in html
    assert "Kendall&#x27;s tau: -1.00" in html
    assert html.count("1.0% untrusted") == 11


def test_the_words_name_what_matters(trials):
    [_, _, figure] = figures(Path("run"), trials, Options())
    assert figure.text[0].startswith("mAP50-95: ")
    assert "nasconv_0_act: SiLU → ReLU (-0.0" in figure.text[0]
    assert "can't be told from no change" in figure.text[0]
    assert "c3_4: 1.0 → 1.5 (+" in figure.text[1]


@pytest.mark.parametrize("count", [0, 1, 3, 9])
@pytest.mark.parametrize("state", ["complete", "failed", "infeasible", "started"])
def test_nothing_breaks_with_few_trials_of_any_state(trials, tmp_path, count, state):
    found = trials[:count]
    if state != "complete":
        found = [replace(r, state=state, reward=None, metrics={}, curve=(), conditions={}) for r in found]
    folder = synthetic.write(tmp_path / "exp", found)
    (folder / "trials.jsonl").touch()
    (folder / "pareto.png").write_bytes(b"of an earlier report")
    report(folder)
    assert len(rows(page(folder))) == count
    assert (folder / "pareto.png").exists() == bool(count and state == "complete")
    assert closing_table(folder, read_journal(folder))


def test_trials_without_any_metric_or_latency_have_a_report(trials, tmp_path):
    bare = [replace(r, metrics={}) for r in trials[:10]]
    report(synthetic.write(tmp_path / "bare", bare))
    kept = ("map50_95", "gflops")
    untimed = [
        replace(r, metrics={k: r.metrics[k] for k in kept}, conditions={"error": "no ONNX"}) for r in trials[:10]
    ]
    folder = synthetic.write(tmp_path / "untimed", untimed)
    report(folder)
    assert (folder / "pareto.png").exists()
    assert "10 trials without a latency: no ONNX" in page(folder)


# Axes, words, commands -----------------------------------------------------------------------------------------------


def test_a_cost_is_drawn_along_x(trials):
    assert axes_of(("map50_95", "params"), trials) == ("params", "map50_95")
    assert axes_of(("latency_ratio", "map50_95"), trials) == ("latency_ratio", "map50_95")
    assert axes_of(("params", "latency_ms", "map50_95"), trials) == ("params", "latency_ms")
    assert axes_of(("map50", "precision"), []) == ("map50", "precision")
    assert pareto(trials, "params", "latency_ms")
    assert pareto(trials, "map50", "map50_95")
    alone, axes = pareto(trials[:2], "latency_ratio", "map50_95"), ("latency_ratio", "map50_95")
    assert pareto(trials[:2], *axes, rivals={"parent at 288 px": trials[2]}) != alone


def test_of_more_than_two_objectives_the_first_two_are_drawn_and_it_says_so(trials):
    [figure, _, _] = figures(Path("run"), trials, Options(objectives=("map50_95", "latency_ratio", "params")))
    assert "3 objectives (map50_95, latency_ratio, params); the picture and its front are of two" in " ".join(
        figure.text
    )


def test_the_commands_have_the_winners_input_size(trials, tmp_path):
    folder = synthetic.write(tmp_path / "exp", trials[:2], imgsz=320)
    assert "detect.py --weights" in usage(folder, trials[1])
    assert usage(folder, trials[1]).count("--imgsz 320") == 4
    chosen = replace(trials[1], architecture={**trials[1].architecture, "imgsz": 256})
    assert usage(folder, chosen).count("--imgsz 256") == 4
    assert options_of(folder).imgsz == 320


def test_the_commands_can_be_pasted_whatever_the_folders_name(trials, tmp_path):
    folder = synthetic.write(tmp_path / "Bob's runs", trials[:2], imgsz=320)
    commands = [shlex.split(line) for line in usage(folder, trials[1]).splitlines()[3:]]
    files = [part for command in commands for part in command if part.startswith(str(folder))]
    assert len(files) == 4 and all(re.search(r"/best/(weights/best.pt|model.yaml)$", file) for file in files)


def test_a_report_is_of_a_folder(run, capsys):
    assert main(["report", str(run / "trials.jsonl")]) == 2
    assert "a report is of a run's folder" in capsys.readouterr().err


def test_the_summary_says_what_was_found(trials):
    assert summary([]) == "0 trials complete. No trial has a result."
    assert summary(trials[:1]).endswith("The search found nothing better than the stock architecture.")
    led = summary(trials[:1], stock_leads=True)
    assert "does not show that none is better: yolov5-nas prove trains the best of the others" in led
    stock, other = trials[0], replace(trials[1], reward=2.0)
    broken = replace(stock, error={"reason": "constraint", "message": "x"})
    assert "The stock architecture itself breaks a constraint." in summary([broken, other])
    assert summary([broken]).endswith("No trial has a result that meets the constraints.")
    doubtful = replace(other, conditions={"trusted": False})
    assert "(not to be trusted: the spread of its own measurement was too large)" in summary([stock, doubtful])
    nothing = [replace(r, metrics=r.metrics | {"map50_95": 0.001}) for r in (stock, doubtful)]
    assert "None has learnt to detect (best mAP50-95 0.0010), so there is nothing to compare" in summary(nothing)
    assert "1 failed, 1 infeasible" in summary([stock, fail(trials[2], "nan", ""), replace(other, state="infeasible")])


def test_the_csv_has_a_line_for_each_trial(run):
    with (run / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [int(line["number"]) for line in lines] == list(range(40))
    assert lines[6]["reason"] == "oom"
