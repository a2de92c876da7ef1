"""Networks that reach their own parts by other ways than ``self.part(x)``, all (B, 6) -> (B, 3).

Each multiplies by 3 while a ``training`` flag is up, so that a copy which is not in evaluation mode shows.
"""

import collections
import dataclasses
import functools
import types
import weakref

import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    """Two layers; ``plain`` is what all networks here compute in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def plain(self, x):
        return self.b(F.relu(self.norm(self.a(x)))) * (3.0 if self.training else 1.0)

    def forward(self, x):
        return self.plain(x)


class BoundMethod(Net):
    def __init__(self):
        super().__init__()
        self.impl = self.plain

    def forward(self, x):
        return self.impl(x)


class Partial(Net):
    def __init__(self):
        super().__init__()
        self.impl = functools.partial(Partial.scaled, self, scale=1.0)

    def scaled(self, x, scale):
        return scale * self.plain(x)

    def forward(self, x):
        return self.impl(x)


class PartialOfAMethod(BoundMethod):
    def __init__(self):
        super().__init__()
        self.impl = functools.partial(self.impl)


class Closure(BoundMethod):
    def __init__(self):
        super().__init__()
        a, norm, b = self.a, self.norm, self.b
        self.impl = lambda x: b(F.relu(norm(a(x)))) * (3.0 if norm.training else 1.0)


class ClosureOverSelf(BoundMethod):
    def __init__(self):
        super().__init__()
        self.impl = lambda x: self.plain(x)


class ClosureOverAClosure(BoundMethod):
    def __init__(self):
        super().__init__()

        def first(x):
            return self.plain(x)

        def second(x, f=first):
            return f(x)

        self.impl = functools.wraps(first)(lambda *args: second(*args))


class CallsItself(BoundMethod):
    def __init__(self):
        super().__init__()

        def impl(x, deep=2):
            return impl(x, deep - 1) if deep else self.plain(x)

        self.impl = impl


class Cached(BoundMethod):
    def __init__(self):
        super().__init__()
        self.impl = functools.lru_cache(maxsize=3)(lambda x: self.plain(x))


def in_container(wrap):
    """A network that keeps its method in a container."""

    class Contained(Net):
        def __init__(self):
            super().__init__()
            self.held = wrap(self.plain)

        def forward(self, x):
            return _first(self.held)(x)

    return Contained


def _first(held):
    while not callable(held):
        held = next(iter(held.values() if isinstance(held, collections.abc.Mapping) else held))
    return held


Pair = collections.namedtuple("Pair", "f g")


class Tagged(list):
    pass


CONTAINERS = {
    "list": lambda f: [f],
    "dict": lambda f: {"f": f},
    "tuple": lambda f: (f, 1),
    "set": lambda f: {f},
    "frozenset": lambda f: frozenset([f]),
    "namedtuple": lambda f: Pair(f, None),
    "deque": lambda f: collections.deque([f], maxlen=2),
    "OrderedDict": lambda f: collections.OrderedDict(f=f),
    "defaultdict": lambda f: collections.defaultdict(list, f=f),
    "list of one's own": lambda f: Tagged([f]),
    "UserList": lambda f: collections.UserList([f]),
    "UserDict": lambda f: collections.UserDict(f=f),
    "ChainMap": lambda f: collections.ChainMap({"f": f}),
    "nested": lambda f: {"k": [(f,)]},
    "mapping proxy": lambda f: types.MappingProxyType({"f": f}),
}


@dataclasses.dataclass
class Record:
    f: object


@dataclasses.dataclass(frozen=True)
class Frozen:
    f: object


class Slotted:
    __slots__ = ("__f",)

    def __init__(self, f):
        self.__f = f

    @property
    def f(self):
        return self.__f


class Plain:
    def __init__(self, f):
        self.f = f

    def __setattr__(self, name, value):
        super().__setattr__(name, value)

    def __deepcopy__(self, memo):
        raise RuntimeError("not this one")


HOLDERS = {
    "dataclass": Record,
    "frozen dataclass": Frozen,
    "slots": Slotted,
    "object": Plain,
    "namespace": lambda f: types.SimpleNamespace(f=f),
}


def in_holder(hold):
    class Held(Net):
        def __init__(self):
            super().__init__()
            self.held = hold(self.plain)

        def forward(self, x):
            return self.held.f(x)

    return Held


class Helper:
    """An object that is no module and has modules."""

    def __init__(self, net):
        self.net, self.parts = net, [net.a, net.norm]

    def __call__(self, x):
        x = F.relu(self.parts[1](self.parts[0](x)))
        return self.net.b(x) * (3.0 if self.net.training else 1.0)


class WithAHelper(Net):
    def __init__(self):
        super().__init__()
        self.helper = Helper(self)

    def forward(self, x):
        return self.helper(x)


class WeakReference(Net):
    def __init__(self):
        super().__init__()
        self.me, self.proxy = weakref.ref(self), [weakref.proxy(self.b)]

    def forward(self, x):
        me = self.me()
        h = F.relu(me.norm(me.a(x)))
        return F.linear(h, self.proxy[0].weight, self.proxy[0].bias) * (3.0 if me.training else 1.0)


class ModulesAsKeys(Net):
    def __init__(self):
        super().__init__()
        self.names = {self.a: "first", self.b: "last"}

    def forward(self, x):
        assert self.names[self.b] == "last"
        return self.plain(x)


class Fused(nn.Module):
    """As ``fuse()`` of object detectors leaves their blocks."""

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Linear(6, 8), nn.ReLU()
        self.forward = self.forward_fuse

    def forward(self, x):
        raise AssertionError("the instance has another forward")

    def forward_fuse(self, x):
        return self.act(self.conv(x)) * (3.0 if self.training else 1.0)


class OwnCall(Net):
    def __call__(self, x):
        return super().__call__(x / 2)

    def forward(self, x):
        return self.plain(2 * x)


class OwnCallAlone(Net):
    def __call__(self, x):
        return self.plain(x)

    def forward(self, x):
        raise AssertionError("nobody calls it")


class InnerCall(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = OwnCall()

    def forward(self, x):
        return self.net(x)


class OwnNew(Net):
    def __new__(cls, width):
        return super().__new__(cls)

    def __init__(self, width):
        super().__init__()


class WithSlots(Net):
    __slots__ = ("hidden",)

    def __init__(self):
        super().__init__()
        object.__setattr__(self, "hidden", [self.a])

    def forward(self, x):
        x = F.relu(self.norm(self.hidden[0](x)))
        return self.b(x) * (3.0 if self.training else 1.0)


class NoDeepCopy(Net):
    def __deepcopy__(self, memo):
        raise RuntimeError("not this one")

    def __reduce_ex__(self, protocol):
        raise RuntimeError("not this one")


class Delegating(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net()

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)

    def forward(self, x):
        return self.b(F.relu(self.norm(self.a(x)))) * (3.0 if self.training else 1.0)


class OwnSetattr(Net):
    def __setattr__(self, name, value):
        if name == "locked":
            raise RuntimeError("locked")
        super().__setattr__(name, value)

    @property
    def layers(self):
        return [self.a, self.norm, nn.ReLU(), self.b]

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x * (3.0 if self.training else 1.0)


class ListedModules(nn.Module):
    """Modules that ``parameters()`` does not know."""

    def __init__(self):
        super().__init__()
        self.parts = [nn.Linear(6, 8).double(), {"last": nn.Linear(8, 3).double()}]

    def forward(self, x):
        first, last = self.parts[0], self.parts[1]["last"]
        return F.linear(F.relu(first(x)), last.weight, last.bias) * (3.0 if self.training else 1.0)


class OwnEval(Net):
    """Evaluation mode is more than a flag: a low-rank part is merged into the weight."""

    def __init__(self):
        super().__init__()
        self.low, self.merged = nn.Parameter(torch.randn(8, 6)), False

    def train(self, mode=True):
        if mode == self.merged:
            self.a.weight.data += -self.low if mode else self.low
            self.merged = not mode
        return super().train(mode)


def instance_forward(attach):
    def make():
        net = Net()
        attach(net)
        return net

    return make


def _around(net):
    old = net.forward
    net.forward = lambda z: old(2 * z - 1)


def _method(net):
    net.forward = types.MethodType(lambda self, z: self.plain(z + 1), net)


def _partial(net):
    net.forward = functools.partial(Net.plain, net)


def _twice(net):
    _around(net)
    _around(net)


def hooked(register):
    def make():
        net = nn.Sequential(Net())
        register(net[0], net)
        return net

    return make


class Extractor:
    """Keeps what a layer puts out."""

    def __init__(self, net):
        self.net, self.seen = net, []

    def __call__(self, module, args, out):
        self.seen.append(out)
        return out * (3.0 if self.net.training else 1.0) + self.net[0].b.bias.sum()


def _closure_hook(net, root):
    features = []

    def hook(module, args, out):
        features.append(out)
        return out + root[0].b.weight.sum() * (3.0 if root.training else 1.0)

    net.a.register_forward_hook(hook)
    net.features = features


def _pre_hook(net, root):
    net.register_forward_pre_hook(lambda module, args: (args[0] * (3.0 if root.training else 2.0),))


def _object_hook(net, root):
    net.a.register_forward_hook(Extractor(root))


def _method_hook(net, root):
    net.a.register_forward_hook(Extractor(root).__call__)


def _partial_hook(net, root):
    net.a.register_forward_hook(functools.partial(lambda owner, module, args, out: out + owner[0].a.bias, root))


def _keyword_hook(net, root):
    net.register_forward_hook(lambda module, args, kwargs, out: out * root[0].b.bias, with_kwargs=True)


def _outermost_hook(net, root):
    root.register_forward_hook(lambda module, args, out: out + root[0].b.bias)


def _outermost_pre_hook(net, root):
    root.register_forward_pre_hook(lambda module, args: (args[0] + root[0].a.bias.sum(),))


HOOKS = (
    _closure_hook, _pre_hook, _object_hook, _method_hook, _partial_hook, _keyword_hook, _outermost_hook,
    _outermost_pre_hook,
)  # fmt: skip

#: Every network here, by name.
REACHING = (
    {
        kind.__name__: kind
        for kind in (
            BoundMethod, Partial, PartialOfAMethod, Closure, ClosureOverSelf, ClosureOverAClosure, CallsItself, Cached,
            WithAHelper, WeakReference, ModulesAsKeys, OwnCall, OwnCallAlone, InnerCall, WithSlots, NoDeepCopy,
            Delegating, OwnSetattr, ListedModules, OwnEval,
        )
    }
    | {name: in_container(wrap) for name, wrap in CONTAINERS.items()}
    | {name: in_holder(hold) for name, hold in HOLDERS.items()}
    | {f"hook{register.__name__}": hooked(register) for register in HOOKS}
    | {f"forward{attach.__name__}": instance_forward(attach) for attach in (_around, _method, _partial, _twice)}
    | {"OwnNew": lambda: OwnNew(6), "fused": lambda: nn.Sequential(Fused(), nn.Linear(8, 3))}
)  # fmt: skip
