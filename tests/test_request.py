"""A signed request: small, bound to everything that matters, and read only after its signature."""

import pytest

from agent import cbor
from agent.envelope import signed
from agent.envelope.keys import ES256, SigningKey
from agent.errors import CommandError
from agent.request import LIFE_S, LIMIT_BYTES, Request, Target, new_id, next_counter, parse_request, sign_request

NOW_S = 1_790_000_000
TARGET = Target("berlin", "cam7", "update", "r1")
LONGEST = Target("s" * 64, "d" * 64, "update", "i" * 64)
KEY = SigningKey.generate()


def _request(target=TARGET, **changes):
    values = {"args": {"model": "keywords", "version": "1.1.0"}, **changes}
    return Request(target, NOW_S, NOW_S + 900, NOW_S * 1000, **values)


def _read(data, target=TARGET, key=KEY.public):
    return parse_request(data, target).verified(key)


@pytest.mark.parametrize("algorithm", [-8, ES256])
def test_a_request_comes_out_as_it_went_in(algorithm):
    """Both kinds of keys carry every claim."""
    key = SigningKey.generate(algorithm)
    asked = _request(nonce=b"12345678", audience="acme", args={"a": [1, -2, 0.5, True, None, b"\0", {"b": "c"}]})
    unverified = parse_request(sign_request(key, asked), TARGET)
    assert unverified.key_id == key.public.key_id
    assert unverified.verified(key.public) == asked


def test_requests_of_thin_links_fit_into_256_bytes_whatever_the_names():
    """The longest legal names of site, device, id, model and version, audience and nonce together."""
    args = {"model": "m" * 64, "version": "100.100.100-" + "v" * 32}
    longest = _request(LONGEST, args=args, nonce=b"12345678", audience="audience")
    for operation in ("update", "rollback", "pin"):
        target = Target(LONGEST.site, LONGEST.device, operation, LONGEST.id)
        size = len(sign_request(KEY, _request(target, args=args, nonce=longest.nonce, audience=longest.audience)))
        assert size <= 256
    assert len(sign_request(KEY, _request())) <= 150


def test_a_request_over_its_limit_is_neither_signed_nor_parsed():
    """256 bytes for an update, 8 KiB for any: the size is looked at before anything else."""
    with pytest.raises(CommandError, match="shorten"):
        sign_request(KEY, _request(args={"model": "m" * 300}))
    with pytest.raises(CommandError, match="may have 256"):
        parse_request(b"\xd2" + bytes(256), TARGET)
    config = Target("berlin", "cam7", "set-config", "r1")
    assert _read(sign_request(KEY, _request(config, args={"t": "x" * 8000})), config).args == {"t": "x" * 8000}
    with pytest.raises(CommandError, match=f"may have {LIMIT_BYTES}"):
        parse_request(bytes(10_000_000), config)


@pytest.mark.parametrize("changed", [
    Target("paris", "cam7", "update", "r1"), Target("berlin", "cam8", "update", "r1"),
    Target("berlin", "cam7", "pin", "r1"), Target("berlin", "cam7", "update", "r2"),
])  # fmt: skip
def test_site_device_operation_and_id_are_signed(changed):
    """A broker that moves a request to another topic makes it void."""
    with pytest.raises(CommandError) as caught:
        _read(sign_request(KEY, _request()), changed)
    assert caught.value.reason == "REJECTED_BAD_SIGNATURE"


def test_no_bit_can_be_changed():
    """Every single flipped bit of a request is refused, most by the signature."""
    data = sign_request(KEY, _request())
    for place in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(CommandError):
            _read(bytes(flipped))


def test_another_key_is_refused():
    """Also one that claims to be the right one."""
    with pytest.raises(CommandError, match="signature"):
        _read(sign_request(SigningKey.generate(), _request()))


def _signed(claims):
    from agent.request import external

    return signed.sign_with(KEY, claims if isinstance(claims, bytes) else cbor.encode(claims), external(TARGET))


GOOD = {1: "limpet", 2: NOW_S, 3: NOW_S + 900, 4: 7, 5: {}}


@pytest.mark.parametrize("claims", [
    {k: v for k, v in GOOD.items() if k != 3}, GOOD | {7: "a newer restriction"}, GOOD | {2: "now"}, GOOD | {4: -1},
    GOOD | {4: 1 << 60}, GOOD | {4: True}, GOOD | {5: []}, GOOD | {5: {1: 2}}, GOOD | {5: {"x": [float("nan")]}},
    GOOD | {6: "12345678"}, GOOD | {6: b"123"}, GOOD | {1: ""}, GOOD | {1: "nine-long"}, GOOD | {3: NOW_S},
    GOOD | {3: NOW_S + LIFE_S + 1}, [], b"\xff", b"\xa1\x01", cbor.encode(GOOD) + b"\0", b"\x81" * 100 + b"\0",
], ids=repr)  # fmt: skip
def test_a_rightly_signed_request_of_a_wrong_shape_is_refused(claims):
    """A trusted key is no reason to believe in shapes; a claim that is not known could be a restriction."""
    with pytest.raises(CommandError):
        _read(_signed(claims))
    assert _read(_signed(GOOD)).counter == 7


def test_headers_are_as_written_or_refused():
    """No algorithm of the sender's choice, nothing unprotected, no certificate brought along."""
    data = sign_request(KEY, _request())
    protected, _, payload, signature = cbor.decode(data[1:])
    for header in ({1: -7, 4: KEY.public.key_id}, {1: 0, 4: KEY.public.key_id}, {4: KEY.public.key_id}, {1: -8}):
        with pytest.raises(CommandError):
            _read(b"\xd2" + cbor.encode([cbor.encode(header), {}, payload, signature]))
    for unprotected in ({33: b"certificate"}, {4: KEY.public.key_id}):
        with pytest.raises(CommandError):
            _read(b"\xd2" + cbor.encode([protected, unprotected, payload, signature]))


def test_a_name_that_may_not_stand_in_a_topic_is_refused():
    """Before anything is signed or looked for."""
    for bad in ("", "a/b", "#", "x" * 65, "ä"):
        with pytest.raises(CommandError):
            Target("berlin", "cam7", "update", bad)


def test_counters_grow_even_when_the_clock_does_not():
    """Two requests in a millisecond, or after a clock was set back, still follow each other."""
    assert next_counter(NOW_S) == NOW_S * 1000
    assert next_counter(NOW_S, last=NOW_S * 1000 + 5) == NOW_S * 1000 + 6


def test_ids_sort_by_time_and_do_not_meet():
    """Both tools and people read them."""
    first, second = new_id(NOW_S, b"\xff" * 5), new_id(NOW_S + 1, b"\0" * 5)
    assert first < second
    assert new_id(NOW_S, b"abcde") != new_id(NOW_S, b"abcdf")
