"""Errors, grouped by who must act.

A message says what failed, which thing, and what to do. Errors of other packages are translated where they
enter (`raise ModelError(...) from exc`); nothing above a border catches a foreign exception.
"""


class LimpetError(Exception):
    """Anything Limpet raises on purpose."""


class ConfigError(LimpetError):
    """The operator must act: a configuration file, a command line, a permission."""


class CaptureError(LimpetError):
    """The device must be looked at: a camera, a microphone, a sensor, a recording."""


class ModelError(LimpetError):
    """The publisher of a model must act: a manifest, a graph, a digest, an output."""


class StoreError(LimpetError):
    """The disk must be looked at: full, read-only, damaged."""


class UplinkError(LimpetError):
    """The network or the broker must be looked at: refused, not allowed, too large."""


class EnvelopeError(LimpetError):
    """A message cannot be opened, or a key cannot be used. Never says what was inside."""


class UpdateError(LimpetError):
    """A model, an agent or a configuration could not be brought onto this device; what runs goes on running."""

    def __init__(self, text: str, reason: str = "FAILED") -> None:
        """`reason`: one of `agent.progress.Reason`."""
        super().__init__(text)
        self.reason = reason


class CommandError(LimpetError):
    """Who asked must act: a request that is not allowed, not signed, too late, or not understood."""

    def __init__(self, text: str, reason: str = "FAILED") -> None:
        """`reason`: one of `agent.progress.Reason`."""
        super().__init__(text)
        self.reason = reason
