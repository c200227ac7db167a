"""What TensorBoard reads back is what the journal has."""

from dataclasses import replace

import pytest
import synthetic
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from yolov5_nas.records.journal import read_journal
from yolov5_nas.records.options import Options
from yolov5_nas.results.tensorboard import TensorBoardLogger

BROKEN = {"reason": "constraint", "message": "latency_ratio is 1, which breaks latency_ratio<=0.9"}


@pytest.fixture(scope="module")
def trials():
    """Twelve, with one failed and two infeasible ones; the first breaks a constraint; the last two end out of order."""
    found = synthetic.records(12)
    found[0] = replace(found[0], error=BROKEN, reward=0.9)
    found[3] = replace(found[3], state="failed", reward=None, metrics={}, curve=(), error={"reason": "nan"})
    for i in (4, 5):
        found[i] = replace(found[i], state="infeasible", reward=None, curve=(), error=BROKEN)
    return [*found[:10], found[11], found[10]]


@pytest.fixture(scope="module")
def run(trials, tmp_path_factory):
    folder = synthetic.write(tmp_path_factory.mktemp("runs") / "exp", trials)
    log(folder, trials, trials=10)
    return folder


def log(folder, records, pause=0.0, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yolov5_nas.results.tensorboard.PAUSE", pause)
        _log(folder, records, options)


def _log(folder, records, options):
    logger = TensorBoardLogger(folder, [], Options(**options), synthetic.space())
    for record in records:
        logger(record)
    logger.close()


def read(folder):
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def scalars(events, tag):
    return {event.step: event.value for event in events.Scalars(tag)}


def test_rewards_and_every_metric_by_trial_are_the_journals(run):
    events, done = read(run), [r for r in read_journal(run) if r.state == "complete"]
    assert scalars(events, "search/reward") == pytest.approx({r.number: r.reward for r in done})
    names = {name for r in done for name in r.metrics}
    assert {tag for tag in events.Tags()["scalars"] if tag.startswith("metrics/")} == {f"metrics/{n}" for n in names}
    for name in names:
        assert scalars(events, f"metrics/{name}") == pytest.approx({r.number: r.metrics[name] for r in done})


def test_the_best_so_far_is_of_trials_that_meet_the_constraints_in_the_order_in_which_they_ended(run, trials):
    best, expected = float("-inf"), {}
    for step, r in enumerate(trials):
        if r.state == "complete" and r.error is None:
            best = max(best, r.reward)
            expected[step] = best
    assert 0 not in expected
    assert scalars(read(run), "search/best_reward") == pytest.approx(expected)


def test_failed_and_infeasible_trials_are_counted(run):
    events = read(run)
    assert list(scalars(events, "search/failed").values()) == [0, 0, 0, *[1] * 9]
    assert list(scalars(events, "search/infeasible").values()) == [0, 0, 0, 0, 1, *[2] * 7]


def test_each_complete_trial_has_its_curve_choices_and_result_in_its_own_folder(run):
    for record in read_journal(run):
        folder = run / "trials" / str(record.number)
        if record.state != "complete":
            assert not folder.exists()
            continue
        events = read(folder)
        for name in ("map50_95", "box_loss"):
            expected = {point["epoch"]: point[name] for point in record.curve}
            assert scalars(events, f"curve/{name}") == pytest.approx(expected)
        results = {"reward": record.reward, **record.metrics}
        for name, value in results.items():
            assert scalars(events, f"result/{name}") == pytest.approx({record.number: value})
        start, experiment = (hparams(events, tag) for tag in ("session_start_info", "experiment"))
        found = {k: v.string_value or v.number_value for k, v in start.session_start_info.hparams.items()}
        assert found == record.architecture
        assert {m.name.tag for m in experiment.experiment.metric_infos} == {f"result/{name}" for name in results}
        domains = {i.name: list(i.domain_discrete) for i in experiment.experiment.hparam_infos}
        assert domains == {c.label: list(c.options) for c in synthetic.space().choices.values()}


def hparams(events, tag):
    content = events.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content
    return plugin_data_pb2.HParamsPluginData.FromString(content)


def test_the_picture_comes_with_each_tenth_and_the_end_and_the_options_with_the_beginning(tmp_path):
    log(tmp_path, synthetic.records(24), trials=30)
    events = read(tmp_path)
    assert [image.step for image in events.Images("search/pareto")] == [3, 6, 9, 12, 15, 18, 21, 24]
    log(tmp_path / "cut_off", synthetic.records(5), trials=30)
    events = read(tmp_path / "cut_off")
    assert [image.step for image in events.Images("search/pareto")] == [3, 5]
    text = events.Tensors("options/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| trials | `30` |" in text


def test_pictures_of_quick_trials_wait_for_the_end(tmp_path):
    log(tmp_path, synthetic.records(9), pause=60.0, trials=9)
    assert [image.step for image in read(tmp_path).Images("search/pareto")] == [1, 9]


def test_what_a_constraint_refused_does_not_count_towards_a_tenth(run):
    steps = [image.step for image in read(run).Images("search/pareto")]
    assert steps == list(range(1, 11))  # 12 trials, 2 of them infeasible, of 10


def test_a_resume_writes_each_trial_once(tmp_path):
    trials = synthetic.records(4)
    log(tmp_path, trials[:3], trials=4)
    logger = TensorBoardLogger(tmp_path, trials[:3], Options(trials=4), synthetic.space())
    logger(trials[3])
    logger.close()
    assert [event.step for event in read(tmp_path).Scalars("search/reward")] == [0, 1, 2, 3]
    assert len(read(tmp_path / "trials/0").Scalars("result/reward")) == 1


def test_a_search_without_a_complete_trial_has_its_counts_alone(tmp_path):
    failed = [replace(r, state="failed", reward=None, metrics={}, curve=()) for r in synthetic.records(3)]
    log(tmp_path, failed, trials=3)
    events = read(tmp_path)
    assert set(events.Tags()["scalars"]) == {"search/failed", "search/infeasible"}
    assert not events.Tags()["images"]
