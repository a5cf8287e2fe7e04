"""From frames to swapped frames and films."""
