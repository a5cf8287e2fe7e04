"""Call every command with odd values, files, media and names, and judge what it does.

    python tools/fuzz.py --cases 500          # in build/fuzz
    python tools/fuzz.py --only 137           # that case alone

A case (`fuzz_cases.py`) is one command line in a fresh copy of a folder with small
footage, faces and a model; it follows from seed and number alone. A worker that has
everything imported runs one after another; one that hangs or dies is replaced. These
are faults: an exception that is no sentence of ours; on failure other than one line on
standard error, or a long one; more than 30 seconds; a swapped output without its mark,
another with one; after a failure anything new or changed; an input changed; hidden
files left after a success.
"""

import argparse
import linecache
import logging
import multiprocessing
import os
import re
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import fuzz_cases
from fuzz_cases import CHANGED, Case, build_base, draw_case

SECONDS, TRAINING, PATIENCE = 30, 8, 15  # of a case; of an endless one; after Ctrl-C
LONGEST = 500  # characters of a message
MEMORY = 4 * 2**30  # bytes, after which a worker is replaced
_RAW = re.compile("Errno|object at 0x|ufunc|allow_pickle")
# What stays after a failure or an interrupt, as the documentation says.
_KEPT = re.compile(r"\.tracks\.(json|png)$|(^|/)\.[^/]+\.parts(/|$)")
_HIDDEN = re.compile(r"(^|/)\.(?!hidden)|unfinished")
_SWAPPED = re.compile(r"face in (\d+) of|faces: (\d+)|^(\d+) faces swapped", re.M)


class Outcome(NamedTuple):
    """What a command did.

    Attributes:
        status: its exit status; "traceback" after an exception.
        shown: its standard output.
        told: its standard error.
        raised: the exception, also one that became a message.
        new: files and folders that were not there before.
        changed: others that are gone or not as they were.
    """

    status: int | str
    shown: str = ""
    told: str = ""
    raised: BaseException | None = None
    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


def judge(case: Case, done: Outcome) -> Iterator[str]:
    """Yields what is wrong; the case's folder is the working directory."""
    command, *names = case.arguments
    many = command in ("convert-videos", "convert-images")
    told = done.told
    for name in names:
        for text in {name, name.partition("=")[2]} - {""}:
            told = told.replace(text, text.replace("\n", " "))
    lines = [it for it in told.split("\n") if it.strip()]
    lines = [it for it in lines if not re.match("(INFO|WARNING|ERROR): ", it)]
    if done.status not in (0, 1, 2, 130) or (done.status == 130 and not case.endless):
        yield f"status {done.status}"
    if done.status == 0 and lines:
        yield "noise on standard error"
    if done.status == 1 and command != "verify":
        if len(lines) != 1 and not (many and "FAILED" in done.shown):
            yield f"{len(lines)} lines on standard error"
        if done.raised and not _ours(done.raised):
            yield f"not our sentence: {traceback.format_exception(done.raised)[-2]}"
    if len("\n".join(lines).rpartition("error:")[2]) > LONGEST:
        yield "a long message"
    if found := _RAW.search(told):
        yield f"{found[0]} in the message"

    place = CHANGED.get(command, 0)
    known = names[place - 1] if place else ""
    mine = ["odd", known.partition(".")[0] if known in fuzz_cases.GOES_ON else "out"]
    if place and "link" in str(case.changes):
        mine.append(case.changes[0][-1])  # where it leads
    if lost := [
        it for it in done.changed if not it.lstrip(".").startswith(tuple(mine))
    ]:
        yield f"changed or gone: {lost[:5]}"
    if command.startswith("convert") and "mark" not in str(case):
        yield from _wrong_marks(Path(names[1]), many, done)
    if done.status == 0 and (hidden := list(filter(_HIDDEN.search, done.new))):
        yield f"left behind: {hidden[:5]}"
    begun = command == "train" and any("previews/" in it for it in done.new)
    if done.status in (1, 2) and not many and not begun:
        kept = list(filter(_KEPT.search, done.new))
        kept += {str(Path(it).parent) for it in kept}
        if left := sorted({*done.new, *done.changed} - {*kept}):
            yield f"new or changed after a failure: {left[:5]}"


def _ours(error: BaseException) -> bool:
    """Whether a line of the package raised an error, or the system refused a file."""
    if getattr(error, "filename", None):
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(last.filename, last.lineno).strip()
    return "/fsgan/" in last.filename and line.startswith("raise")


def _wrong_marks(out: Path, many: bool, done: Outcome) -> Iterator[str]:
    """Yields where other outputs are marked than those with a swapped face."""
    import fsgan

    expected = sum(
        any(map(int, filter(None, it))) for it in _SWAPPED.findall(done.shown)
    )
    made = [Path(it) for it in (*done.new, *done.changed)]
    made = [it for it in made if (it.parent if many else it) == out and it.exists()]
    marked = 0
    for path in made:
        if path.suffix != ".json" and ".tracks" not in path.name:
            with suppress(OSError, ValueError):
                marked += fsgan.verify(path).synthetic
    if marked != expected:
        yield f"{expected} outputs with a swapped face, {marked} marked"


# --- in the worker ---


def work(pipe: Any, folder: Path, seed: int) -> None:
    """Runs the cases whose numbers come in; answers with the case, then the faults."""
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "2", "FSGAN_OFFLINE": "1"}
    os.environ["TQDM_DISABLE"] = "1"
    import fsgan.__main__ as program
    from fsgan.swap import render

    render.PART_FRAMES, render.BYTES_A_FACE = 4, 0  # a frame a chunk
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it counts our calls
    raised, run = [], program._run

    def recording(*arguments: Any) -> int:
        try:
            return run(*arguments)
        except BaseException as error:
            raised.append(error)
            raise

    program._run = recording
    if not (folder / "base").exists():
        build_base(folder / "base", program.main)
    pipe.send("ready")
    for number in iter(pipe.recv, None):
        case = draw_case(seed, number, folder / "base")
        here = folder / "case" / "here"  # so that ".." can be watched, too
        shutil.rmtree(here.parent, ignore_errors=True)
        shutil.copytree(folder / "base", here, copy_function=_copy)
        os.chdir(here)
        for name, *arguments in case.changes:
            getattr(fuzz_cases, name)(*arguments)
        before = _listing(here)
        pipe.send(case)
        raised.clear()
        for number, name in ((1, "stdout"), (2, "stderr")):
            with open(folder / name, "wb") as file:
                os.dup2(file.fileno(), number)
        try:
            status = program.main(case.arguments)
        except SystemExit as stop:
            status = stop.code
        except BaseException:
            traceback.print_exc()
            status = "traceback"
        sys.stdout.flush()
        sys.stderr.flush()
        texts = [
            (folder / it).read_text(errors="replace") for it in ("stdout", "stderr")
        ]
        after = _listing(here)
        new = sorted(after.keys() - before.keys())
        changed = sorted(it for it in before if after.get(it) != before[it])
        error = raised[0] if raised else None
        done = Outcome(status, *texts, error, tuple(new), tuple(changed))
        memory = (
            int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4096
        )
        pipe.send((status, texts[1][-800:], list(judge(case, done)), memory))


def _listing(folder: Path) -> dict[str, tuple]:
    """Every file and folder below and beside one, and what tells of a change."""
    found = {}
    for path in folder.parent.rglob("*"):
        stat = path.lstat()
        content = () if path.is_dir() else (stat.st_size, stat.st_mtime_ns)
        found[os.path.relpath(path, folder)] = (stat.st_mode, *content)
    return found


def _copy(source: str, target: str) -> None:
    """Links what is large and never written in place."""
    (os.link if source.endswith((".h5", ".npz")) else shutil.copy2)(source, target)


# --- in the parent ---


class Worker:
    """A process that runs cases."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        """Starts it; that takes seconds, and the base material a minute."""
        self.seconds = options.seconds
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=work, args=(theirs, folder, options.seed))
        self.process.start()
        theirs.close()
        if self.answer(600) != "ready":
            raise SystemExit("the worker cannot start")

    def answer(self, seconds: float) -> Any:
        """The next answer; "died", or None where none comes."""
        try:
            return self.pipe.recv() if self.pipe.poll(seconds) else None
        except (EOFError, ConnectionError):
            return "died"

    def run(self, number: int) -> tuple[Case, tuple]:
        """Runs a case: it, and status, standard error, faults, memory."""
        self.pipe.send(number)
        if (case := self.answer(SECONDS)) == "died":
            raise SystemExit(f"case {number} cannot be prepared")
        result = self.answer(TRAINING if case.endless else self.seconds)
        if late := result is None:
            os.kill(self.process.pid, signal.SIGINT)
            result = self.answer(PATIENCE * (4 if case.endless else 1))
        if result in (None, "died"):
            self.process.kill()
            self.process.join()
            return case, (None, "", [result or "hangs, whatever is pressed"], 0)
        if late and not case.endless:
            result[2].insert(0, f"over {self.seconds} seconds")
        return case, result

    def stop(self) -> None:
        """Lets it end."""
        with suppress(OSError):
            self.pipe.send(None)
        self.process.join()


def main() -> int:
    """Runs the cases and prints those with faults; status 1 where there are some."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="number to begin with")
    parser.add_argument("--only", type=int, help="number of the only case to run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of a case")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--keep", type=Path, help="folder for the cases with faults")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(options.first, options.first + options.cases)
    if options.only is None:
        shutil.rmtree(folder / "base", ignore_errors=True)
    else:
        numbers = [options.only]
    worker, seen, bad = Worker(folder, options), Counter(), 0
    for number in numbers:
        began = monotonic()
        case, (status, told, faults, memory) = worker.run(number)
        seen[case.arguments[0], status] += 1
        bad += bool(faults)
        if faults or options.only is not None:
            print(f"\n--- case {number}: status {status}, {monotonic() - began:.0f} s")
            print(ascii(case.arguments), *map(ascii, case.changes), sep="\n    ")
            print(
                *(f"  FAULT {it}" for it in faults), f"  {told}", sep="\n", flush=True
            )
        if faults and options.keep:
            kept = options.keep / str(number)
            shutil.copytree(folder / "case", kept, symlinks=True)
        if memory > MEMORY or not worker.process.is_alive():
            worker.stop()
            worker = Worker(folder, options)
    worker.stop()
    print(f"\n{len(numbers)} cases, {bad} with faults")
    for (command, status), count in sorted(seen.items(), key=str):
        print(f"  {command:16} status {status}: {count}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
