//! Launches as plain data: which kernel, on which tensors, with which parameters, in how many workgroups.

use std::fmt::Write as _;
use std::ops::Range;

/// What a kernel is compiled from. Two equal keys are the same pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelKey {
    /// Path of the file below `shaders/`.
    pub path: &'static str,
    /// Constants injected as `const NAME: u32`; a non-zero one also satisfies `#ifdef NAME`.
    pub defines: Vec<(&'static str, u32)>,
}

impl KernelKey {
    /// A kernel without injected constants.
    pub fn new(path: &'static str) -> Self {
        Self { path, defines: Vec::new() }
    }

    /// Adds a constant.
    #[must_use]
    pub fn define(mut self, name: &'static str, value: u32) -> Self {
        self.defines.push((name, value));
        self
    }

    /// Adds a constant that counts something.
    ///
    /// # Panics
    /// When 32 bits do not hold it.
    #[must_use]
    pub fn count(self, name: &'static str, value: usize) -> Self {
        let why = "constants of kernels are tile sizes, taps and bins: small";
        self.define(name, u32::try_from(value).expect(why))
    }

    /// A file name for what is made of this kernel: path and constants, without extension.
    pub fn file_stem(&self) -> String {
        let mut name = self.path.trim_end_matches(".wgsl").replace('/', "-");
        for (define, value) in &self.defines {
            // Writing to a string does not fail.
            let _ = write!(name, "-{define}{value}");
        }
        name
    }
}

/// A value of a `Params` field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// `u32`
    U32(u32),
    /// `i32`
    I32(i32),
    /// `f32`
    F32(f32),
    /// `vec4<f32>`
    F32x4([f32; 4]),
    /// `vec4<u32>`
    U32x4([u32; 4]),
    /// A number that 32 bits do not hold: packing refuses it.
    TooLarge,
}

/// Values for the fields of a kernel's `Params`, by name; the layout comes from reflection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params(pub Vec<(&'static str, Scalar)>);

impl Params {
    /// No field.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an unsigned field that counts something.
    #[must_use]
    pub fn u32(mut self, name: &'static str, value: usize) -> Self {
        self.0.push((name, u32::try_from(value).map_or(Scalar::TooLarge, Scalar::U32)));
        self
    }

    /// Adds an unsigned field that is a bit pattern.
    #[must_use]
    pub fn bits(mut self, name: &'static str, value: u32) -> Self {
        self.0.push((name, Scalar::U32(value)));
        self
    }

    /// Adds a signed field.
    #[must_use]
    pub fn i32(mut self, name: &'static str, value: impl TryInto<i32>) -> Self {
        self.0.push((name, value.try_into().map_or(Scalar::TooLarge, Scalar::I32)));
        self
    }

    /// Adds a float field.
    #[must_use]
    pub fn f32(mut self, name: &'static str, value: f32) -> Self {
        self.0.push((name, Scalar::F32(value)));
        self
    }

    /// Adds a `vec4<f32>` field.
    #[must_use]
    pub fn f32x4(mut self, name: &'static str, value: [f32; 4]) -> Self {
        self.0.push((name, Scalar::F32x4(value)));
        self
    }

    /// Adds a `vec4<u32>` field of counts.
    #[must_use]
    pub fn extents(mut self, name: &'static str, value: [usize; 4]) -> Self {
        let small = value.map(u32::try_from);
        let scalar = match small {
            [Ok(a), Ok(b), Ok(c), Ok(d)] => Scalar::U32x4([a, b, c, d]),
            _ => Scalar::TooLarge,
        };
        self.0.push((name, scalar));
        self
    }

    /// Adds a `vec4<u32>` field of bit patterns.
    #[must_use]
    pub fn u32x4(mut self, name: &'static str, value: [u32; 4]) -> Self {
        self.0.push((name, Scalar::U32x4(value)));
        self
    }
}

/// Which tensor of a node a kernel variable is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The node's input with this position.
    Input(usize),
    /// The node's output with this position.
    Output(usize),
    /// A temporary of the node.
    Scratch(usize),
}

/// A tensor, whole or a byte range of it.
#[derive(Clone, Debug)]
pub struct Binding {
    /// Which tensor.
    pub slot: Slot,
    /// Byte range, aligned to [`super::Caps::offset_alignment`]; `None` binds all of it.
    pub range: Option<Range<u64>>,
}

impl From<Slot> for Binding {
    fn from(slot: Slot) -> Self {
        Self { slot, range: None }
    }
}

/// One launch of one kernel.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// What to run.
    pub kernel: KernelKey,
    /// Kernel variable name to tensor.
    pub bindings: Vec<(&'static str, Binding)>,
    /// Uniform parameters.
    pub params: Params,
    /// Number of workgroups along x, y and z.
    pub workgroups: [u32; 3],
}

/// Largest number of workgroups along one axis in WebGPU's default limits.
pub(super) const MAX_WORKGROUPS: u32 = 65_535;

/// A number of workgroups along x, folded on to y where it exceeds what an axis takes.
pub(super) fn fold(groups: u32) -> [u32; 3] {
    let rows = groups.div_ceil(MAX_WORKGROUPS);
    [groups.div_ceil(rows), rows, 1]
}

/// A number of workgroups. The largest number stands for all that 32 bits do not hold: preparing the launch refuses it.
fn workgroups(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl Dispatch {
    /// A launch without bindings yet, of one workgroup.
    pub fn new(kernel: KernelKey) -> Self {
        Self { kernel, bindings: Vec::new(), params: Params::new(), workgroups: [1, 1, 1] }
    }

    /// Binds a whole tensor to a kernel variable.
    #[must_use]
    pub fn bind(mut self, name: &'static str, slot: Slot) -> Self {
        self.bindings.push((name, slot.into()));
        self
    }

    /// Binds a byte range of a tensor to a kernel variable.
    #[must_use]
    pub fn bind_range(mut self, name: &'static str, slot: Slot, range: Range<u64>) -> Self {
        self.bindings.push((name, Binding { slot, range: Some(range) }));
        self
    }

    /// Sets the uniform parameters.
    #[must_use]
    pub fn params(mut self, params: Params) -> Self {
        self.params = params;
        self
    }

    /// Launches at least `invocations` invocations in workgroups of `size`, folded on to y beyond 65,535
    /// workgroups; the kernel recovers its index with `flat_index` of `lib/index.wgsl`.
    #[must_use]
    pub fn flat(mut self, invocations: usize, size: usize) -> Self {
        self.workgroups = fold(workgroups(invocations.div_ceil(size).max(1)));
        self
    }

    /// Sets the number of workgroups along each axis.
    #[must_use]
    pub fn grid(mut self, groups: [usize; 3]) -> Self {
        self.workgroups = groups.map(workgroups);
        self
    }

    /// Sets the number of workgroups along z alone: what is flat along x and y is launched as often.
    #[must_use]
    pub fn layers(mut self, groups: usize) -> Self {
        self.workgroups[2] = workgroups(groups);
        self
    }
}

/// What an operator becomes: launches in order, and the temporaries they use.
#[derive(Clone, Debug, Default)]
pub struct Lowered {
    /// Launches in order.
    pub dispatches: Vec<Dispatch>,
    /// Sizes of the temporaries in bytes.
    pub scratch: Vec<u64>,
}

impl Lowered {
    /// One launch without temporaries.
    pub fn one(dispatch: Dispatch) -> Self {
        Self { dispatches: vec![dispatch], scratch: Vec::new() }
    }

    /// Reserves a temporary of `bytes`.
    pub fn scratch(&mut self, bytes: u64) -> Slot {
        self.scratch.push(bytes);
        Slot::Scratch(self.scratch.len() - 1)
    }

    /// The temporary number `ix` of those that passes over several inputs share: at least `bytes` large. Launches run
    /// in order, so a pass may overwrite what an earlier one has left.
    pub fn pass_scratch(&mut self, ix: usize, bytes: u64) -> Slot {
        if self.scratch.len() <= ix {
            self.scratch.resize(ix + 1, 0);
        }
        self.scratch[ix] = self.scratch[ix].max(bytes);
        Slot::Scratch(ix)
    }

    /// Appends a launch.
    pub fn push(&mut self, dispatch: Dispatch) {
        self.dispatches.push(dispatch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Reflection;

    #[test]
    fn what_32_bits_do_not_hold_is_refused_instead_of_cut() {
        let fields = vec![("n".to_owned(), 0, 1), ("shape".to_owned(), 16, 4)];
        let reflection = Reflection { fields, params_bytes: 32, ..Reflection::default() };
        let pack = |n, width| {
            reflection.pack("some.wgsl", &Params::new().u32("n", n).extents("shape", [1, 2, width, 0]))
        };
        assert!(pack(u32::MAX as usize, 3).is_ok());
        for (n, width) in [(1 << 32, 3), (1, 1 << 32)] {
            let error = pack(n, width).expect_err("it does not fit").to_string();
            assert!(error.contains("32 bits"), "{error}");
        }
        assert_eq!(Params::new().i32("n", 1usize << 31).0[0].1, Scalar::TooLarge);
        let key = KernelKey::new("some.wgsl");
        let most = Dispatch::new(key.clone()).grid([1, 1 << 32, 1]).workgroups[1];
        assert!(most > MAX_WORKGROUPS);
        assert!(Dispatch::new(key).flat(1 << 40, 1).workgroups[1] > MAX_WORKGROUPS);
    }
}
