"""Public models that a machine can fetch for itself: entries that pin every byte, and the way to a model folder.

Owns: what an entry is (`entry`), where its files come from (`origin`, `carrier`), how a folder of it is put together,
proved and given its name (`adding`, `proof`), and the pipeline that it suggests (`recipe`). Ships no foreign weights.
docs/catalogue.md shows how to write an entry. `carrier` is imported by whoever fetches, and by nobody else: it brings
the network's packages along.
"""

from agent.catalogue.adding import Added, Carrier, Progress, State, add, state_of, sweep
from agent.catalogue.entry import ENTRY_FILE, PIPELINE_FILE, Entry, Wanted, entries, load_entry, names
from agent.catalogue.origin import PinnedFile
from agent.catalogue.proof import proved

__all__ = [
    "ENTRY_FILE", "PIPELINE_FILE", "Added", "Carrier", "Entry", "PinnedFile", "Progress", "State", "Wanted", "add",
    "entries", "load_entry", "names", "proved", "state_of", "sweep",
]  # fmt: skip
