"""The device's side of commands: who may ask for what, and what becomes of it. docs/commands.md tells the whole story.

`Desk` is the lane; `gate` holds the rules, `table` what can be asked, `work` carries it out by way of handlers that are
passed in, `projection` shows it outside. The truth about a command is its row in the journal.
"""

from agent.commands.desk import Desk, Outside
from agent.commands.gate import Device
from agent.commands.keys import Holders
from agent.commands.table import Handler, Move, NoArgs, Once, Operation, Table

__all__ = ["Desk", "Device", "Handler", "Holders", "Move", "NoArgs", "Once", "Operation", "Outside", "Table"]
