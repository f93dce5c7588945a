//! The fit: levels of a B-spline, each twice as fine as the one before.

use std::collections::HashMap;
use std::sync::Arc;

use super::error::{MIN_VOXELS, N4Error};
use super::options::N4Options;
use super::region::RegionTensors;
use crate::gpu::{Gpu, GpuTensor};
use crate::graph::{Executor, ExecutorOptions, Graph, run_op, run_op1};
use crate::ops::n4::{
    BasisPower, CONVERGENCE, Contract, DONE, EXTENT, Evaluate, FieldUpdate, ITERATIONS, LatticeUpdate,
    LogShrink, MaskedRange, ParzenHistogram, ResidualContract, Sharpen, VOXELS,
};
use crate::tensor::{DType, HostTensor, TensorDesc, Zyx};

/// Voxels that the iterations of one submission pass. While a level may converge, the status is looked at after
/// each: a look costs a round trip, an iteration after convergence changes nothing.
const SUBMITTED_VOXELS: usize = 1 << 22;
/// Most iterations of one submission.
const MOST_SUBMITTED: usize = 5;

/// How a level ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct N4Level {
    /// Iterations that changed the field.
    pub iterations: usize,
    /// Convergence measure of the last one.
    pub convergence: f32,
}

/// What N4 estimated: a B-spline.
#[derive(Clone, Debug)]
pub struct N4Fit {
    /// Control points `[cz, cy, cx]` of the log field.
    pub lattice: HostTensor,
    /// How each level ended.
    pub levels: Vec<N4Level>,
    /// Voxels of the shrunken grid that the field was fitted to.
    pub voxels: usize,
    /// Voxels of the shrunken grid inside the mask that were left out, as they are not positive; 0 without a mask,
    /// where that is how the background is left out.
    pub left_out: usize,
}

/// What N4 estimated, and the field itself.
#[derive(Debug)]
pub struct N4Result {
    /// The estimate.
    pub fit: N4Fit,
    /// Logarithm of the field, `[D, H, W]` f32 on the volume's grid.
    pub log_field: GpuTensor,
}

/// Estimates the bias field of `volume` f32 `[D, H, W]` in `region`; without a mask every valid voxel counts.
/// Voxels that are not finite, and unless [`N4Options::keep_nonpositive`] is set those that are not positive,
/// are left out.
///
/// Takes up to two volumes of the shrunken grid while it runs, and the log field after them.
///
/// # Errors
/// Options out of range, shapes that do not fit, a region that is (nearly) empty or constant, a failing
/// device.
pub async fn n4(
    gpu: &Arc<Gpu>,
    volume: &GpuTensor,
    region: RegionTensors<'_>,
    options: &N4Options,
) -> Result<N4Result, N4Error> {
    options.validate()?;
    if volume.desc.shape.len() != 3 {
        let remedy = ", a volume has three axes".to_owned();
        return Err(N4Error::Shape { what: "the volume", shape: volume.desc.shape.clone(), remedy });
    }
    for (what, tensor, dtype) in
        [("the mask", region.mask, DType::U32), ("the confidence", region.confidence, DType::F32)]
    {
        if let Some(tensor) = tensor.filter(|t| t.desc.shape != volume.desc.shape || t.desc.dtype != dtype) {
            let remedy = format!(
                " of {:?}, the volume {:?}; a {dtype:?} tensor is needed",
                tensor.desc.dtype, volume.desc.shape
            );
            return Err(N4Error::Shape { what, shape: tensor.desc.shape.clone(), remedy });
        }
    }
    let inputs: Vec<&GpuTensor> =
        [Some(volume), region.mask, region.confidence].into_iter().flatten().collect();
    let [v, weight]: [GpuTensor; 2] =
        run_op(gpu, &options.log_shrink(), &inputs)?.try_into().expect("n4_log_shrink has two outputs");
    let in_region = match region.mask {
        Some(_) => voxels_with_nonpositive(gpu, &options.log_shrink(), &inputs).await?,
        None => 0,
    };
    let mut fit = fit_shrunken(gpu, v, weight, region.confidence.is_some(), options).await?;
    fit.left_out = in_region.saturating_sub(fit.voxels);
    // The working volumes are free once the device is idle; the field may take their place.
    gpu.wait().await?;
    let native = Zyx([0, 1, 2].map(|axis| volume.desc.shape[axis]));
    let log_field = evaluate(gpu, &fit.lattice, native, options.padding).await?;
    Ok(N4Result { fit, log_field })
}

/// How many voxels `shrink` would keep of these inputs (see [`LogShrink`]) if those that are not positive counted.
pub(super) async fn voxels_with_nonpositive(
    gpu: &Gpu,
    shrink: &LogShrink,
    inputs: &[&GpuTensor],
) -> Result<usize, N4Error> {
    let all = LogShrink { keep_nonpositive: true, ..*shrink };
    let v = run_op(gpu, &all, inputs)?.swap_remove(0);
    let status: Vec<f32> = gpu.download(&run_op1(gpu, &MaskedRange, &[&v])?).await?;
    Ok(status[VOXELS] as usize)
}

/// The B-spline with these control points `[cz, cy, cx]` on a grid `[D, H, W]` that, with `padding` voxels
/// before and after it along each axis, spans its whole domain.
///
/// ITK stretches the lattice over the full grid although it was fitted on the shrunken one, whose outermost
/// voxels lie further in: the field is off by up to 0.012, and this follows it.
///
/// # Errors
/// Fewer than four control points along an axis, or a failing device.
pub async fn evaluate(
    gpu: &Gpu,
    lattice: &HostTensor,
    shape: Zyx<usize>,
    padding: Zyx<[usize; 2]>,
) -> Result<GpuTensor, N4Error> {
    let (Zyx(shape), Zyx(padding)) = (shape, padding);
    let mut values = upload(gpu, lattice).await?;
    // x first: the largest step comes last, with neighbouring addresses for neighbouring invocations.
    for axis in [2, 1, 0] {
        let spans = lattice.desc.shape[axis].saturating_sub(3).max(1);
        let margin @ [before, after] = padding[axis];
        let all = BasisPower::Evaluate.weights(before + shape[axis] + after, spans);
        let rows = all.data[4 * before..4 * (before + shape[axis])].to_vec();
        let basis = upload(gpu, &HostTensor::new(TensorDesc::f32(&[shape[axis], 4]), rows)).await?;
        values = run_op1(gpu, &Evaluate { axis, margin }, &[&values, &basis])?;
    }
    Ok(values)
}

/// Runs all levels on what [`LogShrink`] gave; `weighted` says whether the voxels that count do so differently.
pub(super) async fn fit_shrunken(
    gpu: &Arc<Gpu>,
    v: GpuTensor,
    weight: GpuTensor,
    weighted: bool,
    options: &N4Options,
) -> Result<N4Fit, N4Error> {
    let status = run_op1(gpu, &MaskedRange, &[&v])?;
    let start: Vec<f32> = gpu.download(&status).await?;
    let voxels = start[VOXELS] as usize;
    if voxels < MIN_VOXELS {
        return Err(N4Error::TooFewVoxels { voxels, shrink: options.shrink });
    }
    if start[EXTENT] <= 0.0 {
        return Err(N4Error::Constant);
    }

    let volumes = Volumes { v, weight, weighted, status };
    let mut lattice = HostTensor::zeros(TensorDesc::f32(&options.control_points.0));
    let mut levels = Vec::with_capacity(options.iterations.len());
    for (ix, &most) in options.iterations.iter().enumerate() {
        if ix > 0 {
            lattice = refine(&lattice);
        }
        let (refined, level) = run_level(gpu, &volumes, &lattice, most, options).await?;
        lattice = refined;
        levels.push(level);
        log::debug!("N4 level {ix}: {level:?}");
    }
    Ok(N4Fit { lattice, levels, voxels, left_out: 0 })
}

/// The shrunken volumes `[d, h, w]` and the status that every level works on.
struct Volumes {
    /// Logarithm of the image less the field.
    v: GpuTensor,
    /// How much each voxel counts.
    weight: GpuTensor,
    /// Whether those that count do so differently.
    weighted: bool,
    /// See [`crate::ops::n4`].
    status: GpuTensor,
}

/// Fits one level, starting from `lattice`: at most `most` iterations.
async fn run_level(
    gpu: &Arc<Gpu>,
    volumes: &Volumes,
    lattice: &HostTensor,
    most: usize,
    options: &N4Options,
) -> Result<(HostTensor, N4Level), N4Error> {
    let shape = &volumes.v.desc.shape;
    let spans: Vec<usize> = lattice.desc.shape.iter().map(|points| points - 3).collect();
    let basis = |power: BasisPower, axis: usize| power.weights(shape[axis], spans[axis]);

    let mut omega = volumes.weight.clone();
    for (axis, &spans) in spans.iter().enumerate() {
        let weights = upload(gpu, &basis(BasisPower::Omega, axis)).await?;
        omega = run_op1(gpu, &Contract { axis, spans }, &[&omega, &weights])?;
    }
    // The range is what the level before left.
    let mut fresh: Vec<f32> = gpu.download(&volumes.status).await?;
    fresh[CONVERGENCE..=ITERATIONS].copy_from_slice(&[f32::MAX, 0.0, 0.0]);
    gpu.write(&volumes.status, &fresh).await?;

    let mut graph = Graph::new();
    let mut shared = HashMap::new();
    let mut state = |graph: &mut Graph, name: &str, tensor: &GpuTensor| {
        let value = graph.state(name, tensor.desc.clone());
        shared.insert(value, tensor.clone());
        value
    };
    let v = state(&mut graph, "v", &volumes.v);
    let weight = volumes.weighted.then(|| state(&mut graph, "weight", &volumes.weight));
    let status = state(&mut graph, "status", &volumes.status);
    let points = state(&mut graph, "lattice", &upload(gpu, lattice).await?);
    let omega = state(&mut graph, "omega", &omega);
    let delta_basis: Vec<_> =
        (0..3).map(|axis| graph.constant("delta basis", &basis(BasisPower::Delta, axis))).collect();
    let field_basis: Vec<_> =
        (0..3).map(|axis| graph.constant("field basis", &basis(BasisPower::Evaluate, axis))).collect();

    let bins = options.bins;
    let histogram = graph.apply1(ParzenHistogram { bins }, &[v, status])?;
    let sharpen = Sharpen { bins, fwhm: options.fwhm, noise: options.noise };
    let shift = graph.apply1(sharpen, &[histogram, status])?;
    // z first and last: neighbouring invocations then read neighbouring voxels.
    let residual = ResidualContract { spans: spans[0] };
    let inputs: Vec<_> = [v, status, shift, delta_basis[0]].into_iter().chain(weight).collect();
    let mut delta = graph.apply1(residual, &inputs)?;
    for axis in [1, 2] {
        delta = graph.apply1(Contract { axis, spans: spans[axis] }, &[delta, delta_basis[axis]])?;
    }
    let [updated, mut change] = graph.apply(LatticeUpdate, &[points, delta, omega, status])?[..] else {
        unreachable!("n4_lattice_update has two outputs")
    };
    for axis in [2, 1] {
        change = graph.apply1(Evaluate { axis, margin: [0; 2] }, &[change, field_basis[axis]])?;
    }
    let update = FieldUpdate { tolerance: options.tolerance };
    graph.apply(update, &[v, change, field_basis[0], status])?;
    graph.mark_output(updated);

    let executor = Executor::new(gpu, graph, ExecutorOptions { shared, ..ExecutorOptions::default() })?;
    let at_once = (SUBMITTED_VOXELS / volumes.v.desc.len()).clamp(1, MOST_SUBMITTED);
    let mut submitted = 0;
    while submitted < most {
        let next = at_once.min(most - submitted);
        executor.run_times(next)?;
        submitted += next;
        if options.tolerance > 0.0 && submitted < most {
            let now: Vec<f32> = executor.read(status).await?;
            if now[DONE] > 0.5 {
                break;
            }
        }
    }
    let end: Vec<f32> = executor.read(status).await?;
    let words: Vec<u32> = executor.read(updated).await?;
    let level = N4Level { iterations: end[ITERATIONS] as usize, convergence: end[CONVERGENCE] };
    Ok((HostTensor::from_words(lattice.desc.clone(), &words), level))
}

/// The same B-spline with twice the spans along each axis: knot insertion for uniform cubics, exact.
fn refine(lattice: &HostTensor) -> HostTensor {
    let mut coarse = lattice.clone();
    for axis in 0..3 {
        let mut shape = coarse.desc.shape.clone();
        let outer: usize = shape[..axis].iter().product();
        let inner: usize = shape[axis + 1..].iter().product();
        let (n, m) = (shape[axis], 2 * shape[axis] - 3);
        shape[axis] = m;
        let mut fine = HostTensor::zeros(TensorDesc::f32(&shape));
        for o in 0..outer {
            for e in 0..inner {
                let p = |h: usize| coarse.data[(o * n + h) * inner + e];
                for i in 0..m {
                    let h = i / 2;
                    fine.data[(o * m + i) * inner + e] = if i % 2 == 0 {
                        (p(h) + p(h + 1)) / 2.0
                    } else {
                        (p(h) + 6.0 * p(h + 1) + p(h + 2)) / 8.0
                    };
                }
            }
        }
        coarse = fine;
    }
    coarse
}

async fn upload(gpu: &Gpu, tensor: &HostTensor) -> Result<GpuTensor, N4Error> {
    Ok(gpu.upload(&tensor.desc, &tensor.to_words()).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Value of the spline through `points` at voxel `i` of `n`.
    fn value(points: &[f64], i: usize, n: usize) -> f64 {
        let spans = points.len() - 3;
        let weights = BasisPower::Evaluate.weights(n, spans);
        let first = crate::ops::n4::span_of(i, spans, n);
        (0..4).map(|k| weights.data[i * 4 + k] * points[first + k]).sum()
    }

    #[test]
    fn refining_keeps_the_spline() {
        let axis = [0.3, -1.2, 2.0, 0.7, -0.4];
        let data = (0..125).map(|i| axis[i / 25] * axis[i / 5 % 5] * axis[i % 5]).collect();
        let fine = refine(&HostTensor::new(TensorDesc::f32(&[5; 3]), data));
        assert_eq!(fine.desc.shape, [7; 3]);
        // The middle plane of a tensor product is the axis times constants.
        let n = 23;
        for i in 0..n - 1 {
            let coarse = value(&axis, i, n);
            let lines: Vec<f64> = (0..7).map(|h| fine.data[(h * 7 + 2) * 7 + 4]).collect();
            let factor = (axis[1] + axis[2]) / 2.0 * (axis[2] + axis[3]) / 2.0;
            assert!((value(&lines, i, n) - coarse * factor).abs() < 1e-12, "voxel {i}");
        }
    }

    #[test]
    fn weights_sum_to_one() {
        for (n, spans) in [(1, 1), (2, 1), (9, 4), (5, 8), (86, 8)] {
            let weights = BasisPower::Evaluate.weights(n, spans);
            for row in weights.data.chunks(4) {
                assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            }
        }
    }
}
