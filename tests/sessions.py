"""Sessions at a terminal, as pages show them, done again and held against what the page says.

In a page, a fenced block that begins with ``# name`` is a file, a block ``diff`` that begins with ``--- name`` changes
one, and a block ``console`` holds lines after ``$`` and what they say.  Known are ``snnpipe``, ``python``, ``cat``,
``ls`` and ``echo $?``.
"""

import doctest
import importlib
import os
import re
import runpy
import shlex
import sys
from pathlib import Path

from snnpipe import cli

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_BLOCK = re.compile(r"^```(python|toml|diff|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def replay(text, capsys):
    """Do what a page does, in the current folder; the lines that were run."""
    status, ran = 0, []
    for kind, block in _BLOCK.findall(text):
        head, _, rest = block.partition("\n")
        if kind in ("python", "toml") and re.fullmatch(r"# \w+\.\w+", head):
            _write(head[2:], block)
        elif kind == "diff":
            _write(head[4:], _changed(Path(head[4:]).read_text(), rest))
        elif kind == "console":
            for line, wanted in _lines(block):
                status, said = _run(line, status, capsys)
                ran.append(line)
                assert doctest.OutputChecker().check_output(wanted, said, FLAGS), f"$ {line}\n{said}\nwanted:\n{wanted}"
    return ran


def _write(name, text):
    Path(name).write_text(text)
    sys.modules.pop(Path(name).stem, None)
    importlib.invalidate_caches()


def _changed(text, change):
    """A text with the lines after ``-`` taken out, and those after ``+`` in their place."""
    old, new = ("".join(f"{each[1:]}\n" for each in change.splitlines() if each[0] == sign) for sign in "-+")
    assert text.count(old) == 1, old
    return text.replace(old, new)


def _lines(block):
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, _, said = re.sub(r"\\\n(> )?\s*", "", part).partition("\n")
        yield line, said


def _run(line, status, capsys):
    words = shlex.split(line)
    if words[0] == "echo":
        return 0, f"{status}\n"
    if words[0] == "cat":
        return 0, Path(words[1]).read_text()
    if words[0] == "ls":
        return 0, "".join(f"{each}\n" for each in sorted(os.listdir()) if each != "__pycache__")
    if words[0] == "snnpipe":
        status = cli.main(words[1:])
    else:
        assert words[0] == "python", line
        runpy.run_path(words[1], run_name="__main__")
        status = 0
    said = capsys.readouterr()
    bars = re.compile(r"[^\n\r]*\r")  # of progress, which a terminal writes over
    return status, said.out + bars.sub("", said.err)
