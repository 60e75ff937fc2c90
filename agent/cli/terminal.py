"""Words of others on a terminal."""


def shown(text: str) -> str:
    """`text` without what would steer a terminal: only ends of lines and printable characters are left of it."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
