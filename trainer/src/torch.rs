//! Runs a recorded graph on libtorch tensors, with autograd. Looks parameters up by name; knows no network by name.

mod sequence;

use std::collections::BTreeMap;

use tch::{Device, Kind as TorchKind, Tensor};

use crate::graph::{Border, Fold, Function, Graph, Node, Op, Step};

/// Parameter tensors by name.
pub type Params = BTreeMap<String, Tensor>;

/// How a graph is evaluated.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mode {
    /// Whether dropout and what else is random in training acts.
    pub training: bool,
    /// Whether products of matrices and convolutions are computed from bfloat16 operands, as autocast does. Their results
    /// are 32-bit floats again, so that norms, softmax and losses are computed exactly. Products with constants stay exact
    /// too: those are the Fourier transform and the mel bands of the front end, where three digits are too few.
    pub bf16: bool,
}

/// Evaluates `graph` in 32-bit floats and returns its outputs by name. Dropout acts only when `training`.
/// Panics when a parameter or input is missing: the caller builds both from the same description.
pub fn run(graph: &Graph, params: &Params, inputs: &[(&str, &Tensor)], training: bool) -> BTreeMap<String, Tensor> {
    run_in(graph, params, inputs, Mode { training, bf16: false })
}

/// [`run`] with all settings.
pub fn run_in(graph: &Graph, params: &Params, inputs: &[(&str, &Tensor)], mode: Mode) -> BTreeMap<String, Tensor> {
    let training = mode.training;
    let device = inputs.first().map_or(Device::Cpu, |(_, t)| t.device());
    let nodes = graph.nodes();
    let constant = |node: &Node| node.inputs.iter().any(|&input| matches!(nodes[input].op, Op::Const { .. }));
    let mut last_use: Vec<usize> = (0..nodes.len()).collect();
    nodes.iter().enumerate().for_each(|(i, n)| n.inputs.iter().for_each(|&input| last_use[input] = i));
    graph.outputs().iter().for_each(|(_, id)| last_use[*id] = usize::MAX);
    let mut values: Vec<Option<Tensor>> = Vec::with_capacity(nodes.len());
    for (i, node) in nodes.iter().enumerate() {
        let x = |n: usize| values[node.inputs[n]].as_ref().expect("operands are alive until their last use");
        let fixed = || {
            node.shape
                .iter()
                .map(|d| if let crate::graph::Dim::Fixed(n) = d { *n as i64 } else { 1 })
                .collect::<Vec<_>>()
        };
        let y = match &node.op {
            Op::Input { name, .. } => find(inputs, name).shallow_clone(),
            Op::Param { name } => {
                params.get(name).unwrap_or_else(|| panic!("the parameter {name} was not loaded")).shallow_clone()
            }
            Op::Const { data } => Tensor::from_slice(data).view(fixed().as_slice()).to_device(device),
            Op::MatMul if mode.bf16 && !constant(node) => short(x(0)).matmul(&short(x(1))).to_kind(TorchKind::Float),
            Op::MatMul => x(0).matmul(x(1)),
            Op::Add => x(0) + x(1),
            Op::Mul => x(0) * x(1),
            Op::Div => x(0) / x(1),
            Op::Maximum => x(0).maximum(x(1)),
            Op::Conv1d { stride, padding, groups } => {
                let convolve = |x: &Tensor, k: &Tensor| {
                    x.conv1d(k, None::<Tensor>, [*stride as i64], [*padding as i64], [1], *groups as i64)
                };
                if mode.bf16 && !constant(node) {
                    convolve(&short(x(0)), &short(x(1))).to_kind(TorchKind::Float)
                } else {
                    convolve(x(0), x(1))
                }
            }
            Op::Pad { left, right, border } => {
                let mode = match border {
                    Border::Zero => "constant",
                    Border::Reflect => "reflect",
                };
                x(0).pad([*left as i64, *right as i64], mode, None)
            }
            Op::Gather => Tensor::embedding(x(0), x(1), -1, false, false),
            Op::LayerNorm { epsilon } => {
                let width = *x(1).size().last().expect("layer_norm scale has one axis");
                x(0).layer_norm([width], Some(x(1)), Some(x(2)), *epsilon, false)
            }
            Op::Map(function) => match function {
                Function::Gelu => x(0).gelu("none"),
                Function::GeluTanh => x(0).gelu("tanh"),
                Function::Sigmoid => x(0).sigmoid(),
                Function::Relu => x(0).relu(),
                Function::Tanh => x(0).tanh(),
                Function::Sqrt => x(0).sqrt(),
                Function::Log => x(0).log(),
            },
            Op::Softmax => x(0).softmax(-1, TorchKind::Float),
            Op::Reduce { fold: Fold::Sum, axis } => {
                x(0).sum_dim_intlist([*axis as i64].as_slice(), true, TorchKind::Float)
            }
            Op::Reduce { fold: Fold::Mean, axis } => x(0).mean_dim([*axis as i64].as_slice(), true, TorchKind::Float),
            Op::Reduce { fold: Fold::Max, axis } => x(0).amax([*axis as i64].as_slice(), true),
            Op::SplitHeads { heads } => {
                let s = x(0).size();
                x(0).view([s[0], s[1], *heads as i64, s[2] / *heads as i64]).transpose(1, 2)
            }
            Op::MergeHeads => {
                let s = x(0).size();
                x(0).transpose(1, 2).reshape([s[0], s[2], s[1] * s[3]])
            }
            Op::AddPositions => x(0) + x(1).narrow(0, 0, x(0).size()[1]),
            Op::RelativeBias { max_distance } => sequence::relative_bias(x(1), x(0).size()[1], *max_distance),
            Op::Distance { skip } => sequence::distance(x(0).size()[1], *skip as i64, x(0).device()),
            Op::Prepend => {
                let (size, tokens) = (x(0).size(), x(1));
                Tensor::cat(&[&tokens.unsqueeze(0).expand([size[0], -1, -1], false), x(0)], 1)
            }
            Op::Skip { count } => x(0).narrow(1, *count as i64, x(0).size()[1] - *count as i64),
            Op::First => x(0).select(1, 0),
            Op::LayerDrop { probability } => sequence::layer_drop(x(0), x(1), *probability, training),
            Op::MaskSpans { probability, length, fewest } if training => {
                sequence::mask_spans(x(0), x(1), x(2), *probability, *length as i64, *fewest as i64)
            }
            Op::MaskSpans { .. } => x(0).shallow_clone(),
            Op::Transpose => x(0).transpose(-1, -2),
            Op::Unsqueeze { axis } => x(0).unsqueeze(*axis as i64),
            Op::Squeeze { axis } => x(0).squeeze_dim(*axis as i64),
            Op::Concat => Tensor::cat(&(0..node.inputs.len()).map(x).collect::<Vec<_>>(), -1),
            Op::Valid { steps } => {
                let length = if node.inputs.len() == 3 { x(0) - x(2) } else { x(0).shallow_clone() };
                valid(&length, x(1).size()[2], steps)
            }
            Op::Edge { last } => {
                let (above, end) = (x(0).gt(0.5).to_kind(TorchKind::Int64), x(0).size()[1] - 1);
                let before = |v: Tensor| {
                    let none_yet: Tensor = 1 - v;
                    let none_yet = none_yet.cumprod(1, TorchKind::Int64);
                    none_yet.sum_dim_intlist([1i64].as_slice(), false, TorchKind::Int64)
                };
                if *last { end - before(above.flip([1])) } else { before(above) }
            }
            Op::Shift => {
                let size = x(0).size();
                let positions = Tensor::arange(size[2], (TorchKind::Int64, device)).unsqueeze(0) + x(1).unsqueeze(1);
                x(0).gather(2, &positions.clamp_max(size[2] - 1).unsqueeze(1).expand(size, false), false)
            }
            Op::ToFloat => x(0).to_kind(TorchKind::Float),
            Op::L2Normalize => {
                let square: Tensor = x(0) * x(0);
                x(0) / (square.sum_dim_intlist([-1i64].as_slice(), true, TorchKind::Float) + 1e-12).sqrt()
            }
            Op::Dropout { probability } => x(0).dropout(*probability, training),
        };
        values.push(Some(y));
        for &input in &node.inputs {
            if last_use[input] == i {
                values[input] = None;
            }
        }
    }
    let value = |id: usize| values[id].as_ref().expect("outputs are kept").shallow_clone();
    graph.outputs().into_iter().map(|(name, id)| (name, value(id))).collect()
}

fn find<'t>(inputs: &[(&str, &'t Tensor)], name: &str) -> &'t Tensor {
    inputs.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("the input {name} was not given")).1
}

fn valid(length: &Tensor, time: i64, steps: &[Step]) -> Tensor {
    let count = steps.iter().fold(length.shallow_clone(), |n, s| (n + s.offset).divide_scalar_mode(s.divide, "floor"));
    let positions = Tensor::arange(time, (TorchKind::Int64, length.device()));
    positions.unsqueeze(0).lt_tensor(&count.clamp_min(1).unsqueeze(1)).to_kind(TorchKind::Float)
}

fn short(x: &Tensor) -> Tensor {
    x.to_kind(TorchKind::BFloat16)
}
