"""A receiver in Python, for servers of ASGI and of WSGI. `ARRIVED` names its log; `/large` takes `LARGE` bytes at most."""

import os

arrived = os.open(os.environ["ARRIVED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
large = int(os.environ["LARGE"])


def early_status(path, length):
    """The status of an answer that does not wait for the body, or `None`."""
    if path == "/gone":
        return 410
    return 413 if path == "/large" and length > large else None


def note(event, status, port):
    os.write(arrived, f"{event} {status} {port}\n".encode())


async def asgi(scope, receive, send):
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    status = early_status(scope["path"], int(headers.get("content-length", 0)))
    if status is None:
        status = 200
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            return
    note(headers.get("x-decnet-event-id", "-"), status, scope["client"][1])
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def wsgi(environ, start_response):
    length = int(environ.get("CONTENT_LENGTH") or 0)
    status = early_status(environ["PATH_INFO"], length)
    if status is None:
        status = 200
        while length > 0 and (piece := environ["wsgi.input"].read(min(length, 65536))):
            length -= len(piece)
        if length > 0:
            status = 400
    note(environ.get("HTTP_X_DECNET_EVENT_ID", "-"), status, environ["REMOTE_PORT"])
    start_response(f"{status} x", [("Content-Length", "2")])
    return [b"ok"]
