"""Why a converted network is as far from the ANN as it is: the error by cause and by layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs
import torch
from torch import nn

from snnpipe.analysis.explanation import Explanation
from snnpipe.analysis.faults import Facts, findings
from snnpipe.analysis.ledger import Ledger
from snnpipe.analysis.remedies import Situation
from snnpipe.analysis.study import Study, studied
from snnpipe.analysis.trial import tried
from snnpipe.checks import takes
from snnpipe.errors import InputError
from snnpipe.options import FLAG, RUN, instance, optional
from snnpipe.recipe import MODEL_OR_STATE, Converted
from snnpipe.runtime.batches import Forward
from snnpipe.runtime.encoding import ENCODING, Encoding, constant
from snnpipe.runtime.inputs import DELAY
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.stages.batches import BATCHES, MAX_BATCHES
from snnpipe.state import ConversionState
from snnpipe.waves import SCHEDULE, STEP, Wave

#: For arguments that are converted networks, or the answers of recipes.
CONVERTED = optional(
    instance(
        (SpikingNetwork, Converted), "must be a converted network", "write explain(model, snn, batches=..., T=...)"
    )
)


@takes(InputError, model=MODEL_OR_STATE, snn=CONVERTED, batches=BATCHES, T=optional(RUN), schedule=SCHEDULE,
       delay=DELAY, encoding=ENCODING, try_advice=FLAG, max_batches=MAX_BATCHES, progress=FLAG)  # fmt: skip
def explain(
    model: nn.Module | ConversionState, snn: SpikingNetwork | Converted | None = None, *, batches: Iterable[Any],
    T: int | None = None, schedule: Wave | str = STEP, delay: int = 0,
    encoding: Encoding = constant(), try_advice: bool = False, forward: Forward | None = None,
    max_batches: int | None = None, progress: bool = False,
) -> Explanation:  # fmt: skip
    r"""Split the error of a converted network by cause and by layer, and say what mends it; nothing is changed.

    Between the ANN, with outputs y, and the spiking network stand others, each run here:

    1. the converted network with the ANN's activations (*weights*: corrections, or weights that are not the model's);
    2. activations clipped at the most that each neuron can say in T steps (*clipping*);
    3. the layer schedule, in which every neuron knows all its input before it fires (*resolution*);
    4. the schedule asked for (*unevenness*: events that later ones do not bear out);
    5. the encoding asked for, where the input is not a constant current (*encoding*);
    6. the readout asked for, where it leaves steps out (*readout*).

    A cause is what the step to its network adds to the squared error of the output,
    :math:`|\hat y_k - y|^2 / |y|^2 - |\hat y_{k-1} - y|^2 / |y|^2`; it may be negative.  The sum is the whole error.

    Args:
        model: the ANN, or the state it was traced to.
        snn: the network, or a recipe's answer, which says T, schedule and delay itself; by default ``model`` is
            converted with the default of every stage, calibrated on the batches.
        batches: as for ``calibrate``; where a batch is ``(x, labels)``, labels (B,) whole numbers, and the outputs are
            scores (B, classes), accuracies are told too.
        T, schedule, delay, encoding: as ``snn(x, T=, schedule=, delay=, encoding=)`` takes them.  Of ``events()`` the
            batches are sequences (T, B, ...), and the ANN is given what they decode to.  Of random events all networks
            see the same, and a generator is where one run on each batch leaves it.
        try_advice: take the advice of every finding and measure what it leaves of the error.  Batches are read anew.
        forward: as for ``calibrate``.
        max_batches: read no more than so many.
        progress: show a progress bar.

    What sites do alone is measured on constant currents.  Cost: three runs of the ANN, three of the network and one of
    the ANN for each site, on every batch; an encoding and a delayed readout are one more of the network each.

    Raises:
        InputError: no T, inputs that are not the model's, NaN or infinity in an output, or events that cannot be had a
            second time.

    >>> import snnpipe
    >>> _ = torch.manual_seed(0)
    >>> model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.randn(256, 4)
    >>> found = explain(model, batches=[x], T=4)
    >>> [cause.name for cause in found.causes]
    ['weights', 'clipping', 'resolution', 'unevenness']
    >>> abs(sum(cause.error for cause in found.causes) - found.error) < 1e-9
    True
    >>> found.findings[0].cause, found.findings[0].advice
    ('resolution', 'T=8')
    """
    wave: Any = schedule
    study = studied(model, snn, batches=batches, T=T, wave=wave, delay=delay, encoding=encoding, forward=forward,
                    limit=max_batches, where="explain")  # fmt: skip
    with torch.no_grad():
        found = explained(study, progress)
        with encoding.undrawn():
            return tried(study, found) if try_advice else found


def explained(study: Study, progress: bool = False) -> Explanation:
    """The explanation, before any advice is tried."""
    between, ledger = study.between, Ledger(study)
    study.each(ledger.add, progress)
    first, *_, last = ledger.scores
    found = Explanation(
        T=between.T,
        schedule=str(between.wave),
        error=last.error,
        accuracy_ann=first.accuracy,
        accuracy_snn=last.accuracy,
        agreement=last.agreement,
        causes=ledger.causes(),
        sites=ledger.errors(),
        graded=ledger.operators(),
        samples=ledger.samples,
        encoding=study.encoding.name,
    )
    return attrs.evolve(found, findings=findings(_facts(study, ledger, found)))


def _facts(study: Study, ledger: Ledger, found: Explanation) -> Facts:
    sums = ledger.sites.values()
    path, by, corrected = ledger.changed
    drifts = [(norm.node.path, norm.drift(study.state.params)) for norm in ledger.norms if norm.count]
    return Facts(
        error=found.error,
        causes=found.causes,
        sites=found.sites,
        situation=_situation(study),
        neurons={one.place.name: one.place.module.neuron for one in sums},
        axes={one.place.name: (one.place.node["axis"], one.axis) for one in sums},
        changed=(path, by),
        corrected=corrected,
        drifts=tuple(drifts),
        span=sum(study.between.snn.code.worth(study.between.T)),
    )


def _situation(study: Study) -> Situation:
    between = study.between
    return Situation(
        T=between.T,
        schedule=str(between.wave),
        delay=study.delay,
        encoding=study.encoding,
        neurons=tuple(place.module.neuron for place in between.places.values()),
        code=repr(between.snn.code),
        instrumented=next((text for text in between.snn.made if text.startswith("instrument(rules")), ""),
        recipe=study.recipe,
        rounded=any(event.stage in ("quantise_weights", "correct_weights") for event in between.snn.history),
    )
