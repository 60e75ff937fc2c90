"""The table of the real data: no case is forgotten, a wrong answer is called wrong, and without data it says so."""

import copy
import json
import os
import subprocess
import sys

import pytest

from tests.realdata import REPO, ROOT, case, needed
from tools import truth


@needed
def test_every_case_of_the_index_has_its_row():
    """A case that is added to the data must be answered or left out with a reason."""
    names = {one["id"] for one in json.loads((ROOT / "index.json").read_text())["cases"]}
    assert names == truth.CASES.keys() | truth.LEFT_OUT.keys()
    assert set(truth.LEFT_OUT) == {"o20-ad-scores"}


@needed
def test_the_table_tells_case_expected_got_and_latency(capsys):
    """Three quick cases: each row says ok and has its times; the end counts them."""
    assert truth.main(["o01", "o15", "o19"]) == 0
    head, *rows, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["case", "of", "expected", "got", "ms", "model", "ref"]
    assert [row.split()[:2] for row in rows].count(["ok", "o01-vww-int8"]) == 4
    assert all(row.startswith("ok") for row in rows)
    assert all(float(row.split()[-1]) > 0 for row in rows if "o01" in row)
    assert last == "11 of 11 as expected"


@needed
@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("o01-vww-int8", lambda want: next(iter(want.values())).update(p_ref=0.5)),
        ("o09a-fastestdet", lambda want: next(iter(want.values())).update(must_count={"cat": 2})),
        ("o13-movenet", lambda want: want.update(max_abs_xy_error=0.001)),
        ("o15-mnist-lstm-int8", lambda want: want.update({"inputs/sample3.png": 5})),
    ],
)
def test_a_wrong_answer_is_called_wrong(name, spoil):
    """With one expectation changed, one row is wrong and the others stay right."""
    spoiled = copy.deepcopy(case(name))
    spoil(spoiled["expected"])
    rows = list(truth.CASES[name](spoiled))
    assert [row.good for row in rows].count(False) == 1


def test_without_the_data_it_says_why_and_fails_nothing(tmp_path):
    """`make truth` on any machine."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.truth"], cwd=REPO, env={**os.environ, "LIMPET_REALDATA": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.startswith(f"skipped: no real data at {tmp_path}: set LIMPET_REALDATA")
