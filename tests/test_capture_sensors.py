"""Sensors of the machine: sysfs files found and scaled, load from /proc, a steady schedule."""

import numpy as np
import pytest

from agent.capture import open_source
from agent.clock import SystemClock, kernel_synced
from agent.errors import CaptureError
from agent.settings.capture import LoadConfig, SysfsChannel, SysfsConfig
from tests.clocks import FakeClock
from tests.recordings import take


def _write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def sysfs(tmp_path):
    """A tree as the kernel lays it out: a hwmon chip, a thermal zone, two IIO devices."""
    _write(tmp_path, {
        "class/hwmon/hwmon0/name": "nct6775\n", "class/hwmon/hwmon0/temp1_input": "41500\n",
        "class/hwmon/hwmon0/temp1_label": "CPU Die\n", "class/hwmon/hwmon0/fan2_input": "1200\n",
        "class/hwmon/hwmon0/in0_input": "3312\n", "class/hwmon/hwmon0/pwm1": "255\n",
        "class/thermal/thermal_zone0/type": "cpu-thermal\n", "class/thermal/thermal_zone0/temp": "48312\n",
        "bus/iio/devices/iio:device0/name": "bme280\n", "bus/iio/devices/iio:device0/in_temp_input": "21350\n",
        "bus/iio/devices/iio:device0/in_pressure_input": "101.325\n",
        "bus/iio/devices/iio:device1/name": "lsm6dso\n", "bus/iio/devices/iio:device1/in_accel_x_raw": "-1024\n",
        "bus/iio/devices/iio:device1/in_accel_scale": "0.000598\n",
        "bus/iio/devices/iio:device1/in_temp_raw": "128\n", "bus/iio/devices/iio:device1/in_temp_scale": "3.90625\n",
        "bus/iio/devices/iio:device1/in_temp_offset": "6400\n",
    })  # fmt: skip
    return tmp_path


def test_every_sensor_is_found_with_unit_and_scale(sysfs):
    """hwmon, thermal and IIO values come in the units that people use."""
    with open_source("s", SysfsConfig(root=sysfs), FakeClock()) as source:
        sample = source.read(1)
    found = {c.name: (value, c.unit) for c, value in zip(sample.channels, sample.data, strict=True)}
    expected = {
        "nct6775.CPU_Die": (41.5, "Cel"), "nct6775.fan2": (1200, "/min"), "nct6775.in0": (3.312, "V"),
        "cpu_thermal.zone0": (48.312, "Cel"), "bme280.temp": (21.35, "Cel"), "bme280.pressure": (101.325, "kPa"),
        "lsm6dso.accel_x": (-0.612352, "m/s2"), "lsm6dso.temp": (25.5, "Cel"),
    }  # fmt: skip
    assert found.keys() == expected.keys()
    for name, (value, unit) in expected.items():
        assert found[name] == (pytest.approx(value), unit), name


def test_chosen_channels_find_their_file_by_pattern(sysfs):
    """hwmon numbers change from boot to boot: a pattern finds the file, offset and scale are the configuration's."""
    channel = SysfsChannel(
        name="board", path=f"{sysfs}/class/hwmon/hwmon*/temp1_input", unit="[degF]", scale=0.0018, offset=17777.78
    )
    with open_source("s", SysfsConfig(channels=(channel,)), FakeClock()) as source:
        sample = source.read(1)
    assert sample.data[0] == pytest.approx(41.5 * 1.8 + 32, abs=0.01)
    assert (sample.channels[0].name, sample.channels[0].unit) == ("board", "[degF]")


def test_a_value_that_cannot_be_read_is_nan_and_all_of_them_are_an_error(sysfs):
    """One sensor gone: NaN and counted. All gone: the source is broken."""
    config = SysfsConfig(
        channels=(
            SysfsChannel(name="a", path=f"{sysfs}/class/hwmon/hwmon0/temp1_input"),
            SysfsChannel(name="b", path=f"{sysfs}/class/hwmon/hwmon0/fan2_input"),
        )
    )
    with open_source("s", config, FakeClock()) as source:
        take(source, 1)
        _write(sysfs, {"class/hwmon/hwmon0/temp1_input": "sensor asleep"})
        np.testing.assert_array_equal(take(source, 1)[0].data, [np.nan, 1200])
        assert source.counts() == {"not_a_number": 1}
        (sysfs / "class/hwmon/hwmon0/fan2_input").unlink()
        with pytest.raises(CaptureError, match="none of 2 values can be read: is the driver still loaded"):
            take(source, 1)


def test_a_machine_without_sensors_says_what_else_there_is(tmp_path):
    """No hwmon here: the message names the alternative; a wrong path names the place to look."""
    with pytest.raises(CaptureError, match="no hwmon, thermal or IIO sensor: use kind = 'load'"):
        open_source("s", SysfsConfig(root=tmp_path), FakeClock())
    with pytest.raises(CaptureError, match="there is no such file: look below /sys/class"):
        channels = (SysfsChannel(name="x", path="/sys/none/x"),)
        open_source("s", SysfsConfig(channels=channels), FakeClock())


def test_the_load_of_this_machine_is_plausible():
    """From the real /proc: shares between 0 and 100, a rate of switches above 0."""
    with open_source("s", LoadConfig(interval_s=0.2), SystemClock()) as source:
        samples = take(source, 3)
    assert [(c.name, c.unit) for c in samples[0].channels] == [
        ("cpu", "%"), ("memory", "%"), ("load1", "1"), ("switches", "1/s"),
    ]  # fmt: skip
    for sample in samples:
        assert 0 <= sample.data[0] <= 100
        assert 0 < sample.data[1] < 100
        assert sample.data[2] >= 0
        assert sample.data[3] > 0


def test_load_is_the_difference_between_two_readings(tmp_path):
    """30 of 40 jiffies busy are 75 %, 500 switches in 1 s are 500/s."""
    _write(tmp_path, {
        "stat": "cpu  100 0 100 700 50 0 50 0 0 0\nintr 5\nctxt 1000\n", "loadavg": "0.25 0.1 0.0 1/100 1\n",
        "meminfo": "MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 250 kB\n",
    })  # fmt: skip
    with open_source("s", LoadConfig(root=tmp_path), FakeClock()) as source:
        _write(tmp_path, {"stat": "cpu  120 0 105 708 52 0 55 0 0 0\nintr 5\nctxt 1500\n"})
        (sample,) = take(source, 1)
    assert sample.data.tolist() == pytest.approx([75, 75, 0.25, 500])


def test_the_schedule_does_not_drift_and_does_not_catch_up(sysfs):
    """Rows come at 0, 1, 2 ... s whatever reading costs; after a pause the missed ones are not made up."""
    clock = FakeClock()
    with open_source("s", SysfsConfig(root=sysfs), clock) as source:
        times = []
        for pause_s in (0.0, 0.3, 0.3, 3.5, 0.0, 0.0):
            clock.sleep(pause_s)
            times.append(take(source, 1)[0].t_mono_s - 1000)
    assert times == pytest.approx([0, 1, 2, 5.5, 6, 7])


def test_the_clock_knows_whether_it_can_be_believed(tmp_path):
    """Monotonic time does not go back; the state is the kernel's unless timesyncd has left its mark."""
    clock = SystemClock(timesync=tmp_path / "synchronized")
    assert clock.mono_s() <= clock.mono_s()
    assert clock.state() == ("synced" if kernel_synced() else "unsynced")
    (tmp_path / "synchronized").touch()
    assert SystemClock(timesync=tmp_path / "synchronized").state() == "synced"


def test_a_clock_in_1970_is_never_believed(tmp_path, monkeypatch):
    """A machine without a battery starts in the past: whatever else says so, it is not synced."""
    (tmp_path / "synchronized").touch()
    clock = SystemClock(timesync=tmp_path / "synchronized")
    monkeypatch.setattr(clock, "wall_s", lambda: 1000.0)
    assert clock.state() == "unsynced"
