//! Which processor a model is asked to run on, and which one it got. Knows no ONNX.

use std::fmt;
use std::str::FromStr;

/// What is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Provider {
    /// A GPU if there is a usable one, else the CPU.
    Auto,
    /// The CPU.
    #[default]
    Cpu,
    /// An NVIDIA GPU, or an error.
    Cuda,
}

impl Provider {
    /// All of them, with the names that settings use.
    pub const NAMES: [(Provider, &'static str); 3] =
        [(Provider::Auto, "auto"), (Provider::Cpu, "cpu"), (Provider::Cuda, "cuda")];
}

impl fmt::Display for Provider {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(provider, _)| provider == self).map_or("", |(_, name)| name);
        out.write_str(name)
    }
}

impl FromStr for Provider {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(_, name)| *name == text).map(|(provider, _)| *provider);
        found.ok_or_else(|| format!("{text:?} is none of auto, cpu, cuda"))
    }
}

/// How to choose a device. By default the CPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceOptions {
    /// What is asked for.
    pub provider: Provider,
    /// Number of the GPU, as the driver counts them.
    pub cuda_device: i32,
    /// Most memory that each network's arena may take on the GPU, bytes; `None` leaves it to ONNX Runtime.
    pub cuda_memory: Option<usize>,
}

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// On the CPU.
    Cpu,
    /// On a GPU.
    Cuda {
        /// Its number.
        id: i32,
    },
}

impl fmt::Display for Device {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => out.write_str("cpu"),
            Device::Cuda { id } => write!(out, "cuda:{id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (provider, name) in Provider::NAMES {
            assert_eq!((provider.to_string().as_str(), name.parse()), (name, Ok(provider)));
        }
        assert!("CUDA".parse::<Provider>().is_err());
        assert_eq!(Device::Cuda { id: 1 }.to_string(), "cuda:1");
    }
}
