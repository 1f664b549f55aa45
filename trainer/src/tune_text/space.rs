//! Where the teacher places texts and styles, and which directions the styles answer with.

use tch::{Device, Kind, Tensor};

use crate::baseline::unit;
use crate::nets::text_tower::{KEYS, VALUES};
use crate::prompts::Prompts;
use crate::torch::Params;

/// Mean places of the styles beside the bank's keys, `[styles, dimension]`; how alike the styles are is read off them.
pub(super) const MEANS: &str = "text.head.means";

/// What says how alike the styles of a text tower are: their mean places, or its keys where it has no others.
pub(crate) fn style_places(params: &Params) -> Option<&Tensor> {
    params.get(MEANS).or(params.get(KEYS))
}

/// Weight in a text's mixture of a style that is only guessed from others, against one that was heard.
pub(crate) const GUESSED: f32 = 0.5;

/// Lets the styles that no training clip shows answer with those that some do: the ones the prompt file says they are
/// like, else the ones the teacher sees nearest. Otherwise such a style points to where no clip lies, and any other style
/// in a text's mixture outweighs it.
///
/// `sharpness` is the inverse temperature of that likeness; 0 leaves everything as it is.
pub fn link(sharpness: f64, prompts: &Prompts, heard: &[String], params: &mut Params) {
    if sharpness == 0.0 {
        return;
    }
    let (places, values) = (style_places(params).expect("a bank"), &params[VALUES]);
    let names: Vec<&str> = prompts.styles().collect();
    let alike = places.matmul(&places.transpose(0, 1));
    let known = |name: &str| heard.iter().any(|h| h == name);
    let each = |yes: f32, no: f32| {
        Tensor::from_slice(&names.iter().map(|n| if known(n) { yes } else { no }).collect::<Vec<_>>())
    };
    let near = (alike * sharpness + each(0.0, f32::NEG_INFINITY)).softmax(1, Kind::Float);
    let row = |(n, name): (usize, &&str)| {
        let like: Vec<&String> = prompts.like(name).iter().filter(|l| heard.contains(l)).collect();
        let marks = |chosen: &dyn Fn(&str) -> bool| {
            Tensor::from_slice(&names.iter().map(|m| f32::from(u8::from(chosen(m)))).collect::<Vec<_>>())
        };
        match (known(name), like.is_empty()) {
            (true, _) => marks(&|m| m == *name),
            (false, false) => marks(&|m| like.iter().any(|l| *l == m)),
            (false, true) => near.get(n as i64),
        }
    };
    let mixed = unit(&Tensor::stack(&names.iter().enumerate().map(row).collect::<Vec<_>>(), 0).matmul(values));
    params.insert(VALUES.into(), mixed * each(1.0, GUESSED).unsqueeze(1));
}

/// The teacher's vectors, centred and reduced to `width`, of unit length, and the mean direction of each style.
///
/// `teacher`: `[texts, its width]`, of which the first `owners.len()` are prompts of the styles that `owners` says.
pub(super) fn teacher_space(teacher: &Tensor, owners: &[i64], styles: usize, width: usize) -> (Tensor, Tensor) {
    let (rows, labelled) = (unit(teacher), owners.len());
    let mean = rows.narrow(0, 0, labelled as i64).mean_dim([0i64].as_slice(), true, Kind::Float);
    let rows = unit(&(rows - mean));
    // Principal directions, so that nothing that matters is lost when the teacher is wider than the space.
    let (_, directions) = rows.transpose(0, 1).matmul(&rows).linalg_eigh("L");
    let directions = directions.flip([1]);
    let kept = directions.narrow(1, 0, (width as i64).min(directions.size()[1]));
    let mut reduced = rows.matmul(&kept);
    let missing = width as i64 - reduced.size()[1];
    if missing > 0 {
        reduced = reduced.constant_pad_nd([0, missing]);
    }
    let reduced = unit(&reduced);
    let means = style_means(&reduced, owners, styles);
    (reduced, means)
}

/// The mean direction of each style, `[styles, width]`. `places`: `[texts, width]`, of which the first `owners.len()` are prompts
/// of the styles that `owners` says.
pub(super) fn style_means(places: &Tensor, owners: &[i64], styles: usize) -> Tensor {
    let sums = Tensor::zeros([styles as i64, places.size()[1]], (Kind::Float, Device::Cpu));
    unit(&sums.index_add(0, &Tensor::from_slice(owners), &places.narrow(0, 0, owners.len() as i64)))
}

/// The directions the bank answers with: the keys' likenesses, pulled by `sharpen` (0 to 1) towards none at all, turned so
/// that every element of the space is used.
pub(crate) fn values(keys: &Tensor, sharpen: f64, width: usize) -> Tensor {
    let n = keys.size()[0];
    if sharpen == 0.0 || n > width as i64 {
        return keys.copy();
    }
    let alike =
        keys.matmul(&keys.transpose(0, 1)) * (1.0 - sharpen) + Tensor::eye(n, (Kind::Float, Device::Cpu)) * sharpen;
    let (strengths, directions) = alike.linalg_eigh("L");
    let rows = unit(&(directions * strengths.clamp_min(0.0).sqrt()));
    tch::manual_seed(77);
    let (turn, _) = Tensor::linalg_qr(&Tensor::randn([width as i64, n], (Kind::Float, Device::Cpu)), "reduced");
    rows.matmul(&turn.transpose(0, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn styles_without_clips_point_to_those_that_have_some() {
        let style = |name: &str, like: &str| {
            format!(
                "[[style]]\nname = {name:?}\nlike = [{like}]\ntrain = {{ adjective = [{name:?}] }}\nheldout = {{}}\n"
            )
        };
        let templates: String = ["adjective", "gerund", "noun", "pair"]
            .map(|form| format!("[templates.{form}]\ntrain = [\"{{x}}\"]\nheldout = [\"a {{x}}\"]\n"))
            .concat();
        let styles =
            [style("sad", ""), style("slow", ""), style("bored", r#""sad", "slow""#), style("gloomy", "")].concat();
        let prompts = Prompts::parse(&(templates + &styles)).unwrap();
        let keys = Tensor::from_slice(&[1f32, 0.0, 0.0, 1.0, 0.0, -1.0, 0.9, 0.1]).view([4, 2]);
        let values = Tensor::eye(4, (Kind::Float, Device::Cpu));
        let mut params = Params::from([(KEYS.into(), keys), (VALUES.into(), values)]);
        link(20.0, &prompts, &["sad".into(), "slow".into()], &mut params);
        let got: Vec<Vec<f32>> = Vec::try_from(&params[VALUES]).unwrap();
        assert_eq!(got[0], [1.0, 0.0, 0.0, 0.0]);
        assert!(
            (got[2][0] - got[2][1]).abs() < 1e-6 && got[2][0] > 0.35 && got[2][2] == 0.0,
            "as the file says: {:?}",
            got[2]
        );
        assert!(got[3][0] > 0.49 && got[3][3] == 0.0, "as the teacher sees it: {:?}", got[3]);
    }
}
