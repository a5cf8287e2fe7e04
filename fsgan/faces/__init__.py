"""Where faces are: found, aligned, tracked and told apart."""
