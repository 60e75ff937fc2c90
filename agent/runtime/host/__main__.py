"""The start of the host: `python -I .../host/__main__.py CONTROL LIFELINE`, both numbers of open descriptors."""

import sys
from pathlib import Path
from types import ModuleType


def stand_alone() -> None:
    """Let the modules of this folder be imported under the names that they have in the agent, and nothing else of it.

    The packages above this one are not for every Python: they stand empty here.
    """
    for name in ("agent", "agent.runtime", "agent.runtime.host"):
        package = sys.modules[name] = ModuleType(name)
        package.__path__ = []
    package.__path__ = [str(Path(__file__).parent)]


if __name__ == "__main__":
    stand_alone()
    from agent.runtime.host.serving import main

    main(int(sys.argv[1]), int(sys.argv[2]))
