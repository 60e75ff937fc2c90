"""Near-duplicate pictures: the answer to the last computed one, reused within an error that the operator states.

`Similar` is one stream's memory and decision, `Evidence` what was learnt about how far apart pictures may be,
`Judge` the comparison of two answers. Pure: no clock, and no chance but that of a fixed seed, so a recording gives the
same answers at any speed of replay.
"""

from agent.similar.evidence import Evidence, upper_bound
from agent.similar.judge import Judge
from agent.similar.memory import Answer, Similar, SimilarCounts, Threshold

__all__ = ["Answer", "Evidence", "Judge", "Similar", "SimilarCounts", "Threshold", "upper_bound"]
