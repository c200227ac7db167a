"""Weights of one architecture for another."""
