"""How good a swap is: metrics, the evaluation, its report."""
