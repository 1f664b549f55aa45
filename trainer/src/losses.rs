//! The losses of the paper and its options, over rows of unit vectors or logits. Plain tensors in, a scalar tensor out.

use tch::{Kind, Tensor};

/// Symmetric contrastive loss between speech and text rows `[batch, width]` of unit length: softmax over the batch in both
/// directions. `positives` `[batch, batch]` marks which texts describe which clips; without it each clip's own text is
/// its only positive. Several positives share the target evenly. `apart` `[batch, batch]` is added to the logits: very low
/// where a pair is not to be contrasted.
pub fn contrastive(
    speech: &Tensor,
    text: &Tensor,
    temperature: &Tensor,
    positives: Option<&Tensor>,
    apart: Option<&Tensor>,
) -> Tensor {
    let mut logits = speech.matmul(&text.transpose(0, 1)) / temperature;
    let mut positives = positives.map(Tensor::shallow_clone);
    if let Some(apart) = apart {
        logits += apart;
        positives = positives.map(|p| p * apart.gt(-1.0).to_kind(Kind::Float));
    }
    let own = Tensor::eye(speech.size()[0], (Kind::Float, speech.device()));
    let marks = &positives.unwrap_or(own);
    (soft_cross_entropy(&logits, marks) + soft_cross_entropy(&logits.transpose(0, 1), &marks.transpose(0, 1))) * 0.5
}

/// Sigmoid loss between speech and text rows `[batch, width]` of unit length: each pair is told apart by itself, whether the text
/// describes the clip (`positives` `[batch, batch]`) or not (Zhai et al. 2023, algorithm 1). `bias` is a trained number. Pairs that
/// `apart` hides, see [`contrastive`], count nothing. The sum is divided by the batch, as there.
pub fn sigmoid(
    speech: &Tensor,
    text: &Tensor,
    temperature: &Tensor,
    bias: &Tensor,
    positives: &Tensor,
    apart: Option<&Tensor>,
) -> Tensor {
    let logits = speech.matmul(&text.transpose(0, 1)) / temperature + bias;
    let signs = positives * 2.0 - 1.0;
    let mut terms: Tensor = (logits * signs).log_sigmoid();
    if let Some(apart) = apart {
        terms *= apart.gt(-1.0).to_kind(Kind::Float);
    }
    -terms.sum(Kind::Float) / speech.size()[0] as f64
}

/// Cross entropy of logits `[batch, classes]` against non-negative marks of the same shape, each row scaled to sum one.
pub fn soft_cross_entropy(logits: &Tensor, marks: &Tensor) -> Tensor {
    let target = marks / marks.sum_dim_intlist([1i64].as_slice(), true, Kind::Float).clamp_min(1e-9);
    let rows: Tensor = target * logits.log_softmax(1, Kind::Float);
    -rows.sum_dim_intlist([1i64].as_slice(), false, Kind::Float).mean(Kind::Float)
}

/// The same values with the gradient turned round and scaled by `strength`.
pub fn reverse_gradient(x: &Tensor, strength: f64) -> Tensor {
    x.detach() * (1.0 + strength) - x * strength
}

/// How well two classes (speech is 0, text is 1) are told apart by logits `[batch, 2]` of each.
pub fn modality(speech_logits: &Tensor, text_logits: &Tensor) -> Tensor {
    let logits = Tensor::cat(&[speech_logits, text_logits], 0);
    let (zeros, ones) = (speech_logits.size()[0], text_logits.size()[0]);
    let options = (Kind::Int64, logits.device());
    let target = Tensor::cat(&[Tensor::zeros([zeros], options), Tensor::ones([ones], options)], 0);
    logits.cross_entropy_for_logits(&target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn unit(rows: i64, seed: i64) -> Tensor {
        tch::manual_seed(seed);
        let x = Tensor::randn([rows, 5], (Kind::Float, Device::Cpu));
        let norm = (&x * &x).sum_dim_intlist([1i64].as_slice(), true, Kind::Float).sqrt();
        x / norm
    }

    fn table(t: &Tensor) -> Vec<Vec<f64>> {
        Vec::<Vec<f64>>::try_from(t.to_kind(Kind::Double)).unwrap()
    }

    /// The definition, element by element.
    fn naive(speech: &[Vec<f64>], text: &[Vec<f64>], temperature: f64, positive: &dyn Fn(usize, usize) -> bool) -> f64 {
        let n = speech.len();
        let dot = |i: usize, j: usize| speech[i].iter().zip(&text[j]).map(|(a, b)| a * b).sum::<f64>() / temperature;
        let direction = |logit: &dyn Fn(usize, usize) -> f64, good: &dyn Fn(usize, usize) -> bool| {
            (0..n)
                .map(|i| {
                    let all: f64 = (0..n).map(|j| logit(i, j).exp()).sum();
                    let chosen: Vec<f64> =
                        (0..n).filter(|j| good(i, *j)).map(|j| (logit(i, j).exp() / all).ln()).collect();
                    -chosen.iter().sum::<f64>() / chosen.len() as f64
                })
                .sum::<f64>()
                / n as f64
        };
        0.5 * (direction(&dot, positive) + direction(&|i, j| dot(j, i), &|i, j| positive(j, i)))
    }

    #[test]
    fn contrastive_is_its_definition() {
        let (s, t) = (unit(6, 1), unit(6, 2));
        let temperature = Tensor::from(0.07f32);
        let got = contrastive(&s, &t, &temperature, None, None).double_value(&[]);
        assert!((got - naive(&table(&s), &table(&t), 0.07f32 as f64, &|i, j| i == j)).abs() < 1e-4);
        let same = |i: usize, j: usize| i % 3 == j % 3;
        let marks: Vec<f32> = (0..36).map(|k| f32::from(u8::from(same(k / 6, k % 6)))).collect();
        let marks = Tensor::from_slice(&marks).view([6, 6]);
        let got = contrastive(&s, &t, &temperature, Some(&marks), None).double_value(&[]);
        assert!((got - naive(&table(&s), &table(&t), 0.07f32 as f64, &same)).abs() < 1e-4);
    }

    #[test]
    fn sigmoid_is_its_definition() {
        let (s, t) = (unit(5, 1), unit(5, 2));
        let (temperature, bias) = (Tensor::from(0.1f32), Tensor::from(-3.0f32));
        let marks: Vec<f32> = (0..25).map(|k| f32::from(u8::from(k / 5 % 2 == k % 5 % 2))).collect();
        let positives = Tensor::from_slice(&marks).view([5, 5]);
        // The first clip and the last text are not contrasted.
        let hidden: Vec<f32> = (0..25).map(|k| if k == 4 { -1e4 } else { 0.0 }).collect();
        let apart = Tensor::from_slice(&hidden).view([5, 5]);
        let got = sigmoid(&s, &t, &temperature, &bias, &positives, Some(&apart)).double_value(&[]);
        let (s, t) = (table(&s), table(&t));
        let mut want = 0.0;
        for k in (0..25).filter(|k| *k != 4) {
            let logit = s[k / 5].iter().zip(&t[k % 5]).map(|(a, b)| a * b).sum::<f64>() / 0.1 - 3.0;
            let sign = f64::from(marks[k]) * 2.0 - 1.0;
            want += (1.0 + (-sign * logit).exp()).ln() / 5.0;
        }
        assert!((got - want).abs() < 1e-4, "{got} {want}");
    }

    #[test]
    fn reversal_keeps_values_and_turns_gradients() {
        let x = unit(3, 3).set_requires_grad(true);
        let y = reverse_gradient(&x, 0.5);
        assert!(y.allclose(&x, 1e-5, 1e-6, false));
        (y * 2.0).sum(Kind::Float).backward();
        assert!(x.grad().allclose(&Tensor::full([3, 5], -1.0, (Kind::Float, Device::Cpu)), 1e-5, 1e-5, false));
    }

    #[test]
    fn modality_of_undecided_logits_is_one_bit() {
        let zeros = Tensor::zeros([4, 2], (Kind::Float, Device::Cpu));
        assert!((modality(&zeros, &zeros).double_value(&[]) - 2f64.ln()).abs() < 1e-6);
    }
}
