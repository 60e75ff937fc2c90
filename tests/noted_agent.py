"""The whole agent, with a witness: `python -P noted_agent.py CONFIG FILE`.

Every event whose ticket says durable or published is noted in FILE, which is synced before the next look, so that a
killed agent leaves behind exactly what it had accepted.
"""

import os
import sys
from pathlib import Path

import agent.app.app
from agent.app.app import App
from agent.cli import main
from agent.supervisor import Lane

CONFIG, NOTES = sys.argv[1], Path(sys.argv[2])


class NotedApp(App):
    """Notes what its store accepts."""

    def _open_store(self):
        store = super()._open_store()
        accept, self._tickets = store.accept, []

        def noted(draft):
            ticket = accept(draft)
            self._tickets.append(ticket)
            return ticket

        store.accept = noted
        return store

    def _looking(self, store):
        yield from super()._looking(store)
        yield Lane("witness", self._witness)

    def _witness(self, stop, beat):
        with NOTES.open("a") as file:
            while not stop.wait(0.01):
                beat()
                mine, self._tickets[:] = self._tickets[:], []
                settled = [t for t in mine if t.state in ("durable", "published")]
                self._tickets.extend(t for t in mine if t.state == "pending")
                file.write("".join(f"{t.id}\n" for t in settled))
                file.flush()
                os.fsync(file.fileno())


agent.app.app.App = NotedApp
sys.exit(main(["run", "--config", CONFIG]))
