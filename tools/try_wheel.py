"""Installs the wheel in an empty environment and runs README's lines there, offline.

    python tools/try_wheel.py [EXTRA] [OPTION OF PIP ...]

It needs nothing installed, so any Python tries its own version; EXTRA is "tensorflow"
where none is given.
"""

import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEFORE = """
import socket


def getaddrinfo(*arguments, **options):
    raise OSError("no network here")


socket.getaddrinfo = getaddrinfo
import fsgan

fsgan.make_sample_clips(".", seconds=2)
"""


def run(*command, **options):
    """Runs a command that must succeed."""
    subprocess.run([str(part) for part in command], check=True, **options)


def main(extra="tensorflow", *options):
    """Builds, installs, runs, and says what came out."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps"]
        run(*pip, "-w", home, ROOT)
        [wheel] = home.glob("*.whl")
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB", flush=True)
        venv.create(home / "venv", with_pip=True)
        folder, suffix = ("Scripts", ".exe") if os.name == "nt" else ("bin", "")
        python = home / "venv" / folder / f"python{suffix}"
        run(python, "-m", "pip", "install", "-q", f"{wheel}[{extra}]", *options)
        script = home / "lines.py"
        script.write_text(BEFORE + lines.replace("minutes=10", "minutes=0.5"))
        environment = os.environ | {"HOME": name, "USERPROFILE": name}
        environment.pop("PYTHONPATH", None)
        run(python, script, cwd=home, env=environment)
        for result in ("swap.mp4", "evaluation/report.html"):
            print(f"{result}: {(home / result).stat().st_size} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
