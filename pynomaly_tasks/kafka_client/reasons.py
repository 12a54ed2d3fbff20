"""Why Kafka could not be reached: aiokafka only logs the reason."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka.conn import collect_hosts
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from pynomaly_tasks.kafka_client.clients import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a person sets what may be wrong, each to be read after "see"."""

    servers: str
    protocol: str
    login: str
    mechanism: str
    ca_file: str


async def find_reasons(options: Mapping[str, Any], places: Places, timeout_s: float) -> str | None:
    """What is wrong with each bootstrap server, in one line; None where one of them lets us in.

    Asks one after the other, within the time. ``options``: address, protocol and login, as aiokafka's
    clients take them.
    """
    timeout_s = max(timeout_s, 0.0)
    reasons = []
    try:
        async with asyncio.timeout(timeout_s):
            for host, port, _ in collect_hosts(options["bootstrap_servers"], randomize=False):
                if (reason := await _find_reason(host, port, options, places, timeout_s)) is None:
                    return None
                reasons.append(f"{host}:{port} {reason}")
    except TimeoutError:
        reasons.append(f"no answer from {options['bootstrap_servers']} within {timeout_s:.1f} s")
    return "; ".join(reasons)


async def _find_reason(
    host: str, port: int, options: Mapping[str, Any], places: Places, timeout_s: float
) -> str | None:
    """What is wrong with one server; None where it answers and lets us in."""
    login = {name: value for name, value in options.items() if name != "bootstrap_servers"}
    # A tenth less than all: then it is this server that gets the blame.
    connection = Connection(host, port, request_timeout_ms=int(timeout_s * 900), **login)
    try:
        await connection.connect()
        # A listener that wants a login answers only the question for its versions without.
        await connection.send(MetadataRequest([]))
    except (SaslAuthenticationFailed, AuthenticationFailedError):
        return f"refused the login: see {places.login}"
    except (UnsupportedSaslMechanismError, AuthenticationMethodNotSupported):
        return f"knows no {options['sasl_mechanism']}: see {places.mechanism}"
    except IllegalSaslStateError:
        return f"wants no login: see {places.protocol}"
    except ssl.SSLCertVerificationError as error:
        return f"shows a certificate that is not trusted ({error.verify_message}): see {places.ca_file}"
    except ssl.SSLError as error:
        return f"speaks no TLS ({error.reason or error}): see {places.protocol}"
    except socket.gaierror as error:
        return f"cannot be resolved ({error.strerror}): see {places.servers}"
    except ConnectionRefusedError:
        return f"is closed: is Kafka running there? see {places.servers}"
    except (TimeoutError, ConnectionResetError, KafkaConnectionError) as error:
        return (
            f"hangs up or does not answer ({describe(error)}); is TLS, or a login, what it expects? "
            f"see {places.protocol}"
        )
    except (OSError, KafkaError) as error:
        return describe(error)
    finally:
        connection.end()
    return None


def describe(error: BaseException) -> str:
    """One line: what went wrong, in the client's words."""
    if isinstance(error, TimeoutError):
        return "out of time"
    return " ".join(str(error).split()) or type(error).__name__
