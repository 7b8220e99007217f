"""Where a person finds things: the file of a report, and the address of a page of MLflow's."""

from __future__ import annotations

import shlex
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

_LOCAL = "http://127.0.0.1:5000"  # where `mlflow ui` listens unless told otherwise


def readable_path(uri: str) -> str:
    """A file of this machine as a path, anything else as it is.

    >>> readable_path("file:///tmp/a%20b/report.html"), readable_path("mlflow-artifacts:/1/report.html")
    ('/tmp/a b/report.html', 'mlflow-artifacts:/1/report.html')
    """
    parsed = urlparse(uri)
    return url2pathname(unquote(parsed.path)) if parsed.scheme == "file" else uri


def without_password(uri: str) -> str:
    """A URI without the user and password in front of its host, for whoever may read what is logged or said.

    >>> without_password("postgresql://me:secret@db:5432/mlflow"), without_password("sqlite:///m.db")
    ('postgresql://db:5432/mlflow', 'sqlite:///m.db')
    """
    netloc = urlparse(uri).netloc
    return uri.replace(netloc, netloc.rpartition("@")[2], 1) if "@" in netloc else uri


def is_served(tracking_uri: str) -> bool:
    """Whether a server is there whose pages can be opened."""
    return tracking_uri.startswith(("http://", "https://"))


def page(tracking_uri: str, place: str) -> str:
    """The address of a page of MLflow's; without a server, where it is once `how_to_serve` runs.

    >>> page("https://host/mlflow/", "models/credit")
    'https://host/mlflow/#/models/credit'
    """
    return f"{tracking_uri.rstrip('/') if is_served(tracking_uri) else _LOCAL}/#/{place}"


def how_to_serve(tracking_uri: str) -> str:
    """The command that starts MLflow's pages on a store without a server; "" if there is one."""
    return "" if is_served(tracking_uri) else f"mlflow ui --backend-store-uri {shlex.quote(tracking_uri)}"


def run_page(tracking_uri: str, experiment_id: str, run_id: str, artifact: str = "") -> str:
    """The address of a run's page, or of one of its artifacts there."""
    return page(
        tracking_uri, f"experiments/{experiment_id}/runs/{run_id}{f'/artifacts/{artifact}' if artifact else ''}"
    )


def where_report(tracking_uri: str, experiment_id: str, run_id: str, uri: str) -> str:
    """Lines that say where the report of an audit is: its file, and its page.

    Args:
      uri: of the artifact.

    >>> print(where_report("http://host", "1", "r", "s3://b/1/r/artifacts/privacy_report.html"))
    Report: s3://b/1/r/artifacts/privacy_report.html
    http://host/#/experiments/1/runs/r/artifacts/privacy_report.html
    """
    address = run_page(tracking_uri, experiment_id, run_id, uri.rsplit("/", 1)[-1])
    start = how_to_serve(tracking_uri)
    return f"Report: {readable_path(uri)}\n{f'{address} (after: {start})' if start else address}"
