"""The updater: what brings signed models, settings and agents onto this device, in a process of its own.

`client` proves the repository's metadata, `fetch` and what it stands on bring bytes within limits, `blobs` finds the
cheapest way to every file of a package, `floor` keeps a clock that forgot the time from being believed. This file
imports nothing: TUF is loaded when the updater runs, and never by the agent.
"""
