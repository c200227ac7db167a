"""Trials in the form in which they will run, on request validated there by YOLOv5's `val.run` and timed alternately
with trial 0 in the same form. What comes of it is read by `results.deployed`."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ..cost.latency import Pass, Runtime, prepare, timed
from ..cost.quantisation import has_vnni
from ..cost.whole import detector
from ..engines.local import own_device
from ..errors import UserError
from ..files import given_path, write_whole
from ..records.journal import read_journal
from ..records.metrics import BACKENDS
from ..records.options import Options, load_options
from ..records.run_folder import REFERENCE, RunFolder
from ..results.deployed import PLAIN, RECTANGULAR, Deployed, Deployment, Form, read, readme, write
from ..results.export import WRITTEN, check_out, export
from ..results.report import check_readable, report
from ..results.winner import winner_of
from ..training.detections import detect
from ..training.process import global_state_kept
from ..training.settings import Settings
from .callbacks import say
from .exported import Exporter, How, Network
from .judge import judging_split
from .prepare import settings_of
from .resume import hold

PHOTOS = 16  # images by which the way from pixels to boxes is timed


def deploy(
    run: str | Path, how: How, number: int | None = None, out: str | Path | None = None, device: str | None = None
) -> tuple[Deployment, Path, int]:
    """Export a trial, and where it is validated the reference beside it; `<run>/deployed.json` and the report get what
    was found.

    Args:
        run: a run's folder.
        number: of the trial; by default the best one.
        out: the folder for it; by default `<run>/export/<number>`, as the reference's.
        device: by default the run's.

    Returns:
        What is known of the run's networks, and the trial's folder and number.

    Raises:
        UserError: there is no such run or trial, its weights were not kept, or the machine can't do it.
    """
    files = RunFolder(run := given_path(run))
    check_readable(run)
    records = read_journal(run)
    o = Options().with_given(load_options(files.options)).with_given({"device": device} if device else {})
    if number is None:
        winner = winner_of(run, records, o)
        number = winner.number if winner else None
    if number is None:
        raise UserError("there is no winner to export", file=run)
    folder = given_path(out) if out else None
    if folder:
        check_out(folder, (*WRITTEN, "README.md"))
    with hold(run):
        compared = how.validate and number != REFERENCE and files.trial(REFERENCE).weights.exists()
        if how.validate and number != REFERENCE and not compared:
            say(f"nothing is compared: the weights of trial 0 ({o.reference}) were not kept")
        settings = settings_of(run, o, uses_images=how.validate or how.precision == "int8")
        deploying = Deploying(run, o, settings, how)
        found, folders = deploying.deploy([*([REFERENCE] if compared else []), number], folder)
        if how.validate:
            report(run)
    return found, folders[-1], number


class Deploying:
    """Exports some of a run's trials.

    Args:
        o: the run's options, with the device to do it on.
        settings: of the run's trials.
    """

    def __init__(self, run: Path, o: Options, settings: Settings, how: How):
        self.run, self.options, self.how = run, o, how
        self.settings = s = replace(settings, device=own_device(o.device))
        self.exporter = Exporter(s, how, o.seed, run / "deployed")
        self.host, self.device = self.exporter.host, self.exporter.device
        self.records = {record.number: record for record in read_journal(run)}
        self.split = judging_split(o, s, self.host) if how.validate else ""
        self.photos: list[Any] = []

    def deploy(self, numbers: Sequence[int], out: Path | None = None) -> tuple[Deployment, list[Path]]:
        """Export trials, the reference first where it is among them.

        Args:
            out: a folder for the last one, instead of one in the run's.

        Returns:
            What is known of the run's networks, and the folders.

        Raises:
            UserError: there is no such trial, or its weights were not kept. Nothing was written then.
        """
        kept = [number for number in self.records if RunFolder(self.run).trial(number).weights.exists()]
        for number in numbers:
            if number not in kept:
                rule = "the weights of the trial were not kept" if number in self.records else "no such trial"
                raise UserError(rule, got=number, accepted=kept, file=self.run)
        networks = [self._network(n, out if n == numbers[-1] else None) for n in numbers]
        with global_state_kept(), self._threads_of_search():
            for network in networks:
                self.exporter.export(network)
            if self.how.validate:
                self._measure(networks)
            rows = tuple(row for network in networks for row in self._rows(network))
        found = Deployment(rows, self.options.reference, self.how.margin)
        known = write(self.run, found) if self.how.validate else read(self.run)
        for network in networks:
            self._write_readme(network, known)
        found = known if self.how.validate else found
        return found, [network.folder for network in networks]

    def _network(self, number: int, out: Path | None) -> Network:
        folder, record = export(self.run, number, out), self.records[number]
        name = self.options.reference if number == REFERENCE else f"trial {number}"
        model = self.host.load_checkpoint(folder / "weights" / "best.pt")
        return Network(record, name, folder, self.settings.imgsz_of(record.architecture), model)

    @contextlib.contextmanager
    def _threads_of_search(self) -> Iterator[None]:
        """Latencies are of as many threads as those by which the search chose."""
        before = torch.get_num_threads()
        reference = self.records.get(REFERENCE)
        torch.set_num_threads(int(reference.conditions.get("threads", before)) if reference else before)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    # Figures ----------------------------------------------------------------------------------------------------------

    def _measure(self, networks: Sequence[Network]) -> None:
        for network in networks:
            say(f"{network.name}: validated on the {self.split} images")
            for form in (PLAIN, *network.files):
                self.exporter.guarded(network, form, self._validate)
        for form in (PLAIN, *self.how.forms):
            able = [n for n in networks if form not in n.problems and form in n.metrics]
            if able and (form == PLAIN or form.backend in BACKENDS):
                say(f"timed: {form}")
                self.exporter.guarded(able[0], form, functools.partial(self._time, able))

    def _validate(self, network: Network, form: Form) -> None:
        s, metrics = self.settings, network.metrics.setdefault(form, {})
        if form == PLAIN:
            where = self.host, network.weights, s, network.imgsz, self.split
            square, (own, by_image) = detect(*where, square=True)[0], detect(*where)
            metrics |= {key: square[key] for key in ("map50", "map50_95")}
            metrics |= {RECTANGULAR: own["map50_95"], "megabytes": network.weights.stat().st_size / 1e6}
            self.photos = self.photos or [cv2.imread(path) for path in list(by_image)[:PHOTOS]]
            return
        if form.backend not in BACKENDS:
            raise RuntimeError("exported, and not checked, since nothing here runs it")
        self._check_finite(network, form)
        metrics |= self.exporter.accuracies(network, network.files[form], form.precision, {}, self.split)

    def _check_finite(self, network: Network, form: Form) -> None:
        found = self._predictor(network, form)(torch.full((1, 3, network.imgsz, network.imgsz), 0.5))
        predictions = found[0] if isinstance(found, list | tuple) else found
        if not torch.isfinite(predictions).all():
            raise RuntimeError("it gives numbers that are not finite (NaN)")

    def _predictor(self, network: Network, form: Form) -> Callable[[Any], Any]:
        if form == PLAIN:
            fused = self.host.fused(network.model, self.device)
            return lambda images: fused(images.to(self.device))
        loaded = self.host.load_exported(network.files[form], form.precision, self.device)
        return lambda images: loaded(images.to(self.device))

    def _time(self, networks: Sequence[Network], _: Network, form: Form) -> None:
        """Time each network alternately with the first one, and each form alternately with the network's own FP32.

        A shared machine is slower at some moments than at others, so a network's milliseconds are the first one's,
        multiplied by the ratio.
        """
        first, *others = networks
        runtime = self._runtime(form)
        with contextlib.ExitStack() as files:
            for what, make in (("latency", self._pass), ("whole", self._whole)):
                timings = [timed(make(n, form, files), make(first, form, files), runtime) for n in others or [first]]
                base = timings[0]["latency_ms"] / timings[0]["latency_ratio"]
                first.metrics[form][f"{what}_ms"] = base if others else timings[0]["latency_ms"]
                for network, timing in zip(others, timings):
                    network.metrics[form][f"{what}_ms"] = base * timing["latency_ratio"]
                    if first.record.is_reference:
                        network.metrics[form] |= {
                            f"{what}_ratio": timing["latency_ratio"],
                            f"{what}_error": timing["latency_error"],
                        }
                if first.record.is_reference and others:
                    first.metrics[form][f"{what}_ratio"] = 1.0
            for network in networks if form.plain != form else ():
                if form.plain in network.files:
                    own, plain = self._pass(network, form, files), self._pass(network, form.plain, files)
                    network.metrics[form]["to_fp32"] = timed(own, plain, runtime)["latency_ratio"]

    def _runtime(self, form: Form) -> Runtime:
        return Runtime("pytorch" if form == PLAIN else form.backend, self.how.batch, form.precision, str(self.device))

    def _pass(self, network: Network, form: Form, files: contextlib.ExitStack) -> Pass:
        """The network alone, as a search times it.

        Args:
            files: keeps what is written for it; a runtime may have a file open for as long as the pass is used.
        """
        if form == PLAIN or self.how.batch > 1:
            folder = files.enter_context(tempfile.TemporaryDirectory())
            return prepare(network.model, network.imgsz, self._runtime(form), self.host, Path(folder, "model"))
        image = torch.zeros(1, 3, network.imgsz, network.imgsz, device=self.device)
        predict = self._predictor(network, form)
        return lambda: predict(image)

    def _whole(self, network: Network, form: Form, _: contextlib.ExitStack) -> Pass:
        """The way from pixels to boxes, of one image."""
        photos = self.photos or [np.zeros((network.imgsz, network.imgsz, 3), np.uint8)]
        return detector(self.host, self._predictor(network, form), photos, network.imgsz)

    # What is told -----------------------------------------------------------------------------------------------------

    def _rows(self, network: Network) -> list[Deployed]:
        ratios = [r.metrics.get("latency_ratio") for r in (network.record, self.records[REFERENCE])]
        o, believed = self.options, None
        if ratios[0] and ratios[1]:
            believed = ratios[0] / ratios[1], str(Form(o.latency_backend, o.precision))
        return [
            Deployed(
                network.record.number,
                network.name,
                form,
                network.metrics.get(form, {}),
                believed,
                network.problems.get(form, ""),
                tuple(network.kept.get(form, ())),
                self._conditions(form),
            )
            for form in dict.fromkeys([*network.metrics, *network.problems])
        ]

    def _conditions(self, form: Form) -> dict[str, Any]:
        if form != PLAIN and form.backend not in BACKENDS:
            return {}
        known = self._runtime(form).conditions(0)
        conditions = {name: known[name] for name in ("device", "threads", "batch") if name in known}
        return conditions | {"vnni": has_vnni(), **({"split": self.split} if self.split else {})}

    def _write_readme(self, network: Network, known: Deployment) -> None:
        subject = f"{network.name[0].upper()}{network.name[1:]} of {self.run.resolve()}, made by yolov5-nas"
        names = [str(name) for name in dict(self.settings.data["names"]).values()]
        folder = network.folder / "weights"
        found = [file.relative_to(network.folder) for file in sorted(folder.iterdir()) if file.suffix != ".pt"]
        text = readme(known, network.record.number, subject, network.imgsz, names, found)
        write_whole(network.folder / "README.md", text)
