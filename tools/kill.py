"""Kill commands at random moments, call them again, and compare with calls left alone.

    python tools/kill.py --kills 100          # in build/kill

Each round kills one command up to three times, each time at a moment drawn from its
working time (from the first file that it writes to its end), by SIGKILL or now and then
SIGTERM or Ctrl-C, and lets the last call end. What lies there then must be what a call
that nobody disturbed left: the same names, nothing hidden, the same bytes; of a film
the same pixels; of a training, which two calls do not repeat to the bit, every preview,
every backup, each line of its logs once, and a checkpoint of the last iteration that
loads.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from random import Random

import numpy as np

COMMANDS = {
    "extract": "extract clips/a.mp4 out --every 5",
    "masks": "masks faces/a out",
    "train": "train faces/a faces/b out --settings.iterations 60 "
    "--settings.batch_size 2 --settings.preview_every 10 --settings.backup_every 20",
    "mp4": "convert clips/a.mp4 out/swap.mp4 model",
    "webm": "convert clips/a.mp4 out/swap.webm model",
    "pictures": "convert clips/a.mp4 out/swap model",
    "evaluate": "evaluate clips/a.mp4 swap.mp4 faces/a faces/b out --end 1",
}
SIGNALS = [signal.SIGKILL] * 6 + [signal.SIGTERM, signal.SIGINT]
STOPPED = (-signal.SIGKILL, -signal.SIGTERM, 130)
REPEATS = 2  # of 200 frames: a conversion can go on after 256
LIMIT = 300  # seconds of a call


def start(line: str, folder: Path, log: Path) -> subprocess.Popen:
    """Starts a command there."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "FSGAN_OFFLINE": "1"}
    command = [sys.executable, "-m", "fsgan", "-q", *line.split()]
    with open(log, "wb") as file:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=file
        )


def run(line: str, folder: Path) -> None:
    """Runs a command to its end."""
    log = folder / "log.txt"
    if start(line, folder, log).wait(LIMIT):
        raise SystemExit(f"fsgan {line} failed: {log.read_text()}")
    log.unlink()


def until_work(process: subprocess.Popen, folder: Path) -> None:
    """Waits until a command writes its first file, or ends."""
    before = set(folder.rglob("*"))
    while process.poll() is None:
        with suppress(FileNotFoundError):  # a folder went while it was looked through
            if set(folder.rglob("*")) - before:
                return
        time.sleep(0.02)


def build_base(folder: Path) -> None:
    """Makes clips, faces and a model, and an evaluation's swapped video."""
    from fsgan.media.reader import probe, read_frames
    from fsgan.media.writer import VideoWriter

    folder.mkdir(parents=True)
    run("sample samples --seconds 8 --size [240,136]", folder)
    (folder / "clips").mkdir()
    for name in ("a", "b"):
        source = folder / f"samples/{name}.mp4"
        frames = [frame.image for frame in read_frames(source)]
        fps = probe(source).fps
        with VideoWriter(folder / f"clips/{name}.mp4", 240, 136, fps) as film:
            for frame in frames * (REPEATS if name == "a" else 1):
                film.write(frame)
        run(f"extract {source} faces/{name} --every 4", folder)
        run(f"masks faces/{name} masks/{name}", folder)
    brief = "--settings.iterations 20 --settings.batch_size 2"
    run(f"train faces/a faces/b model {brief}", folder)
    run("convert clips/a.mp4 swap.mp4 model --end 1", folder)


def differences(out: Path, whole: Path, again: Path) -> Iterator[str]:
    """Yields how an output differs from one of two that nobody disturbed."""
    names, expected = _names(out), _names(whole)
    if lost := expected - names:
        yield f"missing: {sorted(lost)[:5]}"
    if more := names - expected:
        yield f"left behind: {sorted(more)[:5]}"
    for name in sorted(names & expected):
        one, other = out / name, whole / name
        if one.is_dir() or one.read_bytes() == other.read_bytes():
            continue
        if name.endswith((".mp4", ".webm")) and "timelapse" not in name:
            yield from _other_pixels(one, other)
        elif name.endswith(".csv"):
            lines = [path.read_text().splitlines() for path in (one, other)]
            numbers = [[line.partition(",")[0] for line in it] for it in lines]
            if numbers[0] != numbers[1]:
                yield f"{name} has other lines: {numbers[0]}, not {numbers[1]}"
        elif name.endswith(".json") and _read(one) == _read(other):
            continue  # 35 and 35.0 are one number
        elif other.read_bytes() == (again / name).read_bytes():
            yield f"{name} is another"


def _read(path: Path) -> object:
    return json.loads(path.read_text(encoding="utf-8"))


def _names(folder: Path) -> set[str]:
    """All there but what a stop may add: checkpoints on the way, a log a call."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return {it for it in found if not re.search(r"tensorboard/|checkpoints/", it)}


def _other_pixels(one: Path, other: Path) -> Iterator[str]:
    """Yields the first frame that is another."""
    from fsgan.media.reader import read_frames

    for a, b in zip_longest(read_frames(one), read_frames(other)):
        if a is None or b is None or a.time != b.time or np.any(a.image != b.image):
            yield f"{one.name} has another frame {(a or b).index}"
            return


def missing_checkpoints(out: Path, whole: Path) -> Iterator[str]:
    """Yields what is wrong with the checkpoints of a training."""
    from fsgan.models.checkpoint import latest_checkpoint
    from fsgan.swap.swapper import FaceSwapper

    kept = {path.name for path in (whole / "checkpoints").iterdir()}
    backups = {name for name in kept if int(name[-7:]) % 20 == 0}
    if lost := backups - {path.name for path in (out / "checkpoints").iterdir()}:
        yield f"missing checkpoints: {sorted(lost)}"
    if latest_checkpoint(out).name != latest_checkpoint(whole).name:
        yield f"ends with {latest_checkpoint(out).name}"
    FaceSwapper(out)


def main() -> int:
    """Kills, and prints a line for each round; status 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--only", choices=COMMANDS, help="kill this one alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("build/kill"))
    options = parser.parse_args()
    folder, random = options.folder.resolve(), Random(options.seed)
    shutil.rmtree(folder, ignore_errors=True)
    base, here = folder / "base", folder / "here"
    build_base(base)
    seconds = {}
    commands = [options.only] if options.only else list(COMMANDS)
    for name in commands:
        for copy in ("whole", "again"):
            shutil.copytree(base, here)
            process = start(COMMANDS[name], here, folder / "log.txt")
            until_work(process, here)
            began = time.monotonic()
            if process.wait(LIMIT):
                raise SystemExit(f"{name} fails: {(folder / 'log.txt').read_text()}")
            seconds[name] = time.monotonic() - began
            (here / "out").rename(folder / f"{name}.{copy}")
            shutil.rmtree(here)
        print(f"{name}: {seconds[name]:.1f} seconds of work", flush=True)
    kills, faults, rounds = Counter(), 0, 0
    while kills.total() < options.kills:
        name = commands[rounds % len(commands)]
        rounds += 1
        found, moments = [], []
        shutil.copytree(base, here)
        for _ in range(random.randint(1, 3)):
            process = start(COMMANDS[name], here, folder / "log.txt")
            until_work(process, here)
            moments.append(random.uniform(0, seconds[name]))
            number = random.choice(SIGNALS)
            try:
                process.wait(moments[-1])
                break  # it was done before
            except subprocess.TimeoutExpired:
                process.send_signal(number)
                kills[name] += 1
            if (status := process.wait(LIMIT)) == 0:
                break
            if status not in STOPPED:
                found.append(f"status {status}: {(folder / 'log.txt').read_text()}")
        process = start(COMMANDS[name], here, folder / "log.txt")
        status, told = process.wait(LIMIT), (folder / "log.txt").read_text()
        if status and "exists already" not in told:  # it had come to its end
            found.append(f"the last call fails: {told}")
        out, whole = here / "out", folder / f"{name}.whole"
        found += differences(out, whole, folder / f"{name}.again")
        found += [f"hidden: {path.relative_to(here)}" for path in here.rglob(".*")]
        if name == "train":
            found += missing_checkpoints(out, whole)
        at = ", ".join(f"{moment:.1f}" for moment in moments)
        print(f"{name} killed at {at} s: {found or 'nothing lost'}", flush=True)
        if found:
            here.rename(folder / f"fault{faults}")
            faults += 1
        else:
            shutil.rmtree(here)
    told = ", ".join(f"{name} {count}" for name, count in kills.items())
    print(f"{kills.total()} kills ({told}) in {rounds} rounds, {faults} with faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
