"""Evaluations by example: kinds of batches, what is refused, the table."""

import pytest
import torch
from torch import nn

from snnpipe import (
    CalibrationError,
    InputError,
    calibrate,
    confident,
    evaluate,
    fixed,
    pipe,
    poisson,
    replace,
    signed_memory,
    to_snn,
    trace,
    wave,
)  # fmt: skip


@pytest.fixture(scope="module")
def task():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)).double().eval()
    x = torch.randn(600, 4).double()
    return model, pipe(model, trace, calibrate([x]), replace(neuron=signed_memory()), to_snn), x, model(x).argmax(1)


@pytest.mark.parametrize(
    "batch", [lambda x, y: (x, y), lambda x, y: [x.numpy(), y.numpy()], lambda x, y: {"image": x, "label": y},
              lambda x, y: {"input": x, "y": y.tolist()}, lambda x, y: torch.utils.data.TensorDataset(x, y)[:]]
)  # fmt: skip
def test_labels_are_behind_the_inputs(task, batch):
    model, snn, x, y = task
    found = evaluate(snn, [batch(x[:400], y[:400]), batch(x[400:], y[400:])], T=32, ann=model)
    assert found.ann.mean == 100.0
    assert found.last.accuracy == found.last.agreement
    assert found.last.accuracy.mean > 95


def test_several_inputs_and_a_batch_that_only_forward_reads(task):
    class Sum(nn.Module):
        def forward(self, a, b):
            return torch.relu(a) + torch.relu(b)

    snn = pipe(Sum(), trace, replace(threshold=fixed(1.0)), to_snn)
    a, b = torch.rand(8, 3), torch.rand(8, 3)
    y = Sum()(a, b).argmax(1)
    plain = evaluate(snn, [(a, b, y)], T=16)
    turned = evaluate(
        snn, [(y, {"of": (a, b)})], T=16, labels=lambda batch: batch[0],
        forward=lambda model, batch: model(*batch[1]["of"]).sum(),
    )  # fmt: skip
    assert [r.accuracy for r in plain.readouts] == [r.accuracy for r in turned.readouts]

    def twice(model, batch):
        return [model(*batch[:2]) for _ in range(2)]

    with pytest.raises(InputError, match="say where the labels are"):
        evaluate(snn, [(a, b, y)], T=2, forward=lambda model, batch: model(*batch[:2]))
    with pytest.raises(CalibrationError, match="called the model 2 times on batch 0"):
        evaluate(snn, [(a, b, y)], T=2, forward=twice, labels=lambda batch: batch[2])


def test_places_of_a_map_count_with_their_share():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1)).eval()
    x = torch.rand(6, 1, 5, 5)
    y = model(x).argmax(1)
    y[0, 0, 0] = (y[0, 0, 0] + 1) % 3
    snn = pipe(model, trace, replace(threshold=fixed(0.5)), to_snn)
    found = evaluate(snn, [(x, y)], T=8, ann=model)
    assert found.ann.mean == pytest.approx(100 * (1 - 1 / 25 / 6))
    out = snn(x, T=8)
    assert found.last.accuracy.mean == pytest.approx(100 * (out.argmax(1) == y).double().mean().item())
    assert found.last.accuracy.samples == 6  # places of one image are no samples of their own


def test_a_metric_of_ones_own(task):
    _, snn, x, y = task

    def likelihood(output, labels):
        return -nn.functional.cross_entropy(output, labels, reduction="none")

    found = evaluate(snn, [(x, y)], T=4, metric=likelihood)
    want = -nn.functional.cross_entropy(snn(x, T=4), y).item()
    assert found.last.accuracy.mean == pytest.approx(want)
    assert found.measure == "metric"
    assert "metric  95 % interval" in str(found)


def test_delay_encoding_and_a_limit(task):
    _, snn, x, y = task
    found = evaluate(snn, [(x, y)] * 3, T=8, delay=2, max_batches=1)
    assert found.last.accuracy.mean == pytest.approx(100 * (snn(x, T=8, delay=2).argmax(1) == y).double().mean().item())
    assert found.samples == 600
    drawn = evaluate(snn, [(x.abs().clamp(max=1), y)], T=4, encoding=poisson(torch.Generator().manual_seed(0)))
    assert drawn.encoding.startswith("poisson")


def test_the_network_and_the_generator_are_unchanged(task):
    _, snn, x, y = task
    before = [p.clone() for p in snn.state_dict().values()]
    state = torch.random.get_rng_state()
    a, b = (evaluate(snn, [(x, y)], T=4) for _ in range(2))
    assert a.readouts == b.readouts
    assert all(torch.equal(p, q) for p, q in zip(before, snn.state_dict().values(), strict=True))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        (CalibrationError, lambda m, x, y: {"loader": [x]}, "batch 0 has no labels"),
        (CalibrationError, lambda m, x, y: {"loader": []}, "there was no batch"),
        (CalibrationError, lambda m, x, y: {"loader": [(x, y), (x[:, :2], y)]}, "batch 1 does not fit the network"),
        (CalibrationError, lambda m, x, y: {"loader": [(x * torch.nan, y)]}, "batch 0 .* NaN"),
        (CalibrationError, lambda m, x, y: {"loader": x}, "must be an iterable of batches"),
        (InputError, lambda m, x, y: {"loader": [(x, y[:-1])]}, r"whole numbers \(600,\)"),
        (InputError, lambda m, x, y: {"loader": [(x, y + 1)]}, "labels go from 1 to 3, and the output has scores of 3"),
        (InputError, lambda m, x, y: {"loader": [(x, y.double())]}, "whole numbers"),
        (InputError, lambda m, x, y: {"loader": [(x, y)], "ann": nn.Dropout()}, "training mode; write ann=model.eval"),
        (InputError, lambda m, x, y: {"loader": [(x, y)], "metric": lambda a, b: 1.0}, "a number for each sample"),
        (InputError, lambda m, x, y: {"loader": [(x, y)], "metric": lambda a, b: b / 0}, "NaN or infinity"),
        (InputError, lambda m, x, y: {"loader": [(x, y)], "confidence": 1.0}, "between 0 and 1"),
        (InputError, lambda m, x, y: {"loader": [(x, y)], "delay": 4}, "0 <= delay < T"),
        (InputError, lambda m, x, y: {"loader": [(x, y)], "delay": 1, "until": confident(0.5)}, "leave out"),
    ],
)  # fmt: skip
def test_what_is_refused(task, kind, given, words):
    model, snn, x, y = task
    with pytest.raises(kind, match=words):
        evaluate(snn, **{"T": 4} | given(model, x, y))


def test_the_table_says_all_of_it(task):
    model, snn, x, y = task
    found = evaluate(snn, [(x, y)], T=12, schedule=wave(2), ann=model, until=confident(0.5))
    text = str(found)
    assert "12 steps under RATE, constant input, schedule wave(2); 600 samples" in text
    assert [line.split()[0] for line in text.splitlines()[2:6]] == ["2", "4", "8", "12"]
    assert "ANN: top-1 100.00 [99.36, 100.00] %" in text
    assert "stopped by the rule: after" in text


def test_the_figure(task, tmp_path):
    pytest.importorskip("matplotlib")
    model, snn, x, y = task
    evaluate(snn, [(x, y)], T=8, ann=model, until=confident(0.5)).plot(tmp_path / "figure.svg")
    assert "<svg" in (tmp_path / "figure.svg").read_text()
