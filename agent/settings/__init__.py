"""What an operator can set, one file per part of the agent: frozen tables, limits, defaults, nothing else."""
