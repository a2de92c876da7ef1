"""The shape of the package: one-way imports, small files, documented names, no loose ends."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import snnpipe

PACKAGE = Path(snnpipe.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
EDGE = {"snnpipe.cli", "snnpipe.demo", "snnpipe.__main__"}  # programs: they may print, and nothing imports them

#: Layers from the bottom up; a module imports from its own layer or from those before it.
LAYERS = (
    ("errors", "frozen", "containers", "text", "checks", "options", "markup"),
    ("graph", "codes", "names", "waves", "sharing"),
    ("kernels",),
    ("ops",),
    ("frontend", "emit", "generated"),
    ("state", "rewrite"),
    ("rules",),
    ("stage",),
    ("runtime",),
    ("stages",),
    ("recipe",),
    ("recipes", "embedding", "language"),
    ("analysis", "exchange"),
    ("",),
    ("demo",),
    ("commands",),
    ("cli", "__main__"),
)


def module_name(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file):
    """The snnpipe modules a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in names if name in MODULES} or {node.module}
    return {name for name in found if name.partition(".")[0] == "snnpipe"}


MODULES = {module_name(file): file for file in FILES}


def layer(name):
    """The height of a module."""
    part = name.split(".")[1] if "." in name else ""
    return next((height for height, group in enumerate(LAYERS) if part in group), None)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_one_way(name):
    assert layer(name) is not None, f"{name} has no layer: add it to LAYERS"
    upward = {other for other in imports(MODULES[name]) if layer(other) > layer(name)}
    assert not upward, f"{name} imports from above: {sorted(upward)}"


def test_imports_have_no_cycle():
    edges = {name: imports(file) & MODULES.keys() for name, file in MODULES.items()}
    while edges:
        free = {name for name, others in edges.items() if not others & edges.keys()}
        assert free, f"cycle among {sorted(edges)}"
        edges = {name: others for name, others in edges.items() if name not in free}


def test_the_direction_check_can_fail(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from snnpipe.stages import trace\n")
    assert max(map(layer, imports(wrong))) > layer("snnpipe.graph")


def calls(file):
    """What a file calls and imports, as dotted names."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.name for alias in node.names)
            yield getattr(node, "module", None) or ""


FORBIDDEN = {"print", "deepcopy", "copy.deepcopy", "logging", "input", "breakpoint", "pdb"}


SILENCES = {"snnpipe.frontend.quiet"}  # torch's loggers; it logs nothing itself


@pytest.mark.parametrize("name", sorted(MODULES.keys() - EDGE - SILENCES))
def test_no_printing_logging_or_deep_copies(name):
    assert not FORBIDDEN & set(calls(MODULES[name]))


@pytest.mark.parametrize("name", MODULES)
def test_files_are_short_and_say_what_they_know(name):
    text = MODULES[name].read_text()
    assert text.count("\n") <= 350
    assert ast.get_docstring(ast.parse(text)), f"{name} has no docstring"


def test_the_median_file_is_short():
    lengths = sorted(file.read_text().count("\n") for file in FILES if file.name != "__init__.py")
    assert lengths[len(lengths) // 2] <= 120


def test_asserts_do_not_check_users_input():
    """An assert narrows a type; it carries no message for a user."""
    found = [
        f"{name}:{node.lineno}"
        for name, file in MODULES.items()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Assert) and node.msg is not None
    ]
    assert not found


def test_public_names_have_docstrings():
    values = {name: getattr(snnpipe, name) for name in snnpipe.__all__}
    described = [name for name, value in values.items() if isinstance(value, snnpipe.Code)]  # have #:
    assert not [name for name, value in values.items() if name not in described and not (value.__doc__ or "").strip()]


def test_public_names_are_documented():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    text = "\n".join(page.read_text() for page in pages if page.exists())
    missing = [name for name in snnpipe.__all__ if not re.search(rf"\b{name}\b", text)]
    assert not missing, "neither in README.md nor in docs/"


def test_all_is_complete_and_sorted_without_repetition():
    assert len(set(snnpipe.__all__)) == len(snnpipe.__all__)
    public = {name for name in vars(snnpipe) if not name.startswith("_")}
    modules = {name for name in public if inspect.ismodule(getattr(snnpipe, name))}
    assert public - modules == set(snnpipe.__all__) - {"recipes"}


def test_import_is_light():
    heavy = ("sklearn", "matplotlib", "torchvision", "scipy", "pandas", "hypothesis", "torch._inductor.compile_fx")
    code = f"import sys, snnpipe; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed").exists()
