"""TLS in words: what a distrusted certificate or an alert means, and what to do about it."""

import ssl


def distrust(exc: ssl.SSLCertVerificationError) -> str:
    """Why the broker's certificate is not believed, and what to do."""
    said = exc.verify_message
    advice = {
        9: "this device's clock is wrong, or the certificate starts later: set the clock",
        10: "renew the broker's certificate; if it is still valid, set this device's clock",
        18: "it vouches for itself: put its authority's certificate in [uplink] ca_file",
        19: "its authority is not trusted: put that authority's certificate in [uplink] ca_file",
        20: "its authority is not trusted: put that authority's certificate in [uplink] ca_file",
        62: "it is for another name: use in [uplink] broker the name that the certificate bears",
        64: "it is for another address: use in [uplink] broker the name that the certificate bears",
    }.get(exc.verify_code, "check [uplink] ca_file and the broker's certificate")
    return f"its certificate is refused: {said}: {advice}"


def tls_advice(text: str) -> str:
    """What to do about an alert that the broker sent about us; TLS 1.3 delivers it after the handshake."""
    lower = text.lower().replace("_", " ")
    for sign, advice in (
        ("certificate expired", "the broker finds our certificate expired: renew [uplink] certificate"),
        ("certificate required", "the broker asks for a client certificate: set [uplink] certificate and key"),
        ("unknown ca", "the broker does not trust the authority of our certificate: have it issued by the right one"),
        ("bad certificate", "the broker does not accept our certificate: have it issued for client use"),
        ("certificate unknown", "the broker does not accept our certificate: check which authority it trusts"),
        ("wrong version", "this port does not speak TLS: check [uplink] broker"),
        ("eof occurred", "it hung up during the handshake: it may not accept our certificate; look at its log"),
        ("protocol version", "the broker does not speak TLS 1.3: update it"),
    ):
        if sign in lower:
            return advice
    return "check [uplink] broker, and the broker's log"
