"""What `limpet models new` reads in a model file, and in one that is damaged."""

import zipfile

import flatbuffers
import numpy as np
import pytest

from agent.skeleton import skeleton
from agent.skeleton.flatbuffer import root
from agent.skeleton.onnxfile import read_onnx
from agent.skeleton.tflite import read_tflite
from tests.tiny_models import write_model


def _described_tflite(folder):
    """A TFLite model with metadata, a colour space, normalisation, and a label file attached."""
    import io

    from ai_edge_litert import schema_py_generated as lite

    path = write_model(folder, "copy", "tflite", shape=(1, 32, 48, 3))
    model = lite.ModelT.InitFromPackedBuf(bytearray(path.read_bytes()), 0)
    entry = lite.MetadataT()
    entry.name, entry.buffer = "TFLITE_METADATA", len(model.buffers)
    blob = lite.BufferT()
    blob.data = np.frombuffer(_metadata(), np.uint8)
    model.buffers.append(blob)
    model.metadata = [entry]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("names.txt", "one\ntwo\n")
    path.write_bytes(bytes(builder.Output()) + archive.getvalue())
    return path


def _table(builder, fields):
    """A table of `fields`, number -> offset or (bytes of a scalar)."""
    builder.StartObject(max(fields) + 1)
    for number, value in fields.items():
        if isinstance(value, tuple):
            builder.PrependUint8Slot(number, value[0], 0)
        else:
            builder.PrependUOffsetTRelativeSlot(number, value, 0)
    return builder.EndObject()


def _vector(builder, offsets):
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _floats(builder, numbers):
    builder.StartVector(4, len(numbers), 4)
    for number in reversed(numbers):
        builder.PrependFloat32(number)
    return builder.EndVector()


def _metadata():
    """ModelMetadata: what the schema of TFLite metadata calls these fields by number."""
    b = flatbuffers.Builder(256)
    image = _table(b, {0: (1,)})
    content = _table(b, {0: (2,), 1: image})
    mean, std = _floats(b, [100.0]), _floats(b, [50.0])
    unit = _table(b, {0: (1,), 1: _table(b, {0: mean, 1: std})})
    takes = _table(b, {0: b.CreateString("image"), 3: content, 4: _vector(b, [unit])})
    file = _table(b, {0: b.CreateString("names.txt"), 2: (2,)})
    gives = _table(b, {0: b.CreateString("probability"), 6: _vector(b, [file])})
    part = _table(b, {2: _vector(b, [takes]), 3: _vector(b, [gives])})
    about = _table(b, {1: b.CreateString("Tells one from two."), 5: b.CreateString("MIT"), 3: _vector(b, [part])})
    b.Finish(about, b"M001")
    return bytes(b.Output())


def test_tflite_metadata_is_read(tmp_path):
    """Colour, mean and deviation, description, licence, and the label file in the archive behind the model."""
    path = _described_tflite(tmp_path)
    graph = read_tflite(path)
    (takes,), (gives,) = graph.inputs, graph.outputs
    assert (takes.colour, takes.mean, takes.std) == ("rgb", (100.0,), (50.0,))
    assert (gives.name, gives.files, graph.files) == ("probability", ("names.txt",), {"names.txt": b"one\ntwo\n"})
    text = skeleton(path)
    assert "# known: mean and std as noted in the file\n[[pre]]" in text
    assert 'licence = "MIT"  # noted in the file' in text
    assert 'description = "Tells one from two."' in text


def test_a_damaged_file_is_a_value_error_or_reads_otherwise(tmp_path):
    """Whatever byte is wrong, the readers end, and with no other error."""
    path = _described_tflite(tmp_path)
    data, refused = path.read_bytes(), 0
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        path.write_bytes(bytes(damaged))
        try:
            read_tflite(path)
        except ValueError:
            refused += 1
    assert 0 < refused < len(data)


def test_a_damaged_onnx_file_is_a_value_error_or_reads_otherwise(tmp_path):
    """The same for protobuf, cut off anywhere and with any byte turned around."""
    path = write_model(tmp_path, "add", "onnx")
    data, refused = path.read_bytes(), 0
    for place in range(1, len(data)):
        for damaged in (data[:place], bytes([*data[:place], data[place] ^ 0xFF, *data[place + 1 :]])):
            path.write_bytes(damaged)
            try:
                read_onnx(path)
            except ValueError:
                refused += 1
    assert 0 < refused < 2 * len(data)


def test_offsets_that_lead_out_of_the_file_are_refused():
    """A vector longer than the file, and a root beyond it."""
    with pytest.raises(ValueError, match="lies outside"):
        root(memoryview(b"\xff\xff\xff\x7fTFL3"), b"TFL3").text(0)
    with pytest.raises(ValueError, match="not b'TFL3'"):
        root(memoryview(b"\0\0\0\0abcd"), b"TFL3")
