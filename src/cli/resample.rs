//! `trephine resample`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use glam::{DMat4, DVec3};
use serde_json::json;

use super::files::{Input, append, check_folder, check_outputs};
use super::{FrameOptions, Outcome, Session, about, triple, usage};
use crate::ops::resample::{Edge, Interpolation};
use crate::pipeline::grid::Grid;
use crate::pipeline::resample::{Sampler, resample};
use crate::volume::image::{self, FrameChoice, Image};

/// Sample an image on another grid
///
/// The new grid is that of a reference image (--like), or the image's own axes and centre with another voxel
/// size (--voxel). Samples outside the image are 0. For masks and labels take `--interpolation nearest`.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  trephine resample -i head.nii.gz -o head_2mm.nii.gz --voxel 2,2,2\n  trephine resample -i mask.nii.gz -o mask_on_t2.nii.gz --like t2.nii.gz --interpolation nearest"
)]
pub(super) struct Options {
    /// Image to sample
    #[arg(short, long, value_name = "FILE")]
    input: PathBuf,
    /// Image to write, float32
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Take the grid of this image
    #[arg(long, value_name = "FILE", required_unless_present = "voxel", conflicts_with = "voxel")]
    like: Option<PathBuf>,
    /// Voxel size in mm along the image's own axes
    #[arg(long, value_name = "X,Y,Z", value_parser = triple::<f64>)]
    voxel: Option<[f64; 3]>,
    /// Voxels along the image's own axes [default: as many as cover the image]
    #[arg(long, value_name = "X,Y,Z", value_parser = triple::<usize>, requires = "voxel")]
    shape: Option<[usize; 3]>,
    /// How values between voxels are found
    #[arg(long, default_value = "area", value_name = "KIND")]
    interpolation: Kind,
    /// Where the image ends [default: clamp for area, else zero]
    #[arg(long, value_name = "WHERE")]
    edge: Option<EdgeName>,
    #[command(flatten)]
    frames: FrameOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// The nearest voxel: keeps labels
    Nearest,
    /// 8 neighbours
    Linear,
    /// 64 neighbours
    Cubic,
    /// Average over the new voxel along axes where it is larger, then linear: no aliasing
    Area,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EdgeName {
    /// At the centres of the outer voxels, as in nilearn and SciPy
    Zero,
    /// At their faces, half a voxel further, as in ITK and ANTs
    Clamp,
}

/// More voxels than this are a slip of the hand: 8 GiB of floats.
const MOST_VOXELS: f64 = 2e9;

impl Options {
    fn target(&self, own: &Grid, like: Option<&Image>) -> anyhow::Result<Grid> {
        if let Some(like) = like {
            return Ok(Grid { shape: like.shape(), affine: like.affine() });
        }
        let voxel = self.voxel.expect("clap requires --like or --voxel");
        let grid = rescaled(own, DVec3::from_array(voxel), self.shape);
        let voxels: f64 = grid.shape.iter().map(|&n| n as f64).product();
        if voxels > MOST_VOXELS {
            return Err(usage(format!("a grid of {:?} is too large; choose a larger --voxel", grid.shape)));
        }
        Ok(grid)
    }

    pub fn run(self, session: &Session) -> anyhow::Result<Outcome> {
        if self.voxel.is_some_and(|v| !v.iter().all(|&mm| mm.is_finite() && mm > 0.0)) {
            return Err(usage("--voxel must be above 0"));
        }
        if self.shape.is_some_and(|s| s.contains(&0)) {
            return Err(usage("--shape must be above 0"));
        }
        let inputs: Vec<&std::path::Path> =
            [Some(&self.input), self.like.as_ref()].into_iter().flatten().map(PathBuf::as_path).collect();
        check_outputs(&[&self.output], &inputs)?;
        check_folder(&self.output)?;
        let input = Input::read(&self.input, self.frames.into())?;
        input.warnings.iter().for_each(|warning| session.terminal.warning(&self.input, warning));
        // Only the grid counts: the first volume of a 4D reference will do.
        let like = self.like.as_ref().map(|path| image::read(path, FrameChoice::One(0))).transpose()?;
        if let (Some(like), Some(path)) = (&like, &self.like) {
            like.warnings().iter().for_each(|warning| session.terminal.warning(path, warning));
        }
        let own = Grid { shape: input.image.shape(), affine: input.image.affine() };
        let mut grid = self.target(&own, like.as_ref())?;
        if is_same_grid(&own, &grid) {
            grid.affine = own.affine;
        }
        let gpu = session.gpu()?;
        let (filtered, interpolation) = match self.interpolation {
            Kind::Nearest => (false, Interpolation::Nearest),
            Kind::Linear => (false, Interpolation::Linear),
            Kind::Cubic => (false, Interpolation::Cubic),
            Kind::Area => (true, Interpolation::Linear),
        };
        let edge = match self.edge {
            Some(EdgeName::Clamp) => Edge::Clamp,
            None if filtered => Edge::Clamp,
            _ => Edge::Zero,
        };
        let mut data = Vec::new();
        for frame in 0..input.image.frames() {
            let volume = input.volume(frame)?;
            let sampled = resample(&gpu, volume, &grid, Sampler { filtered, interpolation, edge });
            append(&mut data, sampled.map_err(|e| about(&self.input, &e.into()))?);
        }
        match &like {
            // The reference's own header: forms and codes bit for bit.
            Some(like) if input.image.frames() == 1 => image::write_like(&self.output, like, &data)?,
            _ => image::write_new(&self.output, grid.shape, &grid.affine, &data, &input.image)?,
        }
        session.terminal.note(&format!("wrote {} ({:?} voxels)", self.output.display(), grid.shape));
        session.terminal.json(&json!({
            "adapter": gpu.summary,
            "output": self.output,
            "shape": grid.shape,
        }))?;
        Ok(Outcome::Done)
    }
}

/// Whether a grid is the image's own but for the rounding of headers: no corner further than a thousandth of a
/// voxel away. Taken as it stands, rounding alone would push the outer voxels over the edge.
fn is_same_grid(own: &Grid, grid: &Grid) -> bool {
    let to_own = own.affine.inverse() * grid.affine;
    let corner = |n: usize| {
        DVec3::from_array([0, 1, 2].map(|a| if n >> a & 1 == 1 { grid.shape[a] as f64 - 1.0 } else { 0.0 }))
    };
    let moved = |n| to_own.transform_point3(corner(n)).distance(corner(n));
    grid.shape == own.shape && (0..8).map(moved).all(|voxels| voxels < 1e-3)
}

/// The grid's axes and centre with voxels of `voxel_mm`; without a shape, as many as cover it.
fn rescaled(own: &Grid, voxel_mm: DVec3, shape: Option<[usize; 3]>) -> Grid {
    let old = own.voxel_size().to_array();
    let new = voxel_mm.to_array();
    // A whole number of voxels must not become one more by rounding: 256 * 0.9 / 0.9 say.
    let covering = |a: usize| ((own.shape[a] as f64 * old[a] / new[a] - 1e-6).ceil() as usize).max(1);
    let shape = shape.unwrap_or([0, 1, 2].map(covering));
    let middle = |shape: [usize; 3]| DVec3::from_array(shape.map(|n| (n as f64 - 1.0) / 2.0));
    let ratio = DVec3::from_array([0, 1, 2].map(|a| new[a] / old[a]));
    let to_old = DMat4::from_translation(middle(own.shape))
        * DMat4::from_scale(ratio)
        * DMat4::from_translation(-middle(shape));
    Grid { shape, affine: own.affine * to_old }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rescaled_grid_keeps_axes_and_centre() {
        let affine = DMat4::from_cols_array_2d(&[
            [-0.9, 0.1, 0.0, 0.0],
            [0.1, 0.95, -0.05, 0.0],
            [0.02, 0.05, 1.2, 0.0],
            [30.0, -40.0, -20.0, 1.0],
        ]);
        let own = Grid { shape: [7, 6, 5], affine };
        let same = rescaled(&own, own.voxel_size(), None);
        assert_eq!(same.shape, own.shape);
        assert!(same.affine.abs_diff_eq(affine, 1e-12));
        let fine = rescaled(&own, DVec3::splat(0.5), None);
        assert_eq!(fine.shape, [13, 12, 13]);
        assert!(is_same_grid(&own, &same) && !is_same_grid(&own, &fine));
        let centre = |affine: &DMat4, shape: [usize; 3]| {
            affine.transform_point3(DVec3::from_array(shape.map(|n| (n as f64 - 1.0) / 2.0)))
        };
        assert!(centre(&fine.affine, fine.shape).abs_diff_eq(centre(&affine, own.shape), 1e-12));
        assert!((fine.affine.x_axis.truncate().length() - 0.5).abs() < 1e-12);
    }
}
