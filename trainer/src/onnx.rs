//! Writes a recorded graph as an ONNX file. Knows no network by name and never runs anything.

mod sequence;

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use prost::Message;
use tch::{Kind as TorchKind, Tensor};

use crate::graph::{Border, Dim, Fold, Function, Graph, Kind, Node, Op};
use crate::onnx_messages as pb;
use crate::quantise::{Channels, quantise};
use crate::torch::Params;

/// The one ONNX operator set version in use: the first with Gelu.
pub const OPSET: i64 = 20;
const IR_VERSION: i64 = 9;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Precision {
    /// 32-bit floats.
    Float,
    /// Encoder matrices as int8 with a scale per output channel, restored by Cast and Mul that the runtime folds at load; of
    /// tables of which single rows are read, these rows alone are restored.
    Int8,
}

/// The ONNX file of `graph` with `params`.
pub fn encode(graph: &Graph, params: &Params, precision: Precision) -> Result<Vec<u8>> {
    let nodes = graph.nodes();
    let mut writer = Writer {
        params,
        precision,
        out: pb::GraphMessage { name: "esr".into(), ..Default::default() },
        names: vec![],
        known: HashMap::new(),
        fresh: 0,
    };
    for (id, node) in nodes.iter().enumerate() {
        let name = writer.write(id, node, &nodes)?;
        writer.names.push(name);
    }
    for (name, id) in graph.outputs() {
        let source = writer.names[id].clone();
        writer.node_named("Identity", &[&source], vec![], name.clone());
        writer.out.output.push(value_info(&name, pb::FLOAT, &nodes[id].shape));
    }
    let opset = pb::OperatorSet { domain: String::new(), version: OPSET };
    let model = pb::Model {
        ir_version: IR_VERSION,
        producer_name: "esr-trainer".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(writer.out),
        opset_import: vec![opset],
    };
    Ok(model.encode_to_vec())
}

/// Writes [`encode`]'s bytes to a file.
pub fn write(path: &Path, graph: &Graph, params: &Params, precision: Precision) -> Result<()> {
    std::fs::write(path, encode(graph, params, precision)?).with_context(|| format!("cannot write {}", path.display()))
}

/// The axis with scales of its own, for parameters that are stored as int8: matrices and kernels of the encoders.
/// Heads stay in floats: they are small and decide the ranking.
pub fn int8_channels(name: &str, rank: usize) -> Option<Channels> {
    // Few numbers that scale many others stay exact.
    let scale = ["weight_g", "gru_rel_pos_const", "alibi_scale"].iter().any(|end| name.ends_with(end));
    let encoder = name.contains(".encoder.") && rank >= 2 && !scale;
    let table = name.contains("embedding") || rank == 3;
    encoder.then_some(if table { Channels::First } else { Channels::Last })
}

struct Writer<'a> {
    params: &'a Params,
    precision: Precision,
    out: pb::GraphMessage,
    names: Vec<String>,
    known: HashMap<String, String>,
    fresh: usize,
}

impl Writer<'_> {
    fn write(&mut self, id: usize, node: &Node, nodes: &[Node]) -> Result<String> {
        let names: Vec<String> = node.inputs.iter().map(|&i| self.names[i].clone()).collect();
        let x = |n: usize| names[n].as_str();
        Ok(match &node.op {
            Op::Input { name, kind } => {
                let kind = if *kind == Kind::Float { pb::FLOAT } else { pb::INT64 };
                self.out.input.push(value_info(name, kind, &node.shape));
                name.clone()
            }
            // The gathering nodes write it.
            Op::Param { name } if self.only_gathered(id, name, nodes) => name.clone(),
            Op::Param { name } => self.param(name)?,
            Op::Const { data } => {
                let dims = node.shape.iter().map(|d| if let Dim::Fixed(n) = d { *n as i64 } else { 1 }).collect();
                self.floats(&format!("const{id}"), dims, data)
            }
            Op::MatMul => self.node("MatMul", &[x(0), x(1)], vec![]),
            Op::Add => self.node("Add", &[x(0), x(1)], vec![]),
            Op::Mul => self.node("Mul", &[x(0), x(1)], vec![]),
            Op::Div => self.node("Div", &[x(0), x(1)], vec![]),
            Op::Maximum => self.node("Max", &[x(0), x(1)], vec![]),
            Op::Conv1d { stride, padding, groups } => {
                let (stride, padding, groups) = (*stride as i64, *padding as i64, *groups as i64);
                let attributes =
                    vec![ints("strides", &[stride]), ints("pads", &[padding, padding]), int("group", groups)];
                self.node("Conv", &[x(0), x(1)], attributes)
            }
            Op::Pad { left, right, border } => {
                let rank = node.shape.len();
                let mut pads = vec![0; 2 * rank];
                (pads[rank - 1], pads[2 * rank - 1]) = (*left as i64, *right as i64);
                let pads = self.integers(&pads);
                let mode = if *border == Border::Zero { "constant" } else { "reflect" };
                self.node("Pad", &[x(0), &pads], vec![text("mode", mode)])
            }
            Op::Gather => match &nodes[node.inputs[0]].op {
                Op::Param { name } if self.only_gathered(node.inputs[0], name, nodes) => {
                    let (bytes, scale) = self.int8(name, Channels::First)?;
                    let bytes = self.node("Gather", &[&bytes, x(1)], vec![int("axis", 0)]);
                    let scale = self.node("Gather", &[&scale, x(1)], vec![int("axis", 0)]);
                    self.restored(&bytes, &scale)
                }
                _ => self.node("Gather", &[x(0), x(1)], vec![int("axis", 0)]),
            },
            Op::LayerNorm { epsilon } => {
                let attributes = vec![int("axis", -1), float("epsilon", *epsilon as f32)];
                self.node("LayerNormalization", &[x(0), x(1), x(2)], attributes)
            }
            Op::Map(function) => {
                let name = match function {
                    Function::Gelu | Function::GeluTanh => "Gelu",
                    Function::Sigmoid => "Sigmoid",
                    Function::Relu => "Relu",
                    Function::Tanh => "Tanh",
                    Function::Sqrt => "Sqrt",
                    Function::Log => "Log",
                };
                let tanh = (*function == Function::GeluTanh).then(|| text("approximate", "tanh"));
                self.node(name, &[x(0)], tanh.into_iter().collect())
            }
            Op::Softmax => self.node("Softmax", &[x(0)], vec![int("axis", -1)]),
            Op::Reduce { fold, axis } => {
                let axes = self.integers(&[*axis as i64]);
                let name = match fold {
                    Fold::Sum => "ReduceSum",
                    Fold::Max => "ReduceMax",
                    Fold::Mean => "ReduceMean",
                };
                self.node(name, &[x(0), &axes], vec![int("keepdims", 1)])
            }
            Op::SplitHeads { heads } => {
                let shape = self.integers(&[0, 0, *heads as i64, -1]);
                let split = self.node("Reshape", &[x(0), &shape], vec![]);
                self.node("Transpose", &[&split], vec![ints("perm", &[0, 2, 1, 3])])
            }
            Op::MergeHeads => {
                let swapped = self.node("Transpose", &[x(0)], vec![ints("perm", &[0, 2, 1, 3])]);
                let shape = self.integers(&[0, 0, -1]);
                self.node("Reshape", &[&swapped, &shape], vec![])
            }
            Op::AddPositions => {
                let time = self.length_of_axis(x(0), 1);
                let (zero, axis) = (self.integers(&[0]), self.integers(&[0]));
                let rows = self.node("Slice", &[x(1), &zero, &time, &axis], vec![]);
                self.node("Add", &[x(0), &rows], vec![])
            }
            Op::RelativeBias { max_distance } => {
                let Dim::Fixed(buckets) = nodes[node.inputs[1]].shape[0] else {
                    unreachable!("tables have fixed shapes")
                };
                self.relative_bias(x(0), x(1), buckets, *max_distance)
            }
            Op::Distance { skip } => self.distance(x(0), *skip as i64),
            Op::Prepend => self.prepend(x(0), x(1)),
            Op::Skip { count } => {
                let (start, end, axis) =
                    (self.integers(&[*count as i64]), self.integers(&[i64::MAX]), self.integers(&[1]));
                self.node("Slice", &[x(0), &start, &end, &axis], vec![])
            }
            Op::First => {
                let zero = self.integers_shaped(vec![], &[0]);
                self.node("Gather", &[x(0), &zero], vec![int("axis", 1)])
            }
            Op::LayerDrop { .. } => x(1).to_string(),
            Op::Transpose => {
                let rank = node.shape.len() as i64;
                let mut order: Vec<i64> = (0..rank).collect();
                order.swap(rank as usize - 1, rank as usize - 2);
                self.node("Transpose", &[x(0)], vec![ints("perm", &order)])
            }
            Op::Unsqueeze { axis } => {
                let axes = self.integers(&[*axis as i64]);
                self.node("Unsqueeze", &[x(0), &axes], vec![])
            }
            Op::Squeeze { axis } => {
                let axes = self.integers(&[*axis as i64]);
                self.node("Squeeze", &[x(0), &axes], vec![])
            }
            Op::Concat => {
                let all: Vec<&str> = (0..names.len()).map(x).collect();
                self.node("Concat", &all, vec![int("axis", -1)])
            }
            Op::Valid { steps } => {
                let mut count = x(0).to_string();
                if names.len() == 3 {
                    count = self.node("Sub", &[x(0), x(2)], vec![]);
                }
                for step in steps {
                    let (offset, divide) = (self.integers(&[step.offset]), self.integers(&[step.divide]));
                    let more = self.node("Add", &[&count, &offset], vec![]);
                    count = self.node("Div", &[&more, &divide], vec![]);
                }
                let (one, last_axis) = (self.integers(&[1]), self.integers(&[1]));
                let count = self.node("Max", &[&count, &one], vec![]);
                let count = self.node("Unsqueeze", &[&count, &last_axis], vec![]);
                let positions = self.positions(x(1));
                let below = self.node("Less", &[&positions, &count], vec![]);
                self.node("Cast", &[&below], vec![int("to", pb::FLOAT as i64)])
            }
            Op::Edge { last } => {
                let half = self.floats("half", vec![1], &[0.5]);
                let above = self.node("Greater", &[x(0), &half], vec![]);
                let above = self.node("Cast", &[&above], vec![int("to", pb::FLOAT as i64)]);
                let which = vec![int("axis", 1), int("keepdims", 0), int("select_last_index", i64::from(*last))];
                self.node("ArgMax", &[&above], which)
            }
            Op::Shift => {
                let (positions, axis) = (self.positions(x(0)), self.integers(&[1]));
                let start = self.node("Unsqueeze", &[x(1), &axis], vec![]);
                let moved = self.node("Add", &[&positions, &start], vec![]);
                let (length, one) = (self.length_of_axis(x(0), 2), self.integers(&[1]));
                let end = self.node("Sub", &[&length, &one], vec![]);
                let moved = self.node("Min", &[&moved, &end], vec![]);
                let moved = self.node("Unsqueeze", &[&moved, &axis], vec![]);
                let shape = self.node("Shape", &[x(0)], vec![]);
                let moved = self.node("Expand", &[&moved, &shape], vec![]);
                self.node("GatherElements", &[x(0), &moved], vec![int("axis", 2)])
            }
            Op::ToFloat => self.node("Cast", &[x(0)], vec![int("to", pb::FLOAT as i64)]),
            Op::L2Normalize => {
                let square = self.node("Mul", &[x(0), x(0)], vec![]);
                let axes = self.integers(&[-1]);
                let sum = self.node("ReduceSum", &[&square, &axes], vec![int("keepdims", 1)]);
                let tiny = self.floats("tiny", vec![1], &[1e-12]);
                let safe = self.node("Add", &[&sum, &tiny], vec![]);
                let norm = self.node("Sqrt", &[&safe], vec![]);
                self.node("Div", &[x(0), &norm], vec![])
            }
            Op::Dropout { .. } | Op::MaskSpans { .. } => x(0).to_string(),
        })
    }

    /// Whether a parameter is a table stored as int8 of which single rows are read and nothing else. Its rows are restored as they
    /// are read, so that it stays small in memory, too.
    fn only_gathered(&self, id: usize, name: &str, nodes: &[Node]) -> bool {
        let rank = nodes[id].shape.len();
        let int8 = self.precision == Precision::Int8 && int8_channels(name, rank) == Some(Channels::First);
        let gathers = |node: &Node| matches!(node.op, Op::Gather) && node.inputs[0] == id;
        int8 && nodes.iter().filter(|node| node.inputs.contains(&id)).all(gathers)
    }

    fn param(&mut self, name: &str) -> Result<String> {
        if let Some(known) = self.known.get(name) {
            return Ok(known.clone());
        }
        let tensor = self.loaded(name)?;
        let stored = match int8_channels(name, tensor.dim()).filter(|_| self.precision == Precision::Int8) {
            None => self.floats(name, tensor.size(), &Vec::<f32>::try_from(tensor.flatten(0, -1))?),
            Some(channels) => {
                let (bytes, scale) = self.int8(name, channels)?;
                self.restored(&bytes, &scale)
            }
        };
        self.known.insert(name.into(), stored.clone());
        Ok(stored)
    }

    fn loaded(&self, name: &str) -> Result<Tensor> {
        let tensor = self.params.get(name).with_context(|| format!("the parameter {name} was not loaded"))?;
        Ok(tensor.to_device(tch::Device::Cpu).detach().contiguous())
    }

    /// Stores a parameter as int8: the names of its bytes and of their scales.
    fn int8(&mut self, name: &str, channels: Channels) -> Result<(String, String)> {
        let (bytes, scale) = (format!("{name}.int8"), format!("{name}.scale"));
        if self.known.insert(bytes.clone(), bytes.clone()).is_none() {
            let q = quantise(&self.loaded(name)?, channels);
            let raw = Vec::<i8>::try_from(q.bytes.flatten(0, -1))?.iter().map(|b| *b as u8).collect();
            self.tensor(&bytes, q.bytes.size(), pb::INT8, raw);
            let scales = Vec::<f32>::try_from(q.scale.to_kind(TorchKind::Float).flatten(0, -1))?;
            self.floats(&scale, q.scale.size(), &scales);
        }
        Ok((bytes, scale))
    }

    fn restored(&mut self, bytes: &str, scale: &str) -> String {
        let cast = self.node("Cast", &[bytes], vec![int("to", pb::FLOAT as i64)]);
        self.node("Mul", &[&cast, scale], vec![])
    }

    /// 0, 1, 2, ... up to the length of the last of three axes.
    fn positions(&mut self, of: &str) -> String {
        self.positions_of_axis(of, 2)
    }

    fn positions_of_axis(&mut self, of: &str, axis: i64) -> String {
        let time = self.length_of_axis(of, axis);
        let time = self.node("Squeeze", &[&time], vec![]);
        let (zero, step) = (self.integers_shaped(vec![], &[0]), self.integers_shaped(vec![], &[1]));
        self.node("Range", &[&zero, &time, &step], vec![])
    }

    fn length_of_axis(&mut self, of: &str, axis: i64) -> String {
        self.node("Shape", &[of], vec![int("start", axis), int("end", axis + 1)])
    }

    fn node(&mut self, op: &str, inputs: &[&str], attributes: Vec<pb::Attribute>) -> String {
        self.fresh += 1;
        let name = format!("v{}", self.fresh);
        self.node_named(op, inputs, attributes, name.clone());
        name
    }

    fn node_named(&mut self, op: &str, inputs: &[&str], attribute: Vec<pb::Attribute>, name: String) {
        let input = inputs.iter().map(|s| s.to_string()).collect();
        self.out.node.push(pb::NodeMessage { input, output: vec![name.clone()], name, op_type: op.into(), attribute });
    }

    fn floats(&mut self, name: &str, dims: Vec<i64>, data: &[f32]) -> String {
        self.tensor(name, dims, pb::FLOAT, data.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    fn integers(&mut self, data: &[i64]) -> String {
        self.integers_shaped(vec![data.len() as i64], data)
    }

    fn integers_shaped(&mut self, dims: Vec<i64>, data: &[i64]) -> String {
        let name = if data.len() > 8 {
            self.fresh += 1;
            format!("integers{dims:?}{}", self.fresh)
        } else {
            format!("integers{dims:?}{data:?}")
        };
        self.tensor(&name, dims, pb::INT64, data.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    fn tensor(&mut self, name: &str, dims: Vec<i64>, data_type: i32, raw_data: Vec<u8>) -> String {
        if self.out.initializer.iter().all(|t| t.name != name) {
            self.out.initializer.push(pb::TensorMessage {
                dims,
                data_type,
                float_data: vec![],
                name: name.into(),
                raw_data,
            });
        }
        name.into()
    }
}

fn value_info(name: &str, kind: i32, shape: &[Dim]) -> pb::ValueInfo {
    let dim = |d: &Dim| match d {
        Dim::Fixed(n) => pb::Dimension { dim_value: Some(*n as i64), dim_param: None },
        Dim::Batch => pb::Dimension { dim_value: None, dim_param: Some("batch".into()) },
        Dim::Time(id) => pb::Dimension { dim_value: None, dim_param: Some(format!("time{id}")) },
    };
    let shape = pb::ShapeMessage { dim: shape.iter().map(dim).collect() };
    let tensor_type = pb::TensorType { elem_type: kind, shape: Some(shape) };
    pb::ValueInfo { name: name.into(), r#type: Some(pb::TypeMessage { tensor_type: Some(tensor_type) }) }
}

fn int(name: &str, i: i64) -> pb::Attribute {
    pb::Attribute { name: name.into(), i: Some(i), kind: 2, ..Default::default() }
}

fn float(name: &str, f: f32) -> pb::Attribute {
    pb::Attribute { name: name.into(), f: Some(f), kind: 1, ..Default::default() }
}

fn text(name: &str, s: &str) -> pb::Attribute {
    pb::Attribute { name: name.into(), s: Some(s.as_bytes().to_vec()), kind: 3, ..Default::default() }
}

fn ints(name: &str, ints: &[i64]) -> pb::Attribute {
    pb::Attribute { name: name.into(), ints: ints.to_vec(), kind: 7, ..Default::default() }
}
