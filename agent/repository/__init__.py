"""The publisher's side: makes packages, signs what names them, and puts both where devices fetch them.

Owns the workspace of a repository (docs/repository.md) and The Update Framework's metadata in it. Rules: nothing is
published below its threshold; a draft waits in pending/ and says whose signature is missing; what lies in public/ is
only ever added to. Keys stay where they are: in files, in a security module, in a cloud's key service. Nothing here
runs on a device.
"""

from agent.repository.keyring import Keyring
from agent.repository.publisher import Publisher
from agent.repository.roles import Waiting
from agent.repository.workspace import Lifetimes, Workspace

__all__ = ["Keyring", "Lifetimes", "Publisher", "Waiting", "Workspace"]
