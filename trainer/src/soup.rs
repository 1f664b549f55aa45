//! The mean of the parameters of several runs that began alike (Wortsman et al., "Model soups: averaging weights of multiple
//! fine-tuned models improves accuracy without increasing inference time", 2022).

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use tch::Kind;

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::optimiser::AdamW;
use crate::torch::Params;

/// Writes the mean of the runs in `folders` (of what each would export) as the checkpoint of the config's run.
///
/// # Errors
/// A folder without a checkpoint, or runs of different networks.
pub fn soup(config: &Config, folders: &[PathBuf]) -> Result<()> {
    ensure!(folders.len() >= 2, "a mean needs at least two runs");
    let (mut sum, mut epoch): (Option<Params>, usize) = (None, 0);
    for folder in folders {
        let state = Checkpoint::load(folder, None)?
            .with_context(|| format!("there is no checkpoint in {}", folder.display()))?;
        epoch = epoch.max(state.epoch);
        let params = state.best();
        let Some(sum) = &mut sum else {
            sum = Some(params);
            continue;
        };
        let alike =
            |(name, tensor): (&String, &tch::Tensor)| params.get(name).is_some_and(|t| t.size() == tensor.size());
        ensure!(
            sum.len() == params.len() && sum.iter().all(alike),
            "{} holds a run of another network than {}",
            folder.display(),
            folders[0].display()
        );
        for (name, total) in sum.iter_mut() {
            *total = &*total + params[name].to_kind(Kind::Float);
        }
    }
    let params = sum.into_iter().flatten().map(|(name, total)| (name, total / folders.len() as f64)).collect();
    let work = &config.data.work;
    std::fs::create_dir_all(work).with_context(|| format!("cannot create {}", work.display()))?;
    let state = Checkpoint { epoch, params, average: Params::new(), optimiser: AdamW::default() };
    state.save(work, &serde_json::to_string(config)?)
}
