//! Volumes of any size: in slabs of planes where the device cannot bind all voxels at once.
//!
//! Software Vulkan and WebGPU's defaults bind 128 MiB, a head of 0.5 mm takes more. A slab is a range of planes along
//! z, whose voxels follow each other in memory. A volume that can be bound is one slab.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use glam::{DMat4, DVec3};

use super::PipelineError;
use super::bias::{N4Error, N4Fit, N4Options, N4Result, Region, correct, evaluate, fit_shrunken, n4};
use super::grid::{Grid, PlacedVolume};
use super::head::Head;
use super::intensity::Method;
use crate::gpu::{Gpu, GpuTensor};
use crate::graph::{GraphError, run_op, run_op1};
use crate::ops::n4::{LogShrink, OUTSIDE};
use crate::ops::resample::{AxisOrder, Edge, Interpolation, grid_matrix, index_matrix, prefilters};
use crate::tensor::{HostTensor, TensorDesc};
use crate::volume::Volume;

/// Planes beyond a slab that interpolation reaches: two for cubic, and one for rounding.
const TAPS: usize = 3;

/// The slabs of a volume with extents x, y, z: as few as can be, of equal thickness but for the last.
pub fn slabs(gpu: &Gpu, shape: [usize; 3]) -> Vec<Range<usize>> {
    with_halo(gpu, shape, 0)
}

/// Slabs that can be bound together with `halo` further planes on either side.
fn with_halo(gpu: &Gpu, [x, y, z]: [usize; 3], halo: usize) -> Vec<Range<usize>> {
    let most = (gpu.caps.max_binding as usize / (4 * x * y).max(1)).max(1);
    let thickness = match z <= most {
        true => z,
        // A single plane that cannot be bound is refused when it is bound.
        false => z.div_ceil(z.div_ceil(most.saturating_sub(2 * halo).max(1))),
    };
    (0..z).step_by(thickness.max(1)).map(|start| start..(start + thickness).min(z)).collect()
}

/// A volume's planes on the device.
///
/// # Errors
/// A failing device.
fn upload(gpu: &Gpu, volume: &Volume, planes: &Range<usize>) -> Result<PlacedVolume, GraphError> {
    let [x, y, _] = volume.shape;
    let desc = TensorDesc::f32(&[planes.len(), y, x]);
    let tensor = gpu.upload(&desc, values_of(&volume.data, volume.shape, planes))?;
    let affine = Grid::of(volume).planes(planes).affine;
    Ok(PlacedVolume { tensor, affine, axes: AxisOrder::Zyx })
}

/// The values of a volume that lie in these planes.
fn values_of<'a, T>(values: &'a [T], [x, y, _]: [usize; 3], planes: &Range<usize>) -> &'a [T] {
    &values[planes.start * x * y..planes.end * x * y]
}

/// The volume averaged over blocks of 2x2x2 voxels until it can be bound, and how many times.
pub fn bindable<'a>(gpu: &Gpu, volume: &'a Volume) -> (Cow<'a, Volume>, u32) {
    let mut reduced = Cow::Borrowed(volume);
    let mut halvings = 0;
    while slabs(gpu, reduced.shape).len() > 1 {
        reduced = Cow::Owned(reduced.halved());
        halvings += 1;
    }
    (reduced, halvings)
}

/// How a volume is sampled on another grid.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    /// Average over boxes of the new voxels first, along the axes where those are larger.
    pub filtered: bool,
    /// How a sample is made of its neighbours.
    pub interpolation: Interpolation,
    /// Where the volume ends.
    pub edge: Edge,
}

/// Samples a volume on another grid, x fastest; samples outside it are 0.
///
/// # Errors
/// A failing device.
pub fn resample(
    gpu: &Gpu,
    mut volume: Volume,
    grid: &Grid,
    sampler: Sampler,
) -> Result<Vec<f32>, GraphError> {
    let own = Grid::of(&volume);
    let matrix = index_matrix(grid_matrix(own.affine, grid.affine), AxisOrder::Zyx, AxisOrder::Zyx);
    let radius = match prefilters(&matrix).first() {
        Some((filter, weights)) if sampler.filtered && filter.axis == 0 => weights.len() / 2,
        _ => 0,
    };
    let halo = radius + TAPS;
    let sources = with_halo(gpu, volume.shape, halo);
    let targets = slabs(gpu, grid.shape);
    let once = sources.len() == 1 && targets.len() == 1;
    let mut values: Vec<f32> = Vec::new();
    for target in targets {
        let target = grid.planes(&target);
        let plane = PlaneOf::new(&own, &target, sources[0].len());
        let mut merged: Vec<f32> = Vec::new();
        let needed = plane.slabs_of(&target);
        for ix in needed.clone() {
            let source = &sources[ix];
            let planes = source.start.saturating_sub(halo)..(source.end + halo).min(volume.shape[2]);
            let mut placed = upload(gpu, &volume, &planes)?;
            if once {
                volume.data = Vec::new();
            }
            if sampler.filtered {
                placed = placed.filtered_for(gpu, &target)?;
            }
            let mut op = placed.resample_op(&target, AxisOrder::Zyx, sampler.interpolation);
            op.edge = sampler.edge;
            let sampled = run_op1(gpu, &op, &[&placed.tensor])?;
            drop(placed);
            let sampled: Vec<f32> = gpu.download(&sampled)?;
            if ix == needed.start {
                merged = sampled;
            } else {
                plane.take(ix, &target, &sampled, &mut merged);
            }
        }
        // The first are taken without a copy.
        match values.is_empty() {
            true => values = merged,
            false => values.append(&mut merged),
        }
    }
    Ok(values)
}

/// Which plane of a volume a voxel of another grid falls in.
struct PlaneOf {
    /// Change of the plane's number along x, y and z of the grid, and that of its first voxel.
    row: [f64; 4],
    /// Last plane of the volume.
    last: f64,
    /// Planes of a slab.
    thickness: usize,
}

impl PlaneOf {
    fn new(volume: &Grid, grid: &Grid, thickness: usize) -> Self {
        let row = grid_matrix(volume.affine, grid.affine).row(2).to_array();
        Self { row, last: volume.shape[2] as f64 - 1.0, thickness }
    }

    /// The slab of the voxel at these indices; beyond the volume, the nearest.
    fn slab(&self, x: usize, y: usize, z: usize) -> usize {
        let [dx, dy, dz, first] = self.row;
        let plane = (dx * x as f64 + dy * y as f64 + dz * z as f64 + first).round().clamp(0.0, self.last);
        plane as usize / self.thickness
    }

    /// The slabs that a grid's voxels fall in.
    fn slabs_of(&self, grid: &Grid) -> Range<usize> {
        let far = grid.shape.map(|n| n - 1);
        let corners = (0..8).map(|c| {
            let at = |axis: usize| if c >> axis & 1 == 1 { far[axis] } else { 0 };
            self.slab(at(0), at(1), at(2))
        });
        let (first, last) = corners.fold((usize::MAX, 0), |(low, high), ix| (low.min(ix), high.max(ix)));
        first..last + 1
    }

    /// Copies what falls in slab `ix`.
    fn take(&self, ix: usize, grid: &Grid, from: &[f32], to: &mut [f32]) {
        let [nx, ny, nz] = grid.shape;
        let mut at = 0;
        for z in 0..nz {
            for y in 0..ny {
                for x in 0..nx {
                    if self.slab(x, y, z) == ix {
                        to[at] = from[at];
                    }
                    at += 1;
                }
            }
        }
    }
}

/// Normalises a volume; with more than one slab, its statistics are the f64 references of the operators.
///
/// # Errors
/// Quantiles outside `[0, 1]`, or a failing device.
pub fn normalise(gpu: &Gpu, volume: &Volume, method: &Method) -> Result<Vec<f32>, GraphError> {
    let slabs = slabs(gpu, volume.shape);
    let (statistics, apply) = method.operators();
    if let [planes] = slabs.as_slice() {
        let placed = upload(gpu, volume, planes)?;
        return Ok(gpu.download(&super::intensity::normalise(gpu, &placed.tensor, method)?)?);
    }
    let data = volume.data.iter().map(|&v| f64::from(v)).collect();
    let values = HostTensor::new(TensorDesc::f32(&[volume.data.len()]), data);
    let statistics = statistics.reference(&[&values]).swap_remove(0);
    drop(values);
    let statistics = gpu.upload(&statistics.desc, &statistics.to_words())?;
    let mut normalised = Vec::with_capacity(volume.data.len());
    for planes in &slabs {
        let placed = upload(gpu, volume, planes)?;
        let done = run_op1(gpu, apply.as_ref(), &[&placed.tensor, &statistics])?;
        normalised.append(&mut gpu.download(&done)?);
    }
    Ok(normalised)
}

/// Where a bias field is estimated, on the volume's own voxels.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostRegion<'a> {
    /// Voxels of 0 are left out, any other label counts.
    pub mask: Option<&'a [u32]>,
    /// How much each voxel counts in the fit; those that are not positive are left out.
    pub confidence: Option<&'a [f32]>,
    /// Look for the head, and take it less its outermost millimetres, so many.
    pub head_less_mm: Option<f64>,
}

impl HostRegion<'_> {
    /// Mask and confidence on a grid that holds these planes of the volume, or all of them; a head that was found goes
    /// before a mask.
    fn on_device(
        &self,
        gpu: &Gpu,
        grid: &Grid,
        head: Option<&Head>,
        planes: Option<&[usize]>,
    ) -> Result<[Option<GpuTensor>; 2], GraphError> {
        let [x, y, z] = grid.shape;
        let shape = [z, y, x];
        let mask = match (head, self.head_less_mm, self.mask) {
            (Some(head), Some(less_mm), _) => Some(head.mask_on(gpu, grid, AxisOrder::Zyx, less_mm)?),
            (_, _, Some(mask)) => Some(gpu.upload(&TensorDesc::u32(&shape), &pick(mask, [x, y], planes))?),
            _ => None,
        };
        let upload = |values| gpu.upload(&TensorDesc::f32(&shape), &pick(values, [x, y], planes));
        Ok([mask, self.confidence.map(upload).transpose()?])
    }
}

/// A volume without its bias field.
#[derive(Debug)]
pub struct Corrected {
    /// Its values.
    pub values: Vec<f32>,
    /// Logarithm of the field, where it was wanted.
    pub log_field: Option<Vec<f32>>,
    /// What was estimated.
    pub fit: N4Fit,
    /// Whether a head was looked for and found.
    pub head_found: bool,
}

/// Estimates the bias field of a volume and divides by it.
///
/// # Errors
/// As [`super::bias::n4`].
pub fn correct_bias(
    gpu: &Arc<Gpu>,
    volume: Cow<Volume>,
    region: HostRegion,
    options: &N4Options,
    want_field: bool,
) -> Result<Corrected, PipelineError> {
    if slabs(gpu, volume.shape).len() > 1 {
        let head = match region.head_less_mm {
            Some(_) => Head::find(gpu, &PlacedVolume::upload(gpu, &bindable(gpu, &volume).0)?)?,
            None => None,
        };
        let head_found = head.is_some();
        let fit = fit_in_slabs(gpu, &volume, region, head.as_ref(), options)?;
        let (values, log_field) = divide(gpu, &volume, &fit, options.padding, want_field)?;
        return Ok(Corrected { values, log_field, fit, head_found });
    }
    let placed = PlacedVolume::upload(gpu, &volume)?;
    // Volumes are freed as soon as nobody needs them; those on the device once it is idle.
    drop(volume);
    let head = match region.head_less_mm {
        Some(_) => Head::find(gpu, &placed)?,
        None => None,
    };
    let head_found = head.is_some();
    let N4Result { fit, log_field } = {
        let [mask, confidence] = region.on_device(gpu, &placed.grid(), head.as_ref(), None)?;
        drop(head);
        let region = Region { mask: mask.as_ref(), confidence: confidence.as_ref() };
        n4(gpu, &placed.tensor, region, options)?
    };
    gpu.wait()?;
    correct(gpu, &placed.tensor, &log_field)?;
    let values = gpu.download(&placed.tensor)?;
    drop(placed);
    let log_field = want_field.then(|| gpu.download(&log_field)).transpose()?;
    Ok(Corrected { values, log_field, fit, head_found })
}

/// Divides a volume by a fitted field, a slab at a time; returns the logarithm of the field where it is wanted.
///
/// # Errors
/// A failing device.
pub fn divide(
    gpu: &Gpu,
    volume: &Volume,
    fit: &N4Fit,
    padding: [[usize; 2]; 3],
    want_field: bool,
) -> Result<(Vec<f32>, Option<Vec<f32>>), PipelineError> {
    let [x, y, z] = volume.shape;
    let (mut values, mut field) = (Vec::new(), want_field.then(Vec::new));
    for planes in slabs(gpu, volume.shape) {
        let mut around = padding;
        around[0] = [around[0][0] + planes.start, around[0][1] + z - planes.end];
        let log_field = evaluate(gpu, &fit.lattice, [planes.len(), y, x], around)?;
        let slab = upload(gpu, volume, &planes)?.tensor;
        correct(gpu, &slab, &log_field)?;
        values.append(&mut gpu.download(&slab)?);
        if let Some(field) = &mut field {
            field.append(&mut gpu.download(&log_field)?);
        }
    }
    Ok((values, field))
}

/// Divides a volume by a field given by its logarithm.
///
/// # Errors
/// A failing device.
pub fn divide_by(gpu: &Gpu, volume: &Volume, log_field: &[f32]) -> Result<Vec<f32>, PipelineError> {
    let mut values = Vec::new();
    for planes in slabs(gpu, volume.shape) {
        let slab = upload(gpu, volume, &planes)?.tensor;
        let log_field = gpu.upload(&slab.desc, values_of(log_field, volume.shape, &planes))?;
        correct(gpu, &slab, &log_field)?;
        values.append(&mut gpu.download(&slab)?);
    }
    Ok(values)
}

/// Estimates the field of a volume that exceeds a binding: of each slab only the planes go to the device that shrinking keeps.
fn fit_in_slabs(
    gpu: &Arc<Gpu>,
    volume: &Volume,
    region: HostRegion,
    head: Option<&Head>,
    options: &N4Options,
) -> Result<N4Fit, PipelineError> {
    options.validate()?;
    let [nx, ny, nz] = volume.shape;
    let shrink = options.log_shrink();
    let (shape, offset) = shrink.geometry(&[nz, ny, nx]);
    let desc = TensorDesc::f32(&shape);
    if desc.bytes() > gpu.caps.max_binding {
        return Err(N4Error::TooLarge {
            mib: desc.bytes().div_ceil(1 << 20),
            limit_mib: gpu.caps.max_binding >> 20,
            adapter: gpu.summary.name.clone(),
            shrink: options.shrink,
        }
        .into());
    }
    let v = gpu.upload(&desc, &vec![OUTSIDE; desc.len()])?;
    let weight = gpu.empty(&desc)?;
    let in_plane = LogShrink {
        factor: [1, shrink.factor[1], shrink.factor[2]],
        padding: [[0; 2], shrink.padding[1], shrink.padding[2]],
        offset: Some([0, offset[1], offset[2]]),
        keep_nonpositive: shrink.keep_nonpositive,
    };
    // Plane k of the shrunken volume is this one of the volume; in the padding there is none.
    let plane = |k: usize| (offset[0] + k * shrink.factor[0]).checked_sub(shrink.padding[0][0]);
    let kept: Vec<usize> = (0..shape[0]).filter(|&k| plane(k).is_some_and(|plane| plane < nz)).collect();
    let at_once = (gpu.caps.max_binding as usize / (4 * nx * ny)).max(1);
    for group in kept.chunks(at_once) {
        let planes: Vec<usize> = group.iter().filter_map(|&k| plane(k)).collect();
        let slab = TensorDesc::f32(&[planes.len(), ny, nx]);
        let picked = gpu.upload(&slab, &pick(&volume.data, [nx, ny], Some(&planes)))?;
        let step = DMat4::from_translation(DVec3::Z * planes[0] as f64)
            * DMat4::from_scale(DVec3::new(1.0, 1.0, shrink.factor[0] as f64));
        let grid = Grid { shape: [nx, ny, planes.len()], affine: volume.affine * step };
        let [mask, confidence] = region.on_device(gpu, &grid, head, Some(&planes))?;
        let inputs: Vec<&GpuTensor> =
            [Some(&picked), mask.as_ref(), confidence.as_ref()].into_iter().flatten().collect();
        let shrunken = run_op(gpu, &in_plane, &inputs)?;
        for (from, to) in shrunken.iter().zip([&v, &weight]) {
            gpu.copy(from, to, group[0] * shape[1] * shape[2])?;
        }
        gpu.wait()?;
    }
    Ok(fit_shrunken(gpu, v, weight, region.confidence.is_some(), options)?)
}

/// The values of these planes of so many voxels along x and y, one after the other; all values without planes.
fn pick<'a, T: Copy>(values: &'a [T], [x, y]: [usize; 2], planes: Option<&[usize]>) -> Cow<'a, [T]> {
    match planes {
        None => Cow::Borrowed(values),
        Some(planes) => {
            planes.iter().flat_map(|&plane| &values[plane * x * y..(plane + 1) * x * y]).copied().collect()
        }
    }
}
