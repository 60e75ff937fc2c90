"""Taking remote changes back while no agent runs: written into the record, for the next start."""

import os
from pathlib import Path

from agent.config import load_config, read_tables
from agent.errors import CommandError
from agent.layerfiles import LayerFiles, folder_of, owner_of
from agent.layers.effective import lay
from agent.layers.record import Baseline, Provisional, Remote
from agent.reconfigure.start import digest_of


def revert_at_rest(path: Path, now_wall_s: float, *, everything: bool) -> str:
    """Have the next start go back, and keep that however it is then; returns what will happen, in words.

    Raises ConfigError for files that cannot be used, CommandError when there is nothing to revert.
    """
    config, local = load_config(path), read_tables(path)
    files = LayerFiles(folder_of(config))
    if os.geteuid() == 0:  # what is written belongs to the agent's user
        user, group = owner_of(files.folder)
        os.setegid(group)
        os.seteuid(user)
    record = files.read()
    if record.provisional is not None:
        text = "it was reverted by hand"
        files.write(record.give_up("CANCELED", text, digest_of(local), now_wall_s), record)
        return "the change on trial is taken back"
    settings = {} if everything else record.before
    if settings is None or settings == record.committed.settings:
        raise CommandError("there is nothing to revert")
    remote = Remote(record.committed.fleet, settings)
    lay(path, local, remote.layers)
    as_it_is = Baseline("unhealthy", (), connected=False)
    change = Provisional(remote, "revert", "", config.remote.tries, config.remote.deadline_s, as_it_is, now_wall_s)
    files.write(record.propose(change), record)
    return "the next start goes back"
