"""`limpet demo`: a broker, an agent and a view of its events on one machine, with keys made on the spot."""
