"""Puts together what the running agent needs of its identity, from its configuration."""

import datetime as dt
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agent.broker import Message
from agent.clock import Clock
from agent.config import Config
from agent.envelope import PlainSealer, SigningKey
from agent.envelope.setup import listed_readers, make_sealer
from agent.errors import ConfigError
from agent.identity import (
    SIGNING_CERTIFICATE,
    NamedCertificate,
    Purpose,
    SigningEnrolment,
    Slots,
    TlsEnrolment,
    Who,
    load_anchors,
)
from agent.mqtt import Link
from agent.papers.pairs import Alarm, PairedLink, Pairs
from agent.papers.readers import Readership, WatchedSealer
from agent.papers.renewal import Renewal
from agent.settings.uplink import UplinkConfig


class Papers:
    """Everything about this device's identity while the agent runs. Raises ConfigError for what cannot be used."""

    def __init__(self, config: Config, clock: Clock, alarm: Alarm) -> None:
        """`alarm(name, text)` raises an alarm, or clears it with None."""
        self._config = config
        self._clock = clock
        self._alarm = alarm
        self._slots = Slots(config.identity.folder)
        self._pairs = Pairs(self._slots, clock, alarm)
        if config.identity.enabled:
            self._check()
        self.renewal = Renewal(config.identity, self._slots, self._purposes(), clock, alarm)

    def open_link(self, config: UplinkConfig, client_id: str, will: Message | None = None) -> Link:
        """A connection, not yet connected, that shows the right certificate."""
        if not self._config.identity.enabled:
            return Link(config, client_id, will)
        return PairedLink(self._pairs, config, client_id, will)

    def sealer(self) -> WatchedSealer | PlainSealer:
        """The sealer of this device, whose readers follow the signed lists; for one thread."""
        config, device = self._config.envelope, self._config.device
        if self._config.identity.enabled and self._config.identity.certify_signing:
            config = replace(config, certificate=self._config.identity.folder / SIGNING_CERTIFICATE)
        trust = self._config.updates.folder / "trust"
        more = os.path.lexists(trust / "readers.json")
        sealer = make_sealer(config, device.site, device.name, more_readers=more)
        if isinstance(sealer, PlainSealer):
            return sealer
        own_kid = sealer.key_id.hex()
        readership = Readership(listed_readers(config), trust, device.site, device.name, own_kid, self._alarm)
        return WatchedSealer(sealer, readership, self._clock)

    def check_anchors(self) -> None:
        """Look at the trust anchors that a renewal needs. Raises ConfigError for one that cannot be used."""
        for path in (self._config.identity.est_ca_file, self._config.identity.authority):
            load_anchors(path)

    def status(self) -> Mapping[str, Any]:
        """The certificates and their ages, for `limpet status` and `limpet check`."""
        return self.renewal.status()

    def _purposes(self) -> Mapping[str, Purpose]:
        identity, device, config = self._config.identity, self._config.device, self._config
        if not identity.enabled:
            named = {"tls": config.uplink.certificate, "signing": config.envelope.certificate}
            return {name: NamedCertificate(path) for name, path in named.items() if path is not None}
        who = Who.of(device.site, device.name, identity.common_name)
        made: dict[str, Purpose] = {"tls": TlsEnrolment(self._slots, who, self._clock.wall_s)}
        key = config.envelope.signing_key
        if identity.certify_signing and key is not None:
            made["signing"] = SigningEnrolment(identity.folder, SigningKey.load(key), who, self._clock.wall_s)
        return made

    def _check(self) -> None:
        """An agent that could never connect does not start."""
        if self._config.uplink.certificate is not None:
            raise ConfigError("[uplink] certificate and [identity] enabled exclude each other: remove one of them")
        self._pairs.choose()


def ages(certificate: Mapping[str, Any]) -> str:
    """A certificate of `Papers.status` in words: whose, by whom, until when, and when it is renewed."""
    if "not_after_s" not in certificate:
        return "cannot be read"
    renewal = certificate["renewal_s"]
    said = f"of {certificate['common_name']} by {certificate['issuer']}: ends {_day(certificate['not_after_s'])}"
    return said + (f", is renewed from {_day(renewal)} on" if renewal is not None else ", is renewed by hand")


def _day(wall_s: float) -> str:
    return dt.datetime.fromtimestamp(wall_s, dt.UTC).strftime("%Y-%m-%d")
