"""How a page looks: light and dark, narrow and wide, on a screen or paper.  No font, picture or script is fetched.

A piece of a page, in a notebook, takes the colours of what is around it, and its own are told apart on light and dark.
"""

from __future__ import annotations

from snnpipe.markup.tags import Markup, joined, tag

# The colours of Okabe and Ito 2008, "Color universal design", made lighter or darker for contrast.
_PIECE = """
.snnpipe{--a:#2a86c9;--b:#d0611a;--c:#159a72;--line:rgba(128,128,128,.4);--soft:rgba(128,128,128,.12);
line-height:1.45;font-family:system-ui,sans-serif}
.snnpipe *{box-sizing:border-box}
.snnpipe .wide{overflow-x:auto;max-width:100%}
.snnpipe table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.3em 0}
.snnpipe th,.snnpipe td{padding:.2em .7em;text-align:left;vertical-align:top;border-bottom:1px solid var(--line);
font-weight:normal;background:none;color:inherit;white-space:nowrap}
.snnpipe td.wrap{white-space:normal;min-width:16em}
.snnpipe thead th{white-space:normal;vertical-align:bottom}
.snnpipe thead th,.snnpipe tr.strong th,.snnpipe tr.strong td{font-weight:600}
.snnpipe .n{text-align:right}
.snnpipe pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--soft);padding:.6em .8em;border-radius:4px;
color:inherit;font-size:.9em}
.snnpipe .note{opacity:.8;font-size:.92em;overflow-wrap:anywhere;max-width:75ch}
.snnpipe summary{cursor:pointer;padding:.15em 0}
.snnpipe details>details,.snnpipe details>.leaf{margin-left:1.1em}
.snnpipe :focus-visible{outline:2px solid var(--a);outline-offset:2px}
.snnpipe .bars{display:grid;gap:.25em;max-width:60em}
.snnpipe .row{display:grid;grid-template-columns:minmax(6em,14em) 1fr minmax(6em,15em);gap:.6em;align-items:center}
.snnpipe .name{overflow-wrap:anywhere}
.snnpipe .track{background:var(--soft);border-radius:3px;height:1em;display:block}
.snnpipe .bar{display:block;height:1em;min-width:2px;border-radius:3px;background:var(--a)}
.snnpipe .bar.b,.snnpipe .dot.b{background:var(--b)}.snnpipe .bar.c{background:var(--c)}
.snnpipe .track.columns{display:flex;align-items:flex-end;gap:1px;height:2em}
.snnpipe .columns span{flex:1;background:var(--a)}.snnpipe .columns span.b{background:var(--b)}
.snnpipe .words{font-variant-numeric:tabular-nums}
.snnpipe figure{margin:.5em 0;max-width:40em}
.snnpipe figure svg{width:100%;height:auto;display:block;font-size:14px}
.snnpipe svg text{fill:currentColor}
.snnpipe svg .grid{stroke:var(--line);stroke-width:1}
.snnpipe svg .cells{stroke:var(--a);fill:none;shape-rendering:crispEdges}
.snnpipe svg .level{stroke:currentColor;stroke-width:1.5;stroke-dasharray:6 4}
.snnpipe svg .line{fill:none;stroke:var(--a);stroke-width:2.5}
.snnpipe svg .line.b{stroke:var(--b)}.snnpipe svg .line.c{stroke:var(--c)}
.snnpipe svg .band{fill:var(--a);opacity:.2}.snnpipe svg .band.b{fill:var(--b)}.snnpipe svg .band.c{fill:var(--c)}
.snnpipe svg circle{fill:var(--a)}.snnpipe svg circle.b{fill:var(--b)}.snnpipe svg circle.c{fill:var(--c)}
.snnpipe .many{display:grid;grid-template-columns:repeat(auto-fill,minmax(13em,1fr));gap:.8em}
.snnpipe .many figure{margin:0;max-width:20em}.snnpipe .many figure svg{font-size:12px}
.snnpipe .many figcaption{overflow-wrap:anywhere;margin-top:0}
.snnpipe figcaption{display:flex;flex-wrap:wrap;gap:.2em 1.4em;font-size:.92em}
.snnpipe figcaption span{display:inline-flex;align-items:center;gap:.45em}
.snnpipe figure svg.key{width:28px;height:12px}
.snnpipe .up{font-size:.92em;opacity:.85}
.snnpipe .heat{display:inline-block;width:4em;height:.8em;margin:0 .5em;background:var(--soft);border-radius:3px}
.snnpipe .heat .bar{height:.8em}
@media (max-width:34em){.snnpipe figure svg{font-size:18px}
.snnpipe .bars{gap:.6em}.snnpipe .row{gap:.1em .6em}
.snnpipe .row{grid-template-columns:1fr auto}
.snnpipe .row .track{grid-column:1/3;grid-row:2}}
"""

_PAGE = """
:root{color-scheme:light dark}
body{margin:0;background:#fff;color:#1b1b1b}
main.snnpipe{--a:#0072b2;--b:#b84a00;--c:#00775a;--line:#c9c9c9;--soft:#f1f2f3;max-width:72em;margin:0 auto;
padding:1em clamp(.8em,3vw,2em) 3em}
main.snnpipe h1{font-size:1.5em;margin:.4em 0;overflow-wrap:anywhere}
main.snnpipe h2{font-size:1.2em;margin:0;display:inline}
main.snnpipe section{margin:1.4em 0}
main.snnpipe section>details>summary{border-bottom:1px solid var(--line);padding:.3em 0;margin-bottom:.6em}
nav{display:flex;flex-wrap:wrap;gap:.2em 1em}
a{color:var(--a)}
@media (prefers-color-scheme:dark){body{background:#15181b;color:#e7e7e7}
main.snnpipe{--a:#5cb8ec;--b:#f2935a;--c:#4fcba2;--line:#41474d;--soft:#22272b}}
@media print{main.snnpipe{max-width:none}}
"""


def piece(*inside: str) -> str:
    """A piece of a page for a notebook, with its style."""
    return str(tag("div", tag("style", Markup(_PIECE)), *inside, class_="snnpipe"))


def page(title: str, *inside: str) -> str:
    """A whole page that needs nothing else."""
    head = [
        tag("meta", charset="utf-8"), tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title), tag("style", Markup(_PIECE + _PAGE)),
    ]  # fmt: skip
    body = tag("body", tag("main", *inside, class_="snnpipe"))
    return "<!DOCTYPE html>\n" + joined(Markup('<html lang="en">'), tag("head", *head), body, Markup("</html>\n"))
