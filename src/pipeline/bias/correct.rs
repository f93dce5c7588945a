//! A volume divided by its field, whatever its size.

use std::borrow::Cow;
use std::sync::Arc;

use glam::{DMat4, DVec3};

use super::error::N4Error;
use super::fit::{N4Fit, N4Result, evaluate, fit_shrunken, n4, voxels_with_nonpositive};
use super::options::N4Options;
use super::region::{FitRegion, RegionTensors};
use crate::gpu::{Gpu, GpuTensor};
use crate::graph::run_op;
use crate::ops::n4::{Apply, LogShrink, OUTSIDE};
use crate::pipeline::PipelineError;
use crate::pipeline::place::head::Head;
use crate::pipeline::place::placed::PlacedVolume;
use crate::pipeline::place::slabs::{pick, slabs, upload, values_of};
use crate::tensor::{TensorDesc, Xyz, Zyx};
use crate::volume::{Grid, Volume};

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
/// As [`n4`].
pub async fn correct_bias(
    gpu: &Arc<Gpu>,
    volume: Cow<'_, Volume>,
    region: FitRegion<'_>,
    options: &N4Options,
    want_field: bool,
) -> Result<Corrected, PipelineError> {
    let head = match region.head_less_mm {
        Some(_) => Head::in_volume(gpu, &volume).await?,
        None => None,
    };
    let head_found = head.is_some();
    if slabs(gpu, volume.shape).len() > 1 {
        let fit = fit_in_slabs(gpu, &volume, region, head.as_ref(), options).await?;
        let (values, log_field) = divide_by_fit(gpu, &volume, &fit, options.padding, want_field).await?;
        return Ok(Corrected { values, log_field, fit, head_found });
    }
    let placed = PlacedVolume::upload(gpu, &volume).await?;
    // Volumes are freed as soon as nobody needs them; those on the device once it is idle.
    drop(volume);
    let N4Result { fit, log_field } = {
        let [mask, confidence] = region.on_device(gpu, &placed.grid(), head.as_ref(), None).await?;
        drop(head);
        let region = RegionTensors { mask: mask.as_ref(), confidence: confidence.as_ref() };
        n4(gpu, &placed.tensor, region, options).await?
    };
    gpu.wait().await?;
    divide_in_place(gpu, &placed.tensor, &log_field)?;
    let values = gpu.download(&placed.tensor).await?;
    drop(placed);
    let log_field = match want_field {
        true => Some(gpu.download(&log_field).await?),
        false => None,
    };
    Ok(Corrected { values, log_field, fit, head_found })
}

/// Divides a volume by a fitted field, a slab at a time; returns the logarithm of the field where it is wanted.
///
/// # Errors
/// A failing device.
pub async fn divide_by_fit(
    gpu: &Gpu,
    volume: &Volume,
    fit: &N4Fit,
    padding: Zyx<[usize; 2]>,
    want_field: bool,
) -> Result<(Vec<f32>, Option<Vec<f32>>), PipelineError> {
    let Xyz([x, y, z]) = volume.shape;
    let (mut values, mut field) = (Vec::new(), want_field.then(Vec::new));
    for planes in slabs(gpu, volume.shape) {
        let mut around = padding;
        let [before, after] = padding.0[0];
        around.0[0] = [before + planes.start, after + z - planes.end];
        let log_field = evaluate(gpu, &fit.lattice, Zyx([planes.len(), y, x]), around).await?;
        let slab = upload(gpu, volume, &planes).await?.tensor;
        divide_in_place(gpu, &slab, &log_field)?;
        values.append(&mut gpu.download(&slab).await?);
        if let Some(field) = &mut field {
            field.append(&mut gpu.download(&log_field).await?);
        }
    }
    Ok((values, field))
}

/// Divides a volume by a field given by its logarithm.
///
/// # Errors
/// A failing device.
pub async fn divide_by_field(
    gpu: &Gpu,
    volume: &Volume,
    log_field: &[f32],
) -> Result<Vec<f32>, PipelineError> {
    let mut values = Vec::new();
    for planes in slabs(gpu, volume.shape) {
        let slab = upload(gpu, volume, &planes).await?.tensor;
        let log_field = gpu.upload(&slab.desc, values_of(log_field, volume.shape, &planes)).await?;
        divide_in_place(gpu, &slab, &log_field)?;
        values.append(&mut gpu.download(&slab).await?);
    }
    Ok(values)
}

/// Estimates the field of a volume that exceeds a binding: of each slab only the planes go to the device that shrinking keeps.
async fn fit_in_slabs(
    gpu: &Arc<Gpu>,
    volume: &Volume,
    region: FitRegion<'_>,
    head: Option<&Head>,
    options: &N4Options,
) -> Result<N4Fit, PipelineError> {
    options.validate()?;
    let Xyz([nx, ny, nz]) = volume.shape;
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
    let v = gpu.upload(&desc, &vec![OUTSIDE; desc.len()]).await?;
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
    let at_once = (gpu.piece_bytes() as usize / (4 * nx * ny)).max(1);
    let mut in_region = 0;
    for group in kept.chunks(at_once) {
        let planes: Vec<usize> = group.iter().filter_map(|&k| plane(k)).collect();
        let slab = TensorDesc::f32(&[planes.len(), ny, nx]);
        let picked = gpu.upload(&slab, &pick(&volume.data, [nx, ny], Some(&planes))).await?;
        let step = DMat4::from_translation(DVec3::Z * planes[0] as f64)
            * DMat4::from_scale(DVec3::new(1.0, 1.0, shrink.factor[0] as f64));
        let grid = Grid { shape: Xyz([nx, ny, planes.len()]), affine: volume.affine * step };
        let [mask, confidence] = region.on_device(gpu, &grid, head, Some(&planes)).await?;
        let inputs: Vec<&GpuTensor> =
            [Some(&picked), mask.as_ref(), confidence.as_ref()].into_iter().flatten().collect();
        if mask.is_some() {
            in_region += voxels_with_nonpositive(gpu, &in_plane, &inputs).await?;
        }
        let shrunken = run_op(gpu, &in_plane, &inputs)?;
        for (from, to) in shrunken.iter().zip([&v, &weight]) {
            gpu.copy(from, to, group[0] * shape[1] * shape[2])?;
        }
        gpu.wait().await?;
    }
    let mut fit = fit_shrunken(gpu, v, weight, region.confidence.is_some(), options).await?;
    fit.left_out = in_region.saturating_sub(fit.voxels);
    Ok(fit)
}

/// Divides `volume`, in place, by the field whose logarithm is `log_field`, both `[D, H, W]`.
///
/// # Errors
/// Shapes that differ, or a failing device.
pub fn divide_in_place(gpu: &Gpu, volume: &GpuTensor, log_field: &GpuTensor) -> Result<(), N4Error> {
    run_op(gpu, &Apply, &[volume, log_field])?;
    Ok(())
}
