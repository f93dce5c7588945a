//! Every operator of the registry: kernels against the f64 reference, backward against finite
//! differences, shaders against naga's back ends, and the registry against the shader folder.

#[expect(dead_code, reason = "other tests limit what the device binds")]
mod common;
#[path = "../examples/own_operator.rs"]
mod own_operator;

use std::collections::{BTreeSet, HashMap};

use common::{assert_close, gpu, rng, wait};
use rand::Rng;
use trephine::gpu::{Caps, Gpu, GpuOptions, GpuTensor, KernelKey, Reflection, SHADERS, assemble, validate};
use trephine::graph::{Executor, ExecutorOptions, Graph, run_op_variant};
use trephine::ops::{
    Case, Comparison, Fill, GradientBuilder, OPS, Operator, ValueId, arithmetic_dtype, infer,
};
use trephine::tensor::{DType, HostTensor, TensorDesc};

/// Bit pattern of a NaN that also is an absurd integer: what outputs hold before a kernel runs.
const POISON: u32 = 0xFFFF_FFFF;

fn test_cases() -> impl Iterator<Item = (String, Case)> {
    OPS.iter().flat_map(|def| {
        def.cases_by_dtype().into_iter().filter(|case| !case.bench_only).map(|case| {
            assert_eq!(case.op.name(), def.name, "case '{}' belongs to another operator", case.name);
            (format!("{}/{}", def.name, case.name), case)
        })
    })
}

/// Whether a case needs an adapter that computes in half precision.
fn uses_f16(case: &Case) -> bool {
    let inputs: Vec<TensorDesc> = case.inputs.iter().map(|(desc, _)| desc.clone()).collect();
    let outputs = infer(case.op.as_ref(), &inputs).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    arithmetic_dtype(inputs.iter().chain(&outputs)) == DType::F16
}

#[test]
fn an_operator_from_outside_runs_and_is_right() {
    if gpu().is_some() {
        own_operator::main().unwrap_or_else(|e| panic!("{e}"));
    }
}

fn inputs_of(name: &str, case: &Case) -> Vec<HostTensor> {
    let mut rng = rng(name);
    case.inputs.iter().map(|(desc, fill)| fill.sample(&mut rng, desc)).collect()
}

/// Runs one variant on poisoned outputs; returns them.
fn run_variant(gpu: &Gpu, name: &str, case: &Case, inputs: &[HostTensor], variant: &str) -> Vec<HostTensor> {
    let tensors: Vec<GpuTensor> = inputs
        .iter()
        .map(|input| wait(gpu.upload(&input.desc, &input.to_words())).expect("upload"))
        .collect();
    let refs: Vec<&GpuTensor> = tensors.iter().collect();
    let poison = async |tensor: &GpuTensor| gpu.write(tensor, &vec![POISON; tensor.desc.words()]).await;
    let outputs = wait(run_op_variant(gpu, case.op.as_ref(), &refs, variant, poison))
        .unwrap_or_else(|error| panic!("{name} [{variant}]: {error}"));
    outputs
        .iter()
        .map(|tensor| {
            let words: Vec<u32> = wait(gpu.download(tensor)).expect("download");
            HostTensor::from_words(tensor.desc.clone(), &words)
        })
        .collect()
}

/// Each output against its reference.
fn compare(case: &Case, inputs: &[TensorDesc], got: &[HostTensor], want: &[HostTensor]) -> Vec<Comparison> {
    assert_eq!(got.len(), want.len(), "{}: number of outputs", case.name);
    let pairs = got.iter().zip(want).enumerate();
    pairs.map(|(ix, (got, want))| Comparison::of_output(case.op.as_ref(), inputs, ix, got, want)).collect()
}

#[test]
fn every_variant_matches_its_reference() {
    let Some(gpu) = gpu() else { return };
    let mut failures = Vec::new();
    let mut without_f16 = 0;
    for (name, case) in test_cases() {
        if !gpu.caps().f16 && uses_f16(&case) {
            without_f16 += 1;
            continue;
        }
        let inputs = inputs_of(&name, &case);
        let refs: Vec<&HostTensor> = inputs.iter().collect();
        let want = case.op.reference(&refs);
        let descs: Vec<TensorDesc> = inputs.iter().map(|t| t.desc.clone()).collect();
        for variant in case.op.variants(&descs, gpu.caps()) {
            let got = run_variant(&gpu, &name, &case, &inputs, variant);
            let comparisons = compare(&case, &descs, &got, &want);
            for (ix, complaint) in
                comparisons.iter().enumerate().filter_map(|(ix, c)| Some((ix, c.complaint()?)))
            {
                failures.push(format!("{name} [{variant}] output {ix}: {complaint}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    if without_f16 > 0 {
        eprintln!("SKIPPED: {without_f16} cases in f16, which {} does not have", gpu.summary.name);
    }
}

/// Loss = sum of cotangent * output over all outputs that carry a gradient, in f64.
fn weighted_sum(op: &dyn Operator, inputs: &[HostTensor], cotangent: &HostTensor) -> f64 {
    let refs: Vec<&HostTensor> = inputs.iter().collect();
    let output = &op.reference(&refs)[0];
    output.data.iter().zip(&cotangent.data).map(|(y, c)| y * c).sum()
}

/// An operator with its backward in a graph, and what the graph is fed.
struct Differentiated {
    graph: Graph,
    /// The operator's inputs.
    values: Vec<ValueId>,
    /// Gradients by those of them that have one.
    grads: HashMap<ValueId, ValueId>,
    /// The gradient by the output.
    seed: ValueId,
    /// The inputs and a random `seed`.
    feeds: HashMap<ValueId, HostTensor>,
}

impl Differentiated {
    fn new(op: Box<dyn Operator>, inputs: &[HostTensor], by: &[usize], rng: &mut impl Rng) -> Self {
        let mut graph = Graph::new();
        let values: Vec<ValueId> = inputs
            .iter()
            .enumerate()
            .map(|(ix, t)| graph.input(&format!("input{ix}"), t.desc.clone()))
            .collect();
        let outputs = GradientBuilder::apply(&mut graph, op, &values).expect("shapes");
        let out_desc = graph.desc(outputs[0]).clone();
        let seed = graph.input("cotangent", out_desc.clone());
        let wrt: Vec<ValueId> = by.iter().map(|&ix| values[ix]).collect();
        let grads = graph.backward(outputs[0], seed, &wrt).expect("backward builds");
        let mut feeds: HashMap<ValueId, HostTensor> =
            values.iter().copied().zip(inputs.iter().cloned()).collect();
        feeds.insert(seed, Fill::Normal(1.0).sample(rng, &out_desc));
        Self { graph, values, grads, seed, feeds }
    }
}

#[test]
fn every_backward_matches_finite_differences() {
    for (name, case) in test_cases() {
        if case.differentiable.is_empty() {
            continue;
        }
        let inputs = inputs_of(&name, &case);
        let mut rng = rng(&format!("{name} cotangent"));
        let op: Box<dyn Operator> =
            (OPS.iter().find(|d| d.name == case.op.name()).expect("registered").cases)()
                .into_iter()
                .find(|c| c.name == case.name)
                .expect("same case")
                .op;
        let Differentiated { graph, values, grads, seed, feeds } =
            Differentiated::new(op, &inputs, &case.differentiable, &mut rng);
        let cotangent = &feeds[&seed];
        let evaluated = graph.evaluate_reference(&feeds).expect("reference");
        for &ix in &case.differentiable {
            let grad = grads.get(&values[ix]).unwrap_or_else(|| panic!("{name}: no gradient for input {ix}"));
            let grad = &evaluated[grad.0];
            assert_eq!(grad.desc.shape, inputs[ix].desc.shape, "{name}: shape of gradient {ix}");
            // Directional derivatives along random directions, and a few single elements.
            for trial in 0..6 {
                let direction: Vec<f64> = if trial < 3 {
                    Fill::Normal(1.0).sample(&mut rng, &inputs[ix].desc).data
                } else {
                    let mut one = vec![0.0; inputs[ix].data.len()];
                    let at = rng.random_range(0..one.len());
                    one[at] = 1.0;
                    one
                };
                let h = 1e-5;
                let shifted = |sign: f64| {
                    let mut moved = inputs.clone();
                    for (v, d) in moved[ix].data.iter_mut().zip(&direction) {
                        *v += sign * h * d;
                    }
                    weighted_sum(case.op.as_ref(), &moved, cotangent)
                };
                let numeric = (shifted(1.0) - shifted(-1.0)) / (2.0 * h);
                let analytic: f64 = grad.data.iter().zip(&direction).map(|(g, d)| g * d).sum();
                let scale: f64 = grad.data.iter().zip(&direction).map(|(g, d)| (g * d).abs()).sum();
                let tolerance = 1e-6 * scale.max(numeric.abs()).max(1e-3);
                assert_close(&format!("{name}: gradient of input {ix}"), &[analytic], &[numeric], tolerance);
            }
        }
    }
}

#[test]
fn every_backward_on_the_device_matches_its_reference() {
    let Some(gpu) = gpu() else { return };
    for (name, case) in test_cases() {
        if case.differentiable.is_empty() {
            continue;
        }
        let inputs = inputs_of(&name, &case);
        let mut rng = rng(&format!("{name} device"));
        let op_name = case.op.name();
        let Differentiated { mut graph, grads, feeds, .. } =
            Differentiated::new(case.op, &inputs, &case.differentiable, &mut rng);
        for grad in grads.values() {
            graph.mark_output(*grad);
        }
        let want = graph.evaluate_reference(&feeds).expect("reference");
        // Errors pile up along the chain of gradient nodes: the longest reduction of any of them bounds each.
        let tolerance_of = |scale: f64| {
            graph
                .nodes
                .iter()
                .map(|node| {
                    let descs: Vec<_> = node.inputs.iter().map(|&v| graph.desc(v).clone()).collect();
                    node.op.precision(&descs).tolerance(scale, DType::F32)
                })
                .sum::<f64>()
        };
        let mut results = Vec::new();
        for no_reuse in [false, true] {
            let executor =
                Executor::new(&gpu, graph.clone(), ExecutorOptions { no_reuse, ..Default::default() })
                    .unwrap_or_else(|e| panic!("{name}: {e}"));
            for (value, tensor) in &feeds {
                wait(executor.write(*value, &tensor.to_words())).expect("write");
            }
            executor.run().expect("run");
            let mut bits: Vec<(ValueId, Vec<u32>)> = Vec::new();
            for grad in grads.values() {
                bits.push((*grad, wait(executor.read(*grad)).expect("read")));
            }
            bits.sort_by_key(|(value, _)| *value);
            for (value, words) in &bits {
                let got = HostTensor::from_words(graph.desc(*value).clone(), words);
                let want = &want[value.0].data;
                let scale = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
                assert_close(&format!("{name} ({op_name}) gradient"), &got.data, want, tolerance_of(scale));
            }
            results.push(bits);
        }
        assert_eq!(results[0], results[1], "{name}: reusing buffers changes the gradients");
    }
}

/// Every kernel that any case uses, over all variants, for the limits of WebGPU's defaults, those of the software
/// adapters, and matrices of both edges.
fn every_kernel() -> BTreeSet<KernelKey> {
    let mut software = Caps::webgpu_defaults();
    software.class = trephine::gpu::DeviceClass::Software;
    software.subgroup_size = Some([8, 8]);
    software.wide = true;
    let matrices = |edge, subgroup| Caps {
        f16: true,
        subgroup_size: Some([subgroup, subgroup]),
        cooperative_tile: Some(edge),
        ..Caps::webgpu_defaults()
    };
    let adapters = [Caps::webgpu_defaults(), software, matrices(8, 32), matrices(8, 8), matrices(16, 32)];
    let mut keys = BTreeSet::new();
    for def in OPS {
        for case in def.cases_by_dtype() {
            let inputs: Vec<TensorDesc> = case.inputs.iter().map(|(desc, _)| desc.clone()).collect();
            let outputs = infer(case.op.as_ref(), &inputs).unwrap_or_else(|e| panic!("{}: {e}", def.name));
            for caps in &adapters {
                for variant in case.op.variants(&inputs, caps) {
                    let lowered = case.op.lower(&inputs, &outputs, caps, variant);
                    for dispatch in lowered.dispatches {
                        assert!(
                            def.shaders.contains(&dispatch.kernel.path)
                                || dispatch.kernel.path == "constant/fill.wgsl",
                            "{} uses {}, which its registry entry does not list",
                            def.name,
                            dispatch.kernel.path
                        );
                        keys.insert(dispatch.kernel);
                    }
                }
            }
        }
    }
    keys
}

#[test]
fn every_shader_translates_to_spirv_msl_and_hlsl() {
    let everything = Caps {
        f16: true,
        subgroup_size: Some([32, 32]),
        cooperative_tile: Some(8),
        ..Caps::webgpu_defaults()
    };
    let peak = trephine::lab::peak::kernels(&everything);
    for key in every_kernel().into_iter().chain(peak) {
        let shader = assemble(&key, None).unwrap_or_else(|e| panic!("{e}"));
        let (module, info) = validate(&key, &shader).unwrap_or_else(|e| panic!("{e}"));
        let reflection = Reflection::of(key.path, &module).unwrap_or_else(|e| panic!("{e}"));
        let invocations: u32 = reflection.workgroup_size.iter().product();
        assert!(invocations <= 256, "{}: {invocations} invocations a workgroup", key.path);
        assert!(reflection.storage.len() <= 8, "{}: more than 8 storage buffers", key.path);
        let shared: u32 = module
            .global_variables
            .iter()
            .filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup)
            .map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx()))
            .sum();
        assert!(shared <= 16 << 10, "{}: {shared} bytes of workgroup memory", key.path);
        naga::back::spv::write_vec(&module, &info, &naga::back::spv::Options::default(), None)
            .unwrap_or_else(|e| panic!("{} to SPIR-V: {e}", key.path));
        // Metal multiplies matrices of edge 8 alone, HLSL none.
        let matrices = shader.source.contains("enable wgpu_cooperative_matrix");
        if matrices && !shader.source.contains("coop_mat8x8") {
            continue;
        }
        naga::back::msl::write_string(
            &module,
            &info,
            &naga::back::msl::Options {
                // The first version with matrices.
                lang_version: (2, 3),
                fake_missing_bindings: true,
                ..Default::default()
            },
            &naga::back::msl::PipelineOptions::default(),
        )
        .unwrap_or_else(|e| panic!("{} to MSL: {e}", key.path));
        if matrices {
            continue;
        }
        let mut hlsl = String::new();
        let options = naga::back::hlsl::Options::default();
        naga::back::hlsl::Writer::new(&mut hlsl, &options, &naga::back::hlsl::PipelineOptions::default())
            .write(&module, &info, None)
            .unwrap_or_else(|e| panic!("{} to HLSL: {e}", key.path));
    }
}

/// Tint, the other compiler of WGSL: `TREPHINE_TINT` is the folder that `npm install webgpu` was run in.
#[test]
fn every_shader_passes_tint() {
    let Some(modules) = std::env::var_os("TREPHINE_TINT") else { return };
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("tint");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder for shaders");
    for key in every_kernel() {
        let shader = assemble(&key, None).unwrap_or_else(|e| panic!("{e}"));
        std::fs::write(folder.join(key.file_stem() + ".wgsl"), shader.standard()).expect("writes");
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/tint.mjs");
    let node = std::process::Command::new("node").arg(script).arg(&folder).arg(modules).output();
    let node = node.expect("TREPHINE_TINT is set, and node is not found");
    assert!(node.status.success(), "{}", String::from_utf8_lossy(&node.stderr));
    let said = String::from_utf8_lossy(&node.stdout);
    assert!(said.contains("refused 0"), "{said}");
}

#[test]
fn every_shader_file_belongs_to_an_operator() {
    fn walk(dir: &include_dir::Dir<'_>, files: &mut BTreeSet<String>) {
        for file in dir.files() {
            files.insert(file.path().to_string_lossy().replace('\\', "/"));
        }
        for sub in dir.dirs() {
            walk(sub, files);
        }
    }
    let mut files = BTreeSet::new();
    walk(&SHADERS, &mut files);
    let used: BTreeSet<String> = every_kernel().into_iter().map(|key| key.path.to_owned()).collect();
    let listed: BTreeSet<String> = OPS.iter().flat_map(|d| d.shaders).map(|&s| s.to_owned()).collect();
    // Those of the roofline are measured, not part of any graph.
    files.retain(|file| !file.starts_with("lib/") && !file.starts_with("peak/"));
    let kernels = files;
    assert_eq!(kernels, used, "shader files on the left, kernels that some case uses on the right");
    assert_eq!(kernels, listed, "shader files on the left, files that the registry lists on the right");
}

#[test]
fn operator_names_are_unique_and_sorted_into_the_registry() {
    let names: BTreeSet<&str> = OPS.iter().map(|def| def.name).collect();
    assert_eq!(names.len(), OPS.len(), "two operators share a name");
    for def in OPS {
        assert!(!(def.cases)().is_empty(), "{} has no case", def.name);
        assert!(!def.summary.is_empty(), "{} has no summary", def.name);
    }
}

/// A fault in a kernel.
struct Fault {
    /// The operator and the case that shows the fault.
    case: &'static str,
    shader: &'static str,
    /// What the shader says, and what it says instead.
    right: &'static str,
    wrong: &'static str,
}

/// One for each way in which results are judged: sums of several lengths, transcendental functions, integers, in-place
/// updates, and what holds sentinels beside numbers.
const FAULTS: &[Fault] = &[
    Fault {
        case: "add/odd",
        shader: "elementwise/add.wgsl",
        right: "value_of(b[i]))",
        wrong: "value_of(b[i]) + select(Value(0.0), Value(1e-3), i == params.n - 1u))",
    },
    Fault {
        case: "conv3d/odd sizes",
        shader: "conv3d/naive.wgsl",
        right: "weight[at], sum)",
        wrong: "0.9999 * weight[at], sum)",
    },
    Fault {
        case: "instance_norm/odd, batch of 2 Instance None",
        shader: "norm/stats_finish.wgsl",
        right: "total.m2 / total.n",
        wrong: "total.m2 / (total.n - 1.0)",
    },
    Fault {
        case: "softmax/odd",
        shader: "softmax/softmax.wgsl",
        right: "exp(x[at] - largest) / sum",
        wrong: "exp(x[at] - largest) / (sum + 1e-4)",
    },
    Fault {
        case: "adam/Keras",
        shader: "optimizer/adam.wgsl",
        right: "m[i] = stored_of(new_m);",
        wrong: "m[i] = stored_of(1.001 * new_m);",
    },
    Fault {
        case: "threshold/above",
        shader: "label/threshold.wgsl",
        right: "select(0u, 1u, holds",
        wrong: "select(0u, 2u, holds",
    },
    Fault {
        case: "n4_log_shrink/no mask",
        shader: "n4/log_shrink.wgsl",
        right: "value = ln(x);",
        wrong: "value = 1.001 * ln(x);",
    },
    Fault {
        case: "n4_log_shrink/no mask",
        shader: "n4/log_shrink.wgsl",
        right: "var value = OUTSIDE;",
        wrong: "var value = 1.5 * LEAST_COUNTED;",
    },
    Fault {
        case: "n4_range/odd",
        shader: "n4/range.wgsl",
        right: "n_voxels += select(0.0, 1.0, counts);",
        wrong: "n_voxels += 1.0;",
    },
    Fault {
        case: "n4_range/odd",
        shader: "n4/status.wgsl",
        right: "status[CONVERGENCE] = LARGEST;",
        wrong: "status[CONVERGENCE] = 0.0;",
    },
    Fault {
        case: "n4_field_update/going on",
        shader: "n4/field_update.wgsl",
        right: "old - change, counts",
        wrong: "old + change, counts",
    },
    Fault {
        case: "n4_field_update/converges",
        shader: "n4/status.wgsl",
        right: "max(1.0, all.n - 1.0)",
        wrong: "max(1.0, 0.99 * all.n)",
    },
];

/// Negative control: the comparison that the other tests rely on sees a fault in every kernel of the list.
#[test]
fn a_broken_kernel_fails_the_harness() {
    let Some(gpu) = gpu() else { return };
    let options =
        GpuOptions { device: Some(gpu.summary.index.to_string()), checked: true, ..GpuOptions::default() };
    let own = wait(Gpu::open(&options)).expect("the adapter opened before");
    let mut unseen = Vec::new();
    for Fault { case: wanted, shader, right, wrong } in FAULTS {
        let source =
            SHADERS.get_file(shader).and_then(|file| file.contents_utf8()).expect("an embedded shader");
        assert_eq!(source.matches(right).count(), 1, "{shader} says '{right}' once");
        let (name, case) =
            test_cases().find(|(name, _)| name == wanted).unwrap_or_else(|| panic!("no case '{wanted}'"));
        let inputs = inputs_of(&name, &case);
        let want = case.op.reference(&inputs.iter().collect::<Vec<_>>());
        let descs: Vec<TensorDesc> = inputs.iter().map(|t| t.desc.clone()).collect();
        let passes = |gpu: &Gpu| {
            case.op.variants(&descs, gpu.caps()).into_iter().all(|variant| {
                let got = run_variant(gpu, &name, &case, &inputs, variant);
                compare(&case, &descs, &got, &want).iter().all(Comparison::passes)
            })
        };
        assert!(passes(&own), "{name} as it is");
        own.replace_shader(shader, source.replace(right, wrong));
        if passes(&own) {
            unseen.push(format!("{name}: nobody saw '{wrong}' in {shader}"));
        }
        own.restore_shader(shader);
    }
    assert!(unseen.is_empty(), "{}", unseen.join("\n"));
}
