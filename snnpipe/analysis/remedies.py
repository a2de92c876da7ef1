"""What to write against a fault: stages for ``parse``, or an option of the run.

Knows texts; whether they help is measured by ``analysis.trial``.
"""

from __future__ import annotations

from collections import Counter

import attrs

from snnpipe.kernels.multilevel import cascade
from snnpipe.kernels.neuron import Neuron, integrate_and_fire
from snnpipe.runtime.encoding import Encoding, constant
from snnpipe.text import written

#: Against statistics of batch norms that are not those of the data; the network must be trained or measured anew.
STATISTICS = "model.train(); [model(x) for x in batches]; model.eval()"


@attrs.frozen
class Situation:
    """How a network was made and is run.

    Attributes:
        T, schedule, delay, encoding: of the run, the schedule as text.
        neurons: of all sites.
        code: as text.
        instrumented: the stage that marked the sites, "" for the default ones.
        recipe: the text of the recipe it was made by, "" if it was made by stages.
        rounded: whether a stage has changed weights on purpose.
    """

    T: int
    schedule: str
    delay: int
    neurons: tuple[Neuron, ...]
    code: str
    instrumented: str = ""
    recipe: str = ""
    encoding: Encoding = constant()
    rounded: bool = False

    @property
    def neuron(self) -> Neuron:
        """The neuron of most sites."""
        return Counter(self.neurons).most_common(1)[0][0] if self.neurons else integrate_and_fire()


def converted(found: Situation, neuron: Neuron, statistic: str = "") -> str:
    """The stages from a model to a network with such neurons, measured anew."""
    stages = ["trace", "fuse", found.instrumented, f"calibrate({statistic})" if statistic else "calibrate"]
    stages += [f"replace(neuron={written(neuron)})", f"td_rewrite(code={found.code})", "to_snn"]
    return " | ".join(stage for stage in stages if stage)


def again(found: Situation) -> str:
    """Convert again, with thresholds from data of this kind."""
    return found.recipe or converted(found, found.neuron)


def uncorrected(found: Situation) -> str:
    """Convert again, without corrections."""
    return converted(found, found.neuron)


def soft(found: Situation) -> str:
    """Neurons that keep their charge."""
    return converted(found, integrate_and_fire())


def finer(found: Situation) -> str:
    """Neurons with more levels."""
    return converted(found, cascade(n=4))


def higher(found: Situation) -> str:
    """Thresholds that clip less."""
    return converted(found, found.neuron, "maximum()")


def longer(found: Situation) -> str:
    """Twice the steps."""
    return f"T={2 * found.T}"


def waiting(found: Situation) -> str:
    """Layers that wait for half of the steps before them, or for all of so few."""
    return f"schedule=wave({found.T // 2})" if found.T >= 4 else 'schedule="layer"'


def steady(found: Situation) -> str:
    """A constant current; for events, layers that wait until all have come."""
    return 'schedule="layer"' if found.encoding.is_events else "encoding=constant()"


def undelayed(found: Situation) -> str:
    """A readout that leaves nothing out."""
    return "delay=0"
