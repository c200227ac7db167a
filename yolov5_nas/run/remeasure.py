"""The recorded architectures measured elsewhere, and ranked again without any training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..engines.local import own_device
from ..errors import TrialError, UserError
from ..files import given_path, write_whole
from ..records.journal import eligible, read_journal
from ..records.options import Options, load_options
from ..records.run_folder import RunFolder
from ..results.ranking import agreement, ranking
from ..results.report import report
from ..training.trial import measure_architecture
from .prepare import reward_of, settings_without_data


def remeasure(
    run: str | Path,
    backend: str = "pytorch",
    device: str = "cpu",
    batch: int = 1,
    precision: str = "fp32",
    yolov5: str | None = None,
) -> str:
    """Measure every complete architecture on another runtime, and rank by the run's reward with the new costs.

    Neither data nor weights are needed, so that a run's folder can be copied to the device that it is for.

    `<run>/remeasured/<backend>-<device>.jsonl` gets the records with their new metrics, and the report a section.

    Args:
        yolov5: a clone, where the run's own is not here.

    Returns:
        The new ranking beside the old, and Kendall's tau between the two, as text.

    Raises:
        UserError: there is no such run, nothing in it to rank, or the machine can't measure so.
    """
    files = RunFolder(run := given_path(run))
    records = eligible(read_journal(run))
    if len(records) < 2:
        raise UserError("a ranking needs two complete trials at least", got=len(records), file=run)
    o = Options().with_given(load_options(files.options))
    o = replace(
        o,
        device=device,
        latency_backend=backend,
        latency_batch=batch,
        precision=precision,
        half=precision == "fp16",
        yolov5=yolov5 or o.yolov5,
    )
    settings = settings_without_data(run, o, files.trial(records[0].number).model)
    settings = replace(settings, constraints=(), needed=("latency_ratio",), device=own_device(device))
    settings.runtime.check()
    reward = reward_of(o)
    found = []
    for i, record in enumerate(records, 1):
        try:
            costs = measure_architecture(record.architecture, settings)
        except TrialError as e:
            raise UserError(f"trial {record.number} can't be measured: {e.message}") from None
        metrics = {**record.metrics, **costs.metrics}
        found.append(replace(record, metrics=metrics, reward=reward(metrics), conditions=costs.conditions))
        print(f"[{i}/{len(records)}] trial {record.number}: x stock {metrics['latency_ratio']:.3f}", flush=True)
    files.remeasured.mkdir(exist_ok=True)
    text = "".join(record.to_json() + "\n" for record in found)
    write_whole(files.remeasured / f"{o.latency_backend}-{device.replace(',', '-')}.jsonl", text)
    report(run)
    lines = ["".join(f"{cell:>10}" for cell in row) for row in ranking(records, found)]
    return "\n".join([*lines, "", f"Kendall's tau between the two rankings: {agreement(records, found):.2f}"])
