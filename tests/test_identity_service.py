"""Enrolled as a service under a real systemd: root enrols, the agent's user owns the pair, nobody else reads a key."""

import datetime as dt

import pytest
from cryptography import x509

from tests.est_server import PEM, Issuer
from tests.machine import PACKAGES, booted

TABLE = '[identity]\nenabled = true\n[updates]\ndecryption_key = "limpet.model.key"\n'


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A machine on which the agent is installed, and nothing else was done."""
    with booted(tmp_path_factory.mktemp("machine")) as it:
        it.run("limpet keys new reader --out /run/k && cp /run/k/reader.pub /etc/limpet/readers/")
        it.run("rm -rf /var/lib/limpet; mkdir -p /etc/systemd/system/limpet.service.d")
        packages = it.root / "etc/systemd/system/limpet.service.d/packages.conf"
        packages.write_text(f"[Service]\nEnvironment={PACKAGES}\n")
        (it.root / "etc/limpet/conf.d/identity.toml").write_text(TABLE)
        it.run("systemctl daemon-reload")
        yield it


def test_root_enrols_a_service_that_then_runs_with_its_own_pair(machine):
    """--csr-out, an authority elsewhere, --certificate; then check, start and status, with the certificate's age."""
    said = machine.run("limpet enroll --user limpet --csr-out /run/device.csr")
    assert "/etc/credstore/limpet.signing.key" in said
    issuer = Issuer("plant authority")
    request = x509.load_pem_x509_csr((machine.root / "run/device.csr").read_bytes())
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    made = issuer.issue(request.public_key(), request.subject, names, dt.timedelta(days=90))
    (machine.root / "run/device.pem").write_bytes(made.public_bytes(PEM))
    (machine.root / "run/ca.pem").write_bytes(issuer.certificate.public_bytes(PEM))
    machine.run("limpet enroll --user limpet --certificate /run/device.pem --authority /run/ca.pem")
    assert "tls certificate of limpet-site-device by plant authority" in machine.run("limpet check")
    machine.run("systemctl start limpet.service")
    status = machine.run("limpet status", check=False)
    assert "tls certificate of limpet-site-device by plant authority" in status
    assert "renewed by hand" in status


def test_nobody_but_the_agent_reads_the_pair_and_nobody_but_root_the_other_keys(machine):
    """G2: the updater's user gets neither; the agent gets the signing key only through systemd."""
    assert machine.run("stat -c '%U %a' /var/lib/limpet/identity/a/tls.key") == "limpet 600"
    assert machine.run("stat -c '%U %a' /etc/credstore/limpet.signing.key") == "root 600"
    for user, path in (
        ("limpet-update", "/var/lib/limpet/identity/a/tls.key"),
        ("limpet-update", "/etc/credstore/limpet.signing.key"),
        ("limpet", "/etc/credstore/limpet.signing.key"),
    ):
        assert "Permission denied" in machine.run(f"runuser -u {user} -- cat {path}", check=False)


def test_a_service_without_its_pair_does_not_start_and_says_why(machine):
    """G1: the folder is gone: exit status 2, no restart loop, and the remedy in the journal."""
    machine.run("systemctl stop limpet.service; mv /var/lib/limpet/identity /var/lib/limpet/moved")
    machine.run("systemctl start limpet.service", check=False)
    assert machine.show("ExecMainStatus") == "2"
    assert "limpet enroll" in machine.run("journalctl -u limpet.service -n 20 --no-pager")
