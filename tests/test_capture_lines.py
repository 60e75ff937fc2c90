"""Lines from files, pipes and ports become rows; garbage is counted, writers may come and go."""

import os
import pty
import time

import numpy as np
import pytest

from agent.capture import open_source
from agent.capture.lines import LineParser, LineSplitter
from agent.clock import SystemClock
from agent.errors import CaptureError
from agent.settings.capture import LineFormat, LinesConfig, SerialConfig
from tests.recordings import take, until_broken


def _parse(lines, **config):
    parser = LineParser(LineFormat(**config))
    return [row.values.tolist() for line in lines if (row := parser.parse(line.encode()))], parser


def _names(parser):
    return [(c.name, c.unit) for c in parser.channels]


def test_a_header_names_the_columns():
    """Names from the first line, units from the configuration; the time is no channel; the header may come again."""
    rows, parser = _parse(["time,temp,hum", "1,20.5,40", "time,temp,hum", "2,21,41"], units={"temp": "Cel"})
    assert rows == [[20.5, 40], [21, 41]]
    assert _names(parser) == [("temp", "Cel"), ("hum", "1")]
    assert parser.bad_lines == 0


def test_columns_choose_and_order():
    """With a header the configured columns pick; without one they name the fields from left to right."""
    assert _parse(["a,b,c", "1,2,3"], columns=("c", "a"))[0] == [[3, 1]]
    rows, parser = _parse(["7;1;2"], columns=("time", "x", "y"), separator=";")
    assert (rows, _names(parser)) == ([[1, 2]], [("x", "1"), ("y", "1")])


def test_a_table_without_names_gets_some():
    """c0, c1 ...; a leading time stamp is understood as the time."""
    assert _names(_parse(["1,2"])[1]) == [("c0", "1"), ("c1", "1")]
    parser = LineParser(LineFormat())
    row = parser.parse(b"2024-01-01T00:00:10Z,5")
    assert (row.values.tolist(), row.t_s, _names(parser)) == ([5], 1704067210.0, [("c0", "1")])


def test_json_lines_take_numeric_keys_or_the_configured_ones():
    """Text and nested values are no channels; a key that is missing later is NaN; lists work too."""
    rows, parser = _parse(
        ['{"ts": 5, "id": "a", "x": 1, "on": true, "more": {"z": 1}}', '{"ts": 6, "on": false}'], format="json"
    )
    np.testing.assert_array_equal(rows, [[1, 1], [np.nan, 0]])
    assert [c.name for c in parser.channels] == ["x", "on"]
    assert _parse(['{"x": 1, "y": 2}'], format="json", columns=("y",))[0] == [[2]]
    assert _parse(["[1, 2.5]"], format="json")[0] == [[1, 2.5]]


def test_nan_from_a_sensor_is_a_missing_reading_and_is_counted():
    """Empty, nan, null, inf: the row comes with NaN there, the next row goes on."""
    rows, parser = _parse(["1,2", "nan,3", ",4", "inf,5", "null,6", "7,8"])
    np.testing.assert_array_equal(rows, [[1, 2], [np.nan, 3], [np.nan, 4], [np.nan, 5], [np.nan, 6], [7, 8]])
    assert (parser.not_a_number, parser.bad_lines) == (4, 0)
    rows, parser = _parse(["1", "nan", "2"])
    np.testing.assert_array_equal(rows, [[1], [np.nan], [2]])


@pytest.mark.parametrize(
    "garbage",
    ["hello", "1", "1,2,3", "x,y", "\ufffd\ufffd", '"1,2', "1_000,x", ",,,,", "9" * 400 + ",x", "[[[[", "{}"],
)
@pytest.mark.parametrize("kind", ["csv", "json"])
def test_garbage_is_counted_and_the_next_line_goes_on(kind, garbage):
    """Whatever the line holds, it is a bad line and nothing else."""
    good = ["1,2", "3,4"] if kind == "csv" else ['{"a":1,"b":2}', '{"a":3,"b":4}']
    rows, parser = _parse([good[0], garbage, good[1]], format=kind)
    assert rows == [[1, 2], [3, 4]]
    assert parser.bad_lines == 1
    assert parser.last_bad


def test_deeply_nested_json_is_a_bad_line():
    """Brackets by the thousand do not exhaust the stack."""
    rows, parser = _parse(["[" * 100_000, '{"a": 1}'], format="json")
    assert (rows, parser.bad_lines) == ([[1]], 1)


def test_lines_are_cut_the_same_however_they_arrive():
    """Byte by byte or at once; a line that is too long is left out as a whole, and only that one."""
    text = b"1,2\n" + b"x" * 50 + b"\n3,4\r\n" + b"y" * 17 + b"\n5,6\n7"
    for step in (1, 3, 16, 1000):
        splitter = LineSplitter(16)
        lines = [line for i in range(0, len(text), step) for line in splitter.push(text[i : i + step])]
        assert lines == [b"1,2", b"3,4\r", b"5,6"], step
        assert splitter.long_lines == 2
        assert splitter.rest() == b"7"


def test_an_endless_line_needs_no_memory():
    """A gigabyte without a line end is dropped as it comes."""
    splitter = LineSplitter(100)
    for _ in range(100):
        splitter.push(b"z" * 100_000)
        assert len(splitter._rest) <= 100
    assert splitter.push(b"\n1,2\n") == [b"1,2"]
    assert splitter.long_lines == 1


def _lines(path, **settings):
    return open_source("s", LinesConfig(path=path, **settings), SystemClock())


def _append(path, text):
    with path.open("a") as file:
        file.write(text)


def test_a_growing_file_is_followed_from_its_end(tmp_path):
    """Old rows are not news, but the old header names the new ones; half a line waits for its rest."""
    path = tmp_path / "log.csv"
    path.write_text("time,temp\n1,20\n")
    with _lines(path) as source:
        assert source.read(0.05) is None
        _append(path, "2,21\n3,2")
        (sample,) = take(source, 1)
        assert (sample.data.tolist(), sample.channels[0].name) == ([21], "temp")
        assert source.read(0.2) is None
        _append(path, "2.5\n")
        assert take(source, 1)[0].data.tolist() == [22.5]


def test_a_file_read_from_its_begin_delivers_what_is_there(tmp_path):
    """start = begin takes the old rows too."""
    (tmp_path / "log.csv").write_text("a\n1\n2\n")
    with _lines(tmp_path / "log.csv", start="begin") as source:
        assert [s.data.tolist() for s in take(source, 2)] == [[1], [2]]


def test_a_rotated_or_cut_file_is_followed(tmp_path):
    """Renamed away and made anew, then cut to nothing: no row of the new content is lost."""
    path = tmp_path / "log.csv"
    path.write_text("a\n")
    with _lines(path) as source:
        _append(path, "1\n")
        assert take(source, 1)[0].data.tolist() == [1]
        path.rename(tmp_path / "log.1")
        path.write_text("a\n2\n")
        assert take(source, 1)[0].data.tolist() == [2]
        path.write_text("3\n")
        assert take(source, 1)[0].data.tolist() == [3]


def test_pipe_writers_may_come_and_go(tmp_path):
    """Each `echo > pipe` opens and closes the pipe: every line of every writer arrives."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with _lines(path) as source:
        for number in range(5):
            assert source.read(0.02) is None
            with path.open("w") as pipe:
                pipe.write(f"{number}\n{number + 10}\n")
            assert [s.data[0] for s in take(source, 2)] == [number, number + 10]


def test_a_pipe_whose_writer_went_away_breaks_at_the_deadline_and_costs_no_cpu(tmp_path):
    """No writer for 0.6 s: the error asks whether the sender runs; waiting does not spin."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with _lines(path, read_timeout_s=0.6) as source:
        with path.open("w") as pipe:
            pipe.write("1\n")
        take(source, 1)
        cpu = time.process_time()
        _, error = until_broken(source)
    assert time.process_time() - cpu < 0.2
    assert "pipe: no usable line for 0.6 s: is the sender running" in str(error)


def test_a_sender_of_garbage_is_quoted(tmp_path):
    """Only nonsense for too long: the error shows the last of it."""
    path = tmp_path / "log.csv"
    path.write_text("")
    with _lines(path, read_timeout_s=0.3) as source:
        _append(path, "boot ok\nwaiting\n")
        _, error = until_broken(source)
    assert "1 were not understood, the last: 'waiting'" in str(error)


def test_what_is_no_place_for_lines_is_refused(tmp_path):
    """A folder, nothing at all."""
    with pytest.raises(CaptureError, match="is neither a file nor a pipe: for a port use kind = 'serial'"):
        _lines(tmp_path)
    with pytest.raises(CaptureError, match="No such file or directory: does the sender run"):
        _lines(tmp_path / "none")


def test_a_serial_port_delivers_rows_and_an_unplugged_one_breaks():
    """Through a pseudo terminal: rows arrive; when the other end goes away the error says to plug it in."""
    ours, theirs = pty.openpty()
    lines = LineFormat(columns=("temp", "hum"), units={"temp": "Cel"})
    with open_source("s", SerialConfig(port=os.ttyname(theirs), baud=9600, lines=lines), SystemClock()) as source:
        os.write(ours, b"\xff\xfe20.5,40\r\n21,41\r\n")
        os.write(ours, b"22,")
        time.sleep(0.05)
        os.write(ours, b"42\r\n")
        samples = take(source, 3)
        # line noise when the port opens spoils one value, not the row
        np.testing.assert_array_equal([s.data for s in samples], [[np.nan, 40], [21, 41], [22, 42]])
        assert samples[0].channels[0].unit == "Cel"
        assert source.counts()["not_a_number"] == 1
        os.close(ours)
        os.close(theirs)
        _, error = until_broken(source)
    assert "the port is gone: plug it in again" in str(error)


def test_a_silent_port_breaks_at_its_deadline():
    """A sensor that stopped sending is noticed."""
    ours, theirs = pty.openpty()
    config = SerialConfig(port=os.ttyname(theirs), read_timeout_s=0.3)
    with open_source("s", config, SystemClock()) as source:
        _, error = until_broken(source)
    os.close(ours)
    os.close(theirs)
    assert "no usable line for 0.3 s" in str(error)


def test_a_port_that_is_not_there_says_what_to_look_at(tmp_path):
    """Plug, group, other programs."""
    with pytest.raises(CaptureError, match=r"the port cannot be opened.*'dialout'"):
        open_source("s", SerialConfig(port=tmp_path / "ttyUSB7"), SystemClock())
