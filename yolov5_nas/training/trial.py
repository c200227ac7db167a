"""A trial: train one architecture as YOLOv5's own `train.py` does, and validate it with YOLOv5's `val.run`.

It knows nothing of the search. What it trains is the derived stock model, so what it saves needs no plugin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..cost.device_lock import DeviceLock
from ..cost.measure import measure
from ..errors import TrialError
from ..files import write_whole
from ..host.yolov5 import Host, load
from ..records.hooks import Hooks
from ..records.journal import TrialResult
from ..records.metrics import LATENCIES, is_own
from ..records.reward import broken
from ..records.run_folder import TrialFolder
from ..space.architecture import Architecture, Value
from ..space.compile import derive, dump_model
from .initial import load_weights
from .process import as_trial, free_memory, is_out_of_memory, log_to
from .settings import Settings, budget_of
from .trainer import Training


def run_trial(
    architecture: Mapping[str, Value],
    settings: Settings,
    seed: int = 0,
    folder: Path | None = None,
    costs: TrialResult | None = None,
) -> TrialResult:
    """Measure, train and validate one architecture.

    Args:
        folder: gets `log.txt`, `curve.jsonl`, and, both stock, `model.yaml` (with the anchors it was trained with) and
            `weights.pt`.
        costs: what `measure_trial` found; then it is not measured here.

    Returns:
        The metrics of the best validated epoch (by YOLOv5's fitness), and the costs. Or, where a constraint refused it
        before training, the costs and the state `infeasible`.

    Raises:
        TrialError: with the reason `oom` (also at half the batch), `nan`, `latency`, `hook` or `crash`.
    """
    if settings.base_epochs:
        settings = settings.of_base()
    with as_trial(settings, folder) as host:
        costs = costs or measure_architecture(architecture, settings)
        if costs.state == "infeasible":
            return costs
        try:
            return _train(Architecture(architecture), settings, seed, folder, host, costs)
        finally:
            free_memory()


def measure_trial(
    architecture: Mapping[str, Value], settings: Settings, seed: int = 0, folder: Path | None = None
) -> TrialResult:
    """The part of `run_trial` that measures, for a machine that does nothing else; what comes of it is its `costs`.

    Raises:
        TrialError: with the reason `latency` or `crash`.
    """
    with as_trial(settings, folder):
        return measure_architecture(architecture, settings)


def run_trial_with_onnx(
    architecture: Mapping[str, Value], settings: Settings, seed: int, folder: Path, costs: TrialResult | None = None
) -> TrialResult:
    """As `run_trial`; `folder` gets `model.onnx` too. Needs the package onnx."""
    result = run_trial(architecture, settings, seed, folder, costs)
    own = TrialFolder(folder)
    if own.weights.exists():
        with log_to(folder):
            host = load(settings.location)
            model = host.load_checkpoint(own.weights)
            host.export(model, own.onnx.with_suffix(".pt"), "onnx", settings.imgsz_of(architecture), 1, False, "cpu")
    return result


def measure_architecture(
    architecture: Mapping[str, Value], settings: Settings, with_latency: bool = True
) -> TrialResult:
    """What an architecture costs, without training: params, gflops and latency, the state `infeasible` where it breaks
    a constraint. Then, if no constraint is broken, what hooks measure.

    A latency that can't be measured is absent; `conditions` then hold the error.

    Args:
        with_latency: measure latency, and by hooks what nothing needs.

    Raises:
        TrialError: with the reason `latency` or `hook`, if what they measure is needed and can't be measured.
    """
    host = load(settings.location)
    is_default = Architecture(architecture).id == settings.space.default().id
    stock, stock_imgsz = settings.reference()
    settings, architecture = settings.in_form(architecture)
    model = host.build(derive(settings.space, architecture))
    sizes = settings.imgsz, stock_imgsz

    def refused(costs: Mapping[str, float]) -> bool:
        return not is_default and broken(settings.constraints, costs) is not None

    def enough(costs: Mapping[str, float]) -> bool:
        return not with_latency or refused(costs)

    costs, conditions = measure(model, lambda: host.build(stock), sizes, settings.runtime, host, enough)
    if "error" in conditions and set(settings.needed) & set(LATENCIES):
        raise TrialError("latency", conditions["error"])
    needed = set(filter(is_own, settings.needed))
    if settings.hooks and not refused(costs) and (with_latency or needed):
        own, conditions["hooks"] = _measure_by_hooks(model, sizes[0], settings, host)
        if missing := needed - set(own):
            problems = "; ".join(f"{name}: {problem}" for name, problem in conditions["hooks"].items())
            reason = problems or f"they measured {', '.join(own) or 'nothing'}"
            raise TrialError("hook", f"no hook measured {', '.join(sorted(missing))} ({reason})")
        costs |= own
    conditions = {name: value for name, value in conditions.items() if value != {}}
    why = broken(settings.constraints, costs)
    return TrialResult(costs, (), "infeasible" if why and not is_default else "complete", conditions, why)


def costs_of_score(architecture: Mapping[str, Value], settings: Settings) -> TrialResult:
    """What a score without a training measures: latency only where it is needed, or with `settings.measure_all`."""
    with_latency = settings.measure_all or bool(set(settings.needed) & set(LATENCIES))
    return measure_architecture(architecture, settings, with_latency)


def _measure_by_hooks(
    model: Any, imgsz: int, settings: Settings, host: Host
) -> tuple[dict[str, float], dict[str, str]]:
    """What hooks measure of a model as it is deployed, while trainings wait, and what went wrong."""
    hooks = Hooks(settings.hooks)
    fused = host.fused(model, settings.device)
    with DeviceLock(settings.device).measuring(), torch.no_grad():
        return hooks.measured(fused, imgsz, settings.device), hooks.problems


def _train(
    architecture: Architecture, settings: Settings, seed: int, folder: Path | None, host: Host, costs: TrialResult
) -> TrialResult:
    settings, architecture = settings.in_form(architecture)
    space, imgsz = settings.space, settings.imgsz
    cfg = derive(space, architecture)
    batch_size = settings.batch_size
    for last in (False, True):
        try:
            host.general.init_seeds(seed, deterministic=True)
            model = host.build(cfg)
            start = load_weights(model, space, architecture, settings, host, seed)
            training = Training(host, model, settings, imgsz, batch_size, seed, folder, start, costs.metrics)
            del model, start  # they are the training's alone
            training.run()
            break
        except Exception as e:
            if last or batch_size < 2 or not is_out_of_memory(e):
                raise
            print(f"out of memory at batch {batch_size}, once more at {batch_size // 2} with doubled accumulation")
            batch_size //= 2
        training = None  # type: ignore[assignment]  # its memory goes before the next attempt
        free_memory()
    metrics = {**training.results, **costs.metrics, "batch_size": batch_size}
    if problems := {**costs.conditions.get("hooks", {}), **training.hooks.problems}:
        costs = replace(costs, conditions={**costs.conditions, "hooks": problems})
    if training.pruned:
        costs = replace(costs, state="pruned", why=training.pruned)
    elif folder:
        own = TrialFolder(folder)
        host.save_checkpoint(training.best, own.weights, opt={"imgsz": imgsz, "single_cls": settings.single_cls})
        write_model_yaml(training.best, cfg, own.model)
    curve, budget = tuple(training.curve), budget_of(settings)
    return replace(costs, metrics=metrics, curve=curve, classes=training.classes, budget=budget)


def write_model_yaml(model: Any, cfg: Mapping[str, Any], path: Path) -> None:
    """The stock YAML of a trained model, with the anchors that it was trained with (in pixels)."""
    detect = model.model[-1]
    pixels = (detect.anchors * detect.stride.view(-1, 1, 1)).flatten(1)  # (layers, 2 x anchors)
    given = torch.tensor(cfg["anchors"]) if isinstance(cfg["anchors"], list) else None
    changed = given is None or given.shape != pixels.shape or not torch.allclose(pixels.cpu(), given.float(), rtol=1e-2)
    anchors = [[round(x, 2) for x in row] for row in pixels.tolist()] if changed else cfg["anchors"]
    write_whole(path, dump_model({**cfg, "anchors": anchors}))
