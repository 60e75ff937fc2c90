"""LiteRT's C functions, called through ctypes: what they take, what they hand out, what has to be destroyed.

The price of calling them: their shapes are ours to know. Source of the declarations: LiteRT's headers litert/c/*.h,
version 2.3. Only `litecompiled` knows which of them to call, and in which order.
"""

import ctypes
import importlib.util
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_uint, c_uint32, c_void_p
from pathlib import Path
from typing import Any, Final

from agent.errors import ModelError


class Value(ctypes.Structure):
    """A whole number, or a thing of another kind that `type` tells."""

    _fields_ = (("type", c_int), ("value", c_int64))


class Option(ctypes.Structure):
    """One option of an environment."""

    _fields_ = (("tag", c_int), ("value", Value))


class _Layout(ctypes.Structure):
    _fields_ = (
        ("rank", c_uint, 7), ("has_strides", c_uint, 1), ("dimensions", c_int32 * 8), ("strides", c_uint32 * 8),
    )  # fmt: skip


class TensorType(ctypes.Structure):
    """Element type and shape of a tensor; a dimension below 0 is open."""

    _fields_ = (("element", c_int), ("layout", _Layout))


class Quantised(ctypes.Structure):
    """One scale and zero point for the whole tensor."""

    _fields_ = (("scale", c_float), ("zero_point", c_int64))


_OUT = POINTER(c_void_p)
_TAKES: Final[dict[str, tuple[Any, ...]]] = {
    "CreateEnvironment": (c_int, POINTER(Option), _OUT),
    "CreateModelFromFile": (c_void_p, c_char_p, _OUT),
    "CreateOptions": (_OUT,),
    "SetOptionsHardwareAccelerators": (c_void_p, c_int),
    "CreateOpaqueOptions": (c_char_p, c_void_p, c_void_p, _OUT),
    "AddOpaqueOptions": (c_void_p, c_void_p),
    "CreateCompiledModel": (c_void_p, c_void_p, c_void_p, _OUT),
    "GetModelSignature": (c_void_p, c_size_t, _OUT),
    "GetTensorName": (c_void_p, POINTER(c_char_p)),
    "GetRankedTensorType": (c_void_p, POINTER(TensorType)),
    "GetQuantizationTypeId": (c_void_p, POINTER(c_int)),
    "GetPerTensorQuantization": (c_void_p, POINTER(Quantised)),
    "CreateManagedTensorBufferFromRequirements": (c_void_p, POINTER(TensorType), c_void_p, _OUT),
    "GetTensorBufferPackedSize": (c_void_p, POINTER(c_size_t)),
    "LockTensorBuffer": (c_void_p, _OUT, c_int),
    "UnlockTensorBuffer": (c_void_p,),
    "RunCompiledModel": (c_void_p, c_size_t, c_size_t, _OUT, c_size_t, _OUT),
    **{f"GetNumSignature{side}s": (c_void_p, POINTER(c_size_t)) for side in ("Input", "Output")},
    **{f"GetSignature{side}TensorByIndex": (c_void_p, c_size_t, _OUT) for side in ("Input", "Output")},
    **{
        f"GetCompiledModel{side}BufferRequirements": (c_void_p, c_size_t, c_size_t, _OUT)
        for side in ("Input", "Output")
    },
}


class Calls:
    """LiteRT's C functions: a status that is not 0 is a ModelError; what was made is destroyed in reverse order."""

    def __init__(self, where: str) -> None:
        self._where, self._library = where, _library(where)
        self._made: list[tuple[Callable[[c_void_p], None], c_void_p]] = []
        self.closed = False

    def __call__(self, name: str, *given: Any) -> None:
        """Call LiteRt<name>. Python's lock is given up meanwhile."""
        status = self._function(name)(*given)
        if status:
            raise ModelError(f"{self._where}: LiteRT's {name} failed with status {status}")

    def got(self, name: str, *given: Any, last: int | None = None) -> c_void_p:
        """What LiteRt<name> hands out through its last parameter, or the last but one when `last` is given."""
        out = c_void_p()
        self(name, *given, byref(out), *(() if last is None else (last,)))
        return out

    def made(self, name: str, destroy: str, *given: Any) -> c_void_p:
        """The same, for a thing that `close` has to destroy."""
        thing = self.got(name, *given)
        function = getattr(self._library, f"LiteRt{destroy}")
        function.argtypes, function.restype = (c_void_p,), None
        self._made.append((function, thing))
        return thing

    def close(self) -> None:
        self.closed = True
        while self._made:
            destroy, thing = self._made.pop()
            destroy(thing)

    def _function(self, name: str) -> Any:
        function = getattr(self._library, f"LiteRt{name}")
        function.argtypes = _TAKES[name]
        return function


def _library(where: str) -> Any:
    spec = importlib.util.find_spec("ai_edge_litert")
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0]) / "libLiteRt.so" if folders else Path("libLiteRt.so")
    try:
        library = ctypes.CDLL(str(path))
        for name in _TAKES:
            getattr(library, f"LiteRt{name}")
    except (OSError, AttributeError) as exc:
        raise ModelError(f"{where}: {path} cannot be used: {exc}") from exc
    return library


def given_away(text: str) -> tuple[c_void_p, c_void_p]:
    """A copy of `text` that LiteRT may keep, and the C library's own function that frees it."""
    libc = ctypes.CDLL(None)
    libc.strdup.argtypes, libc.strdup.restype = (c_char_p,), c_void_p
    return c_void_p(libc.strdup(text.encode())), ctypes.cast(libc.free, c_void_p)
