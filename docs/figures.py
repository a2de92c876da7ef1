"""Draw the figures of ``concepts.md`` from runs of the library: ``python docs/figures.py``, with the extra ``demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from torch import nn

from snnpipe import (
    DIFFERENTIAL,
    RATE,
    TD,
    cascade,
    fixed,
    integrate_and_fire,
    pipe,
    replace,
    td_rewrite,
    to_snn,
    trace,
    wave,
)
from snnpipe.waves import Wave

FOLDER = Path(__file__).with_name("figures")
BLUE, RED, GREY = "#0072b2", "#b84900", "#808080"
mpl.rcParams |= {
    "svg.fonttype": "none", "svg.hashsalt": "snnpipe", "font.size": 11, "savefig.transparent": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "axes.labelcolor": GREY,
    "text.color": GREY, "xtick.color": GREY, "ytick.color": GREY,
}  # fmt: skip


def keep(figure: Any, name: str) -> None:
    figure.savefig(FOLDER / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def neuron(z: float = 0.35, T: int = 16) -> None:
    """The potential of an IF neuron of threshold 1 under a constant current, and the mean of its events."""
    cell = integrate_and_fire()
    theta, v, potentials, events = torch.ones(()), torch.tensor(0.5), [], []
    for t in range(1, T + 1):
        potentials.append(float(v) + z)
        v, s = cell.step(v, torch.tensor(z), theta, RATE.clock(t), **cell.options)
        events.append(float(s))
    steps = range(1, T + 1)
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 3.6), sharex=True)
    above.plot(steps, potentials, "o-", color=BLUE, markersize=4)
    above.plot([1, T], [1.0, 1.0], "--", color=GREY, linewidth=1)
    above.text(T + 0.3, 1.0, "theta", va="center")
    above.vlines([t for t, s in zip(steps, events, strict=True) if s], 1.4, 1.6, color=RED, linewidth=2)
    above.text(T + 0.3, 1.5, "events", va="center", color=RED)
    above.set_ylabel("potential")
    below.step(steps, [sum(events[:t]) / t for t in steps], color=RED, where="mid")
    below.plot([1, T], [z, z], "--", color=BLUE, linewidth=1)
    below.text(T + 0.3, z, f"the current, {z}", va="center", color=BLUE)
    below.set(ylabel="mean of events", xlabel="step t", ylim=(0, 1.05))
    keep(figure, "neuron")


def code(T: int = 16) -> None:
    """What the events of a layer decode to after each step, under three codes."""
    torch.manual_seed(4)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()), torch.rand(1, 4)
    figure, axis = plt.subplots(figsize=(7, 2.8))
    with torch.no_grad():
        wanted = model(x)
        unit = int(wanted.argmax())
        for chosen, color in ((RATE, BLUE), (TD, RED), (DIFFERENTIAL, "#009e73")):
            made = replace(neuron=cascade(n=3), threshold=fixed(0.9))
            snn = pipe(model, trace, made, td_rewrite(code=chosen), to_snn)
            found = [float(y[0, unit]) for y in snn.iterate(x, T=T)]
            axis.plot(range(1, T + 1), found, "o-", color=color, markersize=4, label=str(chosen))
        axis.plot([1, T], [float(wanted[0, unit])] * 2, "--", color=GREY, linewidth=1)
        axis.text(T + 0.3, float(wanted[0, unit]), "the ANN", va="center")
    axis.set(xlabel="step t", ylabel="decoded output", ylim=(0, 0.8))
    axis.legend(frameon=False, ncols=3, loc="lower right")
    keep(figure, "code")


def waves(T: int = 8, layers: int = 4) -> None:
    """When each layer takes its steps, under three schedules."""
    figure, axes = plt.subplots(3, 1, figsize=(7, 4.4), sharex=True)
    for axis, schedule in zip(axes, (Wave(1), wave(2), Wave(None)), strict=True):
        K = {"step": 1, "layer": T}.get(str(schedule), 2)
        for layer in range(layers):
            for t in range(T):
                at = t + layer * K * (K > 1)
                axis.barh(layer, 0.9, left=at, height=0.7, color=BLUE if (t // K) % 2 else RED, alpha=0.85)
        end = schedule.latency(T, layers)
        axis.axvline(end, color=GREY, linestyle="--", linewidth=1)
        axis.set(yticks=range(layers), ylim=(layers - 0.5, -0.5))
        axis.set_yticklabels([f"layer {layer + 1}" for layer in range(layers)])
        axis.set_title(f"{schedule}: the answer after {end} steps", loc="left", fontsize=11)
    axes[-1].set_xlabel("time in steps")
    figure.tight_layout()
    keep(figure, "waves")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    neuron()
    code()
    waves()
