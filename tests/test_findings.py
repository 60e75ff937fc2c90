"""Steps that rewrite findings."""

from agent.records import Finding
from pipelines.findings import LabelByValue


def test_a_reading_is_named_by_what_it_reads():
    """Text stays text, a number is written shortly, a finding without a value keeps its name."""
    findings = (Finding("reading", 0.9, value="01234"), Finding("reading", 0.8, value=12.50), Finding("door", 0.7))
    assert [f.label for f in LabelByValue()(findings)] == ["01234", "12.5", "door"]
    assert LabelByValue()(findings)[0].value == "01234"
