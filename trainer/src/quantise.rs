//! Weight-only int8: symmetric, one scale per output channel. Knows tensors, not files or networks.

use tch::{Kind, Tensor};

/// A weight as signed bytes with its scales, which broadcast against it.
pub struct Quantised {
    /// Same shape as the weight, values -127..=127.
    pub bytes: Tensor,
    /// Scale per channel, shaped to broadcast.
    pub scale: Tensor,
}

/// Which axis keeps its own scales: columns of a linear weight `[in, out]`, rows of a table, kernels of a convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Channels {
    /// The first axis.
    First,
    /// The last axis.
    Last,
}

/// The rounding of `weight` to int8. Rounding an already rounded weight again changes nothing.
pub fn quantise(weight: &Tensor, channels: Channels) -> Quantised {
    let axes: Vec<i64> = match channels {
        Channels::First => (1..weight.dim() as i64).collect(),
        Channels::Last => (0..weight.dim() as i64 - 1).collect(),
    };
    let scale = (weight.abs().amax(axes.as_slice(), true) / 127.0).clamp_min(1e-12);
    let bytes = (weight / &scale).round().clamp(-127.0, 127.0).to_kind(Kind::Int8);
    Quantised { bytes, scale }
}

/// The weight as the exported int8 form will reproduce it.
pub fn rounded(weight: &Tensor, channels: Channels) -> Tensor {
    let q = quantise(weight, channels);
    q.bytes.to_kind(Kind::Float) * q.scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_close_and_idempotent() {
        tch::manual_seed(7);
        let weight = Tensor::randn([40, 30], (Kind::Float, tch::Device::Cpu));
        for channels in [Channels::First, Channels::Last] {
            let once = rounded(&weight, channels);
            let error = (&once - &weight).abs().max().double_value(&[]);
            assert!(error < 4.5 / 127.0 / 2.0 + 1e-6, "{error}");
            let again = rounded(&once, channels);
            assert!((&again - &once).abs().max().double_value(&[]) < 1e-6);
        }
    }
}
