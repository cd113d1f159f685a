"""The code that a set of imports reaches inside the package, as one hash."""

import ast
import functools
import hashlib
import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from clothseg_utils.core.files import sha256_file, sha256_json

_PACKAGE_DIR = Path(__file__).resolve().parent.parent


def code_hash(imports: Iterable[str], *, without: Collection[str] = ()) -> str:
    """SHA-256 over the package's files that some imports reach.

    Import statements are read, never run, those inside functions too. Each reached module brings
    the `__init__` of its folder, and what else the folder holds, such as templates. The package's
    own `__init__` only offers names: it counts where one of them is imported from it.

    Args:
        imports: dotted names, of this package or not, as `notebook_imports` yields them.
        without: modules and folders that are neither counted nor followed.

    Example:
        >>> code_hash(["clothseg_utils.core.text"]) == code_hash(["numpy"])
        False
        >>> code_hash(["clothseg_utils.core.text.count_text"]) == code_hash(
        ...     ["clothseg_utils.core.text"]
        ... )
        True
    """
    skipped = [_PACKAGE_DIR.joinpath(*name.split(".")[1:]) for name in without]
    digests: dict[Path, str] = {}
    waiting = list(imports)
    while waiting:
        for path in _files_of(waiting.pop()):
            parents = (path.with_suffix(""), *path.parents)
            if path not in digests and not any(parent in skipped for parent in parents):
                source = path.read_text(encoding="utf-8")
                digests[path] = hashlib.sha256(source.encode()).hexdigest()
                waiting += _imports(source)
    for folder in {path.parent for path in digests}:
        digests |= {path: sha256_file(path) for path in folder.rglob("*.j2")}
    return sha256_json({p.relative_to(_PACKAGE_DIR).as_posix(): d for p, d in digests.items()})


def notebook_imports(path: str | Path) -> list[str]:
    """Dotted names that a notebook's code cells import, for `code_hash`."""
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: list[str] = []
    for source in sources:
        try:  # lines for Jupyter, such as %load_ext, are no Python
            names += _imports(re.sub(r"(?m)^(\s*)[%!].*", r"\1pass", source))
        except SyntaxError as error:
            raise ValueError(
                f"{path} has a cell that is no Python: {error.text or error}; expected code that "
                "runs. Correct it, or restore the notebook."
            ) from None
    return names


def _files_of(name: str) -> list[Path]:
    """Files that the import of a dotted name runs: the folders on its way, then the module."""
    package, *parts = name.split(".")
    if package != _PACKAGE_DIR.name:
        return []
    files: list[Path] = []
    path = _PACKAGE_DIR
    for part in parts:
        path /= part
        if path.is_dir():
            files.append(path / "__init__.py")
        elif path.with_suffix(".py").is_file():
            return [*files, path.with_suffix(".py")]
    return files or [_PACKAGE_DIR / "__init__.py"]


@functools.cache
def _imports(source: str) -> tuple[str, ...]:
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # A name may be a module itself.
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(names)
