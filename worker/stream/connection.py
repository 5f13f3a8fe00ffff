"""How the worker's Kafka clients connect: the same options for consumers, producers and admin clients."""

import ssl
from pathlib import Path
from typing import Any

from worker.settings import Settings, SettingsError

CLIENT_ID = "koner"


def client_options(settings: Settings) -> dict[str, Any]:
    """Keyword arguments that any aiokafka client takes: brokers, client id, encryption and credentials.

    Raises `SettingsError` where a certificate or a key cannot be used.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "client_id": CLIENT_ID,
        "security_protocol": settings.security_protocol,
    }
    if settings.security_protocol in ("SSL", "SASL_SSL"):
        options["ssl_context"] = _ssl_context(settings)
    if settings.security_protocol.startswith("SASL"):
        password = settings.sasl_password
        options["sasl_mechanism"] = settings.sasl_mechanism
        options["sasl_plain_username"] = settings.sasl_username
        options["sasl_plain_password"] = password.get_secret_value() if password else None
    return options


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    """Trusts the authorities in `ssl_cafile`, or the system's, and insists on the broker's name in its certificate."""
    try:
        context = ssl.create_default_context(cafile=settings.ssl_cafile)
    except OSError as error:
        problem = _in_words(error, "holds no certificate")
        raise SettingsError(f"ssl_cafile {settings.ssl_cafile}: {problem}; give a PEM file of certificates") from None
    if settings.ssl_certfile is not None:
        _load_own_certificate(context, settings.ssl_certfile, settings.ssl_keyfile or settings.ssl_certfile, settings)
    return context


def _load_own_certificate(context: ssl.SSLContext, certificate: Path, key: Path, settings: Settings) -> None:
    for name, file in (("ssl_certfile", certificate), ("ssl_keyfile", key)):
        try:
            file.open("rb").close()
        except OSError as error:
            raise SettingsError(f"{name} {file}: {error.strerror}; give a PEM file that can be read") from None
    password = settings.ssl_key_password
    asked = False

    def tell_password() -> str:  # asked only for a key that is encrypted; without this OpenSSL would ask the terminal
        nonlocal asked
        asked = True
        return password.get_secret_value() if password else ""

    try:
        context.load_cert_chain(certificate, key, tell_password)
    except (OSError, ValueError) as error:  # a password that OpenSSL cannot hold is a ValueError
        if asked:
            remedy = "check ssl_key_password" if password else "give ssl_key_password or ssl_key_password_file"
            raise SettingsError(f"ssl_keyfile {key}: the key is encrypted and does not open; {remedy}") from None
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            raise SettingsError(f"ssl_keyfile {key}: is not the key of the certificate in {certificate}") from None
        problem = _in_words(error, "holds no certificate, or its key is missing")
        raise SettingsError(f"ssl_certfile {certificate}: {problem}; give the certificate and its key as PEM") from None


def _in_words(error: Exception, otherwise: str) -> str:
    """A file's problem for people: the system's own words, or `otherwise` for what OpenSSL says in its own."""
    if isinstance(error, ssl.SSLError) or not isinstance(error, OSError):
        return otherwise
    return error.strerror or otherwise
