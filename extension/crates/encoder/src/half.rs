//! Products of a network in 16-bit floats: an ONNX file in, the same network with conversions around its products out.
//!
//! Bundles hold networks of 32-bit floats (whose weights may be stored as int8). What a GPU multiplies fast is 16-bit, so
//! factors are rounded to it and products brought back; sums over long axes, norms, softmax, residuals and positions
//! stay as they are. The spectrogram is left alone as well: what a logarithm is taken of spans more powers of ten than
//! 16-bit floats have. It is recognised by just that, so that no names of any one trainer matter.

use std::collections::HashMap;

use crate::graph::{FLOAT, FLOAT16, Graph, Model, Node};

/// A stored factor with fewer numbers is a filter (the smoothing of a loudness, say) and no layer.
const SMALLEST_LAYER: i64 = 64;

/// Rewrites a network; also says how many products are now 16-bit. The error says what is wrong with the file.
pub fn rewrite(onnx: &[u8]) -> Result<(Vec<u8>, usize), String> {
    let (model, graph) = Model::parse(onnx)?;
    let chosen = products(&graph)?;
    let count = chosen.iter().filter(|chosen| **chosen).count();
    let mut halves = HashMap::new();
    let mut nodes = Vec::with_capacity(graph.node.len() + 3 * count);
    for (mut node, chosen) in graph.node.into_iter().zip(chosen) {
        if !chosen {
            nodes.push(node);
            continue;
        }
        for input in node.input.iter_mut().filter(|input| !input.is_empty()) {
            // One conversion for a value that several products take.
            let half = halves.entry(input.clone()).or_insert_with(|| {
                let half = format!("{input}/float16");
                nodes.push(Node::cast(input, &half, FLOAT16));
                half
            });
            *input = half.clone();
        }
        let whole = std::mem::take(&mut node.output[0]);
        node.output[0] = format!("{whole}/product");
        let back = Node { name: format!("{whole}/float32"), ..Node::cast(&node.output[0], &whole, FLOAT) };
        nodes.push(node);
        nodes.push(back);
    }
    Ok((model.with(Graph { node: nodes, ..graph }), count))
}

/// For each node, whether it is a product of the blocks.
fn products(graph: &Graph) -> Result<Vec<bool>, String> {
    let (weights, front_end) = (graph.weights()?, graph.behind("Log"));
    let is_chosen = |(at, node): (usize, &Node)| {
        let factors = [weights.get(&node.input[0]), weights.get(&node.input[1])];
        let is_layer = factors.into_iter().flatten().all(|size| *size >= SMALLEST_LAYER);
        !front_end.contains(&at) && is_layer && factors.contains(&None)
    };
    Ok(graph.node.iter().enumerate().map(|(at, node)| node.is_product() && is_chosen((at, node))).collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn default_network(file: &str) -> Vec<u8> {
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../models/default").join(file)).unwrap()
    }

    #[test]
    fn the_spectrogram_and_filters_stay_in_32_bits() {
        let (_, graph) = Model::parse(&default_network("speech.onnx")).unwrap();
        let chosen = products(&graph).unwrap();
        let kept: Vec<&Node> = (graph.node.iter().zip(&chosen))
            .filter(|(node, chosen)| node.is_product() && !**chosen)
            .map(|(node, _)| node)
            .collect();
        // The Fourier transform, the mel bands, two filters of the loudness, and the gains, which are weights throughout.
        let factors: Vec<&str> = kept.iter().map(|node| node.input[0].as_str()).collect();
        assert_eq!(kept.len(), 5, "{kept:?}");
        assert!(factors.contains(&"speech.head.layer_gain"), "{factors:?}");
        assert!(kept.iter().any(|node| node.op_type == "Conv" && node.input[1] == "const5"), "{kept:?}");
        // Two convolutions, eight products in each of three blocks, the head.
        assert_eq!(chosen.iter().filter(|chosen| **chosen).count(), 2 + 3 * 8 + 1);
    }

    #[test]
    fn only_conversions_are_added_and_nothing_is_lost() {
        for file in ["speech.onnx", "text.onnx"] {
            let before = default_network(file);
            let (after, count) = rewrite(&before).unwrap();
            let ((model, graph), (model_after, graph_after)) =
                (Model::parse(&before).unwrap(), Model::parse(&after).unwrap());
            assert_eq!(model, model_after);
            let rest = |mut graph: Graph| {
                graph.node.clear();
                graph
            };
            assert_eq!(rest(graph.clone()), rest(graph_after.clone()));
            let casts = graph_after.node.len() - graph.node.len();
            assert!(casts > 2 * count && casts <= 3 * count, "{casts} conversions for {count} products");
            let mut computed = std::collections::HashSet::new();
            for node in &graph_after.node {
                let missing = node.input.iter().find(|input| input.contains('/') && !computed.contains(*input));
                assert_eq!(missing, None, "used before it is computed");
                computed.extend(node.output.iter().cloned());
            }
            let names = |graph: &Graph| -> Vec<String> {
                graph.node.iter().map(|node| node.name.clone()).filter(|name| !name.contains('/')).collect()
            };
            assert_eq!(names(&graph), names(&graph_after));
        }
        // A file that is passed through is the same file.
        let before = default_network("text.onnx");
        let (model, graph) = Model::parse(&before).unwrap();
        assert_eq!(model.with(graph), before);
    }

    #[test]
    fn files_that_are_no_networks_are_refused() {
        assert!(rewrite(b"\xff\xff").unwrap_err().contains("no ONNX file"));
        assert_eq!(rewrite(b"").unwrap_err(), "it has no graph");
    }
}
