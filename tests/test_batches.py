"""One place decides how a batch is handed to a network: every stage that takes data takes the same kinds of it, and
names the batch that does not fit."""

import numpy as np
import pytest
import torch
from torch import nn

from snnpipe import (
    CalibrationError,
    InputError,
    balance,
    calibrate,
    correct_bias,
    correct_potential,
    correct_threshold,
    correct_weights,
    digest,
    events,
    pipe,
    readout_delay,
    recipes,
    replace,
    state_equal,
    sweep,
    to_snn,
    trace,
)
from snnpipe.recipe import estimated
from snnpipe.runtime.batches import Reader

pytestmark = pytest.mark.filterwarnings("ignore:.*never fired")
STAGES = {
    "calibrate": calibrate,
    "correct_bias": lambda batches, **options: correct_bias(batches, T=3, **options),
    "correct_potential": lambda batches, **options: correct_potential(batches, T=3, **options),
    "correct_threshold": lambda batches, **options: correct_threshold(batches, T=3, **options),
    "correct_weights": lambda batches, **options: correct_weights(batches, T=3, epochs=1, **options),
    "balance": lambda batches, **options: balance(batches, T=3, **options),
}


def data(seed=0, n=12):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(self.a(x).relu())


class ByKey(Small):
    """Reads its one input like a dictionary, some of it nested."""

    def forward(self, batch):
        return super().forward(batch["left"] + batch["more"]["right"])


class Two(Small):
    def forward(self, x, y):
        return super().forward(x + y)


class Pair(Small):
    """One input that is a pair."""

    def forward(self, pair):
        return super().forward(pair[0] + pair[1])


def made(model):
    torch.manual_seed(0)
    return model().eval()


def before(stage, model, batch, options):
    """A state that the stage can work on."""
    state = trace(model)
    return state if stage == "calibrate" else pipe(state, calibrate([batch], **options), replace)


X = data()
HALF = 0.5 * X
DICT = {"left": HALF, "more": {"right": HALF, "names": ["a"] * 12}, "path": ["b"] * 12}
GIVEN = {
    "array": (Small, X.numpy(), {}),
    "array and label": (Small, (X.numpy(), np.arange(12)), {}),
    "under a common key": (Small, {"pixel_values": X, "labels": ["c"] * 12}, {}),
    "label first": (Small, (torch.arange(12), X), {"forward": lambda model, batch: model(batch[1])}),
    "two calls": (Small, X, {"forward": lambda model, batch: (model(batch[:5]), model(batch[5:]))}),
    "the answer is used": (Small, X, {"forward": lambda model, batch: model(batch).argmax(1).tolist()}),
    "by key": (ByKey, DICT, {}),
    "by key, in a tuple": (ByKey, (DICT, torch.arange(12)), {}),
    "by key, called": (ByKey, (torch.arange(12), DICT), {"forward": lambda model, batch: model(batch[1])}),
    "two inputs": (Two, (HALF, HALF, torch.arange(12)), {}),
    "two inputs by name": (Two, {"y": HALF, "x": HALF, "id": ["d"] * 12}, {}),
    "two inputs, called": (Two, [HALF, "note"], {"forward": lambda model, batch: model(y=batch[0], x=batch[0])}),
    "a pair": (Pair, ([HALF, HALF.numpy()], torch.arange(12)), {}),
}  # fmt: skip


@pytest.mark.parametrize("kind", GIVEN)
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_takes_every_kind_of_batch(stage, kind):
    model, batch, options = GIVEN[kind]
    plain = STAGES[stage]([X])(before(stage, made(Small), X, {}))
    found = STAGES[stage]([batch], **options)(before(stage, made(model), batch, options))
    same = found.statistics["relu"] if stage == "calibrate" else found.params
    want = plain.statistics["relu"] if stage == "calibrate" else plain.params
    if stage == "calibrate":
        assert torch.equal(same.max, want.max)
        assert same.count == want.count
    elif (stage, kind) != ("correct_weights", "two calls"):  # which takes its gradient steps in other portions
        assert same.keys() == want.keys()
        for key, value in want.items():
            assert torch.allclose(same[key], value, rtol=1e-5, atol=1e-6), key


@pytest.mark.parametrize("kind", GIVEN)
@pytest.mark.parametrize("recipe", ["calibration_light", "ltb", "sengupta", "cascade_calibrated"])
def test_recipes_take_every_kind_of_batch(recipe, kind):
    model, batch, options = GIVEN[kind]
    found = recipes.RECIPES[recipe]()(made(model), [batch], T=6, **options)
    plain = recipes.RECIPES[recipe]()(made(Small), [X], T=6)
    assert found.delay == plain.delay or kind == "two calls"  # it is that of the first call
    for key, value in plain.snn.state_dict().items():
        assert torch.allclose(found.snn.state_dict()[key], value, rtol=1e-5, atol=1e-6), key


def test_a_sweep_takes_dictionaries_and_several_inputs():
    y = torch.arange(12) % 3
    plain = sweep(made(Small), ["opi"], batches=[X], data=[(X, y)], T=[4])
    for model, batch in ((ByKey, DICT), (Two, (HALF, HALF)), (Two, {"y": HALF, "x": HALF})):
        assert sweep(made(model), ["opi"], batches=[batch], data=[(batch, y)], T=[4]).ann == plain.ann
    called = sweep(made(Small), ["opi", "ltb"], batches=[(y, X)], data=[(X.numpy(), y)], T=[4],
                   forward=lambda model, batch: model(batch[1]))  # fmt: skip
    assert called.outcomes[0] == plain.outcomes[0]


MISFITS = {
    "float64": (X.numpy().astype("f8"), r"float64.*float32.*x\.to\(torch\.float32\)"),
    "half": (X.half(), r"float16.*float32"),
    "labels first": ((torch.arange(12), X), r"\(12,\)|int64.*float32"),
    "features": (torch.randn(12, 5), r"\(12, 5\).*12x5 and 6x8"),
    "text": ("image.png", r"a str.*forward="),
    "nothing": (X[:0], "empty"),
    "keys": ({"a": X, "b": X}, r"\['a', 'b'\].*\['x'\].*forward="),
    "NaN": (torch.where(torch.arange(12)[:, None] == 3, torch.nan, X), "NaN or infinity"),
    "infinity": (torch.where(torch.arange(12)[:, None] == 3, torch.inf, X), "NaN or infinity"),
}


@pytest.mark.parametrize("kind", MISFITS)
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_names_the_batch_that_does_not_fit(stage, kind):
    bad, text = MISFITS[kind]
    state = before(stage, made(Small), X, {})
    was = digest(state)
    with pytest.raises(CalibrationError, match=rf"(?s)^{stage}: .*{text}") as found:
        STAGES[stage]([X, bad])(state)
    assert "batch 1" in str(found.value)
    assert digest(state) == was


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_names_what_is_wrong_with_a_call(stage):
    state = before(stage, made(Two), (HALF, HALF), {})
    for forward, text in (
        (lambda model, batch: None, "did not call the model on batch 0"),
        (lambda model, batch: model(batch), "batch 0 .*takes 2 inputs, x, y; got 1 by position"),
        (lambda model, batch: model(batch, z=batch), "batch 0 .*takes 2 inputs"),
        (lambda model, batch: model(batch, batch.double()), "batch 0 .*float64"),
    ):
        with pytest.raises(CalibrationError, match=rf"^{stage}: .*{text}"):
            STAGES[stage]([X], forward=forward)(state)
    with pytest.raises(ZeroDivisionError):  # what the user's own code raises is the user's
        STAGES[stage]([X], forward=lambda model, batch: 1 / 0)(state)


def test_a_dictionary_without_a_key_that_the_model_reads():
    with pytest.raises(CalibrationError, match=r"batch 0 is a dictionary with keys \['left'\].*\['left', 'more'\]"):
        calibrate([{"left": X}])(trace(made(ByKey)))
    snn = pipe(made(ByKey), trace, calibrate([DICT]), to_snn)
    with pytest.raises(InputError, match="key 'right'"):
        snn({"left": X, "more": {}}, T=2)


def test_a_size_the_network_was_not_traced_for():
    class PerSize(Small):
        def forward(self, x):
            return super().forward(x[..., :6]) / x.shape[-1]

    state = trace(made(PerSize), example=X)
    with pytest.raises(CalibrationError, match=r"batch 0 .*traced for \(B, 6\)"):
        calibrate([torch.randn(12, 7)])(state)


def test_a_failing_readout_delay_names_the_batch():
    bad = X.clone()
    bad[0] = torch.nan
    snn = pipe(made(Small), trace, calibrate([X]), to_snn)
    with pytest.raises(CalibrationError, match=r"readout_delay: batch 0 .*NaN"):
        estimated(snn, [bad], 8)
    with pytest.raises(InputError, match="NaN"):
        readout_delay(snn, bad, T=8)


@pytest.mark.parametrize("device", [None, "meta"])
def test_data_go_where_the_parameters_are(device):
    """Or where they are sent, nested ones too."""
    graph, found = trace(made(ByKey)).graph, []
    root = nn.Linear(1, 1).to("cpu" if device else "meta")
    Reader("read", graph, root, device=device).hand(DICT, 0, found.append)
    ((left, right),) = ((given["batch"]["left"], given["batch"]["more"]["right"]) for given in found)
    assert (left.device.type, right.device.type) == ("meta", "meta")


# inputs of a network


@pytest.fixture
def snn():
    return pipe(made(Small), trace, calibrate([X]), to_snn)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_an_input_that_is_no_number_is_an_error(snn, value):
    bad = X.clone()
    bad[2, 1] = value
    calls = (
        lambda: snn(bad, T=4), lambda: snn(bad, T=4, schedule="layer"), lambda: list(snn.iterate(bad, T=2)),
        lambda: snn.sequence(torch.stack([X, bad])), lambda: snn.step(snn.init(), bad), lambda: snn.init(bad),
        lambda: snn(torch.stack([X, bad]), T=2, encoding=events()),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(InputError, match=r"input x holds (NaN|infinity) \(1 of"):
            call()


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6)

    def forward(self, x, mask):
        return self.a((x @ x.transpose(-2, -1) + mask).softmax(-1) @ x).relu()


def test_infinity_in_a_mask_is_right():
    torch.manual_seed(0)
    model, x = Masked().eval(), torch.randn(2, 4, 6)
    mask = torch.zeros(4, 4).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf)
    snn = pipe(model, trace, calibrate([(x, mask)]), to_snn)
    assert (snn(x, mask, T=512) - model(x, mask)).abs().max() < 0.05
    with pytest.raises(InputError, match="input mask holds NaN"):
        snn(x, mask * 0.0, T=4)  # 0 times infinity


def test_a_model_that_replaces_nan_is_given_it():
    class Filled(Small):
        def forward(self, x):
            return super().forward(torch.nan_to_num(x))

    model, bad = made(Filled), X.clone()
    bad[0, 0] = torch.nan
    snn = pipe(model, trace, calibrate([bad]), to_snn)
    assert (snn(bad, T=1024) - model(bad)).abs().max() < 0.05


def test_messages_of_a_network_speak_of_what_is_wrong(snn):
    for bad, text in (
        (X.double(), r"dtypes float64, but the weights are float32.*x\.to\(torch\.float32\)"),
        (X.long(), r"dtypes int64, but the weights are float32"),
        (X[:, :5], r"shapes \(12, 5\)"),
    ):
        with pytest.raises(InputError, match=text):
            snn(bad, T=2)


def test_statistics_of_arrays_are_those_of_tensors():
    state = trace(made(Small))
    assert state_equal(calibrate([X.numpy()])(state), calibrate([X])(state))
