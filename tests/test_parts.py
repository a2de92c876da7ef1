"""Parts of models: what they are measured on, and the model with a spiking network in the place of one."""

import copy
import pickle
from collections import OrderedDict
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snnpipe import (
    TD,
    CalibrationError,
    InputError,
    SnnpipeError,
    StageError,
    TraceError,
    balance,
    calibrate,
    correct_bias,
    correct_weights,
    digest,
    embed,
    fuse,
    load,
    pipe,
    recipes,
    replace,
    save,
    state_equal,
    sweep,
    td_rewrite,
    to_snn,
    trace,
    wave,
)  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning")


class Backbone(nn.Module):
    out_channels = 6

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(6, 6, 3, stride=2, padding=1), nn.ReLU())
        self.config = {"levels": 2}

    def forward(self, x):
        fine = self.stem(x)
        return OrderedDict(fine=fine, coarse=self.down(fine))


class Detector(nn.Module):
    """A backbone on padded images, and a head in Python: the best places, overlaps dropped, a list of any length."""

    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.score, self.box = nn.Conv2d(6, 1, 1), nn.Conv2d(6, 4, 1)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, images):
        lacking = [max(other.shape[-1] for other in images) - image.shape[-1] for image in images]
        batch = torch.stack([F.pad(image / 2, (0, n, 0, n)) for image, n in zip(images, lacking, strict=True)])
        features = self.backbone(batch)
        self.seen += len(images)
        assert list(features) == ["fine", "coarse"]
        assert self.backbone.config["levels"] == 2
        found = []
        for k in range(len(images)):
            boxes, scores = [], []
            for values in features.values():
                score = self.score(values[k : k + 1]).flatten()
                box = self.box(values[k : k + 1]).flatten(2)[0].T
                for place in score.topk(3).indices.tolist():
                    if all((box[place] - other).abs().sum() > 1e-3 for other in boxes):
                        boxes.append(box[place])
                        scores.append(score[place])
            found.append({"boxes": torch.stack(boxes), "scores": torch.stack(scores)})
        return found


@pytest.fixture
def detector():
    model = Detector()
    with torch.no_grad():
        for _ in range(3):
            model(images())
    return model.train()


def images(sizes=(8, 6, 8)):
    return [torch.rand(3, size, size) for size in sizes]


def close(a, b, **tolerance):
    both = zip(a, b, strict=True)
    return all(torch.allclose(one[key], other[key], **tolerance) for one, other in both for key in one)


def test_a_part_is_measured_on_what_the_model_hands_it(detector):
    batches = [images(), images((6, 5))]
    state = pipe(detector, trace(part="backbone"), calibrate(batches))
    handed = []
    hook = copy.deepcopy(detector).eval()
    hook.backbone.register_forward_pre_hook(lambda module, args: handed.append(args[0]))
    with torch.no_grad():
        for batch in batches:
            hook(batch)
    alone = pipe(copy.deepcopy(detector).eval().backbone, trace, calibrate(handed))
    assert state.statistics.keys() == alone.statistics.keys()
    for name, summary in state.statistics.items():
        assert torch.equal(summary.max, alone.statistics[name].max)
        assert summary.count == alone.statistics[name].count
        assert torch.equal(summary.quantile(0.999), alone.statistics[name].quantile(0.999))


def test_a_part_is_the_model_of_its_own_keys(detector):
    state = trace(part="backbone")(detector)
    assert set(state.params) <= set(detector.backbone.state_dict())
    snn = pipe(state, td_rewrite, to_snn)
    x, model = torch.rand(2, 3, 8, 8), copy.deepcopy(detector).eval().backbone
    got, want = snn(x, T=2), model(x)
    assert type(got) is type(want)
    assert all(torch.allclose(got[key], want[key], atol=1e-5) for key in want)


def test_the_state_is_unchanged_by_runs_of_the_whole(detector):
    keys = {name: value.clone() for name, value in detector.state_dict().items()}
    state = trace(part="backbone")(detector)
    before = digest(state)
    first, second = calibrate([images((8,))] * 2)(state), calibrate([images((8,))] * 2)(state)
    assert digest(state) == before  # ``seen`` counts in a copy
    assert detector.training
    assert all(torch.equal(value, keys[name]) for name, value in detector.state_dict().items())
    assert first.statistics.keys() == second.statistics.keys()


def test_the_digest_sees_the_rest(detector):
    other = copy.deepcopy(detector)
    stage = trace(part="backbone")
    assert state_equal(stage(detector), stage(other))
    with torch.no_grad():
        other.score.weight.add_(1.0)
    assert not state_equal(stage(detector), stage(other))


def test_exact_parts_give_the_models_own_answers(detector):
    """Under TD without neurons a part is exact, so the whole is, Python head and all, up to rounding."""
    td = pipe(detector, trace(part="backbone"), td_rewrite(code=TD), to_snn)
    hybrid, ann, batch = embed(detector, {"backbone": td}, T=2), copy.deepcopy(detector).eval(), images()
    assert close(hybrid(batch), ann(batch), atol=1e-4)


def test_features_come_close_as_T_grows(detector):
    batches = [images() for _ in range(4)]
    snn = pipe(detector, trace(part="backbone"), fuse, calibrate(batches), to_snn)
    x, errors = torch.rand(4, 3, 8, 8) / 2, []
    with torch.no_grad():
        want = copy.deepcopy(detector).eval().backbone(x)
        for T in (4, 64):
            got = embed(detector, {"backbone": snn}, T=T).backbone(x)
            errors.append(sum(float((got[key] - want[key]).norm() / want[key].norm()) for key in want))
    assert errors[1] < errors[0] / 4


def test_how_the_part_runs_is_passed_on(detector):
    snn = pipe(detector, trace(part="backbone"), calibrate([images()]), to_snn)
    x = torch.rand(2, 3, 8, 8)
    for run in ({"T": 4}, {"T": 8, "schedule": wave(4)}, {"T": 8, "schedule": "layer"}, {"T": 8, "delay": 2}):
        got, want = embed(detector, {"backbone": snn}, **run).backbone(x), snn(x, **run)
        assert all(torch.equal(got[key], want[key]) for key in want)


def test_a_recipes_answer_has_its_own_T(detector):
    made = recipes.cascade_mmse()(trace(part="backbone")(detector), [images(), images()], T=3)
    x = torch.rand(2, 3, 8, 8)
    got, want = embed(detector, {"backbone": made}).backbone(x), made(x)
    assert all(torch.equal(got[key], want[key]) for key in want)
    with pytest.raises(StageError, match="own T"):
        embed(detector, {"backbone": made}, T=4)


def test_forward_calls_the_whole(detector):
    batches = [{"pictures": images(), "labels": [1, 2]}]
    stage = calibrate(batches, forward=lambda model, batch: model(batch["pictures"]))
    assert pipe(detector, trace(part="backbone"), stage).statistics
    with pytest.raises(CalibrationError, match=r"batch 0 .*forward="):
        pipe(detector, trace(part="backbone"), calibrate([torch.rand(())]))


@pytest.mark.parametrize(
    "correct", [lambda b: correct_bias(b, T=4), lambda b: correct_weights(b, T=4, epochs=1), lambda b: balance(b, T=4)]
)
def test_corrections_read_what_the_whole_hands_on(correct, detector):
    state = pipe(detector, trace(part="backbone"), fuse, calibrate([images((8, 8))]), replace)
    made = correct([images((8, 8))])(state)
    assert made.whole is state.whole
    assert len(made.history) > len(state.history)
    assert embed(detector, {"backbone": to_snn(made)}, T=4)(images())


# what embed gives


def test_the_copy_is_a_module_of_its_own(detector):
    snn = pipe(detector, trace(part="backbone"), calibrate([images()]), to_snn)
    before = {name: value.clone() for name, value in [*detector.state_dict().items(), *snn.state_dict().items()]}
    hybrid = embed(detector, {"backbone": snn}, T=4)
    assert type(hybrid) is Detector
    assert not any(module.training for module in hybrid.modules())
    assert detector.training
    keys = set(hybrid.state_dict())
    rest = {name for name in detector.state_dict() if not name.startswith("backbone.")}
    assert keys == rest | {f"backbone.snn.{name}" for name in snn.state_dict()}
    assert {name for name, _ in hybrid.named_parameters()} <= keys
    for value in hybrid.state_dict().values():
        value.zero_()
    after = [*detector.state_dict().items(), *snn.state_dict().items()]
    assert all(torch.equal(value, before[name]) for name, value in after)


def test_the_copy_is_saved_and_copied_like_any_module(detector):
    hybrid = embed(detector, {"backbone": pipe(detector, trace(part="backbone"), calibrate([images()]), to_snn)}, T=4)
    batch = images()
    for again in (copy.deepcopy(hybrid), pickle.loads(pickle.dumps(hybrid))):
        assert close(again(batch), hybrid(batch), rtol=0, atol=0)
    other = embed(detector, {"backbone": pipe(detector, trace(part="backbone"), calibrate([images()]), to_snn)}, T=4)
    other.load_state_dict(hybrid.state_dict())
    assert close(other(batch), hybrid(batch), rtol=0, atol=0)
    assert hybrid.double().backbone(torch.rand(1, 3, 8, 8).double())["fine"].dtype == torch.float64


def test_a_network_out_of_a_file_can_be_embedded(detector, tmp_path):
    state = pipe(detector, trace(part="backbone"), calibrate([images()]))
    snn = to_snn(state)
    save(snn, tmp_path / "snn")
    batch = images()
    one, two = (embed(detector, {"backbone": made}, T=4)(batch) for made in (snn, load(tmp_path / "snn")))
    assert close(one, two, rtol=0, atol=0)
    with pytest.raises(SnnpipeError, match=r"part of a model \(backbone\)"):
        save(state, tmp_path / "state")
    save(state.evolve(whole=None), tmp_path / "state")
    assert state_equal(load(tmp_path / "state"), state.evolve(whole=None))


class Towers(nn.Module):
    """Two towers, one of them called twice, by name and with an option; and one module at two paths."""

    def __init__(self):
        super().__init__()
        self.image, self.text = Tower(), Tower()
        self.towers = nn.ModuleDict({"image": self.image})
        self.kept = [self.text]
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, a, b):
        image = self.towers["image"](x=a, normalise=True)
        text = self.kept[0](b) + self.text(x=-b)
        return self.scale * image @ text.T


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.out = nn.Linear(8, 5)

    def forward(self, x, normalise=False, mask=None):
        y = self.out(self.inner(x))
        y = y if mask is None else y * mask
        return F.normalize(y, dim=-1) if normalise else y


def pairs(n=64):
    return {"a": torch.randn(n, 4), "b": torch.randn(n, 4)}


def call(model, batch):
    return model(**batch)


def test_two_towers_by_names_aliases_and_references():
    model = Towers()
    image = pipe(model, trace(part="image", constants={"normalise": True}), calibrate([pairs()], forward=call))
    text = pipe(model, trace(part="text"), calibrate([pairs()], forward=call))
    assert [summary.count for summary in image.statistics.values()] == [64, 64]
    assert [summary.count for summary in text.statistics.values()] == [128, 128]  # called twice
    exact = {
        path: pipe(state, td_rewrite(code=TD), to_snn) for path, state in {"towers.image": image, "text": text}.items()
    }
    hybrid, batch = embed(model, exact, T=2), pairs(6)
    assert hybrid.image is hybrid.towers["image"]
    assert hybrid.kept[0] is hybrid.text
    assert torch.allclose(hybrid(**batch), model(**batch), atol=1e-5)
    one = embed(model, {"text": exact["text"]}, T=2)
    two = embed(one, {"image": exact["towers.image"]}, T=3)
    assert torch.allclose(two(**batch), model(**batch), atol=1e-5)
    assert two.text is not one.text


def test_nested_paths():
    model = Towers()
    snn = pipe(model, trace(part="text.inner"), calibrate([pairs()], forward=call), to_snn)
    hybrid = embed(model, {"text.inner": snn}, T=256)
    batch = pairs(6)
    assert "text.inner.snn.0.weight" in hybrid.state_dict()
    assert torch.allclose(hybrid(**batch), model(**batch), atol=0.2)


def test_arguments_that_are_no_inputs_must_be_as_they_were_traced():
    model = Towers()
    with pytest.raises(CalibrationError, match=r"normalise=True, it was traced with normalise=False.*constants="):
        pipe(model, trace(part="image"), calibrate([pairs()], forward=call))
    snn = pipe(model.image, trace, td_rewrite, to_snn)
    with pytest.raises(InputError, match="normalise=True"):
        embed(model, {"image": snn}, T=2)(**pairs(2))
    spiking = embed(model, {"text": snn}, T=2).text
    x, mask = torch.randn(3, 4), torch.ones(5)
    assert torch.equal(spiking(x), spiking(x=x, normalise=False, mask=None))
    with pytest.raises(InputError, match="mask=a tensor"):
        spiking(x, mask=mask)
    with pytest.raises(InputError, match="unexpected keyword argument 'flag'"):
        spiking(x, flag=1)
    with pytest.raises(InputError, match="missing a required argument"):
        spiking()


def test_inputs_are_bound_by_the_parts_own_names():
    """A constant stands between two inputs."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = Tower()

        def forward(self, x):
            return self.tower(x, False, (x[:, :1] > 0).float())

    model, x = Masked(), torch.randn(32, 4)
    state = pipe(model, trace(part="tower", inputs=("x", "mask"), static=("mask",)), calibrate([x]))
    snn = pipe(state, td_rewrite(code=TD), to_snn)
    assert torch.allclose(embed(model, {"tower": snn}, T=2)(x), model(x), atol=1e-5)


class Segmenter(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.classifier = Backbone(), nn.Conv2d(6, 3, 1)

    def forward(self, x):
        found = self.backbone(x)["coarse"]
        return {"out": F.interpolate(self.classifier(found), size=x.shape[-2:], mode="bilinear")}


def test_a_segmenter_of_any_size():
    model = Segmenter().eval()
    snn = pipe(model, trace(part="backbone"), fuse, calibrate([torch.rand(4, 3, 8, 8)]), to_snn)
    hybrid = embed(model, {"backbone": snn}, T=128)
    for size in (8, 12):
        x = torch.rand(2, 3, size, size)
        want, got = model(x)["out"], hybrid(x)["out"]
        assert got.shape == want.shape
        assert (got - want).norm() < 0.1 * want.norm()


def test_a_part_by_example(detector):
    """The example is the part's own."""
    x = torch.rand(3, 3, 8, 8)
    state = trace(part="backbone", example=x)(detector)
    checked = trace(part="backbone", check=x)(detector)
    assert state.whole.path == checked.whole.path == "backbone"
    td = pipe(state, td_rewrite(code=TD), to_snn)
    ann, batch = copy.deepcopy(detector).eval(), images()
    assert close(embed(detector, {"backbone": td}, T=2)(batch), ann(batch), atol=1e-4)


def test_constants_go_into_files(tmp_path):
    model = Towers()
    state = pipe(model, trace(part="image", constants={"normalise": True}), calibrate([pairs()], forward=call))
    save(pipe(state, td_rewrite(code=TD), to_snn), tmp_path / "snn")
    batch = pairs(5)
    hybrid = embed(model, {"image": load(tmp_path / "snn")}, T=2)
    assert torch.allclose(hybrid(**batch), model(**batch), atol=1e-5)


def test_hooks_of_the_part_run_once(detector):
    detector.backbone.register_forward_hook(lambda module, args, output: OrderedDict(fine=output["fine"] * 2))
    td = pipe(detector, trace(part="backbone"), td_rewrite(code=TD), to_snn)
    x = torch.rand(2, 3, 8, 8)
    got, want = embed(detector, {"backbone": td}, T=2).backbone(x), copy.deepcopy(detector).eval().backbone(x)
    assert got.keys() == want.keys() == {"fine"}
    assert torch.allclose(got["fine"], want["fine"], atol=1e-5)


def greedy_nms(box_iou, boxes, scores, iou_threshold):
    """``torchvision.ops.nms`` in Python."""
    order, kept = scores.argsort(descending=True, stable=True), []
    while len(order):
        kept.append(order[0])
        order = order[1:][box_iou(boxes[order[:1]], boxes[order[1:]])[0] <= iou_threshold]
    return torch.tensor(kept, dtype=torch.int64)


@pytest.fixture
def torchvision(monkeypatch):
    """torchvision; its compiled operators do not load with every torch, and what is asked of them here is in Python."""
    register = torch.library.register_fake

    def lenient(op, *args, **kwargs):
        return (lambda fn: fn) if str(op).startswith("torchvision::") else register(op, *args, **kwargs)

    monkeypatch.setattr(torch.library, "register_fake", lenient)
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.setattr(torchvision.ops.boxes, "nms", partial(greedy_nms, torchvision.ops.box_iou))
    return torchvision


def test_segmentation_of_torchvision(torchvision):
    segmentation = torchvision.models.segmentation
    model = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).eval()
    x = torch.rand(1, 3, 64, 64)
    td = pipe(model, trace(part="backbone"), fuse, td_rewrite(code=TD), to_snn)
    with torch.no_grad():
        got, want = embed(model, {"backbone": td}, T=1)(x), model(x)
    assert got.keys() == want.keys()
    assert torch.allclose(got["out"], want["out"], rtol=1e-3, atol=1e-4 * want["out"].abs().max().item())


def test_detection_of_torchvision(torchvision):
    detection = torchvision.models.detection
    few = {"num_classes": 4, "topk_candidates": 50, "detections_per_img": 20}
    model = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, **few).eval()
    td = pipe(model, trace(part="backbone"), td_rewrite(code=TD), to_snn)
    batch = [torch.rand(3, 60, 80), torch.rand(3, 64, 64)]
    with torch.no_grad():
        got, want = embed(model, {"backbone": td}, T=1)(batch), model(batch)
    for one, other in zip(got, want, strict=True):
        assert torch.allclose(one["scores"], other["scores"], atol=1e-4)


# what is refused


class Reaching(nn.Module):
    """Goes past its part."""

    def __init__(self, how):
        super().__init__()
        self.backbone, self.how = Backbone(), how

    def forward(self, x):
        return self.how(self.backbone, x)


@pytest.mark.parametrize(
    "how",
    [
        lambda part, x: part.down(part.stem(x)),
        lambda part, x: part(x)["fine"] + getattr(part, "stem", nn.Identity())(x),
        lambda part, x: part.stem(x) if hasattr(part, "stem") else part(x),
    ],
)
def test_models_that_reach_into_the_part(how):
    model, x = Reaching(how), torch.rand(2, 3, 8, 8)
    with pytest.raises(StageError, match=r"reads backbone.(stem|down), and so goes past"):
        pipe(model, trace(part="backbone"), calibrate([x]))
    snn = pipe(model.backbone, trace, calibrate([x]), to_snn)
    with pytest.raises(StageError, match="goes past what stands for backbone"):
        embed(model, {"backbone": snn}, T=2)(x)


def test_what_is_not_there_is_not_there():
    model = Reaching(lambda part, x: part(x)["fine"] * getattr(part, "gain", 1.0) * part.out_channels)
    x = torch.rand(2, 3, 8, 8)
    snn = pipe(model, trace(part="backbone"), calibrate([x]), td_rewrite, to_snn)
    assert torch.allclose(embed(model, {"backbone": snn}, T=2)(x), model.eval()(x), atol=1e-4)


def test_a_model_that_does_not_call_its_part():
    model = Reaching(lambda part, x: x)
    with pytest.raises(CalibrationError, match="did not call backbone on any of 2 batches"):
        pipe(model, trace(part="backbone"), calibrate([torch.rand(1, 3, 8, 8)] * 2))


def test_parts_that_are_none(detector):
    with pytest.raises(TraceError, match="no module 'backbon'; the nearest are backbone"):
        trace(part="backbon")(detector)
    with pytest.raises(TraceError, match="is the whole model"):
        trace(part="")(detector)
    with pytest.raises(TraceError, match="has no parts"):
        trace(part="0")(torch.export.export(nn.Sequential(nn.Linear(2, 2)), (torch.rand(1, 2),)))
    state = trace(part="backbone")(detector)
    with pytest.raises(StageError, match="is a part and no classifier"):
        sweep(state, ["opi"], batches=[images()], data=[(torch.rand(1, 3, 8, 8), torch.zeros(1))], T=(1,))
    with pytest.raises(CalibrationError, match="would move a part"):
        calibrate([images()], device="cpu")(state)


def test_embeddings_that_make_no_sense(detector):
    snn = pipe(detector, trace(part="backbone"), calibrate([images()]), to_snn)
    towers, tower = Towers(), pipe(Tower(), trace, td_rewrite, to_snn)
    wrong = [
        (lambda: embed(detector, {"backbon": snn}, T=2), "the nearest are backbone"),
        (lambda: embed(detector, {"backbone": snn}), r"T=8"),
        (lambda: embed(detector, {}, T=2), "parts is empty"),
        (lambda: embed(detector, {"backbone": detector.backbone}, T=2), "must be a converted network"),
        (lambda: embed(detector, {"backbone": snn, "backbone.stem": snn}, T=2), "within one another"),
        (lambda: embed(detector, {"backbone.stem": snn, "backbone": snn}, T=2), "within one another|takes input"),
        (lambda: embed(detector, {"score": snn}, T=2), "score .Conv2d. takes input, the network x"),
        (lambda: embed(towers, {"image": tower, "towers.image": tower}, T=2), "are one module"),
        (lambda: embed(detector, {"backbone": snn}, T=2, delay=2), "delay"),
        (lambda: embed(snn, {"backbone": snn}, T=0), "T"),
    ]
    for make, says in wrong:
        with pytest.raises(SnnpipeError, match=says):
            make()
