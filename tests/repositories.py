"""Repositories for tests: made in a moment, with real keys, served by Python's own web server."""

import contextlib
import datetime as dt
import functools
import http.server
import shutil
import threading
from pathlib import Path

from agent.repository import Keyring, Publisher, Workspace
from agent.repository.mirror import FolderMirror, publish
from agent.repository.proof import prove
from agent.repository.publisher import KeyPlan
from agent.repository.roles import TOP
from agent.repository.workspace import Lifetimes

MODELS = Path(__file__).resolve().parent.parent / "models"


class Repo:
    """A repository in `folder`/work with a mirror in `folder`/mirror; every call publishes."""

    def __init__(self, folder, plans=None, days=None, now=None):
        """`plans`: KeyPlan by role. `now`: the time of every signature; default: the real one."""
        self.folder, self.fixed, self.keyring = Path(folder), now, Keyring()
        self.workspace, self.mirror = Workspace(self.folder / "work"), self.folder / "mirror"
        chosen = dict.fromkeys(TOP, KeyPlan()) | (plans or {})
        publisher = Publisher.create(self.workspace, self.keyring, chosen, days or Lifetimes(), self.now)
        self.outcome = publisher.finish()

    @property
    def now(self):
        return self.fixed or dt.datetime.now(dt.UTC).replace(microsecond=0)

    @property
    def root(self):
        """The trust anchor, bytes."""
        return self.workspace.anchor.read_bytes()

    @property
    def publisher(self):
        """A publisher as a new process would have it."""
        return Publisher(self.workspace, self.keyring, self.now)

    def do(self, work):
        """Let `work(publisher)` change something, publish it, and give back what it returned."""
        publisher = self.publisher
        with self.workspace.held():
            made = work(publisher)
            self.outcome = publisher.finish()
        if self.outcome.fresh and not self.outcome.waiting:
            self.publish()
        return made

    def add(self, model, channel="stable", rollout=100, recipients=(), goldens=False, include=()):
        """Add a model folder and offer it; returns its package manifest. `channel` None: offer it nowhere."""

        def work(publisher):
            made = publisher.add_model(prove(Path(model), include, goldens=goldens), recipients)
            if channel:
                publisher.release("model", made.name, made.version, channel, rollout)
            return made

        return self.do(work)

    def add_agent(self, folder, version, channel="stable", rollout=100):
        """Add a release of the agent and offer it; returns its package manifest."""

        def work(publisher):
            made = publisher.add_agent(Path(folder), version)
            if channel:
                publisher.release("agent", "agent", version, channel, rollout)
            return made

        return self.do(work)

    def put(self, path, data):
        """Sign `data` as a target of the top role, such as trust/readers.json or config/base.toml."""
        self.do(lambda publisher: publisher.put(path, data))

    def publish(self):
        """Bring the mirror up to date; returns its folder."""
        publish(self.publisher.roles, FolderMirror(self.mirror))
        return self.mirror


def versioned(source, target, version, name=None, edit=None):
    """A copy of a model folder with another version (and name); `edit(folder)` may change its files."""
    shutil.copytree(source, target)
    text = (target / "model.toml").read_text()
    lines = [
        f'version = "{version}"' if line.startswith("version = ") else
        f'name = "{name}"' if name and line.startswith("name = ") and number < 5 else line
        for number, line in enumerate(text.splitlines())
    ]  # fmt: skip
    (target / "model.toml").write_text("\n".join(lines) + "\n")
    if edit:
        edit(target)
    return target


@contextlib.contextmanager
def served(folder):
    """The base URL of a plain static server of `folder`, on loopback."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass
