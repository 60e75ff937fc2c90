"""The rules of a manifest that span several keys, each a sentence that says what to write instead."""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from agent import __version__
from agent.manifest.tables import RUNTIME_OF, Input, Port, Table, changed

PORT_LIMIT_BYTES = 256 * 1024 * 1024


def open_dimensions(raw: Mapping[str, Any]) -> Iterator[str]:
    """Before the strict reading, which could only say "out of range": what to write in place of -1 or "N"."""
    for table in ("input", "output"):
        ports = raw.get(table)
        for port in ports if isinstance(ports, list) else []:
            shape = port.get("shape") if isinstance(port, dict) else None
            for axis, size in enumerate(shape if isinstance(shape, list) else []):
                if isinstance(size, str) or (isinstance(size, int) and size < 0):
                    where = f"[[{table}]] '{port.get('name')}': dimension {axis} of shape is left open by {size!r}"
                    yield f"{where}: write the size that this model shall run with (1 for the batch)"


def problems(table: Table) -> Iterator[str]:
    """The rules that span several keys."""
    yield from _port_problems(table)
    yield from _state_problems(table)
    yield from _artifact_problems(table)
    yield from _feed_problems(table)
    yield from _name_problems(table)
    if table.labels and table.labels_file:
        yield "'labels' and 'labels_file' are both given: keep one"
    least = table.requires.agent.removeprefix(">=")
    if _numbers(__version__) < _numbers(least):
        yield f"it requires agent {least} or newer, this one is {__version__}: update the agent or take an older model"


def _feed_problems(table: Table) -> Iterator[str]:
    feeds = {port.name for port in table.input if port.value is None} - {pair.input for pair in table.state}
    if not feeds:
        yield "[[input]]: every input is constant or state, so nothing can be fed: leave `value` out of one"
    for step in table.pre:
        if "input" in step and step["input"] not in feeds:
            yield f"[[pre]] input {step['input']!r} is no fed input: it must be one of {', '.join(sorted(feeds))}"


def _name_problems(table: Table) -> Iterator[str]:
    names = [("labels_file", table.labels_file), *(("[[artifact]] file", a.file) for a in table.artifact)]
    names += [("[[golden]] input", golden.input) for golden in table.golden]
    names += [("[[golden]] output", golden.output) for golden in table.golden]
    for key, name in names:
        if name and not stays_inside(name):
            yield f"{key} {name!r} leaves the folder of the model: write a plain relative path"


def _port_problems(table: Table) -> Iterator[str]:
    ports = [("input", p) for p in table.input] + [("output", p) for p in table.output]
    for kind in ("input", "output"):
        names = [port.name for k, port in ports if k == kind]
        for name in sorted({n for n in names if names.count(n) > 1}):
            yield f"[[{kind}]] '{name}' is there twice: give each port its own name"
    views = [(kind, port, "") for kind, port in ports]
    for artifact in table.artifact:
        where = f" in artifact {artifact.file}"
        views += [(kind, changed(port, artifact), where) for kind, port in ports if port.name in artifact.ports]
    for kind, port, where in views:
        for problem in _one_port(port):
            yield f"[[{kind}]] '{port.name}'{where}: {problem}"


def _one_port(port: Port) -> Iterator[str]:
    whole = np.dtype(port.dtype).kind in "iu"
    if port.scale and not whole:
        yield f"scale {port.scale} has no meaning for {port.dtype}: leave it out"
    if port.zero_point and not port.scale:
        yield f"zero_point {port.zero_point} without a scale: add the scale"
    if whole and not np.iinfo(port.dtype).min <= port.zero_point <= np.iinfo(port.dtype).max:
        yield f"zero_point {port.zero_point} does not fit {port.dtype}"
    if port.nbytes > PORT_LIMIT_BYTES:
        yield f"shape {list(port.shape)} of {port.dtype} is {port.nbytes} bytes: at most {PORT_LIMIT_BYTES} are allowed"
    if isinstance(port, Input) and port.layout and len(port.shape) != 4:
        yield f"layout {port.layout} needs four dimensions, shape has {len(port.shape)}"


def _state_problems(table: Table) -> Iterator[str]:
    for key in ("input", "output"):
        names = [getattr(pair, key) for pair in table.state]
        for name in sorted({n for n in names if names.count(n) > 1}):
            yield f"[[state]] {key} '{name}' is used twice: a tensor carries one state"
    for artifact in table.artifact:
        inputs = {p.name: changed(p, artifact) for p in table.input}
        outputs = {p.name: changed(p, artifact) for p in table.output}
        for pair in table.state:
            where = f"[[state]] {pair.input} <- {pair.output}"
            if problem := _one_state(inputs.get(pair.input), outputs.get(pair.output)):
                yield f"{where} in artifact {artifact.file}: {problem}"


def _one_state(take: Input | None, give: Port | None) -> str:
    if take is None or give is None:
        return f"there is no such {'input' if take is None else 'output'}: describe that port"
    if (take.shape, take.dtype, take.scale, take.zero_point) != (give.shape, give.dtype, give.scale, give.zero_point):
        return "shape, dtype, scale or zero_point of the two ports differ: a state goes back in as it came out"
    return "" if take.value is None else "a state cannot have a constant `value`: remove it"


def _artifact_problems(table: Table) -> Iterator[str]:
    known = {p.name for p in table.input} | {p.name for p in table.output}
    for artifact in table.artifact:
        where = f"[[artifact]] {artifact.file}"
        if artifact.runs_on != RUNTIME_OF[artifact.format]:
            yield f"{where}: {artifact.runs_on} does not run {artifact.format}: leave `runtime` out"
        both = {p.name for p in table.input} & {p.name for p in table.output} & artifact.ports.keys()
        for name in sorted(both):
            yield f"{where}: ports names '{name}', an input and an output: give the two different names"
        for name in sorted(artifact.ports.keys() - known):
            yield f"{where}: ports names '{name}', which is no port: known are {', '.join(sorted(known))}"


def stays_inside(name: str) -> bool:
    """True when a file name of a manifest cannot leave its folder by being written that way."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\\" not in name and "\0" not in name


def _numbers(version: str) -> tuple[int, ...]:
    release = re.split(r"[-+]", version, maxsplit=1)[0]
    return tuple(int(part) for part in release.split(".")[:3])
