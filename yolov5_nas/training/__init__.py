"""Trials: trainings of one architecture, of the supernet, and scores without a training."""
