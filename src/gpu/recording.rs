//! Dispatches as plain data, and the engine that binds and runs them.

use std::ops::Range;
use std::sync::Arc;

use super::{CountedBuffer, Gpu, GpuError, GpuTensor, Kernel, KernelKey};

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
}

/// Values for the fields of a kernel's `Params`, by name; the layout comes from reflection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params(pub Vec<(&'static str, Scalar)>);

impl Params {
    /// No field.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an unsigned field. Shapes are checked against the binding limits, so they fit.
    #[must_use]
    pub fn u32(mut self, name: &'static str, value: usize) -> Self {
        self.0.push((name, Scalar::U32(value as u32)));
        self
    }

    /// Adds a signed field.
    #[must_use]
    pub fn i32(mut self, name: &'static str, value: i32) -> Self {
        self.0.push((name, Scalar::I32(value)));
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

    /// Adds a `vec4<u32>` field.
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
const MAX_WORKGROUPS: u32 = 65_535;

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
        let groups = invocations.div_ceil(size).max(1) as u32;
        let rows = groups.div_ceil(MAX_WORKGROUPS);
        self.workgroups = [groups.div_ceil(rows), rows, 1];
        self
    }

    /// Sets the number of workgroups along each axis.
    #[must_use]
    pub fn grid(mut self, workgroups: [usize; 3]) -> Self {
        self.workgroups = workgroups.map(|n| n as u32);
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

/// GPU time of one launch.
#[derive(Clone, Debug)]
pub struct KernelTime {
    /// The node it belongs to.
    pub node: String,
    /// The kernel's file.
    pub kernel: &'static str,
    /// When it began, in seconds after the first launch did.
    pub begin: f64,
    /// Duration in seconds, from GPU timestamps.
    pub seconds: f64,
}

/// A launch with its pipeline and bind group, ready to encode.
pub(crate) struct Prepared {
    node: String,
    path: &'static str,
    kernel: Arc<Kernel>,
    group: wgpu::BindGroup,
    workgroups: [u32; 3],
}

impl Gpu {
    /// Compiles and binds one launch. `resolve` gives the tensor behind a slot.
    pub(crate) fn prepare<'a>(
        &self,
        node: &str,
        dispatch: &Dispatch,
        resolve: &dyn Fn(Slot) -> &'a GpuTensor,
    ) -> Result<Prepared, GpuError> {
        let path = dispatch.kernel.path;
        let fail = |reason: String| GpuError::Mismatch { path: path.to_owned(), reason };
        if dispatch.workgroups.iter().any(|&n| n > MAX_WORKGROUPS) {
            return Err(fail(format!(
                "{:?} workgroups exceed {MAX_WORKGROUPS} along an axis",
                dispatch.workgroups
            )));
        }
        let kernel = self.kernel(&dispatch.kernel)?;
        let params = kernel.reflection.pack(path, &dispatch.params)?;
        let uniform = (!params.is_empty()).then(|| {
            let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("params"),
                size: params.len() as u64,
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: true,
            });
            if let Ok(mut view) = buffer.slice(..).get_mapped_range_mut() {
                view.copy_from_slice(&params);
            }
            buffer.unmap();
            buffer
        });
        let mut entries = Vec::new();
        for (name, &(number, _)) in &kernel.reflection.storage {
            let Some((_, binding)) = dispatch.bindings.iter().find(|(n, _)| n == name) else {
                return Err(fail(format!("variable '{name}' is not bound")));
            };
            let tensor = resolve(binding.slot);
            let range = binding.range.clone().unwrap_or(0..tensor.desc.bytes());
            let bytes = range.end - range.start;
            if bytes > self.caps.max_binding {
                return Err(GpuError::BindingTooLarge {
                    what: format!("'{name}' of {node}"),
                    bytes,
                    limit: self.caps.max_binding,
                    adapter: self.summary.name.clone(),
                });
            }
            entries.push(wgpu::BindGroupEntry {
                binding: number,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &tensor.buffer,
                    offset: tensor.offset + range.start,
                    size: std::num::NonZeroU64::new(bytes),
                }),
            });
        }
        for (name, _) in &dispatch.bindings {
            if !kernel.reflection.storage.contains_key(*name) {
                return Err(fail(format!("the kernel has no variable '{name}'")));
            }
        }
        if let (Some(number), Some(buffer)) = (kernel.reflection.uniform, &uniform) {
            entries.push(wgpu::BindGroupEntry { binding: number, resource: buffer.as_entire_binding() });
        }
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(path),
            layout: &kernel.layout,
            entries: &entries,
        });
        self.take_error()?;
        Ok(Prepared { node: node.to_owned(), path, kernel, group, workgroups: dispatch.workgroups })
    }

    /// Runs launches in order, in one submission. Does not wait.
    pub(crate) fn submit<'a>(
        &self,
        launches: impl IntoIterator<Item = &'a Prepared>,
    ) -> Result<(), GpuError> {
        if self.profile.lock().expect("no panic while held").is_some() {
            let times = self.submit_timed(launches)?.unwrap_or_default();
            if let Some(profile) = &mut *self.profile.lock().expect("no panic while held") {
                profile.extend(times);
            }
            return Ok(());
        }
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for launch in launches {
                launch.encode(&mut pass);
            }
        }
        self.submit_commands([encoder.finish()]);
        self.take_error()
    }

    /// Runs launches in order with a timestamp round each; `None`, and nothing is run, when the adapter has no timestamps.
    pub(crate) fn submit_timed<'a>(
        &self,
        launches: impl IntoIterator<Item = &'a Prepared>,
    ) -> Result<Option<Vec<KernelTime>>, GpuError> {
        let launches: Vec<&Prepared> = launches.into_iter().collect();
        let passes: Vec<Vec<&Prepared>> = launches.iter().map(|&launch| vec![launch]).collect();
        let Some(spans) = self.submit_passes(&passes)? else { return Ok(None) };
        let start = spans.first().map_or(0.0, |span| span[0]);
        let times = launches.iter().zip(spans).map(|(launch, [begin, end])| KernelTime {
            node: launch.node.clone(),
            kernel: launch.path,
            begin: begin - start,
            seconds: end - begin,
        });
        Ok(Some(times.collect()))
    }

    /// Runs groups of launches in order, each group in a pass of its own. Returns when each began and ended, in
    /// seconds of the GPU's clock, after waiting for all; `None`, and nothing is run, when the adapter has no
    /// timestamps.
    pub(crate) fn submit_passes(&self, passes: &[Vec<&Prepared>]) -> Result<Option<Vec<[f64; 2]>>, GpuError> {
        if !self.caps.timestamps {
            return Ok(None);
        }
        let mut spans = Vec::with_capacity(passes.len());
        let period = self.queue.get_timestamp_period() as f64 * 1e-9;
        let mut origin = None;
        // A query set holds at most 4,096 queries.
        for chunk in passes.chunks(2048) {
            let count = chunk.len() as u32 * 2;
            let queries = self.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count,
            });
            let resolved = self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("timestamps"),
                size: (count as u64 * 8).next_multiple_of(256),
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            let mut encoder = self.device.create_command_encoder(&Default::default());
            for (ix, launches) in chunk.iter().enumerate() {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: launches.first().map(|launch| launch.path),
                    timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                        query_set: &queries,
                        beginning_of_pass_write_index: Some(ix as u32 * 2),
                        end_of_pass_write_index: Some(ix as u32 * 2 + 1),
                    }),
                });
                for launch in launches {
                    launch.encode(&mut pass);
                }
            }
            encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
            self.submit_commands([encoder.finish()]);
            let words: Vec<u32> = self.download(&GpuTensor {
                buffer: CountedBuffer::new(resolved, &self.usage),
                offset: 0,
                desc: crate::tensor::TensorDesc::u32(&[count as usize * 2]),
            })?;
            let ticks: Vec<u64> =
                words.chunks_exact(2).map(|pair| pair[0] as u64 | (pair[1] as u64) << 32).collect();
            // Differences of integers: a GPU's clock exceeds what f64 resolves to the nanosecond.
            let origin = *origin.get_or_insert(ticks[0]);
            let seconds = |tick: u64| tick.wrapping_sub(origin) as i64 as f64 * period;
            spans.extend(ticks.chunks_exact(2).map(|pair| [seconds(pair[0]), seconds(pair[1])]));
        }
        Ok(Some(spans))
    }
}

impl Prepared {
    fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.kernel.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        let [x, y, z] = self.workgroups;
        pass.dispatch_workgroups(x, y, z);
    }
}
