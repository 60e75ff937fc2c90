"""Downloads over a bad network and onto a bad disk: what resumes, what is refused, what it costs."""

import contextlib
import datetime
import hashlib
import ipaddress
import os
import random
import shutil
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.errors import UpdateError
from agent.updates.local import BASE, LocalFetcher
from agent.updates.pace import Limits, Pace
from agent.updates.spans import Span, merged, parts_of
from agent.updates.web import WebFetcher, refuse_open_way
from tests.clocks import FakeClock
from tests.fault_server import Fault, FaultServer

ROOT = Path(__file__).resolve().parent.parent
DATA = random.Random(3).randbytes(700_001)
SHA = hashlib.sha256(DATA).hexdigest()
QUICK = Limits(retry_s=0.02, silence_s=5.0, keep_free_bytes=0)


@pytest.fixture
def server():
    with FaultServer() as running:
        running.files["blob"] = DATA
        yield running


def bring(server, part, limits=QUICK, data=DATA, **kwargs):
    """Fetch /blob into `part`; the fetcher that did it."""
    fetcher = WebFetcher(limits, **kwargs)
    fetcher.blob(f"{server.url}/blob", part, len(data), hashlib.sha256(data).hexdigest())
    return fetcher


def refused(server, part, limits=QUICK, **kwargs):
    """The error of a fetch that must fail."""
    with pytest.raises(UpdateError) as caught:
        bring(server, part, limits, **kwargs)
    return caught.value


def ranges(server):
    return [request.range for request in server.requests]


def test_a_blob_arrives_whole_and_leaves_no_note_of_itself(server, tmp_path):
    """One request, the signed bytes, and a count of what came over the wire with its headers."""
    fetcher = bring(server, tmp_path / SHA)
    assert (tmp_path / SHA).read_bytes() == DATA
    assert ranges(server) == [""]
    assert len(DATA) < fetcher.received_bytes < len(DATA) + 1000


def test_a_blob_that_is_there_costs_no_request(server, tmp_path):
    """A finished part is proved again from the disk, and nothing is asked of the network."""
    (tmp_path / SHA).write_bytes(DATA)
    assert bring(server, tmp_path / SHA).received_bytes == 0
    assert server.requests == []


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_transfer_goes_on_where_it_stopped(server, tmp_path, reset):
    """Cut at a third, twice: the rest is asked for by Range, under If-Range with the ETag of the first answer."""
    server.faults["blob"] = Fault(times=2, cut_after=233_333, reset=reset)
    bring(server, tmp_path / SHA)
    assert (tmp_path / SHA).read_bytes() == DATA
    assert ranges(server) == ["", "bytes=233333-", "bytes=466666-"]
    assert [request.if_range[:1] for request in server.requests] == ["", '"', '"']
    assert server.sent_bytes == len(DATA)


def test_another_process_goes_on_with_the_part_of_one_that_died(server, tmp_path):
    """The part and its validator lie on the disk; a link that stays broken is given up with both kept."""
    server.faults["blob"] = Fault(cut_after=100_000)
    server.faults["blob"].times = 1
    assert refused(server, tmp_path / SHA, Limits(retry_s=0.02, tries=1, keep_free_bytes=0)).reason == "DOWNLOAD_FAILED"
    assert (tmp_path / SHA).stat().st_size == 100_000
    bring(server, tmp_path / SHA)
    assert ranges(server) == ["", "bytes=100000-"]


def test_a_body_without_length_that_ends_early_is_not_taken_for_whole(server, tmp_path):
    """Where the end of the connection is the end of the body, only the signed length tells that it was cut."""
    server.faults["blob"] = Fault(times=1, unsized=True, cut_after=50_000)
    bring(server, tmp_path / SHA)
    assert ranges(server) == ["", "bytes=50000-"]


def test_a_server_that_ignores_ranges_starts_over(server, tmp_path):
    """200 to a Range: what was there is cut off, and the whole comes."""
    (tmp_path / SHA).write_bytes(DATA[:1000])
    server.faults["blob"] = Fault(no_range=True)
    bring(server, tmp_path / SHA)
    assert (tmp_path / SHA).read_bytes() == DATA


def test_an_object_that_changed_is_fetched_from_its_start(server, tmp_path):
    """If-Range does not fit any more: the server sends the new object whole, and it is the signed one."""
    server.files["blob"] = bytes(len(DATA))
    server.faults["blob"] = Fault(times=1, cut_after=300_000)
    stopped = Limits(retry_s=0.02, tries=1, keep_free_bytes=0)
    assert refused(server, tmp_path / SHA, stopped).reason == "DOWNLOAD_FAILED"
    server.files["blob"] = DATA
    bring(server, tmp_path / SHA)
    assert (tmp_path / SHA).read_bytes() == DATA
    assert ranges(server) == ["", "bytes=300000-"]


def test_a_part_of_another_object_without_etag_is_found_out_and_fetched_again(server, tmp_path):
    """No validator, so two objects are mixed: the hash tells, and the second try is whole."""
    (tmp_path / SHA).write_bytes(b"old" * 1000)
    server.faults["blob"] = Fault(no_etag=True)
    bring(server, tmp_path / SHA)
    assert ranges(server) == ["bytes=3000-", ""]


def test_a_part_that_is_too_long_is_dropped(server, tmp_path):
    """It cannot be a beginning of the signed file."""
    (tmp_path / SHA).write_bytes(DATA + b"more")
    bring(server, tmp_path / SHA)
    assert (tmp_path / SHA).read_bytes() == DATA


def test_a_wrong_bit_is_refused_and_nothing_stays(server, tmp_path):
    """Of the right length, with one bit changed."""
    server.faults["blob"] = Fault(flip=400_000)
    assert refused(server, tmp_path / SHA).reason == "VERIFY_FAILED"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", [Fault(endless=True), Fault(unsized=True)])
def test_a_body_without_end_stops_at_the_signed_length(server, tmp_path, fault):
    """Endless, or one byte too long: broken off there, and nothing stays."""
    server.files["blob"] = DATA + b"!"
    server.faults["blob"] = fault
    error = refused(server, tmp_path / SHA)
    assert error.reason == "VERIFY_FAILED"
    assert "goes on after the 700001 signed bytes" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_a_length_that_was_not_signed_is_refused_at_the_headers(server, tmp_path):
    """Nothing of the body is taken."""
    server.files["blob"] = DATA * 20
    assert refused(server, tmp_path / SHA).reason == "VERIFY_FAILED"
    assert server.sent_bytes < len(DATA) * 20 or not (tmp_path / SHA).exists()


def test_a_trickle_is_broken_off_within_its_grace_and_the_part_kept(server, tmp_path):
    """One byte each 50 ms after a good start; what came is there for the next try."""
    server.faults["blob"] = Fault(trickle_s=0.05, trickle_after=300_000)
    clock = Stopwatch()
    error = refused(server, tmp_path / SHA, Limits(grace_s=1.0, slowest_bytes_s=1024, keep_free_bytes=0))
    assert error.reason == "TIMED_OUT"
    assert clock.seconds() < 4
    assert (tmp_path / SHA).stat().st_size >= 300_000


def test_a_trickle_of_headers_is_broken_off_too(server, tmp_path):
    """The status line comes byte by byte: no body, no loophole."""
    server.faults["blob"] = Fault(trickle_s=0.05, trickle_headers=True)
    clock = Stopwatch()
    assert refused(server, tmp_path / SHA, Limits(grace_s=0.5, keep_free_bytes=0)).reason == "TIMED_OUT"
    assert clock.seconds() < 3


def test_a_server_that_says_nothing_is_given_up(server, tmp_path):
    """Accepts, reads, and is silent: a failure like a broken link, tried again, then given up."""
    server.faults["blob"] = Fault(silent=True)
    clock = Stopwatch()
    error = refused(server, tmp_path / SHA, Limits(silence_s=0.3, tries=2, retry_s=0.02, keep_free_bytes=0))
    assert error.reason == "DOWNLOAD_FAILED"
    assert clock.seconds() < 3


def test_all_transfers_together_end_at_their_time(server, tmp_path):
    """The total holds over several transfers, however much each of them brings."""
    server.faults["blob"] = Fault(trickle_s=0.01)
    error = refused(server, tmp_path / SHA, Limits(total_s=0.5, slowest_bytes_s=1, keep_free_bytes=0))
    assert error.reason == "TIMED_OUT"
    assert "download_s" in str(error)


def test_the_bandwidth_cap_holds(server, tmp_path):
    """700 kB at 400 kB per second of a clock that only the cap turns."""
    clock = FakeClock()
    limits = Limits(bandwidth_bytes_s=400_000, keep_free_bytes=0)
    bring(server, tmp_path / SHA, limits, clock=clock)
    assert 1.3 < clock.slept_s < 1.9


def test_slow_is_judged_by_waiting_for_the_network_only():
    """A card that stalls, or our own cap, is not the server's slowness."""
    clock = FakeClock()
    pace = Pace(Limits(slowest_bytes_s=1000, grace_s=10), clock)
    pace.received(100, 60.0)  # the server thinks for a minute before it answers
    for _ in range(50):
        clock.sleep(30)  # the disk is busy
        pace.received(1000, 0.5)
    with pytest.raises(UpdateError, match="12 bytes per second"):
        for _ in range(40):
            pace.received(6, 0.5)


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_server_in_trouble_is_asked_again_after_a_growing_wait(server, tmp_path, status):
    """Three failures, then it works; each wait is drawn from a ceiling that doubles."""
    server.faults["blob"] = Fault(times=3, status=status)
    clock = FakeClock()
    limits = Limits(retry_s=4.0, tries=4, keep_free_bytes=0)
    bring(server, tmp_path / SHA, limits, clock=clock, rng=random.Random(1))
    assert len(server.requests) == 4
    assert 1 < clock.slept_s < 4 + 8 + 16


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_not_asked_again(server, tmp_path, status):
    """It is said with its status."""
    server.faults["blob"] = Fault(status=status)
    error = refused(server, tmp_path / SHA)
    assert (error.reason, len(server.requests)) == ("DOWNLOAD_FAILED", 1)
    assert str(status) in str(error)


def test_a_captive_portal_is_named(server, tmp_path):
    """A web page with status 200 where a file should be: for blobs and for small files."""
    server.faults["*"] = Fault(page=True)
    assert "log in to this network" in str(refused(server, tmp_path / SHA))
    with pytest.raises(UpdateError, match="log in to this network"):
        WebFetcher(QUICK).download_bytes(f"{server.url}/metadata/timestamp.json", 16384)


def test_redirects_are_followed_up_to_their_limit(server, tmp_path):
    """One works; a loop ends."""
    server.faults["old"] = Fault(location="/blob")
    server.faults["loop"] = Fault(location="/loop")
    assert WebFetcher(QUICK).download_bytes(f"{server.url}/old", len(DATA)) == DATA
    with pytest.raises(UpdateError, match="more than 5 redirects"):
        WebFetcher(QUICK).download_bytes(f"{server.url}/loop", 100)


@pytest.mark.parametrize("location", ["http://[", "https://[::1", "http://[fe80::zz]/", "//[", "http://127.0.0.1:x/"])
def test_a_redirect_to_no_url_is_refused_in_words(server, location):
    """Python's own parser raises ValueError over some of them: that would be the end of the updater."""
    server.faults["odd"] = Fault(location=location)
    with pytest.raises(UpdateError, match=r"URL|https|no answer"):
        WebFetcher(QUICK).download_bytes(f"{server.url}/odd", 100)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/x", "http://8.8.8.8/x", "ftp://127.0.0.1/x", "file:///etc/passwd", "http:///x",
        "https://", "http://0x7f000001.example/", "http://[::1", "",
    ],
)  # fmt: skip
def test_an_open_way_over_the_internet_is_refused(url):
    """Plain http is for this machine and private addresses."""
    with pytest.raises(UpdateError, match=r"https|is no URL"):
        refuse_open_way(url)


@pytest.mark.parametrize("url", ["https://example.com/x", "http://127.0.0.1:8/x", "http://192.168.1.5/", "http://[::1]/"])
def test_near_http_and_any_https_are_allowed(url):
    """The content is signed; see web.py for what http gives away."""
    refuse_open_way(url)


def certificate(folder, name="127.0.0.1"):
    """A self-signed certificate for this machine: (context of the server, file with the certificate)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = folder / f"{name}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(built.public_bytes(serialization.Encoding.PEM) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context, pem


def test_tls_is_verified_against_the_ca_that_was_named(tmp_path):
    """Trusted with its CA file; refused without, and with the right CA under another name."""
    context, pem = certificate(tmp_path)
    with FaultServer(context) as server:
        server.files["blob"] = DATA
        assert bring(server, tmp_path / SHA, ca=pem).received_bytes > len(DATA)
        assert "TLS failed" in str(refused(server, tmp_path / "other"))
    context, pem = certificate(tmp_path, "127.0.0.2")
    with FaultServer(context) as server:
        assert "TLS failed" in str(refused(server, tmp_path / "other", ca=pem))
        assert server.requests == []
    with pytest.raises(UpdateError, match="cannot be read"):
        WebFetcher(ca=tmp_path / "nothing.pem")


def test_https_never_leads_to_http(tmp_path, server):
    """Not even to a private address."""
    context, pem = certificate(tmp_path)
    with FaultServer(context) as safe:
        safe.faults["*"] = Fault(location=f"{server.url}/blob")
        assert "from https to http" in str(refused(safe, tmp_path / SHA, ca=pem))
    assert server.requests == []


def test_nothing_is_asked_for_when_the_disk_has_no_room(server, tmp_path):
    """The signed length and the room to keep are known before the first byte."""
    free = shutil.disk_usage(tmp_path).free
    error = refused(server, tmp_path / SHA, Limits(keep_free_bytes=free))
    assert error.reason == "NO_SPACE"
    assert server.requests == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 kB and 20 inodes."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=600k,nr_inodes=20", "none", folder]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let a test mount a tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_in_the_middle_is_left_clean(small_disk, server):
    """Enough room when asked, not when written: NO_SPACE, and the part gives its room back."""
    real = os.statvfs

    class Roomy:
        def __init__(self, found):
            self.f_frsize, self.f_files, self.f_favail = found.f_frsize, found.f_files, found.f_favail
            self.f_bavail = 1 << 20

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "statvfs", lambda path: Roomy(real(path)))
        assert refused(server, small_disk / SHA).reason == "NO_SPACE"
    assert list(small_disk.iterdir()) == []
    assert refused(server, small_disk / SHA).reason == "NO_SPACE"
    assert len(server.requests) == 1


def test_a_disk_without_inodes_is_no_room(small_disk, server):
    """Bytes are free, names are not."""
    with contextlib.suppress(OSError):
        for number in range(100):
            (small_disk / str(number)).touch()
    error = refused(server, small_disk / SHA, data=b"x")
    assert (error.reason, server.requests) == ("NO_SPACE", [])
    assert "no inode is free" in str(error)


@pytest.mark.parametrize("fault", [Fault(), Fault(no_range=True), Fault(first_range_only=True)])
def test_single_ranges_of_a_blob_arrive(server, fault):
    """Several in one request; one by one from a server that knows no more; refused where there are none at all."""
    server.faults["blob"] = fault
    wanted = [Span(0, 10), Span(5000, 70_000), Span(700_000, 700_001)]
    got = bytearray(len(DATA))
    fetcher = WebFetcher(QUICK)
    if fault.no_range:
        with pytest.raises(UpdateError, match="no ranges"):
            list(fetcher.spans(f"{server.url}/blob", wanted, len(DATA)))
        return
    for offset, data in fetcher.spans(f"{server.url}/blob", wanted, len(DATA)):
        got[offset : offset + len(data)] = data
    assert [bytes(got[span.start : span.end]) for span in wanted] == [DATA[span.start : span.end] for span in wanted]
    assert len(server.requests) == (4 if fault.first_range_only else 1)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"--S", b"--S\r\n\r\nabc", b"--S\r\nContent-Range: bytes 0-99/10\r\n\r\n", b"junk\r\n--S--\r\n",
        b"--S\r\nContent-Range: bytes 0-4/10\r\n\r\nabc", b"x" * 100_000, b"--S\r\n" + b"a: b\r\n" * 100,
        b"--S\r\nContent-Range: bytes 4-3/10\r\n\r\n--S--\r\n",
        b"--S\r\nContent-Range: bytes 0-4/11\r\n\r\nabcde\r\n--S--",
    ],
)  # fmt: skip
def test_a_hostile_answer_with_several_ranges_is_refused(body):
    """Cut short, without end, outside the file, of another file."""
    with pytest.raises(UpdateError, match="several ranges has"):
        list(parts_of([body[:3], body[3:]], b"S", 10))


def test_neighbouring_spans_are_asked_for_as_one():
    """Touching and overlapping ones, in any order."""
    assert merged([Span(9, 12), Span(0, 4), Span(4, 6), Span(5, 8)]) == (Span(0, 8), Span(9, 12))


def test_a_folder_is_a_repository_too(tmp_path):
    """A stick: the same blob, the same proof, the same ranges, and no way out of the folder."""
    stick = tmp_path / "stick"
    (stick / "blobs").mkdir(parents=True)
    (stick / "blobs" / SHA).write_bytes(DATA)
    (stick / "away").symlink_to("/etc")
    os.mkfifo(stick / "pipe")
    fetcher = LocalFetcher(stick, QUICK)
    fetcher.blob(f"{BASE}/blobs/{SHA}", tmp_path / SHA, len(DATA), SHA)
    assert (tmp_path / SHA).read_bytes() == DATA
    assert b"".join(data for _, data in fetcher.spans(f"{BASE}/blobs/{SHA}", [Span(5, 9)], len(DATA))) == DATA[5:9]
    for path in ("away/hostname", "../stick/../../etc/passwd", "%2e%2e/x", "pipe", "blobs"):
        with pytest.raises(UpdateError) as caught:
            fetcher.blob(f"{BASE}/{path}", tmp_path / "x", 5, SHA)
        assert caught.value.reason == "DOWNLOAD_FAILED"
    with pytest.raises(UpdateError, match="is the stick in"):
        LocalFetcher(tmp_path / "nowhere")


def test_a_wrong_file_on_a_stick_is_refused(tmp_path):
    """What lies there is as hostile as what comes over a wire."""
    (tmp_path / "blob").write_bytes(DATA[:-1] + b"?")
    with pytest.raises(UpdateError) as caught:
        LocalFetcher(tmp_path, QUICK).blob(f"{BASE}/blob", tmp_path / SHA, len(DATA), SHA)
    assert caught.value.reason == "VERIFY_FAILED"
    assert not Path(tmp_path / SHA).exists()


def test_the_agent_never_loads_the_updaters_packages():
    """TUF and its HTTP stack cost the updater's process 32 MB, and the agent's nothing."""
    heavy = {"tuf", "securesystemslib", "urllib3"}
    code = f"import sys, agent.app.app, agent.cli, agent.supervisor; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self):
        self._start = time.monotonic()

    def seconds(self):
        return time.monotonic() - self._start
