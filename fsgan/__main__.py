"""The command line: `fsgan COMMAND ...`, the same as `python -m fsgan COMMAND ...`.

A command is a function of the package: its parameters are the arguments, its docstring
is the help. A module is imported when its command is run, so that the rest stays quick.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

DONE, FAILED, INTERRUPTED = 0, 1, 130
# What stages raise, with a sentence for the user; the rest are faults of ours.
_TOLD = (FloatingPointError, ImportError, MemoryError, OSError, ValueError)


class Command(NamedTuple):
    """What a word on the command line stands for.

    Attributes:
        function: "module:name", within the package.
        purpose: what it is for, a few words.
        tell: its result in words.
    """

    function: str
    purpose: str
    tell: Callable[[Any], object] = str


def _files(kind: str) -> Callable[[Any], str]:
    return lambda done: f"{len(done.files)} {kind} in {done.files[0].parent}"


def _preset_as_config(preset: Any) -> str:
    import yaml

    settings = {"losses": asdict(preset.losses)}
    config = {"model": asdict(preset.model), "settings": settings}
    return yaml.safe_dump(config, sort_keys=False).rstrip()


def _people(curated: Any) -> str:
    pairs = zip(curated.people, curated.faces, strict=True)
    lines = [f"{folder}: {count} faces" for folder, count in pairs]
    return "\n".join([*lines, f"unsorted: {curated.unsorted} faces"])


def _tracks(followed: Any) -> str:
    line = "track {0.number}: {0.start:.2f} to {0.end:.2f} s, in {0.frames} frames"
    return "\n".join(map(line.format, followed.tracks)) or "no face found"


def _where_to_look(video: Path) -> str:
    return f"""Look at these in {video.parent}:
  {video.name}   source, result and mask
  model/previews/    what the networks learned, and when
  faces/             the extracted faces"""


COMMANDS = {
    "extract": Command(
        "extract:extract_faces",
        "video, photos or camera -> face crops",
        _files("faces"),
    ),
    "examine": Command(
        "doctor:examine_faces",
        "face crops -> advice, bad ones aside",
        lambda found: "\n".join(found.advice),
    ),
    "restore": Command(
        "doctor:restore_faces",
        "take back what examine put aside",
        lambda files: f"{len(files)} faces came back",
    ),
    "curate": Command("curation:curate", "faces of many -> a folder for each", _people),
    "masks": Command(
        "extract:make_eye_masks", "face crops -> eye masks", _files("eye masks")
    ),
    "preset": Command(
        "presets:preset",
        "print a config file for train: gan or autoencoder",
        _preset_as_config,
    ),
    "train": Command(
        "training:train", "face crops -> trained model", "saved in {}".format
    ),
    "convert": Command(
        "convert:convert_video",
        "video and model -> swapped video",
        lambda done: f"{done.path}: {done}",
    ),
    "convert-image": Command(
        "convert:convert_image", "the same for a photo", "{} faces swapped".format
    ),
    "convert-videos": Command("convert_many:convert_videos", "the same for a folder"),
    "convert-images": Command("convert_many:convert_images", "a folder of photos"),
    "follow": Command(
        "following:follow_faces", "video -> who is where, with numbers", _tracks
    ),
    "evaluate": Command(
        "evaluation:evaluate", "video and its swap -> how good it is"
    ),
    "verify": Command("verification:verify", "what files tell about their origin"),
    "import-legacy": Command(
        "legacy:import_legacy", "weights of faceswap-GAN v2.2 -> model"
    ),
    "sample": Command(
        "sample:make_sample_clips",
        "make two clips to try things on",
        lambda paths: "\n".join(map(str, paths)),
    ),
    "demo": Command("demo:run_demo", "all of it on sample footage", _where_to_look),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: as typed after `fsgan`; None takes them from there.

    Returns:
        The exit status: 0 done; 1 it failed, and standard error says why in a sentence;
        130 interrupted. Of `verify`: 0 every file says that it is synthetic, 1 one
        carries no mark, 2 one was tampered with or cannot be read.

    Raises:
        SystemExit: with status 2, an argument or a setting is wrong; with 0, help was
            asked for.
    """
    options = _choose(arguments)
    if options.quiet:
        os.environ["TQDM_DISABLE"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's notes on itself
    logging.basicConfig(format="%(levelname)s: %(message)s")
    level = logging.WARNING if options.quiet else logging.INFO
    logging.getLogger("fsgan").setLevel(level)
    try:
        if options.command == "verify":
            return _verify(options.rest)
        return _run(options.command, options.rest)
    except KeyboardInterrupt:
        print("interrupted: what was finished stays", file=sys.stderr)
        return INTERRUPTED
    except _TOLD as error:
        if options.verbose:
            raise
        print(error, file=sys.stderr)
        return FAILED


def _choose(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Takes the command and what stands before it; what follows is the command's."""
    width = max(map(len, COMMANDS))
    purposes = [f"  {name:<{width}}  {c.purpose}" for name, c in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="fsgan",
        usage="fsgan [-q | -v] COMMAND ...",
        description="Trainable face swapping.",
        epilog="\n".join(
            ["commands:", *purposes, "", "fsgan COMMAND --help tells more of each."]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "-q", "--quiet", action="store_true", help="no progress, only warnings"
    )
    amount.add_argument(
        "-v", "--verbose", action="store_true", help="of an error the traceback, too"
    )
    parser.add_argument(
        "command", choices=COMMANDS, metavar="COMMAND", help="one of those below"
    )
    parser.add_argument(
        "rest", nargs=argparse.REMAINDER, metavar="ARGUMENT", help="its own"
    )
    return parser.parse_args(arguments)


def _run(name: str, arguments: Sequence[str]) -> int:
    """Calls the function of a command with what is given, and nothing else."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    from fsgan.arguments import parse_arguments

    command = COMMANDS[name]
    with _without_notes():
        function = resolve_name(f"fsgan.{command.function}")
    given = parse_arguments(f"fsgan {name}", function, arguments)
    with logging_redirect_tqdm():
        done = function(**given)
    print(command.tell(done))
    return FAILED if getattr(done, "failed", None) else DONE


@contextmanager
def _without_notes() -> Iterator[None]:
    """Hides what TensorFlow writes, past Python, before it can be told not to."""
    with open(os.devnull, "w") as nowhere:
        shown = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(shown, 2)
            os.close(shown)


def _verify(arguments: Sequence[str]) -> int:
    """Looks at many files; the worst one gives the status."""
    verify = resolve_name("fsgan.media.verification:verify")
    parser = argparse.ArgumentParser(
        prog="fsgan verify",
        description="Say what files tell about their origin: metadata, signature and "
        "sidecar. Exit status: 0 all say that they are synthetic, 1 one carries no "
        "mark, 2 one was changed after it was marked, or cannot be read.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument(
        "--trusted", metavar="PEM", help="root certificates of signers to trust"
    )
    options = parser.parse_args(arguments)
    statuses = []
    for file in options.files:
        try:
            found = verify(file, trusted=options.trusted)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            statuses.append(2)
            continue
        print(found, end="\n\n")
        statuses.append(2 if found.tampered else 0 if found.synthetic else 1)
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
