"""Answers of HTTP/1.1 put together at random from sound and from odd parts, and a server that gives them."""

import random
import socketserver
import time

from postrider_run import HOST

# After these seconds the connection of an answer that is held ends.
HELD_S = 1.5

STATUS_LINES = [
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200\r\n", b"HTTP/1.1 200 \r\n", b"HTTP/1.1 201 Created\r\n", b"HTTP/1.0 200 OK\r\n",
    b"HTTP/1.1 204 No Content\r\n", b"HTTP/1.1 205 Reset Content\r\n", b"HTTP/1.1 304 Not Modified\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n", b"HTTP/1.1 404 Not Found\r\n", b"HTTP/1.1 422 x\r\n",
    b"HTTP/1.1 429 Slow\r\n", b"HTTP/1.1 500 :-(\r\n", b"HTTP/1.0 503 Busy\r\n", b"HTTP/1.1 599 x\r\n", b"HTTP/1.1 999 x\r\n",
    b"HTTP/1.1 200 \xc3\xa9t\xc3\xa9\r\n", b"HTTP/1.1 200 \xe9\xff\r\n", b"HTTP/1.1 200 a\x09b\r\n",
    b"HTTP/1.1 200 a\x01b\r\n", b"HTTP/1.1 200 a\x00b\r\n", b"HTTP/1.1 200 " + b"long " * 400 + b"\r\n",
    b"HTTP/1.1 200 OK\n", b"HTTP/1.1 200\n", b"HTTP/1.1 200 OK \r\n", b"HTTP/1.1  200 OK\r\n", b"HTTP/1.1\t200 OK\r\n",
    b"HTTP/1.1 200OK\r\n", b"HTTP/1.1 200:OK\r\n", b"HTTP/1.1 20 OK\r\n", b"HTTP/1.1 2000 OK\r\n", b"HTTP/1.1 099 x\r\n",
    b"HTTP/1.1 000 x\r\n", b"HTTP/1.1 -20 x\r\n", b"HTTP/1.2 200 OK\r\n", b"HTTP/0.9 200 OK\r\n", b"HTTP/2.0 200 OK\r\n",
    b"HTTP/2 200\r\n", b"HTTP/11 200 OK\r\n", b"http/1.1 200 OK\r\n", b"ICY 200 OK\r\n", b" HTTP/1.1 200 OK\r\n",
    b"\r\nHTTP/1.1 200 OK\r\n", b"\nHTTP/1.1 200 OK\r\n", b"\r\n\r\n\r\nHTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 500 x\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 103 x\r\nContent-Length: 3\r\n\r\nHTTP/1.1 200 OK\r\n", b"HTTP/1.1 199 x\n\nHTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 20 + b"HTTP/1.1 201 x\r\n", b"HTTP/1.1 101 Switching Protocols\r\n",
    b"HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n",
]
FIELDS = [
    b"Content-Type: text/plain\r\n", b"X-A:\r\n", b"X-A: \r\n", b"X-A:b\r\n", b"X-A:\tb\t\r\n", b"X-A: b  \r\n",
    b"X_a.b!#$%&'*+-^`|~: c\r\n", b"X-A: b\n", b"X-A: a\rb\r\n", b"X-A: \x80\xff\xfe\r\n", b"X-A: \xc3\xa9\r\n",
    b"X-A: a\x01b\r\n", b"X-A: a\x00b\r\n", b"X-A: a\x7fb\r\n", b"X-A : b\r\n", b"X A: b\r\n", b"X-\xe9: b\r\n", b": b\r\n",
    b"no colon\r\n", b"X-A: b\r\n folded\r\n", b"X-A: b\r\n\tfolded: too\r\n", b" folded: first\r\n", b"X-A: b\r\n \r\n",
    b"(X-A): b\r\n", b"X-A\x00: b\r\n", b"X-A: " + b"y" * 5_000 + b"\r\n", b"X-A: " + b"y" * 20_000 + b"\r\n",
    b"X-A: b\r\n" * 150, b"X-A: b\r\n" * 1_500, b"Y" * 300 + b": b\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n",
    b"Connection: keep-alive, close\r\n", b"Connection: ,, close ,\r\n", b"Connection: x-a\r\n", b"Keep-Alive: timeout=5\r\n",
    b"Keep-Alive: timeout=x, =, max\r\n", b"Retry-After: 3\r\n", b"Set-Cookie: a=b\r\nSet-Cookie: c=d\r\n",
    b"Upgrade: websocket\r\n", b"Proxy-Connection: close\r\n", b"Trailer: X-T\r\n", b"Date: not a date\r\n",
]
BODY = b"hello"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
# Fields that frame a body, with the body.
FRAMED = [
    (b"Content-Length: 5\r\n", BODY), (b"content-length:5\r\n", BODY), (b"Content-Length:   5  \r\n", BODY),
    (b"Content-Length: 0\r\n", b""), (b"Content-Length: 05\r\n", BODY), (b"Content-Length: 5\n", BODY),
    (b"Content-Length: 5\r\nContent-Length: 5\r\n", BODY), (b"Content-Length: 5, 5\r\n", BODY),
    (b"Content-Length: 5\r\nContent-Length: 3\r\n", BODY), (b"Content-Length: 3, 5\r\n", BODY),
    (b"Content-Length: +5\r\n", BODY), (b"Content-Length: -5\r\n", BODY), (b"Content-Length: 5.0\r\n", BODY),
    (b"Content-Length: 0x5\r\n", BODY), (b"Content-Length: five\r\n", BODY), (b"Content-Length:\r\n", BODY),
    (b"Content-Length: 5 5\r\n", BODY), (b"Content-Length: 99999999999999999999\r\n", BODY), (b"Content-Length : 5\r\n", BODY),
    (b"Content-Length: 3\r\n", BODY), (b"Content-Length: 9\r\n", BODY), (b"Content-Length: 40000\r\n", b"z" * 40_000),
    (b"Content-Length:\r\n 5\r\n", BODY), (b"Content-Length: 5\r\n", b"\x00\xff\x80\r\n"),
    (b"", b""), (b"", BODY), (b"", b"z" * 40_000), (b"", b"HTTP/1.1 500 x\r\n\r\n"),
    (CHUNKED, b"5\r\nhello\r\n0\r\n\r\n"), (b"transfer-encoding:Chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    (CHUNKED, b"2\r\nhe\r\n003\r\nllo\r\n000\r\n\r\n"), (CHUNKED, b"5;a=b;c=\"d;e\"\r\nhello\r\n0;f\r\n\r\n"),
    (CHUNKED, b"5 \r\nhello\r\n0 \r\n\r\n"), (CHUNKED, b"5 ; a = b\r\nhello\r\n0\r\n\r\n"),
    (CHUNKED, b"5\r\nhello\r\n0\r\nX-T: a\r\nX-U: b\r\n\r\n"), (CHUNKED, b"5\r\nhello\r\n0\r\nno colon\r\n\r\n"),
    (CHUNKED, b"5\nhello\n0\n\n"), (CHUNKED, b"5\r\nhello\n0\r\n\r\n"), (CHUNKED, b"5\r\nhelloX0\r\n\r\n"),
    (CHUNKED, b"5\r\nhello\r\n0\r\n"), (CHUNKED, b"5\r\nhello\r\n"), (CHUNKED, b"5\r\nhel"), (CHUNKED, b""),
    (CHUNKED, b"z\r\nhello\r\n0\r\n\r\n"), (CHUNKED, b"\r\n0\r\n\r\n"), (CHUNKED, b"-5\r\nhello\r\n0\r\n\r\n"),
    (CHUNKED, b" 5\r\nhello\r\n0\r\n\r\n"), (CHUNKED, b"0x5\r\nhello\r\n0\r\n\r\n"), (CHUNKED, b"A\r\nhellohello\r\n0\r\n\r\n"),
    (CHUNKED, b"fffffffffffffffff\r\nhello"), (CHUNKED, b"5;" + b"e" * 20_000 + b"\r\nhello\r\n0\r\n\r\n"),
    (CHUNKED, b"1\r\na\r\n" * 3_000 + b"0\r\n\r\n"), (CHUNKED, BODY), (CHUNKED, b"0\r\n\r\nHTTP/1.1 500 x\r\n\r\n"),
    (CHUNKED * 2, b"5\r\nhello\r\n0\r\n\r\n"), (b"Transfer-Encoding: chunked, chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: gzip, chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"), (b"Transfer-Encoding: identity\r\n", BODY),
    (b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n", BODY), (b"Transfer-Encoding: chunked, identity\r\n", BODY),
    (b"Transfer-Encoding:\r\n", BODY), (b"Transfer-Encoding: \x0bchunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked;q=1\r\n", b"5\r\nhello\r\n0\r\n\r\n"), (b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n"),
    (CHUNKED + b"Content-Length: 5\r\n", b"5\r\nhello\r\n0\r\n\r\n"), (b"Content-Length: 20\r\n" + CHUNKED, b"5\r\nhello\r\n0\r\n\r\n"),
]


def generated(count, seed):
    """(bytes, whether the connection is held open afterwards), sound in most parts, so that one oddity is seen alone."""
    chance = random.Random(seed)
    sound = (STATUS_LINES[0], [], FRAMED[0])
    answers = [(line, [], FRAMED[0]) for line in STATUS_LINES] + [(sound[0], [field], sound[2]) for field in FIELDS]
    answers += [(sound[0], [], framed) for framed in FRAMED]
    while len(answers) < count:
        line = chance.choice(STATUS_LINES) if chance.random() < 0.5 else STATUS_LINES[0]
        framed = chance.choice(FRAMED) if chance.random() < 0.6 else FRAMED[0]
        answers.append((line, chance.choices(FIELDS, k=chance.choice((0, 0, 1, 1, 2, 3))), framed))
    for line, fields, (frame, body) in answers[:count]:
        parts = [*fields, frame]
        chance.shuffle(parts)
        yield line + b"".join(parts) + b"\r\n" + body, chance.random() < 0.25


class Server(socketserver.ThreadingTCPServer):
    """Gives the answer of its number to a request for `/NUMBER`, in one piece or in small ones."""

    allow_reuse_address = daemon_threads = True
    request_queue_size = 256

    def __init__(self, answers):
        super().__init__((HOST, 0), Handler)
        self.answers = answers
        self.port = self.server_address[1]


class Handler(socketserver.StreamRequestHandler):
    timeout = 10

    def handle(self):
        try:
            self.answer()
        except OSError:
            pass

    def answer(self):
        path = self.rfile.readline().split(b" ")[1]
        length = 0
        while (line := self.rfile.readline().strip()):
            name, value = line.split(b":", 1)
            length = int(value) if name.lower() == b"content-length" else length
        self.rfile.read(length)
        number = int(path.strip(b"/"))
        answer, is_held = self.server.answers[number]
        pieces = [answer] if number % 2 else [answer[:7], answer[7:40], answer[40:]]
        for piece in pieces:
            self.wfile.write(piece)
            time.sleep(0.002 if len(pieces) > 1 else 0)
        if is_held:
            # Or until the client has had enough.
            self.connection.settimeout(HELD_S)
            try:
                self.rfile.read(1)
            except TimeoutError:
                pass
