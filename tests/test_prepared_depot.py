"""Prepared files of the depot's models: the updater makes, mends and removes them, and no update fails by them."""

import pytest

from agent.depot import collect
from agent.loading import PREPARED, open_model
from agent.runtime.prepared import Place, key_of
from agent.settings.updates import UpdatesConfig
from agent.stock import Stock
from agent.updates.preparing import Preparer
from tests import prepared_files
from tests.candidates import change, publish
from tests.prepared_files import configured
from tests.test_sealed_models import _key, _put_sealed
from tools.bench.weights import write_heavy

NAME = "heavy-dense"


any_pace = pytest.fixture(prepared_files.any_pace, autouse=True)


class Site:
    """A depot, its configuration, and who prepares."""

    def __init__(self, folder, **settings):
        self.folder, self.place = folder, Place(folder / "prepared")
        self.config = UpdatesConfig(folder=folder / "depot", **settings)
        self.config.folder.mkdir()
        self.preparer = Preparer(configured(folder, "prepared"), self.config)
        self.stock = Stock(self.config)

    def publish(self, version, seed=0):
        folder = write_heavy(self.folder / version, "dense", "tflite", 8, seed=seed, version=version)
        return publish(self.config.folder, folder, version, NAME)

    def opened(self, pick, name=NAME):
        held = self.stock.hold(name, pick)
        runner = open_model(held.manifest, origin=held.origin, prepared=self.place)
        runner.close()
        return runner.info

    def entry(self, pick):
        return self.place.folder / key_of(self.stock.hold(NAME, pick).manifest.artifacts[0]).folder


def test_what_the_updater_prepares_the_agent_maps(tmp_path):
    """Also from the folder that [models] prepared names relative to limpet.toml."""
    site = Site(tmp_path)
    pick = site.publish("1.0.0")
    assert not site.opened(pick).prepared
    site.preparer.version(NAME, pick)
    assert site.opened(pick).prepared


def test_what_rotted_is_made_again(tmp_path):
    """At every run of the updater, for every version that the record keeps."""
    site = Site(tmp_path)
    pick = site.publish("1.0.0")
    change(site.config.folder, lambda state: state.activate(NAME, pick))
    site.preparer.kept()
    weights = site.entry(pick) / "weights.xnnpack"
    weights.chmod(0o644)
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    assert not site.opened(pick).prepared
    site.preparer.kept()
    assert site.opened(pick).prepared


def test_what_goes_from_the_depot_goes_here_too(tmp_path):
    """And nothing else does: what was prepared for an operator's own model stays."""
    site = Site(tmp_path)
    kept, other = site.publish("1.0.0"), site.publish("2.0.0", seed=1)
    change(site.config.folder, lambda state: state.activate(NAME, kept))
    for pick in (kept, other):
        site.preparer.version(NAME, pick)
    entries = [site.entry(pick) for pick in (kept, other)]
    before = site.preparer.digests()
    collect(site.config.folder)
    site.preparer.forget(before - site.preparer.digests())
    assert [path.exists() for path in entries] == [True, False]


def test_a_version_that_cannot_be_prepared_is_only_told(tmp_path, caplog):
    """An update never fails by this."""
    site = Site(tmp_path)
    pick = site.publish("1.0.0")
    site.place.folder.write_text("a file where the folder should be")
    site.preparer.version(NAME, pick)
    assert "prepared=no" in caplog.text and str(site.place.folder) in caplog.text


def test_memory_for_preparing_is_limited(tmp_path, caplog):
    """The updater has a limit over all its processes: the child fails below it, and nothing else does."""
    site = Site(tmp_path, probe_memory_mb=16)
    pick = site.publish("1.0.0")
    site.preparer.version(NAME, pick)
    assert not site.opened(pick).prepared
    assert "prepared=" in caplog.text


def test_of_a_sealed_model_nothing_is_written_in_the_clear(tmp_path):
    """Not on the disk, and the reason stands in the runner's info."""
    key = _key(tmp_path / "model.key")
    site = Site(tmp_path, decryption_key=key)
    (site.config.folder / "parts").mkdir()
    folder = write_heavy(tmp_path / "made", "dense", "onnx", 8)
    (folder / "dense.onnx").rename(folder / "letters.onnx")
    text = (folder / "model.toml").read_text().replace(NAME, "letters").replace("dense.onnx", "letters.onnx")
    (folder / "model.toml").write_text(text.replace('version = "1.0.0"', 'version = "1.1.0"'))
    pick, _ = _put_sealed(site.config.folder, folder, key)
    site.preparer.version("letters", pick)
    assert not site.place.folder.exists()
    info = site.opened(pick, "letters")
    assert not info.prepared
    assert [note.asked for note in info.fallbacks if "encrypted" in note.reason] == [PREPARED]
