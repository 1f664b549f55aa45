//! The operations of `graph::sequence` on libtorch tensors.

use tch::{Device, Kind, Tensor};

use crate::graph::relative_buckets;

const INTEGERS: (Kind, Device) = (Kind::Int64, Device::Cpu);

/// Rows of `table` `[buckets, heads]` for all pairs of positions: `[1, heads, time, time]`.
pub fn relative_bias(table: &Tensor, time: i64, max_distance: usize) -> Tensor {
    let buckets = relative_buckets(table.size()[0] as usize, max_distance);
    let farthest = max_distance as i64;
    let positions = Tensor::arange(time, INTEGERS);
    let from_query = positions.unsqueeze(0) - positions.unsqueeze(1);
    let rows = from_query.clamp(-farthest, farthest) + farthest;
    let ids = Tensor::from_slice(&buckets).index_select(0, &rows.flatten(0, -1)).to_device(table.device());
    table.index_select(0, &ids).view([time, time, -1]).permute([2, 0, 1]).unsqueeze(0)
}

/// `[1, 1, time, time]` of distances; the first `skip` rows and columns are zero.
pub fn distance(time: i64, skip: i64, device: Device) -> Tensor {
    let positions = Tensor::arange(time, (Kind::Float, device));
    let counts = positions.ge(skip).to_kind(Kind::Float);
    let distances = (positions.unsqueeze(0) - positions.unsqueeze(1)).abs();
    (distances * counts.unsqueeze(0) * counts.unsqueeze(1)).unsqueeze(0).unsqueeze(0)
}

/// `layer`, or in training `before` with this probability. One draw for the whole batch.
pub fn layer_drop(before: &Tensor, layer: &Tensor, probability: f64, training: bool) -> Tensor {
    let dropped = training && Tensor::rand([1], (Kind::Double, Device::Cpu)).double_value(&[0]) < probability;
    if dropped { before.shallow_clone() } else { layer.shallow_clone() }
}

/// Random spans of `x` `[batch, time, width]` replaced by `filler` `[width]`. The number of spans of an item is its valid
/// count times `probability / length`, rounded up or down at random, at least `fewest` and no more than fit; their starts
/// are drawn without replacement.
pub fn mask_spans(x: &Tensor, filler: &Tensor, mask: &Tensor, probability: f64, length: i64, fewest: i64) -> Tensor {
    let (batch, time) = (x.size()[0], x.size()[1]);
    let valid = mask.to_device(Device::Cpu).sum_dim_intlist([1i64].as_slice(), false, Kind::Int64);
    let rounding = Tensor::rand([1], (Kind::Double, Device::Cpu)).double_value(&[0]);
    let hidden = Tensor::zeros([batch, time], INTEGERS);
    for item in 0..batch {
        let count = valid.int64_value(&[item]);
        let wanted = (probability * count as f64 / length as f64 + rounding) as i64;
        let starts = count - (length - 1);
        let spans = wanted.max(fewest).min(count / length).min(starts);
        if spans > 0 {
            for start in
                Vec::<i64>::try_from(Tensor::randperm(starts, INTEGERS).narrow(0, 0, spans)).unwrap_or_default()
            {
                let _ = hidden.get(item).narrow(0, start, length).fill_(1);
            }
        }
    }
    let hidden = hidden.to_device(x.device()).unsqueeze(2).to_kind(Kind::Float);
    x * (1.0 - &hidden) + filler * hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_cover_about_the_share_and_stay_inside() {
        tch::manual_seed(4);
        let (x, filler) =
            (Tensor::zeros([8, 400, 2], (Kind::Float, Device::Cpu)), Tensor::ones([2], (Kind::Float, Device::Cpu)));
        let valid = Tensor::from_slice(&[400i64, 400, 400, 400, 200, 30, 12, 5]);
        let mask = Tensor::arange(400, INTEGERS).unsqueeze(0).lt_tensor(&valid.unsqueeze(1)).to_kind(Kind::Float);
        let got = mask_spans(&x, &filler, &mask, 0.3, 10, 2);
        let share = |item: i64, until: i64| got.get(item).narrow(0, 0, until).mean(Kind::Float).double_value(&[]);
        assert!((0..4).all(|n| (0.15..0.31).contains(&share(n, 400))), "{}", share(0, 400));
        assert!(share(5, 30) > 0.3 && share(6, 12) > 0.8);
        assert_eq!(share(7, 400), 0.0);
        let outside: f64 = got.select(2, 0).f_mul(&(1.0 - &mask)).unwrap().sum(Kind::Float).double_value(&[]);
        assert_eq!(outside, 0.0);
    }

    #[test]
    fn layers_are_dropped_as_often_as_asked_and_only_in_training() {
        tch::manual_seed(5);
        let (zero, one) =
            (Tensor::zeros([1], (Kind::Float, Device::Cpu)), Tensor::ones([1], (Kind::Float, Device::Cpu)));
        let kept = |training| -> f64 {
            (0..2000).map(|_| layer_drop(&zero, &one, 0.25, training).double_value(&[0])).sum::<f64>() / 2000.0
        };
        assert!((kept(true) - 0.75).abs() < 0.04);
        assert_eq!(kept(false), 1.0);
    }
}
