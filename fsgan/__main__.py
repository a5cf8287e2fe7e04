"""The command line: `python -m fsgan verify FILE...`."""

import argparse
import sys
from collections.abc import Sequence

from fsgan.verification import verify


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: as typed after `python -m fsgan`; None takes them from there.

    Returns:
        The exit status of `verify`: 0 every file says that it is synthetic, 1 one
        carries no mark, 2 one was tampered with or cannot be read.
    """
    parser = argparse.ArgumentParser(prog="python -m fsgan")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "verify",
        help="say what files tell about their origin",
        description="Say what files tell about their origin: metadata, signature and "
        "sidecar. Exit status: 0 all say that they are synthetic, 1 one carries no "
        "mark, 2 one was changed after it was marked, or cannot be read.",
    )
    command.add_argument("files", nargs="+", metavar="FILE")
    command.add_argument(
        "--trusted", metavar="PEM", help="root certificates of signers to trust"
    )
    options = parser.parse_args(arguments)
    return max(_verify(file, options.trusted) for file in options.files)


def _verify(file: str, trusted: str | None) -> int:
    try:
        found = verify(file, trusted=trusted)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(found, end="\n\n")
    if found.tampered:
        return 2
    return 0 if found.synthetic else 1


if __name__ == "__main__":
    sys.exit(main())
