//! What a network sees of a volume: its grid placed on the head, and what lies beyond the field of view.
//!
//! Beyond a face there is background, as there is air round a head. Only where the field of view ends within the brain would
//! that be wrong: networks take the sudden dark for the brain's border and stay a centimetre away from it. There the volume
//! goes on for some millimetres, mirrored at the face.

use glam::{DMat4, DVec3};

use super::head::{Head, WorldBox};
use super::placed::PlacedVolume;
use super::source::Source;
use super::voxels::{self, BoxGrid, Ranges};
use crate::gpu::{Gpu, GpuTensor};
use crate::graph::GraphError;
use crate::model::{Centre, GridSpec, Sampling, VoxelBox};
use crate::ops::resample::{AxisOrder, Edge};
use crate::tensor::Xyz;
use crate::volume::{Grid, middle};

/// How far a volume goes on beyond a face that cuts the brain. In five heads of four contrasts, cut at every face, 10 mm are
/// too few beyond the vertex and 40 mm a second head.
const MIRRORED_MM: f64 = 20.0;
/// A face may cut the brain where the network's brain comes as close to it: it shrinks back from a cut by 10 to 30 mm,
const CLOSE_MM: f64 = 30.0;
/// but hardly from a lower face, since all heads end there, in the neck.
const CLOSE_ABOVE_LOWER_FACE_MM: f64 = 10.0;
/// The face itself shows tissue there: this part of the brain's mean intensity, more than skull and air.
const TISSUE: f32 = 0.3;
/// How far from the face that is looked at: more than half a voxel of the networks.
const SKIN_MM: f64 = 3.0;
/// A brain reaches a face where it comes as close: a voxel of the networks.
const REACHED_MM: f64 = 4.0;
/// Smallest section of a brain that reaches a face.
const AREA_MM2: f64 = 500.0;
/// Smallest mean section before a face that may cut the brain, since asking again costs another pass: in 39 heads at most
/// 15 cm2 before faces that do not, and 30 cm2 and more before those that do.
const SUSPECT_AREA_MM2: f64 = 2000.0;
/// The same of an upper face: slices that end at the vertex show a cap of scalp and skull, with up to 60 cm2 of brain behind it
/// in six clinical heads, and 80 cm2 and more where the field of view ends 20 mm below the brain's top.
const SUSPECT_AREA_BELOW_UPPER_FACE_MM2: f64 = 7000.0;

/// A network's view of a volume.
#[derive(Clone, Debug)]
pub struct View<'v> {
    spec: GridSpec,
    /// The volume averaged to the network's voxels.
    volume: Source<'v>,
    /// What the grid is placed on, if on the head.
    head: Option<WorldBox>,
    /// The grid, where it is laid over voxels.
    over: Option<BoxGrid>,
    cut: CutFaces,
    /// How far the grid is moved from its place along its axes, in its voxels.
    shift: DVec3,
}

/// Faces of a volume, low and high along x, y, z, where the field of view ends within the brain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CutFaces([[bool; 2]; 3]);

impl<'v> View<'v> {
    /// That of a network with this input on a volume whose background is 0, before anything is known of the brain.
    ///
    /// # Errors
    /// A network that another one has to look for the brain for, or a failing device.
    pub async fn new(gpu: &Gpu, volume: &Source<'v>, spec: &GridSpec) -> Result<Self, GraphError> {
        Self::over(gpu, volume, spec, None).await
    }

    /// As [`View::new`]; where the network's grid lies round the brain, over these voxels of the volume, turned to the
    /// network's axes ([`voxels::turned`]).
    ///
    /// # Errors
    /// As [`View::new`].
    pub async fn over(
        gpu: &Gpu,
        volume: &Source<'v>,
        spec: &GridSpec,
        brain: Option<Ranges>,
    ) -> Result<Self, GraphError> {
        let volume = volume.prepared_for(gpu, spec).await?;
        let (mut head, mut over) = (None, None);
        match spec.centre {
            Centre::WorldOrigin | Centre::Middle => {}
            // A volume without contrast counts as head throughout.
            Centre::Head { .. } => {
                let found = Head::find(gpu, &volume).await?;
                head = Some(found.map_or_else(|| WorldBox::of(&volume.grid()), |head| head.bounds()));
            }
            Centre::Voxels { of, fit } => {
                let native = volume.grid();
                let turned = voxels::turned(&native, spec.axes);
                let ranges = match of {
                    VoxelBox::All => voxels::all(&turned),
                    VoxelBox::Content => {
                        let values = volume.values(gpu).await?;
                        voxels::content(&turned, &native, |ix| values[ix] > 0.0)
                    }
                    VoxelBox::Brain { .. } => brain.ok_or_else(|| {
                        GraphError::Invalid(
                            "the network's grid lies round a brain that was not looked for".into(),
                        )
                    })?,
                };
                over = Some(voxels::fitted(&turned, ranges, spec, fit));
            }
        }
        Ok(Self { spec: spec.clone(), volume, head, over, cut: CutFaces::default(), shift: DVec3::ZERO })
    }

    /// The same of another volume on the same grid, of a mask say.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn of_companion(&self, gpu: &Gpu, volume: &PlacedVolume) -> Result<Self, GraphError> {
        Ok(Self { volume: Source::Device(volume.prepared_for(gpu, &self.spec).await?), ..self.clone() })
    }

    /// The network's grid.
    pub fn grid(&self) -> Grid {
        if let Some(over) = &self.over {
            return self.moved(&over.whole);
        }
        let voxel = DVec3::from_array(self.spec.voxel_mm);
        let centre = match (self.spec.centre, self.head) {
            (Centre::Head { above_mm }, Some(head)) => {
                let head = self.cut.grown(head, &self.volume.grid());
                let middle = (head.low + head.high) / 2.0;
                let height = self.spec.shape[2] as f64 * voxel.z;
                DVec3::new(middle.x, middle.y, head.high.z + above_mm - height / 2.0)
            }
            (Centre::Middle, _) => {
                let grid = self.volume.grid();
                return self.turned(grid.affine.transform_point3(middle(grid.shape)));
            }
            // nilearn's offset of minus half the extent puts voxel n/2 at the origin.
            _ => voxel * -0.5,
        };
        Grid::centred(Xyz(self.spec.shape), voxel, centre + voxel * self.shift)
    }

    /// The grid whose voxels are brought to scale before it is padded; `None` where nothing is padded with what is no voxel.
    pub fn unpadded(&self) -> Option<Grid> {
        self.over.as_ref().filter(|over| over.after_scaling).map(|over| self.moved(&over.content))
    }

    fn moved(&self, grid: &Grid) -> Grid {
        Grid { affine: grid.affine * DMat4::from_translation(self.shift), ..*grid }
    }

    /// The grid along the world's axes in the network's order, its middle at `centre`.
    fn turned(&self, centre: DVec3) -> Grid {
        let (mut shape, mut voxel_mm) = (Xyz([0; 3]), DVec3::ZERO);
        for (axis, (world, _)) in self.spec.axes.world().into_iter().enumerate() {
            shape[world] = self.spec.shape[axis];
            voxel_mm[world] = self.spec.voxel_mm[axis];
        }
        self.moved(&voxels::turned(&Grid::centred(shape, voxel_mm, centre), self.spec.axes))
    }

    /// The voxels that are sampled: the volume's own, or their averages where the network's are larger.
    pub fn voxels(&self) -> Grid {
        self.volume.grid()
    }

    /// The volume on a grid in the order of the network's axes.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn sampled(&self, gpu: &Gpu, grid: &Grid) -> Result<GpuTensor, GraphError> {
        let edge = self.cut.any().then(|| self.cut.edge(&self.volume));
        self.volume.sampled(gpu, grid, AxisOrder::Xyz, self.spec.sampling.into(), edge).await
    }

    /// The view of the volume with its voxels brought to mean 0 and deviation 1, and the mean and deviation that those in the box
    /// under the grid had: all of them, or masked those above 0 and what such voxels enclose; the others become 0 then.
    ///
    /// # Errors
    /// When the device fails.
    pub async fn standardised(&self, gpu: &Gpu, masked: bool) -> Result<(Self, [f32; 2]), GraphError> {
        let mut values = self.volume.values(gpu).await?;
        let grid = self.volume.grid();
        let box_grid = self.over.map_or(grid, |over| over.content);
        let levels = voxels::standardise(&mut values, &grid, &box_grid, masked);
        Ok((Self { volume: self.volume.with_values(gpu, values).await?, ..self.clone() }, levels))
    }

    /// The faces that may cut the brain: a network's brain in `image` comes close to them, and they show tissue there. Both
    /// lie on the network's grid as [`View::sampled`] stores it. Networks that do not average
    /// were made for whole heads; they know no such faces.
    pub fn suspects(&self, image: &[f32], brain: impl Fn(usize) -> bool) -> CutFaces {
        match self.spec.sampling {
            Sampling::Nearest | Sampling::Linear | Sampling::Cubic => CutFaces::default(),
            Sampling::Area => CutFaces::suspects(&self.volume.grid(), &self.grid(), image, brain),
        }
    }

    /// The faces that a brain on the network's grid reaches.
    pub fn reached(&self, brain: impl Fn(usize) -> bool) -> CutFaces {
        match self.spec.sampling {
            Sampling::Nearest | Sampling::Linear | Sampling::Cubic => CutFaces::default(),
            Sampling::Area => CutFaces::close(
                &self.volume.grid(),
                &self.grid(),
                brain,
                |_| AREA_MM2,
                |_| REACHED_MM,
                |_| true,
            ),
        }
    }

    /// The view with its grid moved by parts of a voxel along its axes.
    pub fn shifted(self, voxels: DVec3) -> Self {
        Self { shift: voxels, ..self }
    }

    /// The view with the volume mirrored at these faces.
    pub fn beyond(self, cut: CutFaces) -> Self {
        Self { cut, ..self }
    }
}

impl CutFaces {
    /// As [`View::suspects`], from the grids of volume and network.
    fn suspects(volume: &Grid, network: &Grid, image: &[f32], brain: impl Fn(usize) -> bool) -> Self {
        let to_network = network.affine.inverse() * volume.affine;
        let Xyz([nx, ny, nz]) = network.shape;
        let (sum, count) = (0..image.len())
            .filter(|&ix| brain(ix))
            .fold((0.0, 0.0f32), |(sum, count), ix| (sum + image[ix], count + 1.0));
        let level = TISSUE * sum / count.max(1.0);
        let shows_tissue = |at: DVec3| {
            let [x, y, z] = to_network.transform_point3(at).round().to_array();
            let within = |v: f64, n: usize| v >= 0.0 && v < n as f64;
            within(x, nx)
                && within(y, ny)
                && within(z, nz)
                && image[(x as usize * ny + y as usize) * nz + z as usize] > level
        };
        let close_mm = |outward: DVec3| match outward.z < -0.7 {
            true => CLOSE_ABOVE_LOWER_FACE_MM,
            false => CLOSE_MM,
        };
        let area_mm2 = |outward: DVec3| match outward.z > 0.7 {
            true => SUSPECT_AREA_BELOW_UPPER_FACE_MM2,
            false => SUSPECT_AREA_MM2,
        };
        Self::close(volume, network, brain, area_mm2, close_mm, shows_tissue)
    }

    /// The faces of `volume` that a brain on the network's grid, z fastest, comes close to: how close depends on where the
    /// face looks, and so does the least mean section of the brain over that depth; a voxel of the brain counts by what the
    /// volume is before it, just within the face.
    fn close(
        volume: &Grid,
        network: &Grid,
        brain: impl Fn(usize) -> bool,
        area_mm2: impl Fn(DVec3) -> f64,
        close_mm: impl Fn(DVec3) -> f64,
        counts: impl Fn(DVec3) -> bool,
    ) -> Self {
        let to_volume = volume.affine.inverse() * network.affine;
        let Xyz([nx, ny, nz]) = network.shape;
        let brain: Vec<DVec3> = (0..nx * ny * nz)
            .filter(|&ix| brain(ix))
            .map(|ix| DVec3::new((ix / (ny * nz)) as f64, (ix / nz % ny) as f64, (ix % nz) as f64))
            .map(|at| to_volume.transform_point3(at))
            .collect();
        let voxel_mm = volume.voxel_size();
        let voxel_mm3 = network.voxel_size().to_array().iter().product::<f64>();
        Self(std::array::from_fn(|axis| {
            std::array::from_fn(|side| {
                let outward = volume.outward(axis, side);
                let close_mm = close_mm(outward);
                let (face, inward) = match side {
                    0 => (-0.5, 1.0),
                    _ => (volume.shape[axis] as f64 - 0.5, -1.0),
                };
                let near = brain.iter().filter(|at| {
                    let depth_mm = (at[axis] - face) * inward * voxel_mm[axis];
                    let mut before = **at;
                    before[axis] = face + inward * SKIN_MM / voxel_mm[axis];
                    (0.0..close_mm).contains(&depth_mm) && counts(before)
                });
                let section_mm2 = near.count() as f64 * voxel_mm3 / close_mm;
                section_mm2 >= area_mm2(outward)
            })
        }))
    }

    /// Those of them that are among others too.
    pub fn and(self, other: Self) -> Self {
        Self(std::array::from_fn(|axis| [0, 1].map(|side| self.0[axis][side] && other.0[axis][side])))
    }

    /// Whether there is one.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }

    /// How such a volume ends.
    fn edge(&self, volume: &Source<'_>) -> Edge {
        let voxel_mm = volume.grid().voxel_size();
        let [low, high] = [0, 1].map(|side| {
            [0, 1, 2].map(|dimension| {
                let axis = volume.axes().nifti_axis(dimension);
                if self.0[axis][side] { (MIRRORED_MM / voxel_mm[axis]).round() as u32 } else { 0 }
            })
        });
        Edge::Mirror { low, high }
    }

    /// The box round a head with what is mirrored.
    fn grown(&self, mut head: WorldBox, volume: &Grid) -> WorldBox {
        for axis in 0..3 {
            for side in (0..2).filter(|&side| self.0[axis][side]) {
                let outward = volume.outward(axis, side) * MIRRORED_MM;
                head.low += outward.min(DVec3::ZERO);
                head.high += outward.max(DVec3::ZERO);
            }
        }
        head
    }
}

#[cfg(test)]
mod tests {
    use glam::DMat4;

    use super::*;

    /// A box of brain in a shell of dark skull and a scalp, 4 mm voxels; each face of the field of view lies so many mm
    /// beyond the brain.
    fn cut(beyond_mm: [[f64; 2]; 3]) -> [[bool; 2]; 3] {
        let network = Grid::centred(Xyz([48, 56, 56]), DVec3::splat(4.0), DVec3::ZERO);
        let brain = DVec3::new(60.0, 80.0, 70.0);
        let low = DVec3::from_array([0, 1, 2].map(|a| -brain[a] - beyond_mm[a][0]));
        let high = DVec3::from_array([0, 1, 2].map(|a| brain[a] + beyond_mm[a][1]));
        // Stored z, x, y, with z downward, on voxels of 2 mm.
        let extent = ((high - low) / 2.0).to_array().map(|n| n as usize);
        let shape = [extent[2], extent[0], extent[1]];
        let axes = DMat4::from_cols_array_2d(&[
            [0.0, 0.0, -2.0, 0.0],
            [2.0, 0.0, 0.0, 0.0],
            [0.0, 2.0, 0.0, 0.0],
            [low.x + 1.0, low.y + 1.0, high.z - 1.0, 1.0],
        ]);
        let volume = Grid { shape: Xyz(shape), affine: axes };
        let at = |ix: usize| {
            let index = [ix / (56 * 56), ix / 56 % 56, ix % 56].map(|i| i as f64);
            network.affine.transform_point3(DVec3::from_array(index))
        };
        let in_brain = |ix: usize| {
            let p = at(ix);
            p.abs().cmplt(brain).all() && p.cmpgt(low).all() && p.cmplt(high).all()
        };
        let image: Vec<f32> = (0..48 * 56 * 56)
            .map(|ix| {
                let (p, beyond) = (at(ix), (at(ix).abs() - brain).max_element());
                let seen = p.cmpgt(low).all() && p.cmplt(high).all();
                match beyond {
                    _ if !seen => 0.0,
                    ..0.0 => 100.0,
                    ..8.0 => 10.0,
                    ..16.0 => 150.0,
                    _ => 2.0,
                }
            })
            .collect();
        let found = CutFaces::suspects(&volume, &network, &image, in_brain).0;
        // To x, y, z of the world.
        [found[1], found[2], [found[0][1], found[0][0]]]
    }

    #[test]
    fn faces_within_the_brain_are_found_and_faces_in_air_are_not() {
        let far = [[24.0; 2]; 3];
        assert_eq!(cut(far), [[false; 2]; 3]);
        for axis in 0..3 {
            for side in 0..2 {
                let mut near = far;
                near[axis][side] = -20.0;
                let mut want = [[false; 2]; 3];
                want[axis][side] = true;
                assert_eq!(cut(near), want, "axis {axis}, side {side}");
            }
        }
    }

    #[test]
    fn a_neck_is_no_cut_brain() {
        // The scalp of the test's head stands for the neck: 12 mm below the brain.
        let mut neck = [[24.0; 2]; 3];
        neck[2][0] = 12.0;
        assert_eq!(cut(neck), [[false; 2]; 3]);
    }
}
