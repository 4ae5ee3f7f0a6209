"""One picture of a training: losses, what each checkpoint loop gains, and the learning rate, over the epochs.

ESPnet draws one picture for each value, so that loops never stand side by side.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_larm.files.atomic import write_beside

EARLIER_LOOP = re.compile(r"(loss|cer)_interctc_layer(\d+)")
# ESPnet's statistics: epoch -> phase -> key -> value.
History = Mapping[int, Mapping[str, Mapping[str, Any]]]


def draw_curves(history: History, picture: Path) -> None:
    """Draw an experiment's history.

    Args:
        history: The statistics of ESPnet's reporter.
        picture: Path of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, curves) in zip(figure.subplots(1, len(panels(history))), panels(history).items(), strict=True):
        for label, (epochs, values) in curves.items():
            axes.plot(epochs, values, marker=".", label=label)
        axes.set(title=title, xlabel="epoch")
        axes.grid(visible=True, alpha=0.3)
        if curves:
            axes.legend()
    picture.parent.mkdir(parents=True, exist_ok=True)
    with write_beside(picture) as part:
        figure.savefig(part, format="png", dpi=100)


def panels(history: History) -> dict[str, dict[str, tuple[list[int], list[float]]]]:
    """Epochs and values of each curve, by panel and label."""
    keys = sorted({key for phases in history.values() for key in phases.get("valid", {})})
    earlier = {kind: [key for key in keys if key.startswith(f"{kind}_interctc_layer")] for kind in ("loss", "cer")}
    return {
        "loss": {phase: curve(history, phase, "loss") for phase in ("train", "valid")},
        **{
            f"validation {name} by loop": {
                label: curve(history, "valid", key)
                for key, label in [
                    *((key, f"loop {_loop_of(key)}") for key in sorted(earlier[kind], key=_loop_of)),
                    last,
                ]
                if key in keys
            }
            for kind, name, last in (
                ("loss", "CTC loss", ("loss_ctc", "last loop")),
                ("cer", "CER", ("cer_ctc", "last loop")),
            )
        },
        "learning rate": {"optim0": curve(history, "train", "optim0_lr0")},
    }


def curve(history: History, phase: str, key: str) -> tuple[list[int], list[float]]:
    """The epochs that have a value, and the values."""
    points = {epoch: phases[phase][key] for epoch, phases in history.items() if key in phases.get(phase, {})}
    epochs = sorted(points)
    return epochs, [float(points[epoch]) for epoch in epochs]


def _loop_of(key: str) -> int:
    """The number of the loop, which ESPnet calls a layer; 0 for the last."""
    match = EARLIER_LOOP.fullmatch(key)
    return int(match[2]) if match else 0
