"""Web servers as people run them: their programs, settings and logs, each on a port plain and with TLS 1.2 and 1.3.

Every server closes idle connections after a second and, where it can, any connection after ten requests. It takes what
comes at `/hook`, and has other paths that are refused before their bodies are read: `early` names them with the status.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys
from os import geteuid

from postrider_run import HOST, free_port

VARIANTS = ("plain", "TLSv1.2", "TLSv1.3")
# A body larger than this is refused at `/large`, in bytes.
LARGE = 64 * 1024
APPS = pathlib.Path(__file__).parent / "apps"


def make_certificates(folder):
    """An authority of one run, `ca.pem`, and what it signs for the loopback: `leaf.pem`, `leaf.key`, both in `both.pem`."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    (folder / "leaf.extensions").write_text(f"subjectAltName=IP:{HOST}\n")
    for command in (
        ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=Receivers"],
        ["req", *key, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", f"/CN={HOST}"],
        ["x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
         "-extfile", "leaf.extensions", "-out", "leaf.pem"],
    ):
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    (folder / "both.pem").write_text((folder / "leaf.pem").read_text() + (folder / "leaf.key").read_text())
    # Servers that give up their rights after the start read it, too. It is worth nothing after this run.
    (folder / "leaf.key").chmod(0o644)


class Server:
    name = ""
    package = ""
    # Paths that are answered before the body is read, with the status.
    early = {"/large": 413, "/gone": 410}
    # The signal by which it takes up new settings, and ends its workers or their idle connections.
    reload_signal = None

    def program(self):
        return shutil.which(self.name)

    def version(self):
        """As the program says it."""
        said = subprocess.run([self.program(), *self.version_flags], capture_output=True, text=True, check=True)
        return re.search(r"\d+(\.\d+)+", said.stdout + said.stderr)[0]

    version_flags = ["-v"]

    def log(self, folder, variant):
        return folder / f"{self.name}-{variant}-arrived.log"

    def arrivals(self, folder, variant):
        """(id of the event, status, port of the client) of each request, in their order."""
        log = self.log(folder, variant)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        for line in lines:
            event, status, port = line.split()
            yield event, int(status), port

    def processes(self, programs, ports):
        """Starts it on `ports`, by variant: the processes, each with a port that it listens on."""
        raise NotImplementedError


class Configured(Server):
    """One process, with a file of settings."""

    def processes(self, programs, ports):
        settings = programs.folder / f"{self.name}.conf"
        settings.write_text(self.settings(programs.folder, ports))
        process = programs.start(self.name, self.command(settings), cwd=programs.folder)
        return [(process, port) for port in ports.values()]


class Nginx(Configured):
    name = package = "nginx"
    reload_signal = "HUP"

    def command(self, settings):
        return [self.program(), "-p", settings.parent, "-c", settings, "-e", settings.parent / "nginx-error.log"]

    def settings(self, folder, ports):
        temporary = "".join(f"{kind}_temp_path {folder}/nginx-{kind};\n" for kind in
                            ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        servers = "".join(f"""
            server {{
                listen {HOST}:{port}{'' if variant == 'plain' else ' ssl'};
                ssl_protocols {'TLSv1.2' if variant == 'plain' else variant};
                access_log {self.log(folder, variant)} arrived;
                client_max_body_size 2m;
                location /hook {{ return 200 "ok"; }}
                location /large {{ client_max_body_size {LARGE}; return 200; }}
                location /gone {{ return 410; }}
            }}""" for variant, port in ports.items())
        return f"""
        daemon off;
        {'user root;' if geteuid() == 0 else ''}
        pid {folder}/nginx.pid;
        worker_processes 2;
        events {{ worker_connections 512; }}
        http {{
            {temporary}
            ssl_certificate {folder}/leaf.pem;
            ssl_certificate_key {folder}/leaf.key;
            keepalive_requests 10;
            keepalive_timeout 1s;
            log_format arrived '$http_x_decnet_event_id $status $remote_port';
            {servers}
        }}
        """


class Apache(Configured):
    name = package = "apache2"
    reload_signal = "USR1"
    modules = ("mpm_event", "authz_core", "ssl", "socache_shmcb", "lua", "alias")

    def command(self, settings):
        return [self.program(), "-f", settings, "-DFOREGROUND"]

    def settings(self, folder, ports):
        (folder / "take.lua").write_text("function handle(r) r:requestbody() r:puts('ok') return apache2.OK end\n")
        places = ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules")
        modules = next((place for place in places if pathlib.Path(place).is_dir()), places[0])
        load = "".join(f"LoadModule {name}_module {modules}/mod_{name}.so\n" for name in self.modules)
        hosts = "".join(f"""
Listen {HOST}:{port}
<VirtualHost {HOST}:{port}>
    SSLEngine {'off' if variant == 'plain' else 'on'}
    SSLProtocol -all +{'TLSv1.2' if variant == 'plain' else variant}
    SSLCertificateFile {folder}/leaf.pem
    SSLCertificateKeyFile {folder}/leaf.key
    CustomLog {self.log(folder, variant)} arrived
</VirtualHost>""" for variant, port in ports.items())
        return f"""
{load}
ServerRoot {folder}
DefaultRuntimeDir {folder}
PidFile {folder}/apache2.pid
ServerName {HOST}
ErrorLog {folder}/apache2-error.log
{'User www-data' if geteuid() == 0 else ''}
{'Group www-data' if geteuid() == 0 else ''}
SSLSessionCache shmcb:{folder}/apache2-sessions(512000)
KeepAlive On
MaxKeepAliveRequests 10
KeepAliveTimeout 1
LogFormat "%{{X-DECNET-Event-Id}}i %>s %{{remote}}p" arrived
LimitRequestBody 2097152
LuaMapHandler ^/(hook|large) {folder}/take.lua
Redirect gone /gone
<Location /large>
    LimitRequestBody {LARGE}
</Location>
{hosts}
"""


class Caddy(Configured):
    name = package = "caddy"
    version_flags = ["version"]

    def command(self, settings):
        home = settings.parent
        run = [self.program(), "run", "--config", settings, "--adapter", "caddyfile"]
        return ["env", f"HOME={home}", f"XDG_DATA_HOME={home}", f"XDG_CONFIG_HOME={home}", *run]

    def settings(self, folder, ports):
        def site(variant, port):
            scheme = "http" if variant == "plain" else "https"
            version = variant.lower().replace("v", "")
            tls = f"tls {folder}/leaf.pem {folder}/leaf.key {{\n protocols {version} {version}\n }}"
            # Without a host in the address: what Caddy says of a host holds for clients that name it, and an IP is not named.
            return f"""
{scheme}://:{port} {{
    bind {HOST}
    {'' if variant == 'plain' else tls}
    log {{
        output file {self.log(folder, variant)}
    }}
    @large header_regexp Content-Length ^[0-9]{{6,}}$
    handle /large {{
        respond @large 413
    }}
    respond /gone 410
    respond "ok"
}}"""

        sites = "".join(site(variant, port) for variant, port in ports.items())
        return f"{{\nadmin off\nauto_https off\nservers {{\ntimeouts {{\nidle 1s\n}}\n}}\n}}{sites}\n"

    def arrivals(self, folder, variant):
        log = self.log(folder, variant)
        for line in log.read_text().splitlines() if log.exists() else []:
            entry = json.loads(line)
            request = entry.get("request")
            if request:
                event = request["headers"].get("X-Decnet-Event-Id", ["-"])[0]
                yield event, entry["status"], request["remote_port"]


class Node(Server):
    name, package = "node", "nodejs"
    version_flags = ["--version"]
    early = {"/large": 413, "/large-close": 413, "/gone": 410, "/gone-close": 410}

    def processes(self, programs, ports):
        process = start_node(programs, self.name, {
            port: {"log": str(self.log(programs.folder, variant)), "tls": None if variant == "plain" else variant}
            for variant, port in ports.items()})
        return [(process, port) for port in ports.values()]


def start_node(programs, name, listeners):
    settings = {"folder": str(programs.folder), "host": HOST, "large": LARGE, "listeners": listeners}
    return programs.start(name, [shutil.which("node"), APPS / "node.js", json.dumps(settings)])


class HAProxy(Configured):
    """In front of Node, which has the log."""

    name = package = "haproxy"

    def program(self):
        return shutil.which("haproxy") and shutil.which("node") and shutil.which("haproxy")

    def command(self, settings):
        return [self.program(), "-f", settings, "-db"]

    def processes(self, programs, ports):
        self.behind = {variant: free_port() for variant in ports}
        logs = {port: {"log": str(self.log(programs.folder, variant)), "tls": None}
                for variant, port in self.behind.items()}
        behind = start_node(programs, "haproxy-behind", logs)
        return [(behind, port) for port in self.behind.values()] + super().processes(programs, ports)

    def settings(self, folder, ports):
        def front(variant, port):
            tls = f" ssl crt {folder}/both.pem ssl-min-ver {variant} ssl-max-ver {variant}"
            return f"""
frontend {variant}
    bind {HOST}:{port}{'' if variant == 'plain' else tls}
    http-request deny deny_status 413 if {{ path /large }} {{ req.hdr_val(content-length) gt {LARGE} }}
    http-request return status 410 if {{ path /gone }}
    http-request set-header X-Client-Port %[src_port]
    default_backend behind-{variant}
backend behind-{variant}
    server node {HOST}:{self.behind[variant]}
"""

        fronts = "".join(front(variant, port) for variant, port in ports.items())
        return f"""
global
    maxconn 512
    ssl-default-bind-options no-sslv3
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
    timeout http-request 1s
    timeout http-keep-alive 1s
{fronts}"""


class Python(Server):
    """From PyPI, in an environment of its own; a process for each variant, whose workers end after some requests."""

    environment = None

    def program(self):
        own = pathlib.Path(self.environment) / "bin" / self.executable
        return str(own) if own.exists() else shutil.which(self.executable)

    version_flags = ["--version"]

    def processes(self, programs, ports):
        started = []
        for variant, port in ports.items():
            log = self.log(programs.folder, variant)
            command = [self.program(), *self.flags(programs.folder, variant, port)]
            environment = ["env", f"ARRIVED={log}", f"LARGE={LARGE}", f"TLS={variant}", "PYTHONDONTWRITEBYTECODE=1"]
            started.append((programs.start(f"{self.name}-{variant}", [*environment, *command], cwd=APPS), port))
        return started


class Uvicorn(Python):
    package, executable = "uvicorn[standard]", "uvicorn"

    def __init__(self, protocol):
        self.name, self.protocol = f"uvicorn-{protocol}", protocol

    def flags(self, folder, variant, port):
        flags = ["receiver:asgi", "--host", HOST, "--port", port, "--http", self.protocol, "--workers", 2,
                 "--timeout-keep-alive", 1, "--limit-max-requests", 400, "--log-level", "warning", "--lifespan", "off"]
        # The numbers of `ssl.PROTOCOL_TLSv1_2` and `ssl.PROTOCOL_TLS_SERVER`.
        tls = ["--ssl-keyfile", folder / "leaf.key", "--ssl-certfile", folder / "leaf.pem",
               "--ssl-version", 5 if variant == "TLSv1.2" else 17]
        return flags if variant == "plain" else flags + tls


class Gunicorn(Python):
    package = executable = "gunicorn"
    reload_signal = "HUP"

    def __init__(self, worker):
        self.name, self.worker = f"gunicorn-{worker}", worker

    def flags(self, folder, variant, port):
        flags = ["receiver:wsgi", "--config", APPS / "gunicorn_settings.py", "--bind", f"{HOST}:{port}", "--workers", 2,
                 "--worker-class", self.worker, "--keep-alive", 1, "--max-requests", 400, "--max-requests-jitter", 100,
                 "--log-level", "warning"]
        threads = ["--threads", 16] if self.worker == "gthread" else []
        tls = ["--keyfile", folder / "leaf.key", "--certfile", folder / "leaf.pem"]
        return flags + threads + ([] if variant == "plain" else tls)


def all_servers():
    return [Nginx(), Apache(), HAProxy(), Caddy(), Node(), Uvicorn("h11"), Uvicorn("httptools"), Gunicorn("gthread"),
            Gunicorn("sync")]


def install(servers, environment):
    """What is missing, by the ordinary clients of Debian and PyPI."""
    missing = [server for server in servers if not server.program()]
    debian = sorted({server.package for server in missing if not isinstance(server, Python)})
    python = sorted({server.package for server in missing if isinstance(server, Python)})
    for command in how_to_install(debian, python, environment):
        print("+", " ".join(command), file=sys.stderr)
        subprocess.run(command, check=True)


def how_to_install(debian, python, environment):
    if debian:
        yield ["apt-get", "update", "-qq"]
        yield ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *debian]
    if python:
        yield [sys.executable, "-m", "venv", str(environment)]
        yield [f"{environment}/bin/pip", "install", "--quiet", *python]
