//! The operations of `graph::sequence` as ONNX nodes.

use super::{Writer, int, ints};
use crate::graph::relative_buckets;
use crate::onnx_messages as pb;

impl Writer<'_> {
    /// Buckets of all distances are one short constant; each pair of positions looks its distance up.
    pub(super) fn relative_bias(&mut self, like: &str, table: &str, buckets: usize, max_distance: usize) -> String {
        let of_distance = relative_buckets(buckets, max_distance);
        let of_distance = self.integers(&of_distance);
        let positions = self.positions_of_axis(like, 1);
        let (first, second) = (self.integers(&[0]), self.integers(&[1]));
        let keys = self.node("Unsqueeze", &[&positions, &first], vec![]);
        let queries = self.node("Unsqueeze", &[&positions, &second], vec![]);
        let from_query = self.node("Sub", &[&keys, &queries], vec![]);
        let farthest = max_distance as i64;
        let (least, most) = (self.integers_shaped(vec![], &[-farthest]), self.integers_shaped(vec![], &[farthest]));
        let clipped = self.node("Clip", &[&from_query, &least, &most], vec![]);
        let rows = self.node("Add", &[&clipped, &most], vec![]);
        let ids = self.node("Gather", &[&of_distance, &rows], vec![int("axis", 0)]);
        let bias = self.node("Gather", &[table, &ids], vec![int("axis", 0)]);
        let heads_first = self.node("Transpose", &[&bias], vec![ints("perm", &[2, 0, 1])]);
        self.node("Unsqueeze", &[&heads_first, &first], vec![])
    }

    pub(super) fn distance(&mut self, like: &str, skip: i64) -> String {
        let positions = self.positions_of_axis(like, 1);
        let skip = self.integers(&[skip]);
        let counts = self.node("GreaterOrEqual", &[&positions, &skip], vec![]);
        let counts = self.node("Cast", &[&counts], vec![int("to", pb::FLOAT as i64)]);
        let positions = self.node("Cast", &[&positions], vec![int("to", pb::FLOAT as i64)]);
        let (first, second) = (self.integers(&[0]), self.integers(&[1]));
        let mut pair = |op: &str, of: &str| {
            let row = self.node("Unsqueeze", &[of, &first], vec![]);
            let column = self.node("Unsqueeze", &[of, &second], vec![]);
            self.node(op, &[&row, &column], vec![])
        };
        let (difference, both) = (pair("Sub", &positions), pair("Mul", &counts));
        let distance = self.node("Abs", &[&difference], vec![]);
        let distance = self.node("Mul", &[&distance, &both], vec![]);
        let axes = self.integers(&[0, 1]);
        self.node("Unsqueeze", &[&distance, &axes], vec![])
    }

    pub(super) fn prepend(&mut self, x: &str, tokens: &str) -> String {
        let (first, ones) = (self.integers(&[0]), self.integers(&[1, 1]));
        let tokens = self.node("Unsqueeze", &[tokens, &first], vec![]);
        let batch = self.length_of_axis(x, 0);
        let shape = self.node("Concat", &[&batch, &ones], vec![int("axis", 0)]);
        let tokens = self.node("Expand", &[&tokens, &shape], vec![]);
        self.node("Concat", &[&tokens, x], vec![int("axis", 1)])
    }
}
