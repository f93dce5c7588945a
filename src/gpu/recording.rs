//! Binds launches, runs them, and times them.

use std::sync::Arc;

use super::buffer::{CountedBuffer, GpuTensor};
use super::device::Gpu;
use super::dispatch::{Dispatch, MAX_WORKGROUPS, Slot};
use super::error::GpuError;
use super::kernel::Kernel;
use super::profile::{KernelTime, Profile, StampedLaunches};
use crate::tensor::TensorDesc;

/// A launch with its pipeline and bind group, ready to encode.
pub(crate) struct Prepared {
    node: String,
    path: &'static str,
    kernel: Arc<Kernel>,
    group: wgpu::BindGroup,
    /// Counted as long as it is bound.
    _params: Option<CountedBuffer>,
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
        let kernel = self.kernel(&dispatch.kernel)?;
        let workgroups = match &kernel.launch {
            Some(launch) => launch.workgroups(path, &dispatch.params, dispatch.workgroups)?,
            None => dispatch.workgroups,
        };
        if workgroups.iter().any(|&n| n > MAX_WORKGROUPS) {
            return Err(fail(format!("{workgroups:?} workgroups exceed {MAX_WORKGROUPS} along an axis")));
        }
        let params = kernel.reflection.pack(path, &dispatch.params)?;
        let what = || format!("{node} ({path})");
        let mut uniform = None;
        if !params.is_empty() {
            let descriptor = wgpu::BufferDescriptor {
                label: Some("params"),
                size: params.len() as u64,
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: true,
            };
            let buffer = self.allocate(what, &descriptor, false)?;
            let write = || {
                if let Ok(mut view) = buffer.slice(..).get_mapped_range_mut() {
                    view.copy_from_slice(&params);
                }
                buffer.unmap();
            };
            self.blaming(what, write)?;
            uniform = Some(buffer);
        }
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
        let descriptor =
            wgpu::BindGroupDescriptor { label: Some(path), layout: &kernel.layout, entries: &entries };
        let group = self.blaming(what, || self.device.create_bind_group(&descriptor))?;
        Ok(Prepared { node: node.to_owned(), path, kernel, group, _params: uniform, workgroups })
    }

    /// Runs launches in order, in one submission. Does not wait.
    pub(crate) fn submit<'a>(
        &self,
        launches: impl IntoIterator<Item = &'a Prepared>,
    ) -> Result<(), GpuError> {
        let launches: Vec<&Prepared> = launches.into_iter().collect();
        if let Some(profile) = &mut *self.profile.lock().expect("no panic while held") {
            profile.push(self.submit_stamped(&launches)?);
            return Ok(());
        }
        let run = || {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                for launch in &launches {
                    launch.encode(&mut pass);
                }
            }
            self.submit_commands([encoder.finish()]);
        };
        self.blaming(|| in_words(&launches), run)
    }

    /// Runs launches in order with a timestamp round each; `None`, and nothing is run, when the adapter has no timestamps.
    pub(crate) async fn submit_timed<'a>(
        &self,
        launches: impl IntoIterator<Item = &'a Prepared>,
    ) -> Result<Option<Vec<KernelTime>>, GpuError> {
        if !self.caps.timestamps {
            return Ok(None);
        }
        let stamped = self.submit_stamped(&launches.into_iter().collect::<Vec<_>>())?;
        Ok(Some(self.times(stamped, &mut None).await?.collect()))
    }

    /// Runs groups of launches in order, each group in a pass of its own. Returns when each began and ended, in
    /// seconds of the GPU's clock, after waiting for all; `None`, and nothing is run, when the adapter has no
    /// timestamps.
    #[cfg(feature = "bench")]
    pub(crate) async fn submit_passes(
        &self,
        passes: &[Vec<&Prepared>],
    ) -> Result<Option<Vec<[f64; 2]>>, GpuError> {
        if !self.caps.timestamps {
            return Ok(None);
        }
        let stamps = self.stamped(passes)?;
        Ok(Some(self.spans(&stamps, &mut None).await?))
    }

    /// Runs launches in order with a timestamp round each. Does not wait.
    fn submit_stamped(&self, launches: &[&Prepared]) -> Result<StampedLaunches, GpuError> {
        let passes: Vec<Vec<&Prepared>> = launches.iter().map(|&launch| vec![launch]).collect();
        Ok(StampedLaunches {
            launches: launches.iter().map(|launch| (launch.node.clone(), launch.path)).collect(),
            stamps: self.stamped(&passes)?,
        })
    }

    /// Runs groups of launches in order, each group in a pass of its own with a timestamp before and after it. Returns
    /// where these will be, as [`StampedLaunches::stamps`]; does not wait.
    fn stamped(&self, passes: &[Vec<&Prepared>]) -> Result<Vec<GpuTensor>, GpuError> {
        // A query set holds at most 4,096 queries.
        let stamped = passes.chunks(2048).map(|chunk| {
            let count = u32::try_from(chunk.len() * 2).expect("a chunk has at most 2,048 passes");
            let what = || in_words(&chunk.concat());
            let descriptor = wgpu::BufferDescriptor {
                label: Some("timestamps"),
                size: (count as u64 * 8).next_multiple_of(256),
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            };
            let resolved = self.allocate(what, &descriptor, false)?;
            let run = || {
                let queries = self.device.create_query_set(&wgpu::QuerySetDescriptor {
                    label: None,
                    ty: wgpu::QueryType::Timestamp,
                    count,
                });
                let mut encoder = self.device.create_command_encoder(&Default::default());
                for (first, launches) in (0..).step_by(2).zip(chunk) {
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                        label: launches.first().map(|launch| launch.path),
                        timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                            query_set: &queries,
                            beginning_of_pass_write_index: Some(first),
                            end_of_pass_write_index: Some(first + 1),
                        }),
                    });
                    for launch in launches {
                        launch.encode(&mut pass);
                    }
                }
                encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
                self.submit_commands([encoder.finish()]);
            };
            self.blaming(what, run)?;
            let desc = TensorDesc::u32(&[count as usize * 2]);
            Ok(GpuTensor { buffer: Arc::new(resolved), offset: 0, desc })
        });
        stamped.collect()
    }
}

impl Gpu {
    /// Runs `work` with a timestamp round every launch, and returns their times too: none when the adapter has no
    /// timestamps.
    ///
    /// # Errors
    /// When the times cannot be read.
    pub async fn profiled<T>(&self, work: impl AsyncFnOnce() -> T) -> Result<(T, Vec<KernelTime>), GpuError> {
        let profile = || self.profile.lock().expect("no panic while held");
        *profile() = self.caps.timestamps.then(Profile::default);
        let result = work().await;
        let stamped = profile().take().unwrap_or_default();
        let mut origin = None;
        let mut times = Vec::new();
        for submission in stamped {
            times.extend(self.times(submission, &mut origin).await?);
        }
        Ok((result, times))
    }

    /// The times of launches, counting from `origin` on the GPU's clock; from the first launch where it is not set.
    pub(super) async fn times(
        &self,
        StampedLaunches { launches, stamps }: StampedLaunches,
        origin: &mut Option<u64>,
    ) -> Result<impl Iterator<Item = KernelTime>, GpuError> {
        let spans = self.spans(&stamps, origin).await?;
        Ok(launches.into_iter().zip(spans).map(|((node, kernel), [begin, end])| KernelTime {
            node,
            kernel,
            begin,
            seconds: end - begin,
        }))
    }

    /// When what has these stamps began and ended, in seconds of the GPU's clock after `origin`; after the first began
    /// where it is not set.
    pub(super) async fn spans(
        &self,
        stamps: &[GpuTensor],
        origin: &mut Option<u64>,
    ) -> Result<Vec<[f64; 2]>, GpuError> {
        let period = self.queue.get_timestamp_period() as f64 * 1e-9;
        let mut spans = Vec::new();
        for stamps in stamps {
            let words: Vec<u32> = self.download(stamps).await?;
            let ticks: Vec<u64> =
                words.chunks_exact(2).map(|pair| u64::from(pair[0]) | u64::from(pair[1]) << 32).collect();
            // Differences of integers: a GPU's clock exceeds what f64 resolves to the nanosecond.
            let origin = *origin.get_or_insert(ticks[0]);
            let seconds = |tick: u64| tick.wrapping_sub(origin) as i64 as f64 * period;
            spans.extend(ticks.chunks_exact(2).map(|pair| [seconds(pair[0]), seconds(pair[1])]));
        }
        Ok(spans)
    }
}

/// What a submission consists of.
fn in_words(launches: &[&Prepared]) -> String {
    match launches {
        [] => "an empty submission".to_owned(),
        [one] => format!("{} ({})", one.node, one.path),
        [first, .., last] => format!("{} launches from {} to {}", launches.len(), first.node, last.node),
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
