"""Running lines of the command line in this process, in a folder with modules of the user's own."""

import sys
from contextlib import contextmanager

from snnpipe import cli

MODEL = '''
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def net():
    print("said by the user's module")
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * 9, 3)).eval()


class Branches(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


class Sized(nn.Module):
    def forward(self, x):
        return torch.relu(x[:, :len(x)])


class Wide(nn.Module):
    def __init__(self, width):
        super().__init__()


def sigmoids():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 4), nn.ReLU())


def images():
    return torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def vectors():
    return [torch.rand(8, 4)]


def batches():
    return list(images().split(8))


def whole():
    return [images()]


def labelled():
    return DataLoader(TensorDataset(images(), torch.arange(32) % 3), batch_size=8)


def others():
    return [(images().flip(3), torch.arange(32) % 3)]


def generated():
    yield from batches()


def nothing():
    return []


def one_tensor():
    return images()


def number():
    return 3


def interrupted():
    yield images()[:8]
    raise KeyboardInterrupt


def failing():
    yield images()[:8]
    raise KeyError("no such file of mine")


def broken():
    try:
        return {}["weights"]
    except KeyError as error:
        raise RuntimeError("the weights are gone") from error


def saved():
    raise FileNotFoundError("weights.pt")


def ends():
    raise SystemExit(0)


def rule(x):
    return x


a_number = 3
an_instance = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
'''


@contextmanager
def folder(path, monkeypatch):
    """A current folder with ``mymodel.py`` in it; what it imported is forgotten afterwards."""
    monkeypatch.chdir(path)
    (path / "mymodel.py").write_text(MODEL)
    before = set(sys.modules)
    try:
        yield path
    finally:
        for name in set(sys.modules) - before:
            if getattr(sys.modules[name], "__file__", None) and str(path) in str(sys.modules[name].__file__):
                del sys.modules[name]


class Line:
    """Runs a line; knows what it said."""

    def __init__(self, capsys):
        self.capsys = capsys

    def __call__(self, line, *more):
        self.status = cli.main([*line.split(), *more])
        self.out, self.err = self.capsys.readouterr()
        return self.status
