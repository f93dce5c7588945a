"""Brain extraction of head MRI by Trephine, from Python.

    import trephine
    result = trephine.strip("head.nii.gz")
    result.brain, result.mask          # nibabel images on the head's grid
    result.brain_ml, result.score      # volume in mL, how plausible the mask is (0 to 1)

Needs nibabel. The work is done by the program `trephine`: the one that the variable TREPHINE names, the one that was installed
with this package, or the one on the PATH. `trephine.nipype` has an interface for Nipype.
"""

import json
import os
import shutil
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Stripped", "TrephineError", "program", "strip"]


class TrephineError(RuntimeError):
    """What Trephine says went wrong: what, and what to do."""


@dataclass
class Stripped:
    """What became of a head."""

    brain: object
    """The head inside the mask (nibabel image)."""
    mask: object
    """1 in the brain, 0 elsewhere (nibabel image, uint8)."""
    distance: object = None
    """Signed distance to the mask's border in mm, negative inside, where it was asked for."""
    probability: object = None
    """Probability of brain, where it was asked for."""
    brain_ml: float = None
    """Volume of the mask in mL."""
    score: float = None
    """How plausible the mask is, 0 to 1."""
    warnings: list = field(default_factory=list)
    """What a person should look at."""
    provenance: dict = field(default_factory=dict)
    """Version of the program, name and SHA-256 of the model, options."""


def program():
    """Path of the program `trephine`.

    Raises:
        FileNotFoundError: when there is none.
    """
    named = os.environ.get("TREPHINE")
    beside = Path(sysconfig.get_path("scripts")) / ("trephine.exe" if os.name == "nt" else "trephine")
    for candidate in (named, str(beside), "trephine"):
        found = shutil.which(candidate) if candidate else None
        if found:
            return found
        if candidate and candidate == named:
            break
    raise FileNotFoundError(
        f"{named or 'trephine'}: no such program; install Trephine, or set TREPHINE to its path"
    )


def strip(
    image,
    *,
    border=0.0,
    fill=None,
    no_csf=False,
    model=None,
    n4=None,
    tta=False,
    distance=False,
    probability=False,
    volume=None,
    device=None,
):
    """Extracts the brain of a head.

    Args:
        image: path of a NIfTI or MGH file, or a nibabel image.
        border: moves the mask's border outward by so many mm, inward when negative.
        fill: value outside the brain; 0 without.
        no_csf: leave out the CSF around the brain, with models that offer it.
        model: a built-in model by name, or a weight file.
        n4: True or False corrects the bias field before the network or does not; a name is a mode of `--n4`; None leaves it to
            the model.
        tta: average over mirrored and moved passes.
        distance, probability: return these as well.
        volume: which volume of a series, from 0; "all" takes every one.
        device: number or name of the adapter.

    Returns:
        Stripped, with images in memory on the grid of the input.

    Raises:
        TrephineError: when there is no result; its text says why.
    """
    import nibabel

    with tempfile.TemporaryDirectory(prefix="trephine-") as folder:
        folder = Path(folder)
        if isinstance(image, (str, os.PathLike)):
            source = Path(image)
            end = ".mgz" if source.suffix.lower() in (".mgz", ".mgh") else ".nii"
        else:
            end = ".mgz" if isinstance(image, nibabel.freesurfer.MGHImage) else ".nii"
            source = folder / f"head{end}"
            nibabel.save(_scaled_as_loaded(nibabel, image), source)
        wanted = {"brain": "-o", "mask": "-m"}
        if distance:
            wanted["distance"] = "-d"
        if probability:
            wanted["probability"] = "-p"
        command = [program(), "strip", "--json", "--quiet", "-i", str(source), f"--border={border}"]
        for name, flag in wanted.items():
            command += [flag, str(folder / f"{name}{end}")]
        command += [f"--fill={fill}"] if fill is not None else []
        command += ["--no-csf"] if no_csf else []
        command += [f"--model={model}"] if model is not None else []
        command += ["--tta"] if tta else []
        command += [f"--device={device}"] if device is not None else []
        if n4 is not None:
            command.append("--no-n4" if n4 is False else "--n4" if n4 is True else f"--n4={n4}")
        if volume is not None:
            command.append("--all" if volume == "all" else f"--volume={volume}")
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        try:
            said = json.loads(done.stdout)
        except ValueError:
            raise TrephineError(done.stderr.strip() or f"trephine ended with {done.returncode}") from None
        # A series of which volumes failed has outputs, and an error that names them.
        head = (said.get("heads") or [{}])[0]
        if not head.get("outputs"):
            raise TrephineError((said.get("error") or {}).get("message") or "trephine gave no reason")
        images = {name: _in_memory(nibabel, folder / f"{name}{end}") for name in wanted}
        warnings = list(head["warnings"])
        if head.get("error"):
            warnings.append(head["error"])
        return Stripped(
            **images,
            brain_ml=head["brain_ml"],
            score=head["score"],
            warnings=warnings,
            provenance={name: said[name] for name in ("version", "model", "model_sha256", "options")},
        )


def _scaled_as_loaded(nibabel, image):
    """The same image, to be stored with the slope and intercept of its file: left to itself, nibabel chooses new ones, which
    round the voxels and may not hold 0."""
    slope = getattr(image.dataobj, "slope", None)
    if slope is None or not hasattr(image.header, "set_slope_inter"):
        return image
    copy = image.__class__(image.dataobj.get_unscaled(), image.affine, image.header.copy())
    copy.header.set_slope_inter(slope, image.dataobj.inter)
    return copy


def _in_memory(nibabel, path):
    """An image that needs its file no longer, with its voxels as stored."""
    image = nibabel.load(path)
    return image.from_bytes(path.read_bytes()) if path.suffix == ".nii" else _mgh(nibabel, image)


def _mgh(nibabel, image):
    import numpy

    return nibabel.freesurfer.MGHImage(numpy.asarray(image.dataobj), image.affine, image.header)
