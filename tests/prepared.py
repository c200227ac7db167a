"""A training before its first step."""

from yolov5_nas.space.compile import derive
from yolov5_nas.training.initial import load_weights
from yolov5_nas.training.trainer import Training


def prepared(host, settings, architecture):
    """A training that has inherited its weights, before its first step."""
    host.general.init_seeds(0, deterministic=True)
    model = host.build(derive(settings.space, architecture))
    start = load_weights(model, settings.space, architecture, settings, host)
    training = Training(host, model, settings, 64, 16, 0, start=start)
    training._prepare()
    return training
