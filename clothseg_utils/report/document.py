"""One Markdown template with its tables and pictures -> a document, and a page made from it.

The template holds the prose and the order; what it shows is kept, for those who write the pictures
and the tables as files of their own. The page is made from the Markdown alone, so both say the
same; only where pictures lie differs.
"""

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mistune
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from clothseg_utils.core.files import write_text
from clothseg_utils.core.markdown import to_markdown
from clothseg_utils.report.parts import Picture, Table


class Document:
    """A document under way.

    Attributes:
        markdown: the whole text; empty before `render`.
        tables: those that it shows, in order.
        pictures: those that it shows: address in the Markdown -> picture.
    """

    def __init__(self) -> None:
        self.markdown = ""
        self.tables: list[Table] = []
        self.pictures: dict[str, Picture] = {}

    def render(self, template: str, **content: Any) -> str:
        """Fill in a Markdown template; a line of links to its chapters stands before the first.

        Args:
            template: below `templates/`. Every value in it is escaped for Markdown, whatever it
                holds; `table` and `picture` lay such parts out, `line` lets one line stand as it
                is.
            content: its variables.
        """
        environment = _environment(finalize=to_markdown)
        environment.globals |= {"table": self._table, "picture": self._picture, "line": _line}
        text = environment.get_template(template).render(content)
        head, *chapters = _split(text)
        links = [f"[{title}](#{_anchor(title)})" for title, _ in map(_title_and_text, chapters)]
        text = f"{head}\n\n**Contents:** {' · '.join(links)}\n\n{''.join(chapters)}"
        self.markdown = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
        return self.markdown

    def page(self, *, opened: int = 0) -> str:
        """One self-contained HTML page of chapters that fold; so many are open at first."""
        to_html = mistune.create_markdown(renderer=_Renderer(self.pictures), plugins=["table"])
        head, *chapters = _split(self.markdown)
        parts = [
            {"title": title, "anchor": _anchor(title), "content": Markup(to_html(text))}
            for title, text in map(_title_and_text, chapters)
        ]
        title = Markup(re.sub(r"\\(.)", r"\1", head.partition("\n")[0].removeprefix("# ")))
        template = _environment().get_template("page.html.j2")
        return template.render(
            title=title, head=Markup(to_html(head)), chapters=parts, opened=opened
        )

    def _table(self, table: Table) -> Markup:
        self.tables.append(table)
        return table.to_markdown()

    def _picture(self, picture: Picture) -> Markup:
        self.pictures[picture.relative_uri] = picture
        return picture.to_markdown()


def write_page(path: str | Path, template: str, **content: Any) -> None:
    """Write a page from a template (see `Document.render`); its first chapter is open."""
    document = Document()
    document.render(template, **content)
    write_text(path, document.page(opened=1))


def command_lines(words: Sequence[str]) -> list[str]:
    """A command to copy, one option per line."""
    lines: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(word)
    joined = [("    " if number else "") + shlex.join(line) for number, line in enumerate(lines)]
    return [f"{line} \\" for line in joined[:-1]] + joined[-1:]


def _environment(finalize: Callable[[Any], Any] | None = None) -> Environment:
    return Environment(
        loader=PackageLoader("clothseg_utils.report"),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _line(text: str) -> Markup:
    """One line of code, which is not escaped in Markdown."""
    return Markup(" ".join(text.splitlines()))


def _split(markdown: str) -> list[str]:
    """What comes before the first chapter, and each chapter."""
    return re.split(r"^(?=## )", markdown, flags=re.MULTILINE)


def _title_and_text(chapter: str) -> tuple[str, str]:
    title, _, text = chapter.removeprefix("## ").partition("\n")
    return title, text


def _anchor(title: str) -> str:
    """Id of a chapter, as GitHub makes it from the title."""
    return title.lower().replace(" ", "-")


class _Renderer(mistune.HTMLRenderer):
    """HTML of our Markdown, in which text is escaped already and tags are the template's own."""

    def __init__(self, pictures: dict[str, Picture]) -> None:
        super().__init__(escape=False)
        self._pictures = pictures

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """A picture, embedded with its size."""
        picture = self._pictures[url]
        width, height = picture.size_wh
        sized = f'<img width="{width}" height="{height}" style="--drawn: {width}px"'
        return super().image(text, picture.data_uri).replace("<img", sized, 1)

    def paragraph(self, text: str) -> str:
        """A picture and its caption as a figure; else a paragraph."""
        found = re.fullmatch(r'(<img.*? alt="(.*?)"[^>]*>)<br />\s*<em>(.*)</em>', text, re.DOTALL)
        if not found:
            return super().paragraph(text)
        image, alt, caption = found.groups()
        kind = ' class="photos"' if "data:image/jpeg" in image else ""
        box = _box(image, alt)
        return f"<figure{kind}>{box}<figcaption>{caption}</figcaption></figure>\n"

    def table(self, text: str) -> str:
        """A table that scrolls inside its own box."""
        return _box(f"<table>{text}</table>", "table")


def _box(content: str, name: str) -> str:
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{name}">{content}</div>\n'
