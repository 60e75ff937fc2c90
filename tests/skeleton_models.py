"""ONNX models that answer the same to every input, in the shapes of public families: made to be guessed, and looked at.

They look at their input (its mean times zero is added), so that no runtime can leave it out.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from agent.inference import Inference
from agent.loading import open_model
from agent.skeleton import guessed
from pipelines.image import image_view

GREY = image_view(np.full((480, 640, 3), 128, np.uint8))
BOX_IN_640 = (320, 240, 100, 50)
"""Centre and size in a letterboxed picture of 640 x 640."""
WHERE = (270, 135, 370, 185)
"""The same in the source, 640 x 480, which has 80 pixels of border above."""


def write_fixed(folder, outputs, *, shape=(1, 3, 640, 640), dtype="float32", name="fixed", notes=None, declared=None):
    """A model file with one input `images` that answers `outputs`, name -> array. Returns its path.

    `declared`: the input's shape as the file says it, with names or None for open dimensions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    takes = helper.make_tensor_value_info("images", number, declared or shape)
    nodes = [
        helper.make_node("Cast", ["images"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["real"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["none"]),
    ]
    constants, gives = [helper.make_tensor("nothing", TensorProto.FLOAT, [], [0.0])], []
    for i, (port, array) in enumerate(outputs.items()):
        constants.append(numpy_helper.from_array(np.asarray(array, np.float32), f"answer{i}"))
        nodes.append(helper.make_node("Add", [f"answer{i}", "none"], [port]))
        gives.append(helper.make_tensor_value_info(port, TensorProto.FLOAT, np.shape(array)))
    model = helper.make_model(
        helper.make_graph(nodes, name, [takes], gives, constants),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="pytorch",
    )  # fmt: skip
    for key, value in (notes or {}).items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    return path


def columns(count, classes, found, *, extra=0, seed=0):
    """[count, 4 + extra + classes] candidates: weak ones everywhere, and `found`, {row: (box, class)}, at 0.9.

    `extra`: columns of objectness between box and classes.
    """
    random = np.random.default_rng(seed)
    table = np.concatenate([
        random.uniform(20, 600, (count, 2)), random.uniform(10, 60, (count, 2)),
        random.uniform(0, 0.05, (count, extra + classes)),
    ], axis=1).astype(np.float32)  # fmt: skip
    for row, (box, number) in found.items():
        table[row, :4] = box
        table[row, 4 : 4 + extra] = 1.0
        table[row, 4 + extra + number] = 0.9
    return table


def looked(folder, path, view=GREY):
    """What the guessed manifest makes of a view."""
    described = folder / "described"
    described.mkdir(exist_ok=True)
    manifest = guessed(path, described)
    runner = open_model(manifest, artifact_root=path.parent)
    try:
        return manifest, Inference(manifest, runner)(view).findings
    finally:
        runner.close()


def near(finding, label, box):
    assert finding.label == label
    assert np.abs(np.subtract(finding.box, box)).max() < 2.0, finding
