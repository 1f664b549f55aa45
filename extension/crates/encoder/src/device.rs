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

/// In what numbers a GPU multiplies matrices; sums, norms and everything else are 32-bit floats in each. A CPU always uses
/// 32-bit floats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit floats, as on the CPU.
    #[default]
    Float32,
    /// Factors rounded to 10 bits behind the binary point (NVIDIA's TF32), on GPUs that have it.
    Tf32,
    /// Factors and products of the encoders' blocks in 16-bit floats.
    Float16,
}

impl Precision {
    /// All of them, with the names that settings use.
    pub const NAMES: [(Precision, &'static str); 3] =
        [(Precision::Float32, "float32"), (Precision::Tf32, "tf32"), (Precision::Float16, "float16")];
}

impl fmt::Display for Precision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(precision, _)| precision == self).map_or("", |(_, name)| name);
        out.write_str(name)
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(_, name)| *name == text).map(|(precision, _)| *precision);
        found.ok_or_else(|| format!("{text:?} is none of float32, tf32, float16"))
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
    /// Numbers of the GPU's products; nothing to a CPU.
    pub cuda_precision: Precision,
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
        /// Numbers of its products.
        precision: Precision,
    },
}

impl fmt::Display for Device {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => out.write_str("cpu"),
            Device::Cuda { id, precision } => write!(out, "cuda:{id} {precision}"),
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
        for (precision, name) in Precision::NAMES {
            assert_eq!((precision.to_string().as_str(), name.parse()), (name, Ok(precision)));
        }
        assert!("half".parse::<Precision>().is_err());
        assert_eq!(Device::Cuda { id: 1, precision: Precision::Float16 }.to_string(), "cuda:1 float16");
    }
}
