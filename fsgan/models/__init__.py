"""The networks, their checkpoints and the weights they start from."""
