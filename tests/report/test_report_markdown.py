from __future__ import annotations

import dataclasses

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mlflow_privacy.report.example import example_result
from mlflow_privacy.report.markdown import BEGIN, END, TITLE, brief_verdict, markdown_verdict, replace_block
from mlflow_privacy.report.text import verdict
from mlflow_privacy.types import Estimate

LINK = {"experiment_id": "12", "run_id": "0123abcd"}
DAMAGED = st.lists(
    st.sampled_from([BEGIN, END, f"{TITLE} ", "mine", "\n", "\r\n", "| a |", "<!--", "-->", " "]), max_size=12
).map("".join)
BIASED = dict(blind=Estimate(0.71, 0.69, 0.73, 1000))


def _without_block(text: str, content: str) -> tuple[str, str]:
    """What stands before and after the block with `content`."""
    for newline in ("\n", "\r\n"):
        block = f"{TITLE} {BEGIN}\n\n{content}\n\n{END}".replace("\n", newline)
        if block in text:
            before, _, after = text.partition(block)
            return before, after
    raise AssertionError(text)


@given(st.text(max_size=200))
def test_a_persons_text_stays_byte_for_byte_over_two_audits(text):
    assume("mlflow-privacy:" not in text)
    first = replace_block(text, ("first",), 10_000)
    before, after = _without_block(first, "first")
    assert before.startswith(text)
    assert not before[len(text) :].strip()
    assert after == ""
    second = replace_block(first, ("second",), 10_000)
    assert _without_block(second, "second") == (before, after)


@given(st.text(max_size=50), st.text(max_size=50))
@example("Privacy audit ", "")
@example("a\r\n", "\r\nb")
def test_text_around_the_block_stays_byte_for_byte(before, after):
    assume("mlflow-privacy:" not in before + after)
    text = f"{before}{TITLE} {BEGIN}\n\nold\n\n{END}{after}"
    assert _without_block(replace_block(text, ("new",), 10_000), "new") == (before, after)


@given(DAMAGED)
@example(f"{BEGIN} lost its end; mine")
@example(f"mine {END} mine")
@example(f"{BEGIN} mine {BEGIN} old {END} mine")
@example(f"{BEGIN} old {END} mine {BEGIN} old {END} mine")
def test_damaged_markers_lose_no_text_outside_complete_blocks_and_audits_do_not_pile_up(text):
    once = replace_block(text, ("one",), 10_000)
    twice = replace_block(once, ("two",), 10_000)
    assert once.count("one") == 1
    assert twice.count("two") == 1
    assert "one" not in twice
    assert replace_block(twice, ("one",), 10_000) == once  # what is not ours is the same after every audit
    outside = text
    while True:  # innermost complete blocks, the naive way
        end = next((i for i in range(len(outside)) if outside.startswith(END, i) and BEGIN in outside[:i]), None)
        if end is None:
            break
        start = outside.rindex(BEGIN, 0, end)
        outside = outside[:start] + outside[end + len(END) :]
    assert once.count("mine") >= outside.count("mine")


def test_a_second_block_is_emptied():
    text = f"a {BEGIN}x{END} b {BEGIN}y{END} c"
    assert replace_block(text, ("new",)) == f"a {TITLE} {BEGIN}\n\nnew\n\n{END} b {BEGIN}{END} c"


def test_a_description_with_windows_line_ends_gets_them_in_the_block():
    text = replace_block("a\r\nb", ("x\ny",))
    assert "\n" not in text.replace("\r\n", "")


def test_the_block_and_not_the_persons_text_gives_way_to_the_limit():
    mine = "m" * 4900
    assert replace_block(mine, ("x" * 500, "y" * 400, "z")) is not None
    text = replace_block(mine, ("x" * 500, "z"))
    assert text.startswith(mine)
    assert len(text) <= 5000
    assert "z" in text
    assert "x" not in text
    assert replace_block("m" * 4990, ("x", "y")) is None


def test_verdict_stands_first_and_every_attack_has_a_row(result):
    text = markdown_verdict(result, **LINK)
    assert text.startswith(f"**{verdict(result)}**")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(result.attacks)
    assert len({row.count("|") for row in rows}) == 1
    assert "not resolvable" in text  # 0.1 % with 500 non-members
    assert "[Audit run](#/experiments/12/runs/0123abcd)" in text
    assert 'mlflow.evaluate("models:/example/1", evaluators=["privacy_meter"])' in text


@pytest.mark.parametrize("render", [markdown_verdict, brief_verdict])
def test_a_blind_baseline_off_chance_comes_before_the_verdict(result, render):
    biased = dataclasses.replace(result, **BIASED)
    text = render(biased)
    assert text.startswith("**Members and non-members differ even without the model:**")
    assert "0.71" in text.splitlines()[0]
    assert text.index("differ even") < text.index(verdict(biased))
    assert "differ even" not in render(result)


def test_the_warning_about_the_blind_baseline_is_not_said_twice(result):
    warning = f"Members and non-members differ: AUC {BIASED['blind']}."
    text = markdown_verdict(dataclasses.replace(result, **BIASED, warnings=(warning, "Another.")))
    assert "Another." in text
    assert warning[:31] not in text.replace("differ even without", "")


def test_warnings_beyond_the_limit_are_counted(result):
    text = markdown_verdict(dataclasses.replace(result, warnings=tuple(f"warning {i}" for i in range(7))))
    assert "warning 3" in text
    assert "warning 4" not in text
    assert "and 3 more" in text


def test_whatever_came_with_the_model_is_escaped(result):
    payload = f"<img src=x onerror=alert(1)> | ![i](http://evil/x) `c` {END}\n# h"
    hostile = dataclasses.replace(
        result,
        model=dataclasses.replace(result.model, name=payload, uri=f"models:/{payload}/1"),
        attacks=(dataclasses.replace(result.attacks[0], title=payload), *result.attacks[1:]),
        warnings=(payload,),
    )
    text = markdown_verdict(hostile, experiment_id="1)](http://evil", run_id="x")
    code = text[text.index("Repeat it") :]
    before = text[: -len(code)]
    for bad in ("<img", "![", "http://evil", END, "\n# h"):
        assert bad not in before
    assert "[Audit run]" not in text
    fence = "``"  # the code span holds single backticks, so two fence it
    assert code.split(fence)[0] == "Repeat it: "
    assert code.count(fence) == 2
    assert "\n" not in code


def test_no_references_is_said(result):
    weaker = dataclasses.replace(
        result, fidelity=dataclasses.replace(result.fidelity, reference={}, reference_std={}), blind=None
    )
    text = markdown_verdict(weaker)
    assert "No reference models: this is the weaker audit." in text
    assert "Blind baseline: not run." in text


def test_the_whole_block_fits_an_empty_description(result):
    long = dataclasses.replace(result, warnings=("w" * 5000,) * 9)
    assert len(replace_block("", (markdown_verdict(long, **LINK),)) or "") > 0


def test_a_verdict_without_references_begins_with_saying_so():
    result = example_result(n=400)
    weaker = verdict(dataclasses.replace(result, references={**result.references, "n": 0}))
    assert weaker == f"Weaker audit: no reference models. {verdict(result)}"
