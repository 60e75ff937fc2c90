"""Making prepared files: in child processes, measured, and kept only where they are right and gain something.

`prepare` makes them for one artifact, `forget` takes them away, `sweep` those of models that are gone. How they are
found, proved and loaded stands in `agent.runtime.prepared`. Rules:

- Nothing is believed: a child loads the model plainly, another writes the files, a third loads them. The third must
  give the very same outputs on golden and random inputs, not be slower, and take clearly less memory; else the files
  go and the reason is kept. This catches what the runtimes do silently (a quantised graph that is saved half in
  floating point, a layout that is lost, packed weights that are not saved).
- They are on the disk before they are named: written in a folder of another name, flushed, renamed, flushed.
- One process at a time prepares, by a lock; what a killed one left is removed by the next.
"""

from agent.prepared.folder import PrepareError, forget, sweep
from agent.prepared.making import Outcome, prepare

__all__ = ["Outcome", "PrepareError", "forget", "prepare", "sweep"]
