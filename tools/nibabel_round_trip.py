#!/usr/bin/env python3
"""Random images through nibabel and Trephine, both ways: what either writes, the other reads the same.

nibabel writes images of every kind (NIfTI-1 and 2, pairs, MGH; all types, byte orders, scalings and
forms; 3D and 4D; gzip in one member or several; extensions). Trephine reads them and writes each again
by all its writers (the ignored test `exchange`). Then nibabel reads those, and everything must agree:
voxels, matrix, codes of the forms, scaling, extensions.

    pip install numpy nibabel
    python tools/nibabel_round_trip.py [--count 200] [--seed 1]

Ends with 0 when all agree. Needs cargo, no GPU.
"""

import argparse
import gzip
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]
MGH_TYPES = ["u1", "i2", "i4", "f4"]


def random_affine(rng):
    """Turned, anisotropic, perhaps sheared; never close to singular."""
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    linear = turn * rng.uniform(0.4, 5, 3)
    sheared = rng.random() < 0.3
    if sheared:
        linear = linear @ (np.eye(3) + np.triu(rng.uniform(-0.3, 0.3, (3, 3)), 1))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, rng.uniform(-150, 150, 3)
    return affine, sheared


def random_voxels(rng, shape, kind):
    kind = np.dtype(kind)
    if kind.kind == "f":
        return (rng.standard_normal(shape) * 10.0 ** rng.integers(-5, 6)).astype(kind)
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)


def write_random(rng, folder, ix):
    """Writes an image with nibabel; returns its path."""
    shape = tuple(int(n) for n in rng.integers(2, 10, 3))
    if rng.random() < 0.3:
        shape += (int(rng.integers(2, 5)),)
    affine, sheared = random_affine(rng)
    if rng.random() < 0.2:
        image = nib.MGHImage(random_voxels(rng, shape, rng.choice(MGH_TYPES)), affine)
        path = folder / f"{ix}{rng.choice(['.mgh', '.mgz'])}"
        image.to_filename(path)
        return path
    two, pair = rng.random() < 0.4, rng.random() < 0.2
    image_class = [
        [nib.Nifti1Image, nib.Nifti1Pair],
        [nib.Nifti2Image, nib.Nifti2Pair],
    ][two][pair]
    kind = np.dtype(rng.choice(TYPES))
    header = image_class.header_class(endianness=str(rng.choice(["<", ">"])))
    header.set_data_dtype(kind)
    image = image_class(random_voxels(rng, shape, kind), affine, header, dtype=kind)
    form = rng.integers(0, 3)
    if form == 0 or sheared:
        image.set_qform(None, 0)
        image.set_sform(affine, int(rng.integers(1, 5)))
    elif form == 1:
        image.set_sform(None, 0)
        image.set_qform(affine, int(rng.integers(1, 5)))
    else:
        image.set_sform(affine, int(rng.integers(1, 5)))
        image.set_qform(affine, int(rng.integers(1, 5)))
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"random image %d" % ix
    for _ in range(rng.integers(0, 3)):
        text = rng.bytes(int(rng.integers(1, 90)))
        extension = nib.nifti1.Nifti1Extension(int(rng.choice([4, 6, 42])), text)
        image.header.extensions.append(extension)
    if rng.random() < 0.5:
        # Written as they are, with a slope that applies to them.
        image.header.set_slope_inter(*rng.uniform(-4, 4, 2))
    end = "" if rng.random() < 0.5 else ".gz"
    path = folder / f"{ix}{'.hdr' if pair else '.nii'}"
    image.to_filename(path)
    if rng.random() < 0.5:
        for part in [path, path.with_suffix(".img")] if pair else [path]:
            data = part.read_bytes()
            cut = int(rng.integers(0, len(data)))
            members = [data] if rng.random() < 0.5 else [data[:cut], data[cut:]]
            # With the name of a gzip file or without it.
            target = part if pair else part.with_name(part.name + end)
            part.unlink()
            target.write_bytes(b"".join(gzip.compress(m) for m in members))
            path = target if part == path else path
    return path


def load(path):
    """With nibabel, which goes by the name alone: a gzip file in disguise is unpacked first."""
    if path.suffix in (".nii", ".hdr"):
        for part in {path, path.with_suffix(".img") if path.suffix == ".hdr" else path}:
            data = part.read_bytes()
            if data[:2] == b"\x1f\x8b":
                part.write_bytes(gzip.decompress(data))
    return nib.load(path)


class Checker:
    def __init__(self):
        self.failures, self.checks = [], 0

    def __call__(self, name, what, right):
        self.checks += 1
        if not right:
            self.failures.append(f"{name}: {what}")

    def equal(self, name, what, a, b, tolerance=0.0):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = max(1.0, float(np.abs(b).max(initial=0)))
        self(name, what, a.shape == b.shape and np.abs(a - b).max(initial=0) <= tolerance * scale)


def bits(array):
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()


def check(checker, path, out):
    name = path.name
    image = load(path)
    truth = np.asanyarray(image.dataobj)
    raw = np.asanyarray(image.dataobj.get_unscaled())
    is_mgh = isinstance(image, nib.MGHImage)
    # Rounded to f32 once, from the integer or from the scaled f64.
    scaled = (image.dataobj.slope, image.dataobj.inter) != (1, 0)
    values = (image.get_fdata(dtype=np.float64) if scaled else raw).astype(np.float32)
    # nibabel computes the matrix of an MGH file in f32.
    tolerance = 3e-6 if is_mgh else 1e-12

    got = np.fromfile(out / f"{name}.values", "<f4").reshape(truth.shape, order="F")
    checker.equal(name, "values as read", got, values)
    affine = np.fromfile(out / f"{name}.affine", "<f8").reshape(3, 4)
    checker.equal(name, "matrix as read", affine, image.affine[:3], tolerance)

    extensions = [] if is_mgh else [(e.get_code(), e.content) for e in image.header.extensions]
    for end in (".nii", ".nii.gz", ".mgz", ".mgh"):
        to_mgh = end.startswith(".mg")
        place = 3e-6 if is_mgh or to_mgh else 1e-12

        kept = nib.load(out / f"{name}.kept{end}")
        what = f"kept as {end}"
        if is_mgh == to_mgh:
            stored = np.asanyarray(kept.dataobj.get_unscaled())
            checker(name, f"{what}: stored voxels", stored.dtype.newbyteorder("=") == raw.dtype.newbyteorder("=") and bits(stored) == bits(raw))
        checker.equal(name, f"{what}: values", kept.get_fdata(dtype=np.float64), image.get_fdata(dtype=np.float64), 1e-7)
        checker.equal(name, f"{what}: matrix", kept.affine, image.affine, place)
        if not is_mgh and not to_mgh:
            for code in ("sform_code", "qform_code", "descrip", "xyzt_units"):
                checker(name, f"{what}: {code}", kept.header[code] == image.header[code])
            written = [(e.get_code(), e.content) for e in kept.header.extensions]
            checker(name, f"{what}: extensions", written == extensions)
            checker(name, f"{what}: version", kept.header.sizeof_hdr == image.header.sizeof_hdr)

        mask = nib.load(out / f"{name}.mask{end}")
        labels = (np.arange(truth.size) % 251).reshape(truth.shape, order="F")
        checker.equal(name, f"mask as {end}: values", np.asanyarray(mask.dataobj), labels)
        checker(name, f"mask as {end}: type", mask.get_data_dtype() == np.uint8)
        checker.equal(name, f"mask as {end}: matrix", mask.affine, image.affine, place)

        like = nib.load(out / f"{name}.like{end}")
        checker.equal(name, f"floats as {end}: values", np.asanyarray(like.dataobj), values)
        checker.equal(name, f"floats as {end}: matrix", like.affine, image.affine, place)

        grid = nib.load(out / f"{name}.grid{end}")
        turned = np.array([[0, 1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1.0]])
        shape = (truth.shape[1], truth.shape[0], *truth.shape[2:])
        flat = values.ravel(order="F").reshape(shape, order="F")
        checker.equal(name, f"new grid as {end}: values", np.asanyarray(grid.dataobj), flat)
        checker.equal(name, f"new grid as {end}: matrix", grid.affine, image.affine @ turned, 3e-6)
        if not to_mgh and grid.header["qform_code"] > 0:
            checker.equal(name, f"new grid as {end}: qform", grid.get_qform(), grid.affine, 1e-4)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=200, help="images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    repository = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for part in ("in", "out"):
            (folder / part).mkdir()
        paths = [write_random(rng, folder / "in", ix) for ix in range(options.count)]
        command = "cargo test --locked --test volume exchange -- --ignored --exact round_trip::exchange"
        environment = os.environ | {"TREPHINE_EXCHANGE": str(folder)}
        result = subprocess.run(command.split(), cwd=repository, env=environment, capture_output=True, text=True)
        if result.returncode or "1 passed" not in result.stdout:
            sys.exit(result.stdout + result.stderr)
        checker = Checker()
        for path in paths:
            check(checker, path, folder / "out")
    for failure in checker.failures[:40]:
        print(failure)
    print(f"{options.count} images, {checker.checks} comparisons, {len(checker.failures)} disagree")
    sys.exit(1 if checker.failures else 0)


if __name__ == "__main__":
    main()
