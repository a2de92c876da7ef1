"""What is installed and shipped: the torch it needs, the Pythons it claims, the files a source distribution holds."""

import ast
import fnmatch
import importlib
import re
import sys
from functools import reduce
from pathlib import Path

import pytest
import torch

import snnpipe

PACKAGE = Path(snnpipe.__file__).parent
ROOT = PACKAGE.parent


def torch_names(text):
    """The dotted names of torch that a file imports or reads."""
    known, found = {}, set()
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {each.asname or "torch": each.name if each.asname else "torch" for each in node.names
                      if each.name.split(".")[0] == "torch"}  # fmt: skip
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            known |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    for node in ast.walk(tree):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id in known:
            found.add(".".join([known[node.id], *reversed(parts)]))
    return found | set(known.values())


def has(name):
    """Whether this torch has it."""
    try:
        reduce(getattr, name.split(".")[1:], torch)
    except AttributeError:
        module, _, rest = name.rpartition(".")
        try:
            return hasattr(importlib.import_module(module), rest)
        except ImportError:
            return False
    return True


def test_this_torch_has_every_name_the_package_uses():
    """What fails first, and says why, on a torch that is too old, or so new that something is gone."""
    names = set().union(*(torch_names(file.read_text(encoding="utf-8")) for file in PACKAGE.rglob("*.py")))
    assert {"torch.export.ExportedProgram", "torch._ops.OpOverload", "torch.nn.functional.relu"} <= names
    missing = sorted(name for name in names if not has(name))
    assert not missing, f"torch {torch.__version__} lacks them; snnpipe needs torch 2.6 or newer"


def test_a_missing_name_is_found():
    lines = (
        "import torch",
        "import torch.nn.functional as F",
        "from torch._ops import Gone as G",
        "F.gone(torch.gone)",
    )
    text = "\n".join(lines)
    names = torch_names(text)
    assert {name for name in names if not has(name)} == {"torch.nn.functional.gone", "torch._ops.Gone", "torch.gone"}


def project():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_pythons_are_named():
    versions = [c.rpartition(" :: ")[2] for c in project()["project"]["classifiers"] if "Python :: 3." in c]
    assert versions == ["3.10", "3.11", "3.12", "3.13"]
    assert project()["project"]["requires-python"] == ">=" + versions[0]
    assert sys.version_info[:2] >= (3, 10)


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_the_package_is_written_for_the_oldest_python(file):
    ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 10))


def test_a_source_distribution_holds_what_its_tests_need():
    """setuptools takes the package, README and LICENSE by itself; MANIFEST.in names the rest."""
    lines = [line.split() for line in (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines()]
    grafted = {name for command, *names in lines if command == "graft" for name in names}
    included = {name for command, *names in lines if command == "include" for name in names}
    excluded = [name for command, *names in lines if command == "global-exclude" for name in names]
    wanted = set(project()["tool"]["pytest"]["ini_options"]["testpaths"])
    assert wanted <= grafted | {"snnpipe", "README.md"}
    assert "CHANGELOG.md" in included
    assert all((ROOT / name).exists() for name in grafted | included)
    files = (each for name in grafted for each in (ROOT / name).rglob("*") if "__pycache__" not in each.parts)
    assert not [each for each in files if any(fnmatch.fnmatch(each.name, pattern) for pattern in excluded)]


def test_messages_name_no_package_that_a_clone_cannot_install():
    """snnpipe[demo] by that name is found by whoever installed it from an index, and by nobody else."""
    texts = [file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py")]
    assert not [text for text in texts if re.search(r"pip install [\"']?snnpipe", text)]
