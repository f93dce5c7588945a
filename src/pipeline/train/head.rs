//! A head for training: brought to the network's orientation once, kept compactly, sampled with every draw.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use glam::{DMat4, DVec3};
use half::f16;
use half::slice::HalfFloatSliceExt;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::augment::{Augmentation, Draw, ELASTIC_POINTS};
use super::data::{Labelled, Row};
use crate::gpu::{Gpu, GpuTensor};
use crate::graph::{GraphError, run_op1};
use crate::model::{AxisCodes, Description, GridSpec, Intensity};
use crate::ops::augment::IntensityAugment;
use crate::ops::resample::{
    AxisOrder, Edge, IDENTITY, Interpolation, Resample, ResampleDeformed, grid_matrix,
};
use crate::pipeline::PipelineError;
use crate::pipeline::bias::{RegionTensors, divide_in_place, n4};
use crate::pipeline::normalise::{Method, levels_of, normalise_tensor, normalise_to_levels};
use crate::pipeline::opinion::brain_ranges;
use crate::pipeline::place::placed::PlacedVolume;
use crate::pipeline::place::slabs::{bindable, upload_bindable};
use crate::pipeline::place::source::Source;
use crate::pipeline::place::view::View;
use crate::pipeline::strip::model_n4;
use crate::pipeline::window::Window;
use crate::tensor::{TensorDesc, Xyz};
use crate::volume::pairs::Weight;
use crate::volume::{Grid, Volume, middle};

/// A head ready to sample from: image and mask on a grid like the network's, finer and with a margin when
/// samples are moved in space.
pub struct StoredHead {
    /// The image's path.
    pub image: PathBuf,
    network_grid: Grid,
    store_grid: Grid,
    image_values: Values,
    /// Area fraction of brain, 255 for all of a voxel.
    mask_values: Vec<u8>,
    /// How much voxels count, if not all alike: 255 stands for the most, which is the number.
    weight_values: Option<(f32, Vec<u8>)>,
    /// How much the head counts.
    pub factor: f32,
    /// First and last voxel of the network's grid that holds brain, by axis.
    brain_box: [[usize; 2]; 3],
    /// The same on the store grid.
    stored_brain_box: [[usize; 2]; 3],
    /// Where the grids' axes point.
    axes: AxisCodes,
    /// The part of the network's grid that is no padding, where the padding is 0 for the network.
    content: Option<Block>,
    levels: Option<Levels>,
}

/// The statistics that intensities are brought to scale by, where those are of what another network sees.
struct Levels {
    /// As the image is stored.
    stored: [f32; 2],
    /// In the image's own: 0 for its lower one, 1 for its upper one.
    relative: [f32; 2],
}

/// A block of a grid's voxels.
pub(super) type Block = [Range<usize>; 3];

/// A row as its files hold it.
pub struct HeadFiles {
    row: Row,
    image: Volume,
    window: Window,
    mask: Volume,
    weight: Option<Volume>,
}

impl HeadFiles {
    /// Reads a row.
    ///
    /// # Errors
    /// As [`Labelled::read`].
    pub fn read(row: &Row) -> Result<Self, PipelineError> {
        let Labelled { image, mask, weight, .. } = Labelled::read(row)?;
        let window = Window::of(&image).map_err(|p| p.at(&row.pair.image))?;
        Ok(Self { row: row.clone(), image, window, mask, weight })
    }

    /// Where they lie.
    pub fn row(&self) -> &Row {
        &self.row
    }
}

/// Voxels of a stored image.
enum Values {
    /// As the network's grid was sampled from the image.
    Exact(Vec<f32>),
    /// On a finer grid, to be interpolated once more: half precision keeps 11 bits, more than the noise of any scan.
    Half(Vec<f16>),
}

/// Largest number of voxels of a stored head at half the network's voxel size.
const FINE_STORE_VOXELS: usize = 8 << 20;
/// Largest number of voxels of any stored head: 128 MiB in f32, which every device binds.
const MOST_STORE_VOXELS: usize = 32 << 20;
/// How much voxels beyond an image count, whatever its own do.
const BEYOND: f32 = 1.0;
/// Voxels of the store grid round the brain that a cut field of view keeps.
const SKIN: usize = 2;
/// Steps of two grids differ by less where they are alike, in voxels.
const ALIKE: f64 = 1e-4;
/// How far the stored grid reaches beyond the network's at most, as a fraction of it.
const MARGIN: f64 = 0.2;

impl StoredHead {
    /// Reads a row and brings it to its store grid: with a margin to move samples in (`spatial`), or the network's own.
    ///
    /// # Errors
    /// As [`Labelled::read`], or a bias field that cannot be fitted.
    pub async fn read(
        gpu: &Arc<Gpu>,
        row: &Row,
        network: &Description,
        spatial: bool,
    ) -> Result<Self, PipelineError> {
        Self::of(gpu, HeadFiles::read(row)?, network, spatial).await
    }

    /// As [`StoredHead::read`], of files that are read already.
    ///
    /// # Errors
    /// A bias field that cannot be fitted, or a failing device.
    pub async fn of(
        gpu: &Arc<Gpu>,
        files: HeadFiles,
        network: &Description,
        spatial: bool,
    ) -> Result<Self, PipelineError> {
        let HeadFiles { row: Row { pair, weight: Weight { factor, .. } }, image: volume, window, .. } = files;
        let (mask_volume, weight_volume) = (files.mask, files.weight);
        let placed_mask = PlacedVolume::upload(gpu, &bindable(gpu, &mask_volume).0).await?;
        let Seen { image: view, companions: [mask_view], levels } =
            views(gpu, &volume, &window, [&placed_mask], &pair.image, network).await?;
        let sample = async |view: &View, grid: &Grid| -> Result<Vec<f32>, PipelineError> {
            Ok(gpu.download(&view.sampled(gpu, grid).await?).await?)
        };
        let network_grid = view.grid();
        let store_grid = if spatial { store_grid(&network_grid, &view.voxels()) } else { network_grid };
        let values = sample(&view, &store_grid).await?;
        let mut scale = 1.0;
        let image_values = if spatial {
            // Scaled to the range where half precision is exact enough, whatever the scanner's units.
            let largest = values.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
            scale = 4096.0 / largest;
            Values::Half(values.iter().map(|v| f16::from_f32(v / largest * 4096.0)).collect())
        } else {
            Values::Exact(values)
        };
        let levels = match levels {
            None => None,
            Some([low, high]) => {
                let method = network.input.intensity.into();
                let own = levels_of(gpu, &view.sampled(gpu, &network_grid).await?, &method)?;
                let own: Vec<f32> = gpu.download(&own).await?;
                let range = (own[1] - own[0]).max(f32::MIN_POSITIVE);
                let relative = [low, high].map(|level| (level - own[0]) / range);
                Some(Levels { stored: [low * scale, high * scale], relative })
            }
        };
        let mask_values: Vec<u8> =
            sample(&mask_view, &store_grid).await?.iter().map(|v| (v * 255.0).round() as u8).collect();
        let brain_box = brain_box(&mask_values, &store_grid, &network_grid);
        let stored_brain_box = self::brain_box(&mask_values, &store_grid, &store_grid);
        let weight_values = match weight_volume {
            None => None,
            Some(volume) => {
                let placed = PlacedVolume::upload(gpu, &bindable(gpu, &volume).0).await?;
                let placed = placed.prepared_for(gpu, &network.input).await?;
                let mut op = placed.resample_op(&store_grid, AxisOrder::Xyz, Interpolation::Linear);
                op.outside = BEYOND;
                let values: Vec<f32> = gpu.download(&run_op1(gpu, &op, &[&placed.tensor])?).await?;
                let largest = values.iter().fold(f32::MIN_POSITIVE, |most, v| v.max(most));
                let eighth = |v: &f32| (v / largest * 255.0).round() as u8;
                Some((largest, values.iter().map(eighth).collect()))
            }
        };
        let image = pair.image;
        Ok(Self {
            image,
            network_grid,
            store_grid,
            image_values,
            mask_values,
            weight_values,
            factor,
            brain_box,
            stored_brain_box,
            axes: network.input.axes,
            content: content_of(&view),
            levels,
        })
    }

    /// Bytes that it takes in memory.
    pub fn bytes(&self) -> usize {
        let voxel = match self.image_values {
            Values::Exact(_) => 5,
            Values::Half(_) => 3,
        };
        (voxel + usize::from(self.weight_values.is_some())) * self.mask_values.len()
    }

    /// Image and mask on the device; `cuts` as in [`Draw`], where the image is background.
    async fn upload(&self, gpu: &Gpu, cuts: [[f64; 2]; 3]) -> Result<[PlacedVolume; 2], PipelineError> {
        let desc = TensorDesc::f32(&*self.store_grid.shape);
        let mut image = match &self.image_values {
            Values::Exact(values) => values.clone(),
            Values::Half(values) => {
                let mut image = vec![0.0; values.len()];
                values.convert_to_f32_slice(&mut image);
                image
            }
        };
        let seen = self.field_of_view(cuts);
        let Xyz([nx, ny, nz]) = self.store_grid.shape;
        if seen != [0..nx, 0..ny, 0..nz] {
            for (row, line) in image.chunks_exact_mut(nz).enumerate() {
                if seen[0].contains(&(row / ny)) && seen[1].contains(&(row % ny)) {
                    line[..seen[2].start].fill(0.0);
                    line[seen[2].end..].fill(0.0);
                } else {
                    line.fill(0.0);
                }
            }
        }
        let mask: Vec<f32> = self.mask_values.iter().map(|&v| f32::from(v) / 255.0).collect();
        let place = |tensor| PlacedVolume { tensor, affine: self.store_grid.affine, axes: AxisOrder::Xyz };
        Ok([place(gpu.upload(&desc, &image).await?), place(gpu.upload(&desc, &mask).await?)])
    }

    /// Voxels of the store grid that remain along each axis; always the brain and a little round it.
    fn field_of_view(&self, cuts: [[f64; 2]; 3]) -> [Range<usize>; 3] {
        std::array::from_fn(|axis| {
            let [first, last] = self.stored_brain_box[axis];
            let n = self.store_grid.shape[axis];
            let (world, against) = self.axes.world()[axis];
            let [low, high] = [usize::from(against), usize::from(!against)].map(|side| cuts[world][side]);
            let low = (low * first.saturating_sub(SKIN) as f64) as usize;
            let high = (high * (n - 1).saturating_sub(last + SKIN) as f64) as usize;
            low..n - high
        })
    }

    /// Image and target `[D, H, W]` without augmentation; of a head stored on the network's own grid, bit for bit what the
    /// network sees of it in use.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn plain(&self, gpu: &Gpu, spec: &GridSpec) -> Result<[GpuTensor; 2], PipelineError> {
        let [image, mask] = self.upload(gpu, [[0.0; 2]; 3]).await?;
        let [image, mask] = if self.store_grid == self.network_grid {
            [image, mask]
        } else {
            let linear = |v: PlacedVolume| {
                v.interpolated(gpu, &self.network_grid, AxisOrder::Xyz, Interpolation::Linear)
            };
            [linear(image)?, linear(mask)?]
        };
        Ok([self.to_scale(gpu, &image.tensor, spec, false).await?, mask.tensor])
    }

    /// Image and target `[D, H, W]` of one random draw, cut to a random window of extents `crop`.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn augmented(
        &self,
        gpu: &Gpu,
        spec: &GridSpec,
        augmentation: &Augmentation,
        seed: u64,
        sample: u64,
        crop: Option<[usize; 3]>,
    ) -> Result<[GpuTensor; 2], PipelineError> {
        let whole = if augmentation.is_spatial() || augmentation.is_tonal() {
            self.moved_and_toned(gpu, spec, augmentation, seed, sample).await?
        } else {
            self.plain(gpu, spec).await?
        };
        let Some(crop) = crop else { return Ok(whole) };
        cut_out(gpu, whole, crop, self.crop_offset(crop, seed, sample))
    }

    /// The weights `[D, H, W]` of the voxels of [`StoredHead::augmented`], if they do not all count alike.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn weights(
        &self,
        gpu: &Gpu,
        augmentation: &Augmentation,
        seed: u64,
        sample: u64,
        crop: Option<[usize; 3]>,
    ) -> Result<Option<GpuTensor>, PipelineError> {
        let Some((most, values)) = &self.weight_values else { return Ok(None) };
        let values: Vec<f32> = values.iter().map(|&v| f32::from(v) / 255.0 * most).collect();
        let tensor = gpu.upload(&TensorDesc::f32(&*self.store_grid.shape), &values).await?;
        let stored = PlacedVolume { tensor, affine: self.store_grid.affine, axes: AxisOrder::Xyz };
        let whole = if augmentation.is_spatial() || augmentation.is_tonal() {
            let draw = self.draw(augmentation, seed, sample);
            self.moved(gpu, &stored, &draw, Interpolation::Linear, BEYOND).await?
        } else {
            stored.interpolated(gpu, &self.network_grid, AxisOrder::Xyz, Interpolation::Linear)?.tensor
        };
        let Some(crop) = crop else { return Ok(Some(whole)) };
        let [cut] = cut_out(gpu, [whole], crop, self.crop_offset(crop, seed, sample))?;
        Ok(Some(cut))
    }

    /// The draw of a sample.
    fn draw(&self, augmentation: &Augmentation, seed: u64, sample: u64) -> Draw {
        let grid = &self.network_grid;
        Draw::new(augmentation, seed, sample, grid.affine.transform_point3(middle(grid.shape)))
    }

    /// A volume on the store grid as a draw moves it, on the network's grid.
    async fn moved(
        &self,
        gpu: &Gpu,
        volume: &PlacedVolume,
        draw: &Draw,
        interpolation: Interpolation,
        outside: f32,
    ) -> Result<GpuTensor, PipelineError> {
        let grid = &self.network_grid;
        let moved = Grid { shape: grid.shape, affine: draw.transform * grid.affine };
        let op = Resample { outside, ..volume.resample_op(&moved, AxisOrder::Xyz, interpolation) };
        let Some(mm) = &draw.elastic_mm else { return Ok(run_op1(gpu, &op, &[&volume.tensor])?) };
        let edges = volume.grid().voxel_size();
        let g = ELASTIC_POINTS;
        let voxels: Vec<f32> =
            mm.iter().enumerate().map(|(ix, mm)| mm / edges[ix / g.pow(3)] as f32).collect();
        let lattice = gpu.upload(&TensorDesc::f32(&[3, g, g, g]), &voxels).await?;
        Ok(run_op1(gpu, &ResampleDeformed(op), &[&volume.tensor, &lattice])?)
    }

    /// First voxel of the window of sample number `sample`: three in four windows have their centre in the box
    /// round the brain, so that few steps are spent on air.
    fn crop_offset(&self, crop: [usize; 3], seed: u64, sample: u64) -> [usize; 3] {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0xC40F);
        rng.set_stream(sample + 1);
        let on_brain = rng.random::<f64>() < 0.75;
        std::array::from_fn(|axis| {
            let room = self.network_grid.shape[axis] - crop[axis];
            if on_brain {
                let [first, last] = self.brain_box[axis];
                rng.random_range(first..=last).saturating_sub(crop[axis] / 2).min(room)
            } else {
                rng.random_range(0..=room)
            }
        })
    }

    async fn moved_and_toned(
        &self,
        gpu: &Gpu,
        spec: &GridSpec,
        augmentation: &Augmentation,
        seed: u64,
        sample: u64,
    ) -> Result<[GpuTensor; 2], PipelineError> {
        let grid = &self.network_grid;
        let draw = self.draw(augmentation, seed, sample);
        let [mut image, mask] = self.upload(gpu, draw.cuts).await?;
        if let Some(faults) = &draw.faults {
            image = faults.resolution.apply(gpu, &image).await?;
        }
        let interpolation = spec.sampling.into();
        let mut x = self.moved(gpu, &image, &draw, interpolation, 0.0).await?;
        let y = self.moved(gpu, &mask, &draw, interpolation, 0.0).await?;
        if augmentation.is_tonal() {
            // Tone curves are defined on tissue between 0 and 1, whatever scale the network wants.
            let tissue = Intensity::Percentile { low: 0.5, high: 99.5 };
            x = normalise_tensor(gpu, &x, &tissue.into())?;
            let curve = gpu.upload(&TensorDesc::f32(&[draw.curve.len()]), &draw.curve).await?;
            let bias = gpu.upload(&TensorDesc::f32(&[4, 4, 4]), &draw.bias).await?;
            let seed = gpu.upload(&TensorDesc::u32(&[2]), &draw.seed).await?;
            let op = IntensityAugment { noise: draw.noise };
            x = run_op1(gpu, &op, &[&x, &curve, &bias, &seed])?;
            if let Some(faults) = &draw.faults {
                let toned = PlacedVolume { tensor: x, affine: grid.affine, axes: AxisOrder::Xyz };
                x = faults.spoil(gpu, &toned).await?;
            }
        }
        Ok([self.to_scale(gpu, &x, spec, augmentation.is_tonal()).await?, y])
    }

    /// A sample on the network's scale. Where that is the scale of what another network sees, and tones have changed, its
    /// statistics are taken to lie among the sample's own as they did before.
    async fn to_scale(
        &self,
        gpu: &Gpu,
        x: &GpuTensor,
        spec: &GridSpec,
        toned: bool,
    ) -> Result<GpuTensor, PipelineError> {
        let levels = match &self.levels {
            None => None,
            Some(Levels { stored, .. }) if !toned => Some(*stored),
            Some(Levels { relative, .. }) => {
                let own: Vec<f32> = gpu.download(&levels_of(gpu, x, &spec.intensity.into())?).await?;
                Some(relative.map(|part| own[0] + part * (own[1] - own[0])))
            }
        };
        to_scale(gpu, x, spec, self.content.as_ref(), levels).await
    }
}

/// A view of an image brought to a network's scale, by these statistics or its own, with 0 for its padding.
pub(super) async fn to_scale(
    gpu: &Gpu,
    x: &GpuTensor,
    spec: &GridSpec,
    content: Option<&Block>,
    levels: Option<[f32; 2]>,
) -> Result<GpuTensor, PipelineError> {
    let levels = match levels {
        None => None,
        Some(levels) => Some(gpu.upload(&TensorDesc::f32(&[2]), &levels).await?),
    };
    let scaled = |x: &GpuTensor| normalise_to_levels(gpu, x, &spec.intensity.into(), levels.as_ref());
    let Some(content) = content else { return Ok(scaled(x)?) };
    let whole = x.desc.shape[..].try_into().expect("a view has three axes");
    let extents = content.clone().map(|range| range.len());
    let first = content.clone().map(|range| range.start as f64);
    let inner = scaled(&window(gpu, x, extents, first)?)?;
    Ok(window(gpu, &inner, whole, first.map(|at| -at))?)
}

/// The voxels of a view's grid that are no padding, where it is padded after intensities are brought to scale.
pub(super) fn content_of(view: &View<'_>) -> Option<Block> {
    let (whole, content) = (view.grid(), view.unpadded()?);
    let first = (whole.affine.inverse() * content.affine).w_axis.round();
    Some(std::array::from_fn(|axis| {
        let first = first[axis];
        let end = (first + content.shape[axis] as f64).min(whole.shape[axis] as f64);
        first.max(0.0) as usize..end as usize
    }))
}

/// What a network sees of an image and of its companions.
pub(super) struct Seen<const N: usize> {
    pub image: View<'static>,
    pub companions: [View<'static>; N],
    /// The statistics that intensities are brought to scale by, where those are of what another network sees.
    pub levels: Option<[f32; 2]>,
}

/// What a network sees of an image through its window, and the same of its companions, of which the first is its brain: with
/// faces that cut it mirrored in all. Where another network looks first, it is taken to find that brain: a network must learn
/// whether or not the other one errs.
///
/// # Errors
/// A bias field that cannot be fitted, or a failing device.
pub(super) async fn views<const N: usize>(
    gpu: &Arc<Gpu>,
    image: &Volume,
    window: &Window,
    companions: [&PlacedVolume; N],
    file: &Path,
    network: &Description,
) -> Result<Seen<N>, PipelineError> {
    let spec = &network.input;
    let (placed, halvings) = upload_bindable(gpu, image, window).await?;
    if halvings > 0 {
        log::warn!(
            "{}: exceeds what the device binds at once; it is averaged over blocks of {block}x{block}x{block} voxels",
            file.display(),
            block = 1 << halvings
        );
    }
    if let Some(options) = model_n4(spec)? {
        let field = n4(gpu, &placed.tensor, RegionTensors::default(), &options).await?.log_field;
        divide_in_place(gpu, &placed.tensor, &field)?;
    }
    let source = Source::Device(placed);
    let (mut found, mut levels) = (None, None);
    if let Some(first) = &network.first {
        let view = View::new(gpu, &source, &first.input).await?;
        let brain = view.of_companion(gpu, companions[0]).await?.sampled(gpu, &view.grid()).await?;
        let brain: Vec<f32> = gpu.download(&brain).await?;
        let marked = brain.iter().map(|&part| u8::from(part > 0.5)).collect();
        found = brain_ranges(&view.grid(), marked, &source.grid(), spec).map_err(|_| PipelineError::Input {
            file: file.to_path_buf(),
            reason: "shows too little brain to the network that looks first; check its mask, or take the row out"
                .into(),
        })?;
        if matches!(spec.intensity, Intensity::Standard { of_first: true, .. }) {
            let grid = view.unpadded().unwrap_or_else(|| view.grid());
            let method: Method = first.input.intensity.into();
            let of_first: Vec<f32> =
                gpu.download(&levels_of(gpu, &view.sampled(gpu, &grid).await?, &method)?).await?;
            levels = Some(of_first[..].try_into().expect("two percentiles"));
        }
    }
    let view = View::over(gpu, &source, spec, found).await?;
    let mut seen = Vec::with_capacity(N);
    for companion in companions {
        seen.push(view.of_companion(gpu, companion).await?);
    }
    let brain: Vec<f32> = gpu.download(&seen[0].sampled(gpu, &view.grid()).await?).await?;
    // Image and companions go on alike beyond a face that cuts the brain.
    let cut = view.reached(|ix| brain[ix] > 0.5);
    let seen: Vec<View> = seen.into_iter().map(|companion| companion.beyond(cut)).collect();
    let companions = seen.try_into().expect("as many as there are companions");
    Ok(Seen { image: view.beyond(cut), companions, levels })
}

/// A window of extents `crop` of image and targets, from voxel `offset` on.
pub(super) fn cut_out<const N: usize>(
    gpu: &Gpu,
    whole: [GpuTensor; N],
    crop: [usize; 3],
    offset: [usize; 3],
) -> Result<[GpuTensor; N], PipelineError> {
    let mut cut = whole;
    for tensor in &mut cut {
        *tensor = window(gpu, tensor, crop, offset.map(|at| at as f64))?;
    }
    Ok(cut)
}

/// So many voxels of a volume from voxel `first` on; 0 beyond it.
fn window(gpu: &Gpu, x: &GpuTensor, shape: [usize; 3], first: [f64; 3]) -> Result<GpuTensor, GraphError> {
    let op = Resample {
        matrix: std::array::from_fn(|row| {
            let mut line = IDENTITY[row];
            line[3] = first[row];
            line
        }),
        shape,
        interpolation: Interpolation::Nearest,
        edge: Edge::Zero,
        outside: 0.0,
    };
    run_op1(gpu, &op, &[x])
}

/// First and last voxel of `network` along each axis that a mask on `store` reaches; all of it for an empty mask.
fn brain_box(mask: &[u8], store: &Grid, network: &Grid) -> [[usize; 2]; 3] {
    let to_network = grid_matrix(network.affine, store.affine);
    let Xyz([_, ny, nz]) = store.shape;
    let (mut low, mut high) = (DVec3::INFINITY, DVec3::NEG_INFINITY);
    for ix in (0..mask.len()).filter(|&ix| mask[ix] > 127) {
        // Store grids keep x outermost.
        let at = DVec3::new((ix / (ny * nz)) as f64, (ix / nz % ny) as f64, (ix % nz) as f64);
        let at = to_network.transform_point3(at);
        low = low.min(at);
        high = high.max(at);
    }
    std::array::from_fn(|axis| {
        let last = network.shape[axis] - 1;
        if low[axis] > high[axis] {
            return [0, last];
        }
        // The mask may lie beyond the network's grid, in the margin of the store grid.
        [low[axis].floor(), high[axis].ceil()].map(|v| (v.max(0.0) as usize).min(last))
    })
}

/// The network's grid with a margin, at half its voxel size where that stays small, and on the head's `voxels` where those
/// are alike, so that they are kept as they are and not interpolated twice.
fn store_grid(network: &Grid, voxels: &Grid) -> Grid {
    let room = MOST_STORE_VOXELS as f64 / network.shape.iter().product::<usize>() as f64;
    let wider = room.cbrt().clamp(1.0, 1.0 + 2.0 * MARGIN);
    let widened = |n: usize| n as f64 * wider;
    let most = if wider < 1.0 + 2.0 * MARGIN { f64::floor } else { f64::ceil };
    let wide = network.shape.map(|n| most(widened(n)) as usize);
    let finer = if wide.iter().product::<usize>() * 8 <= FINE_STORE_VOXELS { 2 } else { 1 };
    let shape = wide.map(|n| finer * n);
    let affine = network.affine
        * DMat4::from_translation(middle(network.shape))
        * DMat4::from_scale(DVec3::splat(1.0 / finer as f64))
        * DMat4::from_translation(-middle(shape));
    onto_voxels(Grid { shape, affine }, voxels)
}

/// `grid`, moved by half a voxel at most onto the centres of `voxels`, where these are as large and run along the same axes
/// in any order and direction.
fn onto_voxels(grid: Grid, voxels: &Grid) -> Grid {
    let to_voxels = voxels.affine.inverse() * grid.affine;
    let steps = [to_voxels.x_axis, to_voxels.y_axis, to_voxels.z_axis].map(|step| step.truncate());
    if steps.iter().any(|step| step.distance(step.round()) > ALIKE || (step.length() - 1.0).abs() > ALIKE) {
        return grid;
    }
    let origin = to_voxels.w_axis.truncate();
    let shift = voxels.affine.transform_vector3(origin.round() - origin);
    Grid { affine: DMat4::from_translation(shift) * grid.affine, ..grid }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_grid_lies_on_the_voxels_of_a_head_that_are_like_its_own() {
        let network = Grid::centred(Xyz([96, 112, 112]), DVec3::splat(2.0), DVec3::new(3.3, -0.7, 11.9));
        // Stored z, x, y, with y backwards.
        let axes = |mm: f64, tilt: f64| Grid {
            shape: Xyz([90, 120, 120]),
            affine: DMat4::from_cols_array_2d(&[
                [tilt, 0.0, mm, 0.0],
                [mm, 0.0, -tilt, 0.0],
                [0.0, -mm, 0.0, 0.0],
                [-118.4, 97.1, -60.2, 1.0],
            ]),
        };
        let free = store_grid(&network, &axes(1.2, 0.0));
        let gap = |grid: &Grid, voxels: &Grid| {
            let corner = DVec3::from_array(grid.shape.map(|n| n as f64 - 1.0).0);
            let at = (voxels.affine.inverse() * grid.affine).transform_point3(corner);
            at.distance(at.round())
        };
        let snapped = store_grid(&network, &axes(2.0, 0.0));
        assert!(gap(&snapped, &axes(2.0, 0.0)) < 1e-9 && gap(&free, &axes(2.0, 0.0)) > 0.1);
        let moved = (snapped.affine.w_axis - free.affine.w_axis).truncate().abs();
        assert!(snapped.shape == free.shape && moved.max_element() <= 1.0, "{moved}");
        for other in [axes(2.0, 0.1), axes(1.0, 0.0), axes(2.01, 0.0)] {
            assert_eq!(store_grid(&network, &other), free);
        }
    }
}
