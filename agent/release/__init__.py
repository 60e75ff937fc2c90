"""The agent's own releases: environments side by side, and the way from one to the next and back.

`place` is where they lie and which one runs, `wish` what the updater asks of root, `follow` when it asks, `wheels`
which files of a release this machine needs, `standing` how a release on probation proves itself. `switch` is the root
step; it alone uses `proof`, `environment` and `units`. Rules: root believes nobody, it copies first and then verifies
its own copy against the trust anchor; whatever starts before the agent runs from the committed release; every step may
be cut off and is simply done again. This file imports nothing.
"""
