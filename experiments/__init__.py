"""Experiments of grpo_accel."""
