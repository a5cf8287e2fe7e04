"""Runs the notebooks in a browser, as a user does, and takes pictures of them.

    make browser                     # the pictures are in build/browser

Chromium without a window opens JupyterLab and then Notebook, runs notebooks 1 to 5 from
the first cell to the last in each, and opens the report of notebook 5 on its own.
Notebook finds what JupyterLab made: its run is a second one over old outputs. A cell
that failed, a picture or film that the browser cannot show, an error in the browser's
console or a request that leaves this machine ends in a list and exit code 1.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import nbformat
from papermill.iorw import load_notebook_node, write_ipynb
from papermill.parameterize import parameterize_notebook
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.name for path in (ROOT / "notebooks").glob("0[1-5]*.ipynb"))
APPS = {"lab": "lab/tree", "notebook": "notebooks"}  # and the path of its pages
SETTINGS = {
    # Every cell is in the page, seen or not.
    "notebook-extension/tracker": '{"windowingMode": "none"}',
    "apputils-extension/notification": '{"fetchNews": "false"}',
}
RUN = """async () => {
  const { commands, shell } = window.jupyterapp;
  await shell.currentWidget.sessionContext.ready;
  await commands.execute('notebook:run-all-cells');
  await commands.execute('docmanager:save');
  await shell.currentWidget.sessionContext.shutdown();
}"""
HEIGHT = """() => Math.max(...[...document.querySelectorAll(
  '.jp-Notebook, .jp-WindowedPanel-outer')].map((it) => it.scrollHeight))"""
TO_TOP = """() => document.querySelectorAll('.jp-WindowedPanel-outer')
  .forEach((it) => { it.scrollTop = 0; })"""
SHOWN = """async () => {
  const wait = (media) => new Promise((done) => {
    if (media.readyState > 1 || media.error) return done();
    media.onloadeddata = media.onerror = done;
    setTimeout(done, 5000);
  });
  const root = document.querySelector('.jp-Notebook') || document;
  const films = [...root.querySelectorAll('video')];
  films.forEach((it) => { it.preload = 'auto'; });
  await Promise.all(films.map(wait));
  const pictures = [...root.querySelectorAll('img')];
  return {
    pictures: pictures.length,
    films: films.length,
    broken: pictures.filter((it) => !it.naturalWidth).length
      + films.filter((it) => !it.videoWidth).length,
  };
}"""


@contextmanager
def server(app, folder):
    """Starts Jupyter in a folder and gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = folder / ".jupyter"
    for name, text in SETTINGS.items():
        path = home / "lab/user-settings/@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    command = [sys.executable, "-m", "jupyter", app, "--no-browser", "--allow-root"]
    command += [
        f"--port={port}",
        "--IdentityProvider.token=",
        "--ServerApp.ip=127.0.0.1",
    ]
    command += ["--expose-app-in-browser"]
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(home)}
    with open(folder / f"{app}.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urlopen(f"{address}/api").close()
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait()


def watched(browser, faults):
    """A page whose errors and requests to other machines become faults."""
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(120_000)

    def leave(request):
        if not request.url.startswith(
            ("http://127.0.0.1", "ws:", "data:", "blob:", "file:")
        ):
            faults.append(f"a request left: {request.url}")

    def fail(error):
        if "/static/" not in (error.stack or ""):  # else it is Jupyter's own
            faults.append(f"an error in {page.url}: {error}")

    page.on("request", leave)
    page.on("pageerror", fail)
    return page


def look(page, picture, faults):
    """Takes a picture of the whole page; says what it shows."""
    shown = page.evaluate(SHOWN)
    if shown["broken"]:
        faults.append(f"{picture.name}: {shown['broken']} pictures or films are broken")
    page.screenshot(path=picture, full_page=True)
    return f"{shown['pictures']} pictures, {shown['films']} films"


def run_notebook(page, address, folder, name, picture, faults):
    """Runs all cells, saves the notebook and looks at it."""
    page.goto(f"{address}/{name}?reset")  # no tab of another notebook
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    start = time.monotonic()
    page.evaluate(RUN)
    seconds = time.monotonic() - start
    height = page.evaluate(HEIGHT)
    page.set_viewport_size({"width": 1300, "height": min(height + 200, 16_000)})
    page.wait_for_timeout(1_000)
    page.evaluate(TO_TOP)
    page.wait_for_timeout(1_000)
    said = look(page, picture, faults)
    page.set_viewport_size({"width": 1300, "height": 1000})
    cells = nbformat.read(folder / name, as_version=4).cells
    for cell in cells:
        if cell.cell_type == "code" and cell.execution_count is None and cell.source:
            faults.append(f"{picture.name}: cell {cell.id} did not run")
        for output in cell.get("outputs", ()):
            if output.output_type == "error":
                faults.append(f"{picture.name}: {output.ename}: {output.evalue}")
            if output.get("name") == "stderr":
                said += f"; on stderr: {output.text.strip()[:200]!r}"
    print(f"{picture.name}: {seconds:.0f} s, {said}", flush=True)


def main():
    """Runs everything and lists what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1, help="of training, each")
    parser.add_argument("--out", type=Path, default=Path("build/browser"))
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium here: install the package chromium, or Chrome")
    folder, faults = options.out.resolve(), []
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in NAMES:
        notebook = load_notebook_node(str(ROOT / "notebooks" / name))
        if name.startswith("03"):
            values = {"MINUTES": options.minutes}
            notebook = parameterize_notebook(notebook, values)
        write_ipynb(notebook, str(folder / name))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"]
        )
        for app, path in APPS.items():
            with server(app, folder) as address:
                page = watched(browser, faults)
                for name in NAMES:
                    picture = folder / f"{app}_{name[:2]}.png"
                    run_notebook(
                        page, f"{address}/{path}", folder, name, picture, faults
                    )
                page.close()
        page = watched(browser, faults)
        page.goto((folder / "work/evaluation/report.html").as_uri())
        print("report.png:", look(page, folder / "report.png", faults))
        browser.close()
    print(*faults, f"{len(faults)} faults; the pictures are in {folder}", sep="\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
