"""Requests to the manager of an NNI experiment."""

from __future__ import annotations

import http.client

TIMEOUT = 60.0  # seconds


def request(port: int, method: str, path: str, body: str | None = None) -> bytes | None:
    """What the manager on this machine answers; None where it doesn't: whether it is gone is looked at elsewhere."""
    manager = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        manager.request(method, path, body, {"Content-Type": "application/json"})
        response = manager.getresponse()
        answer = response.read()
        return answer if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        manager.close()
