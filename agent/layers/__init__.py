"""Layers of configuration over limpet.toml: what they may change, how they merge, what is remembered of them.

From the lowest: limpet.toml with conf.d (what is true of this device), the fleet's base, group and device layers, then
what set-config changed. All but the first come from afar and may touch only what `allowed` lists; identity, keys,
trust, paths, addresses and commands are never among it. Pure but for reading pipeline files.
"""
