"""Label results as AI-generated: in the metadata, and optionally with a visible label and a signature.

Sources: GB 45438-2025 and TC260-PG-20258A (fields of AIGC, their location in XMP, size and duration of the visible
label), IPTC's digital source types, C2PA 2 (manifests).
"""

from __future__ import annotations

import functools
import html
import json
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from jaxtyping import Float32
from numpy import ndarray
from PIL import Image

from mimicmotion.arrays import Frame
from mimicmotion.errors import ConfigError, MediaError, OutputError
from mimicmotion.runtime.extras import import_extra
from mimicmotion.runtime.files import atomic_path
from mimicmotion.runtime.reading import check_input_file, reading
from mimicmotion.weights.checks import cache_folder
from mimicmotion.weights.registry import find_asset

SHOWN_SECONDS = 2
"""Seconds for which the visible label is shown at the start (GB 45438-2025: at least 2 s)."""
LETTERS, SMALLEST_LETTER = 0.05, 69
"""Height of the smallest letters: fraction of a frame's short side (GB 45438-2025: 5%), and pixels in the asset."""
SIGNABLE = ("mov", "gif", "webp")
"""Output formats (`writer.plan_output`) that can contain a C2PA manifest."""
SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\
<rdf:Description rdf:about="" xmlns:TC260="http://www.tc260.org.cn/ns/AIGC/1.0/" \
xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"><TC260:AIGC>{}</TC260:AIGC>\
<Iptc4xmpExt:DigitalSourceType>{}</Iptc4xmpExt:DigitalSourceType></rdf:Description></rdf:RDF></x:xmpmeta>"""
USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)
IN_XMP = re.compile(r"<TC260:AIGC>(.*?)</TC260:AIGC>|TC260:AIGC=(?:\"(.*?)\"|'(.*?)')", re.S)


@dataclass(frozen=True, slots=True)
class Label:
    """Label that marks a file as AI-generated.

    Attributes:
        producer: creator of the video; service providers should use their registered name or code.
        id: identifier of the result, a hash of its inputs, settings and weights.
        sign: whether to add a signed C2PA manifest.
        signer: PEM file with a private key and its certificate chain; None creates a self-signed one.
    """

    producer: str
    id: str
    sign: bool = False
    signer: Path | None = None

    @property
    def aigc(self) -> str:
        """The metadata label ("implicit label" in GB 45438) as JSON. `Label` 1 stands for AI-generated content."""
        fields = {"Label": "1", "ContentProducer": self.producer, "ProduceID": self.id, "ReservedCode1": ""}
        fields |= {"ContentPropagator": "", "PropagateID": "", "ReservedCode2": ""}
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))

    @property
    def xmp(self) -> str:
        """The metadata label as XMP, with IPTC's digital source type."""
        return XMP.format(html.escape(self.aigc), SOURCE)


def embed(path: Path, kind: str, label: Label) -> None:
    """Add the label as XMP to a complete file of kind "gif" or "webp", in place."""
    xmp = label.xmp.encode()
    with path.open("r+b") as file:
        if kind == "gif":  # before the trailer; 256 descending bytes end the block for readers that expect sub-blocks
            file.seek(-1, 2)
            tail = bytes(range(255, -1, -1))
            file.write(b"\x21\xff\x0bXMP DataXMP" + xmp + b"\x01" + tail + b"\x00;")
            return
        head = file.read(25)
        if head[12:16] == b"VP8L":  # a single frame: add the extended header, with its size and alpha flag
            bits = int.from_bytes(head[21:25], "little")
            width, height = (side.to_bytes(3, "little") for side in (bits & 0x3FFF, bits >> 14 & 0x3FFF))
            extended = b"VP8X" + struct.pack("<II", 10, bits >> 28 << 4 & 0x10) + width + height
            file.seek(12)
            rest = file.read()
            file.seek(12)
            file.write(extended + rest)
        file.seek(20)
        flags = file.read(1)[0]
        file.seek(20)
        file.write(bytes([flags | 0x04]))
        file.seek(0, 2)
        file.write(b"XMP " + struct.pack("<I", len(xmp)) + xmp + b"\x00" * (len(xmp) % 2))
        size = file.tell() - 8
        file.seek(4)
        file.write(struct.pack("<I", size))


def read(path: Path) -> dict[str, Any]:
    """Read the fields of the metadata label of a video or picture; return an empty dict if it has none.

    Raises:
        MediaError: the file cannot be read.
    """
    check_input_file(path, "a video or picture")
    with reading(path, "a video or picture", "check the path", MediaError), path.open("rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start = data.find(b"<x:xmpmeta")
            xmp = data[start : data.find(b"</x:xmpmeta>", start)] if start >= 0 else b""
        if found := IN_XMP.search(xmp.decode(errors="replace")):
            text = html.unescape(next(filter(None, found.groups()), ""))
        else:
            with av.open(str(path)) as container:
                text = container.metadata.get("AIGC", "")
    try:
        fields = json.loads(text or "{}")
    except ValueError:
        fields = {}
    return fields if isinstance(fields, dict) else {}


# --- visible label ----------------------------------------------------------------------------------------------


def draw(frame: Frame) -> Frame:
    """Draw the visible label on a copy of a frame: white letters on a darkened strip at the lower edge."""
    height, width = frame.shape[:2]
    text = _letters(min(height, width))
    margin = text.shape[0] // 4
    top, left = max(0, height - text.shape[0] - 3 * margin), max(0, (width - text.shape[1]) // 2 - margin)
    out = frame.astype(np.float32)
    out[top : height - margin, left : width - left] *= 0.3
    part = out[top + margin :, left + margin :][: text.shape[0], : text.shape[1]]
    part += text[: part.shape[0], : part.shape[1], None] * (255 - part)
    return np.rint(out).astype(np.uint8)


@functools.cache
def _letters(short: int) -> Float32[ndarray, "height width"]:
    """Return the opacity (0..1) of the letters of the label for a frame whose short side is `short` pixels."""
    mask = np.asarray(Image.open(find_asset("label/text.png")))
    scale = LETTERS * short / SMALLEST_LETTER
    size = tuple(max(1, round(side * scale)) for side in mask.shape[::-1])
    return cv2.resize(mask, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC) / np.float32(255)


# --- signature --------------------------------------------------------------------------------------------------


def check_signing(kind: str, signer: Path | None) -> None:
    """Check in advance that a file of this kind can be signed.

    Raises:
        ConfigError: the kind cannot contain a manifest, packages are missing, or the signer file cannot be used.
    """
    if kind not in SIGNABLE:
        fix = "use one of these formats, or label=visible"
        raise ConfigError(f"label=signed with {kind} output", "mp4, mov, m4v, gif or webp", fix)
    import_extra("c2pa", "c2pa")
    _credentials(signer)


def sign(path: Path, target: Path, label: Label) -> None:
    """Copy a file and add a C2PA manifest, which marks it as AI-generated and makes changes detectable.

    Raises:
        ConfigError: the `c2pa` extra is not installed, or the signer file cannot be used.
        OutputError: the file cannot be signed.
    """
    from mimicmotion import __version__

    c2pa = import_extra("c2pa", "c2pa")
    algorithm, chain, key = _credentials(label.signer)
    action = {"action": "c2pa.created", "digitalSourceType": SOURCE}
    manifest = {
        "claim_generator_info": [{"name": "mimicmotion", "version": __version__}],
        "title": label.id,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
    }
    try:
        info = c2pa.C2paSignerInfo(algorithm, chain.encode(), key.encode(), None)
        plain = c2pa.Context.from_dict({"builder": {"thumbnail": {"enabled": False}}})
        with c2pa.Signer.from_info(info) as signer, c2pa.Builder(json.dumps(manifest), plain) as builder:
            builder.sign_file(path, target, signer)
    except c2pa.C2paError as e:
        fix = "check the certificates ('signer'), or leave out the signature"
        raise OutputError(f"{path.name} cannot be signed ({e})", "a file that can be signed", fix) from e


def signature(path: Path) -> tuple[str, str]:
    """Verify the C2PA manifest of a file.

    Returns:
        State of the manifest ("none", "valid", "trusted" or "changed"; "unknown" without the `c2pa` extra), and name of
        the signer.
    """
    try:
        c2pa = import_extra("c2pa", "c2pa")
    except ConfigError:
        return "unknown", ""
    try:
        reader = c2pa.Reader.try_create(path)
    except c2pa.C2paError:  # a damaged manifest, or a kind of file that cannot contain one
        return ("changed" if path.suffix.lower() in (".mp4", ".m4v", ".mov", ".gif", ".webp") else "none"), ""
    if reader is None:
        return "none", ""
    with reader:
        state = reader.get_validation_state() or "Invalid"
        manifest = reader.get_active_manifest() or {}
    return {"Invalid": "changed"}.get(state, state.lower()), manifest.get("signature_info", {}).get("issuer", "")


def _credentials(path: Path | None) -> tuple[str, str, str]:
    """Return the signature algorithm, certificate chain and private key of a PEM file."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    path = path or _own_signer()
    with reading(path, "a PEM file with a private key and its certificates", "check 'signer'", ConfigError):
        text = path.read_text(encoding="ascii")
        chain = re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", text, re.S)
        (key,) = re.findall(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----\n?", text, re.S)
        loaded = load_pem_private_key(key.encode(), None)
    if isinstance(loaded, ec.EllipticCurvePrivateKey):
        algorithm = {256: "es256", 384: "es384"}.get(loaded.key_size, "es512")
    else:
        algorithm = "ed25519" if isinstance(loaded, ed25519.Ed25519PrivateKey) else "ps256"
    return algorithm, "".join(chain), key


def _own_signer() -> Path:
    """Return the path of a self-signed certificate, created on first use. It does not prove the signer's identity."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    path = cache_folder() / "c2pa.pem"
    if path.exists():
        return path
    names = [x509.Name.from_rfc4514_string(rf"CN={role},O=MimicMotion\, self-made") for role in ("root", "signer")]
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in names]
    day, now = datetime.timedelta(1), datetime.datetime.now(datetime.UTC)
    chain = b""
    for name, key, is_root in zip(names, keys, (True, False), strict=True):
        usage = dict.fromkeys(USAGES, False) | {("key_cert_sign" if is_root else "digital_signature"): True}
        builder = (
            x509.CertificateBuilder(names[0], name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + 3650 * day)
            .add_extension(x509.BasicConstraints(is_root, None), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), critical=False)
        )
        if not is_root:
            builder = builder.add_extension(
                x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
            )
        chain = builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + chain
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with atomic_path(path) as part:
        part.touch(0o600)
        part.write_bytes(chain + keys[1].private_bytes(*form))
    return path
