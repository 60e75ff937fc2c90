"""What `limpet models try` does with a model before it prints: a stream of views through it, and what looks wrong.

`Tryout` goes the agent's own way and remembers what people want to see; `smells` names the signs of a wrong manifest,
`Nearest` the best of what a threshold kept back, `variants` the other ways in which a picture could be prepared.
Decides nothing about what runs: it only shows.
"""

from agent.tryout.nearest import Nearest
from agent.tryout.smells import smells
from agent.tryout.tryout import Found, Seen, Tryout, over_source
from agent.tryout.variants import variants

__all__ = ["Found", "Nearest", "Seen", "Tryout", "over_source", "smells", "variants"]
