"""Words and numbers for people: formatted estimates, the verdict in a sentence, and escaping of untrusted text."""

from __future__ import annotations

import math
import re
import unicodedata

from mlflow_privacy.metrics import fpr_key
from mlflow_privacy.types import AttackResult, AuditResult, Estimate

# The FPRs a verdict may be about, lowest first: below 0.1 % few holdouts resolve anything.
_HEADLINE_FPRS = (0.001, 0.01, 0.1)
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
    """Decimals that an interval bears: two significant ones of its half-width, but 2 to 3, or 4 if it is tiny."""
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


def headline_fpr(attack: AttackResult) -> tuple[float, Estimate] | None:
    """The lowest FPR of 0.1 %, 1 % and 10 % that this audit resolves, with its TPR; None if there is none."""
    for fpr in _HEADLINE_FPRS:
        estimate = attack.metrics.get(fpr_key(fpr))
        if estimate is not None and estimate.resolvable and math.isfinite(estimate.value):
            return fpr, estimate
    return None


def metric_title(key: str) -> str:
    """A metric's name for people.

    >>> metric_title("auc"), metric_title("tpr_at_fpr_0.001"), metric_title("balanced_accuracy")
    ('AUC', 'TPR at 0.1% FPR', 'balanced accuracy')
    """
    if key.startswith("tpr_at_fpr_"):
        return f"TPR at {100 * float(key.removeprefix('tpr_at_fpr_')):.10g}% FPR"
    return "AUC" if key == "auc" else key.replace("_", " ")


def blind_differs(result: AuditResult) -> bool:
    """Whether a classifier that never saw the model tells members from non-members."""
    return result.blind is not None and (result.blind.low > 0.5 or result.blind.high < 0.5)


def is_weaker(result: AuditResult) -> bool:
    """Whether only attacks that need no reference models ran: what they do not find, others may."""
    return not result.references.get("n")


def verdict(result: AuditResult) -> str:
    """The result in one sentence that needs no statistics, with its uncertainty and what guessing would reach.

    An audit without reference models begins with "Weaker audit:". Counts are rounded outwards, so that the sentence
    claims no more than the interval does. Where guessing lies inside the interval of few false alarms, but not where
    more are accepted, a second half says so.

    Example:
      >>> from mlflow_privacy.report.example import example_result
      >>> verdict(example_result(n=400))
      'Of 100 records used in training, an attacker who accepts one false alarm in 100 recognises between ... and ...
       (95 % confidence); guessing would recognise 1.'
    """
    begin = "Weaker audit: no reference models. " if is_weaker(result) else ""
    attack = headline_attack(result)
    found = headline_fpr(attack)
    if found is None:
        return begin + _auc_sentence(attack.metrics.get("auc"))
    fpr, tpr = found
    base = max(100, round(1 / fpr))
    plainer = None if tpr.low > fpr else _plainer_fpr(attack, fpr)
    more = ""
    if plainer is not None:
        more = (
            f" Accepting one in {round(1 / plainer[0]):,}, it recognises {_count(base, plainer[1])}; guessing would "
            f"recognise {round(base * plainer[0]):,}."
        )
    return (
        f"{begin}Of {base:,} records used in training, an attacker who accepts one false alarm in {round(1 / fpr):,} "
        f"recognises {_count(base, tpr)} ({100 * tpr.confidence:g} % confidence); guessing would recognise "
        f"{round(base * fpr):,}.{more}"
    )


def _count(base: int, tpr: Estimate) -> str:
    """How many of `base` members a TPR is, in words, rounded outwards."""
    low, high = math.floor(base * tpr.low + 1e-9), math.ceil(base * tpr.high - 1e-9)
    return f"all {base:,}" if low == base else f"{low:,}" if low == high else f"between {low:,} and {high:,}"


def _plainer_fpr(attack: AttackResult, above: float) -> tuple[float, Estimate] | None:
    """The lowest FPR above `above` at which the attack is surely better than guessing; None if there is none."""
    for fpr in _HEADLINE_FPRS:
        estimate = attack.metrics.get(fpr_key(fpr))
        if fpr > above and estimate is not None and estimate.resolvable and estimate.low > fpr:
            return fpr, estimate
    return None


def _auc_sentence(auc: Estimate | None) -> str:
    """The verdict where too few non-members resolve any low false-positive rate."""
    if auc is None or not auc.resolvable or not math.isfinite(auc.value):
        return "This audit is too small to say how well an attacker recognises records used in training."
    return (
        "Shown one record used in training and one that was not, an attacker picks the right one in "
        f"{100 * auc.low:.0f} to {100 * auc.high:.0f} of 100 cases ({100 * auc.confidence:g} % confidence); "
        "guessing would be right in 50."
    )
