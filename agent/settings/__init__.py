"""What an operator can set, one file per part of the agent: frozen tables with their limits and defaults, and nothing else."""
