//! Masks, u32 volumes of 0 and 1 (any other value counts as 1): thresholds, 6-connected components, holes,
//! exact distances, and applying a mask to a volume.

use super::{Case, FLAT, Fill, OpDef, OpError, Operator, expect_inputs, expect_volume, fill_dispatch};
use crate::gpu::{Caps, Dispatch, KernelKey, Lowered, Params, Slot};
use crate::tensor::{DType, HostTensor, TensorDesc};

fn expect_mask(name: &'static str, inputs: &[TensorDesc], ix: usize) -> Result<[usize; 3], OpError> {
    if inputs[ix].dtype != DType::U32 {
        return Err(OpError::new(name, inputs, format!("input {ix} must be a u32 mask")));
    }
    expect_volume(name, inputs, ix)
}

/// The extents of a volume that `infer` has accepted.
fn extents(desc: &TensorDesc) -> [usize; 3] {
    desc.shape[desc.shape.len() - 3..].try_into().expect("infer accepts volumes only")
}

/// Which side of a level a mask keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// x > level
    Above,
    /// x <= level
    AtMost,
    /// x < level
    Below,
}

/// `threshold`: a mask of the voxels on one side of a level; NaN is on neither. Input: x f32, any shape.
/// Output: u32, as x.
#[derive(Debug, Clone)]
pub struct Threshold {
    /// The level.
    pub level: f32,
    /// Which side becomes 1.
    pub keep: Keep,
}

impl Threshold {
    /// The mask x > level.
    pub fn above(level: f32) -> Self {
        Self { level, keep: Keep::Above }
    }
}

/// Registry entry of [`Threshold`].
pub static THRESHOLD: OpDef = OpDef {
    name: "threshold",
    summary: "mask of the voxels on one side of a level",
    shaders: &["label/threshold.wgsl"],
    cases: || {
        let case = |name: &str, keep, fill| {
            Case::new(name, Threshold { level: 0.5, keep }, vec![(TensorDesc::f32(&[9, 7, 5]), fill)])
        };
        // 0.5 itself among the values.
        let values = Fill::Values(&[0.5, 0.25, 0.75, f32::NAN, f32::INFINITY, 0.500_000_06, -1.0]);
        vec![
            case("above", Keep::Above, values),
            case("at most", Keep::AtMost, values),
            case("below", Keep::Below, values),
            case("random", Keep::Above, Fill::Normal(1.0)),
        ]
    },
};

impl Operator for Threshold {
    fn name(&self) -> &'static str {
        "threshold"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("threshold", inputs, 1)?;
        if inputs[0].dtype != DType::F32 {
            return Err(OpError::new("threshold", inputs, "the input must be f32"));
        }
        Ok(vec![TensorDesc::u32(&inputs[0].shape)])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let n = inputs[0].len();
        Lowered::one(
            Dispatch::new(
                KernelKey::new("label/threshold.wgsl")
                    .define("ABOVE", u32::from(self.keep == Keep::Above))
                    .define("AT_MOST", u32::from(self.keep == Keep::AtMost)),
            )
            .bind("x", Slot::Input(0))
            .bind("y", Slot::Output(0))
            .params(Params::new().u32("n", n).f32("level", self.level))
            .flat(n, FLAT),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let level = self.level as f64;
        let data = inputs[0].data.iter().map(|&x| {
            f64::from(u8::from(match self.keep {
                Keep::Above => x > level,
                Keep::AtMost => x <= level,
                Keep::Below => x < level,
            }))
        });
        vec![HostTensor::new(TensorDesc::u32(&inputs[0].desc.shape), data.collect())]
    }
}

/// Cases of the operators from mask to mask: sparse and dense noise has thousands of snaking components.
fn mask_cases(op: impl Fn() -> Box<dyn Operator>) -> Vec<Case> {
    let case = |name: &str, shape: &[usize], fill| Case {
        name: name.to_owned(),
        op: op(),
        inputs: vec![(TensorDesc::u32(shape), fill)],
        differentiable: Vec::new(),
        bench_only: false,
    };
    vec![
        case("near percolation", &[23, 17, 29], Fill::Binary(0.31)),
        case("sparse", &[9, 7, 11], Fill::Binary(0.1)),
        case("dense", &[9, 7, 11], Fill::Binary(0.69)),
        case("dense, thick", &[17, 19, 13], Fill::Binary(0.8)),
        case("empty", &[3, 4, 5], Fill::Binary(0.0)),
        case("full", &[3, 4, 5], Fill::Binary(1.1)),
        case("one row", &[1, 1, 37], Fill::Binary(0.6)),
        case("one column", &[1, 41, 1], Fill::Binary(0.6)),
        case("batch axes", &[1, 1, 5, 6, 7], Fill::Binary(0.4)),
        case("head", &[256, 256, 192], Fill::Binary(0.31)).bench_only(),
    ]
}

/// 6-connected components of the voxels for which `member` holds: for each voxel the lowest index of its
/// component, `None` for others.
fn flood(shape: [usize; 3], member: impl Fn(usize) -> bool) -> Vec<Option<usize>> {
    let n = shape.iter().product();
    let mut root = vec![None; n];
    for seed in 0..n {
        if !member(seed) || root[seed].is_some() {
            continue;
        }
        root[seed] = Some(seed);
        let mut open = vec![seed];
        while let Some(i) = open.pop() {
            for j in neighbours(i, shape) {
                if member(j) && root[j].is_none() {
                    root[j] = Some(seed);
                    open.push(j);
                }
            }
        }
    }
    root
}

/// The up to six neighbours of a voxel.
fn neighbours(i: usize, [n_d, n_h, n_w]: [usize; 3]) -> impl Iterator<Item = usize> {
    let (d, h, w) = (i / (n_h * n_w), i / n_w % n_h, i % n_w);
    [
        (d > 0, i.wrapping_sub(n_h * n_w)),
        (d + 1 < n_d, i + n_h * n_w),
        (h > 0, i.wrapping_sub(n_w)),
        (h + 1 < n_h, i + n_w),
        (w > 0, i.wrapping_sub(1)),
        (w + 1 < n_w, i + 1),
    ]
    .into_iter()
    .filter_map(|(inside, j)| inside.then_some(j))
}

/// The launches from the mask in input 0 to `y`: component labels, or with `holes` the filled mask.
fn union_find(lowered: &mut Lowered, desc: &TensorDesc, y: Slot, holes: bool) {
    let [n_d, n_h, n_w] = extents(desc);
    let n = desc.len();
    let parent = lowered.scratch(desc.bytes());
    let launch = |path| {
        Dispatch::new(KernelKey::new(path).define("HOLES", u32::from(holes)))
            .bind("mask", Slot::Input(0))
            .bind("parent", parent)
    };
    let rows = n_d * n_h;
    lowered.push(
        launch("label/component_init.wgsl")
            .params(Params::new().u32("rows", rows).u32("n_d", n_d).u32("n_h", n_h).u32("n_w", n_w))
            .flat(rows, FLAT),
    );
    lowered.push(
        launch("label/component_link.wgsl")
            .params(Params::new().u32("n", n).u32("n_h", n_h).u32("n_w", n_w))
            .flat(n, FLAT),
    );
    lowered.push(
        launch("label/component_compress.wgsl")
            .params(Params::new().u32("n", n).u32("n_w", n_w))
            .flat(n, FLAT),
    );
    lowered.push(
        launch("label/component_labels.wgsl").bind("y", y).params(Params::new().u32("n", n)).flat(n, FLAT),
    );
}

/// `components`: 6-connected components of a mask. Input: mask u32, a volume. Output: u32, as the mask: 0
/// outside it, else 1 + the index of the component's first voxel.
#[derive(Debug, Clone)]
pub struct Components;

/// Registry entry of [`Components`].
pub static COMPONENTS: OpDef = OpDef {
    name: "components",
    summary: "6-connected components of a mask, labelled by their first voxel",
    shaders: &[
        "label/component_init.wgsl",
        "label/component_link.wgsl",
        "label/component_compress.wgsl",
        "label/component_labels.wgsl",
    ],
    cases: || mask_cases(|| Box::new(Components)),
};

impl Operator for Components {
    fn name(&self) -> &'static str {
        "components"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("components", inputs, 1)?;
        expect_mask("components", inputs, 0)?;
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let mut lowered = Lowered::default();
        union_find(&mut lowered, &inputs[0], Slot::Output(0), false);
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let mask = inputs[0];
        let roots = flood(extents(&mask.desc), |i| mask.data[i] != 0.0);
        let data = roots.iter().map(|root| root.map_or(0.0, |r| (r + 1) as f64)).collect();
        vec![HostTensor::new(mask.desc.clone(), data)]
    }
}

/// `largest_component`: the largest 6-connected component of a mask, among equals the one whose first voxel
/// comes first. Input: mask u32, a volume. Output: u32 0/1, as the mask; empty if the mask is.
#[derive(Debug, Clone)]
pub struct LargestComponent;

/// Registry entry of [`LargestComponent`].
pub static LARGEST_COMPONENT: OpDef = OpDef {
    name: "largest_component",
    summary: "largest 6-connected component of a mask",
    shaders: &[
        "label/component_init.wgsl",
        "label/component_link.wgsl",
        "label/component_compress.wgsl",
        "label/component_labels.wgsl",
        "label/component_sizes.wgsl",
        "label/component_largest.wgsl",
        "label/component_select.wgsl",
    ],
    cases: || mask_cases(|| Box::new(LargestComponent)),
};

impl Operator for LargestComponent {
    fn name(&self) -> &'static str {
        "largest_component"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("largest_component", inputs, 1)?;
        expect_mask("largest_component", inputs, 0)?;
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let desc = &inputs[0];
        let n = desc.len();
        let [n_d, n_h, n_w] = extents(desc);
        let threads = n.div_ceil(64).clamp(1, 1 << 14).next_multiple_of(FLAT);
        let mut lowered = Lowered::default();
        let labels = lowered.scratch(desc.bytes());
        let sizes = lowered.scratch(desc.bytes());
        let best = lowered.scratch(threads as u64 * 8);
        let winner = lowered.scratch(4);
        union_find(&mut lowered, desc, labels, false);
        lowered.push(fill_dispatch(sizes, n, 0));
        lowered.push(
            Dispatch::new(KernelKey::new("label/component_sizes.wgsl"))
                .bind("labels", labels)
                .bind("sizes", sizes)
                .params(Params::new().u32("rows", n_d * n_h).u32("n_w", n_w))
                .flat(n_d * n_h, FLAT),
        );
        let largest = |partial, from, to| {
            Dispatch::new(KernelKey::new("label/component_largest.wgsl").define("PARTIAL", partial))
                .bind("sizes", from)
                .bind("best", to)
                .params(Params::new().u32("n", n).u32("threads", threads))
        };
        lowered.push(largest(1, sizes, best).flat(threads, FLAT));
        lowered.push(largest(0, best, winner));
        lowered.push(
            Dispatch::new(KernelKey::new("label/component_select.wgsl"))
                .bind("labels", labels)
                .bind("winner", winner)
                .bind("y", Slot::Output(0))
                .params(Params::new().u32("n", n))
                .flat(n, FLAT),
        );
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let mask = inputs[0];
        let roots = flood(extents(&mask.desc), |i| mask.data[i] != 0.0);
        let mut sizes = vec![0usize; roots.len()];
        for root in roots.iter().flatten() {
            sizes[*root] += 1;
        }
        // `max_by_key` keeps the last of equals, so the search runs backwards.
        let winner = (0..sizes.len()).rev().max_by_key(|&i| sizes[i]);
        let data = roots.iter().map(|root| f64::from(u8::from(root.is_some() && *root == winner))).collect();
        vec![HostTensor::new(mask.desc.clone(), data)]
    }
}

/// `fill_holes`: adds to a mask the 6-connected components of its background that do not touch the border of
/// the volume. Input: mask u32, a volume. Output: u32 0/1, as the mask.
#[derive(Debug, Clone)]
pub struct FillHoles;

/// Registry entry of [`FillHoles`].
pub static FILL_HOLES: OpDef = OpDef {
    name: "fill_holes",
    summary: "mask with the background that does not reach the border",
    shaders: &[
        "label/component_init.wgsl",
        "label/component_link.wgsl",
        "label/component_compress.wgsl",
        "label/component_labels.wgsl",
    ],
    cases: || mask_cases(|| Box::new(FillHoles)),
};

impl Operator for FillHoles {
    fn name(&self) -> &'static str {
        "fill_holes"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("fill_holes", inputs, 1)?;
        expect_mask("fill_holes", inputs, 0)?;
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let mut lowered = Lowered::default();
        union_find(&mut lowered, &inputs[0], Slot::Output(0), true);
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let mask = inputs[0];
        let shape = extents(&mask.desc);
        let roots = flood(shape, |i| mask.data[i] == 0.0);
        let mut open = vec![false; roots.len()];
        for (i, root) in roots.iter().enumerate() {
            // Voxels on the border are those with fewer than six neighbours.
            if let Some(root) = root
                && neighbours(i, shape).count() < 6
            {
                open[*root] = true;
            }
        }
        let data = roots.iter().map(|root| f64::from(u8::from(root.is_none_or(|r| !open[r])))).collect();
        vec![HostTensor::new(mask.desc.clone(), data)]
    }
}

/// What `distance` gives where the volume holds only one class, in mm.
pub const FAR: f64 = 1e9;

/// `distance`: signed Euclidean distance in mm from the centre of each voxel to the nearest centre of a voxel
/// of the other class: positive outside the mask, negative inside, never 0; +-[`FAR`] if the mask is empty
/// or full. Exact up to rounding: three passes of lower envelopes (Felzenszwalb & Huttenlocher 2012).
/// Input: mask u32, a volume. Output: f32, as the mask.
///
/// With this definition `distance <= b` is the mask dilated by the closed ball of radius b >= 0, and
/// `distance < -b` the mask eroded by it; both are the mask itself for b = 0.
#[derive(Debug, Clone)]
pub struct Distance {
    /// Voxel size along d, h and w in mm.
    pub voxel_size: [f64; 3],
}

/// Registry entry of [`Distance`].
pub static DISTANCE: OpDef = OpDef {
    name: "distance",
    summary: "exact signed distance to the border of a mask in mm",
    shaders: &["label/distance_row.wgsl", "label/distance_column.wgsl"],
    cases: || {
        let case = |name: &str, shape: &[usize], voxel_size, fill| {
            Case::new(name, Distance { voxel_size }, vec![(TensorDesc::u32(shape), fill)])
        };
        vec![
            case("few voxels", &[13, 9, 11], [1.0, 1.0, 1.0], Fill::Binary(0.01)),
            case("anisotropic", &[7, 12, 15], [5.0, 0.9, 0.5], Fill::Binary(0.02)),
            case("holes", &[13, 9, 11], [1.2, 1.0, 0.7], Fill::Binary(0.98)),
            case("half", &[9, 7, 11], [1.0, 2.0, 3.0], Fill::Binary(0.5)),
            case("empty", &[3, 4, 5], [1.0, 1.0, 1.0], Fill::Binary(0.0)),
            case("full", &[3, 4, 5], [1.0, 1.0, 1.0], Fill::Binary(1.1)),
            case("one slice", &[1, 19, 17], [5.0, 0.9, 0.9], Fill::Binary(0.03)),
            case("batch axes", &[1, 1, 6, 5, 1], [1.0, 1.5, 2.0], Fill::Binary(0.2)),
            case("head", &[256, 256, 192], [1.0, 1.0, 1.0], Fill::Binary(0.001)).bench_only(),
        ]
    },
};

impl Operator for Distance {
    fn name(&self) -> &'static str {
        "distance"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("distance", inputs, 1)?;
        let shape = expect_mask("distance", inputs, 0)?;
        let reach: f64 = shape.iter().zip(self.voxel_size).map(|(n, s)| *n as f64 * s).sum();
        // Squares below 1e-12 or sums of them near FAR^2 would lose the order of f32.
        if !(self.voxel_size.iter().all(|&s| s > 1e-6) && reach < FAR / 10.0) {
            return Err(OpError::new("distance", inputs, format!("voxel size {:?} mm", self.voxel_size)));
        }
        Ok(vec![TensorDesc::f32(&inputs[0].shape)])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let desc = &inputs[0];
        let [n_d, n_h, n_w] = extents(desc);
        let size = self.voxel_size.map(|s| s as f32);
        let mut lowered = Lowered::default();
        let squares = lowered.scratch(desc.bytes());
        let site = lowered.scratch(desc.bytes());
        let start = lowered.scratch(desc.bytes());
        let rows = n_d * n_h;
        lowered.push(
            Dispatch::new(KernelKey::new("label/distance_row.wgsl"))
                .bind("mask", Slot::Input(0))
                .bind("y", Slot::Output(0))
                .params(Params::new().u32("rows", rows).u32("n_w", n_w).f32("size", size[2]))
                .flat(rows, FLAT),
        );
        let column = |last, x, y, inner: usize, extent: usize, size| {
            let lines = desc.len() / extent;
            Dispatch::new(KernelKey::new("label/distance_column.wgsl").define("FINAL", last))
                .bind("x", x)
                .bind("y", y)
                .bind("site", site)
                .bind("start", start)
                .params(
                    Params::new()
                        .u32("lines", lines)
                        .u32("inner", inner)
                        .u32("extent", extent)
                        .f32("size", size),
                )
                .flat(lines, FLAT)
        };
        lowered.push(column(0, Slot::Output(0), squares, n_w, n_h, size[1]));
        lowered.push(column(1, squares, Slot::Output(0), n_h * n_w, n_d, size[0]));
        lowered
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let mask = inputs[0];
        let [_, n_h, n_w] = extents(&mask.desc);
        let inside = |i: usize| mask.data[i] != 0.0;
        let position = |i: usize| [i / (n_h * n_w), i / n_w % n_h, i % n_w].map(|p| p as f64);
        let n = mask.data.len();
        let data = (0..n).map(|i| {
            let nearest = (0..n).filter(|&j| inside(j) != inside(i)).map(|j| {
                let (a, b) = (position(i), position(j));
                (0..3).map(|k| ((a[k] - b[k]) * self.voxel_size[k]).powi(2)).sum::<f64>()
            });
            let distance = nearest.reduce(f64::min).map_or(FAR, f64::sqrt);
            if inside(i) { -distance } else { distance }
        });
        vec![HostTensor::new(TensorDesc::f32(&mask.desc.shape), data.collect())]
    }

    fn reference_flops(&self, inputs: &[TensorDesc], _: &[TensorDesc]) -> f64 {
        // Every voxel looks at every other.
        9.0 * (inputs[0].len() as f64).powi(2)
    }
}

/// `apply_mask`: y = x where the mask is not 0, else `outside`; values inside keep every bit. Inputs: x f32;
/// mask u32 of the same shape. Output: as x.
#[derive(Debug, Clone)]
pub struct ApplyMask {
    /// Value outside the mask.
    pub outside: f32,
}

/// Registry entry of [`ApplyMask`].
pub static APPLY_MASK: OpDef = OpDef {
    name: "apply_mask",
    summary: "a volume inside a mask, a constant outside",
    shaders: &["label/apply_mask.wgsl"],
    cases: || {
        let case = |name: &str, outside| {
            let shape = [9, 7, 5];
            Case::new(
                name,
                ApplyMask { outside },
                vec![
                    (TensorDesc::f32(&shape), Fill::Normal(1.0)),
                    (TensorDesc::u32(&shape), Fill::Binary(0.5)),
                ],
            )
        };
        vec![case("zero", 0.0), case("other", -3.5)]
    },
};

impl Operator for ApplyMask {
    fn name(&self) -> &'static str {
        "apply_mask"
    }

    fn infer(&self, inputs: &[TensorDesc]) -> Result<Vec<TensorDesc>, OpError> {
        expect_inputs("apply_mask", inputs, 2)?;
        if inputs[0].dtype != DType::F32 || inputs[1] != TensorDesc::u32(&inputs[0].shape) {
            return Err(OpError::new("apply_mask", inputs, "needs f32 and a u32 mask of the same shape"));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn lower(&self, inputs: &[TensorDesc], _: &[TensorDesc], _: &Caps, _: &str) -> Lowered {
        let n = inputs[0].len();
        Lowered::one(
            Dispatch::new(KernelKey::new("label/apply_mask.wgsl"))
                .bind("x", Slot::Input(0))
                .bind("mask", Slot::Input(1))
                .bind("y", Slot::Output(0))
                .params(Params::new().u32("n", n).u32("outside", self.outside.to_bits() as usize))
                .flat(n, FLAT),
        )
    }

    fn reference(&self, inputs: &[&HostTensor]) -> Vec<HostTensor> {
        let pairs = inputs[0].data.iter().zip(&inputs[1].data);
        let data = pairs.map(|(x, m)| if *m != 0.0 { *x } else { self.outside as f64 }).collect();
        vec![HostTensor::new(inputs[0].desc.clone(), data)]
    }
}
