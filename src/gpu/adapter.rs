//! Adapter choice and what kernels may rely on.

use serde::Serialize;

use super::GpuError;

/// Classes in order of preference; heuristics for kernel variants start from the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceClass {
    /// A GPU with memory of its own.
    Discrete,
    /// A GPU that shares the host's memory.
    Integrated,
    /// A GPU behind a hypervisor, or of unknown type.
    Other,
    /// A driver that computes on the CPU (lavapipe, SwiftShader, WARP).
    Software,
}

/// An adapter in words, for `trephine devices` and reports.
#[derive(Clone, Debug, Serialize)]
pub struct AdapterSummary {
    /// Position in the list, in order of preference.
    pub index: usize,
    /// The adapter's name.
    pub name: String,
    /// vulkan, metal, dx12 or gl.
    pub backend: String,
    /// The driver and its version.
    pub driver: String,
    /// Class the adapter falls in.
    #[serde(rename = "type")]
    pub class: DeviceClass,
    /// Largest storage binding in bytes.
    pub max_storage_binding_bytes: u64,
    /// Largest buffer in bytes.
    pub max_buffer_bytes: u64,
    /// Workgroup memory in bytes.
    pub workgroup_bytes: u32,
    /// Invocations in a workgroup.
    pub workgroup_invocations: u32,
    /// Storage buffers a stage.
    pub storage_buffers: u32,
    /// Optional features that Trephine knows how to use.
    pub features: Vec<String>,
}

/// What kernels may rely on: the limits and optional features of the open device.
#[derive(Clone, Debug)]
pub struct Caps {
    /// Class of the adapter.
    pub class: DeviceClass,
    /// Largest storage binding in bytes.
    pub max_binding: u64,
    /// Largest buffer in bytes.
    pub max_buffer: u64,
    /// Offsets of bindings must be multiples of this.
    pub offset_alignment: u64,
    /// Timestamps are available.
    pub timestamps: bool,
    /// Kernels may `enable f16;`.
    pub f16: bool,
    /// Kernels move f32 as 64-bit integers, two at a time: on a processor, whose driver loads and stores lane by lane.
    pub wide: bool,
    /// Smallest and largest number of invocations in a subgroup, where kernels may use subgroup operations.
    pub subgroup_size: Option<[u32; 2]>,
    /// Edge of the square tiles that cooperative matrices multiply, f16 into f32, where kernels may
    /// `enable wgpu_cooperative_matrix;`.
    pub cooperative_tile: Option<u32>,
}

impl Caps {
    /// Lanes of a subgroup, where kernels may use subgroup operations and every subgroup has as many.
    pub fn lanes(&self) -> Option<u32> {
        self.subgroup_size.filter(|[least, most]| least == most).map(|[_, most]| most)
    }

    /// WebGPU's default limits on an unknown adapter: what every kernel must work within.
    pub fn webgpu_defaults() -> Self {
        Self {
            class: DeviceClass::Other,
            max_binding: 128 << 20,
            max_buffer: 256 << 20,
            offset_alignment: 256,
            timestamps: false,
            f16: false,
            wide: false,
            subgroup_size: None,
            cooperative_tile: None,
        }
    }
}

const OPTIONAL: [(wgpu::Features, &str); 5] = [
    (wgpu::Features::TIMESTAMP_QUERY, "timestamps"),
    (wgpu::Features::SHADER_F16, "f16"),
    (wgpu::Features::SUBGROUP, "subgroups"),
    (wgpu::Features::SHADER_INT64, "64-bit integers"),
    (wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX, "cooperative matrix"),
];

async fn enumerate() -> Vec<(wgpu::Adapter, AdapterSummary)> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    descriptor.backends = wgpu::Backends::PRIMARY;
    let instance = wgpu::Instance::new(descriptor);
    let mut found: Vec<_> = instance
        .enumerate_adapters(wgpu::Backends::PRIMARY)
        .await
        .into_iter()
        .map(|adapter| {
            let summary = summarise(&adapter);
            (adapter, summary)
        })
        .collect();
    found.sort_by_key(|(_, summary)| summary.class);
    for (index, (_, summary)) in found.iter_mut().enumerate() {
        summary.index = index;
    }
    found
}

fn summarise(adapter: &wgpu::Adapter) -> AdapterSummary {
    let info = adapter.get_info();
    let limits = adapter.limits();
    let features = optional_features(adapter);
    AdapterSummary {
        index: 0,
        backend: info.backend.to_string(),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        class: match info.device_type {
            wgpu::DeviceType::DiscreteGpu => DeviceClass::Discrete,
            wgpu::DeviceType::IntegratedGpu => DeviceClass::Integrated,
            wgpu::DeviceType::Cpu => DeviceClass::Software,
            wgpu::DeviceType::VirtualGpu | wgpu::DeviceType::Other => DeviceClass::Other,
        },
        name: info.name,
        max_storage_binding_bytes: limits.max_storage_buffer_binding_size,
        max_buffer_bytes: limits.max_buffer_size,
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        workgroup_invocations: limits.max_compute_invocations_per_workgroup,
        storage_buffers: limits.max_storage_buffers_per_shader_stage,
        features: OPTIONAL
            .iter()
            .filter(|(flag, _)| features.contains(*flag))
            .map(|(_, name)| (*name).to_owned())
            .collect(),
    }
}

/// Every adapter, best first.
pub async fn list_adapters() -> Vec<AdapterSummary> {
    enumerate().await.into_iter().map(|(_, summary)| summary).collect()
}

/// An adapter, and the others that what the user asked for fits as well.
pub(super) type Chosen = (wgpu::Adapter, AdapterSummary, Vec<AdapterSummary>);

/// The adapter with this number, or the first whose name contains this text; the best one without.
pub(super) async fn choose(wanted: Option<&str>) -> Result<Chosen, GpuError> {
    let mut found = enumerate().await;
    let names: Vec<&str> = found.iter().map(|(_, summary)| summary.name.as_str()).collect();
    let fitting = fitting(wanted, &names)?;
    let others = fitting[1..].iter().map(|&position| found[position].1.clone()).collect();
    let (adapter, summary) = found.swap_remove(fitting[0]);
    Ok((adapter, summary, others))
}

/// Positions of the adapters that `wanted` means, at least one. Digits are a position, whatever the names hold.
fn fitting(wanted: Option<&str>, names: &[&str]) -> Result<Vec<usize>, GpuError> {
    if names.is_empty() {
        return Err(GpuError::NoAdapter);
    }
    let Some(wanted) = wanted.map(str::trim) else { return Ok(vec![0]) };
    let fitting: Vec<usize> = if wanted.is_empty() {
        Vec::new()
    } else if wanted.bytes().all(|byte| byte.is_ascii_digit()) {
        wanted.parse().into_iter().filter(|&position: &usize| position < names.len()).collect()
    } else {
        let part = wanted.to_lowercase();
        (0..names.len()).filter(|&position| names[position].to_lowercase().contains(&part)).collect()
    };
    if fitting.is_empty() {
        let listed = names.iter().enumerate().map(|(index, name)| format!("{index}: {name}"));
        return Err(GpuError::NoSuchDevice {
            wanted: wanted.to_owned(),
            available: listed.collect::<Vec<_>>().join(", "),
        });
    }
    Ok(fitting)
}

/// The optional features that Trephine uses and the adapter offers.
fn optional_features(adapter: &wgpu::Adapter) -> wgpu::Features {
    let wanted = OPTIONAL.iter().fold(wgpu::Features::empty(), |all, (flag, _)| all | *flag);
    let mut features = adapter.features() & wanted;
    if cooperative_tile(adapter, features).is_none() {
        features.remove(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
    }
    features
}

/// Edge of the largest square tile that the adapter multiplies from f16 into f32.
fn cooperative_tile(adapter: &wgpu::Adapter, features: wgpu::Features) -> Option<u32> {
    let needed = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
        | wgpu::Features::SHADER_F16
        | wgpu::Features::SUBGROUP;
    if !features.contains(needed) {
        return None;
    }
    let info = adapter.get_info();
    adapter
        .cooperative_matrix_properties()
        .iter()
        .filter(|p| p.m_size == p.n_size && p.m_size == p.k_size)
        .filter(|p| p.ab_type == wgpu::CooperativeScalarType::F16)
        .filter(|p| p.cr_type == wgpu::CooperativeScalarType::F32)
        .map(|p| p.m_size)
        // The tiles that WGSL has types for.
        .filter(|size| matches!(size, 8 | 16))
        // Mesa's llvmpipe lists matrices of edge 8 whatever its vectors hold, and ends the process with a segmentation
        // fault when a kernel uses them on 16 lanes (Mesa 26.1 with AVX-512).
        .filter(|&size| info.device_type != wgpu::DeviceType::Cpu || info.subgroup_max_size <= size)
        .max()
}

/// Opens the adapter with its own limits and the optional features that Trephine uses.
pub(super) async fn request_device(
    adapter: &wgpu::Adapter,
    summary: &AdapterSummary,
) -> Result<(wgpu::Device, wgpu::Queue, Caps), GpuError> {
    let features = optional_features(adapter);
    let cooperative_tile = cooperative_tile(adapter, features);
    let limits = adapter.limits();
    let info = adapter.get_info();
    let caps = Caps {
        class: summary.class,
        max_binding: limits.max_storage_buffer_binding_size,
        max_buffer: limits.max_buffer_size,
        offset_alignment: limits.min_storage_buffer_offset_alignment as u64,
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
        f16: features.contains(wgpu::Features::SHADER_F16),
        wide: summary.class == DeviceClass::Software && features.contains(wgpu::Features::SHADER_INT64),
        subgroup_size: features
            .contains(wgpu::Features::SUBGROUP)
            .then_some([info.subgroup_min_size, info.subgroup_max_size]),
        cooperative_tile,
    };
    let experimental_features = match cooperative_tile {
        // SAFETY: wgpu guards extensions whose interface may change; kernels that use cooperative matrices are
        // validated by naga, run on tiles of the size that the adapter lists, and are checked like any other.
        Some(_) => unsafe { wgpu::ExperimentalFeatures::enabled() },
        None => wgpu::ExperimentalFeatures::disabled(),
    };
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("trephine"),
        required_features: features,
        required_limits: limits,
        experimental_features,
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        trace: wgpu::Trace::Off,
    };
    let opened = adapter.request_device(&descriptor).await;
    let (device, queue) =
        opened.map_err(|e| GpuError::Open { adapter: summary.name.clone(), reason: e.to_string() })?;
    Ok((device, queue, caps))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] =
        ["NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090", "AMD Radeon 780M", "llvmpipe (LLVM 19.1.7)"];

    #[test]
    fn a_number_is_an_index_whatever_the_names_hold() {
        assert_eq!(fitting(None, &NAMES).unwrap(), [0]);
        assert_eq!(fitting(Some("3"), &NAMES).unwrap(), [3]);
        // All are digits of some name.
        for wanted in ["9", "4090", "19", "4", "00000000000000000000000000000000000780"] {
            let error = fitting(Some(wanted), &NAMES).unwrap_err().to_string();
            assert!(
                error.contains(&format!("'{wanted}'")) && error.contains("2: AMD Radeon 780M"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_part_of_a_name_means_all_adapters_that_have_it() {
        assert_eq!(fitting(Some("radeon"), &NAMES).unwrap(), [2]);
        assert_eq!(fitting(Some("RTX 40"), &NAMES).unwrap(), [0, 1]);
        assert_eq!(fitting(Some("LLVM 19"), &NAMES).unwrap(), [3]);
        for nothing in ["", " ", "intel", "-1"] {
            assert!(
                matches!(fitting(Some(nothing), &NAMES), Err(GpuError::NoSuchDevice { .. })),
                "{nothing}"
            );
        }
        assert!(matches!(fitting(Some("0"), &[]), Err(GpuError::NoAdapter)));
    }
}
