"""Options: the values that no search can use."""

import math

import pytest

from yolov5_nas.errors import UserError
from yolov5_nas.records.options import TABLE, Options

NUMBERS = {
    **{"imgsz": (-64, 0), "workers": (-1,), "batch_size": (0, -16), "concurrency": (0, -1), "latency_batch": (0,)},
    **{"freeze": ((-1,), (3, -2)), "hours": (0.0, -1.0, math.nan), "subset": (0.0, -0.5, 1.5, math.nan)},
    **{"label_smoothing": (-0.1, 1.0, math.nan), "exponent": (math.nan, math.inf), "val_period": (0,), "trials": (0,)},
    **{
        "margin": (0.0, -0.1, 1.0, math.nan),
        "seed": (-1, 2**32),
        "audit": (-1,),
        "audit_epochs": (0,),
        "population": (0,),
        "epochs": (-1,),
    },
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in NUMBERS.items() for value in values])
def test_a_number_out_of_range_is_refused_by_its_flag(name, value):
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} .*got "):
        Options(**{name: value})


def test_each_number_has_a_range():
    """A new option that takes a number says which, or stands here with where it is looked at."""
    elsewhere = {"base_epochs", "port", "trial_minutes", "cpus_per_trial", "gpus_per_trial"}  # the last four by engines
    numbers = {n for n, f in Options.__dataclass_fields__.items() if "int" in str(f.type) or "float" in str(f.type)}
    assert numbers - elsewhere <= {*NUMBERS, *(n for n, known in TABLE.items() if known.least is not None)}
