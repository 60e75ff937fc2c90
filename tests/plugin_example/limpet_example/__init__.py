"""An example of a plugin for Limpet."""
