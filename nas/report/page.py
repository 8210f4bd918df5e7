"""One HTML page that needs nothing else: markup from Python values, with style and script in the same file.

Whatever is not `Html` is text, and escaped: names of files, classes and flags come from users.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.resources import files

#: No address is ever loaded, whatever a page holds; style and script are those in it.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_NOTES = 12
_VOID = frozenset({"meta", "input", "br", "img"})


class Html(str):
    """Markup, which is put into a page as it is."""

    __slots__ = ()


def markup(content: object) -> Html:
    """Markup as it is, nothing for None, and anything else as escaped text."""
    if isinstance(content, Html):
        return content
    return Html("" if content is None else html.escape(str(content)))


def join(contents: Iterable[object]) -> Html:
    """Several contents, one after another."""
    return Html("".join(map(markup, contents)))


def element(name: str, /, *contents: object, **attributes: str | int | bool | None) -> Html:
    """An element with its contents.

    Attributes are written with underscores for hyphens, and with one behind a name that Python has (`class_`). True is
    an attribute without a value; False and None leave it out.
    """
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{given}>" if name in _VOID else f"<{name}{given}>{join(contents)}</{name}>")


def data(identifier: str, value: object) -> Html:
    """JSON for the page's script."""
    # In a script only its end tag means anything, and a comment's beginning.
    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return Html(f'<script type="application/json" id="{html.escape(identifier)}">{text}</script>')


def table(
    caption: object,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Collection[int] = (),
    foot: int = 0,
) -> Html:
    """A table whose first column names its rows.

    Args:
        caption: what it shows.
        columns: their names.
        rows: as many contents each; the name of the row first.
        right: the columns of numbers, which stand to the right.
        foot: so many of the last rows are sums.
    """
    lines = list(rows)
    classes = ["number" if c in right else None for c in range(len(columns))]
    head = element("tr", *(element("th", n, scope="col", class_=c) for n, c in zip(columns, classes, strict=True)))
    shown = [
        element(
            "tr",
            element("th", number(line[0]), scope="row"),
            *(element("td", number(cell), class_=c) for cell, c in zip(line[1:], classes[1:], strict=True)),
        )
        for line in lines
    ]
    split = len(shown) - foot
    return scrolled(
        element(
            "table",
            named(caption),
            element("thead", head),
            element("tbody", *shown[:split]),
            element("tfoot", *shown[split:]) if foot else None,
        )
    )


def named(caption: object) -> Html:
    """The caption of a table, which stays in sight where the table is scrolled."""
    return element("caption", element("span", caption))


def scrolled(content: Html) -> Html:
    """Content that is wider than a small screen, and is moved in a frame of its own, by the keyboard too."""
    return element("div", content, class_="wide", tabindex=0)


def number(value: object) -> object:
    """Whole numbers with commas, others with four digits or more; anything else as it is."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return value


def facts(pairs: Mapping[str, object]) -> Html:
    """Names with their values; those that are None are left out."""
    known = {name: value for name, value in pairs.items() if value is not None}
    return element(
        "dl", *(element("div", element("dt", n), element("dd", number(v))) for n, v in known.items()), class_="facts"
    )


def section(title: str, *contents: object) -> Html:
    """A part of the page; nothing where it has no contents."""
    shown = [markup(content) for content in contents]
    return element("section", element("h2", title), *shown) if any(shown) else Html("")


def folded(summary: object, *contents: object) -> Html:
    """What is shown on a click."""
    return element("details", element("summary", summary), *contents)


def figure(picture: Html, caption: object, *, class_: str | None = None) -> Html:
    """A picture with what it shows."""
    return element("figure", element("figcaption", caption), picture, class_=class_)


def notes(texts: Sequence[str]) -> Html:
    """What is missing or wrong; nothing if nothing is, and a number for what would fill the page."""
    if not texts:
        return Html("")
    more = len(texts) - _NOTES
    shown = [*texts[:_NOTES], *([f"and {more} more"] if more > 0 else [])]
    return element("ul", *(element("li", text) for text in shown), class_="notes")


def page(title: str, kind: str, *contents: object, styles: str = "") -> str:
    """A whole page.

    Args:
        title: what it shows.
        kind: what that is, above the title.
        contents: its sections.
        styles: rules besides those of every page.
    """
    shown = join([element("header", element("p", kind), element("h1", title)), element("main", *contents)])
    shown, drawn = _shared_styles(shown)
    own = files("nas.report")
    style, script = (own.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} \N{EN DASH} {kind}"),
        element("style", Html(style + styles + drawn)),
    )
    body = element("body", shown, element("script", Html(script)))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _shared_styles(shown: Html) -> tuple[Html, str]:
    """The same with classes for the styles of its elements, which pictures repeat a thousand times, and their rules."""
    names: dict[str, str] = {}

    def shared(style: re.Match[str]) -> str:
        return f'class="{names.setdefault(html.unescape(style[1]), f"s{len(names)}")}"'

    # In a tag alone: a text may read like one.
    short = re.sub(r"<[^>]*>", lambda tag: re.sub(r'\bstyle="([^"]*)"', shared, tag[0]), shown)
    return Html(short), "".join(f".{name}{{{style}}}" for style, name in names.items())
