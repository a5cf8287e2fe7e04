from pathlib import Path

import nbformat
import papermill
import pytest

from fsgan import make_sample_clips
from fsgan.media.reader import probe

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
# What makes them quick: short clips, few faces, hardly any training.
PARAMETERS = {
    "00_how_it_works.ipynb": {"SECONDS": 0.5, "UPDATES": 2, "BATCH_SIZE": 2},
    "01_extract_faces.ipynb": {"EVERY": 6},
    "02_make_eye_masks.ipynb": {},
    "03_train_gan.ipynb": {
        "MINUTES": 0.1,
        "RESOLUTION": 64,
        "BATCH_SIZE": 2,
        "PREVIEW_EVERY": 5,
    },
    "04_convert_video.ipynb": {"END": 0.5},
    "05_evaluate.ipynb": {"END": 0.5},
}


@pytest.mark.slow
def test_the_notebooks_run_in_order_on_the_sample(tmp_path):
    a, b = make_sample_clips(tmp_path / "clips", seconds=1.0)
    PARAMETERS["01_extract_faces.ipynb"] |= {"VIDEO_A": str(a), "VIDEO_B": str(b)}
    PARAMETERS["04_convert_video.ipynb"] |= {"VIDEO": str(a)}
    PARAMETERS["05_evaluate.ipynb"] |= {"VIDEO": str(a)}
    for name in NAMES:
        done = papermill.execute_notebook(
            NOTEBOOKS / name,
            tmp_path / name,
            parameters=PARAMETERS[name],
            kernel_name="python3",
            cwd=str(tmp_path),
            progress_bar=False,
        )
        pictures = [
            output
            for cell in done.cells
            for output in cell.get("outputs", [])
            if "image/png" in output.get("data", {})
        ]
        assert pictures, f"{name} shows no picture"
    work = tmp_path / "work"
    assert len(list((work / "faces" / "a").glob("*.jpg"))) >= 4
    assert len(list((work / "masks" / "b").glob("*.png"))) >= 4
    assert (work / "model" / "previews" / "0000000.png").is_file()
    assert (work / "model" / "timelapse.mp4").is_file()
    swap = probe(work / "swap.mp4")
    assert (swap.width, swap.height, swap.has_audio) == (640, 360, True)
    looked_at = probe(work / "side_by_side.mp4")
    assert (looked_at.width, looked_at.height) == (3 * 640, 360)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_short_cells_without_outputs(name):
    cells = nbformat.read(NOTEBOOKS / name, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert [cell for cell in code if cell.outputs or cell.execution_count] == []
    assert max(len(cell.source.splitlines()) for cell in code) <= 25
    tagged = [c for c in code if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
