"""Real proxies with TLS before a service, as deploy/proxy configures them: Caddy, and nginx where it is installed."""

import datetime
import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from service.pages.browsing import Site

SECONDS = 60  # for a proxy to listen
DEPLOYED = Path(__file__).parents[3] / "deploy" / "proxy"
CADDY = str(Path(sys.executable).with_name("caddy"))
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
KINDS: tuple[str, ...] = ("caddy", *(["nginx"] if NGINX else []))

Kind = Literal["caddy", "nginx"]


@dataclass
class Proxy:
    """A proxy as a process: ``changes`` are made in the configuration of ``deploy/proxy``, and ``{folder}`` in it is
    its own."""

    folder: Path
    kind: str
    service: int
    """Port of the service."""
    changes: tuple[tuple[str, str], ...] = ()
    port: int = field(init=False)
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.port = free_port()
        certify(self.folder)
        command = self._caddy() if self.kind == "caddy" else self._nginx()
        home = {name: str(self.folder) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
        self.log = self.folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env={**os.environ, **home}, stdout=log, stderr=log)
        deadline = time.monotonic() + SECONDS
        while not self._listens():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(SECONDS)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _configured(self, name: str, *own: tuple[str, str]) -> str:
        """The file of ``deploy/proxy`` with what differs here, each of which must be in it."""
        text = (DEPLOYED / name).read_text()
        for old, new in (*self.changes, *own):
            assert old in text, f"{name} has no {old}"
            text = text.replace(old, new)
        return text

    def _caddy(self) -> list[str]:
        certificate = f"\ttls {self.folder}/certificate.pem {self.folder}/key.pem\n"
        address = ("127.0.0.1:8400", f"127.0.0.1:{self.service}")
        site = self._configured("Caddyfile", ("labels.example {\n", f"{self.url} {{\n{certificate}"), address)
        once = "{\n\tadmin off\n\tauto_https off\n\tpersist_config off\n\tservers {\n\t\tprotocols h1 h2\n\t}\n}\n"
        (self.folder / "Caddyfile").write_text(once + site)
        return [CADDY, "run", "--adapter", "caddyfile", "--config", str(self.folder / "Caddyfile")]

    def _site(self) -> str:
        """The server of nginx's configuration."""
        return self._configured(
            "nginx.conf",
            ("listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl"),
            ("/etc/ssl/certs/labels.example.pem", f"{self.folder}/certificate.pem"),
            ("/etc/ssl/private/labels.example.key", f"{self.folder}/key.pem"),
            ("127.0.0.1:8400", f"127.0.0.1:{self.service}"),
        )

    def _nginx(self) -> list[str]:
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;\n" if os.getuid() == 0 else ""
        main = f"{user}pid {self.folder}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}"
        (self.folder / "nginx.conf").write_text(f"{main}{self._site()}}}\n")
        assert NGINX is not None
        return [NGINX, "-e", "stderr", "-p", str(self.folder), "-c", f"{self.folder}/nginx.conf", "-g", "daemon off;"]


@dataclass
class Below(Site):
    """A service below a path of its host, behind a proxy: ``url`` is the one that people get."""

    kind: str = "caddy"
    changes: tuple[tuple[str, str], ...] = ()
    proxy: Proxy = field(init=False)

    def __post_init__(self) -> None:
        self.options = ("--root-path", "/feedback", *self.options)
        super().__post_init__()
        self.proxy = Proxy(self.folder / "proxy", self.kind, self.process.port, self.changes)

    @property
    def url(self) -> str:
        return f"{self.proxy.url}/feedback"

    def end(self) -> None:
        self.proxy.end()
        self.process.end()


STRIPPING: dict[str, tuple[tuple[str, str], ...]] = {
    "caddy": (("handle /feedback/*", "handle_path /feedback/*"),),
    "nginx": (("http://127.0.0.1:8400;", "http://127.0.0.1:8400/;"),),
}
"""What lets a proxy take the sub-path away."""

FORGETTING: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {
    ("caddy", "Host"): (("8400\n", "8400 {\n\t\t\theader_up Host {upstream_hostport}\n\t\t}\n"),),
    ("caddy", "X-Forwarded-Proto"): (("8400\n", "8400 {\n\t\t\theader_up -X-Forwarded-Proto\n\t\t}\n"),),
    ("nginx", "Host"): (("proxy_set_header Host $http_host;", ""),),
    ("nginx", "X-Forwarded-Proto"): (("proxy_set_header X-Forwarded-Proto $scheme;", ""),),
}
"""What lets a proxy not pass on a header."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def certify(folder: Path) -> None:
    """Write a key and a certificate for this machine that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
