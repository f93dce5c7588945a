#!/usr/bin/env python3
"""Draws the way of a head for docs/how.md: as read, its bias field, as the network sees it, probability, mask.

    tools/walk_picture.py HEAD.nii.gz PICTURE.png [--program "target/release/trephine"]

Runs `trephine` for the images of every step, and takes the axial slice through the middle of the brain. Needs numpy, nibabel
and Pillow.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image, ImageDraw

EDGE = 230
ORANGE = (255, 153, 0)


def axial(path, at_mm):
    """The axial slice at a world height, left on the left, front up, voxels in the nearest of right, front, up; and its voxel size."""
    image = nib.as_closest_canonical(nib.load(path))
    height = int(round((np.linalg.inv(image.affine) @ [0, 0, at_mm, 1])[2]))
    slice_ = np.squeeze(np.asarray(image.dataobj, dtype=np.float32))[:, :, height]
    return np.flipud(slice_.T), image.header.get_zooms()[:2]


def panel(slice_, zooms, low, high, title):
    """One slice in grey, square, in mm, with its title above."""
    grey = np.uint8(np.clip((slice_ - low) / (high - low), 0, 1) * 255)
    height, width = (n * mm for n, mm in zip(grey.shape, zooms[::-1]))
    scale = EDGE / max(height, width)
    picture = Image.fromarray(grey).convert("RGB").resize((round(width * scale), round(height * scale)), Image.NEAREST)
    canvas = Image.new("RGB", (EDGE + 8, EDGE + 26))
    canvas.paste(picture, ((EDGE + 8 - picture.width) // 2, 26))
    ImageDraw.Draw(canvas).text((6, 7), title, fill=(230, 230, 230))
    return canvas


def outlined(slice_, mask, low, high):
    """Grey with the mask's edge in orange; as RGB."""
    grey = np.uint8(np.clip((slice_ - low) / (high - low), 0, 1) * 255)
    rgb = np.stack([grey] * 3, -1)
    inside = mask > 0.5
    core = inside.copy()
    for axis in (0, 1):
        for step in (1, -1):
            core &= np.roll(inside, step, axis)
    rgb[inside & ~core] = ORANGE
    return rgb


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("head", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--program", default="target/release/trephine")
    options = parser.parse_args()
    program = options.program.split()
    with tempfile.TemporaryDirectory() as folder:
        at = lambda name: str(Path(folder) / name)
        run = lambda *arguments: subprocess.run([*program, *arguments, "--quiet"], check=True)
        run("strip", "-i", str(options.head), "--n4", "--bias", at("bias.nii.gz"), "-m", at("mask.nii.gz"), "-p", at("p.nii.gz"))
        run("resample", "-i", str(options.head), "-o", at("grid.nii.gz"), "--voxel", "2", "--interpolation", "area")
        mask = nib.as_closest_canonical(nib.load(at("mask.nii.gz")))
        rows = np.argwhere(np.squeeze(np.asarray(mask.dataobj)) > 0)
        middle_mm = (mask.affine @ [*((rows.min(0) + rows.max(0)) / 2), 1])[2]
        head, zooms = axial(options.head, middle_mm)
        low, high = 0.0, np.percentile(head, 99.5)
        bias, _ = axial(at("bias.nii.gz"), middle_mm)
        grid, grid_zooms = axial(at("grid.nii.gz"), middle_mm)
        probability, _ = axial(at("p.nii.gz"), middle_mm)
        brain, _ = axial(at("mask.nii.gz"), middle_mm)
        panels = [
            panel(head, zooms, low, high, "as read"),
            panel(bias, zooms, *np.percentile(bias, (1, 99)), "bias field (N4)"),
            panel(grid, grid_zooms, low, high, "the network's voxels, 2 mm"),
            panel(probability, zooms, 0.0, 1.0, "probability, native grid"),
        ]
        last = panel(head, zooms, low, high, "mask")
        edge = Image.fromarray(outlined(head, brain, low, high))
        height, width = (n * mm for n, mm in zip(head.shape, zooms[::-1]))
        scale = EDGE / max(height, width)
        edge = edge.resize((round(width * scale), round(height * scale)), Image.NEAREST)
        last.paste(edge, ((EDGE + 8 - edge.width) // 2, 26))
        panels.append(last)
    whole = Image.new("RGB", (sum(p.width for p in panels), panels[0].height))
    for number, one in enumerate(panels):
        whole.paste(one, (number * one.width, 0))
    whole.save(options.picture, optimize=True)


if __name__ == "__main__":
    main()
