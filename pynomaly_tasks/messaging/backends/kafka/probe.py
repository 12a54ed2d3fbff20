"""Why Kafka cannot be reached: aiokafka only logs the reason."""

from __future__ import annotations

import asyncio
import socket
import ssl

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from pynomaly_tasks.messaging.backends.kafka.address import KafkaAddress


async def find_reason(address: KafkaAddress, timeout_s: float) -> str:
    """What is wrong with the first of its servers; within the time."""
    host, port, _ = collect_hosts(address.servers, randomize=False)[0]
    options = address.options()
    del options["bootstrap_servers"]
    try:
        async with asyncio.timeout(max(timeout_s, 0.0)):
            connection = await create_conn(host, port, **options)
        connection.close()
    except (SaslAuthenticationFailed, AuthenticationFailedError):
        return f"{host}:{port} refused the login: see user and password in messaging.url"
    except (UnsupportedSaslMechanismError, AuthenticationMethodNotSupported):
        return f"{host}:{port} knows no {address.mechanism}: see mechanism in messaging.url"
    except IllegalSaslStateError:
        return f"{host}:{port} wants no login: leave user and password out of messaging.url"
    except ssl.SSLCertVerificationError as error:
        return f"{host}:{port} shows a certificate that is not trusted ({error.verify_message}): see ca_file in messaging.url"
    except ssl.SSLError as error:
        return f"{host}:{port} speaks no TLS ({error.reason or error}): see messaging.url"
    except socket.gaierror as error:
        return f"{host} cannot be resolved ({error.strerror})"
    except ConnectionRefusedError:
        return f"{host}:{port} is closed: is Kafka running there?"
    except TimeoutError:
        return f"{host}:{port} does not answer in time; is TLS, or a login, what it expects?"
    except (OSError, KafkaError) as error:
        return f"{host}:{port} hangs up ({type(error).__name__}); is TLS, or a login, what it expects?"
    return f"{host}:{port} answers, but not in time"
