"""The commands' memory: a row per command, the last counter of each key, and an audit trail that shows a cut.

A database of its own, one connection, WAL, synchronous FULL: what a method has returned from is on the disk. The truth
about a command is its row; what the broker shows is a projection of it.
"""

from agent.journal.chain import Entry, Head, Link, first_bad
from agent.journal.command import Command
from agent.journal.journal import Journal

__all__ = ["Command", "Entry", "Head", "Journal", "Link", "first_bad"]
