//! `trephine resample`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::bail;
use clap::{Args, ValueEnum};
use glam::{DMat4, DVec3};
use serde_json::json;
use trephine::gpu::Gpu;
use trephine::ops::resample::{Edge, Interpolation};
use trephine::pipeline::resample::{Sampler, check_target, resample};
use trephine::tensor::Xyz;
use trephine::volume::image::{self, FrameChoice, Image, is_mgh_name};
use trephine::volume::nearest::sample_stored;
use trephine::volume::{Grid, middle};

use super::files::{Input, append, check_folder, check_outputs};
use super::json::named;
use super::{FrameOptions, Outcome, Session, about, triple, usage};

/// Sample an image on another grid
///
/// The new grid is that of a reference image (--like), or the image's own axes and centre with another voxel
/// size (--voxel). Samples outside the image are --fill. For masks and labels take `--interpolation nearest`, which
/// keeps every value bit for bit.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Example:\n  trephine resample -i head.nii.gz -o head_2mm.nii.gz --voxel 2,2,2\n  trephine resample -i mask.nii.gz -o mask_on_t2.nii.gz --like t2.nii.gz --interpolation nearest"
)]
pub(super) struct Options {
    /// Image to sample
    #[arg(short, long, value_name = "FILE")]
    input: PathBuf,
    /// Image to write: float32, or the input's datatype with --interpolation nearest
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
    /// Value outside the image [default: 0]
    #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
    fill: Option<f64>,
    #[command(flatten)]
    frames: FrameOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// The nearest voxel: keeps labels bit for bit, in the datatype of the input
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

impl Options {
    /// The grid to sample on, for the images of one or several volumes.
    fn target(&self, own: &Grid, like: Option<&Image>, volumes: usize, edge: Edge) -> anyhow::Result<Grid> {
        let mut grid = match (like, self.voxel) {
            (Some(like), _) => like.grid(),
            (None, Some(voxel)) => rescaled(own, DVec3::from_array(voxel), self.shape),
            (None, None) => unreachable!("clap requires --like or --voxel"),
        };
        // Taken as it stands, the rounding of headers alone would push the outer voxels over the edge.
        if let Some(map) = grid.map_from(own) {
            grid.affine = map.affine(&own.affine, own.shape);
        }
        check_target(own, &grid, volumes, edge).map_err(|error| match like {
            Some(_) => about(&self.input, &error),
            None => usage(error.to_string()),
        })?;
        Ok(grid)
    }

    pub async fn run(self, session: &Session) -> anyhow::Result<Outcome> {
        if self.voxel.is_some_and(|v| !v.iter().all(|&mm| mm.is_finite() && mm > 0.0)) {
            return Err(usage("--voxel must be above 0"));
        }
        if self.shape.is_some_and(|s| s.contains(&0)) {
            return Err(usage("--shape must be above 0"));
        }
        let inputs: Vec<&Path> =
            [Some(&self.input), self.like.as_ref()].into_iter().flatten().map(PathBuf::as_path).collect();
        check_outputs(&[&self.output], &inputs)?;
        check_folder(&self.output)?;
        // Labels may be one and the same everywhere, and NaN is left where it is.
        let input = match self.interpolation {
            Kind::Nearest => Input::read_as_it_is(&self.input, self.frames.into())?,
            _ => Input::read(&self.input, self.frames.into())?,
        };
        input.warnings.iter().for_each(|warning| session.terminal.warning(&self.input, warning));
        // Only the grid counts: the first volume of a 4D reference will do.
        let like = self.like.as_ref().map(|path| image::read(path, FrameChoice::One(0))).transpose()?;
        if let (Some(like), Some(path)) = (&like, &self.like) {
            like.warnings().iter().for_each(|warning| session.terminal.warning(path, warning));
        }
        let edge = match (self.edge, self.interpolation) {
            (Some(EdgeName::Clamp), _) | (None, Kind::Area) => Edge::Clamp,
            _ => Edge::Zero,
        };
        let grid = self.target(&input.image.grid(), like.as_ref(), input.image.frames(), edge)?;
        if !is_mgh_name(&self.output) {
            input.image.check_shape(grid.shape).map_err(|problem| problem.at(&self.output))?;
        }
        // The reference's own header: forms and codes bit for bit.
        let header = like.as_ref().filter(|_| input.image.frames() == 1);
        let adapter = match self.interpolation {
            Kind::Nearest => {
                let sampled =
                    sample_stored(&input.image, &grid, edge.into(), &self.stored_fill(&input.image)?);
                image::write_sampled(&self.output, &input.image, &sampled, &grid, header)?;
                None
            }
            kind => {
                let (gpu, data) = self.sample(kind, &input, &grid, edge, session).await?;
                match header {
                    Some(like) => image::write_like(&self.output, like, &data)?,
                    None => image::write_new(&self.output, grid.shape, &grid.affine, &data, &input.image)?,
                }
                Some(gpu)
            }
        };
        session.terminal.note(&format!("wrote {} ({:?} voxels)", self.output.display(), grid.shape));
        session.terminal.json(&json!({
            "adapter": adapter.as_ref().map(|gpu| &gpu.summary),
            "output": named(&self.output),
            "shape": grid.shape.0,
        }))?;
        Ok(Outcome::Done)
    }

    /// The held volumes, interpolated on the device.
    async fn sample(
        &self,
        kind: Kind,
        input: &Input,
        grid: &Grid,
        edge: Edge,
        session: &Session,
    ) -> anyhow::Result<(Arc<Gpu>, Vec<f32>)> {
        let gpu = session.gpu().await?;
        let interpolation = match kind {
            Kind::Nearest => Interpolation::Nearest,
            Kind::Linear | Kind::Area => Interpolation::Linear,
            Kind::Cubic => Interpolation::Cubic,
        };
        let outside = self.fill.unwrap_or(0.0) as f32;
        let sampler = Sampler { filtered: kind == Kind::Area, interpolation, edge, outside };
        let mut data = Vec::new();
        for frame in 0..input.image.frames() {
            let sampled = resample(&gpu, input.volume(frame)?, grid, sampler).await;
            append(&mut data, sampled.map_err(|e| about(&self.input, &e.into()))?);
        }
        Ok((gpu, data))
    }

    /// The bytes of a voxel outside the image, in its datatype.
    fn stored_fill(&self, image: &Image) -> anyhow::Result<Vec<u8>> {
        let wanted = self.fill.unwrap_or(0.0);
        let (bytes, held) = image.voxel_of(wanted);
        // Rounding to a step is no other value; an end of the type is.
        let step = image.info().scaling.0.abs();
        let holds = held == wanted || (held - wanted).abs() <= 0.5 * step || held.is_nan() && wanted.is_nan();
        match self.fill {
            Some(_) if !holds => bail!(
                "{}: its voxels are {:?} and cannot hold --fill {wanted}; the nearest value is {held}",
                self.input.display(),
                image.datatype()
            ),
            _ => Ok(bytes),
        }
    }
}

/// The grid's axes and centre with voxels of `voxel_mm`; without a shape, as many as cover it.
fn rescaled(own: &Grid, voxel_mm: DVec3, shape: Option<[usize; 3]>) -> Grid {
    let old = own.voxel_size().to_array();
    let new = voxel_mm.to_array();
    // A whole number of voxels must not become one more by rounding: 256 * 0.9 / 0.9 say.
    let covering = |a: usize| ((own.shape[a] as f64 * old[a] / new[a] - 1e-6).ceil() as usize).max(1);
    let shape = Xyz(shape.unwrap_or([0, 1, 2].map(covering)));
    let ratio = DVec3::from_array([0, 1, 2].map(|a| new[a] / old[a]));
    let to_old = DMat4::from_translation(middle(own.shape))
        * DMat4::from_scale(ratio)
        * DMat4::from_translation(-middle(shape));
    Grid { shape, affine: own.affine * to_old }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trephine::volume::orientation::AxisMap;

    #[test]
    fn a_rescaled_grid_keeps_axes_and_centre() {
        let affine = DMat4::from_cols_array_2d(&[
            [-0.9, 0.1, 0.0, 0.0],
            [0.1, 0.95, -0.05, 0.0],
            [0.02, 0.05, 1.2, 0.0],
            [30.0, -40.0, -20.0, 1.0],
        ]);
        let own = Grid { shape: Xyz([7, 6, 5]), affine };
        let same = rescaled(&own, own.voxel_size(), None);
        assert_eq!(same.shape, own.shape);
        assert!(same.affine.abs_diff_eq(affine, 1e-12));
        let fine = rescaled(&own, DVec3::splat(0.5), None);
        assert_eq!(fine.shape, Xyz([13, 12, 13]));
        assert_eq!((own.map_from(&same), own.map_from(&fine)), (Some(AxisMap::IDENTITY), None));
        let centre = |grid: &Grid| grid.affine.transform_point3(middle(grid.shape));
        assert!(centre(&fine).abs_diff_eq(centre(&own), 1e-12));
        assert!((fine.affine.x_axis.truncate().length() - 0.5).abs() < 1e-12);
    }
}
