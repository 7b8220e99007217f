"""The questions an audit can ask: membership, lower bounds on ε, usage of a data set, membership of a range."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for type checkers, which do not see what `__getattr__` gives
    from mlflow_privacy.games.dp.bounds import EpsilonBound, GuessCurve, Verdict, contradicts
    from mlflow_privacy.games.dp.canaries import canary_coins, mislabel
    from mlflow_privacy.games.dp.guesses import few_guesses, guess_grid
    from mlflow_privacy.games.dp.many_runs import clopper_pearson_bound, gaussian_dp_bound
    from mlflow_privacy.games.dp.single_run import epsilon_by_guesses, one_run, one_run_fdp, one_run_of_counts
    from mlflow_privacy.games.game import (
        GAMES,
        Game,
        GameEvidence,
        GameOptions,
        Question,
        Setting,
        game_faults,
        make_game,
    )
    from mlflow_privacy.games.range.functions import (
        RANGE_FUNCTIONS,
        RangeSamples,
        perturbed_centres,
        range_function,
        sample_range,
    )
    from mlflow_privacy.games.range.membership import (
        RANGE_SCORES,
        Trim,
        evaluate_ranges,
        range_members,
        range_membership,
        trimmed_mean,
        tune_trim,
    )
    from mlflow_privacy.games.usage.baselines import record_likelihoods, usage_direct, usage_mle
    from mlflow_privacy.games.usage.estimate import (
        UsageEstimate,
        leave_one_out,
        usage_of_guesses,
        usage_threshold,
        usages,
    )

_MODULES = {
    "dp.bounds": "EpsilonBound GuessCurve Verdict contradicts",
    "dp.canaries": "canary_coins mislabel",
    "dp.guesses": "few_guesses guess_grid",
    "dp.many_runs": "clopper_pearson_bound gaussian_dp_bound",
    "dp.single_run": "epsilon_by_guesses one_run one_run_fdp one_run_of_counts",
    "game": "GAMES Game GameEvidence GameOptions Question Setting game_faults make_game",
    "range.functions": "RANGE_FUNCTIONS RangeSamples perturbed_centres range_function sample_range",
    "range.membership": "RANGE_SCORES Trim evaluate_ranges range_members range_membership trimmed_mean tune_trim",
    "usage.baselines": "record_likelihoods usage_direct usage_mle",
    "usage.estimate": "UsageEstimate leave_one_out usage_of_guesses usage_threshold usages",
}
# Each game is imported when it is asked for: options and config files need its name alone.
_LAZY = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names.split()}

__all__ = [
    "GAMES",
    "RANGE_FUNCTIONS",
    "RANGE_SCORES",
    "EpsilonBound",
    "Game",
    "GameEvidence",
    "GameOptions",
    "GuessCurve",
    "Question",
    "RangeSamples",
    "Setting",
    "Trim",
    "UsageEstimate",
    "Verdict",
    "canary_coins",
    "clopper_pearson_bound",
    "contradicts",
    "epsilon_by_guesses",
    "evaluate_ranges",
    "few_guesses",
    "game_faults",
    "gaussian_dp_bound",
    "guess_grid",
    "leave_one_out",
    "make_game",
    "mislabel",
    "one_run",
    "one_run_fdp",
    "one_run_of_counts",
    "perturbed_centres",
    "range_function",
    "range_members",
    "range_membership",
    "record_likelihoods",
    "sample_range",
    "trimmed_mean",
    "tune_trim",
    "usage_direct",
    "usage_mle",
    "usage_of_guesses",
    "usage_threshold",
    "usages",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            return getattr(importlib.import_module(_LAZY[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
