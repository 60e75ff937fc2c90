"""Where a secret lies: a file, or a credential of the service manager (man systemd.exec(5), LoadCredential=).

A bare name such as "limpet.tls.key" is looked up in $CREDENTIALS_DIRECTORY first; anything else is a path.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

FOLDER: Final = "CREDENTIALS_DIRECTORY"


def credential(path: Path, environment: Mapping[str, str] | None = None) -> Path | None:
    """The credential that `path` names, or None when it names none."""
    folder = (os.environ if environment is None else environment).get(FOLDER)
    if folder is None:
        return None
    here = Path(folder) / path.name
    bare = len(path.parts) == 1
    return here if (bare and here.is_file()) or path == here else None


def locate(path: Path, environment: Mapping[str, str] | None = None) -> Path:
    """The file to read: the credential when `path` names one, else `path` itself."""
    return credential(path, environment) or path
