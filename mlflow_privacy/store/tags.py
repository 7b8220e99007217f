"""The names of the tags that this package writes on runs, and the one tag that holds what only this package reads.

What people read, and what a search asks for, has a tag of its own. All else is one JSON object in `RECORD`, whose name
sorts last, below the tags that are for people. Runs from before it (0.1) have a tag "privacy.NAME" for each of its
entries; `record_of` reads both, and the tags that are searched by are still those of then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

PREFIX = "privacy."
ROLE = f"{PREFIX}role"  # audit, reference, comparison, experiment or target
HEADLINE = f"{PREFIX}headline"  # the verdict in a sentence
ATTACK = f"{PREFIX}attack"  # that the verdict is about
MODEL = f"{PREFIX}model"  # URI of the audited model
MODEL_NAME, MODEL_VERSION, MODEL_ID = f"{PREFIX}model_name", f"{PREFIX}model_version", f"{PREFIX}model_id"
DPIA = f"{PREFIX}dpia"  # of audits whose impact assessment holds something
FINGERPRINT = f"{PREFIX}fingerprint"  # of a reference run, by which it is found
RECIPE = f"{PREFIX}recipe"  # of a reference run, by which it is told how long others will take
IMPORTED = f"{PREFIX}imported"  # where a model that was not trained here came from
REPLACED = f"{PREFIX}replaced"  # of reference runs that are used no more
AUDIT_RUN = f"{PREFIX}audit_run"  # of a model: the run of its last audit
RECORD = f"{PREFIX}z_record"


def record_tag(values: Mapping[str, Any]) -> dict[str, str]:
    """The tag that holds plain values which no search asks for; None is left out.

    >>> record_tag({"train_seed": 7, "imported": None})
    {'privacy.z_record': '{"train_seed": 7}'}
    """
    return {RECORD: json.dumps({key: value for key, value in values.items() if value is not None}, sort_keys=True)}


def own_record(tags: Mapping[str, str]) -> dict[str, Any]:
    """What the record itself holds, {} if there is none that can be read."""
    return _read(tags.get(RECORD))


def record_of(tags: Mapping[str, str]) -> dict[str, Any]:
    """What a run's record holds, or of a run from before it each tag by its name without the prefix, as text.

    >>> record_of({"privacy.train_seed": "7"}), record_of({"privacy.z_record": '{"train_seed": 7}'})
    ({'train_seed': '7'}, {'train_seed': 7})
    """
    alone = {key.removeprefix(PREFIX): text for key, text in tags.items() if key.startswith(PREFIX) and key != RECORD}
    return alone | own_record(tags)


def memory_tag(name: str) -> str:
    """The tag of values that audits remember under a name: one JSON object of `key` and `value`."""
    return f"{PREFIX}z_{name}"


def memory_searches(name: str, key: str) -> tuple[str, ...]:
    """Searches for runs that remember something under a key; those of 0.1 kept key and value in a tag each."""
    return f"tags.`{memory_tag(name)}` LIKE '%{key}%'", f"tags.`{PREFIX}{name}_key` = '{key}'"


def memory_of(tags: Mapping[str, str], name: str, key: str) -> dict[str, Any] | None:
    """What a run remembers under a key; None if there is nothing that can be read."""
    kept = _read(tags.get(memory_tag(name)))
    if kept.get("key") == key:
        return kept["value"] if isinstance(kept.get("value"), dict) else None
    return _read(tags.get(f"{PREFIX}{name}_value")) or None if tags.get(f"{PREFIX}{name}_key") == key else None


def _read(text: str | None) -> dict[str, Any]:
    """A JSON object; {} if the text is none."""
    try:
        values = json.loads(text or "")
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
