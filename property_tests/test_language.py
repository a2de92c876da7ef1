"""A text read in pieces gives what it gives read at once: the cache is all that is remembered."""

from functools import cache

import torch
from hypothesis import given
from hypothesis import strategies as st

from snnpipe import (
    TRANSFORMER_RULES,
    calibrate,
    cascade,
    instrument,
    maximum,
    pipe,
    prompt,
    replace,
    signed_memory,
    td_rewrite,
    to_module,
    to_snn,
    trace_decoder,
)
from tests.helpers import assert_close
from tests.language_models import causal

NEURONS = {"none": None, "ternary": signed_memory(), "four wires": cascade(n=4)}


@cache
def network(neuron):
    """Of a window of three tokens; in float64, so that rounding decides no spike."""
    ids = torch.arange(24).view(2, 12) % 19
    state = trace_decoder(causal(depth=1, window=3).double(), example=ids)
    if NEURONS[neuron] is None:
        return state, pipe(state, td_rewrite, to_snn)
    measured = pipe(state, instrument(rules=TRANSFORMER_RULES, statistic=maximum()), calibrate([prompt(state, ids)]))
    return state, pipe(measured, replace(neuron=NEURONS[neuron]), to_snn)


@st.composite
def texts(draw):
    """Token ids, their padding, and where they are cut."""
    samples, length = draw(st.integers(1, 3)), draw(st.integers(1, 11))
    ids = draw(st.lists(st.integers(0, 18), min_size=samples * length, max_size=samples * length))
    mask = torch.ones(samples, length, dtype=torch.long)
    for row in range(samples):
        mask[row, : draw(st.integers(0, length - 1))] = 0
    cuts = draw(st.sets(st.integers(1, length), max_size=4)) | {length}
    return torch.tensor(ids).view(samples, length), mask, sorted(cuts)


@given(text=texts(), neuron=st.sampled_from(sorted(NEURONS)), T=st.integers(1, 4))
def test_a_text_in_pieces_is_the_text(text, neuron, T):
    ids, mask, cuts = text
    state, snn = network(neuron)
    given = prompt(snn, ids, mask)
    want = snn(**given, T=T, schedule="layer")
    past, pieces = given["past"], []
    for begin, end in zip([0, *cuts], cuts, strict=False):
        part = {name: given[name][:, begin:end] for name in ("input_ids", "position_ids")}
        found = snn(**part, attention_mask=mask[:, :end], past=past, T=T, schedule="layer")
        past, pieces = found["past"], [*pieces, found["logits"]]
    counts = mask.bool()
    assert_close(torch.cat(pieces, 1)[counts], want["logits"][counts])
    if neuron == "none":
        assert_close(want["logits"], to_module(state)(**given)["logits"])
