"""Sampling functions that keep what policy gradients need: states, times and log-probabilities."""
