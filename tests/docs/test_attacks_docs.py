"""The examples of docs/attacks.md, run as a reader would: arrays first, then attacks."""

import doctest
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "attacks.md"


def test_examples_of_the_page_print_what_it_says():
    five, arrays, by_name = re.findall(r"```pycon\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert five.count(">>>") == 5
    found = doctest.DocTestParser().get_doctest("\n".join((arrays, five, by_name)), {}, PAGE.name, str(PAGE), 0)
    said = []
    failures, tried = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(found, out=said.append)
    assert failures == 0, "".join(said)
    assert tried == len(re.findall(r"^>>>", five + arrays + by_name, re.MULTILINE))
