"""Small files that ship with the package, and where other weights are found."""
