"""A microphone that is a real ALSA device to the agent: the monitor of a PulseAudio null sink, through PortAudio."""

import ctypes.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent

LISTEN = """
import json, sys, time
import numpy as np
from agent.capture import open_source
from agent.clock import SystemClock
from agent.errors import CaptureError
from agent.settings.capture import MicrophoneConfig
from agent.strict import build

config = build(MicrophoneConfig, json.loads(sys.argv[1]), "test")
wanted, samples, error = int(sys.argv[2]), [], ""
try:
    with open_source("mic", config, SystemClock()) as source:
        until = time.monotonic() + 15
        while len(samples) < wanted and time.monotonic() < until:
            sample = source.read(0.2)
            if sample is not None:
                samples.append(sample)
                print("sample", flush=True)
except CaptureError as exc:
    error = str(exc)
sound = np.concatenate([s.data for s in samples]) if samples else np.zeros(0, np.int16)
print(json.dumps({
    "error": error, "sound": sound.tolist(), "t_s": [s.t_s for s in samples], "gaps": sum(s.gap for s in samples),
}))
"""


def _missing():
    if not shutil.which("pulseaudio") or not shutil.which("pacat"):
        return "no PulseAudio: apt install pulseaudio pulseaudio-utils"
    if not list(Path("/usr/lib").glob("*/alsa-lib/libasound_module_pcm_pulse.so")):
        return "no ALSA plugin for PulseAudio: apt install libasound2-plugins"
    return "" if ctypes.util.find_library("portaudio") else "no PortAudio: apt install libportaudio2"


@pytest.fixture
def pulse(tmp_path):
    """A sound server of its own, whose only input hears what is played to its only output."""
    if _missing():
        pytest.skip(_missing())
    socket = tmp_path / "socket"
    own = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "PULSE_RUNTIME_PATH": str(tmp_path / "rt")}
    env = os.environ | own | {"PULSE_SERVER": f"unix:{socket}", "PULSE_SOURCE": "null.monitor", "PULSE_SINK": "null"}
    command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=false"]
    protocol = f"module-native-protocol-unix socket={socket} auth-anonymous=1"
    modules = ["module-null-sink sink_name=null rate=48000", protocol]
    command += [word for module in modules for word in ("-L", module)]
    with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as server:
        until = time.monotonic() + 10
        while not socket.exists() and time.monotonic() < until:
            time.sleep(0.05)
        yield server, env
        server.kill()


def _listen(env, count, **config):
    command = [sys.executable, "-c", LISTEN, json.dumps(config), str(count)]
    return subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _heard(listener):
    return json.loads(listener.communicate(timeout=30)[0].splitlines()[-1])


@pytest.mark.parametrize("config", [{"device": "pulse"}, {"capture_rate_hz": 44100, "channels": 2}])
def test_a_microphone_hears_the_tone_that_is_played(pulse, config, tmp_path):
    """1000 Hz into the sink at 48 kHz comes out of the source as 1000 Hz at 16 kHz, whatever is asked of the device."""
    _, env = pulse
    tone = 8000 * np.sin(2 * np.pi * 1000 * np.arange(48000 * 20) / 48000)
    (tmp_path / "tone").write_bytes(tone.astype("<i2").tobytes())
    player = ["pacat", "--playback", "--raw", "--rate=48000", "--channels=1", "--format=s16le", str(tmp_path / "tone")]
    with subprocess.Popen(player, env=env, stderr=subprocess.DEVNULL) as speaker:
        with _listen(env, 18, **config) as listener:
            heard = _heard(listener)
        speaker.kill()
    assert heard["error"] == ""
    sound = np.array(heard["sound"][-16000:])
    assert np.abs(np.fft.rfft(sound * np.hanning(16000))).argmax() == 1000
    assert 7500 < sound.max() < 8500
    assert heard["gaps"] == 0
    np.testing.assert_allclose(np.diff(heard["t_s"]), 0.1, atol=1e-6)


def test_a_microphone_that_goes_away_breaks_in_time(pulse):
    """The sound server dies in mid stream: an error within the deadline, not a hang."""
    server, env = pulse
    with _listen(env, 1000, device="pulse", read_timeout_s=2.0) as listener:
        assert listener.stdout.readline() == "sample\n"
        server.kill()
        began = time.monotonic()
        heard = _heard(listener)
    assert time.monotonic() - began < 5
    assert heard["error"].startswith("pulse: ")


def test_a_machine_without_that_microphone_lists_what_it_has(pulse):
    """The name that was asked for, and the names there are."""
    _, env = pulse
    with _listen(env, 1, device="USB Microphone") as listener:
        error = _heard(listener)["error"]
    assert error.startswith("USB Microphone: cannot be opened: ")
    assert "inputs here: pulse" in error
