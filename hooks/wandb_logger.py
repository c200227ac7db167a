"""Logs every trial that was trained to Weights & Biases: one run for each, all of a search in one group.

Needs `pip install wandb`, and `wandb login` unless MODE is offline: `--hook "wandb_logger MODE=offline PROJECT=mine"`.
Offline runs are in RUN/wandb; `wandb sync` sends them.
"""

import os

PROJECT = "yolov5-nas"
MODE = os.environ.get("WANDB_MODE", "online")  # online or offline

search = {}  # the folder and the options of the search that runs


def on_search_start(run, options):
    import wandb  # noqa: F401  # so that what is missing is said at once

    search.update(folder=run, options=options)


def on_trial_end(trial):
    if trial.state == "infeasible":  # was not trained, and there may be hundreds
        return
    import wandb

    run = wandb.init(
        project=PROJECT,
        group=f"{search['folder'].parent.name}/{search['folder'].name}",
        name=f"trial {trial.number}",
        config={"architecture": dict(trial.architecture), "state": trial.state, **search["options"]},
        dir=str(search["folder"]),
        mode=MODE,
        settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
    )
    for point in trial.curve:
        run.log({name: value for name, value in point.items() if name != "epoch"}, step=point["epoch"])
    run.summary.update(dict(trial.metrics) | {"reward": trial.reward, "seconds": trial.seconds})
    if trial.error:
        run.summary.update({"reason": trial.error["reason"], "message": trial.error["message"]})
    run.finish(exit_code=int(trial.state == "failed"))
