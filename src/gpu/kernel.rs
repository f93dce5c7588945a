//! From a key to a compiled pipeline, with its bindings and parameter layout reflected from naga.

use std::collections::BTreeMap;

use super::dispatch::{KernelKey, Params, Scalar};
use super::error::GpuError;
use super::launch::Launch;
use super::shader::{self, Replacement};

/// Bindings and parameter layout of a kernel, read from its module so that no list is kept by hand.
#[derive(Clone, Debug, Default)]
pub struct Reflection {
    /// Storage bindings by variable name: binding number and whether the kernel writes it.
    pub storage: BTreeMap<String, (u32, bool)>,
    /// Binding number of the `Params` uniform.
    pub uniform: Option<u32>,
    /// Fields of `Params`: name, byte offset, number of 4-byte words.
    pub fields: Vec<(String, u32, u32)>,
    /// Size of `Params` in bytes.
    pub params_bytes: u32,
    /// `@workgroup_size`.
    pub workgroup_size: [u32; 3],
}

impl Reflection {
    /// Reads bindings, `Params` and the workgroup size of the entry point `main`.
    ///
    /// # Errors
    /// A binding of a kind or group that the engine does not serve.
    pub fn of(path: &str, module: &naga::Module) -> Result<Self, GpuError> {
        let fail = |reason: String| GpuError::Mismatch { path: path.to_owned(), reason };
        let mut reflection = Self::default();
        for (_, global) in module.global_variables.iter() {
            let Some(binding) = &global.binding else { continue };
            let name = global.name.clone().unwrap_or_default();
            if binding.group != 0 {
                return Err(fail(format!("binding '{name}' is outside group 0")));
            }
            match global.space {
                naga::AddressSpace::Storage { access } => {
                    let writes = access.contains(naga::StorageAccess::STORE);
                    reflection.storage.insert(name, (binding.binding, writes));
                }
                naga::AddressSpace::Uniform => {
                    let naga::TypeInner::Struct { members, span } = &module.types[global.ty].inner else {
                        return Err(fail(format!("uniform '{name}' is not a struct")));
                    };
                    reflection.uniform = Some(binding.binding);
                    reflection.params_bytes = *span;
                    for member in members {
                        let words = match module.types[member.ty].inner {
                            naga::TypeInner::Scalar(_) => 1,
                            naga::TypeInner::Vector { size, .. } => size as u32,
                            _ => return Err(fail(format!("field {:?} has an unserved type", member.name))),
                        };
                        reflection.fields.push((
                            member.name.clone().unwrap_or_default(),
                            member.offset,
                            words,
                        ));
                    }
                }
                _ => return Err(fail(format!("binding '{name}' is of an unserved kind"))),
            }
        }
        match module.entry_points.as_slice() {
            [entry] if entry.name == "main" => reflection.workgroup_size = entry.workgroup_size,
            _ => return Err(fail("a kernel has exactly one entry point, `main`".to_owned())),
        }
        Ok(reflection)
    }

    /// Packs named parameters in the layout of `Params`.
    ///
    /// # Errors
    /// A name that the kernel does not have, or a field without a value.
    pub fn pack(&self, path: &str, params: &Params) -> Result<Vec<u8>, GpuError> {
        let fail = |reason: String| GpuError::Mismatch { path: path.to_owned(), reason };
        let mut bytes = vec![0u8; self.params_bytes as usize];
        for (name, value) in &params.0 {
            if !self.fields.iter().any(|(field, _, _)| field == name) {
                return Err(fail(format!("Params has no field '{name}' (value {value:?})")));
            }
        }
        for (field, offset, words) in &self.fields {
            let value = params.0.iter().find(|(name, _)| name == field).map(|(_, value)| value);
            let packed: Vec<u8> = match value {
                Some(Scalar::U32(v)) => v.to_le_bytes().to_vec(),
                Some(Scalar::I32(v)) => v.to_le_bytes().to_vec(),
                Some(Scalar::F32(v)) => v.to_le_bytes().to_vec(),
                Some(Scalar::F32x4(v)) => bytemuck::cast_slice(v).to_vec(),
                Some(Scalar::U32x4(v)) => bytemuck::cast_slice(v).to_vec(),
                Some(Scalar::TooLarge) => {
                    let reason = format!(
                        "Params field '{field}' needs more than 32 bits; use a smaller grid or batch"
                    );
                    return Err(fail(reason));
                }
                None => return Err(fail(format!("no value for Params field '{field}'"))),
            };
            if packed.len() != *words as usize * 4 {
                return Err(fail(format!("Params field '{field}' has {words} words, the value does not")));
            }
            bytes[*offset as usize..][..packed.len()].copy_from_slice(&packed);
        }
        Ok(bytes)
    }
}

/// A compiled kernel.
#[derive(Debug)]
pub struct Kernel {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
    /// The launch that its source states in place of the operator's.
    pub(super) launch: Option<Launch>,
    /// Bindings and parameters.
    pub reflection: Reflection,
}

impl Kernel {
    /// Assembles, validates and compiles. `checked` keeps naga's run-time bounds checks.
    pub(super) fn compile(
        device: &wgpu::Device,
        key: &KernelKey,
        replacement: Option<&Replacement>,
        checked: bool,
    ) -> Result<Self, GpuError> {
        let shader = shader::assemble(key, replacement)?;
        let (module, _) = shader::validate(key, &shader)?;
        let reflection = Reflection::of(key.path, &module)?;
        let launch = replacement.map(|own| Launch::of(key.path, own, &module)).transpose()?.flatten();
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(key.path),
            source: wgpu::ShaderSource::Naga(std::borrow::Cow::Owned(module)),
        };
        let module = if checked {
            device.create_shader_module(descriptor)
        } else {
            // SAFETY: no embedded kernel indexes beyond its buffers. Most indices follow from shapes that
            // `Operator::infer` has validated. Those that follow from data are clamped where they are used, NaN
            // included (bins of histograms, knots of tone curves and of N4's shift, taps of resampling), masked bits
            // of it (digits of percentiles), or numbers that the kernels of the same operator have themselves written
            // for every voxel (nodes of the union-find, labels whose sizes are counted, parabolas of the distance).
            // The tests run all of them with the checks on, on awkward shapes. A kernel of the user's own comes here
            // when it has given the right results with the checks on: then the responsibility is the user's.
            unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
        };
        let entry = |binding: u32, ty| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let mut entries: Vec<_> = reflection
            .storage
            .values()
            .map(|&(binding, writes)| entry(binding, wgpu::BufferBindingType::Storage { read_only: !writes }))
            .collect();
        entries.extend(reflection.uniform.map(|binding| entry(binding, wgpu::BufferBindingType::Uniform)));
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(key.path),
            entries: &entries,
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(key.path),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(key.path),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                // Every kernel writes its workgroup memory before reading it.
                zero_initialize_workgroup_memory: checked,
                ..Default::default()
            },
            cache: None,
        });
        Ok(Self { pipeline, layout, launch, reflection })
    }
}
