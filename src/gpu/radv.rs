//! What AMD's compiler makes of a kernel, without AMD's hardware: Mesa's driver on its null device.
//!
//! Where the variable RADV_FORCE_FAMILY names a family of GPUs, Mesa's driver RADV (up to the versions that dropped it; Debian 12
//! has 22.3) opens a device of that family that runs nothing but compiles all. The driver reads it when it is loaded, so that
//! [`compile_spirv`] belongs into a process of its own that [`process`] prepares.

use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use ash::vk;
use serde::{Deserialize, Serialize};

use super::dispatch::KernelKey;
use super::error::GpuError;
use super::kernel::Reflection;
use super::shader::{self, Replacement};

/// A kernel as a driver gets it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SpirvKernel {
    words: Vec<u32>,
    storage: Vec<u32>,
    uniform: Option<u32>,
}

/// What a compiler says of a kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Compilation {
    /// Statistics by the names that the driver gives them.
    pub statistics: Vec<(String, f64)>,
    /// The machine code as text.
    pub listing: String,
}

impl SpirvKernel {
    /// Translates a kernel as the program compiles it: without bounds checks.
    ///
    /// # Errors
    /// A source that does not assemble or validate, or that SPIR-V cannot express.
    pub fn of(key: &KernelKey, replacement: Option<&Replacement>) -> Result<Self, GpuError> {
        let assembled = shader::assemble(key, replacement)?;
        let (module, info) = shader::validate(key, &assembled)?;
        let reflection = Reflection::of(key.path, &module)?;
        let options = naga::back::spv::Options {
            force_loop_bounding: false,
            zero_initialize_workgroup_memory: naga::back::spv::ZeroInitializeWorkgroupMemoryMode::None,
            ..Default::default()
        };
        let words = naga::back::spv::write_vec(&module, &info, &options, None).map_err(|error| {
            GpuError::Shader { path: key.path.to_owned(), reason: format!("has no SPIR-V: {error}") }
        })?;
        let storage = reflection.storage.values().map(|&(binding, _)| binding).collect();
        Ok(Self { words, storage, uniform: reflection.uniform })
    }
}

/// A command that runs `program` where RADV is the only driver and opens its null device as a GPU of this family.
///
/// # Errors
/// What is missing, and how to get it.
pub fn process(program: &Path, family: &str) -> Result<Command, String> {
    let driver = driver().ok_or(
        "Mesa's driver for AMD is not installed; on Debian 12: apt-get install mesa-vulkan-drivers libvulkan1",
    )?;
    let mut command = Command::new(program);
    command.env("RADV_FORCE_FAMILY", family).env("VK_ICD_FILENAMES", &driver).env("VK_DRIVER_FILES", &driver);
    // What a cache holds has no machine code to show.
    command.env("MESA_SHADER_CACHE_DISABLE", "true").env("MESA_GLSL_CACHE_DISABLE", "true");
    Ok(command)
}

/// The file that tells the Vulkan loader of RADV.
fn driver() -> Option<PathBuf> {
    let folders = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
    let files = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let ours = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("radeon_icd") && name.contains(std::env::consts::ARCH) && name.ends_with(".json")
    };
    files.map(|file| file.path()).find(ours)
}

/// Compiles kernels with the first adapter there is, one after the other.
///
/// # Errors
/// What is missing, or what the driver says.
pub fn compile_spirv(kernels: &[SpirvKernel]) -> Result<Vec<Compilation>, String> {
    // SAFETY: the Vulkan loader is a library of the system; nothing else uses it in this process.
    let entry = unsafe { ash::Entry::load() }
        .map_err(|e| format!("no Vulkan loader ({e}); on Debian: apt-get install libvulkan1"))?;
    let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_2);
    let info = vk::InstanceCreateInfo::default().application_info(&application);
    let none = "the driver offers no device for this family: its name may be wrong, or this Mesa is one that dropped the null \
                device; Debian 12's Mesa 22.3 has it";
    // SAFETY: `info` and what it points at live until the call returns.
    let instance = unsafe { entry.create_instance(&info, None) }.map_err(|e| format!("{none} ({e})"))?;
    // SAFETY: the instance is alive; it and all that is made of it end with the process.
    let physical = unsafe { instance.enumerate_physical_devices() }.unwrap_or_default();
    let physical = *physical.first().ok_or(none)?;
    let device =
        open(&instance, physical).map_err(|e| format!("the driver's null device does not open ({e})"))?;
    let executable = ash::khr::pipeline_executable_properties::Device::new(&instance, &device);
    let compile = |kernel| {
        compile(&device, &executable, kernel).map_err(|e| format!("the driver refuses the kernel ({e})"))
    };
    kernels.iter().map(compile).collect()
}

fn open(instance: &ash::Instance, physical: vk::PhysicalDevice) -> Result<ash::Device, vk::Result> {
    let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
    let extensions = [ash::khr::pipeline_executable_properties::NAME.as_ptr()];
    let mut vulkan11 = vk::PhysicalDeviceVulkan11Features::default().storage_buffer16_bit_access(true);
    let mut vulkan12 = vk::PhysicalDeviceVulkan12Features::default().shader_float16(true);
    let mut executable =
        vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
    let info = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(&extensions)
        .push_next(&mut vulkan11)
        .push_next(&mut vulkan12)
        .push_next(&mut executable);
    // SAFETY: `info` and what it points at live until the call returns.
    unsafe { instance.create_device(physical, &info, None) }
}

fn compile(
    device: &ash::Device,
    executable: &ash::khr::pipeline_executable_properties::Device,
    kernel: &SpirvKernel,
) -> Result<Compilation, vk::Result> {
    let binding = |at: u32, kind| {
        vk::DescriptorSetLayoutBinding::default()
            .binding(at)
            .descriptor_type(kind)
            .descriptor_count(1)
            .stage_flags(vk::ShaderStageFlags::COMPUTE)
    };
    let mut bindings: Vec<_> =
        kernel.storage.iter().map(|&at| binding(at, vk::DescriptorType::STORAGE_BUFFER)).collect();
    bindings.extend(kernel.uniform.map(|at| binding(at, vk::DescriptorType::UNIFORM_BUFFER)));
    // SAFETY: every structure lives until the call that gets it returns, the words are SPIR-V that naga has written, and
    // all handles are of this device, which ends with the process.
    unsafe {
        let code = vk::ShaderModuleCreateInfo::default().code(&kernel.words);
        let module = device.create_shader_module(&code, None)?;
        let set = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
        let sets = [device.create_descriptor_set_layout(&set, None)?];
        let layout = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
        let layout = device.create_pipeline_layout(&layout, None)?;
        let stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(module)
            .name(c"main");
        let info = vk::ComputePipelineCreateInfo::default()
            .flags(
                vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                    | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR,
            )
            .stage(stage)
            .layout(layout);
        let pipelines = device.create_compute_pipelines(vk::PipelineCache::null(), &[info], None);
        let pipeline = pipelines.map_err(|(_, error)| error)?[0];
        let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
        let statistics = executable.get_pipeline_executable_statistics(&info)?;
        let statistics = statistics.iter().map(|s| (text(&s.name), number(s))).collect();
        let listing = listing(device, executable, &info)?;
        device.destroy_pipeline(pipeline, None);
        Ok(Compilation { statistics, listing })
    }
}

/// The last of the texts that the driver keeps of a pipeline: the machine code.
///
/// # Safety
/// The pipeline of `info` is alive and was made with its representations captured.
unsafe fn listing(
    device: &ash::Device,
    executable: &ash::khr::pipeline_executable_properties::Device,
    info: &vk::PipelineExecutableInfoKHR<'_>,
) -> Result<String, vk::Result> {
    let get = executable.fp().get_pipeline_executable_internal_representations_khr;
    let mut count = 0;
    // SAFETY: without an array the call only counts.
    unsafe { get(device.handle(), info, &mut count, std::ptr::null_mut()) }.result()?;
    let mut texts = vec![vk::PipelineExecutableInternalRepresentationKHR::default(); count as usize];
    // SAFETY: the array has room for `count`, and without buffers the call gives the sizes of the texts.
    unsafe { get(device.handle(), info, &mut count, texts.as_mut_ptr()) }.result()?;
    let mut buffers: Vec<Vec<u8>> = texts.iter().map(|text| vec![0; text.data_size]).collect();
    for (text, buffer) in texts.iter_mut().zip(&mut buffers) {
        text.p_data = buffer.as_mut_ptr().cast();
    }
    // SAFETY: every text points at a buffer of the size that the driver gave.
    unsafe { get(device.handle(), info, &mut count, texts.as_mut_ptr()) }.result()?;
    let text = |buffer: &Vec<u8>| String::from_utf8_lossy(buffer).trim_end_matches('\0').to_owned();
    Ok(buffers.last().map(text).unwrap_or_default())
}

fn text(name: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = name.iter().map(|&c| c.to_ne_bytes()[0]).collect();
    CStr::from_bytes_until_nul(&bytes).unwrap_or_default().to_string_lossy().into_owned()
}

fn number(statistic: &vk::PipelineExecutableStatisticKHR<'_>) -> f64 {
    // SAFETY: the format says which of the values it is.
    unsafe {
        match statistic.format {
            vk::PipelineExecutableStatisticFormatKHR::BOOL32 => f64::from(statistic.value.b32),
            vk::PipelineExecutableStatisticFormatKHR::INT64 => statistic.value.i64 as f64,
            vk::PipelineExecutableStatisticFormatKHR::UINT64 => statistic.value.u64 as f64,
            _ => statistic.value.f64,
        }
    }
}
