"""A game that somebody else writes: one class, registered by name, and the audit plays it."""

import numpy as np
import pytest
from test_game_play import LIGHT, make_target

from mlflow_privacy.auditing.options import parse_options
from mlflow_privacy.auditing.pipeline import audit
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.fingerprint import data_digest
from mlflow_privacy.games import GAMES, Game, GameOptions, Question
from mlflow_privacy.types import Estimate, GameResult, Records


class FlipOptions(GameOptions):
    share: float = 0.5


class Flip(Game):
    """Asks about the same records with the other label, and says how often the model prefers the true one."""

    Options = FlipOptions
    name = "flip"

    def check(self, target, n_references, attacks):
        if target.task != "classification":
            raise ConfigError("The game flip needs a classifier.")

    def questions(self, target, pool):
        flipped = Records(pool.x, 1 - pool.y, pool.row_ids)
        return (Question("flipped", flipped, data_digest(flipped)),)

    def answer(self, evidence):
        assert len(evidence.further) == 4  # each reference was asked too
        share = float(np.mean(evidence.signals.target > evidence.own[0].signal))
        row = ("share", Estimate(share, share, share, len(evidence.pool)))
        return GameResult("flip", "Flip", f"{share:.0%}.", f"{share:.2f}", (row,), {"share": row[1]})


@pytest.fixture
def flip():
    GAMES.register("flip")(Flip)
    yield
    del GAMES["flip"]


def test_a_registered_game_is_asked_and_answered(flip):
    options = LIGHT.model_copy(update={"game": "flip"})
    result = audit(make_target(), options)
    share = result.games["flip"].metrics["share"].value
    assert 0.7 < share < 0.85  # it knows the labels of its members, half of the pool, and guesses the others
    assert result.metrics["privacy/flip/share"] == share


def test_its_options_are_checked_like_ours(flip):
    assert parse_options({"game": "flip"}).game == "flip"
    with pytest.raises(ConfigError, match="unknown key 'sare', did you mean 'share'"):
        audit(make_target(), LIGHT.model_copy(update={"game": "flip", "game_options": {"sare": 1.0}}))


def test_a_game_that_nobody_registered_is_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match=r"game: must be one of membership, dp, range, usage, did you mean 'usage'"):
        parse_options({"game": "usge"})


def test_what_is_no_game_does_not_become_one():
    with pytest.raises(ConfigError, match="must be a subclass of"):
        GAMES["flop"] = dict
    with pytest.raises(ConfigError, match="both names must be equal"):
        GAMES["flop"] = Flip
    assert "flop" not in GAMES


@pytest.mark.parametrize("name", ["rmia", "blind", "caution"])
def test_a_game_that_is_called_like_something_else_in_an_audit_is_refused(name):
    taken = type("Taken", (Flip,), {"name": name})
    with pytest.raises(ConfigError, match=f"The game '{name}' is called like (an attack|a metric or a tag).*another"):
        GAMES.register(name)(taken)
    assert name not in GAMES


def test_an_attack_that_takes_the_name_of_a_game_stops_the_game(flip, monkeypatch):
    from mlflow_privacy.attacks import ATTACKS
    from mlflow_privacy.games.game import make_game

    make_game("flip")
    monkeypatch.setitem(ATTACKS._entries, "flip", ATTACKS["loss"])
    with pytest.raises(ConfigError, match="'flip' is called like an attack"):
        make_game("flip")
