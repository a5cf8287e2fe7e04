"""The command line: `fsgan COMMAND ...`, the same as `python -m fsgan COMMAND ...`.

A command is a public function of the package: its parameters are the arguments, its
docstring is the help. It is imported when its command runs, so that `--help` is quick.
"""

import argparse
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, is_dataclass
from fractions import Fraction
from functools import reduce
from inspect import Parameter, Signature, getdoc, signature
from operator import or_
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import fsgan

DONE, FAILED, INTERRUPTED = 0, 1, 130
# Errors that a stage raises with a sentence for the user; others are faults of ours.
_FOR_THE_USER = (FloatingPointError, ImportError, MemoryError, OSError, ValueError)


class Command(NamedTuple):
    """What a word on the command line stands for.

    Attributes:
        function: a public name of `fsgan`.
        purpose: what it is for, a few words.
        report: describes its result.
    """

    function: str
    purpose: str
    report: Callable[[Any], object] = str


def _config(recipe: Any) -> str:
    import yaml

    config = {name: asdict(value) for name, value in recipe._asdict().items()}
    return yaml.safe_dump(config, sort_keys=False).rstrip()


def _tracks(followed: Any) -> str:
    line = "track {0.number}: {0.start:.2f} to {0.end:.2f} s, in {0.frames} frames"
    return "\n".join(map(line.format, followed.tracks)) or "no face found"


COMMANDS = {
    "extract": Command("extract_faces", "video, photos or camera -> face crops"),
    "extract-videos": Command("extract_videos", "a folder of videos -> crops of each"),
    "examine": Command(
        "examine_faces",
        "face crops -> advice, bad ones aside",
        lambda found: "\n".join(found.advice),
    ),
    "restore": Command(
        "restore_faces",
        "take back what examine put aside",
        lambda files: f"{len(files)} faces came back",
    ),
    "curate": Command("curate", "faces of many -> a folder for each"),
    "masks": Command("make_masks", "face crops -> masks of eyes, face and mouth"),
    "recipe": Command("recipe", "print a config file for train, to change", _config),
    "train": Command("train", "face crops -> trained model", "saved in {}".format),
    "train-pairs": Command("train_pairs", "folders of people -> a model a pair"),
    "convert": Command(
        "convert_video",
        "video and model -> swapped video",
        lambda done: f"{done.path}: {done}",
    ),
    "convert-image": Command(
        "convert_image", "the same for a photo", "{} faces swapped".format
    ),
    "convert-videos": Command("convert_videos", "the same for a folder"),
    "convert-images": Command("convert_images", "a folder of photos"),
    "live": Command("live", "camera and model -> swapped, as it comes"),
    "follow": Command("follow_faces", "video -> who is where, with numbers", _tracks),
    "evaluate": Command("evaluate", "video and its swap -> how good it is"),
    "review": Command(
        "review", "video and its swap -> the frames that went wrong", repr
    ),
    "verify": Command("verify", "what files say about their origin"),
    "export": Command("export", "model -> .dfm or .onnx", "written to {}".format),
    "bench": Command("benchmark", "how fast this machine is: a table to post"),
    "import-legacy": Command("import_legacy", "weights of faceswap-GAN v2.2 -> model"),
    "sample": Command(
        "make_sample_clips",
        "make two clips to try things on",
        lambda paths: "\n".join(map(str, paths)),
    ),
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
    options = _parse_command(arguments)
    if options.quiet:
        os.environ["TQDM_DISABLE"] = "1"
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
    except _FOR_THE_USER as error:
        if options.verbose:
            raise
        print(_said(error), file=sys.stderr)
        return FAILED


def _said(error: Exception) -> str:
    """What an error says; of the system's own, which file and why, without a number."""
    file = getattr(error, "filename", None)
    if file is None or not error.strerror:
        return str(error)
    from fsgan.validation import shorten

    return f"{shorten(os.fsdecode(file))}: {error.strerror}"


def _parse_command(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command and what stands before it; `rest` is what follows."""
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
        "-v", "--verbose", action="store_true", help="show the traceback of an error"
    )
    parser.add_argument(
        "command", choices=COMMANDS, metavar="COMMAND", help="one of those below"
    )
    parser.add_argument(
        "rest", nargs=argparse.REMAINDER, metavar="ARGUMENT", help="its arguments"
    )
    typed = sys.argv[1:] if arguments is None else arguments
    return parser.parse_args(typed or ["--help"])


def _run(name: str, arguments: Sequence[str]) -> int:
    """Calls the function of a command with the arguments given, and no others."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    command = COMMANDS[name]
    function = getattr(fsgan, command.function)
    given = parse_arguments(f"fsgan {name}", function, arguments)
    with logging_redirect_tqdm(), _noting_interrupts() as interrupts:
        done = function(**given)
    print(command.report(done))
    if name == "train" and interrupts:  # it saves, and ends without an error
        return INTERRUPTED
    return FAILED if getattr(done, "failed", None) else DONE


def parse_arguments(
    program: str, function: Callable, arguments: Sequence[str]
) -> dict[str, Any]:
    """Parses the arguments of a function, and `--config` and `--print_config`.

    A parameter without a default is an argument, the others are options; each field of
    a dataclass of settings is one, too: `--settings.color lab`. An argument that may be
    None may be left out.

    Args:
        program: name of the command, for its help.
        function: with type hints and a docstring in Google style.
        arguments: as typed.

    Returns:
        What was given, by parameter; the function takes its own defaults for the rest.
        Of settings that may be a mapping, it is that of the fields given.

    Raises:
        SystemExit: with status 2, an argument is wrong; with 0, help was printed.
    """
    hints = get_type_hints(function)
    parameters = signature(function).parameters.values()
    needed = {it.name for it in parameters if it.default is Parameter.empty}
    may_miss = {name for name in needed if NoneType in get_args(hints[name])}
    parser = _parser(program, function)
    try:
        return _parse(parser, hints, arguments)
    except (argparse.ArgumentError, ValueError) as error:
        message = _sentence(str(error), hints)
        if may_miss and "are required" in message:
            with suppress(argparse.ArgumentError, ValueError):
                given = _parse(_parser(program, function, may_miss), hints, arguments)
                return dict.fromkeys(may_miss) | given
    parser.exit_on_error = True
    parser.error(message)


def _parser(program: str, function: Callable, left_out: Container[str] = ()) -> Any:
    """Makes the parser of a function's arguments, without those left out."""
    import jsonargparse

    class Formatter(
        jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter
    ):
        """Keeps the lines of the docstring."""

    class Config(jsonargparse.ActionConfigFile):
        """Names the file in what is wrong with it."""

        def __call__(self, parser, given, path, option_string=None) -> None:
            try:
                if os.path.exists(path) and not os.path.isfile(path):
                    raise ValueError("it is no file: give a YAML file")
                super().__call__(parser, given, path, option_string)
            except (argparse.ArgumentError, OSError, TypeError, ValueError) as error:
                message = _sentence(str(error), get_type_hints(function))
                raise argparse.ArgumentError(None, f"{path}: {message}") from error

    jsonargparse.typing.register_type(Fraction)
    hints, settings, parameters = get_type_hints(function), {}, []
    for parameter in signature(function).parameters.values():
        hint = hints[parameter.name]
        kind, *others = get_args(hint) or (hint,)
        if is_dataclass(kind) and NoneType in others:
            settings[parameter.name] = kind
        hint = _typed(hint, parameter.default is Parameter.empty)
        if parameter.name not in left_out:
            parameters.append(parameter.replace(annotation=hint))
    needed = [
        f"[{it.name}]" if NoneType in get_args(hints[it.name]) else it.name
        for it in parameters
        if it.default is Parameter.empty
    ]

    def typed() -> None: ...

    typed.__doc__, typed.__signature__ = function.__doc__, Signature(parameters)
    typed.__annotations__ = {it.name: it.annotation for it in parameters}
    parser = jsonargparse.ArgumentParser(
        prog=program,
        usage=" ".join([f"{program} [OPTION ...]", *needed]),
        description=getdoc(function).partition("\n\nArgs:")[0],
        formatter_class=Formatter,
        exit_on_error=False,
    )
    parser.add_argument("--config", action=Config, help="YAML file with arguments")
    parser.add_function_arguments(
        typed, as_group=False, as_positional=True, skip={*settings, "on_preview"}
    )
    for name, kind in settings.items():
        parser.add_class_arguments(kind, name)
        if Mapping in get_args(hints[name]):  # what is not given stays as it is
            for action in parser._actions:
                if action.dest.startswith(f"{name}."):
                    action.default = argparse.SUPPRESS
    return parser


def _parse(parser: Any, hints: dict, arguments: Sequence[str]) -> dict[str, Any]:
    """Parses what was given; settings become objects, or stay a mapping."""
    given = parser.parse_args(arguments, defaults=False)
    given.pop("config", None)
    partial = {}
    for name, hint in hints.items():
        if Mapping in get_args(hint) and name in given:
            partial[name] = given.pop(name).as_dict()
            _check_fields(get_args(hint)[0], partial[name])
    values = vars(parser.instantiate(given))
    return {name: values[name] for name in values if name in given} | partial


def _check_fields(kind: type, given: Mapping) -> None:
    """Checks some fields of a dataclass, and of those within."""
    from fsgan.validation import check

    for field in fields(kind):
        if is_dataclass(field.type):
            _check_fields(field.type, given.get(field.name, {}))
        elif field.name in given:
            check(field.name, given[field.name], field.type)


def _sentence(message: str, hints: dict[str, Any]) -> str:
    """Says in one short sentence what jsonargparse says in many lines."""
    from fsgan.validation import check, shorten

    named = re.match(
        r'Parser key "([\w.]+)":.*(?:Got|Given) value: (.*)', message, re.DOTALL
    )
    if named:
        name, value = named.groups()
        first, *others = name.split(".")
        kind = hints.get(first, Any)
        for other in others:
            kind = get_type_hints((get_args(kind) or [kind])[0])[other]
        try:
            check(name, value, _typed(kind, needed=False))
        except ValueError as error:
            return str(error)
    message = message.removeprefix('Parser key "config": ')
    return shorten(" ".join(message.split()), 300)


def _typed(hint: Any, needed: bool) -> Any:
    """What of a union can be typed: no paths or objects; text last, as all is text."""
    if get_origin(hint) not in (Union, UnionType):
        return hint
    left_out = {Path, NoneType} if needed else {Path}
    kinds = [it for it in get_args(hint) if it not in left_out]
    kinds = [it for it in kinds if not re.search("fsgan|Iterable|Callable", str(it))]
    return reduce(or_, sorted(kinds, key=lambda kind: kind is str))


@contextmanager
def _noting_interrupts() -> Iterator[list[int]]:
    """Lists the interrupts (Ctrl-C) that arrive, also where they are caught."""
    noted = []

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def _verify(arguments: Sequence[str]) -> int:
    """Verifies many files; the worst one gives the status."""
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
            found = fsgan.verify(file, trusted=options.trusted)
        except (OSError, ValueError) as error:
            print(_said(error), file=sys.stderr)
            statuses.append(2)
            continue
        print(found, end="\n\n")
        statuses.append(2 if found.tampered else 0 if found.synthetic else 1)
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
