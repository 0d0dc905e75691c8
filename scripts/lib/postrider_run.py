"""Programs that a script starts and ends, and a Postrider server among them."""

import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

ADMIN_TOKEN = "pr_" + "a-token-of-a-server-that-lives-for-one-run"[:43]
HOST = "127.0.0.1"
# How long a program may take to start, and to end, in seconds.
START_LIMIT_S = 30
END_LIMIT_S = 15


class Fault(Exception):
    """A program does not work; the text says which and why."""


def free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def wait_until(is_so, what, limit_s=START_LIMIT_S, pause_s=0.05):
    deadline = time.monotonic() + limit_s
    while not is_so():
        if time.monotonic() > deadline:
            raise Fault(f"{what}: not within {limit_s} s")
        time.sleep(pause_s)


def is_listening(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


class Programs:
    """Every program that was started, each in a process group of its own, which ends with it."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.running = []

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(1))
        return self

    def __exit__(self, *_):
        for process, _ in reversed(self.running):
            self.end(process)

    def start(self, name, command, **settings):
        """What it says goes to `NAME.log` in the folder."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, **settings)
        self.running.append((process, log))
        return process

    def wait_for_port(self, process, port):
        log = next(log for started, log in self.running if started is process)

        def is_ready():
            if process.poll() is not None:
                raise Fault(f"{log.stem} ended with {process.returncode}: {log.read_text(errors='replace')[-2000:]}")
            return is_listening(port)

        wait_until(is_ready, f"{log.stem} listens on {port}")

    @staticmethod
    def end(process):
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(END_LIMIT_S)
            except subprocess.TimeoutExpired:
                pass
        # Whatever is left of its group: workers that outlived it.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


class Postrider:
    """A server with a data folder of its own that may reach the loopback."""

    def __init__(self, programs, binary, *settings):
        self.port = free_port()
        command = [
            binary, "serve", "--listen", f"{HOST}:{self.port}", "--data", programs.folder / "postrider-data",
            "--allow-private", "127.0.0.0/8", "--log", "warn", *settings]
        environment = {**os.environ, "POSTRIDER_ADMIN_TOKEN": ADMIN_TOKEN}
        self.connection = None
        self.process = programs.start("postrider", command, env=environment, cwd=programs.folder)
        programs.wait_for_port(self.process, self.port)
        wait_until(self.is_ready, "postrider is ready")
        self.version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]

    def is_ready(self):
        return self.ask("GET", "/readyz")[0] == 200

    def ask(self, method, path, document=None):
        """The status and the body of the answer."""
        body = None if document is None else json.dumps(document)
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}", "Content-Type": "application/json"}
        if self.connection is None:
            self.connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        try:
            self.connection.request(method, path, body=body, headers=headers)
            answer = self.connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self.connection.close()
            self.connection = None
            raise

    def api(self, method, path, document=None):
        """The document of an answer that is a success."""
        status, body = self.ask(method, f"/api/v1{path}", document)
        if not 200 <= status < 300:
            raise Fault(f"postrider: {method} {path}: {status} {body.decode(errors='replace')[:500]}")
        return json.loads(body) if body else None

    def publish(self, events):
        self.api("POST", "/events/batch", events)

    def deliveries(self, webhook):
        """All deliveries of a webhook, the newest first."""
        found, cursor = [], ""
        while cursor is not None:
            page = self.api("GET", f"/deliveries?webhook={webhook}&limit=500{cursor and f'&cursor={cursor}'}")
            found += page["items"]
            cursor = page["next_cursor"]
        return found

    def attempts(self, delivery):
        """The log of a delivery's attempts, first to last."""
        return self.api("GET", f"/deliveries/{delivery['id']}")["attempt_log"]
