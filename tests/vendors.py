"""A vendor's runtime that misbehaves when told to, in a Python of its own, for tests of the runner host.

`vendor_python` writes a program that can stand in [model.runtime] python: it runs the host with a package
`ai_edge_litert` whose interpreter computes y = x + 1, and does worse when x[0, 0] is one of `DEEDS`.
"""

import hashlib
import sys
from pathlib import Path

from agent.manifest import load_manifest

SEGFAULT, ABORT, HANG, GREED, REFUSE, CHATTER, PATRICIDE, PRY, SHRINK, LATE = DEEDS = range(101, 111)

INTERPRETER = '''
import ctypes, os, resource, signal, socket, subprocess, time
from pathlib import Path
import numpy as np

class OpResolverType:
    AUTO = BUILTIN_WITHOUT_DEFAULT_DELEGATES = None

def tries(work):
    try:
        work()
    except (OSError, subprocess.SubprocessError):
        return 0.0
    return 1.0

def greed():
    held = []
    try:
        while True:
            held.append(np.empty(1 << 26, np.uint8))
    except MemoryError:
        os.abort()  # as bad_alloc does that nobody catches

def shrink():
    memory = next(p for p in Path("/proc/self/fd").iterdir() if "memfd:tensors" in os.readlink(p))
    os.ftruncate(int(memory.name), 0)

class Interpreter:
    def __init__(self, model_path, **options):
        self.held = {0: np.zeros((1, 4), np.float32), 1: np.zeros((1, 4), np.float32)}
        self.secret = SECRET
    def get_input_details(self):
        return [self.detail("x", 0)]
    def get_output_details(self):
        return [self.detail("y", 1)]
    def detail(self, name, index):
        return {"name": name, "index": index, "shape": np.array([1, 4]), "shape_signature": np.array([1, 4]),
                "dtype": np.float32, "quantization": (0.0, 0), "quantization_parameters": {"scales": []}}
    def allocate_tensors(self): pass
    def reset_all_variables(self): pass
    def set_tensor(self, index, value): self.held[index] = value.copy()
    def tensor(self, index): return lambda: self.held[index]
    def invoke(self):
        deed, self.held[1] = int(self.held[0][0, 0]), self.held[0] + 1
        if deed == 101: ctypes.string_at(0)
        if deed == 102: os.abort()
        if deed == 103: ctypes.PyDLL(None).pause()  # holds Python's lock, and comes back never
        if deed == 104: greed()
        if deed == 105: raise RuntimeError("node 7 does not like this")
        if deed == 106: tries(lambda: os.write(2, b"so it goes\\n" * 300_000))
        if deed == 107: os.kill(os.getppid(), signal.SIGKILL), time.sleep(5)
        if deed == 108: self.held[1] = np.array([self.pry()], np.float32)
        if deed == 109: self.held[1] = np.full((1, 4), tries(shrink), np.float32)
        if deed == 110: time.sleep(0.5)
    def pry(self):
        yield_ = [tries(lambda: open(self.secret).read()), tries(lambda: open(self.secret + "2", "w").close())]
        return yield_ + [tries(lambda: subprocess.run(["/bin/true"], check=True)),
                         tries(lambda: socket.create_connection(("127.0.0.1", PORT), 1))]
'''

SHIM = """#!{python} -I
import runpy, sys
sys.path.insert(0, {folder!r})
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def program(path: Path, text: str) -> Path:
    """An executable Python script; `{python}` in its text is the interpreter that runs the tests."""
    path.write_text(text.replace("{python}", sys.executable))
    path.chmod(0o755)
    return path


def vendor_python(folder: Path, *, port: int = 9) -> Path:
    """The program. Its model may try to read `folder`/secret and to reach loopback `port`."""
    package = folder / "site" / "ai_edge_litert"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (folder / "secret").write_text("s")
    text = INTERPRETER.replace("SECRET", repr(str(folder / "secret"))).replace("PORT", str(port))
    (package / "interpreter.py").write_text(text)
    return program(folder / "python", SHIM.replace("{folder!r}", repr(str(folder / "site"))))


def vendor_model(folder: Path, *, budget: str = ""):
    """A manifest for the vendor's model: x and y are float32 [1, 4]."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "net.tflite"
    file.write_bytes(b"only the vendor can read this")
    text = 'schema = 1\nname = "vendor"\nversion = "1.0.0"\nmodality = "tensor"\n'
    for table, port in (("input", "x"), ("output", "y")):
        text += f'[[{table}]]\nname = "{port}"\nshape = [1, 4]\ndtype = "float32"\n'
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    text += f'[[artifact]]\nfile = "net.tflite"\nsha256 = "{sha256}"\nformat = "tflite"\n{budget}'
    (folder / "model.toml").write_text(text)
    for path in (file, folder / "model.toml"):
        path.chmod(0o644)
    folder.chmod(0o755)
    return load_manifest(folder)
