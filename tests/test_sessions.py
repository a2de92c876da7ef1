"""The pages that show a terminal say what happens there."""

from pathlib import Path

import pytest

from tests.lines import folder
from tests.sessions import replay

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def here(tmp_path, monkeypatch):
    with folder(tmp_path, monkeypatch) as path:
        (path / "mymodel.py").unlink()
        yield path


# what a warning says is the page's to show
@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.parametrize(("page", "needs"), [("cli.md", "numpy"), ("quickstart.md", "sklearn")])
def test_a_page(page, needs, here, capsys):
    pytest.importorskip(needs)
    ran = replay((DOCS / page).read_text(), capsys)
    assert len(ran) >= 8


def test_a_session_that_says_something_else_is_found(here, capsys):
    page = "```python\n# mymodel.py\nnumber = 3\n```\n```console\n$ cat mymodel.py\n# mymodel.py\nnumber = {}\n```\n"
    assert replay(page.format(3), capsys) == ["cat mymodel.py"]
    with pytest.raises(AssertionError, match="wanted"):
        replay(page.format(4), capsys)
    status = "```console\n$ snnpipe chekc\n...\n$ echo $?\n{}\n```\n"
    assert len(replay(status.format(2), capsys)) == 2
    with pytest.raises(AssertionError, match="wanted"):
        replay(status.format(0), capsys)


def test_a_change_is_made_once(here, capsys):
    page = "```python\n# mymodel.py\na = 1\nb = 2\n```\n```diff\n--- mymodel.py\n-a = 1\n+a = 3\n```\n"
    replay(page, capsys)
    assert (here / "mymodel.py").read_text() == "# mymodel.py\na = 3\nb = 2\n"
    with pytest.raises(AssertionError):
        replay(page.replace("-a = 1", "-c = 1"), capsys)
