"""tools/install.sh: what lands where, whose it is, and that it can be run again, upgraded and undone."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
UNITS = sorted(
    path.name for path in (ROOT / "systemd").iterdir() if path.suffix in (".service", ".path", ".timer")
)  # fmt: skip


def install(root, *words, checkout=ROOT, check=True):
    """Run the installer for an image at `root`; returns the finished process."""
    command = [checkout / "tools/install.sh", "--root", root, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def able():
    """Skip with the reason where the installer cannot do its work."""
    if os.geteuid() != 0:
        pytest.skip("the installer needs root, for the owners of what it makes")
    for tool in ("systemd-sysusers", "systemd-tmpfiles"):
        if shutil.which(tool) is None:
            pytest.skip(f"the installer needs {tool}")


@pytest.fixture(scope="module")
def checkout(able, tmp_path_factory):
    """A copy of this checkout, so that a test may change it."""
    copy = tmp_path_factory.mktemp("checkout") / "limpet"
    useless = shutil.ignore_patterns(".*", "tests", "build", "__pycache__", "node_modules", "*.egg-info")
    return shutil.copytree(ROOT, copy, ignore=useless)


@pytest.fixture
def image(checkout, tmp_path):
    """A root folder with Limpet installed, without the Python packages (they take a minute and a network)."""
    install(tmp_path / "image", "--no-deps", checkout=checkout)
    return tmp_path / "image"


def mode(path):
    """Permission bits and the owner's user and group numbers."""
    about = path.lstat()
    return stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid


def number(image, name, file="group"):
    """The number that the image gave to a group, or to a user with file="passwd"."""
    line = next(line for line in (image / "etc" / file).read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split(":")[2])


def test_everything_lies_where_it_belongs(image, checkout):
    """Program, units, configuration, with the owners and modes that keep each from the others."""
    limpet, updater = number(image, "limpet"), number(image, "limpet-update", "passwd")
    assert mode(image / "etc/limpet") == (0o750, 0, limpet)
    assert mode(image / "etc/limpet/limpet.toml") == (0o640, 0, limpet)
    assert mode(image / "etc/credstore") == (0o700, 0, 0)
    assert mode(image / "var/lib/limpet-models") == (0o750, updater, limpet)
    assert mode(image / "var/lib/limpet-added") == (0o755, 0, 0)
    for unit in UNITS:
        assert mode(image / "etc/systemd/system" / unit) == (0o644, 0, 0)
    release = image / "opt/limpet" / (image / "opt/limpet/current").readlink()
    assert (image / "opt/limpet/good").readlink() == (image / "opt/limpet/current").readlink()
    assert {path.name for path in (release / "share/limpet/systemd").iterdir()} >= set(UNITS)
    assert (release / "bin/python").exists()
    site = next(release.glob("lib/python3.*/site-packages"))
    assert (site / "agent/__main__.py").read_bytes() == (checkout / "agent/__main__.py").read_bytes()
    assert (image / "opt/limpet/share/limpet/models").resolve() == release / "share/limpet/models"
    assert (release / "share/limpet/models/catalogue/person-detector/entry.toml").exists()
    for path in (release / "share").rglob("*"):
        assert mode(path) in {(0o644, 0, 0), (0o755, 0, 0)}, path


def test_the_first_run_says_nothing_that_looks_like_a_failure(checkout, tmp_path):
    """An empty root has no unit to compare with; what is no option is named."""
    done = install(tmp_path / "empty", "--no-deps", checkout=checkout)
    assert "No such file" not in done.stderr
    wrong = install(tmp_path / "empty", "--fly", checkout=checkout, check=False)
    assert (wrong.returncode, "--fly" in wrong.stderr) == (2, True)


def test_nothing_that_runs_can_be_changed_by_the_agent(image):
    """No file of the program is writable by anybody but root."""
    for path in (image / "opt/limpet").rglob("*"):
        if not path.is_symlink():
            bits, owner, _ = mode(path)
            assert (bits & 0o022, owner) == (0, 0), path


def test_a_second_run_changes_nothing(image, checkout):
    """Same sources, same release; the operator's configuration is left as it is."""
    (image / "etc/limpet/limpet.toml").write_text("schema = 1\n# mine\n")
    (image / "etc/credstore/limpet.signing.key").write_text("key")
    before = {path: path.lstat().st_ino for path in (image / "opt/limpet").rglob("*")}
    said = install(image, "--no-deps", checkout=checkout).stdout
    assert "already there" in said
    assert {path: path.lstat().st_ino for path in (image / "opt/limpet").rglob("*")} == before
    assert "# mine" in (image / "etc/limpet/limpet.toml").read_text()
    assert mode(image / "etc/limpet/limpet.toml")[0] == 0o640
    assert mode(image / "etc/credstore/limpet.signing.key")[0] == 0o600


def test_an_upgrade_keeps_one_release_to_go_back_to(image, checkout):
    """Three versions one after the other: the newest in use, the one before kept, the oldest gone."""
    seen = [(image / "opt/limpet/current").readlink().name]
    for version in ("two", "three"):
        (checkout / "agent" / "version_mark.py").write_text(f'"""{version}"""\n')
        install(image, "--no-deps", checkout=checkout)
        seen.append((image / "opt/limpet/current").readlink().name)
    assert len(set(seen)) == 3
    assert {path.name for path in (image / "opt/limpet/releases").iterdir()} == set(seen[1:])
    links = {name: (image / "opt/limpet" / name).readlink().name for name in ("current", "good", "previous")}
    assert links == {"current": seen[2], "good": seen[2], "previous": seen[1]}
    assert (image / "opt/limpet/share/limpet/models").is_dir()


def test_the_installer_ends_a_trial(image, checkout):
    """What the operator installs by hand is current and good at once, and runs under its own unit."""
    opt, dropin = image / "opt/limpet", image / "etc/systemd/system/limpet.service.d/zz-limpet-trial.conf"
    trial = opt / "releases" / "9.9.9-0123456789ab"
    shutil.copytree(opt / "releases" / (opt / "good").readlink().name, trial, symlinks=True)
    (opt / "current").unlink()
    (opt / "current").symlink_to("releases/9.9.9-0123456789ab")
    dropin.parent.mkdir()
    dropin.write_text("[Service]\nRestart=always\n")
    install(image, "--no-deps", checkout=checkout)
    assert (opt / "current").readlink() == (opt / "good").readlink()
    assert not dropin.exists()
    assert not trial.exists()


def test_a_broken_build_is_built_again(image, checkout):
    """A release without its mark (power cut in the middle) is not trusted."""
    release = image / "opt/limpet" / (image / "opt/limpet/current").readlink()
    (release / ".complete").unlink()
    site = next(release.glob("lib/python3.*/site-packages"))
    (site / "agent/__main__.py").unlink()
    assert "building release" in install(image, "--no-deps", checkout=checkout).stdout
    assert (site / "agent/__main__.py").exists()


def test_uninstall_keeps_state_and_configuration_unless_told(image):
    """First the program goes, then with --purge everything."""
    (image / "var/lib/limpet").mkdir(parents=True)
    (image / "etc/credstore/limpet.signing.key").write_text("key")
    assert "kept" in install(image, "--uninstall").stdout
    assert not (image / "opt/limpet").exists()
    assert not list((image / "etc/systemd/system").glob("limpet*"))
    assert (image / "etc/limpet/limpet.toml").exists()
    install(image, "--uninstall", "--purge")
    for path in ("etc/limpet", "var/lib/limpet", "etc/credstore/limpet.signing.key"):
        assert not (image / path).exists(), path


def test_a_python_that_the_service_could_not_reach_is_refused(able, tmp_path):
    """One of a home folder would vanish behind ProtectHome; the message says what to do."""
    done = install(tmp_path / "image", "--no-deps", "--python", "/root/python3", check=False)
    assert done.returncode == 1
    assert "apt-get install python3 python3-venv" in done.stderr
    assert not (tmp_path / "image/etc/limpet").exists()


def test_an_unknown_option_is_answered_with_the_usage(tmp_path):
    """Exit 2 and the lines that say how it is called."""
    done = install(tmp_path, "--frobnicate", check=False)
    assert done.returncode == 2
    assert "--uninstall" in done.stderr
