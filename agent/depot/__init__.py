"""The depot: the device's content-addressed models and the one small record that says which of them run.

Only the updater writes here (`Writer`, `put`, `collect`); the agent reads (`read_state`, `State.model`, `folder_of`).
Rules: what a record names was on the disk before the record named it; a try is burnt before the candidate is touched;
the version floor rises on commit only; a version that proved bad is not tried again; nothing that is active, good, on
trial or pinned is ever removed, and nothing at all while the record is damaged. docs/updates.md tells the whole story.
"""

from agent.depot.objects import collect, folder_of, present, put, whole
from agent.depot.places import AGENT, read_token, write_token
from agent.depot.record import FACTORY, Bad, Mode, ModelState, Pick, State, Trial, ordered
from agent.depot.state import Writer, burn_all, read_state

__all__ = [
    "AGENT", "FACTORY", "Bad", "Mode", "ModelState", "Pick", "State", "Trial", "Writer", "burn_all", "collect",
    "folder_of", "ordered", "present", "put", "read_state", "read_token", "whole", "write_token",
]  # fmt: skip
