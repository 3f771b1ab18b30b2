"""Where a drawing of panels side by side can be cut, so that a phone shows one below the other.

The library's figures are SVG by matplotlib, which keeps what belongs to a panel in one group. A
figure is cut where each panel has an axis of its own and nothing reaches into its neighbor; what
belongs to no panel, such as a legend for all, leaves it whole. The page is told where to cut by
``data-panels``, and ``book.js`` does it.
"""

import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

from bs4 import BeautifulSoup

SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
LINE = re.compile(r"translate\(([-\d.]+) [-\d.]+\) ?(rotate\(-90\))? ?scale\(([\d.]+) -")
LETTER = re.compile(r"translate\(([-\d.]+) ([-\d.]+)\)(?: scale\(([\d.]+)\))?")
LETTER_SCALE = 1 / 64
"""At which matplotlib sets the outlines of letters."""


def points(path: ElementTree.Element) -> list[tuple[float, float]]:
    """The points of a path, all of whose commands take such."""
    numbers = [float(number) for number in NUMBER.findall(path.get("d", ""))]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def words(panel: ElementTree.Element, outlines: dict) -> list[tuple[float, float]]:
    """From where to where, from left to right, each word of a panel is written."""
    found = []
    for group in panel.iter(f"{SVG}g"):
        line = LINE.match(group.get("transform", ""))
        along = []
        for letter in group.iter(f"{SVG}use") if line else ():
            place = LETTER.match(letter.get("transform", ""))
            x, y, size = (float(part or 1) for part in place.groups()) if place else (0, 0, 1)
            # A line that goes upward grows to the left.
            along += [
                -y - LETTER_SCALE * size * up if line[2] else x + LETTER_SCALE * size * right
                for right, up in outlines[letter.get(HREF)]
            ]
        if along:
            start, scale = float(line[1]), float(line[3])
            found.append((start + scale * min(along), start + scale * max(along)))
    return found


def lines(panel: ElementTree.Element) -> list[float]:
    """The horizontal places of a panel's lines, but for what is cut off at its frame."""
    defined = {path for defs in panel.iter(f"{SVG}defs") for path in defs}
    paths = [p for p in panel.iter(f"{SVG}path") if "clip-path" not in p.attrib]
    return [x for path in paths if path not in defined for x, _ in points(path)]


def cuts(svg: str) -> list[float]:
    """Where a figure is cut, from its left edge to its right, in shares of its width, if it can be.

    Returns:
        One more than there are panels; none where the figure stays whole.
    """
    root = ElementTree.fromstring(svg)
    figure = root.find(f"{SVG}g")
    if figure is None or "viewBox" not in root.attrib:
        return []
    width = float(root.attrib["viewBox"].split()[2])
    defined = root.iterfind(f".//{SVG}defs/{SVG}path")
    outlines = {f"#{path.get('id')}": points(path) for path in defined}
    panels, bottoms = [], set()
    for part in figure:
        name, frame = part.get("id", ""), part.find(f"{SVG}g/{SVG}path")
        if name.startswith("axes") and frame is not None:
            (left, bottom), *_ = points(frame)
            written = words(part, outlines)
            reach = [*lines(part), *(x for word in written for x in word)]
            numbered = any(end <= left for _, end in written)
            panels.append((min(reach), max(reach), numbered))
            bottoms.add(bottom)
        elif not name.startswith("patch"):
            return []
    panels.sort()
    if len(panels) < 2 or len(bottoms) > 1 or not all(numbered for _, _, numbered in panels):
        return []
    gaps = [(one[1], other[0]) for one, other in pairwise(panels)]
    if any(end > start for end, start in gaps):
        return []
    return [0.0, *((end + start) / 2 / width for end, start in gaps), 1.0]


def mark_panels(app, pagename, templatename, context, doctree):
    """Tell where the figures of a page can be cut."""
    if doctree is None or ".svg" not in context.get("body", ""):
        return
    sources = {name: Path(app.srcdir, source) for source, name in app.builder.images.items()}
    page = BeautifulSoup(context["body"], "html.parser")
    for image in page.select("figure > img[src$='.svg']"):
        source = sources.get(image["src"].rsplit("/", 1)[-1])
        if source and not image.find_parent(class_="drawn-figure"):
            found = cuts(source.read_text(encoding="utf-8"))
            if found:
                image["data-panels"] = " ".join(f"{edge:.4f}" for edge in found)
    context["body"] = str(page)


def register(app):
    """Register the cuts."""
    app.connect("html-page-context", mark_panels)
