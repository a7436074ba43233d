"""A certificate authority that exists for one run, and two certificates of it: a good and an expired one.

Knows files. Must never know who shows them.
"""

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from gateway.clock import Clock


def write_certificates(folder: Path, clock: Clock) -> Path:
    """good.pem and expired.pem for 127.0.0.1 (key and certificate each); returns the authority's own."""
    # Only a test's requirement: who lacks it can still try every other fault.
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    now = datetime.fromtimestamp(clock.wall(), UTC)
    root_key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "chaos authority")])

    def certify(key: ec.EllipticCurvePrivateKey, name: x509.Name, end: datetime, *, root: bool) -> bytes:
        made = (
            x509.CertificateBuilder()
            .subject_name(name).issuer_name(issuer).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2)).not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=root, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
            )
            # Python 3.13 and later trust none that does not name its keys.
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False
            )
            .sign(root_key, hashes.SHA256())
        )  # fmt: skip
        return made.public_bytes(serialization.Encoding.PEM)

    authority = folder / "authority.pem"
    authority.write_bytes(certify(root_key, issuer, now + timedelta(days=1), root=True))
    for name, end in (("good", now + timedelta(days=1)), ("expired", now - timedelta(days=1))):
        key = ec.generate_private_key(ec.SECP256R1())
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        (folder / f"{name}.pem").write_bytes(secret + certify(key, subject, end, root=False))
    return authority
