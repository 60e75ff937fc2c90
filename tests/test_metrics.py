"""The registry counts right and cheaply, and the endpoint speaks Prometheus to whoever may ask."""

import http.client
import math
import random
import re
import socket
import stat
import threading
import timeit
from contextlib import contextmanager

import pytest

from agent.errors import ConfigError, UplinkError
from agent.exposition import EXCHANGE_S, REQUEST_LIMIT, Exposition
from agent.metrics import CONTENT_TYPE, RECENT, Registry
from agent.settings.metrics import MetricsConfig
from agent.strict import build

_PAIR = r'[a-z_]+="(\\.|[^"\\])*"'
SAMPLE = re.compile(rf"[a-z_][a-z0-9_]*(\{{{_PAIR}(,{_PAIR})*\}})? (NaN|[+-]Inf|[-+0-9.e]+)")


@contextmanager
def serving(config, registry):
    """The exposition in a thread, as its lane would run it; yields it once it listens."""
    exposition, stop, beats, failure = Exposition(config, registry), threading.Event(), [], []

    def body():
        try:
            exposition.run(stop, lambda: beats.append(1))
        except UplinkError as exc:
            failure.append(exc)

    thread = threading.Thread(target=body)
    thread.start()
    try:
        for _ in range(500):
            if exposition.address or failure:
                break
            stop.wait(0.01)
        assert not failure, failure
        yield exposition
    finally:
        stop.set()
        thread.join(5)
    assert beats
    assert not thread.is_alive()


def ask(address, path="/metrics", method="GET"):
    """Status, content type and body, by the standard library's HTTP client."""
    host, _, port = address.rpartition(":")
    client = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=5)
    client.request(method, path)
    answer = client.getresponse()
    return answer.status, answer.getheader("Content-Type"), answer.read().decode()


def test_the_text_is_exposition_format_0_0_4():
    """HELP and TYPE once per metric, labels and help escaped, numbers as Prometheus writes them."""
    registry = Registry()
    registry.counter("drops_total", "Dropped \\ for\nreasons.", ("source",)).at('a"b\\c\nd').inc(3)
    registry.gauge("level_ratio", "A level.").at().set(math.nan)
    registry.summary("stage_seconds", "Time.", ("stage",)).at("pre").observe(0.25)
    assert registry.text().splitlines() == [
        r"# HELP drops_total Dropped \\ for\nreasons.",
        "# TYPE drops_total counter",
        r'drops_total{source="a\"b\\c\nd"} 3',
        "# HELP level_ratio A level.",
        "# TYPE level_ratio gauge",
        "level_ratio NaN",
        "# HELP stage_seconds Time.",
        "# TYPE stage_seconds summary",
        'stage_seconds{stage="pre",quantile="0.5"} 0.25',
        'stage_seconds{stage="pre",quantile="0.95"} 0.25',
        'stage_seconds{stage="pre",quantile="0.99"} 0.25',
        'stage_seconds_sum{stage="pre"} 0.25',
        'stage_seconds_count{stage="pre"} 1',
    ]


SPELLED = [(1e18, "1e+18"), (-0.5, "-0.5"), (math.inf, "+Inf"), (7, "7"), (2**40, "1099511627776")]


@pytest.mark.parametrize(("value", "text"), SPELLED)
def test_numbers_are_written_without_loss(value, text):
    """Whole numbers as such, the rest in the shortest form that reads back to the same number."""
    registry = Registry()
    registry.gauge("g_bytes", "G.").at().set(value)
    assert registry.text().splitlines()[-1] == f"g_bytes {text}"


def test_quantiles_are_those_of_the_newest_observations():
    """p50, p95 and p99 by nearest rank over the last 1,024; count and sum since the start."""
    summary = Registry().summary("x_seconds", "X.").at()
    for _ in range(5000):
        summary.observe(1e9)  # pushed out by what follows
    values = random.Random(1).sample(range(100_000), RECENT)
    for value in values:
        summary.observe(value)
    ranked = sorted(values)
    assert summary.quantiles() == tuple(ranked[math.ceil(q * RECENT) - 1] for q in (0.5, 0.95, 0.99))
    assert summary.count == 5000 + RECENT


def test_no_increment_is_lost_between_threads():
    """Eight threads, one counter, exact count; one summary, exact count and sum."""
    registry = Registry()
    counter, summary = registry.counter("a_total", "A.").at(), registry.summary("b_seconds", "B.").at()

    def work():
        for _ in range(20_000):
            counter.inc()
            summary.observe(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.value == summary.count == 160_000
    assert "b_seconds_sum 160000\n" in registry.text()


def test_counting_costs_little_more_than_a_lock():
    """Against a bare addition under a lock, round by round: the machine may be busy, and is so for both."""
    registry, lock, total = Registry(), threading.Lock(), [0]
    counter, summary = registry.counter("a_total", "A.").at(), registry.summary("b_seconds", "B.").at()

    def bare():
        with lock:
            total[0] += 1

    def ratio(timed):
        return min(timeit.timeit(timed, number=5000) / timeit.timeit(bare, number=5000) for _ in range(9))

    assert ratio(counter.inc) < 8
    assert ratio(lambda: summary.observe(1.0)) < 16


def test_labels_cannot_grow_without_bound():
    """Beyond the limit everything is counted together under "other", and nothing is lost."""
    registry = Registry(series_limit=10)
    family = registry.counter("seen_total", "Seen.", ("who", "why"))
    for n in range(1000):
        family.at(f"stranger{n}", "x").inc()
    text = registry.text()
    assert text.count("\nseen_total{") == 11
    assert 'seen_total{who="other",why="other"} 990' in text


def test_the_same_metric_is_the_same_object_and_cannot_change_its_kind():
    """Two components may share a metric; a clash of kinds or labels is a bug that shows at once."""
    registry = Registry()
    registry.counter("a_total", "A.", ("x",)).at("1").inc()
    assert registry.counter("a_total", "A.", ("x",)).at("1").value == 1
    with pytest.raises(ValueError, match="already a counter"):
        registry.counter("a_total", "A.", ("y",))
    with pytest.raises(ValueError, match="already a counter"):
        registry.gauge("a_total", "A.", ("x",))
    with pytest.raises(ValueError, match="ends in _total"):
        registry.counter("a", "A.")
    with pytest.raises(ValueError, match="only grows"):
        registry.counter("a_total", "A.", ("x",)).at("1").inc(-1)
    with pytest.raises(ValueError, match="has labels"):
        registry.counter("a_total", "A.", ("x",)).at()


def test_a_gauge_can_ask():
    """A gauge read from a function shows the present."""
    registry = Registry()
    rows = [1, 2, 3]
    family = registry.gauge("rows", "Rows.", ("store",))
    family.at("outbox").read_from(lambda: len(rows))
    rows.append(4)
    assert 'rows{store="outbox"} 4' in registry.text()


def test_an_http_client_reads_the_metrics():
    """GET /metrics on a loopback port: 200, the right content type, every line well-formed."""
    registry = Registry()
    registry.summary("stage_seconds", "Time.", ("stage",)).at("run").observe(0.1)
    registry.counter("a_total", "A.", ("x",)).at('odd "value"\\\n').inc()
    with serving(MetricsConfig(listen="127.0.0.1:0"), registry) as exposition:
        status, kind, body = ask(exposition.address)
        assert (status, kind) == (200, CONTENT_TYPE)
        lines = [line for line in body.splitlines() if not line.startswith("#")]
        assert lines
        assert all(SAMPLE.fullmatch(line) for line in lines)
        assert ask(exposition.address, "/metrics?x=1")[0] == 200
        assert ask(exposition.address, "/")[0] == 404
        assert ask(exposition.address, method="POST")[0] == 405
        assert ask(exposition.address, method="HEAD")[2] == ""


def test_a_slow_or_endless_client_holds_nobody_up():
    """A silent client is hung up on after one deadline, an endless head is refused; the next client is served."""
    registry = Registry()
    with serving(MetricsConfig(listen="127.0.0.1:0"), registry) as exposition:
        host, port = exposition.address.split(":")
        with socket.create_connection((host, int(port)), timeout=5 * EXCHANGE_S) as silent:
            assert silent.recv(100) == b""
        with socket.create_connection((host, int(port)), timeout=5) as endless:
            endless.sendall((b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * REQUEST_LIMIT)[:REQUEST_LIMIT])
            assert b"431" in endless.recv(100)
        assert ask(exposition.address)[0] == 200


def test_a_unix_socket_serves_owner_and_group_and_is_taken_over_when_stale(tmp_path):
    """Mode 0660; a socket left behind by a dead process is replaced, one that is served is not."""
    path = tmp_path / "metrics.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    config = MetricsConfig(listen=f"unix:{path}")
    with serving(config, Registry()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 OK")
        with pytest.raises(UplinkError, match="choose another port or path"):
            Exposition(config, Registry()).run(threading.Event(), lambda: None)
        assert path.exists()
    assert not path.exists()


def test_a_taken_port_is_an_error_that_says_what_to_do():
    """The lane fails with an UplinkError, which the supervisor retries."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        config = MetricsConfig(listen=f"127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(UplinkError, match=r"cannot be opened.*choose another port"):
            Exposition(config, Registry()).run(threading.Event(), lambda: None)


@pytest.mark.parametrize("listen", ["0.0.0.0:9464", "192.168.1.5:9464", "[::]:9464", "example.org:9464"])
def test_other_machines_are_refused_unless_allowed(listen):
    """An address that is not loopback needs allow_remote."""
    with pytest.raises(ConfigError, match="allow_remote"):
        Exposition(MetricsConfig(listen=listen), Registry())
    Exposition(MetricsConfig(listen=listen, allow_remote=True), Registry())


@pytest.mark.parametrize("listen", ["9464", "127.0.0.1", "http://127.0.0.1:1", "unix:relative"])
def test_a_wrong_address_is_refused_by_the_configuration(listen):
    """The message shows what an address looks like."""
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9464"):
        build(MetricsConfig, {"listen": listen}, "limpet.toml [metrics]")


def test_ipv6_loopback_works_where_the_machine_has_it():
    """The address is spelled with brackets."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as exc:
        pytest.skip(f"this machine has no IPv6 loopback: {exc}")
    with serving(MetricsConfig(listen="[::1]:0"), Registry()) as exposition:
        assert exposition.address.startswith("[::1]:")
        assert ask(exposition.address)[0] == 200
