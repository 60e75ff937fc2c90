"""A clock that tests turn by hand."""


class FakeClock:
    """Starts at 1000 s; `sleep` turns it."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept_s = 0.0

    def mono_s(self):
        return self.now_s

    def wall_s(self):
        return 1.8e9 + self.now_s

    def state(self):
        return "synced"

    def sleep(self, seconds):
        self.now_s += max(0.0, seconds)
        self.slept_s += max(0.0, seconds)
