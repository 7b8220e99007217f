"""Two audits side by side: the same records, fair settings, the right verdict, a page that escapes what it shows."""

import contextlib
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from mlflow.exceptions import MlflowException

from mlflow_privacy.cli import main
from mlflow_privacy.decide.compare import compare
from mlflow_privacy.decide.compare_html import comparison_html
from mlflow_privacy.decide.compare_text import comparison_lines, comparison_markdown
from mlflow_privacy.decide.comparison import metric_labels
from mlflow_privacy.decide.differences import MIN_COMMON, compare_audits, needed_fpr, setting_differences
from mlflow_privacy.errors import ConfigError, StoreError
from mlflow_privacy.report.example import example_result
from mlflow_privacy.report.tables import audit_json, metrics_json, scores_table
from mlflow_privacy.store import results
from mlflow_privacy.store.audits import StoredAudit, read_audit
from mlflow_privacy.types import AuditedModel


def example(version=1, separation=0.9, n=300, **changes):
    model = AuditedModel(f"models:/credit/{version}", "credit", str(version), None, None, "sklearn")
    result = example_result(n=n, separations=(separation, 0.6, 0.75, 0.25), model=model)
    return dataclasses.replace(result, **changes)


def stored(result, label=None):
    """What reading back gives, without a server."""
    plain = lambda value: json.loads(json.dumps(value))
    uri = result.model.uri
    return StoredAudit(
        uri=uri,
        label=label or f"credit v{result.model.version}",
        run_id=f"r{result.model.version}",
        audited_at=1_790_000_000_000,
        metrics=result.metrics,
        record=plain(audit_json(result)),
        findings=plain(metrics_json(result)),
        scores=scores_table(result),
    )


@pytest.fixture(scope="module")
def weak():
    return stored(example(1, 0.4))


@pytest.fixture(scope="module")
def strong():
    return stored(example(2, 0.9))


def test_the_version_that_gives_away_more_is_named_with_its_difference(weak, strong):
    result = compare_audits([weak, strong])
    (pair,) = result.pairs
    assert pair.paired
    assert (pair.n_members, pair.n_nonmembers, pair.n_moved) == (300, 300, 0)
    gap = pair.auc_difference.estimate
    assert gap.value == pytest.approx(strong.metrics["privacy/rmia/auc"] - weak.metrics["privacy/rmia/auc"], abs=1e-5)
    assert gap.low > 0
    assert comparison_lines(result)[0].startswith("credit v2 gives away more about its training data than credit v1")
    back = compare_audits([strong, weak]).pairs[0].auc_difference
    assert back.estimate.value == pytest.approx(-gap.value)
    assert comparison_lines(compare_audits([strong, weak]))[0].startswith("credit v2 gives away more")


def test_an_audit_does_not_differ_from_itself(weak):
    result = compare_audits([weak, dataclasses.replace(weak, label="credit v1 again")])
    assert result.pairs[0].auc_difference.p_value == 1
    assert not result.pairs[0].worse
    assert not result.settings
    assert "order these records in the same way" in comparison_lines(result)[0]


def test_the_order_of_the_stored_rows_does_not_matter(weak, strong):
    shuffled = dataclasses.replace(strong, scores=strong.scores.sample(frac=1, random_state=0))
    assert compare_audits([weak, shuffled]).metrics == compare_audits([weak, strong]).metrics


def renamed(audit, names, sources):
    """The same audit with its records named otherwise, such as the other way round."""
    ids = [names[text.split(":")[0]] + ":" + text.split(":")[1] for text in audit.scores["row_id"]]
    return dataclasses.replace(
        audit, scores=audit.scores.assign(row_id=ids), record={**audit.record, "sources": sources}
    )


def test_records_are_matched_by_the_digest_of_their_data_and_not_by_the_role_it_played(weak):
    """Version 2 trained on what version 1 held out: row 0 of either training set is another record."""
    members, nonmembers = weak.record["sources"]
    swapped = dataclasses.replace(
        renamed(
            weak,
            {"train": "holdout", "holdout": "train"},
            [{**nonmembers, "role": "members"}, {**members, "role": "non_members"}],
        ),
        label="credit v2",
    )
    flipped = dataclasses.replace(swapped, scores=swapped.scores.assign(member=~swapped.scores["member"]))
    (pair,) = compare_audits([weak, flipped]).pairs
    assert not pair.paired
    assert pair.n_moved == 600
    assert pair.worse == ()
    # The very same memberships under exchanged names are found to be the same.
    assert compare_audits([weak, swapped]).pairs[0].paired


def test_other_data_under_the_same_names_is_compared_unpaired(weak, strong):
    sources = [{**source, "digest": f"other{i}"} for i, source in enumerate(strong.record["sources"])]
    other = renamed(strong, {"train": "train", "holdout": "holdout"}, sources)
    result = compare_audits([weak, other])
    assert not result.pairs[0].paired
    assert any("share only 0 members" in note for note in result.notes)
    wide, narrow = (compare_audits([weak, audit]).pairs[0].auc_difference.estimate for audit in (other, strong))
    assert wide.high - wide.low > narrow.high - narrow.low


def test_data_without_a_digest_is_matched_by_name_and_that_is_said_unless_labels_contradict(weak, strong):
    bare = [
        renamed(
            audit,
            {"train": "train", "holdout": "holdout"},
            [{**s, "digest": None, "status": "given"} for s in audit.record["sources"]],
        )
        for audit in (weak, strong)
    ]
    result = compare_audits(bare)
    assert result.pairs[0].paired
    assert any("without a verified digest" in note for note in result.notes)
    relabelled = dataclasses.replace(bare[1], scores=bare[1].scores.assign(label=7))
    result = compare_audits([bare[0], relabelled])
    assert not result.pairs[0].paired
    assert any("not of the same data" in note for note in result.notes)


def test_records_that_changed_sides_are_left_out_and_counted(weak, strong):
    member = strong.scores["member"].to_numpy().copy()
    moved = np.flatnonzero(member)[:40]
    member[moved] = False
    changed = dataclasses.replace(strong, scores=strong.scores.assign(member=member))
    (pair,) = compare_audits([weak, changed]).pairs
    assert (pair.paired, pair.n_members, pair.n_nonmembers, pair.n_moved) == (True, 260, 300, 40)


def test_too_few_common_records_are_not_paired(weak, strong):
    member = np.flatnonzero(strong.scores["member"])
    few = strong.scores.drop(index=member[MIN_COMMON - 1 :])
    assert not compare_audits([weak, dataclasses.replace(strong, scores=few)]).pairs[0].paired
    enough = strong.scores.drop(index=member[MIN_COMMON:])
    assert compare_audits([weak, dataclasses.replace(strong, scores=enough)]).pairs[0].paired


def test_settings_that_make_a_comparison_unfair_are_named_first(weak):
    options = {"num_ref_models": 4, "random_seed": 7, "attack_options": {"rmia": {"gamma": 2.0}}, "device": "cuda"}
    other = stored(
        example(2, 0.4, options={**example().options, **options}, references={**example().references, "n": 4})
    )
    result = compare_audits([weak, other])
    assert {s.name for s in result.unfair} == {"random_seed", "reference models", "rmia option gamma"}
    lines = comparison_lines(result)
    assert lines[0].startswith("These audits were not made alike")
    assert "random_seed (0 / 7)" in lines[0]
    page = comparison_html(result)
    assert page.index("Not a fair comparison") < page.index("order these records in the same way")
    assert comparison_markdown(result).startswith("**Not a fair comparison.**")


def test_what_follows_from_the_model_is_listed_but_not_called_unfair():
    one = {"options": {}, "references": {"recipe": {"spec": {"max_depth": 3}}}, "rows": {"members": 5}}
    two = {"options": {}, "references": {"recipe": {"spec": {"max_depth": 9}}}, "rows": {"members": 5}}
    (found,) = setting_differences([one, two], "rmia")
    assert (found.name, found.values, found.unfair) == ("recipe", ("max_depth=3", "max_depth=9"), False)


def test_p_values_of_several_versions_are_adjusted_for_their_number(weak, strong):
    third = stored(example(3, 0.4, n=300))
    result = compare_audits([weak, strong, third])
    first = result.pairs[0]
    assert first.auc_p_holm == pytest.approx(2 * first.auc_difference.p_value)
    assert result.pairs[1].auc_p_holm >= first.auc_p_holm
    assert all(pair.tpr_p_holm[0.1] >= pair.tpr_differences[0.1].p_value for pair in result.pairs)
    assert "after Holm's correction" in "".join(comparison_lines(result))


def test_the_records_that_got_worse_are_those_that_were_planted(weak):
    planted = [f"train:{i}" for i in range(5)]
    scores = weak.scores.copy()
    chosen = scores["row_id"].isin(planted)
    rank = np.where(chosen, -1.0, scores["risk_rank"].astype(float))
    worse = dataclasses.replace(weak, label="credit v2", scores=scores.assign(risk_rank=rank))
    found = compare_audits([weak, worse]).pairs[0].worse
    assert {r.row_id for r in found} <= set(planted)
    assert all(r.after == 0 < r.before for r in found)
    ratios = [(r.after + 1 / 300) / (r.before + 1 / 300) for r in found]
    assert ratios == sorted(ratios)


def test_needed_fpr_equals_its_naive_twin():
    rng = np.random.default_rng(0)
    ranks, member = rng.integers(0, 9, 80).astype(float), rng.random(80) < 0.5
    naive = [np.mean((ranks[~member] > r) + 0.5 * (ranks[~member] == r)) for r in ranks[member]]
    np.testing.assert_allclose(needed_fpr(ranks, member), naive)


def test_a_blind_baseline_that_separates_is_said(weak):
    from mlflow_privacy.types import Estimate

    drifted = stored(example(2, 0.9, blind=Estimate(0.7, 0.66, 0.74, 600)))
    assert any("differ even without the model" in note for note in compare_audits([weak, drifted]).notes)
    below = stored(example(2, 0.9, blind=Estimate(0.467, 0.436, 0.499, 600)))
    assert not any("differ even without the model" in note for note in compare_audits([weak, below]).notes)


def test_another_attack_can_be_compared_and_an_unknown_one_names_those_that_ran(weak, strong):
    result = compare_audits([weak, strong], attack="population")
    assert result.attack == "population"
    assert result.pairs[0].auc_difference.p_value == 1  # made alike in both examples
    with pytest.raises(ConfigError, match=r"attack 'lirra' not in every audit.*credit v1: rmia, rmia_offline, lira"):
        compare_audits([weak, strong], attack="lirra")
    with pytest.raises(ConfigError, match="fprs must lie in"):
        compare_audits([weak, strong], fprs=(0.0,))


@pytest.mark.parametrize("uris", [[], ["models:/m/1"], "models:/m/1"])
def test_one_model_is_no_comparison(uris):
    with pytest.raises(ConfigError, match="at least two"):
        compare(uris)


def test_the_page_escapes_names_labels_and_row_ids_and_loads_nothing(weak, strong):
    evil = '"><img src=x onerror=alert(1)>'
    bad = dataclasses.replace(
        strong, label=evil, scores=strong.scores.assign(label=evil), record={**strong.record, "task": evil}
    )
    also = dataclasses.replace(weak, scores=weak.scores.assign(label=evil))
    page = comparison_html(compare_audits([also, bad]))
    assert "<img" not in page
    assert "&lt;img" in page
    assert not re.findall(r"<script|<link|<iframe|url\(|src=[\"']?http", page)
    assert not re.findall(r"https?://", page)


def test_metric_names_are_unique_and_what_mlflow_takes(weak, strong):
    assert metric_labels(["a b v1", "a b v2", "c v1"]) == ["a_b_v1", "a_b_v2", "c_v1"]
    names = compare_audits([weak, strong, dataclasses.replace(strong, label="credit v2")]).metrics
    assert "compare/v2_vs_v1/auc_difference" in names
    assert "compare/v2-2_vs_v1/auc_difference_p_holm" in names
    assert all(re.fullmatch(r"[\w\-. /]+", name) for name in names)


# --- through MLflow ----------------------------------------------------------------------------------------------


@pytest.fixture
def publish(tracking, monkeypatch):
    """Registers a version that holds nothing and publishes an audit of it; returns its URI."""
    monkeypatch.setattr(results, "roc_figure", lambda result: b"")
    monkeypatch.setattr(results, "score_histograms", lambda result: b"")
    monkeypatch.setattr(results, "_write_report", lambda *args, **given: [])  # the report has tests of its own
    experiment = tracking.get_experiment_by_name("test").experiment_id

    def publish(result, finish=True):
        with contextlib.suppress(MlflowException):
            tracking.create_registered_model("credit")
        source = tracking.create_run(experiment).info.run_id
        model_id = tracking.create_logged_model(experiment, name="model", source_run_id=source).model_id
        version = str(tracking.create_model_version("credit", f"models:/{model_id}", source).version)
        model = AuditedModel(f"models:/credit/{version}", "credit", version, model_id, source, "sklearn")
        run_id = tracking.create_run(experiment).info.run_id
        results.publish(dataclasses.replace(result, model=model), run_id=run_id, client=tracking, log_metrics=True)
        if finish:
            tracking.set_terminated(run_id)
        return model.uri

    return publish


def test_what_is_read_back_is_what_was_found(publish, tracking):
    result = example(1, 0.4)
    audit = read_audit(publish(result), tracking)
    assert audit.metrics == pytest.approx(result.metrics)
    assert audit.label == "credit v1"
    assert audit.attacks == ("rmia", "rmia_offline", "lira", "population")
    order = audit.scores["row_id"].map({r: i for i, r in enumerate(result.row_ids)}).to_numpy()
    np.testing.assert_array_equal(np.argsort(audit.ranks("rmia")), np.argsort(result.attacks[0].scores.rank()[order]))


def test_a_comparison_becomes_a_run_with_a_page(publish, tracking):
    uris = [publish(example(1, 0.4)), publish(example(2, 0.9))]
    result = compare(uris, client=tracking)
    run = tracking.get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == pytest.approx(result.metrics)
    assert run.data.tags["privacy.role"] == "comparison"
    assert run.data.tags["privacy.fair"] == "yes"
    assert run.data.tags["privacy.models"].split() == uris
    page, record = (
        Path(tracking.download_artifacts(result.run_id, f"privacy/compare.{end}")).read_text(encoding="utf-8")
        for end in ("html", "json")
    )
    assert "credit v2 gives away more" in page
    record = json.loads(record)
    assert record["pairs"][0]["auc_difference"]["estimate"]["value"] == pytest.approx(
        result.pairs[0].auc_difference.estimate.value
    )
    assert "rocs" not in record["pairs"][0]


def test_the_command_compares_prints_and_writes_the_page(publish, tmp_path):
    uris = [publish(example(1, 0.4)), publish(example(2, 0.9))]
    call = lambda *args: CliRunner().invoke(main, ["compare", *uris, *args])
    shown = call()
    assert shown.exit_code == 0, shown.output
    assert "credit v2 gives away more" in shown.output
    assert "privacy/compare.html" in shown.output
    silent = call("--no-log", "--output", str(tmp_path / "page.html"), "--json", "--fpr", "0.05")
    record = json.loads(silent.output)
    assert record["run_id"] is None
    assert "compare/v2_vs_v1/tpr_at_fpr_0.05_difference" in record["metrics"]
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
    assert CliRunner().invoke(main, ["compare", uris[0]]).exit_code == 2
    assert CliRunner().invoke(main, ["compare", uris[0], "models:/credit/9"]).exit_code == 2


def test_an_audit_without_scores_or_with_foreign_files_is_a_clear_error(publish, tracking, tmp_path):
    uri = publish(example(1, 0.4))
    run_id = read_audit(uri, tracking).run_id
    (tmp_path / "audit.json").write_text("[]")
    tracking.log_artifact(run_id, str(tmp_path / "audit.json"), "privacy")
    with pytest.raises(StoreError, match=r"audit.json is not of schema 1.*mlflow-privacy audit models:/credit/1"):
        read_audit(uri, tracking)
    (tmp_path / "audit.json").write_text("{")
    tracking.log_artifact(run_id, str(tmp_path / "audit.json"), "privacy")
    with pytest.raises(StoreError, match="cannot be read"):
        read_audit(uri, tracking)


def test_an_audit_run_of_another_model_is_refused(publish, tracking):
    one, two = publish(example(1, 0.4)), publish(example(2, 0.9))
    other = read_audit(two, tracking).run_id
    assert read_audit(two, tracking, run_id=other).run_id == other
    with pytest.raises(StoreError, match="is no audit of models:/credit/1"):
        read_audit(one, tracking, run_id=other)
