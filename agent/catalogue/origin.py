"""Where a public file comes from: one commit of one public repository, never a branch, a tag or "latest".

`github:owner/repository@<40 hex digits>:path/in/it` is how an entry writes it. Owns what that means as a URL and as a
place in a mirror; no other file knows a host.
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

ORIGIN_WORDS: Final = 'an origin like "github:owner/repository@<40 hex digits of a commit>:path/of/file"'
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,127}"
ORIGIN_PATTERN: Final = rf"github:([A-Za-z0-9-]{{1,39}})/({_PART})@([0-9a-f]{{40}}):({_PART}(?:/{_PART}){{0,31}})"
ORIGIN_URL: Final = "https://raw.githubusercontent.com"


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """One file as it was in one commit."""

    owner: str
    repository: str
    commit: str
    path: str

    @classmethod
    def parse(cls, text: str) -> "PinnedFile":
        """Raises ValueError when `text` is no such origin."""
        found = re.fullmatch(ORIGIN_PATTERN, text)
        if found is None:
            raise ValueError(f"{text!r} is not {ORIGIN_WORDS}")
        return cls(*found.groups())

    @property
    def place(self) -> str:
        """Where the file lies below the top of a mirror; the public host has the same order."""
        return f"{self.owner}/{self.repository}/{self.commit}/{self.path}"

    @property
    def file_name(self) -> str:
        """What a browser would save it as."""
        return self.path.rpartition("/")[2]

    def url(self, base: str = ORIGIN_URL) -> str:
        """Where to fetch it: at its origin, or below the URL `base` of a mirror."""
        return f"{base.rstrip('/')}/{quote(self.place)}"

    def __str__(self) -> str:
        return f"github:{self.owner}/{self.repository}@{self.commit}:{self.path}"
