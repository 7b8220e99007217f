"""The same page as a PDF, if WeasyPrint is installed (`pip install 'mlflow-privacy[pdf]'`)."""

from __future__ import annotations

import importlib.util
import logging
import re
from typing import Any

_logger = logging.getLogger(__name__)
_HINT = "No PDF of the report: WeasyPrint is not installed (pip install 'mlflow-privacy[pdf]')."
_MEDIA = re.compile(r"@media \(prefers-color-scheme:dark\)\{:root\{[^}]*\}\}")


def pdf_report(html: str) -> bytes | None:
    """The page as PDF; None, and one line in the log, where WeasyPrint is not installed or lacks its libraries.

    Nothing is fetched: the page needs nothing, and whatever asks for an address is refused.

    Args:
      html: of `html_report`.
    """
    if importlib.util.find_spec("weasyprint") is None:
        _logger.debug(_HINT)
        return None
    try:
        import weasyprint
    except (ImportError, OSError) as error:  # Pango is a library of the system
        _logger.info("No PDF of the report: WeasyPrint cannot be loaded: %s", error)
        return None
    logging.getLogger("weasyprint").setLevel(logging.ERROR)  # it knows not every property of a browser
    page = _MEDIA.sub("", html)  # paper is light
    return weasyprint.HTML(string=page, url_fetcher=_refuse).write_pdf()


def _refuse(url: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    raise ValueError(f"The report loads nothing, but asked for {url[:200]}.")
