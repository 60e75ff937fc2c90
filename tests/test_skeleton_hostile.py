"""`limpet models new` on files that were made to break it: every one gives a text or a ModelError, in small memory."""

import struct
import tracemalloc
import zlib
from bz2 import compress

import flatbuffers
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from agent.cli import main
from agent.errors import ModelError
from agent.skeleton import skeleton
from agent.skeleton.tflite import read_tflite
from tests.skeleton_models import write_fixed

SCORES = {"scores": np.linspace(0, 1, 10, dtype=np.float32)[None]}
SMALL_BYTES = 150_000_000


def described(value):
    return helper.make_tensor_value_info(*value)


def write_graph(folder, nodes, takes, gives):
    """An .onnx file of these nodes, and of ports (name, type, shape) or whole ones."""
    ports = [[described(one) if isinstance(one, tuple) else one for one in side] for side in (takes, gives)]
    model = helper.make_model(helper.make_graph(nodes, "g", *ports), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path = folder / "made.onnx"
    onnx.save(model, path)
    return path


NOTES = {
    "keys of two kinds": {"names": "{1: 'a', 'b': 2}"}, "no value": {"names": "{[]}"},
    "a number without end": {"names": f"[0x{'f' * 100_000}]"}, "deep": {"names": "-" * 150_000 + "1"},
    "wide": {"names": "1+" * 90_000 + "1"}, "digits of another kind": {"imgsz": "²²,32"},
    "digits without end": {"imgsz": f"{'9' * 5000} 32"},
}  # fmt: skip


@pytest.mark.parametrize("notes", NOTES.values(), ids=NOTES)
def test_what_an_exporter_noted_is_never_more_than_a_note(tmp_path, notes):
    """No note of a file stops the guess, and none that is no list of labels becomes one."""
    text = skeleton(write_fixed(tmp_path, SCORES, shape=(1, 3, 32, 32), declared=("n", 3, "h", "w"), notes=notes))
    assert 'step = "classify"' in text
    assert "noted in the file by its exporter" not in text


def test_a_label_of_two_lines_is_told_in_one(tmp_path):
    """What is printed of a label cannot look like another line of ours."""
    names = str([f"label {i}\nsecond line" for i in range(10)])
    assert "label 3 second line" in skeleton(write_fixed(tmp_path, SCORES, notes={"names": names}))


STRANGE = {
    "texts in": ([helper.make_node("Identity", ["x"], ["y"])], [("x", TensorProto.STRING, [1])],
                 [("y", TensorProto.STRING, [1])], "no trial run: input 'x' takes tensor(string)"),
    "texts out": ([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.STRING)], [("x", TensorProto.FLOAT, [1, 4])],
                  [("y", TensorProto.STRING, [1, 4])], "output 'y' is no array of numbers"),
    "a list out": ([helper.make_node("SequenceConstruct", ["x", "x"], ["y"])], [("x", TensorProto.FLOAT, [1, 4])],
                   [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, [1, 4])],
                   "output 'y' is no array of numbers"),
    "a list in": ([helper.make_node("SequenceLength", ["x"], ["y"])],
                  [helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [1, 4])],
                  [("y", TensorProto.INT64, [])], "no trial run"),
    "short floats": ([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
                     [("x", TensorProto.BFLOAT16, [1, 4])], [("y", TensorProto.FLOAT, [1, 4])], "tensor(bfloat16)"),
    "more than there is": ([helper.make_node("Shape", ["x"], ["y"])], [("x", TensorProto.FLOAT, [2**32, 2**32])],
                           [("y", TensorProto.INT64, [2])], "no trial run: the inputs are too large"),
    "much of many": ([helper.make_node("Shape", [f"x{i}"], [f"y{i}"]) for i in range(40)],
                     [(f"x{i}", TensorProto.FLOAT, [2**25]) for i in range(40)],
                     [(f"y{i}", TensorProto.INT64, [1]) for i in range(40)], "no trial run: the inputs are too large"),
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "takes", "gives", "words"), STRANGE.values(), ids=STRANGE)
def test_ports_that_no_step_can_feed_are_told(tmp_path, nodes, takes, gives, words):
    """Texts, lists, types of a runtime's own and sizes beyond all memory: the text says so, and stands."""
    text = skeleton(write_graph(tmp_path, nodes, takes, gives))
    assert words in " ".join(text.replace("\n#", " ").split())


def test_a_model_without_inputs_is_refused(tmp_path):
    """Nothing can be guessed of what takes nothing."""
    constant = helper.make_tensor("c", TensorProto.FLOAT, [1, 4], [0.0] * 4)
    path = write_graph(tmp_path, [helper.make_node("Constant", [], ["y"], value=constant)], [],
                       [("y", TensorProto.FLOAT, [1, 4])])  # fmt: skip
    with pytest.raises(ModelError, match="it has no inputs"):
        skeleton(path)


def test_no_word_of_a_model_steers_the_terminal(tmp_path, capsys):
    """A runtime's reason names the operator as the file does; what is printed of it are printable characters."""
    node = helper.make_node("Nope\x1b[31m", ["x"], ["y"])
    path = write_graph(tmp_path, [node], [("x", TensorProto.FLOAT, [1])], [("y", TensorProto.FLOAT, [1])])
    assert main(["models", "new", str(path)]) == 1
    told = capsys.readouterr()
    assert "Nope" in told.err
    assert "\x1b" not in told.err + told.out


def deflated(data):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(("kind", "pack"), [(8, deflated), (12, compress)], ids=["deflate", "bzip2"])
def test_attached_files_unpack_no_further_than_they_say(tmp_path, kind, pack):
    """An archive of some kilobytes that holds 100 MB and says 1 MB is not unpacked."""
    packed, says = pack(bytes(100_000_000)), 1 << 20
    path = tmp_path / "bomb.tflite"
    path.write_bytes(flat_model(1, "x") + zip_of(packed, says, kind))
    tracemalloc.start()
    try:
        assert read_tflite(path).files == {}
    except ValueError as exc:
        assert "attached" in str(exc)
    finally:
        peak, _ = tracemalloc.get_traced_memory()[1], tracemalloc.stop()
    assert peak < 20_000_000


def zip_of(packed, says, kind):
    """An archive with one entry that says its size is `says`."""
    name = b"labels.txt"
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, kind, 0, 0, 0, len(packed), says, len(name), 0) + name
    sizes = (len(packed), says, len(name), *[0] * 6)
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, kind, 0, 0, 0, *sizes) + name
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(entry), len(local) + len(packed), 0)
    return local + packed + entry + end


def flat_model(tensors, name):
    """A model with one subgraph of so many tensors, which are all the same table."""
    builder = flatbuffers.Builder(1024)
    text = builder.CreateString(name)
    builder.StartObject(4)
    builder.PrependUOffsetTRelativeSlot(3, text, 0)
    tensor = builder.EndObject()
    graph = _holding(builder, 0, [tensor] * tensors)
    builder.Finish(_holding(builder, 2, [graph]), b"TFL3")
    return bytes(builder.Output())


def _holding(builder, number, tables):
    """A table with one field: a vector of `tables`."""
    builder.StartVector(4, len(tables), 4)
    for table in tables:
        builder.PrependUOffsetTRelative(table)
    vector = builder.EndVector()
    builder.StartObject(number + 1)
    builder.PrependUOffsetTRelativeSlot(number, vector, 0)
    return builder.EndObject()


@pytest.mark.parametrize(("tensors", "letters"), [(50_000, 100_000), (4_000_000, 1)], ids=["long names", "many"])
def test_tables_that_lead_to_the_same_places_are_counted_each_time(tmp_path, tensors, letters):
    """Some kilobytes that would read as 5 GB of names are refused in small memory."""
    path = tmp_path / "again.tflite"
    path.write_bytes(flat_model(tensors, "n" * letters))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="again and again"):
            read_tflite(path)
    finally:
        peak, _ = tracemalloc.get_traced_memory()[1], tracemalloc.stop()
    assert peak < SMALL_BYTES


def test_as_many_tensors_as_large_models_have_are_read(tmp_path):
    """The allowance is far beyond what is made in earnest."""
    path = tmp_path / "large.tflite"
    path.write_bytes(flat_model(20_000, "n" * 200))
    assert read_tflite(path).shapes == {"n" * 200: ()}
