"""Which names of the ANN a ``GraphModule`` can hold and print, and what the others are called there."""

from __future__ import annotations

import keyword

from torch import fx, nn
from torch.fx.graph import _custom_builtins

from snnpipe.graph import unique_name

#: Names that an argument of ``forward`` would hide from the rest of the code.
_GLOBALS = frozenset({"self", "getattr", "slice", "range", *_custom_builtins})
_OF_MODULES = frozenset(dir(nn.Module()))
_OF_GRAPH_MODULES = frozenset(dir(fx.GraphModule({}, fx.Graph())))


def safe_paths(root: nn.Module) -> dict[str, str]:
    """The paths of all that a module tree holds, as a ``GraphModule`` can hold and print them.

    Each is itself, but for names that are Python's (``lambda``), that cannot be quoted, or that ``GraphModule`` (at the
    top) or ``Module`` (below) has taken: they get a ``_``.

    >>> tree = nn.Module()
    >>> tree.code = nn.Linear(1, 1)
    >>> safe_paths(tree)
    {'code': 'code_', 'code.weight': 'code_.weight', 'code.bias': 'code_.bias'}
    """
    safe = {"": ""}
    for path, module in root.named_modules(remove_duplicate=False):
        own = (module._modules, module._parameters, module._buffers)
        names = [name for kept in own for name, value in kept.items() if value is not None]
        taken = {*names, *(_OF_MODULES if path else _OF_GRAPH_MODULES)}
        for name in names:
            chosen = name
            if name in (_OF_MODULES if path else _OF_GRAPH_MODULES) or not _is_printable(name):
                chosen = unique_name("".join(c if c.isalnum() else "_" for c in name) + "_", taken)
                taken.add(chosen)
            safe[_joined(path, name)] = _joined(safe[path], chosen)
    del safe[""]
    return safe


def safe_argument(name: str) -> str:
    """What an argument of ``forward`` is called in a ``GraphModule``.

    >>> safe_argument("x"), safe_argument("torch")
    ('x', 'torch_')
    """
    return f"{name}_" if name in _GLOBALS else name


def _is_printable(name: str) -> bool:
    return name.isprintable() and not keyword.iskeyword(name) and not set(name) & set('"\\{}')


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
