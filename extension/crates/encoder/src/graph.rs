//! An ONNX file as far as it is read and changed here: nodes, and the names and shapes of stored tensors. Everything else
//! passes through as it came. Field numbers as in the ONNX specification (onnx.proto). Never runs anything.
#![allow(missing_docs)] // The fields are the specification's own.

use std::collections::{HashMap, HashSet};

use prost::Message;

pub const FLOAT: i64 = 1;
pub const INT64: i64 = 7;
pub const FLOAT16: i64 = 10;

/// Operators that multiply matrices; the first two inputs are the factors.
const PRODUCTS: [&str; 3] = ["MatMul", "Gemm", "Conv"];

#[derive(Clone, PartialEq, Message)]
pub struct Model {
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    #[prost(string, tag = "2")]
    pub producer_name: String,
    #[prost(string, tag = "3")]
    pub producer_version: String,
    #[prost(string, tag = "4")]
    pub domain: String,
    #[prost(int64, tag = "5")]
    pub model_version: i64,
    #[prost(string, tag = "6")]
    pub doc_string: String,
    #[prost(message, optional, tag = "7")]
    pub graph: Option<Graph>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub opset_import: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "14")]
    pub metadata_props: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "25")]
    pub functions: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<Node>,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub initializer: Vec<Vec<u8>>,
    #[prost(string, tag = "10")]
    pub doc_string: String,
    #[prost(bytes = "vec", repeated, tag = "11")]
    pub input: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "12")]
    pub output: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "13")]
    pub value_info: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "14")]
    pub quantization_annotation: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "15")]
    pub sparse_initializer: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Node {
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, tag = "4")]
    pub op_type: String,
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub attribute: Vec<Vec<u8>>,
    #[prost(string, tag = "6")]
    pub doc_string: String,
    #[prost(string, tag = "7")]
    pub domain: String,
    #[prost(string, tag = "8")]
    pub overload: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Attribute {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    /// 1 float, 2 int, 7 ints.
    #[prost(int32, tag = "20")]
    pub kind: i32,
}

/// The part of a stored tensor that says what it is.
#[derive(Clone, PartialEq, Message)]
struct TensorHead {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(string, tag = "8")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct ValueInfo {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    r#type: Option<TypeMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeMessage {
    #[prost(message, optional, tag = "1")]
    tensor_type: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int64, tag = "1")]
    elem_type: i64,
}

impl Node {
    /// An operator of the standard domain that is named after its result.
    pub fn new(op_type: &str, inputs: &[&str], output: &str, attributes: &[Attribute]) -> Self {
        Self {
            input: inputs.iter().map(|input| input.to_string()).collect(),
            output: vec![output.into()],
            name: output.into(),
            op_type: op_type.into(),
            attribute: attributes.iter().map(Message::encode_to_vec).collect(),
            ..Self::default()
        }
    }

    /// A conversion to another element type.
    pub fn cast(input: &str, output: &str, to: i64) -> Self {
        Self::new("Cast", &[input], output, &[Attribute::int("to", to)])
    }

    /// Whether it multiplies matrices.
    pub fn is_product(&self) -> bool {
        self.domain.is_empty()
            && PRODUCTS.contains(&self.op_type.as_str())
            && self.input.len() >= 2
            && self.output.len() == 1
    }
}

impl Attribute {
    pub fn int(name: &str, value: i64) -> Self {
        Self { name: name.into(), i: Some(value), kind: 2, ..Self::default() }
    }

    pub fn float(name: &str, value: f32) -> Self {
        Self { name: name.into(), f: Some(value), kind: 1, ..Self::default() }
    }

    pub fn ints(name: &str, values: &[i64]) -> Self {
        Self { name: name.into(), ints: values.to_vec(), kind: 7, ..Self::default() }
    }
}

/// What the graph calls one of its inputs or results, for [`Graph::output`]; the shape is left open.
pub fn value_info(name: &str, elem_type: i64) -> Vec<u8> {
    let r#type = Some(TypeMessage { tensor_type: Some(TensorType { elem_type }) });
    ValueInfo { name: name.into(), r#type }.encode_to_vec()
}

impl Model {
    /// Reads an ONNX file; the error says what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<(Self, Graph), String> {
        let mut model = Self::decode(bytes).map_err(|error| format!("it is no ONNX file: {error}"))?;
        let graph = model.graph.take().ok_or("it has no graph")?;
        Ok((model, graph))
    }

    /// The file with another graph.
    pub fn with(self, graph: Graph) -> Vec<u8> {
        Self { graph: Some(graph), ..self }.encode_to_vec()
    }
}

impl Graph {
    /// Values that do not depend on the inputs, with the number of elements of the largest stored tensor they are made of.
    pub fn weights(&self) -> Result<HashMap<String, i64>, String> {
        let mut weights = HashMap::new();
        for bytes in &self.initializer {
            let head = TensorHead::decode(bytes.as_slice()).map_err(|error| format!("a stored tensor: {error}"))?;
            weights.insert(head.name, head.dims.iter().product());
        }
        for node in &self.node {
            let sizes: Option<Vec<i64>> =
                node.input.iter().filter(|input| !input.is_empty()).map(|input| weights.get(input).copied()).collect();
            let size = match sizes {
                Some(sizes) if !sizes.is_empty() => sizes.into_iter().max().unwrap_or(0),
                Some(_) if node.op_type == "Constant" => 0,
                _ => continue,
            };
            weights.extend(node.output.iter().map(|output| (output.clone(), size)));
        }
        Ok(weights)
    }

    /// Which nodes the inputs of the operators of one name are computed by, directly or not.
    pub fn behind(&self, op_type: &str) -> HashSet<usize> {
        let producers: HashMap<&str, usize> = (self.node.iter().enumerate())
            .flat_map(|(at, node)| node.output.iter().map(move |output| (output.as_str(), at)))
            .collect();
        let mut found = HashSet::new();
        let mut open: Vec<&String> =
            self.node.iter().filter(|node| node.op_type == op_type).flat_map(|node| &node.input).collect();
        while let Some(name) = open.pop() {
            if let Some(at) = producers.get(name.as_str())
                && found.insert(*at)
            {
                open.extend(&self.node[*at].input);
            }
        }
        found
    }
}
