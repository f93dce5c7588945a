//! What is timed: operators of the registry at the shapes of networks and heads.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::error::LabError;
use crate::graph::Graph;
use crate::model::{Mode, TrainingGraph, build, fold_for_inference, load};
use crate::ops::conv::{Conv3d, Conv3dGradInput, Conv3dGradWeight, Window};
use crate::ops::{self, Fill, OPS, OpDef, Operator};
use crate::pipeline::train::config::TrainConfig;
use crate::tensor::{DType, TensorDesc};

/// An operator on inputs of given shapes.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The operator.
    pub op: Arc<dyn Operator>,
    /// What is special about the shapes.
    pub case: String,
    /// Shapes and contents.
    pub inputs: Vec<(TensorDesc, Fill)>,
    /// Extents that the row goes by.
    pub shape: Vec<usize>,
}

impl Subject {
    fn new(op: Arc<dyn Operator>, case: &str, inputs: Vec<(TensorDesc, Fill)>) -> Self {
        let shape = inputs.first().map(|(desc, _)| desc.shape.clone()).unwrap_or_default();
        Self { op, case: case.to_owned(), inputs, shape }
    }

    /// Shapes of the inputs.
    pub fn descs(&self) -> Vec<TensorDesc> {
        self.inputs.iter().map(|(desc, _)| desc.clone()).collect()
    }

    /// The operator's own name or that of the operator that it is the gradient of, and the direction.
    pub fn op_and_direction(&self) -> (&'static str, &'static str) {
        let name = self.op.name();
        for (ending, direction) in [
            ("_grad_input", "grad-input"),
            ("_grad_weight", "grad-weight"),
            ("_grad_reduce", "grad-weight"),
            ("_grad", "backward"),
        ] {
            if let Some(base) = name.strip_suffix(ending) {
                return (base, direction);
            }
        }
        (name, "forward")
    }

    /// The same with activations in half precision; `None` for operators that know no f16.
    pub fn in_f16(mut self) -> Option<Self> {
        let halved = ops::halve_activations(self.op.as_ref(), &mut self.inputs);
        (halved && check_shapes(&self).is_ok()).then_some(self)
    }

    /// Element type of the arithmetic.
    pub fn dtype(&self) -> DType {
        ops::arithmetic_dtype(self.inputs.iter().map(|(desc, _)| desc))
    }

    /// Useful arithmetic of a run.
    pub fn flops(&self) -> f64 {
        let descs = self.descs();
        self.op.infer(&descs).map_or(0.0, |outputs| self.op.cost(&descs, &outputs).flops)
    }
}

/// Which way through a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The convolution.
    Forward,
    /// Gradient by the input.
    GradInput,
    /// Gradient by the weights.
    GradWeight,
}

/// A convolution with zero padding that keeps the extents: input `[N, c_in, D, H, W]`.
///
/// # Errors
/// Extents that the operator refuses.
pub fn convolution(
    shape: [usize; 5],
    out_channels: usize,
    kernel: [usize; 3],
    direction: Direction,
) -> Result<Subject, LabError> {
    let [n, c_in, d, h, w] = shape;
    let [kd, kh, kw] = kernel;
    let window = Window::same(kernel);
    let x = (TensorDesc::f32(&shape), Fill::Normal(1.0));
    let weight = (TensorDesc::f32(&[out_channels, c_in, kd, kh, kw]), Fill::Normal(0.3));
    let dy = (TensorDesc::f32(&[n, out_channels, d, h, w]), Fill::Normal(1.0));
    let (op, inputs): (Arc<dyn Operator>, Vec<_>) = match direction {
        Direction::Forward => (Arc::new(Conv3d::new(window, false)), vec![x, weight]),
        Direction::GradInput => {
            let op = Conv3dGradInput { window, input: [d, h, w], channels: 0..c_in };
            (Arc::new(op), vec![dy, weight])
        }
        Direction::GradWeight => {
            (Arc::new(Conv3dGradWeight { window, two_inputs: false, kernel }), vec![x, dy])
        }
    };
    let case = format!("{c_in} to {out_channels}, {d}x{h}x{w}");
    let mut subject = Subject::new(op, &case, inputs);
    subject.shape = shape.to_vec();
    check_shapes(&subject)?;
    Ok(subject)
}

fn check_shapes(subject: &Subject) -> Result<(), LabError> {
    ops::infer(subject.op.as_ref(), &subject.descs())
        .map(|_| ())
        .map_err(|e| LabError::Refused(e.to_string()))
}

/// The operator's first test case with its main shape replaced: the inputs that share the first input's shape, and
/// vectors as long as its channels.
///
/// # Errors
/// A shape that does not fit the operator.
pub fn at_shape(def: &OpDef, shape: &[usize]) -> Result<Subject, LabError> {
    let mut reasons = Vec::new();
    for case in (def.cases)() {
        let op: Arc<dyn Operator> = Arc::from(case.op);
        let Some((first, _)) = case.inputs.first().cloned() else { continue };
        let resize = |desc: &TensorDesc| -> TensorDesc {
            let replaced = match desc.shape.as_slice() {
                same if same == first.shape => shape.to_vec(),
                [n] if first.shape.get(1) == Some(n) => vec![*shape.get(1).unwrap_or(n)],
                other => other.to_vec(),
            };
            desc.with_shape(&replaced)
        };
        let inputs = case.inputs.iter().map(|(desc, fill)| (resize(desc), *fill)).collect();
        let subject = Subject::new(op, &format!("{} at {}", case.name, TensorDesc::f32(shape)), inputs);
        match check_shapes(&subject) {
            Ok(()) => return Ok(subject),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    Err(LabError::Refused(format!(
        "{} has no test case that can take the shape {}: {}",
        def.name,
        TensorDesc::f32(shape),
        reasons.first().cloned().unwrap_or_else(|| "its cases have no inputs".to_owned())
    )))
}

/// What an operator is timed at: its own cases of that size; else the costliest place it has in our networks; else a
/// test case blown up to a head; else its largest test case.
pub fn of_operator(def: &OpDef) -> Vec<Subject> {
    let cases = || (def.cases)().into_iter();
    let subject = |case: ops::Case| Subject::new(Arc::from(case.op), &case.name, case.inputs);
    let own: Vec<Subject> = cases().filter(|case| case.bench_only).map(subject).collect();
    if !own.is_empty() {
        return own;
    }
    if let Some(subject) = in_networks().get(def.name) {
        return vec![subject.clone()];
    }
    // A head of 1 mm voxels.
    if let Ok(subject) = at_shape(def, &[181, 217, 181]) {
        return vec![subject];
    }
    let largest = cases().map(subject).max_by(|a, b| a.flops().total_cmp(&b.flops()));
    largest.into_iter().collect()
}

/// The costliest node of each operator in inference and training of the built-in models.
fn in_networks() -> &'static HashMap<&'static str, Subject> {
    static SUBJECTS: OnceLock<HashMap<&'static str, Subject>> = OnceLock::new();
    SUBJECTS.get_or_init(|| {
        let mut costliest: HashMap<&'static str, (f64, Subject)> = HashMap::new();
        for (name, config) in
            [("default", TrainConfig::default_preset()), ("article", TrainConfig::article_preset())]
        {
            for (direction, graph) in graphs_of(name, &config) {
                for subject in nodes_of(&graph, &format!("{name} network, {direction}")) {
                    let flops = subject.flops();
                    let known = costliest.get(subject.op.name()).map_or(-1.0, |(flops, _)| *flops);
                    if flops > known {
                        costliest.insert(subject.op.name(), (flops, subject));
                    }
                }
            }
        }
        costliest.into_iter().map(|(name, (_, subject))| (name, subject)).collect()
    })
}

/// Inference and training graphs of a built-in model, batch 1; none of a model that does not build, which has tests
/// of its own.
fn graphs_of(name: &str, config: &TrainConfig) -> Vec<(&'static str, Graph)> {
    let mut graphs = Vec::new();
    if let Ok(model) = load(name) {
        let (folded, _) = fold_for_inference(&model.description, &model.tensors);
        if let Ok(network) = build(&folded, 1, folded.input.shape, Mode::Inference(DType::F32)) {
            graphs.push(("forward", network.graph));
        }
        let shape = config.crop.unwrap_or(model.description.input.shape);
        let training = TrainingGraph::new(&model.description, 1, shape, config.loss, &config.optimiser);
        graphs.extend(training.ok().map(|training| ("training", training.graph)));
    }
    graphs
}

/// Every node of a graph as a subject of its own.
pub fn nodes_of(graph: &Graph, case: &str) -> Vec<Subject> {
    graph
        .nodes
        .iter()
        .filter_map(|node| {
            let descs: Vec<TensorDesc> = node.inputs.iter().map(|&v| graph.desc(v).clone()).collect();
            let fills = fills_like(node.op.as_ref(), &descs)?;
            let inputs = descs.into_iter().zip(fills).collect();
            Some(Subject::new(Arc::clone(&node.op), case, inputs))
        })
        .collect()
}

/// How the registry fills the inputs of an operator with as many inputs of the same types.
fn fills_like(op: &dyn Operator, descs: &[TensorDesc]) -> Option<Vec<Fill>> {
    let def = ops::find(op.name())?;
    let types = |descs: &[TensorDesc]| descs.iter().map(|d| d.dtype).collect::<Vec<DType>>();
    def.cases_by_dtype().into_iter().find_map(|case| {
        let own: Vec<TensorDesc> = case.inputs.iter().map(|(desc, _)| desc.clone()).collect();
        (types(&own) == types(descs)).then(|| case.inputs.iter().map(|(_, fill)| *fill).collect())
    })
}

/// Every operator of the registry.
pub fn all() -> Vec<Subject> {
    OPS.iter().flat_map(|def| of_operator(def)).collect()
}
