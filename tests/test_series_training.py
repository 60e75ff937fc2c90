"""How the series detector learns: from views that were moved and spoilt, to give back the whole ones."""

import numpy as np
import pytest

from tools import train_series

RNG_SEED = 3


@pytest.fixture(scope="module")
def healthy():
    """Slow waves with a little noise: 4,000 views of eight rows."""
    rng = np.random.default_rng(RNG_SEED)
    phase, height = rng.uniform(0, 2 * np.pi, (2, 4000, 1))
    rows = np.arange(train_series.LENGTH) / 12
    return np.clip(height / 3 * np.sin(rows + phase) + rng.normal(0, 0.3, (4000, train_series.LENGTH)), -4, 4)


def test_whole_views_are_moved_and_fed_ones_are_spoilt(healthy):
    """Half of the views at another level, about one reading in eight replaced, nothing beyond the reach."""
    fed, whole = train_series.disturbed(np.random.default_rng(0), healthy)
    assert fed.shape == whole.shape == healthy.shape
    assert np.abs(fed).max() <= train_series.REACH and np.abs(whole).max() <= train_series.REACH
    moved = np.abs(whole - healthy).max(axis=1) > 1e-9
    assert moved.mean() == pytest.approx(train_series.MOVED_SHARE, abs=0.03)
    inside = moved & (np.abs(whole).max(axis=1) < train_series.REACH)
    steps = (whole - healthy)[inside]
    assert np.ptp(steps, axis=1).max() < 1e-9, "a view is moved as a whole"
    assert (fed != whole).mean() == pytest.approx(train_series.SPOILT_SHARE, abs=0.02)


def test_it_gives_back_levels_and_what_an_odd_reading_hides(healthy):
    """Against the same network that learned to copy: a level is less strange, a spoilt view comes back more whole."""
    copier, cleaner = (
        train_series.train_autoencoder(healthy, train_series.SIZES, seed=0, epochs=8, disturb=disturb)
        for disturb in (None, train_series.disturbed)
    )
    level = np.clip(healthy[:500] + 3.0, -4, 4)
    odd = healthy[:500].copy()
    odd[:, 4] = 4.0

    def error(net, fed, wanted):
        return float(np.mean((net.layers(fed)[-1] - wanted) ** 2))

    assert error(cleaner, level, level) < error(copier, level, level)
    assert error(cleaner, odd, healthy[:500]) < error(copier, odd, healthy[:500])
    assert error(cleaner, odd, odd) > 5 * error(cleaner, healthy[:500], healthy[:500]), "an odd reading is not copied"
