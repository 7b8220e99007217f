"""Words and numbers for people: formatted estimates, the verdict in a sentence, and escaping of untrusted text."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping

from mlflow_privacy.metrics import tally
from mlflow_privacy.metrics.evaluation import joint_tprs
from mlflow_privacy.metrics.names import guessing
from mlflow_privacy.types import AttackResult, AuditResult, Estimate, GroupResult

_PLAIN = re.compile(r"[\w ,;/+%='\"-]", re.ASCII)


def escape_markdown(text: object, limit: int = 300) -> str:
    """Untrusted text as it may stand in a Markdown line or table cell: shown literally, never interpreted.

    Model names, labels and tags are written by whoever may log a run. All but letters, digits and harmless
    punctuation become numeric character references, which no Markdown dialect interprets (a backslash does not
    protect a `|` in a table everywhere); control and direction-changing characters become blanks.

    Args:
      text: anything; its `str`.
      limit: longer text is cut and ends in an ellipsis.

    Example:
      >>> escape_markdown("credit_model|<b>x</b>")
      'credit_model&#124;&#60;b&#62;x&#60;/b&#62;'
    """
    plain = _one_line(str(text), limit)
    out = []
    for i, char in enumerate(plain):
        if char == "_":  # emphasis only at the edge of a word
            inside = 0 < i < len(plain) - 1 and plain[i - 1].isalnum() and plain[i + 1].isalnum()
            out.append(char if inside else "&#95;")
        elif char == ".":  # "www." would become a link
            out.append("&#46;" if plain[max(0, i - 3) : i].lower() == "www" else char)
        elif _PLAIN.match(char) or (ord(char) > 127 and char.isprintable()):
            out.append(char)
        else:
            out.append(f"&#{ord(char)};")
    return "".join(out)


def code_span(text: object, limit: int = 300) -> str:
    """Untrusted text as inline code, fenced by more backticks than it holds; not for table cells.

    >>> code_span("a`b")
    '`` a`b ``'
    """
    plain = _one_line(str(text), limit)
    longest = max((len(run) for run in re.findall("`+", plain)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {plain} {fence}" if longest else f"{fence}{plain or ' '}{fence}"


def plain_text(text: object, limit: int = 80) -> str:
    """Untrusted text on one printable line, cut at `limit`: for a tag or the title of a figure."""
    return _one_line(str(text), limit)


def _one_line(text: str, limit: int) -> str:
    """Blanks for line breaks, controls, bidirectional marks and lone surrogates; cut at `limit`."""
    safe = "".join(" " if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} else c for c in text[: 4 * limit])
    safe = " ".join(safe.split())
    return safe if len(safe) <= limit else safe[: limit - 1].rstrip() + "…"


def interval_digits(estimate: Estimate | None) -> int:
    """How many decimals an interval justifies: two digits of its half-width, but 2 or 3 decimals; 4 if it is tiny."""
    if estimate is None or not estimate.resolvable or not math.isfinite(estimate.high - estimate.low):
        return 2
    half = (estimate.high - estimate.low) / 2
    if not half >= 0.001:
        return 4 if half > 0 else 3
    return min(max(1 - math.floor(math.log10(half)), 2), 3)


def format_estimate(estimate: Estimate | None, digits: int | None = None) -> str:
    """Value and interval, with `digits` decimals or as many as the interval bears.

    >>> format_estimate(Estimate(0.6213, 0.5834, 0.6581, 900))
    '0.621 [0.583, 0.658]'
    >>> format_estimate(Estimate(float("nan"), float("nan"), float("nan"), 900, resolvable=False))
    'not resolvable'
    """
    if estimate is None:
        return "–"
    if not estimate.resolvable or not math.isfinite(estimate.value):
        return "not resolvable"
    digits = interval_digits(estimate) if digits is None else digits
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def headline_attack(result: AuditResult) -> AttackResult:
    """The attack the verdict is about; the first if `result.headline` is not among them."""
    return next((attack for attack in result.attacks if attack.name == result.headline), result.attacks[0])


def headline_rate(result: AuditResult) -> tuple[float, Estimate] | None:
    """The lowest FPR at which the attack of the verdict surely does better than guessing, with its TPR; or None.

    Looked at are the FPRs of 0.1 %, 1 % and 10 % at which five false alarms are expected: the numbers of records decide
    that, not the scores (`metrics.evaluation.looked_at`). The interval that must lie above guessing, and that the TPR
    carries, is the one that holds for all FPRs looked at, so that having looked at several counts.
    """
    for key, tpr in joint_rates(result).items():
        if tpr.low > guessing(key):
            return guessing(key), tpr
    return None


def joint_rates(result: AuditResult) -> Mapping[str, Estimate]:
    """TPRs at the FPRs that the verdict looks at, lowest first, with intervals that hold for all of them at once."""
    attack = headline_attack(result)
    if attack.joint:
        return attack.joint
    # An audit put together by hand.
    fprs = [guessing(key) for key in attack.metrics if key.startswith("tpr_at_fpr_")]
    confidence = next((e.confidence for e in attack.metrics.values()), 0.95)
    return joint_tprs(tally(attack.scores.rank(), result.membership), fprs, confidence)


def stated_confidence(result: AuditResult, each: float) -> float:
    """What a verdict says of its interval: `each`, or that of the intervals of a pair of attacks together.

    >>> from mlflow_privacy.report.example import example_result
    >>> stated_confidence(example_result(n=100), 0.95)
    0.95
    """
    return each if result.choice is None else round(result.choice.confidence_together(each), 12)


def worst_group(result: AuditResult) -> GroupResult | None:
    """The most exposed group that is significantly worse than all other records, by the attack of the verdict."""
    first = next(iter(headline_attack(result).groups), None)
    return first if first is not None and first.worse else None


def metric_title(key: str) -> str:
    """A metric's name for people.

    >>> metric_title("auc"), metric_title("tpr_at_fpr_0.001"), metric_title("balanced_accuracy")
    ('AUC', 'TPR at 0.1% FPR', 'balanced accuracy')
    """
    if key.startswith("tpr_at_fpr_"):
        return f"TPR at {100 * float(key.removeprefix('tpr_at_fpr_')):.10g}% FPR"
    return "AUC" if key == "auc" else key.replace("_", " ")


def blind_differs(result: AuditResult) -> bool:
    """Whether a classifier that never saw the model tells members from non-members; below ½ is chance, or nothing."""
    return result.blind is not None and result.blind.low > 0.5


def is_weaker(result: AuditResult) -> bool:
    """Whether only attacks that need no reference models ran: what they do not find, others may."""
    return not result.references.get("n")


def verdict(result: AuditResult) -> str:
    """The result in words that need no statistics, with its uncertainty and what guessing would reach.

    `overall_verdict`, and where a group of records is significantly more exposed than the others, `group_verdict`, with
    the group's name as the data has it.

    Example:
      >>> from mlflow_privacy.report.example import example_result
      >>> verdict(example_result(n=1000))
      'Of 100 records used in training, an attacker who accepts one false alarm in 100 recognises between ... and ...
       (95 % confidence); guessing would recognise 1.'
    """
    return " ".join(part for part in (overall_verdict(result), group_verdict(result)) if part)


def overall_verdict(result: AuditResult) -> str:
    """The verdict on all records, in our own words and numbers alone.

    It is about the FPR of `headline_rate`; without one, about the AUC. Counts are rounded outwards, so that the
    sentence claims no more than the interval does. An audit without reference models begins with "Weaker audit:".
    """
    begin = "Weaker audit: no reference models. " if is_weaker(result) else ""
    auc = headline_attack(result).metrics.get("auc")
    found = headline_rate(result)
    if found is None:
        return begin + _auc_sentence(auc, 0.0 if auc is None else stated_confidence(result, auc.confidence))
    fpr, tpr = found
    base = crowd_size(fpr)
    # That of all FPRs looked at together.
    confidence = stated_confidence(result, tpr.confidence if auc is None else auc.confidence)
    return (
        f"{begin}Of {base:,} records used in training, an attacker who accepts one false alarm in {round(1 / fpr):,} "
        f"recognises {_count(base, tpr)} ({100 * confidence:g} % confidence); guessing would recognise "
        f"{round(base * fpr):,}."
    )


def group_verdict(result: AuditResult, written: Callable[[str], str] = str) -> str:
    """The verdict on the most exposed group, if one is significantly worse than all other records; else "".

    Args:
      written: how its name is written, which comes from the data: `escape_markdown` where that is needed.
    """
    parts = group_sentence(result)
    return "" if parts is None else parts[0] + written(parts[1]) + parts[2]


def group_sentence(result: AuditResult) -> tuple[str, str, str] | None:
    """`group_verdict` in three parts; the middle one is the group's name, which comes from the data."""
    group = worst_group(result)
    if group is None:
        return None
    attack = headline_attack(result)
    key = group.worse[0]
    own, others = group.metrics[key], group.others[key]
    confidence = stated_confidence(
        result, attack.metrics["auc"].confidence if "auc" in attack.metrics else own.confidence
    )
    sure = f"({100 * confidence:g} % confidence, corrected for {len(attack.groups):,} groups)"
    text = f"” ({group.n_members:,} of the records used in training): "
    if key == "auc":
        text += (
            "shown one of them and one of its kind that was not used, an attacker picks the right one in "
            f"{_cases(own)} of 100 cases {sure}; among all other records in {_cases(others)}."
        )
    else:
        fpr = guessing(key)
        base = crowd_size(fpr)
        text += (
            f"an attacker who accepts one false alarm in {round(1 / fpr):,} among its kind recognises "
            f"{_count(base, own)} of {base:,} {sure}; among all other records {_count(base, others)}."
        )
    more = sum(1 for each in attack.groups if each.worse) - 1
    if more:
        text += f" {more:,} more group{'s are' if more > 1 else ' is'} worse than the rest, too."
    return "The most exposed group is “", group_name(result, group), text


def group_name(result: AuditResult, group: GroupResult) -> str:
    """A group in the words of the data: the label column's name and the class, or the slice; on one line, cut."""
    own = group.slicing in ("class", "target value") and result.label_name
    return f"{plain_text(own or group.slicing, 60)}: {plain_text(group.label, 60)}"


def crowd_size(fpr: float) -> int:
    """Of how many records a verdict speaks: so many that guessing recognises one, at least 100."""
    return max(100, round(1 / fpr))


def _count(base: int, tpr: Estimate) -> str:
    """How many of `base` members a TPR is, in words, rounded outwards."""
    low, high = math.floor(base * tpr.low + 1e-9), math.ceil(base * tpr.high - 1e-9)
    return f"all {base:,}" if low == base else f"{low:,}" if low == high else f"between {low:,} and {high:,}"


def _cases(auc: Estimate) -> str:
    """An AUC's interval in hundredths, rounded outwards."""
    return f"{math.floor(100 * auc.low + 1e-9)} to {math.ceil(100 * auc.high - 1e-9)}"


def _auc_sentence(auc: Estimate | None, confidence: float) -> str:
    """The verdict where no false-positive rate that was looked at shows more than guessing."""
    if auc is None or not auc.resolvable or not math.isfinite(auc.value):
        return "This audit is too small to say how well an attacker recognises records used in training."
    return (
        "Shown one record used in training and one that was not, an attacker picks the right one in "
        f"{_cases(auc)} of 100 cases ({100 * confidence:g} % confidence); guessing would be right in 50."
    )
