r"""Attacks on language models: the mean log-probability of a text against what it should be for a text of its kind.

All take the sequence signal φ(x) = (1/T) Σ_t log p(x_t | x_<t) of the audited model, T counted tokens, and at most one
extra signal of the same record. The extra signals are computed by `signals.language`.
"""

from __future__ import annotations

from mlflow_privacy.attacks._arrays import Array, as_float64, check_signals, namespace
from mlflow_privacy.errors import DesignError
from mlflow_privacy.types import Scores

_LEAST = 1e-12  # a text that the model is certain of has a mean log-probability of 0


def zlib_ratio(target: Array, zlib_bytes: Array) -> Scores:
    r"""The loss over the zlib entropy: a text that is simple for everybody is no evidence.

    .. math:: s(x) = \phi_\theta(x) / \mathrm{zlib}(x)

    Threat model: black box with log-probabilities of tokens, offline; no references. Carlini et al. (2021), *Extracting
    Training Data from Large Language Models*, https://arxiv.org/abs/2012.07805, section on comparing with zlib.

    Args:
      target: (n,) mean log-probabilities.
      zlib_bytes: (n,) bytes of each text after zlib.

    Returns: value (n,) = φ / bytes.

    Raises: DesignError: shapes, values that are not finite, texts without bytes.

    Example:
      >>> import numpy as np
      >>> zlib_ratio(np.array([-2.0, -2.0]), np.array([20.0, 80.0])).value.tolist()
      [-0.1, -0.025]
    """
    check_signals(target=target, zlib_bytes=zlib_bytes)
    size = as_float64(zlib_bytes)
    if not bool(namespace(size).all(size > 0)):
        raise DesignError("zlib_bytes must be positive: compressed texts have at least a header.")
    return Scores(as_float64(target) / size)


def lowercase_ratio(target: Array, lowercase: Array) -> Scores:
    r"""How much worse the model finds the text in lower case.

    .. math:: s(x) = \log\frac{\mathrm{PPL}(\mathrm{lower}(x))}{\mathrm{PPL}(x)} = \phi(x) - \phi(\mathrm{lower}(x))

    Threat model: black box with log-probabilities of tokens, offline; one more query a record, no references. Carlini
    et al. (2021), https://arxiv.org/abs/2012.07805.

    Args:
      target: (n,) mean log-probabilities.
      lowercase: (n,) of the texts in lower case.

    Returns: value (n,).

    Raises: DesignError: shapes, values that are not finite.

    Example:
      >>> import numpy as np
      >>> lowercase_ratio(np.array([-1.0]), np.array([-3.0])).value.tolist()
      [2.0]
    """
    check_signals(target=target, lowercase=lowercase)
    return Scores(as_float64(target) - as_float64(lowercase))


def min_k(least_likely: Array) -> Scores:
    r"""Min-K%: mean log-probability of the k share of tokens that the model finds least likely.

    .. math:: s(x) = \frac{1}{|E|} \sum_{t \in E} \log p(x_t \mid x_{<t}), \quad E = \text{the } kT \text{ lowest}

    A text that was not trained on has a few outlying tokens that the mean over all tokens hides.

    Threat model: black box with log-probabilities of tokens, offline; no references. Shi et al. (2024), *Detecting
    Pretraining Data from Large Language Models*, https://arxiv.org/abs/2310.16789.

    Args:
      least_likely: (n,) the extra signal "min_k" at some k.

    Returns: value (n,).

    Raises: DesignError: values that are not finite.

    Example:
      >>> import numpy as np
      >>> min_k(np.array([-4.0])).value.tolist()
      [-4.0]
    """
    check_signals(least_likely=least_likely)
    return Scores(as_float64(least_likely))


def min_k_plus(least_likely: Array) -> Scores:
    r"""Min-K%++: Min-K% of log-probabilities standardised under the model's own next-token distribution.

    .. math:: w_t = \frac{\log p(x_t \mid x_{<t}) - \mu_t}{\sigma_t}, \quad
        \mu_t = E_{z \sim p(\cdot \mid x_{<t})}[\log p(z)], \; \sigma_t \text{ its standard deviation}

    A trained-on token is a local maximum of likelihood, whatever the entropy of its place.

    Threat model: grey box: the model's whole next-token distribution, offline; no references. Zhang et al. (2025),
    *Min-K%++: Improved Baseline for Detecting Pre-Training Data from Large Language Models*,
    https://arxiv.org/abs/2404.02936.

    Args:
      least_likely: (n,) the extra signal "min_k_plus" at some k.

    Returns: value (n,).

    Raises: DesignError: values that are not finite.

    Example:
      >>> import numpy as np
      >>> min_k_plus(np.array([-0.5])).value.tolist()
      [-0.5]
    """
    check_signals(least_likely=least_likely)
    return Scores(as_float64(least_likely))


def base_ratio(target: Array, base: Array) -> Scores:
    r"""What fine-tuning gained on this text: log-likelihood ratio per token against the model before.

    .. math:: s(x) = \phi_\theta(x) - \phi_{\theta_0}(x)

    The base model is the natural reference for "was this record in the fine-tuning set?" and costs no training. A
    record that was already in the base model's own training data gains little, and is missed.

    Threat model: black box with log-probabilities of tokens, offline; the public base model is the one reference.
    Mireshghallah, Uniyal, Wang, Evans and Berg-Kirkpatrick (2022), https://arxiv.org/abs/2205.12506.

    Args:
      target: (n,) mean log-probabilities of the fine-tuned model.
      base: (n,) of the model before fine-tuning.

    Returns: value (n,).

    Raises: DesignError: shapes, values that are not finite.

    Example:
      >>> import numpy as np
      >>> base_ratio(np.array([-1.0, -2.0]), np.array([-3.0, -2.5])).value.tolist()
      [2.0, 0.5]
    """
    check_signals(target=target, base=base)
    return Scores(as_float64(target) - as_float64(base))


def neighbourhood(target: Array, neighbours: Array) -> Scores:
    r"""How much likelier the text is than texts that differ from it in a word or two.

    .. math:: s(x) = \phi(x) - \frac{1}{n} \sum_i \phi(\tilde x_i)

    Threat model: black box with log-probabilities of tokens, offline; a masked language model writes the neighbours, n
    queries a record; no references, no data of the same kind. Mattern et al. (2023), *Membership Inference Attacks
    against Language Models via Neighbourhood Comparison*, https://arxiv.org/abs/2305.18462.

    Args:
      target: (n,) mean log-probabilities.
      neighbours: (n,) mean over the neighbours of each text.

    Returns: value (n,).

    Raises: DesignError: shapes, values that are not finite.

    Example:
      >>> import numpy as np
      >>> neighbourhood(np.array([-1.0]), np.array([-1.5])).value.tolist()
      [0.5]
    """
    check_signals(target=target, neighbours=neighbours)
    return Scores(as_float64(target) - as_float64(neighbours))


def recall(target: Array, conditional: Array) -> Scores:
    r"""ReCaLL: how the log-likelihood changes after a prefix of non-members.

    .. math:: s(x) = \frac{\phi(x \mid P)}{\phi(x)}

    Both are negative. A prefix of foreign texts disturbs what the model knows by heart more than what it does not.

    Threat model: black box with log-probabilities of tokens, offline; a few texts known to be no members; no
    references. Xie et al. (2024), *ReCaLL: Membership Inference via Relative Conditional Log-Likelihoods*,
    https://arxiv.org/abs/2406.15968.

    Args:
      target: (n,) mean log-probabilities.
      conditional: (n,) mean log-probabilities after the prefix.

    Returns: value (n,).

    Raises: DesignError: shapes, values that are not finite, log-probabilities above 0.

    Example:
      >>> import numpy as np
      >>> recall(np.array([-1.0, -2.0]), np.array([-1.5, -2.0])).value.tolist()
      [1.5, 1.0]
    """
    check_signals(target=target, conditional=conditional)
    xp = namespace(target, conditional)
    own = as_float64(target)
    if bool(xp.any(own > 0)):
        raise DesignError("target must hold mean log-probabilities, which are at most 0.")
    return Scores(as_float64(conditional) / xp.clip(own, None, -_LEAST))
