"""Certificates for tests, made by the `openssl` program: an authority, and what it vouches for."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path

    def together(self) -> Path:
        """One file with both, as a broker wants them."""
        both = self.certificate.with_suffix(".both.pem")
        both.write_text(self.key.read_text() + self.certificate.read_text())
        return both


class Authority:
    """Vouches for certificates; they and its own lie in `folder` and are good for a day."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        """Skips the test where there is no `openssl` (3 or newer); under CI that is a failure."""
        if shutil.which("openssl") is None:
            message = "there is no openssl program to make certificates with"
            pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
        self._folder = folder
        self._own = self._make(name, f"/CN={name}", ["-addext", "basicConstraints=critical,CA:TRUE"])

    @property
    def certificate(self) -> Path:
        """What to trust."""
        return self._own.certificate

    def issue(self, name: str, *, alternative_name: str | None = None, password: str | None = None) -> Certificate:
        """Make a certificate for `name`; `alternative_name` is such as IP:127.0.0.1; `password` encrypts the key."""
        options = ["-CA", str(self._own.certificate), "-CAkey", str(self._own.key)]
        options += ["-addext", "basicConstraints=critical,CA:FALSE"]
        if alternative_name is not None:
            options += ["-addext", f"subjectAltName={alternative_name}"]
        return self._make(name, f"/CN={name}", options, password)

    def _make(self, name: str, subject: str, options: list[str], password: str | None = None) -> Certificate:
        made = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "1"]
        command += ["-subj", subject, "-keyout", str(made.key), "-out", str(made.certificate), *options]
        command += ["-noenc"] if password is None else ["-passout", f"pass:{password}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return made
