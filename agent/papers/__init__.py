"""The device's identity at work in the running agent: which pair connects, who may read, when to renew.

`Papers` is built once by the app. Owns the rules that bind keys to what runs: a new pair is proved by a connection
before the old one goes, a reader who was removed can read nothing that is sealed from then on, and whatever cannot be
read fails closed with its reason. The files belong to `agent.identity` and to the updater; sealing to `agent.envelope`.
"""

from agent.papers.desk import Papers, ages

__all__ = ["Papers", "ages"]
