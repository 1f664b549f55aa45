//! Operations on sequences that speech encoders and relative positions need: grouped convolution, distances between
//! positions, extra tokens, layers and spans left out in training.

use super::{Dim, Op, Origin, Value, size};

impl<'g> Value<'g> {
    /// Convolution over time of `[batch, in, time]` with `[out, in / groups, width]`; channels are seen by their own group only.
    pub fn grouped_conv1d(self, kernel: Value<'g>, stride: usize, padding: usize, groups: usize) -> Value<'g> {
        let (x, k) = (self.shape(), kernel.shape());
        let fits = x.len() == 3 && k.len() == 3 && size(x[1]) == size(k[1]) * groups;
        assert!(fits, "conv1d of {x:?} with {k:?} in {groups} groups");
        let width = size(k[2]);
        let time = match x[2] {
            same if stride == 1 && 2 * padding + 1 == width => same,
            Dim::Time(id) => {
                // Padding by hand that the kernel takes away again gives back the length that was padded.
                let origin = self.graph.times.borrow()[id].clone();
                match origin {
                    Origin::Padded { of, by } if stride == 1 && by + 2 * padding + 1 == width => Dim::Time(of),
                    _ => self.graph.intern(Origin::Window { of: id, kernel: width, stride, padding }),
                }
            }
            Dim::Fixed(n) => Dim::Fixed((n + 2 * padding - width) / stride + 1),
            Dim::Batch => panic!("conv1d over the batch axis"),
        };
        self.binary(Op::Conv1d { stride, padding, groups }, kernel, vec![x[0], k[0], time])
    }

    /// Relative attention bias for positions of this value's time, from a table `[buckets, heads]`.
    pub fn relative_bias(self, table: Value<'g>, max_distance: usize) -> Value<'g> {
        let time = self.shape()[1];
        let shape = vec![Dim::Fixed(1), Dim::Fixed(table.width(0)), time, time];
        self.binary(Op::RelativeBias { max_distance }, table, shape)
    }

    /// Distances `[1, 1, time, time]` between positions of this value's time (axis 1). The first `skip` positions are at
    /// distance zero from all.
    pub fn distance(self, skip: usize) -> Value<'g> {
        let time = self.shape()[1];
        self.unary(Op::Distance { skip }, vec![Dim::Fixed(1), Dim::Fixed(1), time, time])
    }

    /// Puts `tokens` `[count, width]` before the time of `[batch, time, width]`, the same for all items.
    pub fn prepend(self, tokens: Value<'g>) -> Value<'g> {
        let (mut shape, rows) = (self.shape(), tokens.shape());
        assert!(shape.len() == 3 && rows.len() == 2 && shape[2] == rows[1], "prepend of {rows:?} to {shape:?}");
        shape[1] = match shape[1] {
            Dim::Time(of) => self.graph.intern(Origin::Padded { of, by: size(rows[0]) }),
            other => panic!("prepend needs a symbolic time, got {other:?}"),
        };
        self.binary(Op::Prepend, tokens, shape)
    }

    /// Takes away what [`Value::prepend`] put before.
    pub fn skip(self, count: usize) -> Value<'g> {
        let mut shape = self.shape();
        let padded = match shape[1] {
            Dim::Time(id) => self.graph.times.borrow()[id].clone(),
            other => panic!("skip needs a symbolic time, got {other:?}"),
        };
        shape[1] = match padded {
            Origin::Padded { of, by } if by == count => Dim::Time(of),
            other => panic!("skip({count}) of a time that was not prepended by as much: {other:?}"),
        };
        self.unary(Op::Skip { count }, shape)
    }

    /// The first position of `[batch, time, width]`.
    pub fn first(self) -> Value<'g> {
        let shape = self.shape();
        assert_eq!(shape.len(), 3, "first of {shape:?}");
        self.unary(Op::First, vec![shape[0], shape[2]])
    }

    /// `layer` of this value, or in training with this probability this value itself (Huang et al. 2016, "stochastic depth").
    pub fn layer_drop(self, layer: Value<'g>, probability: f64) -> Value<'g> {
        assert_eq!(self.shape(), layer.shape(), "layer_drop needs a layer that keeps the shape");
        if probability == 0.0 { layer } else { self.binary(Op::LayerDrop { probability }, layer, self.shape()) }
    }

    /// In training, replaces spans of `length` positions by `filler` `[width]` (SpecAugment over time, Park et al. 2019, counted
    /// as in transformers' `_compute_mask_indices`): about the share `probability` of each item's positions inside `mask`
    /// `[batch, time]`, but at least `fewest` spans.
    pub fn mask_spans(
        self,
        filler: Value<'g>,
        mask: Value<'g>,
        probability: f64,
        length: usize,
        fewest: usize,
    ) -> Value<'g> {
        let shape = self.shape();
        assert!(shape.len() == 3 && filler.shape() == [shape[2]], "mask_spans of {shape:?}");
        if probability == 0.0 {
            return self;
        }
        self.graph.push(Op::MaskSpans { probability, length, fewest }, vec![self.id, filler.id, mask.id], shape)
    }
}

/// Buckets of the distances `-max_distance..=max_distance` from a query to a key, as T5, MPNet and WavLM number them: half
/// for each direction (keys after the query in the upper half), small distances exactly, larger ones on a log scale. Everything
/// beyond `max_distance` is in the bucket of `max_distance`.
///
/// The logarithm is taken in 32-bit floats as the published implementations do, so that distances at the edge of a bucket
/// fall on the same side.
pub fn relative_buckets(buckets: usize, max_distance: usize) -> Vec<i64> {
    let half = buckets / 2;
    let exact = half / 2;
    let of = |distance: usize| {
        if distance < exact {
            return distance;
        }
        let log = (distance as f32 / exact as f32).ln() / (max_distance as f64 / exact as f64).ln() as f32;
        ((exact as f32 + log * (half - exact) as f32) as usize).min(half - 1)
    };
    let before = (1..=max_distance).rev().map(of);
    let after = (1..=max_distance).map(|d| half + of(d));
    before.chain([0]).chain(after).map(|bucket| bucket as i64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;

    #[test]
    fn buckets_are_symmetric_and_bounded() {
        let all = relative_buckets(32, 128);
        let of = |distance: i64| all[(distance + 128) as usize];
        assert_eq!((of(0), of(1), of(-1)), (0, 17, 1));
        assert_eq!((of(8), of(128), of(-128)), (24, 31, 15));
        assert!((1..=128).all(|d| of(d) == of(-d) + 16 && of(d) >= of(d - 1)));
        // Eight exact steps, then eight on a log scale from 8 to 128: each doubling is two buckets.
        assert_eq!((of(-16), of(-32), of(-64)), (10, 12, 14));
    }

    #[test]
    fn padding_by_hand_gives_the_length_back() {
        let g = Graph::new();
        let x = g.input("x", &[Dim::Batch, Dim::Fixed(4), g.time("frames")]);
        let y = x.pad(2, 1, crate::graph::Border::Zero).grouped_conv1d(g.param("k", &[4, 2, 4]), 1, 0, 2);
        assert_eq!(x.shape(), y.shape());
        let t = x.transpose();
        assert_eq!(t.prepend(g.param("t", &[3, 4])).skip(3).shape(), t.shape());
    }
}
