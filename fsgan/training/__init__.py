"""Losses, the training step, the loop and what it shows."""
