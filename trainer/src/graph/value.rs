//! Operations on recorded values: each adds a node to the graph and checks the shapes.

use std::ops::{Add, Div, Mul};

use super::{Border, Dim, Fold, Function, Graph, Op, Origin, Step, Value, broadcast, size};

impl<'g> Value<'g> {
    /// The graph this value belongs to.
    pub fn graph(self) -> &'g Graph {
        self.graph
    }

    /// Shape of this value.
    pub fn shape(self) -> Vec<Dim> {
        self.graph.nodes.borrow()[self.id].shape.clone()
    }

    /// The fixed size of an axis counted from the end (0 is the last). Panics on a symbolic axis: a bug of the caller.
    pub fn width(self, from_end: usize) -> usize {
        let shape = self.shape();
        size(shape[shape.len() - 1 - from_end])
    }

    /// The fixed size of an axis counted from the front. Panics on a symbolic axis: a bug of the caller.
    pub fn width_at(self, axis: usize) -> usize {
        size(self.shape()[axis])
    }

    /// Matrix product; leading axes broadcast.
    pub fn matmul(self, other: Value<'g>) -> Value<'g> {
        let (a, b) = (self.shape(), other.shape());
        assert!(a.len() >= 2 && b.len() >= 2, "matmul needs matrices, got {a:?} and {b:?}");
        assert_eq!(a[a.len() - 1], b[b.len() - 2], "inner sizes differ: {a:?} and {b:?}");
        let mut shape = broadcast(&a[..a.len() - 2], &b[..b.len() - 2]);
        shape.extend([a[a.len() - 2], b[b.len() - 1]]);
        self.binary(Op::MatMul, other, shape)
    }

    /// Element-wise larger value.
    pub fn maximum(self, other: Value<'g>) -> Value<'g> {
        let shape = broadcast(&self.shape(), &other.shape());
        self.binary(Op::Maximum, other, shape)
    }

    /// Convolution over time of `[batch, in, time]` with `[out, in, width]`.
    pub fn conv1d(self, kernel: Value<'g>, stride: usize, padding: usize) -> Value<'g> {
        self.grouped_conv1d(kernel, stride, padding, 1)
    }

    /// Extends the last axis.
    pub fn pad(self, left: usize, right: usize, border: Border) -> Value<'g> {
        let mut shape = self.shape();
        let last = shape.len() - 1;
        shape[last] = match shape[last] {
            Dim::Time(of) => self.graph.intern(Origin::Padded { of, by: left + right }),
            Dim::Fixed(n) => Dim::Fixed(n + left + right),
            Dim::Batch => panic!("padding the batch axis"),
        };
        self.unary(Op::Pad { left, right, border }, shape)
    }

    /// Rows of this table `[rows, width]` for integer ids.
    pub fn gather(self, ids: Value<'g>) -> Value<'g> {
        let mut shape = ids.shape();
        shape.push(Dim::Fixed(self.width(0)));
        self.binary(Op::Gather, ids, shape)
    }

    /// Layer normalisation over the last axis.
    pub fn layer_norm(self, scale: Value<'g>, shift: Value<'g>, epsilon: f64) -> Value<'g> {
        assert!(scale.width(0) == self.width(0) && shift.width(0) == self.width(0), "layer_norm widths differ");
        self.graph.push(Op::LayerNorm { epsilon }, vec![self.id, scale.id, shift.id], self.shape())
    }

    /// An element-wise function.
    pub fn map(self, function: Function) -> Value<'g> {
        self.unary(Op::Map(function), self.shape())
    }

    /// Softmax over the last axis.
    pub fn softmax(self) -> Value<'g> {
        self.unary(Op::Softmax, self.shape())
    }

    /// Folds an axis, keeping it with length one.
    pub fn reduce(self, fold: Fold, axis: usize) -> Value<'g> {
        let mut shape = self.shape();
        shape[axis] = Dim::Fixed(1);
        self.unary(Op::Reduce { fold, axis }, shape)
    }

    /// Splits the last axis into heads.
    pub fn split_heads(self, heads: usize) -> Value<'g> {
        let s = self.shape();
        assert!(s.len() == 3 && size(s[2]).is_multiple_of(heads), "cannot split {s:?} into {heads} heads");
        self.unary(Op::SplitHeads { heads }, vec![s[0], Dim::Fixed(heads), s[1], Dim::Fixed(size(s[2]) / heads)])
    }

    /// Joins heads back into the last axis.
    pub fn merge_heads(self) -> Value<'g> {
        let s = self.shape();
        assert_eq!(s.len(), 4, "merge_heads of {s:?}");
        self.unary(Op::MergeHeads, vec![s[0], s[2], Dim::Fixed(size(s[1]) * size(s[3]))])
    }

    /// Adds the first rows of a table of positions.
    pub fn add_positions(self, table: Value<'g>) -> Value<'g> {
        assert_eq!(self.width(0), table.width(0), "position table width");
        self.binary(Op::AddPositions, table, self.shape())
    }

    /// Exchanges the last two axes.
    pub fn transpose(self) -> Value<'g> {
        let mut shape = self.shape();
        let n = shape.len();
        shape.swap(n - 1, n - 2);
        self.unary(Op::Transpose, shape)
    }

    /// Inserts an axis of length one.
    pub fn unsqueeze(self, axis: usize) -> Value<'g> {
        let mut shape = self.shape();
        shape.insert(axis, Dim::Fixed(1));
        self.unary(Op::Unsqueeze { axis }, shape)
    }

    /// Removes an axis of length one.
    pub fn squeeze(self, axis: usize) -> Value<'g> {
        let mut shape = self.shape();
        assert_eq!(shape.remove(axis), Dim::Fixed(1), "squeeze of a longer axis");
        self.unary(Op::Squeeze { axis }, shape)
    }

    /// Joins values along the last axis.
    pub fn concat(values: &[Value<'g>]) -> Value<'g> {
        let first = values.first().expect("concat of nothing");
        let mut shape = first.shape();
        let last = shape.len() - 1;
        shape[last] = Dim::Fixed(values.iter().map(|v| v.width(0)).sum());
        first.graph.push(Op::Concat, values.iter().map(|v| v.id).collect(), shape)
    }

    /// Ones at the valid positions of `like` (`[batch, channels, time]`), from lengths `[batch]`.
    pub fn valid(self, like: Value<'g>, steps: &[Step]) -> Value<'g> {
        let shape = like.shape();
        assert_eq!(shape.len(), 3, "valid needs [batch, channels, time], got {shape:?}");
        self.binary(Op::Valid { steps: steps.to_vec() }, like, vec![shape[0], shape[2]])
    }

    /// Ones at the positions of `like` from 0 to the number of steps from `start` to this value, both `[batch]`.
    pub fn valid_from(self, start: Value<'g>, like: Value<'g>, steps: &[Step]) -> Value<'g> {
        let shape = like.shape();
        assert_eq!(shape.len(), 3, "valid_from needs [batch, channels, time], got {shape:?}");
        let inputs = vec![self.id, like.id, start.id];
        self.graph.push(Op::Valid { steps: steps.to_vec() }, inputs, vec![shape[0], shape[2]])
    }

    /// First or last position above one half.
    pub fn edge(self, last: bool) -> Value<'g> {
        let shape = self.shape();
        assert_eq!(shape.len(), 2, "edge of {shape:?}");
        self.unary(Op::Edge { last }, vec![shape[0]])
    }

    /// Moves each item to the left along the last axis by its own count.
    pub fn shift(self, start: Value<'g>) -> Value<'g> {
        assert_eq!(self.shape().len(), 3, "shift of {:?}", self.shape());
        self.binary(Op::Shift, start, self.shape())
    }

    /// Integers to floats.
    pub fn to_float(self) -> Value<'g> {
        self.unary(Op::ToFloat, self.shape())
    }

    /// Rows scaled to unit length.
    pub fn l2_normalize(self) -> Value<'g> {
        self.unary(Op::L2Normalize, self.shape())
    }

    /// Random zeros in training, the rest scaled up.
    pub fn dropout(self, probability: f64) -> Value<'g> {
        if probability == 0.0 { self } else { self.unary(Op::Dropout { probability }, self.shape()) }
    }

    pub(super) fn unary(self, op: Op, shape: Vec<Dim>) -> Value<'g> {
        self.graph.push(op, vec![self.id], shape)
    }

    pub(super) fn binary(self, op: Op, other: Value<'g>, shape: Vec<Dim>) -> Value<'g> {
        assert!(std::ptr::eq(self.graph, other.graph), "values of two graphs");
        self.graph.push(op, vec![self.id, other.id], shape)
    }
}

macro_rules! operator {
    ($name:ident, $method:ident) => {
        impl<'g> $name for Value<'g> {
            type Output = Value<'g>;
            fn $method(self, other: Value<'g>) -> Value<'g> {
                let shape = broadcast(&self.shape(), &other.shape());
                self.binary(Op::$name, other, shape)
            }
        }
        impl<'g> $name<f32> for Value<'g> {
            type Output = Value<'g>;
            fn $method(self, other: f32) -> Value<'g> {
                $name::$method(self, self.graph.scalar(other))
            }
        }
    };
}
operator!(Add, add);
operator!(Mul, mul);
operator!(Div, div);
