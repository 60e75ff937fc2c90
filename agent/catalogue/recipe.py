"""From an entry to a pipeline that uses its model: the entry's own pipeline.toml with the names filled in."""

import os
import re
from pathlib import Path
from typing import Final

from agent.catalogue.entry import Entry
from agent.errors import ConfigError
from agent.settings.names import NAME

SOURCE: Final = '"SOURCE"'
MODEL: Final = '"MODEL"'


def pipeline_text(entry: Entry, model: str, source: str = "") -> str:
    """The pipeline of `entry`, with its model called `model`, a name or a path, and fed by `source`, if one is named.

    Raises ConfigError for a source that no configuration could have.
    """
    if source and not re.fullmatch(NAME, source):
        raise ConfigError(f"--pipeline {source!r}: this is no name of a source: write the x of a table [sources.x]")
    text = entry.pipeline.replace(MODEL, _quoted(model))
    return text.replace(SOURCE, f'"{source}"') if source else text


def write_pipeline(text: str, path: Path) -> None:
    """A new file, 0644, so that the agent can read it. Raises ConfigError; what is there stays."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        with os.fdopen(handle, "w") as file:
            os.fchmod(handle, 0o644)
            file.write(text)
    except FileExistsError as exc:
        raise ConfigError(f"{path} is there already, and was left as it is: move it away") from exc
    except OSError as exc:
        raise ConfigError(f"{path}: the pipeline cannot be written: {exc.strerror}: run this with sudo") from exc


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
