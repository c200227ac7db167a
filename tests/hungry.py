"""A loss that is out of memory above a batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Hungry:
    """The host's loss, in its place.

    Args:
        most: images of a training batch for which there is memory.
        ask: what happens above that; it raises.
    """

    def __init__(self, host: Any, most: int, ask: Callable[[], Any]):
        self.host, self.most, self.ask = host, most, ask

    def __call__(self, model: Any) -> Callable[[Any, Any], Any]:
        loss = self.host.modules["utils.loss"].ComputeLoss(model)

        def compute(predictions: Any, targets: Any) -> Any:
            if torch.is_grad_enabled() and len(predictions[0]) > self.most:
                self.ask()
            return loss(predictions, targets)

        return compute
