"""Hooks of the documentation site: pages made from the repository's own files, and links that lead to them.

Pages are written to be read in the repository, where a link goes to a file. On the site the same link goes to the page
or the copy that the file became.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Files of the repository that become pages.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
}
# Folders whose files are copied and listed on a page.
FOLDERS = {"configs": ("configs.md", "Sample configs"), "examples": ("examples.md", "Examples")}
_SHOWN = {".yaml", ".yml", ".py", ".ipynb", ".csv", ".sh", ".toml"}
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)#\s]+)(#[^)\s]*)?(\))")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages and copies that lie outside the documentation folder."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for folder, (page, title) in FOLDERS.items():
        shown = _files_of(folder)
        for path in shown:
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, f"files/{name}", abs_src_path=str(path)))
        files.append(File.generated(config, page, content=listing(title, shown)))
    return files


def on_nav(nav: Any, config: Any, files: Any) -> Any:
    """Pages that no section names come last, under "More"."""
    from mkdocs.structure.nav import Section
    from mkdocs.structure.pages import Page

    named = {page.file.src_uri for page in nav.pages}
    rest = [file for file in files.documentation_pages() if file.src_uri not in named]
    if rest:
        pages = [file.page or Page(None, file, config) for file in rest]
        more = Section("More", pages)
        for page in pages:
            page.parent = more
        nav.items.append(more)
        nav.pages.extend(pages)
    return nav


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to files of the repository become links of the site."""
    return rewrite(markdown, repository_path(page.file.src_uri), page.file.src_uri)


def repository_path(src_uri: str) -> str:
    """Where the source of a page lies in the repository.

    >>> repository_path("index.md"), repository_path("attacks.md")
    ('README.md', 'docs/attacks.md')
    """
    return {page: source for source, page in PAGES.items()}.get(src_uri, f"docs/{src_uri}")


def site_path(path: str) -> str | None:
    """What a file or folder of the repository is called on the site; None if it is not there.

    >>> site_path("docs/attacks.md"), site_path("configs"), site_path("configs/quickstart.yaml"), site_path("LICENSE")
    ('attacks.md', 'configs.md', 'files/configs/quickstart.yaml', None)
    """
    if path in PAGES:
        return PAGES[path]
    head, _, rest = path.partition("/")
    if head == "docs" and rest and not rest.endswith(".py"):
        return rest
    if head in FOLDERS:
        return f"files/{path}" if rest and Path(path).suffix in _SHOWN else FOLDERS[head][0]
    return None


def rewrite(markdown: str, source: str, page: str) -> str:
    """The page's text with its links as they are on the site; a link to what is not there becomes plain text.

    >>> rewrite("[a](docs/attacks.md#rmia) [b](LICENSE)", "README.md", "index.md")
    '[a](attacks.md#rmia) b'
    """

    def one(match: re.Match[str]) -> str:
        opening, target, anchor, closing = match.groups()
        if "://" in target or target.startswith(("mailto:", "/")):
            return match.group()
        found = site_path(posixpath.normpath(posixpath.join(posixpath.dirname(source), target)))
        if found is None:
            return opening.lstrip("!").removeprefix("[").removesuffix("](")
        return opening + posixpath.relpath(found, posixpath.dirname(page) or ".") + (anchor or "") + closing

    blocks = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)  # code blocks stay as they are
    return "".join(part if i % 2 else _LINK.sub(one, part) for i, part in enumerate(blocks))


def listing(title: str, paths: list[Path]) -> str:
    """A page that lists files, each with what its first comment or docstring says."""
    lines = [f"# {title}", ""]
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        said = _first_words(path)
        lines.append(f"- [`{name}`](../{name})" + (f": {said}" if said else ""))
    return "\n".join(lines) + "\n"


def _first_words(path: Path) -> str:
    """The first comment or docstring, up to its first full stop."""
    if path.suffix not in {".yaml", ".yml", ".py"}:
        return ""
    text = path.read_text(encoding="utf-8")
    found = re.match(r'"""(.+?)"""', text, re.DOTALL) or re.match(r"((?:#[^\n]*\n)+)", text)
    if not found:
        return ""
    words = " ".join(line.lstrip("# ").strip() for line in found.group(1).strip().splitlines())
    return re.split(r"(?<=\.)\s", words)[0]


def _files_of(folder: str) -> list[Path]:
    return [p for p in sorted((ROOT / folder).rglob("*")) if p.is_file() and p.suffix in _SHOWN]
