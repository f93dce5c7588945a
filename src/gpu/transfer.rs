//! Moves tensors between the host's memory and the device's, through a few small buffers that both see.
//!
//! Values go in pieces: while the device copies one, the host copies the next. The buffers are kept, since making
//! one costs more than filling it.

use std::collections::VecDeque;

use super::buffer::GpuTensor;
use super::device::Gpu;
use super::error::GpuError;
use crate::tensor::TensorDesc;

/// Bytes of a buffer: large enough that a submission costs little beside copying it, small enough for a
/// processor's cache.
const PIECE: u64 = 4 << 20;
/// Buffers each way.
const PIECES: usize = 3;

impl Gpu {
    /// Uploads elements (f32 or u32; f16 or words that hold two of them each) into a new tensor.
    ///
    /// # Errors
    /// When the tensor cannot be allocated.
    pub fn upload<T: bytemuck::Pod>(&self, desc: &TensorDesc, data: &[T]) -> Result<GpuTensor, GpuError> {
        let tensor = self.unfilled(desc)?;
        self.write(&tensor, data)?;
        Ok(tensor)
    }

    /// Overwrites a tensor.
    ///
    /// # Errors
    /// When `data` has another length.
    pub fn write<T: bytemuck::Pod>(&self, tensor: &GpuTensor, data: &[T]) -> Result<(), GpuError> {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        if bytes.len() as u64 != tensor.desc.bytes() {
            return Err(GpuError::Execution(format!(
                "upload of {} bytes into a tensor of {}",
                bytes.len(),
                tensor.desc
            )));
        }
        if (bytes.len() as u64) < PIECE {
            // Goes along with the next submission.
            let write = || self.queue.write_buffer(&tensor.buffer, tensor.offset, bytes);
            return self.blaming(|| format!("writing {:?}", tensor.desc), write);
        }
        let mut ring = self.staging.up.lock().expect("no panic while held");
        for (ix, piece) in bytes.chunks(PIECE as usize).enumerate() {
            let buffer = match ring.len() < PIECES {
                true => self.staging_buffer(wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC)?,
                // On failure the buffer is gone, and the next upload makes another.
                false => {
                    let (buffer, submission) = ring.pop_front().expect("it holds some");
                    self.wait_until(Some(submission))?;
                    buffer
                }
            };
            let size = piece.len() as u64;
            let mut view = buffer.slice(..size).get_mapped_range_mut().map_err(failed)?;
            view.copy_from_slice(piece);
            drop(view);
            buffer.unmap();
            let start = tensor.offset + ix as u64 * PIECE;
            let copy = || {
                let mut encoder = self.device.create_command_encoder(&Default::default());
                encoder.copy_buffer_to_buffer(&buffer, 0, &tensor.buffer, start, size);
                let submission = self.submit_commands([encoder.finish()]);
                buffer.map_async(wgpu::MapMode::Write, .., |_| {});
                submission
            };
            let submission = self.blaming(|| format!("writing {:?}", tensor.desc), copy)?;
            ring.push_back((buffer, submission));
        }
        Ok(())
    }

    /// Downloads a tensor as 32-bit elements; those of an f16 tensor hold two of its own each.
    ///
    /// # Errors
    /// When the device is lost or an earlier command failed.
    pub fn download<T: bytemuck::Pod>(&self, tensor: &GpuTensor) -> Result<Vec<T>, GpuError> {
        let bytes = tensor.desc.bytes();
        let mut values = Vec::with_capacity(bytes as usize / size_of::<T>());
        let mut free = self.staging.down.lock().expect("no panic while held");
        let mut flying = VecDeque::new();
        let mut start = 0;
        loop {
            while start < bytes && flying.len() < PIECES {
                let buffer = match free.pop() {
                    Some(buffer) => buffer,
                    None => {
                        self.staging_buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)?
                    }
                };
                let size = PIECE.min(bytes - start);
                let copy = || {
                    let mut encoder = self.device.create_command_encoder(&Default::default());
                    encoder.copy_buffer_to_buffer(&tensor.buffer, tensor.offset + start, &buffer, 0, size);
                    let submission = self.submit_commands([encoder.finish()]);
                    buffer.map_async(wgpu::MapMode::Read, ..size, |_| {});
                    submission
                };
                let submission = self.blaming(|| format!("reading {:?}", tensor.desc), copy)?;
                flying.push_back((buffer, submission, size));
                start += size;
            }
            let Some((buffer, submission, size)) = flying.pop_front() else { break };
            self.wait_until(Some(submission))?;
            let view = buffer.slice(..size).get_mapped_range().map_err(failed)?;
            values.extend_from_slice(bytemuck::cast_slice(&view));
            drop(view);
            buffer.unmap();
            free.push(buffer);
        }
        Ok(values)
    }

    /// Copies a tensor into another, from element `offset` of it on.
    ///
    /// # Errors
    /// When it does not fit, begins within a 32-bit word, or an earlier command failed.
    pub fn copy(&self, from: &GpuTensor, to: &GpuTensor, offset: usize) -> Result<(), GpuError> {
        let (bytes, start) = (from.desc.bytes(), offset as u64 * to.desc.dtype.bytes());
        if start + bytes > to.desc.bytes() {
            let reason = format!("copy of {} elements to {offset} of {}", from.desc.len(), to.desc);
            return Err(GpuError::Execution(reason));
        }
        let run = || {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(&from.buffer, from.offset, &to.buffer, to.offset + start, bytes);
            self.submit_commands([encoder.finish()]);
        };
        self.blaming(|| format!("copying {:?} into {:?}", from.desc, to.desc), run)
    }

    /// A new buffer of [`PIECE`]; one to write to is mapped.
    fn staging_buffer(&self, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer, GpuError> {
        let descriptor = wgpu::BufferDescriptor {
            label: Some("staging"),
            size: PIECE,
            usage,
            mapped_at_creation: usage.contains(wgpu::BufferUsages::MAP_WRITE),
        };
        self.blaming(|| format!("{PIECE} bytes for transfers"), || self.device.create_buffer(&descriptor))
    }
}

fn failed(error: impl ToString) -> GpuError {
    GpuError::Execution(error.to_string())
}
