"""Whether the brokers let this worker in, and what stands in its way where they do not.

aiokafka's clients meet every failure to connect with "unable to bootstrap", or with another try: a wrong password, an
untrusted certificate and a broker that is away look the same. One plain connection to each broker tells them apart, so
that what no second try would mend ends in one line, and a broker that is away is waited for. Credentials are sent only
as the settings say, never in the clear to find something out.
"""

import asyncio
import logging
import ssl
from collections.abc import Iterable, Iterator
from typing import Any

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.admin import SaslHandShakeRequest
from aiokafka.protocol.metadata import MetadataRequest

from worker.settings import Settings, SettingsError
from worker.stream.connection import client_options
from worker.stream.errors import StreamError
from worker.stream.permission import NO_PERMISSION, lacking

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 10.0  # with one broker; one that takes longer counts as away
ALERT_SECONDS = 2.0  # in which a broker says that it does not like a certificate

Address = tuple[str, int]

_OF_ANOTHER_NAME = (62, 64)  # OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH
_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_PASSING_ALERTS = ("INTERNAL_ERROR", "USER_CANCELLED", "CLOSE_NOTIFY")


class AccessRefused(StreamError):
    """A broker does not let this worker in, or cannot be trusted; another try would end the same way."""


async def check_access(settings: Settings) -> None:
    """Return if a broker lets this worker in, or if none answers; raise `AccessRefused` if those that do refuse it.

    Asked are the bootstrap servers, then the brokers that those name as members of the cluster: their names must be in
    their certificates too. Each gets one connection with one request. A broker that refuses while another one lets the
    worker in is logged.

    Raises `SettingsError` where a certificate or a key cannot be used.
    """
    doors = _Doors(settings)
    bootstrap = {(host, port) for host, port, _ in collect_hosts(settings.bootstrap_servers, randomize=False)}
    admitted, members = await doors.try_all(bootstrap)
    if admitted:
        await doors.try_all(members - bootstrap, admitted=bool(admitted & members))


async def explain(settings: Settings, error: Exception) -> str:
    """One line for an error that a Kafka client ended with: a right or an entry that is refused, or nobody there."""
    if isinstance(error, NO_PERMISSION):
        return lacking(error, settings)
    try:
        await check_access(settings)
    except (AccessRefused, SettingsError) as refusal:
        return str(refusal)
    return (
        f"no answer from {settings.bootstrap_servers} ({type(error).__name__}); check that a broker is there, "
        "bootstrap_servers and the security settings"
    )


class _Doors:
    """Knocks at brokers as the settings say."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._options = client_options(settings)
        del self._options["bootstrap_servers"]
        self._tls = "ssl_context" in self._options
        self._sasl = "sasl_mechanism" in self._options

    async def try_all(
        self, addresses: Iterable[Address], *, admitted: bool = False
    ) -> tuple[set[Address], set[Address]]:
        """Return who let us in, and the cluster's members as those name them.

        Raises the first refusal, unless one of these brokers lets us in or (`admitted`) another one has.
        """
        tried = sorted(addresses)
        answers = await asyncio.gather(*map(self._knock, tried), return_exceptions=True)
        refusals = [answer for answer in answers if isinstance(answer, AccessRefused)]
        entered: set[Address] = set()
        members: set[Address] = set()
        for address, answer in zip(tried, answers, strict=True):
            if isinstance(answer, set):
                entered.add(address)
                members |= answer
            elif isinstance(answer, BaseException) and not isinstance(answer, AccessRefused):
                raise answer
        if refusals and not entered and not admitted:
            raise refusals[0]
        for refusal in refusals:
            log.warning("%s; other brokers let this worker in", refusal)
        return entered, members

    async def _knock(self, address: Address) -> set[Address] | None:
        """The members of the cluster if the broker lets us in, None if it is away; `AccessRefused` if it refuses."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                try:
                    return await self._enter(address)
                except (KafkaError, OSError, ValueError, LookupError, AssertionError) as error:
                    reason = self._reason(error) or await self._find_reason(address, error)
        except (TimeoutError, OSError, KafkaError):
            return None
        if reason is None:
            return None
        raise AccessRefused(f"{address[0]}:{address[1]}: {reason}")

    async def _enter(self, address: Address) -> set[Address]:
        connection = await self._connect(address, **self._options)
        try:
            metadata = await connection.send(MetadataRequest([]))
        finally:
            connection.close()
        return {(str(broker[1]), int(broker[2])) for broker in metadata.brokers}

    def _reason(self, error: BaseException) -> str | None:
        """Why a broker refused, as far as the error tells."""
        for cause in _causes(error):
            match cause:
                case ssl.SSLCertVerificationError():
                    return _distrust(cause)
                case ssl.SSLError() if _is_final(cause):
                    return self._alert(cause)
                case SaslAuthenticationFailed():
                    return (
                        f"the broker refuses user {self._settings.sasl_username} ({self._settings.sasl_mechanism}); "
                        "check sasl_username and sasl_password"
                    )
                case IllegalSaslStateError():
                    return (
                        "the broker takes no credentials here; set security_protocol to "
                        f"{'SSL' if self._tls else 'PLAINTEXT'}, or give its SASL listener's port"
                    )
                case ValueError() | LookupError() | AssertionError() if self._sasl and not isinstance(cause, OSError):
                    return (
                        f"the broker's side of {self._settings.sasl_mechanism} is wrong: it does not know the password "
                        "itself; check bootstrap_servers"
                    )
        return None

    async def _find_reason(self, address: Address, error: BaseException) -> str | None:
        """Why a broker ended the conversation without a word, or with too few."""
        if isinstance(error, UnsupportedSaslMechanismError):
            offered = ", ".join(await self._mechanisms(address, tls=self._tls)) or "its mechanisms"
            return f"the broker takes no {self._settings.sasl_mechanism}; set sasl_mechanism to one of {offered}"
        if isinstance(error, ConnectionRefusedError):
            return None
        if self._tls:
            alert = await self._await_alert(address)
            if alert is not None:
                return self._alert(alert)
        if not self._tls and await _speaks_tls(address):
            protocol = "SASL_SSL" if self._sasl else "SSL or SASL_SSL"
            return f"the broker speaks TLS here; set security_protocol to {protocol}, or give another listener's port"
        try:
            mechanisms = await self._mechanisms(address, tls=self._tls)
        except (KafkaError, OSError):
            if not self._tls or not await self._speaks_plainly(address):
                return None
            return "the broker speaks no TLS here; set security_protocol accordingly, or give its TLS listener's port"
        if mechanisms and not self._sasl:
            protocol = "SASL_SSL" if self._tls else "SASL_PLAINTEXT"
            return (
                f"the broker demands a user and a password; set security_protocol to {protocol}, "
                f"sasl_mechanism to one of {', '.join(mechanisms)}, sasl_username and sasl_password"
            )
        return None

    def _alert(self, error: ssl.SSLError) -> str:
        """A line for what a broker answered a TLS handshake with."""
        alert = str(error.reason).partition("ALERT_")[2] or str(error.reason)
        said = alert.lower().replace("_", " ")
        if "VERSION" in alert or "PROTOCOL" in alert:
            return f"the broker and this worker have no version of TLS in common ({said}); update the older one"
        if self._settings.ssl_certfile is None:
            return f"the broker asks for a client certificate ({said}); give ssl_certfile and ssl_keyfile"
        return (
            f"the broker refuses the certificate {self._settings.ssl_certfile} ({said}); "
            "give one in ssl_certfile that it trusts"
        )

    async def _await_alert(self, address: Address) -> ssl.SSLError | None:
        """Listen only: an alert that comes after the handshake can be lost where something was sent meanwhile."""
        writer = None
        try:
            async with asyncio.timeout(ALERT_SECONDS):
                reader, writer = await asyncio.open_connection(*address, ssl=self._options["ssl_context"])
                await reader.read(1)
        except ssl.SSLError as error:
            return error if _is_final(error) else None
        except (OSError, TimeoutError):
            return None
        finally:
            if writer is not None:
                writer.transport.abort()
        return None

    async def _mechanisms(self, address: Address, *, tls: bool) -> list[str]:
        """The SASL mechanisms a listener takes; none where it takes no credentials at all. Sends no credentials."""
        plain = {name: value for name, value in self._options.items() if not name.startswith("sasl_")}
        plain["security_protocol"] = "SSL" if tls else "PLAINTEXT"
        connection = await self._connect(address, **plain)
        try:
            answer = await connection.send(SaslHandShakeRequest(self._settings.sasl_mechanism))
        finally:
            connection.close()
        return sorted(answer.enabled_mechanisms)

    async def _speaks_plainly(self, address: Address) -> bool:
        try:
            await self._mechanisms(address, tls=False)
        except (KafkaError, OSError):
            return False
        return True

    @staticmethod
    async def _connect(address: Address, **options: Any) -> Any:
        return await create_conn(*address, **options, request_timeout_ms=int(PATIENCE_SECONDS * 1000))


async def _speaks_tls(address: Address) -> bool:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # only to learn the protocol: nothing is sent
    try:
        _, writer = await asyncio.open_connection(*address, ssl=context)
    except OSError:
        return False
    writer.transport.abort()
    return True


def _distrust(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _OF_ANOTHER_NAME:
        remedy = "connect by a name that the certificate holds"
    elif error.verify_code == _EXPIRED:
        remedy = "have it renewed"
    else:
        remedy = "give the certificate of its authority in ssl_cafile"
    return f"the broker's certificate is not trusted: {error.verify_message.rstrip('.')}; {remedy}"


def _is_final(error: ssl.SSLError) -> bool:
    """Whether it is the broker's word on us, or a clash of versions, rather than a connection that broke."""
    reason = error.reason or ""
    if any(passing in reason for passing in _PASSING_ALERTS):
        return False
    return "ALERT" in reason or reason in ("UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
