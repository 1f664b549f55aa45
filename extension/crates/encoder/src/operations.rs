//! Counting: how many floating point operations the products of a network take, and a network of nothing but products, which
//! says how many a device can do. Writes graphs; `runtime` runs them.

use crate::graph::{Attribute, FLOAT, FLOAT16, Graph, INT64, Model, Node, value_info};

/// A network that also returns the shapes which its products' costs follow from.
pub(crate) struct Counted {
    /// The ONNX file.
    pub onnx: Vec<u8>,
    /// For each product: the output that has the shape of its result, the one that has the shape of a factor, and whether
    /// that factor is a kernel (a convolution's) rather than a matrix of rows.
    pub products: Vec<(String, String, bool)>,
}

/// Adds the shapes of all products that depend on the input.
pub(crate) fn counted(onnx: &[u8]) -> Result<Counted, String> {
    let (model, mut graph) = Model::parse(onnx)?;
    let weights = graph.weights()?;
    let mut products = Vec::new();
    let mut shapes = Vec::new();
    for node in graph.node.iter().filter(|node| node.is_product() && !weights.contains_key(&node.output[0])) {
        let is_kernel = node.op_type == "Conv";
        let factor = &node.input[usize::from(is_kernel)];
        let name = &node.output[0];
        let (result_shape, factor_shape) = (format!("{name}/shape"), format!("{name}/factor"));
        shapes.push(Node::new("Shape", &[name], &result_shape, &[]));
        shapes.push(Node::new("Shape", &[factor], &factor_shape, &[]));
        products.push((result_shape, factor_shape, is_kernel));
    }
    graph.output.extend(shapes.iter().map(|node| value_info(&node.output[0], INT64)));
    graph.node.extend(shapes);
    Ok(Counted { onnx: model.with(graph), products })
}

/// Operations of one product, a multiplication and an addition being two.
pub(crate) fn cost(result: &[i64], factor: &[i64], is_kernel: bool) -> u64 {
    let size = |shape: &[i64]| shape.iter().map(|length| length.unsigned_abs()).product::<u64>();
    let depth = if is_kernel {
        size(factor.get(1..).unwrap_or(&[]))
    } else {
        factor.last().map_or(1, |length| length.unsigned_abs())
    };
    2 * size(result) * depth
}

/// The output of [`product_chain`].
pub(crate) const CHAIN_OUTPUT: &str = "y";

/// A network without inputs: `steps` products of square matrices of random numbers, `size` wide, one after the other.
pub(crate) fn product_chain(size: usize, steps: usize, in_half: bool) -> Vec<u8> {
    // Each product leaves the variance of what it multiplies as it was.
    let bound = (3.0 / size as f32).sqrt();
    let shape = Attribute::ints("shape", &[size as i64, size as i64]);
    let mut nodes = Vec::new();
    for (name, bound, seed) in [("x", 1.0, 1.0), ("w", bound, 2.0)] {
        let (low, high) = (Attribute::float("low", -bound), Attribute::float("high", bound));
        let random = [shape.clone(), low, high, Attribute::float("seed", seed)];
        nodes.push(Node::new("RandomUniform", &[], &format!("{name}/random"), &random));
        let to = if in_half { FLOAT16 } else { FLOAT };
        nodes.push(Node::cast(&format!("{name}/random"), name, to));
    }
    let mut last = "x".to_string();
    for step in 0..steps {
        let next = format!("x{step}");
        nodes.push(Node::new("MatMul", &[&last, "w"], &next, &[]));
        last = next;
    }
    nodes.push(Node::cast(&last, "last", FLOAT));
    nodes.push(Node::new("ReduceMax", &["last"], CHAIN_OUTPUT, &[Attribute::int("keepdims", 0)]));
    let graph = Graph { node: nodes, output: vec![value_info(CHAIN_OUTPUT, FLOAT)], ..named("products") };
    // Operator set 20 in the version of the format that came with it: an OperatorSetId whose field 2 is 20.
    let model = Model { ir_version: 9, opset_import: vec![vec![0x10, 20]], ..Model::default() };
    model.with(graph)
}

fn named(name: &str) -> Graph {
    Graph { name: name.into(), ..Graph::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_those_of_the_textbook() {
        assert_eq!(cost(&[2, 3, 5], &[2, 3, 7], false), 2 * 2 * 3 * 5 * 7);
        assert_eq!(cost(&[1, 512, 100], &[512, 80, 3], true), 2 * 512 * 100 * 80 * 3);
        assert_eq!(cost(&[], &[], false), 2);
    }
}
