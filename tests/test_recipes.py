"""Every recipe is what its publication says: one layer with a constant current, against the formula."""

import math
from pathlib import Path

import attrs
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from snnpipe import RATE, InputError, digest, fuse, pipe, recipes, sweep, trace
from snnpipe.recipes import RECIPES

pytestmark = pytest.mark.filterwarnings("ignore:.*never fired")


def layer() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU()).double().eval()


def vectors(seed: int, n: int = 256) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def steps_of(size: Tensor, most: float, shift: float = 0.5):
    """``size / T clip(floor(z T / size + shift), 0, most T)``."""
    return lambda z, theta, T: size(theta) / T * torch.floor(z * T / size(theta) + shift).clamp(0, most * T)


def theta_itself(theta: Tensor) -> Tensor:
    return theta


def masked(z: Tensor, theta: Tensor, T: int, tau: int = 4) -> Tensor:
    sent = torch.floor(z * tau / theta + 0.5).clamp(0, tau)
    silent = z * tau + theta / 2 - sent * theta < 0
    return steps_of(theta_itself, 1)(z, theta, T).masked_fill(silent, 0.0)


def carried(z: Tensor, theta: Tensor, T: int, tau: int = 8) -> Tensor:
    owed = z * tau - torch.floor(z * tau / theta + 0.5).clamp(0, tau) * theta
    owed = torch.where(owed.abs() >= theta / 2, owed, 0.0).clamp(-3 * theta, 3 * theta)
    return theta / T * torch.floor((z * T + owed) / theta + 0.5).clamp(0, T)


def bits(z: Tensor, theta: Tensor, T: int) -> Tensor:
    return theta / 2**T * torch.floor(z / theta * 2**T).clamp(0, 2**T - 1)


def nearest_levels(z: Tensor, theta: Tensor, T: int, *, differential: bool, n: int = 4) -> Tensor:
    """DCGS and ECMT by their own recursion, one neuron at a time; currents are positive, so nothing is held back."""
    decoded = torch.zeros_like(z)
    for i in range(z.numel()):
        current, limit = z.reshape(-1)[i].item(), theta.expand_as(z).reshape(-1)[i].item()
        levels = [limit / 2**k for k in range(n)]
        said, membrane, wanted = 0.0, 0.0, 0.0
        for t in range(1, T + 1):
            wanted = t * (current - said) if differential else membrane + current  # r_out += s / t
            level = next((a for a in levels if abs(wanted) >= 0.75 * a), 0.0)
            event = math.copysign(level, wanted) if level else 0.0
            total = t * said if differential else said
            if event < 0 and total + event < -1e-12:  # at a ReLU no more is taken back than was sent
                smaller = [a for a in levels if a <= min(level, total + 1e-12)]
                event = -smaller[0] if smaller else 0.0
            said += event / t if differential else event
            membrane = wanted - event
        decoded.view(-1)[i] = said if differential else said / T
    return decoded


def faded(z: Tensor, theta: Tensor, T: int) -> Tensor:
    """Leaky integrate-and-fire by its own recursion, decoded by weights that fade; the first quarter is not read."""
    keep = 1 - 1 / (0.7 * T)
    excess, out, weight = torch.zeros_like(z), torch.zeros_like(z), 0.0
    for t in range(1, T + 1):
        membrane = keep * excess + z
        spike = (membrane + theta / 2 >= theta) * theta
        excess = membrane - spike
        if t > T // 4:
            out, weight = out + keep ** (T - t) * spike, weight + keep ** (T - t)
    return out / weight


#: recipe -> (T, what a current z > 0 decodes to)
ORACLES = {
    "diehl": (5, steps_of(theta_itself, 1, 0.0)),
    "rueckauer": (5, steps_of(theta_itself, 1, 0.0)),
    "sengupta": (5, steps_of(theta_itself, 1, 0.0)),
    "opi": (5, steps_of(theta_itself, 1)),
    "ltb": (7, steps_of(theta_itself, 1)),
    "calibration_light": (4, steps_of(theta_itself, 1)),
    "calibration_advanced": (4, steps_of(theta_itself, 1)),
    "fading": (8, faded),
    "fading_advanced": (8, faded),
    "srp": (4, masked),
    "offset": (4, carried),
    "parallel": (6, steps_of(theta_itself, 1)),
    "wave": (16, steps_of(theta_itself, 1)),
    "wave_advanced": (16, steps_of(theta_itself, 1)),
    "bit_plane": (4, bits),
    "snm": (5, steps_of(theta_itself, 1)),
    "snm_calibrated": (5, steps_of(theta_itself, 1)),
    "spikezip": (40, lambda z, theta, T: theta / 15 * torch.floor(z * 15 / theta + 0.5).clamp(0, 15)),
    "burst_spikes": (3, steps_of(theta_itself, 5)),
    "group_neuron": (3, steps_of(lambda theta: theta / 4, 4)),
    "ecmt": (3, lambda z, theta, T: nearest_levels(z, theta, T, differential=False)),
    "dcgs": (3, lambda z, theta, T: nearest_levels(z, theta, T, differential=True)),
    "hmt": (2, steps_of(lambda theta: theta / 8, 15)),
    "cascade_mmse": (2, steps_of(lambda theta: theta / 8, 15)),
    "cascade_calibrated": (2, steps_of(lambda theta: theta / 8, 15)),
    "sigma_delta": (3, lambda z, theta, T: theta / 15 * torch.floor(z * 15 / theta + 0.5)),
    "progressive": (6, lambda z, theta, T: theta * 4.0**-T * torch.floor(z / theta * 4.0**T + 0.5)),
}


def test_every_recipe_has_an_oracle():
    assert ORACLES.keys() == RECIPES.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_one_layer_decodes_to_the_formula(name):
    recipe, (T, oracle), model, x = RECIPES[name](), ORACLES[name], layer(), vectors(0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    made = recipe(model, [vectors(1), vectors(2)], T=T)
    snn = made.snn
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    (neuron,) = snn.neurons().values()
    with torch.no_grad():
        given = snn.state_dict()
        shift, scale = (next((value for key, value in given.items() if key.endswith(name)), neutral)
                        for name, neutral in (("shift", 0.0), ("scale", 1.0)))  # fmt: skip
        weight, bias = (given.get(f"0__trained.{name}", given.get(f"0.{name}")) for name in ("weight", "bias"))
        z = nn.functional.linear(x, weight, bias) + shift
        found, expected = made(x), scale * oracle(z, neuron.threshold, T)
        if made.delay and recipe.code(T) is RATE:  # RATE: of T Y_T spikes, d Y_d came before
            early = oracle(z, neuron.threshold, made.delay)
            expected = (T * expected - made.delay * early) / (T - made.delay)
    smallest = 1e-9 * neuron.threshold.min()  # closer than this to a step of the staircase, rounding decides
    wrong = (found - expected).abs() > smallest
    assert (wrong & (z > 0)).double().mean() <= 1e-3
    assert made.latency == recipe.pre + T


@pytest.mark.parametrize("name", RECIPES)
def test_the_document_says_what_it_is_after(name):
    text = RECIPES[name].__doc__ or ""
    ours = {"snm_calibrated", "cascade_mmse", "cascade_calibrated", "fading", "progressive", "wave"}
    assert len(text) > 60
    assert name in ours or "20" in text  # a year


def deep() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).eval()


def test_networks_are_compared_beside_recipes():
    """Made by the stages of a recipe, a network scores as the recipe does."""
    model, x = deep(), vectors(5).float()
    data = [(x, model(x).argmax(1))]
    for name in ("opi", "cascade_mmse"):
        made = recipes.named(name)(model, [x], T=4)
        found = sweep(model, [name], batches=[x], data=data, T=(4,), networks={"mine": made.snn})
        ours, theirs = found.outcomes
        assert ours == attrs.evolve(theirs, recipe="mine")
    with pytest.raises(InputError, match="there is nothing to compare"):
        sweep(model, batches=[x], data=data)
    with pytest.raises(InputError, match=r"networks\['mine'\] must be a converted network"):
        sweep(model, batches=[x], data=data, networks={"mine": model})
    with pytest.raises(InputError, match="a recipe is called 'opi', too"):
        sweep(model, ["opi"], batches=[x], data=data, networks={"opi": made.snn})


def test_labelled_data_may_be_a_loader_and_networks_need_no_other():
    model, x = deep(), vectors(5).float()
    labels = model(x).argmax(1)
    snn, loader = recipes.opi()(model, [x], T=4).snn, DataLoader(TensorDataset(x, labels), batch_size=2)
    assert sweep(model, data=loader, T=(4,), networks={"mine": snn}) == sweep(
        model, data=[*loader], T=(4,), networks={"mine": snn}
    )
    with pytest.raises(InputError, match=r"data is a list or a loader of batches \(x, labels\)"):
        sweep(model, data=DataLoader(x), T=(4,), networks={"mine": snn})


def test_a_sweep_is_a_table_and_a_figure(tmp_path):
    model, x = deep(), vectors(5).float()
    data = [(x[:100], model(x[:100]).argmax(1)), (x[100:], model(x[100:]).argmax(1))]
    state = pipe(model, trace, fuse)
    before = digest(state)
    found = sweep(state, ["opi", recipes.cascade_mmse(), "parallel", "offset"], batches=[x], data=data, T=(2, 64))
    assert digest(state) == before
    assert found.ann == 100.0
    assert found.samples == 256
    by = {(o.recipe, o.T): o for o in found.outcomes}
    assert [by["opi", 2].latency, by["parallel", 2].latency, by["offset", 2].latency] == [2, 4, 10]
    assert by["cascade_mmse", 64].accuracy == 100.0
    assert by["cascade_mmse", 2].wires == 4
    assert by["opi", 64].accuracy >= 97
    assert by["opi", 64].unit == "binary"
    assert by["opi", 64].events > by["opi", 2].events > 0
    assert by["opi", 2].macs == 6 * 32 + 32 * 4  # the constant input and the readout
    text = str(found)
    assert text.count("\n") == 9
    assert "cascade_mmse" in text
    pytest.importorskip("matplotlib")
    found.plot(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 10_000


def test_bad_use_says_what_to_do():
    with pytest.raises(InputError, match="opi, ltb"):
        recipes.named("diel")
    with pytest.raises(InputError, match=r"\[\(images, labels\)\]"):
        sweep(deep(), ["opi"], batches=[vectors(0)], data=[vectors(0)])


class Inverted(nn.Module):
    """An inverted residual: what its last convolution sends is read by another as it is."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 3)
        self.widen, self.narrow = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)

    def forward(self, x):
        x = nn.functional.relu6(self.stem(x))
        for _ in range(2):
            h = nn.functional.relu6(self.depthwise(nn.functional.relu6(self.widen(x))))
            x = x + self.narrow(h)
        return self.head(nn.functional.relu(x).mean((2, 3)))


def test_linear_bottlenecks_get_neurons_where_these_have_both_signs():
    torch.manual_seed(0)
    x = torch.rand(8, 2, 6, 6)
    made = recipes.cascade_mmse()(Inverted().eval(), [x], T=2)
    (note,) = [event for event in made.snn.history if event.action == "BOTTLENECK_RULES"]
    assert note.detail == "neurons at 1 linear bottlenecks too (add, ...)"
    plain = recipes.opi()(Inverted().eval(), [x], T=2)
    assert len(made.snn.neurons()) == len(plain.snn.neurons()) + 1
    assert not [event for event in plain.snn.history if event.stage == "recipe"]
    residual = recipes.cascade_mmse()(deep(), [vectors(1)[:, :6].float()], T=2)
    assert not [event for event in residual.snn.history if event.stage == "recipe"]


def test_the_page_of_methods_has_every_recipe():
    page = (Path(__file__).parent.parent / "docs" / "methods.md").read_text()
    assert {name for name in recipes.RECIPES if f"| `{name}(" not in page} == set()
