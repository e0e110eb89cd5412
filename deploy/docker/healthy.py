#!/usr/bin/env python3
"""healthy.py ADDRESS: exit 0 when the service at ADDRESS answers that it is well. The health check of the containers.

ADDRESS is http://..., or https://... (whoever serves it: a container asks itself, and sends nothing), or HOST:PORT for
gRPC's health service, with which Flower's SuperExec answers.
"""

import ssl
import sys
import urllib.request


def _http(address: str) -> bool:
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    with urllib.request.urlopen(address, timeout=5, context=trusting) as answer:  # noqa: S310
        return bool(answer.status == 200)


def _grpc(address: str) -> bool:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    address = sys.argv[1]
    try:
        well = _http(address) if "://" in address else _grpc(address)
    except Exception as error:
        sys.exit(f"{address}: {type(error).__name__}: {error}")
    sys.exit(0 if well else 1)
