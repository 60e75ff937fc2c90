"""Writes the first `model.toml` of a model from its file: what the file knows is filled in, the rest is guessed.

`skeleton` gives the text, `guessed` the manifest that it makes. Every guess says how sure it is and why.
"""

from pathlib import Path

from agent.manifest import MANIFEST_FILE, Manifest, load_manifest
from agent.skeleton.facts import FORMATS, facts
from agent.skeleton.guess import guess
from agent.skeleton.text import written

__all__ = ["FORMATS", "guessed", "skeleton"]


def skeleton(path: Path, *, inline: bool = False) -> str:
    """The text of a `model.toml` for the model file at `path`. Raises ModelError when it cannot be loaded.

    Open dimensions that cannot be guessed stay -1, which `load_manifest` refuses with the words that say what to write.
    `inline`: labels stand in the text even where a file beside the model has them.
    """
    return written(*guess(facts(path)), inline=inline)


def guessed(path: Path, folder: Path) -> Manifest:
    """The manifest that the guess makes, its text in `folder`, so that nothing is written beside the file.

    Open it with `artifact_root=path.parent`. Raises ModelError when the file cannot be loaded, or the guess leaves
    something open.
    """
    (folder / MANIFEST_FILE).write_text(skeleton(path, inline=True))
    return load_manifest(folder)
