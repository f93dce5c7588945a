//! Moves tensors between the host's memory and the device's, through a few small buffers that both see.
//!
//! Values go in pieces: while the device copies one, the host copies the next. The buffers are kept, since making
//! one costs more than filling it.

use std::collections::VecDeque;

use super::buffer::{CountedBuffer, GpuTensor, InFlight, PIECE, PIECES};
use super::completion::Completion;
use super::device::Gpu;
use super::error::GpuError;
use crate::tensor::TensorDesc;

impl Gpu {
    /// Uploads elements (f32 or u32; f16 or words that hold two of them each) into a new tensor.
    ///
    /// # Errors
    /// When the tensor cannot be allocated.
    pub async fn upload<T: bytemuck::Pod>(
        &self,
        desc: &TensorDesc,
        data: &[T],
    ) -> Result<GpuTensor, GpuError> {
        let tensor = self.unfilled(desc)?;
        self.write(&tensor, data).await?;
        Ok(tensor)
    }

    /// Overwrites a tensor. Waits for the device where it has not copied yet what was written before.
    ///
    /// # Errors
    /// When `data` has another length.
    pub async fn write<T: bytemuck::Pod>(&self, tensor: &GpuTensor, data: &[T]) -> Result<(), GpuError> {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        if (bytes.len() as u64) < PIECE {
            return self.write_at_once(tensor, bytes);
        }
        check_length(tensor, bytes)?;
        for (ix, piece) in bytes.chunks(PIECE as usize).enumerate() {
            let buffer = self.buffer_to_write_to().await?;
            let size = piece.len() as u64;
            let mut view = buffer.slice(..size).get_mapped_range_mut().map_err(failed)?;
            view.copy_from_slice(piece);
            drop(view);
            buffer.unmap();
            let start = tensor.offset + ix as u64 * PIECE;
            let mapped = Completion::new();
            let copy = || {
                let mut encoder = self.device.create_command_encoder(&Default::default());
                encoder.copy_buffer_to_buffer(&buffer, 0, &tensor.buffer, start, size);
                let submission = self.submit_commands([encoder.finish()]);
                buffer.map_async(wgpu::MapMode::Write, .., mapped.callback());
                submission
            };
            let submission = self.blaming(|| format!("writing {:?}", tensor.desc), copy)?;
            let mut ring = self.staging.up.lock().expect("no panic while held");
            ring.push_back(InFlight { buffer, submission, mapped });
        }
        Ok(())
    }

    /// As [`Gpu::write`], along with the next submission. The driver keeps a copy until then: for small tensors.
    ///
    /// # Errors
    /// When `data` has another length.
    pub(crate) fn write_at_once<T: bytemuck::Pod>(
        &self,
        tensor: &GpuTensor,
        data: &[T],
    ) -> Result<(), GpuError> {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        check_length(tensor, bytes)?;
        let write = || self.queue.write_buffer(&tensor.buffer, tensor.offset, bytes);
        self.blaming(|| format!("writing {:?}", tensor.desc), write)
    }

    /// A mapped buffer of [`PIECE`]: a new one while there are few, else the one that was written to first.
    async fn buffer_to_write_to(&self) -> Result<CountedBuffer, GpuError> {
        let oldest = {
            let mut ring = self.staging.up.lock().expect("no panic while held");
            if ring.len() < PIECES { None } else { ring.pop_front() }
        };
        match oldest {
            None => self.staging_buffer(wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC),
            // On failure the buffer is gone, and the next upload makes another.
            Some(InFlight { buffer, submission, mapped }) => {
                self.until(Some(submission), mapped).await?;
                Ok(buffer)
            }
        }
    }

    /// Downloads a tensor as 32-bit elements; those of an f16 tensor hold two of its own each.
    ///
    /// # Errors
    /// When the device is lost or an earlier command failed.
    pub async fn download<T: bytemuck::Pod>(&self, tensor: &GpuTensor) -> Result<Vec<T>, GpuError> {
        let [values] = self.download_each([tensor]).await?;
        Ok(values)
    }

    /// As [`Gpu::download`], several tensors in one wait where they are small.
    ///
    /// # Errors
    /// As [`Gpu::download`].
    pub async fn download_each<T: bytemuck::Pod, const N: usize>(
        &self,
        tensors: [&GpuTensor; N],
    ) -> Result<[Vec<T>; N], GpuError> {
        let mut values =
            tensors.map(|tensor| Vec::with_capacity(tensor.desc.bytes() as usize / size_of::<T>()));
        let mut pieces = tensors.iter().enumerate().flat_map(|(ix, tensor)| {
            let bytes = tensor.desc.bytes();
            (0..bytes)
                .step_by(PIECE as usize)
                .map(move |start| (ix, *tensor, start, PIECE.min(bytes - start)))
        });
        let mut flying = VecDeque::new();
        loop {
            while flying.len() < PIECES
                && let Some((ix, tensor, start, size)) = pieces.next()
            {
                flying.push_back((ix, self.read_piece(tensor, start, size)?, size));
            }
            let Some((ix, InFlight { buffer, submission, mapped }, size)) = flying.pop_front() else { break };
            self.until(Some(submission), mapped).await?;
            let view = buffer.slice(..size).get_mapped_range().map_err(failed)?;
            values[ix].extend_from_slice(bytemuck::cast_slice(&view));
            drop(view);
            buffer.unmap();
            let mut free = self.staging.down.lock().expect("no panic while held");
            if free.len() < PIECES {
                free.push(buffer);
            }
        }
        Ok(values)
    }

    /// Begins to copy `size` bytes of a tensor, from byte `start` on, to the host.
    fn read_piece(&self, tensor: &GpuTensor, start: u64, size: u64) -> Result<InFlight, GpuError> {
        let free = self.staging.down.lock().expect("no panic while held").pop();
        let buffer = match free {
            Some(buffer) => buffer,
            None => self.staging_buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)?,
        };
        let mapped = Completion::new();
        let copy = || {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(&tensor.buffer, tensor.offset + start, &buffer, 0, size);
            let submission = self.submit_commands([encoder.finish()]);
            buffer.map_async(wgpu::MapMode::Read, ..size, mapped.callback());
            submission
        };
        let submission = self.blaming(|| format!("reading {:?}", tensor.desc), copy)?;
        Ok(InFlight { buffer, submission, mapped })
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
    fn staging_buffer(&self, usage: wgpu::BufferUsages) -> Result<CountedBuffer, GpuError> {
        let descriptor = wgpu::BufferDescriptor {
            label: Some("staging"),
            size: PIECE,
            usage,
            mapped_at_creation: usage.contains(wgpu::BufferUsages::MAP_WRITE),
        };
        self.allocate(|| format!("{PIECE} bytes for transfers"), &descriptor, false)
    }
}

/// Whether a tensor takes so many bytes.
fn check_length(tensor: &GpuTensor, bytes: &[u8]) -> Result<(), GpuError> {
    if bytes.len() as u64 == tensor.desc.bytes() {
        return Ok(());
    }
    let reason = format!("upload of {} bytes into a tensor of {}", bytes.len(), tensor.desc);
    Err(GpuError::Execution(reason))
}

fn failed(error: impl ToString) -> GpuError {
    GpuError::Execution(error.to_string())
}
