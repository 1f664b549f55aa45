//! Saves and restores a training run: parameters, their average, the optimiser, the next epoch. Written beside and then
//! renamed, so that a kill leaves the last whole checkpoint.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use crate::optimiser::AdamW;
use crate::torch::Params;

/// Everything a run needs to go on as if it had not been stopped.
pub struct Checkpoint {
    /// Next epoch.
    pub epoch: usize,
    /// Trained parameters.
    pub params: Params,
    /// Their running average; empty when none is kept.
    pub average: Params,
    /// Optimiser state.
    pub optimiser: AdamW,
}

#[derive(Serialize, Deserialize)]
struct Header {
    epoch: usize,
    steps: i64,
    decay: f64,
    #[serde(default)]
    decay_all: bool,
    /// Only of parameters that joined late: all others began with the first step.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    begun: BTreeMap<String, i64>,
    config: String,
}

/// The file of the latest checkpoint.
pub fn file(work: &Path) -> PathBuf {
    work.join("checkpoint.safetensors")
}

impl Checkpoint {
    /// Writes the checkpoint. `config` is what the run was started with.
    pub fn save(&self, work: &Path, config: &str) -> Result<()> {
        let mut named: Vec<(String, Tensor)> = vec![];
        named.extend(self.params.iter().map(|(k, t)| (format!("now/{k}"), t.detach())));
        named.extend(self.average.iter().map(|(k, t)| (format!("average/{k}"), t.detach())));
        for (k, (first, second)) in &self.optimiser.moments {
            named.push((format!("first/{k}"), first.shallow_clone()));
            named.push((format!("second/{k}"), second.shallow_clone()));
        }
        let header = Header {
            epoch: self.epoch,
            steps: self.optimiser.steps,
            decay: self.optimiser.decay,
            decay_all: self.optimiser.decay_all,
            begun: self.optimiser.begun.iter().filter(|(_, n)| **n > 0).map(|(k, n)| (k.clone(), *n)).collect(),
            config: config.into(),
        };
        let header: Vec<u8> = serde_json::to_vec(&header)?;
        named.push(("header".into(), Tensor::from_slice(&header)));
        let named: Vec<(String, Tensor)> =
            named.into_iter().map(|(k, t)| (k, t.to_device(Device::Cpu).contiguous())).collect();
        let target = file(work);
        let beside = target.with_extension("part");
        Tensor::write_safetensors(&named, &beside).with_context(|| format!("cannot write {}", beside.display()))?;
        std::fs::rename(&beside, &target).with_context(|| format!("cannot write {}", target.display()))
    }

    /// The latest checkpoint; `None` when there is none. One of another config is an error.
    pub fn load(work: &Path, config: Option<&str>) -> Result<Option<Self>> {
        let source = file(work);
        if !source.exists() {
            return Ok(None);
        }
        let named = Tensor::read_safetensors(&source).with_context(|| format!("cannot read {}", source.display()))?;
        let mut out = Self { epoch: 0, params: Params::new(), average: Params::new(), optimiser: AdamW::default() };
        let (mut firsts, mut seconds) = (Params::new(), Params::new());
        for (name, tensor) in named {
            match name.split_once('/') {
                Some(("now", k)) => out.params.insert(k.into(), tensor),
                Some(("average", k)) => out.average.insert(k.into(), tensor),
                Some(("first", k)) => firsts.insert(k.into(), tensor),
                Some(("second", k)) => seconds.insert(k.into(), tensor),
                _ => {
                    let header: Header = serde_json::from_slice(&Vec::<u8>::try_from(tensor)?)?;
                    ensure!(
                        config.is_none_or(|c| c == header.config),
                        "{} belongs to a run with another config; train with --restart to begin anew",
                        source.display()
                    );
                    (out.epoch, out.optimiser.steps, out.optimiser.decay) = (header.epoch, header.steps, header.decay);
                    (out.optimiser.decay_all, out.optimiser.begun) = (header.decay_all, header.begun);
                    None
                }
            };
        }
        for (k, first) in firsts {
            let second =
                seconds.remove(&k).with_context(|| format!("{}: half of the state of {k}", source.display()))?;
            out.optimiser.begun.entry(k.clone()).or_insert(0);
            out.optimiser.moments.insert(k, (first, second));
        }
        Ok(Some(out))
    }

    /// Moves everything to a device, as leaves without gradients.
    pub fn place(&mut self, device: Device) {
        for tensor in self.params.values_mut().chain(self.average.values_mut()) {
            *tensor = tensor.detach().to_device(device);
        }
        for (first, second) in self.optimiser.moments.values_mut() {
            (*first, *second) = (first.to_device(device), second.to_device(device));
        }
    }

    /// What is exported: the average where one is kept.
    pub fn best(self) -> Params {
        let mut params = self.params;
        params.extend(self.average);
        params
    }
}
