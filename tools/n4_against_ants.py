#!/usr/bin/env python3
"""Compare `trephine n4 --spline-distance` with ANTs' N4BiasFieldCorrection -b [MM].

    python tools/n4_against_ants.py HEAD.nii.gz [--mask BRAIN.nii.gz] [--mm 200 80]

Prints for each distance how far apart the log fields are over the whole image, at shrink 3,
iterations 20 10 10 5 and tolerance 0; a distance of 0 stands for one span an axis, without
padding. Exit status 1 when rms exceeds 1e-4 or a voxel 1e-3. Voxels <= 0 are set to 1
first: see n4_against_simpleitk.py. Needs numpy and antspyx.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import ants
import numpy as np

SHRINK = 3
ITERATIONS = [20, 10, 10, 5]


def main():
    parser = argparse.ArgumentParser(description="Compare `trephine n4` with ANTs' N4.")
    parser.add_argument("head", metavar="HEAD")
    parser.add_argument("--mask", help="fit inside this mask")
    parser.add_argument("--mm", type=int, nargs="+", default=[0, 200, 80], help="spline distances (default: %(default)s)")
    parser.add_argument("--trephine", default="target/release/trephine", help="the program to test (default: %(default)s)")
    options = parser.parse_args()

    head = ants.image_read(options.head)
    head = head * (head > 0) + (head <= 0)
    mask = ants.image_read(options.mask) if options.mask else None
    print(f"{options.head}: {head.shape} voxels of {tuple(round(mm, 3) for mm in head.spacing)} mm")
    met = True
    with tempfile.TemporaryDirectory() as folder:
        image, field = Path(folder, "head.nii.gz"), Path(folder, "field.nii")
        ants.image_write(head, str(image))
        for mm in options.mm:
            expected = ants.n4_bias_field_correction(
                head, mask=mask, shrink_factor=SHRINK, convergence={"iters": ITERATIONS, "tol": 0.0},
                spline_param=mm or None, return_bias_field=True,
            )
            command = [options.trephine, "n4", "--preset", "ants", "-i", image, "-b", field, "--quiet"]
            command += ["--shrink", SHRINK, "--iterations", ",".join(map(str, ITERATIONS))]
            command += ["-x", options.mask] if options.mask else ["--auto-mask", "none"]
            command += ["--spline-distance", mm] if mm else []
            subprocess.run([str(part) for part in command], check=True)
            got = ants.image_read(str(field)).numpy().astype(np.float64)
            difference = np.log(got) - np.log(expected.numpy().astype(np.float64))
            rms, largest = np.sqrt((difference**2).mean()), np.abs(difference).max()
            met &= bool(rms <= 1e-4 and largest <= 1e-3)
            print(f"  {mm or 'no'} mm, {'mask' if mask else 'no mask'}: rms {rms:.1e}, max {largest:.1e}", flush=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
