"""ONNX models that answer the same to every input, in the shapes of public families: made to be guessed.

They look at their input (its mean times zero is added), so that no runtime can leave it out.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


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
