"""A real Kafka that lets nobody in without a reason: listeners for every way of logging in, and access rules."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code
from aiokafka.protocol.admin import CreateAclsRequest
from certificates import Authority, Certificate
from kafka_broker import KafkaBroker

USER = "koner"  # may do everything
PASSWORD = "s3cret-of-the-tests"
LIMITED = "limited"  # may do only what rules allow
KEY_PASSWORD = "k3y-of-the-tests"

# The names of `worker.settings` for each listener and way in.
LISTENERS = {
    "TLS": "SSL",
    "MUTUAL": "SSL",
    "MISNAMED": "SSL",
    "SASL": "SASL_PLAINTEXT",
    "SASLTLS": "SASL_SSL",
}

_RESOURCES = {"topic": 2, "group": 3, "cluster": 4, "transactional-id": 5}
_PATTERNS = {"literal": 3, "prefixed": 4}
_OPERATIONS = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "IdempotentWrite": 12}
_ALLOW = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """An access rule as kafka-acls takes it: an operation allowed on a resource."""

    operation: str
    resource: str
    name: str
    pattern: str = "literal"


@dataclass(frozen=True, slots=True)
class SecuredKafka:
    """The broker, who vouches for it, and what a worker may show it."""

    broker: KafkaBroker
    authority: Authority
    stranger: Authority  # nobody trusts it
    client: Certificate
    client_key_open: Certificate
    foreign_client: Certificate

    def way_in(self, listener: str, **settings: Any) -> dict[str, Any]:
        """Settings that reach a listener, trusting its authority, and logging in as `USER` where it wants that."""
        protocol = LISTENERS[listener]
        options: dict[str, Any] = {
            "bootstrap_servers": self.broker.bootstrap(listener),
            "security_protocol": protocol,
        }
        if "SSL" in protocol:
            options["ssl_cafile"] = str(self.authority.certificate)
        if "SASL" in protocol:
            options |= {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": USER, "sasl_password": PASSWORD}
        return {name: value for name, value in {**options, **settings}.items() if value is not None}

    def withdraw(self, user: str) -> None:
        """Restart the broker without a user's password for PLAIN."""
        configuration = self.broker.folder / "server.properties"
        self.broker.stop()
        configuration.write_text(configuration.read_text().replace(f' user_{user}="{PASSWORD}"', ""))
        self.broker.start()

    async def allow(self, user: str, rules: Sequence[Rule]) -> None:
        """Add access rules for a user."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.broker.bootstrap_servers)
        await admin.start()
        try:
            for rule in rules:
                answer = await admin._send_request(
                    CreateAclsRequest(
                        _RESOURCES[rule.resource],
                        rule.name,
                        _PATTERNS[rule.pattern],
                        f"User:{user}",
                        "*",
                        _OPERATIONS[rule.operation],
                        _ALLOW,
                    )
                )
                ((code, message),) = answer.creation_responses
                assert code == 0, (for_code(code), message)
        finally:
            await admin.close()


@contextmanager
def secured_kafka(folder: Path, *limited: str) -> Iterator[SecuredKafka]:
    """Run one; `limited` are the users besides `USER`, with the same password. Raises `KafkaMissing`."""
    authority, stranger = Authority(folder), Authority(folder, "stranger")
    own = authority.issue("broker", alternative_name="IP:127.0.0.1")
    misnamed = authority.issue("misnamed", alternative_name="DNS:kafka.example")
    broker = KafkaBroker(
        properties=_properties(authority.certificate, own.together(), misnamed.together(), [USER, *limited]),
        listeners=LISTENERS,
        scram=dict.fromkeys([USER, *limited], PASSWORD),
    )
    with broker:
        yield SecuredKafka(
            broker,
            authority,
            stranger,
            authority.issue("client", password=KEY_PASSWORD),
            authority.issue("open-client"),
            stranger.issue("foreign-client"),
        )


def _properties(trusted: Path, own: Path, misnamed: Path, users: Sequence[str]) -> Mapping[str, str]:
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:ANONYMOUS;User:{USER};User:CN=client;User:CN=open-client",
    }
    for listener, protocol in LISTENERS.items():
        prefix = f"listener.name.{listener.lower()}"
        if "SSL" in protocol:
            properties |= {
                f"{prefix}.ssl.keystore.type": "PEM",
                f"{prefix}.ssl.keystore.location": str(misnamed if listener == "MISNAMED" else own),
                f"{prefix}.ssl.truststore.type": "PEM",
                f"{prefix}.ssl.truststore.location": str(trusted),
                f"{prefix}.ssl.client.auth": "required" if listener == "MUTUAL" else "none",
            }
        if "SASL" in protocol:
            security = "org.apache.kafka.common.security"
            known = " ".join(f'user_{user}="{PASSWORD}"' for user in users)
            properties |= {
                f"{prefix}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
                f"{prefix}.plain.sasl.jaas.config": f"{security}.plain.PlainLoginModule required {known};",
                f"{prefix}.scram-sha-256.sasl.jaas.config": f"{security}.scram.ScramLoginModule required;",
                f"{prefix}.scram-sha-512.sasl.jaas.config": f"{security}.scram.ScramLoginModule required;",
            }
    return properties
