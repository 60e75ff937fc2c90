"""Sounds of many kinds: thresholds per label, several at once, parts of a view, means over views."""

import hashlib
import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.cli import main
from agent.errors import ModelError
from agent.records import Finding, View
from pipelines import make_step
from pipelines.chain import Chain, make_posts
from tests.recordings import write_wav

LABELS = ("silence", "speech", "dog", "alarm")
SEEN = View(np.empty(0), 10.0, 12.0)


def sounds(**keys):
    return make_step("decoder", {"step": "sounds", **keys}, "a test")


def heard(scores, seen=SEEN, labels=LABELS, **keys):
    found = sounds(**keys)({"scores": np.array(scores, np.float32)}, seen, labels)
    return [(f.label, round(f.score, 4)) for f in found]


def test_several_sounds_are_heard_at_once():
    """Each label by its own threshold, best first, those never told left out."""
    scores = [[0.9, 0.5, 0.7, 0.2]]
    assert heard(scores) == [("silence", 0.9), ("dog", 0.7), ("speech", 0.5)]
    assert heard(scores, ignore=["silence"], thresholds={"alarm": 0.1, "speech": 0.6}) == [("dog", 0.7), ("alarm", 0.2)]
    assert heard(scores, top_k=1) == [("silence", 0.9)]
    assert heard([[0.0, 0.0, 0.0, 0.0]]) == []


def test_equal_scores_keep_the_order_of_the_labels():
    """Findings do not depend on how a sort breaks ties."""
    assert [label for label, _ in heard([[0.5, 0.5, 0.5, 0.5]], top_k=3)] == ["silence", "speech", "dog"]


def test_logits_become_shares():
    """sigmoid for each on its own; a score of 0 is a half."""
    assert heard([[-20.0, 0.0, 20.0, -20.0]], activation="sigmoid") == [("dog", 1.0), ("speech", 0.5)]


def test_rows_are_parts_of_the_view():
    """A model that cuts the recording itself: mean, best, or each part with its own interval."""
    rows = [[0, 0.2, 0.8, 0], [0, 0.6, 0.0, 0]]
    assert heard(rows) == [("speech", 0.4), ("dog", 0.4)]
    assert heard(rows, parts="max") == [("dog", 0.8), ("speech", 0.6)]
    each = sounds(parts="each")({"scores": np.array([rows], np.float32)}, SEEN, LABELS)
    assert [(f.label, f.interval) for f in each] == [("dog", (10.0, 11.0)), ("speech", (11.0, 12.0))]


def test_one_score_and_one_label_is_a_model_of_its_own():
    """Voice activity: [1, 1] and one label."""
    assert heard([[0.75]], labels=("speech",)) == [("speech", 0.75)]
    assert heard([[0.75]], labels=("speech",), threshold=0.8) == []


@pytest.mark.parametrize(
    ("scores", "keys", "words"),
    [
        ([[0.1, 0.2, 0.3]], {}, r"is \[1, 3\] for 4 labels"),
        (np.zeros((4, 2)), {}, r"is \[4, 2\] for 4 labels"),
        (np.zeros((0, 4)), {}, "for 4 labels"),
        ([[0.1, 0.2, 0.3, np.nan]], {}, "not finite"),
        ([[0.1, 0.2, 0.3, np.inf]], {}, "not finite"),
        ([[0.1] * 4], {"thresholds": {"cat": 0.2}}, "'thresholds': 'cat' is none of"),
        ([[0.1] * 4], {"ignore": ["cat"]}, "'ignore': 'cat' is none of"),
        ([[0.1] * 4], {"output": "logits"}, "no output 'logits'"),
    ],
)
def test_what_does_not_fit_is_refused(scores, keys, words):
    """A label off by one is worse than none."""
    with pytest.raises(ModelError, match=words):
        heard(scores, **keys)


# ---- smooth


def _means(views, per_view, gaps=()):
    step = make_step("post", {"step": "smooth", "views": views}, "a test")
    state, out = step.initial(), []
    for i, scores in enumerate(per_view):
        found = tuple(Finding(label, score, interval=(i, i + 1)) for label, score in scores.items())
        state, made = step(state, found, View(np.empty(0), i, i + 1, gap=i in gaps))
        out.append({f.label: round(f.score, 6) for f in made})
    return out


def test_scores_become_means_over_views():
    """Absent is 0, also before the stream began; what is 0 throughout is not told."""
    means = _means(2, [{"dog": 0.8}, {"dog": 0.4, "speech": 1.0}, {}, {}])
    assert means == [{"dog": 0.4}, {"dog": 0.6, "speech": 0.5}, {"dog": 0.2, "speech": 0.5}, {}]


def test_a_gap_forgets_the_views():
    """No mean spans a loss."""
    assert _means(2, [{"dog": 1.0}, {"dog": 1.0}], gaps=(1,)) == [{"dog": 0.5}, {"dog": 0.5}]


def test_the_best_of_equal_labels_counts_and_order_follows_the_mean():
    """A view may name a label twice; the best mean stands first and has the newest interval."""
    step = make_step("post", {"step": "smooth", "views": 1}, "a test")
    twice = (Finding("dog", 0.9), Finding("cat", 0.95), Finding("dog", 0.2))
    _, found = step(step.initial(), twice, SEEN)
    assert [(f.label, f.score) for f in found] == [("cat", 0.95), ("dog", 0.9)]


def test_barking_becomes_stretches_of_time():
    """Decoder, smooth and spans: a dog that barks now and then is one event of known length; hiccups are none."""
    posts = [{"step": "smooth", "views": 2}, {"step": "spans", "on": 0.6, "off": 0.2, "min_s": 1, "min_gap_s": 1}]
    chain, decode, told = Chain(make_posts(posts, "a test")), sounds(threshold=0.05), []
    for i in range(60):
        bark = 0.9 if 10 <= i < 20 and i % 3 else 0.0
        alarm = 0.9 if i == 40 else 0.0
        seen = View(np.empty(0), i * 0.5, i * 0.5 + 0.5)
        told += chain(decode({"s": np.array([[0, 0.0, bark, alarm]], np.float32)}, seen, LABELS), seen)
    assert [(f.label, f.score, f.interval) for f in told] == [("dog", pytest.approx(0.9), pytest.approx((5.47, 10.53)))]


# ---- a model of its own, from sound to events

RATE, PATCH, HOP = 16_000, 15_600, 7_680

MANIFEST = """
schema = 1
name = "tones"
version = "1.0.0"
modality = "audio"
labels = ["hum", "alarm", "whistle"]
[[input]]
name = "waveform"
shape = [15600]
dtype = "float32"
[[output]]
name = "scores"
shape = [1, 3]
dtype = "float32"
[window]
step = "frames"
length_s = 0.975
hop_s = 0.48
[[pre]]
step = "waveform"
[decoder]
step = "sounds"
threshold = 0.05
thresholds = { hum = 0.2 }
[[post]]
step = "smooth"
views = 2
[[post]]
step = "spans"
on = 0.6
off = 0.4
min_s = 0.9
min_gap_s = 0.9
pad_s = 0.0
"""


def _tones_model(folder):
    """A graph with the ports of a well-known sound classifier: how much of three tones is in 15,600 samples."""
    turn = 2 * np.pi * np.outer(np.arange(PATCH) / RATE, (120, 440, 1760))
    parts = np.stack((np.cos(turn), np.sin(turn))).astype(np.float32) / PATCH  # [2, samples, 3]
    node = helper.make_node
    nodes = [
        node("MatMul", ["waveform", "parts"], ["both"]), node("Mul", ["both", "both"], ["squares"]),
        node("ReduceSum", ["squares", "axis"], ["power"], keepdims=1), node("Sqrt", ["power"], ["height"]),
        node("Mul", ["height", "gain"], ["scaled"]), node("Sub", ["scaled", "middle"], ["logits"]),
        node("Sigmoid", ["logits"], ["scores"]),
    ]  # fmt: skip
    held = {"parts": parts, "axis": np.array([0]), "gain": np.float32(200), "middle": np.float32(6)}
    graph = helper.make_graph(
        nodes, "tones", [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, [PATCH])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()],
    )  # fmt: skip
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    (folder / "tones").mkdir()
    (folder / "tones" / "tones.onnx").write_bytes(data)
    artifact = f'[[artifact]]\nfile = "tones.onnx"\nsha256 = "{hashlib.sha256(data).hexdigest()}"\nformat = "onnx"\n'
    (folder / "tones" / "model.toml").write_text(MANIFEST + artifact)


def _soundscape(path):
    """Twelve seconds of faint noise; a hum from 2 to 9 s, an alarm from 4 to 6 s, a whistle of 0.2 s at 10 s."""
    t_s = np.arange(12 * RATE) / RATE
    signal = np.random.default_rng(0).normal(0, 100, len(t_s))
    for hz, begin, end in ((120, 2, 9), (440, 4, 6), (1760, 10, 10.2)):
        signal += 6000 * np.sin(2 * np.pi * hz * t_s) * ((t_s >= begin) & (t_s < end))
    write_wav(path, signal, RATE)


def test_sounds_that_overlap_become_one_event_each(tmp_path, capsys):
    """Sound to events through `limpet replay`: an alarm during a hum is told by itself, a short whistle is not."""
    _tones_model(tmp_path)
    _soundscape(tmp_path / "yard.wav")
    rule = '[[rule]]\nkind = "appears"\nlabel = ["hum", "alarm", "whistle"]\n'
    text = 'schema = 1\nname = "yard"\nsource = "microphone"\n[model]\nname = "tones"\n' + rule
    (tmp_path / "yard.toml").write_text(text)
    assert main(["replay", "--pipeline", str(tmp_path / "yard.toml"), str(tmp_path / "yard.wav"), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    bodies = [line["body"] for line in lines if line["type"] == "event"]
    assert [body["label"] for body in bodies] == ["alarm", "hum"]
    for body, (begin, end) in zip(bodies, ((4, 6), (2, 9)), strict=True):
        assert body["interval"] == pytest.approx([begin, end], abs=1.0)
        assert body["score"] > 0.9
