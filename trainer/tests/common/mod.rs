//! ONNX Runtime for tests: runs one ONNX file given as bytes. Its library is found as the product finds it.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use esr_trainer::graph::Graph;
use esr_trainer::onnx::{self, Precision};
use esr_trainer::torch::Params;
use ort::environment::Environment;
use ort::session::{Session, SessionInputValue};
use ort::value::Tensor as OrtTensor;
use tch::{Kind, Tensor};

/// The one environment of a test program.
fn environment() -> &'static Environment {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let library = esr_encoder::runtime::default_library();
        let builder =
            ort::init_from(&library).unwrap_or_else(|e| panic!("{}: {e}; set ORT_DYLIB_PATH", library.display()));
        builder.with_telemetry(false).build().expect("ONNX Runtime starts")
    })
}

/// Runs the ONNX form of a graph.
pub fn run_onnx(
    graph: &Graph,
    params: &Params,
    inputs: &[(&str, &Tensor)],
    precision: Precision,
) -> BTreeMap<String, Tensor> {
    let bytes = onnx::encode(graph, params, precision).unwrap();
    let mut session = Session::builder(environment())
        .unwrap()
        .commit_from_memory(&bytes)
        .unwrap_or_else(|e| panic!("{e}\n{}", graph.describe()));
    let value = |t: &Tensor| -> SessionInputValue<'static> {
        let shape = t.size();
        if t.kind() == Kind::Int64 {
            OrtTensor::from_array((shape, Vec::<i64>::try_from(t.flatten(0, -1)).unwrap())).unwrap().into()
        } else {
            OrtTensor::from_array((shape, Vec::<f32>::try_from(t.contiguous().flatten(0, -1)).unwrap())).unwrap().into()
        }
    };
    let given: Vec<(String, SessionInputValue<'static>)> =
        inputs.iter().map(|(name, t)| (name.to_string(), value(t))).collect();
    let out = session.run(given).unwrap();
    graph
        .outputs()
        .into_iter()
        .map(|(name, _)| {
            let (shape, data) = out[name.as_str()].try_extract_tensor::<f32>().unwrap();
            (name.clone(), Tensor::from_slice(data).view(shape.iter().copied().collect::<Vec<i64>>().as_slice()))
        })
        .collect()
}

/// Random values for every parameter of a graph.
#[allow(dead_code)] // Not every test program needs it.
pub fn random_params(graph: &Graph, seed: i64) -> Params {
    tch::manual_seed(seed);
    let one = |(name, shape): (String, Vec<usize>)| {
        let dims: Vec<i64> = shape.iter().map(|n| *n as i64).collect();
        let fan = if shape.len() > 1 { shape[shape.len() - 2] as f64 } else { 4.0 };
        (name, Tensor::randn(&dims, (Kind::Float, tch::Device::Cpu)) / fan.sqrt())
    };
    graph.params().into_iter().map(one).collect()
}

/// Largest absolute difference.
pub fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}
