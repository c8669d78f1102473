"""What the README says is so: the tests that it names are there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
README = (TESTS.parent / "README.md").read_text(encoding="utf-8")


def test_every_line_of_what_survives_what_names_tests_that_exist() -> None:
    section = README.partition("## What survives what")[2].partition("\n## ")[0]
    lines = [line.split("|")[3] for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(lines) > 20
    for line in lines:
        words = re.findall(r"`([^`]+)`", line)
        assert words[0].endswith(".py")
        for word in words:
            if word.endswith(".py"):
                source = (TESTS / word).read_text(encoding="utf-8")
            else:
                assert re.search(rf"^def {word}\(", source, re.MULTILINE), f"{word} is not in its file"
