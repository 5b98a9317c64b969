"""A key and a certificate that sign as PayPal does. An adapter has to be told to trust it: no setting can."""

import base64
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from service.adapters.paypal import PayPal
from service.adapters.paypal_certificates import Certificate

URL = "https://api.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-a5cafa77"
NAME = "messageverificationcerts.paypal.com"
SINCE, UNTIL = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)


@lru_cache
def key(size: int = 2048) -> RSAPrivateKey:
    return generate_private_key(65537, size)


@lru_cache
def other_kind_of_key() -> EllipticCurvePrivateKey:
    return generate_ec_key(SECP256R1())


def pem(name: str = NAME, signer: RSAPrivateKey | EllipticCurvePrivateKey | None = None) -> bytes:
    signer = signer or key()
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(subject, subject, signer.public_key(), 1, SINCE, UNTIL)
    return builder.sign(signer, SHA256()).public_bytes(Encoding.PEM)


def trust(adapter: PayPal) -> None:
    adapter.certificates.keep(URL, Certificate(key().public_key(), SINCE.timestamp(), UNTIL.timestamp()))


def sign(adapter: PayPal, body: bytes, at: float) -> Mapping[str, str]:
    sent = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=at)).strftime("%Y-%m-%dT%H:%M:%SZ")
    name = "69cd13f0-d67a-11e5-baa3-778b53f4ae55"
    message = f"{name}|{sent}|{adapter.webhook_secrets[0]}|{zlib.crc32(body)}"
    return {
        "PAYPAL-TRANSMISSION-ID": name,
        "PAYPAL-TRANSMISSION-TIME": sent,
        "PAYPAL-TRANSMISSION-SIG": base64.b64encode(key().sign(message.encode(), PKCS1v15(), SHA256())).decode(),
        "PAYPAL-CERT-URL": URL,
        "PAYPAL-AUTH-ALGO": "SHA256withRSA",
    }
