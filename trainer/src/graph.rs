//! A network recorded once as data: a list of operations whose shapes are checked while it is built.
//! Knows nothing of libtorch, ONNX, weights or training; `torch.rs` runs a graph and `onnx.rs` writes it out.

mod sequence;
mod value;

use std::cell::RefCell;

pub use sequence::relative_buckets;

/// One axis of a shape. Only the batch and stretches of time are symbolic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// A size known while building.
    Fixed(usize),
    /// The number of items computed together.
    Batch,
    /// A number of samples, frames or tokens; equal ids are equal lengths.
    Time(usize),
}

/// Where a symbolic length comes from. Equal origins share one id, so that values of equal length can be added.
#[derive(Clone, Debug, PartialEq)]
enum Origin {
    Input(String),
    Window { of: usize, kernel: usize, stride: usize, padding: usize },
    Padded { of: usize, by: usize },
}

/// Element-wise functions of one value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// Gaussian error linear unit, exact form (with erf).
    Gelu,
    /// The same by its approximation with tanh ("gelu_new" of T5 1.1).
    GeluTanh,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `max(x, 0)`.
    Relu,
    /// Hyperbolic tangent.
    Tanh,
    /// Square root.
    Sqrt,
    /// Natural logarithm.
    Log,
}

/// How an axis is folded to length one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fold {
    /// Sum of the elements.
    Sum,
    /// Largest element.
    Max,
    /// Mean of the elements.
    Mean,
}

/// How the ends of a signal are extended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Border {
    /// Zeros.
    Zero,
    /// The signal mirrored about its end sample, which is not repeated.
    Reflect,
}

/// One integer step from a count of samples to a count of frames: `(count + offset) / divide`, rounded down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Added before dividing.
    pub offset: i64,
    /// Divisor.
    pub divide: i64,
}

/// Element type of an input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// 32-bit float.
    Float,
    /// 64-bit integer (ids, lengths, masks).
    Integer,
}

/// The whole vocabulary of a network. Both interpreters match on it without a wildcard, so a new operation does not
/// compile until both know it.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields are said in the line above each operation.
pub enum Op {
    /// A value given at run time.
    Input { name: String, kind: Kind },
    /// A trained tensor, looked up by name.
    Param { name: String },
    /// A fixed tensor, part of the network's definition.
    Const { data: Vec<f32> },
    /// Matrix product over the last two axes.
    MatMul,
    /// Element-wise sum with broadcasting.
    Add,
    /// Element-wise product with broadcasting.
    Mul,
    /// Element-wise quotient with broadcasting.
    Div,
    /// Element-wise larger value with broadcasting.
    Maximum,
    /// Convolution over the last axis: `[batch, in, time]` with a kernel `[out, in / groups, width]`.
    Conv1d { stride: usize, padding: usize, groups: usize },
    /// Extends the last axis at both ends.
    Pad { left: usize, right: usize, border: Border },
    /// Rows of a table `[rows, width]` for ids `[batch, time]`.
    Gather,
    /// Normalisation over the last axis with scale and shift.
    LayerNorm { epsilon: f64 },
    /// An element-wise function.
    Map(Function),
    /// Softmax over the last axis.
    Softmax,
    /// Folds one axis, which stays with length one.
    Reduce { fold: Fold, axis: usize },
    /// `[batch, time, width]` to `[batch, heads, time, width / heads]`.
    SplitHeads { heads: usize },
    /// The inverse of `SplitHeads`.
    MergeHeads,
    /// Adds the first `time` rows of a table `[longest, width]`.
    AddPositions,
    /// Attention bias `[1, heads, time, time]` from a table `[buckets, heads]`: row by clipped log distance of the tokens.
    RelativeBias { max_distance: usize },
    /// `[1, 1, time, time]` of the distances between positions; rows and columns of the first `skip` positions are zero.
    Distance { skip: usize },
    /// Puts rows `[count, width]` before the time of `[batch, time, width]`.
    Prepend,
    /// Leaves out the first positions of `[batch, time, width]`.
    Skip { count: usize },
    /// The first position of `[batch, time, width]`: `[batch, width]`.
    First,
    /// The second operand; in training the first one instead, with this probability (the layer between is left out).
    LayerDrop { probability: f64 },
    /// `[batch, time, width]` with random spans replaced by a row `[width]` in training, inside the mask `[batch, time]`.
    MaskSpans { probability: f64, length: usize, fewest: usize },
    /// Exchanges the last two axes.
    Transpose,
    /// Inserts an axis of length one.
    Unsqueeze { axis: usize },
    /// Removes an axis of length one.
    Squeeze { axis: usize },
    /// Joins along the last axis.
    Concat,
    /// `[batch, time]` of ones where the position is below the item's count and zeros after it. The count is the
    /// integer length (less a third operand, if there is one) after all steps, at least one.
    Valid { steps: Vec<Step> },
    /// Index `[batch]` of the first or last position of `[batch, time]` that is above one half.
    Edge { last: bool },
    /// Moves each item of `[batch, channels, time]` to the left by its own count `[batch]`; the last position is repeated.
    Shift,
    /// Integers to floats.
    ToFloat,
    /// Rows scaled to unit length.
    L2Normalize,
    /// Random zeros in training; nothing otherwise.
    Dropout { probability: f64 },
}

/// One recorded operation with its inputs (indices of earlier nodes) and the shape of its result.
#[derive(Clone, Debug)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// Indices of the operands.
    pub inputs: Vec<usize>,
    /// Shape of the result.
    pub shape: Vec<Dim>,
}

/// A network while it is built and after.
#[derive(Default)]
pub struct Graph {
    nodes: RefCell<Vec<Node>>,
    times: RefCell<Vec<Origin>>,
    outputs: RefCell<Vec<(String, usize)>>,
}

/// A handle to one result inside a graph; copy it freely.
#[derive(Clone, Copy)]
pub struct Value<'g> {
    graph: &'g Graph,
    id: usize,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// A float input; see [`Graph::time`] for symbolic lengths.
    pub fn input(&self, name: &str, shape: &[Dim]) -> Value<'_> {
        self.push(Op::Input { name: name.into(), kind: Kind::Float }, vec![], shape.to_vec())
    }

    /// An integer input.
    pub fn integers(&self, name: &str, shape: &[Dim]) -> Value<'_> {
        self.push(Op::Input { name: name.into(), kind: Kind::Integer }, vec![], shape.to_vec())
    }

    /// The symbolic length called `name`.
    pub fn time(&self, name: &str) -> Dim {
        self.intern(Origin::Input(name.into()))
    }

    /// A trained tensor of a fixed shape. Linear weights are `[in, out]`, convolution kernels `[out, in, width]`.
    pub fn param(&self, name: &str, shape: &[usize]) -> Value<'_> {
        self.push(Op::Param { name: name.into() }, vec![], fixed(shape))
    }

    /// A fixed tensor.
    pub fn constant(&self, shape: &[usize], data: Vec<f32>) -> Value<'_> {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "constant data must fill {shape:?}");
        self.push(Op::Const { data }, vec![], fixed(shape))
    }

    /// A fixed number, broadcast where it is used.
    pub fn scalar(&self, number: f32) -> Value<'_> {
        self.constant(&[1], vec![number])
    }

    /// Names a result of the network.
    pub fn output(&self, name: &str, value: Value<'_>) {
        self.outputs.borrow_mut().push((name.into(), value.id));
    }

    /// All nodes in the order they were recorded, which is an order of evaluation.
    pub fn nodes(&self) -> Vec<Node> {
        self.nodes.borrow().clone()
    }

    /// Names and node indices of the results.
    pub fn outputs(&self) -> Vec<(String, usize)> {
        self.outputs.borrow().clone()
    }

    /// Names and shapes of the trained tensors, each once, in the order of first use.
    pub fn params(&self) -> Vec<(String, Vec<usize>)> {
        let mut found: Vec<(String, Vec<usize>)> = vec![];
        for node in self.nodes.borrow().iter() {
            if let Op::Param { name } = &node.op
                && found.iter().all(|(known, _)| known != name)
            {
                found.push((name.clone(), node.shape.iter().map(|d| size(*d)).collect()));
            }
        }
        found
    }

    /// A readable listing, one node a line.
    pub fn describe(&self) -> String {
        let line = |(i, n): (usize, &Node)| match &n.op {
            Op::Const { data } => format!("%{i} = Const({} numbers) {:?}\n", data.len(), n.shape),
            op => format!("%{i} = {op:?} of {:?} -> {:?}\n", n.inputs, n.shape),
        };
        self.nodes.borrow().iter().enumerate().map(line).collect()
    }

    fn push(&self, op: Op, inputs: Vec<usize>, shape: Vec<Dim>) -> Value<'_> {
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(Node { op, inputs, shape });
        Value { graph: self, id: nodes.len() - 1 }
    }

    fn intern(&self, origin: Origin) -> Dim {
        let mut times = self.times.borrow_mut();
        let at = times.iter().position(|known| *known == origin).unwrap_or_else(|| {
            times.push(origin);
            times.len() - 1
        });
        Dim::Time(at)
    }
}

fn fixed(shape: &[usize]) -> Vec<Dim> {
    shape.iter().map(|&n| Dim::Fixed(n)).collect()
}

fn size(dim: Dim) -> usize {
    match dim {
        Dim::Fixed(n) => n,
        other => panic!("a fixed size was expected, got {other:?}"),
    }
}

/// Shape of an element-wise operation; axes of length one stretch, others must be equal.
fn broadcast(a: &[Dim], b: &[Dim]) -> Vec<Dim> {
    let rank = a.len().max(b.len());
    let axis = |s: &[Dim], i: usize| if i + s.len() < rank { Dim::Fixed(1) } else { s[i + s.len() - rank] };
    let join = |i| match (axis(a, i), axis(b, i)) {
        (x, Dim::Fixed(1)) => x,
        (Dim::Fixed(1), y) => y,
        (x, y) if x == y => x,
        _ => panic!("shapes {a:?} and {b:?} do not broadcast"),
    };
    (0..rank).map(join).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_windows_have_equal_lengths() {
        let g = Graph::new();
        let x = g.input("x", &[Dim::Batch, Dim::Fixed(2), g.time("frames")]);
        let k = g.param("k", &[3, 2, 3]);
        let (a, b) = (x.conv1d(k, 2, 1), x.conv1d(k, 2, 1));
        assert_eq!((a + b).shape(), a.shape());
        assert_ne!(a.shape()[2], x.shape()[2]);
        assert_eq!(x.conv1d(k, 1, 1).shape()[2], x.shape()[2]);
    }

    #[test]
    #[should_panic(expected = "do not broadcast")]
    fn unequal_lengths_do_not_add() {
        let g = Graph::new();
        let x = g.input("x", &[Dim::Batch, Dim::Fixed(2), g.time("frames")]);
        let _ = x + x.conv1d(g.param("k", &[2, 2, 3]), 2, 1);
    }
}
