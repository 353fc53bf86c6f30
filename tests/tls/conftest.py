"""A server with TLS and nothing else, and a CA of this run with certificates of every kind."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from environment.temporary import TemporaryCluster
from environment.testkit.machine import debians_postgresql, uninstalled

#: Over TCP only with TLS; `carded` also has to show a certificate in its name.
HBA = """
local   all all                    trust
hostssl all carded 127.0.0.1/32    scram-sha-256 clientcert=verify-full
hostssl all all    127.0.0.1/32    scram-sha-256
"""
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Certificates:
    """Keys and certificates in a folder, each ``NAME.pem`` with its ``NAME.key``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("ca", "other-ca"):
            self._openssl("req", "-x509", *_KEY, "-days", "2", "-subj", f"/CN={name}", *self._files(name))
        here = "subjectAltName=DNS:localhost,IP:127.0.0.1"
        for name in ("server", "renewed"):
            self._sign(name, here)
        self._sign("elsewhere", "subjectAltName=DNS:db.example")
        # A day that has ended: as if it had been signed yesterday.
        self._sign("expired", here, days=-1)
        self._sign("carded", "extendedKeyUsage=clientAuth")
        self._sign("somebody", "extendedKeyUsage=clientAuth")

    def path(self, name: str) -> Path:
        return self.folder / name

    def _files(self, name: str) -> tuple[str, ...]:
        return "-keyout", str(self.path(f"{name}.key")), "-out", str(self.path(f"{name}.pem"))

    def _sign(self, name: str, extension: str, days: int = 2) -> None:
        request, extensions = self.path(f"{name}.csr"), self.path(f"{name}.ext")
        extensions.write_text(extension + "\n")
        key = str(self.path(f"{name}.key"))
        self._openssl("req", *_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", str(request))
        signer = "-CA", str(self.path("ca.pem")), "-CAkey", str(self.path("ca.key")), "-CAcreateserial"
        self._openssl(
            *("x509", "-req", "-in", str(request), *signer, "-days", str(days)),
            *("-extfile", str(extensions), "-out", str(self.path(f"{name}.pem"))),
        )

    @staticmethod
    def _openssl(*words: str) -> None:
        program = shutil.which("openssl")
        if program is None:
            uninstalled("openssl")
        subprocess.run(["openssl", *words], check=True, capture_output=True)


class TLSServer:
    """A PostgreSQL of its own, migrated."""

    def __init__(self, cluster: TemporaryCluster, certificates: Certificates) -> None:
        self.cluster = cluster
        self.certificates = certificates
        (cluster.data / "pg_hba.conf").write_text(HBA)
        self._shown: str | None = None

    def show(self, certificate: str | None) -> None:
        """Be a server with that certificate from now on; None: one without TLS."""
        if certificate == self._shown and self.cluster.pid() is not None:
            return
        self.cluster.stop()
        options = {name: value for name, value in self.cluster.options.items() if not name.startswith("ssl")}
        if certificate is not None:
            options |= {"ssl": "on", "ssl_ca_file": "ca.pem"}
            self.install(certificate)
        self.cluster.options = options
        self.cluster.start()
        self._shown = certificate

    def install(self, certificate: str) -> None:
        """Lay its files where the server looks when it starts or is told to reload."""
        sources = {"ca.pem": "ca.pem", f"{certificate}.pem": "server.crt", f"{certificate}.key": "server.key"}
        for source, target in sources.items():
            path = self.cluster.data / target
            shutil.copy(self.certificates.path(source), path)
            shutil.chown(path, self.cluster.account.uid, self.cluster.account.gid)
            path.chmod(0o600)

    def url(self, ca: str = "ca.pem", user: str = "app_user", **parameters: str) -> str:
        """``sslmode=verify-full``, with the CA of that name, and further parameters of libpq."""
        query = {"sslmode": "verify-full", "sslrootcert": str(self.certificates.path(ca)), **parameters}
        return f"{self.cluster.tcp_url(user)}?{urlencode(query)}"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls_server(certificates: Certificates, migrate: Callable[[str], None]) -> Iterator[TLSServer]:
    """A migrated database on it."""
    cluster = debians_postgresql("TLS")
    with cluster:
        server = TLSServer(cluster, certificates)
        server.show("server")
        migrate(server.url())
        yield server
