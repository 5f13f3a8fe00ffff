"""How the worker's Kafka clients connect: the same options for consumers, producers and admin clients."""

import ssl
from typing import Any

from worker.settings import Settings, SettingsError

CLIENT_ID = "koner"


def client_options(settings: Settings) -> dict[str, Any]:
    """Keyword arguments that any aiokafka client takes: brokers, client id, encryption and credentials.

    Raises `SettingsError` where a certificate file cannot be read.
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
    try:
        return ssl.create_default_context(cafile=settings.ssl_cafile)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"ssl_cafile {settings.ssl_cafile}: {error}; give a PEM file of certificates") from None
