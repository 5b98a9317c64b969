"""PayPal's certificates, by whose keys it signs webhooks."""

import re
from typing import NamedTuple

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from service.adapters.adapter import FetchError
from service.adapters.api import Api
from service.adapters.payload import UnusableError

MAX_KEPT = 16
"""Certificates; PayPal uses one for a year."""

_URL = re.compile(
    r"https://(api(?:-m)?(\.sandbox)?\.paypal\.com)/v1/notifications/certs/([A-Za-z0-9_-]{1,100})", re.ASCII
)
_log = structlog.get_logger()


class Certificate(NamedTuple):
    """A key, and while it is good, in seconds since 1970."""

    key: RSAPublicKey
    since: float
    until: float

    def verifies(self, signature: bytes, message: str, now: float) -> bool:
        """Whether this key signed the message (RSA, SHA-256), and may."""
        try:
            self.key.verify(signature, message.encode(), PKCS1v15(), SHA256())
        except InvalidSignature:
            return False
        return self.since <= now <= self.until


class Certificates:
    """Downloads from PayPal's API and from nowhere else: that TLS led us there is why a certificate is trusted."""

    def __init__(self, *, live: bool):
        self._sandbox = None if live else ".sandbox"
        self._name = f"messageverificationcerts{self._sandbox or ''}.paypal.com"
        self._apis: dict[str, Api] = {}
        self._kept: dict[str, Certificate] = {}

    async def at(self, url: str) -> Certificate | None:
        """The certificate there; None for a URL that is not PayPal's, which is not asked, and if it cannot be had."""
        if (place := _URL.fullmatch(url)) is None or place[2] != self._sandbox:
            return None
        if url not in self._kept:
            api = self._apis.setdefault(place[1], Api(f"https://{place[1]}"))
            try:
                certificate = self._parsed(await api.get_bytes("v1", "notifications", "certs", place[3]))
            except (FetchError, UnusableError, ValueError, UnsupportedAlgorithm) as error:
                _log.warning("certificate_unavailable", url=url, error=str(error))
                return None
            self.keep(url, certificate)
        return self._kept[url]

    def keep(self, url: str, certificate: Certificate) -> None:
        """Use this certificate for the URL from now on."""
        if len(self._kept) >= MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[url] = certificate

    async def close(self) -> None:
        """Close the connections."""
        for api in self._apis.values():
            await api.close()

    def _parsed(self, pem: bytes) -> Certificate:
        certificate = x509.load_pem_x509_certificates(pem)[0]
        names = [attribute.value for attribute in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
        if names != [self._name]:
            raise ValueError(f"the certificate is of {names}, not of {self._name}")
        key = certificate.public_key()
        if not isinstance(key, RSAPublicKey) or key.key_size < 2048:
            raise ValueError("the certificate has no RSA key of 2048 bits or more")
        since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return Certificate(key, since.timestamp(), until.timestamp())
