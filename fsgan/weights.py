"""Weight files of other projects: where they are looked for, and their check."""

import hashlib
from pathlib import Path

FOLDERS = (Path("weights"), Path(__file__).parents[1] / "weights")
"""Searched in this order: `weights/` of the working folder, then of the project."""


def find_weights(name: str, sha256: str) -> Path | None:
    """Looks for a weight file and checks that it is whole.

    Args:
        name: path of the file below `weights/`, as listed in `weights/README.md`.
        sha256: first hexadecimal digits of its SHA-256, at least 8.

    Returns:
        The file, or None where there is none.

    Raises:
        ValueError: the file is damaged or another one.
    """
    for folder in FOLDERS:
        path = folder / name
        if path.is_file():
            check_weights(path, sha256)
            return path
    return None


def check_weights(path: Path, sha256: str) -> None:
    """Checks that a weight file is the one it should be.

    Args:
        path: the file.
        sha256: first hexadecimal digits of its SHA-256.

    Raises:
        ValueError: the file is damaged or another one.
    """
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256):
        raise ValueError(
            f"{path} is damaged or not the expected file: its SHA-256 starts with "
            f"{found[: len(sha256)]}, not {sha256}; get it again as weights/README.md "
            "says"
        )
