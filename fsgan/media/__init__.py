"""Pictures, film and sound in and out; marks of what is synthetic."""
