"""An evaluation as a page to read: figures with what they mean, plots, worst frames."""

import html
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from string import Template

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fsgan.evaluation.plots import draw_identity, draw_reconstruction, draw_times
from fsgan.evaluation.record import Evaluation, FrameScores, worst_stretches
from fsgan.evaluation.verdicts import describe_swap, judge, title_of
from fsgan.media.images import contact_sheet, write_beside, write_image
from fsgan.media.provenance import STATEMENT, image_xmp
from fsgan.training.preview import encode_jpeg

REPORT = "report.html"
IDENTITY, TIMES, REBUILT = "identity.png", "over_time.png", "reconstruction.png"
WORST = "worst.jpg"

_STANDS_OUT = 0.9  # share of the frames that are better, from which a reason is named
_TILE = 192  # pixels, of a face among the worst
# Those by which `fsgan.evaluation.record.worst_frames` ranks: the name, how it is
# written, and the sign that makes more of it worse.
_REASONS = {
    "expression": ("expression", "{:.3f}", 1),
    "seam": ("seam", "{:.2f}", 1),
    "to_target": ("likeness to the target", "{:.3f}", -1),
}


def write_report(
    evaluation: Evaluation,
    worst: list[tuple[int, np.ndarray, np.ndarray]],
    faces: dict[str, list[np.ndarray]],
    out_dir: str | Path,
) -> Path:
    """Writes the page, one file that needs no other, and its pictures beside it.

    Args:
        evaluation: what was measured.
        worst: index, face in the source and in the swapped frame of some bad frames,
            RGB uint8 (height, width, 3), the worst first.
        faces: aligned crops of "target", "source" and "fake", RGB uint8 (size, size,
            3), evenly chosen from those of the heat maps.
        out_dir: folder for `report.html`, `identity.png`, `over_time.png`,
            `reconstruction.png` and, if frames are given, `worst.jpg`. What shows
            swapped faces is marked as synthetic.

    Returns:
        `report.html`.

    Raises:
        OSError: the folder cannot be written.
    """
    out_dir = Path(out_dir)
    for name, figure, xmp in (
        (IDENTITY, draw_identity(evaluation, faces), image_xmp()),
        (TIMES, draw_times(evaluation), None),
        (REBUILT, draw_reconstruction(evaluation), None),
    ):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        write_image(out_dir / name, np.asarray(canvas.buffer_rgba())[..., :3], xmp)
    (out_dir / WORST).unlink(missing_ok=True)  # of an earlier evaluation
    frames = {frame.index: frame for frame in evaluation.frames}
    reasons = [_why(frames[index], evaluation) for index, *_ in worst]
    if worst:
        labels = [
            label
            for (index, *_), reason in zip(worst, reasons, strict=True)
            for label in (f"frame {index}", reason.split(" (")[0])
        ]
        pairs = [face for _, *both in worst for face in both]
        sheet = contact_sheet(pairs, 4, _TILE, labels)
        write_image(out_dir / WORST, sheet, image_xmp())
    page = _PAGE.substitute(
        title=_text(title_of(evaluation)),
        what=_text(describe_swap(evaluation)),
        verdicts=_verdict_table(evaluation),
        notes="".join(f"<li>{_text(note)}</li>" for note in evaluation.notes),
        identity=_picture(out_dir / IDENTITY, "similarities of faces"),
        times=_picture(out_dir / TIMES, "measures over time"),
        rebuilt=_picture(out_dir / REBUILT, "held-out faces"),
        worst="".join(
            _worst_frame(frames[shown[0]], shown[1:], reason)
            for shown, reason in zip(worst, reasons, strict=True)
        ),
        again=_again(evaluation),
        machine="".join(
            f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>"
            for name, value in evaluation.machine.items()
        ),
        statement=_text(STATEMENT),
    )
    with write_beside(out_dir / REPORT) as path:
        path.write_text(page, encoding="utf-8")
    return out_dir / REPORT


def _why(frame: FrameScores, evaluation: Evaluation) -> str:
    """What is bad about a frame, in words."""
    if not frame.found:
        return "no face is found in the swap"
    reasons = []
    for measure, (name, style, sign) in _REASONS.items():
        value = getattr(frame, measure)
        if value is not None:
            all_ = [getattr(other, measure) for other in evaluation.frames]
            known = sign * np.array([other for other in all_ if other is not None])
            share = float(np.mean(known < sign * value))
            told = f"{name} {style.format(value)} (worse than {share:.0%} of frames)"
            reasons.append((share, told))
    reasons.sort(reverse=True)
    named = [told for share, told in reasons if share >= _STANDS_OUT]
    return "; ".join(named or [told for _, told in reasons[:1]])


def _text(text: object) -> str:
    return html.escape(str(text))


def _embedded(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def _picture(path: Path, alt: str) -> str:
    """A picture written before, within the page."""
    source = _embedded("png", path.read_bytes())
    return f'<img class="plot" src="{source}" alt="{_text(alt)}">'


def _verdict_table(evaluation: Evaluation) -> str:
    rows, group = [], ""
    for row in judge(evaluation):
        if row.group != group:
            group = row.group
            rows.append(f'<tr><th colspan="6" class="group">{_text(group)}</th></tr>')
        cells = "".join(f"<td>{_text(cell)}</td>" for cell in row[2:5])
        kind = row.verdict.replace(" ", "-")
        rows.append(
            f"<tr><th>{_text(row.measure)}</th>{cells}"
            f'<td class="{kind}">{_text(row.verdict)}</td>'
            f"<td>{_text(row.meaning)}</td></tr>"
        )
    return "\n".join(rows)


def _worst_frame(frame: FrameScores, faces: Iterable[np.ndarray], why: str) -> str:
    pictures = "".join(
        f'<img src="{_embedded("jpeg", encode_jpeg(face))}" alt="{alt}">'
        for face, alt in zip(faces, ("source", "swapped"), strict=True)
    )
    told = f"<b>Frame {frame.index}</b>, {frame.seconds:.2f} s: {_text(why)}"
    return f"<figure>{pictures}<figcaption>{told}</figcaption></figure>"


def _again(evaluation: Evaluation) -> str:
    """The calls that convert the worst stretches once more."""
    swapped = Path(evaluation.swapped)
    model = evaluation.model or "model"
    given = {"direction": evaluation.direction} | evaluation.settings
    calls = [
        "import fsgan",
        "",
        f"model = {model!r}  # the folder of the model",
        "settings = fsgan.ConvertSettings(",
        *(f"    {name}={value!r}," for name, value in given.items()),
        ")",
    ]
    for number, (start, end) in enumerate(worst_stretches(evaluation), 1):
        out = swapped.with_stem(f"{swapped.stem}_again_{number}")
        calls += [
            "fsgan.convert_video(",
            f"    {evaluation.source!r}, {str(out)!r}, model, settings,",
            f"    start={start:.3f}, end={end:.3f},",
            ")",
        ]
    return _text("\n".join(calls))


_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --line: #ccc;
  --soft: #f2f2f2; --good: #176b2c; --bad: #b3261e; --quiet: #666; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e6e6e6;
  --paper: #161616; --line: #444; --soft: #242424; --good: #7bd88f; --bad: #ff8a80;
  --quiet: #a0a0a0; } }
body { color: var(--ink); background: var(--paper); max-width: 68rem; margin: auto;
  padding: 1rem; font: 15px/1.45 system-ui, sans-serif; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left;
  vertical-align: top; }
th, .not-measured { white-space: nowrap; }
tbody th { font-weight: normal; }
tbody th.group { font-weight: bold; background: var(--soft); }
tbody.figures td:nth-child(2) { font-weight: bold; }
tbody.figures td:nth-child(-n+4) { white-space: nowrap;
  font-variant-numeric: tabular-nums; }
td:nth-child(6) { font-size: 13px; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: bold; }
.compare, .not-measured { color: var(--quiet); }
.plot { width: 100%; background: #fff; border-radius: 4px; }
.sheet { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; width: 20rem; break-inside: avoid; }
figure img { width: 50%; }
figcaption { font-size: 13px; }
pre { background: var(--soft); padding: .8rem; overflow: auto; white-space: pre-wrap; }
@media print { tr, img { break-inside: avoid; } h2 { break-after: avoid; }
  body, td:nth-child(6), figcaption { font-size: 11px; } }
</style>
</head>
<body>
<h1>$title</h1>
<p>$what</p>
<table>
<thead><tr><th>Measure</th><th>Mean</th><th>5 % / median / 95 %</th><th>Perfect</th>
<th>Verdict</th><th>What it says</th></tr></thead>
<tbody class="figures">
$verdicts
</tbody>
</table>
<p>"good" and "bad" stand only where a border can be justified, and the last column
says by what. "compare" has no border: hold it against another model, other settings or
another frame of the same footage.</p>
<h2>Notes</h2>
<ul>$notes</ul>
<h2>Whose face it is</h2>
<p>Each pixel is a pair of faces, the lighter the more alike. In a good swap the third
map is as light as the first; as dark as two strangers, nothing has changed.</p>
$identity
<h2>Over time</h2>
$times
<h2>Held-out faces</h2>
$rebuilt
<h2>Worst frames</h2>
<p>The worst first: source, then swap.</p>
<div class="sheet">$worst</div>
<h2>Convert these again</h2>
<p>Each call writes one stretch around bad frames to a file of its own. Change what is
to get better; the settings of the whole stand beside it, in the file that ends in
.synthetic.json.</p>
<pre>$again</pre>
<h2>Machine</h2>
<table><tbody>$machine</tbody></table>
<p>$statement</p>
</body>
</html>
""")
