"""The parts of a document: tables of texts and pictures, each as Markdown."""

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup, escape
from PIL import Image

from clothseg_utils.core.text import printable
from clothseg_utils.data.photos import read_photo
from clothseg_utils.pictures.style import FIGURES, OF_PHOTOS

_MAX_WIDTH_PX = 1600
_JPEG_QUALITY = 85


def to_markdown(value: Any) -> Markup:
    """Escape any text for GitHub's Markdown, table cells included; what is Markup stays.

    Signs that nobody sees, such as those that turn the direction of writing, show as their code.

    Example:
        >>> print(to_markdown("a|b <script> *c*"))
        a\\|b &lt;script&gt; \\*c\\*
    """
    if isinstance(value, Markup):
        return value
    text = printable(" ".join(str(value).split()))
    text = re.sub(r"([\\`*_{}\[\]|~#$])", r"\\\1", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # At the start of a line these would begin a list or a rule.
    return Markup(re.sub(r"^([-+=]|\d+[.)](?!\d))", lambda m: f"{m[0][:-1]}\\{m[0][-1]}", text))


@dataclass(frozen=True)
class Table:
    """A table of texts; cells that are Markup are Markdown already, such as links.

    Attributes:
        head: column titles.
        rows: one tuple of cells per row.
        text_columns: so many columns at the left hold text; the others hold numbers.
        title: says what the table shows.
        folded: shown on demand, for long tables.
        marked: index of the row that stands out; -1 for none.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1
    title: str = ""
    folded: bool = False
    marked: int = -1

    def to_markdown(self) -> Markup:
        """The table under its title."""
        rules = ["---" if i < self.text_columns else "---:" for i in range(len(self.head))]
        lines: list[list[str]] = [list(map(to_markdown, self.head)), rules]
        for index, row in enumerate(self.rows):
            cells = map(to_markdown, row)
            lines.append([f"**{c}**" if index == self.marked and c else c for c in cells])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        if self.folded:  # inside HTML, Markdown is not escaped, and an empty line ends the HTML
            title = printable(" ".join(escape(self.title).split()))
            return Markup(f"<details>\n<summary>{title}</summary>\n\n{table}\n\n</details>")
        return Markup(f"**{to_markdown(self.title)}**\n\n{table}" if self.title else table)


@dataclass(frozen=True)
class Picture:
    """A picture, encoded as the page embeds it.

    Attributes:
        file_name: name below `figures/`, beside the Markdown.
        data: bytes of a PNG or JPEG file.
        size_wh: pixels.
        alt: what is said to those who do not see it.
        caption: stands below it; may be empty.
    """

    file_name: str
    data: bytes
    size_wh: tuple[int, int]
    alt: str
    caption: str

    @property
    def data_uri(self) -> str:
        """The picture inside a URI."""
        subtype = "jpeg" if self.file_name.endswith(".jpg") else "png"
        return f"data:image/{subtype};base64,{base64.b64encode(self.data).decode()}"

    @property
    def relative_uri(self) -> str:
        """The picture's address as seen from the Markdown."""
        return f"figures/{quote(self.file_name)}"

    def to_markdown(self) -> Markup:
        """The picture, and its caption in the line below."""
        caption = to_markdown(self.caption or self.alt)
        return Markup(f"![{to_markdown(self.alt)}]({self.relative_uri})\\\n*{caption}*")


def read_picture(path: Path, alt: str = "") -> Picture:
    """Encode a figure: photos as JPEG, drawings as PNG, at most 1600 pixels wide.

    The caption is the PNG's text chunk "Description"; without `alt`, the figure's title is it.

    Raises:
        ValueError: the file cannot be decoded.
    """
    image = Image.fromarray(read_photo(path))
    with Image.open(path) as original:  # the head alone: `save_figure` puts the text before pixels
        caption = str(original.info.get("Description", ""))
    title = FIGURES.get(path.stem) or path.stem[3:].replace("_", " ").capitalize()
    of_photos = path.stem in OF_PHOTOS
    fits = image.width <= _MAX_WIDTH_PX
    if not fits:
        height = max(1, round(image.height * _MAX_WIDTH_PX / image.width))
        image = image.resize((_MAX_WIDTH_PX, height), Image.Resampling.LANCZOS)
    if fits and not of_photos:
        data = path.read_bytes()
    else:
        buffer = io.BytesIO()
        if of_photos:
            image.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
        else:
            image.save(buffer, "PNG")
        data = buffer.getvalue()
    return Picture(
        file_name=f"{path.stem}.{'jpg' if of_photos else 'png'}",
        data=data,
        size_wh=image.size,
        alt=alt or title,
        caption=" ".join(caption.split()),
    )
