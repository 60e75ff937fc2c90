"""Configuration from afar on a running device: choosing what to start with, trying a change, keeping it or going back.

`start` decides what this start runs with, safe mode included. `Reconfiguration` takes changes (set-config, the fleet's
layers, a revert), validates the whole that would come of them, puts them on trial and judges them.
"""

from agent.reconfigure.change import Now, Reconfiguration
from agent.reconfigure.local import usable_config
from agent.reconfigure.start import Started, start

__all__ = ["Now", "Reconfiguration", "Started", "start", "usable_config"]
