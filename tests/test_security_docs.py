"""docs/security.md names a test for every attack and fault, and each of them exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROWS = [
    *(f"A{n}" for n in range(12)), *(f"B{n}" for n in range(1, 9)), *(f"C{n}" for n in range(1, 5)), "D1", "D2", "D3",
    "E1-E17", "E18", "E19", *(f"F{n}" for n in range(1, 5)), *(f"G{n}" for n in range(1, 6)), "H1", "H2",
]  # fmt: skip


def test_every_row_of_the_matrix_names_tests_that_exist():
    """A row without a test, or with one that was renamed, is found here."""
    text = (ROOT / "docs" / "security.md").read_text()
    rows = dict(re.findall(r"^\| ([A-H][\dE-]+) \|(.*)\|$", text, re.MULTILINE))
    assert list(rows) == ROWS
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    named = {row: re.findall(r"`(test_\w+(?:\.py)?)`", words) for row, words in rows.items()}
    assert [row for row, names in named.items() if not names] == []
    gone = [
        (row, name)
        for row, names in named.items()
        for name in names
        if not ((ROOT / "tests" / name).is_file() if name.endswith(".py") else f"def {name}(" in tests)
    ]
    assert gone == []


def test_every_command_attack_has_a_test_of_its_number():
    """E1 to E17, one by one."""
    text = (ROOT / "tests" / "test_command_attacks.py").read_text()
    assert [n for n in range(1, 18) if not re.search(rf"def test_e{n}_", text)] == []
