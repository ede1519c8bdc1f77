//! The tensors of a model folder: safetensors files, whole or sharded.
//!
//! Headers are read and checked when the folder is opened. A tensor's bytes are read when it is
//! requested, directly into memory that MLX uses. No file is mapped, so a file that is truncated
//! meanwhile causes an error and not a signal.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mlx_rs::{Array, Dtype};
use safetensors::tensor::{Metadata, TensorInfo};

use crate::error::LoadError;
use crate::limits;
use crate::mlx::bridge::{PageBuffer, item_bytes};
use crate::small_file;
use crate::types::Quantization;
use crate::weights::files::{json_place, weight_files};
use crate::weights::quantization::QuantizationConfig;

/// The checked headers of a model folder, and the position of each tensor's bytes.
#[derive(Debug)]
pub(crate) struct Weights {
    files: Vec<WeightFile>,
    tensors: HashMap<String, Slot>,
    quantization: QuantizationConfig,
    /// Floating-point tensors are converted to this dtype when they are read.
    compute_dtype: Option<Dtype>,
    memory_bytes: u64,
    parameters: u64,
    digest: blake3::Hasher,
}

#[derive(Debug)]
struct WeightFile {
    path: PathBuf,
    file: File,
    data_start: u64,
}

#[derive(Debug)]
struct Slot {
    file: usize,
    info: TensorInfo,
    taken: bool,
}

impl Weights {
    /// Opens every safetensors file of `dir` and checks the headers against the files' lengths.
    pub(crate) fn open(dir: &Path, quantization: QuantizationConfig) -> Result<Self, LoadError> {
        let mut weights = Weights {
            files: Vec::new(),
            tensors: HashMap::new(),
            quantization,
            compute_dtype: None,
            memory_bytes: 0,
            parameters: 0,
            digest: blake3::Hasher::new(),
        };
        let (needed, spare) = weight_files(dir)?;
        for path in needed {
            weights.add_file(path)?;
        }
        for path in spare {
            if let Err(error) = weights.add_file(path) {
                tracing::warn!(%error, "ignoring an additional weight file");
            }
        }
        Ok(weights)
    }

    fn add_file(&mut self, path: PathBuf) -> Result<(), LoadError> {
        let io = |source| LoadError::Io { path: path.clone(), source };
        let invalid = |what: String| LoadError::Invalid { path: path.clone(), what };
        let Some(file) = small_file::open(&path)? else {
            return Err(LoadError::Missing {
                path,
                hint: "a file of weights that was there just now",
            });
        };
        let file_bytes = file.metadata().map_err(io)?.len();
        let mut length = [0; 8];
        file.read_exact_at(&mut length, 0)
            .map_err(|_| invalid(format!("{file_bytes} bytes are too few for a header")))?;
        let header_bytes = u64::from_le_bytes(length);
        // The number itself is not reported, because in a file of another type it is the first
        // bytes.
        if header_bytes > file_bytes.saturating_sub(8) {
            return Err(invalid(format!(
                "its header does not fit into its {file_bytes} bytes: it is cut short, or is no \
                 safetensors file; download it again"
            )));
        }
        if header_bytes > limits::WEIGHTS_HEADER_BYTES {
            let most = limits::WEIGHTS_HEADER_BYTES;
            return Err(invalid(format!("its header is longer than {most} bytes")));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact_at(&mut header, 8).map_err(io)?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| {
            invalid(format!("its header is not that of a safetensors file{}", json_place(&error)))
        })?;
        let data_start = 8 + header_bytes;
        let data_bytes = file_bytes - data_start;
        if metadata.data_len() as u64 != data_bytes {
            return Err(invalid(format!(
                "its header describes {} bytes of tensors and {data_bytes} are there: the file is \
                 truncated or damaged; download it again",
                metadata.data_len()
            )));
        }
        let index = self.files.len();
        let (before, mut repeated) = (self.tensors.len(), 0);
        for (name, info) in metadata.tensors() {
            check_extent(&name, info, data_bytes).map_err(&invalid)?;
            match self.tensors.entry(name) {
                Entry::Vacant(place) => {
                    place.insert(Slot { file: index, info: info.clone(), taken: false });
                }
                Entry::Occupied(_) => repeated += 1,
            }
        }
        if repeated > 0 {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            tracing::warn!(%file, repeated, "tensors are in two files; those of the first file are used");
        }
        if self.tensors.len() > before || metadata.tensors().is_empty() {
            self.digest.update(&file_bytes.to_le_bytes()).update(&length).update(&header);
        }
        self.files.push(WeightFile { path, file, data_start });
        Ok(())
    }

    /// Converts floating-point tensors that are read from now on to `dtype`.
    pub(crate) fn convert_to(&mut self, dtype: Dtype) {
        self.compute_dtype = Some(dtype);
    }

    /// The model-wide quantization in its config.
    pub(crate) fn quantization(&self) -> Option<Quantization> {
        self.quantization.default()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// How the matrix `{path}.weight` with `columns` columns is packed; `None` when it is not. If
    /// config.json contradicts the tensors' shapes, the shapes decide.
    pub(crate) fn quantization_of(&self, path: &str, columns: i32) -> Option<Quantization> {
        let named = self.named_quantization(path)?;
        let last = |part: &str| self.shape_of(&format!("{path}.{part}"))?.last().copied();
        let (words, groups) = (last("weight")?, last("scales")?);
        let columns = usize::try_from(columns).ok().filter(|columns| *columns > 0)?;
        let (bits, group_size) = (words * 32 / columns, columns.checked_div(groups)?);
        Some(Quantization::of(bits, group_size).unwrap_or(named))
    }

    /// The quantization that config.json gives for a layer with scales.
    fn named_quantization(&self, path: &str) -> Option<Quantization> {
        if !self.contains(&format!("{path}.scales")) {
            return None;
        }
        let is_packed = || self.dtype_of(&format!("{path}.weight")) == Some(Dtype::Uint32);
        let default = self.quantization.default();
        self.quantization.of_layer(path, true).or_else(|| default.filter(|_| is_packed()))
    }

    /// Bits per weight of a packed layer. Without its number of columns, the shapes determine only
    /// the product of bits and group size.
    fn likely_bits(&self, path: &str, named: Quantization) -> u64 {
        let last = |part: &str| self.shape_of(&format!("{path}.{part}"))?.last().copied();
        let product = || (last("weight")? * 32).checked_div(last("scales")?);
        let fitting = product().and_then(|product| {
            Quantization::of(product / named.group_size as usize, named.group_size as usize)
        });
        fitting.unwrap_or(named).bits as u64
    }

    /// The stored shape of a tensor.
    pub(crate) fn shape_of(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|slot| slot.info.shape.as_slice())
    }

    /// The stored dtype of a tensor.
    pub(crate) fn dtype_of(&self, name: &str) -> Option<Dtype> {
        self.tensors.get(name).and_then(|slot| dtype(slot.info.dtype))
    }

    /// Whether any tensor whose name satisfies `wanted` is float16 or bfloat16.
    pub(crate) fn has_16_bit_floats(&self, wanted: impl Fn(&str) -> bool) -> bool {
        self.tensors.iter().any(|(name, slot)| {
            let is_narrow =
                matches!(slot.info.dtype, safetensors::Dtype::F16 | safetensors::Dtype::BF16);
            is_narrow && wanted(name)
        })
    }

    /// The bytes in memory and the parameters of the tensors whose names satisfy `wanted`, without
    /// reading them. Floating-point tensors count as `compute` if that is given.
    pub(crate) fn predict(
        &self,
        wanted: impl Fn(&str) -> bool,
        compute: Option<Dtype>,
    ) -> (u64, u64) {
        let (mut bytes, mut parameters) = (0, 0);
        for (name, slot) in self.tensors.iter().filter(|(name, _)| wanted(name)) {
            let (start, end) = slot.info.data_offsets;
            let count = slot.info.shape.iter().map(|&n| n as u64).product::<u64>();
            let stored = dtype(slot.info.dtype);
            bytes += match compute.filter(|_| stored.is_some_and(is_float)) {
                Some(dtype) => count * item_bytes(dtype) as u64,
                None => (end - start) as u64,
            };
            parameters += match name.rsplit_once('.') {
                Some((path, "weight")) => match self.named_quantization(path) {
                    Some(named) => count * 32 / self.likely_bits(path, named),
                    None => count,
                },
                Some((path, "scales" | "biases")) if self.named_quantization(path).is_some() => 0,
                _ => count,
            };
        }
        (bytes, parameters)
    }

    /// Bytes of the weight files.
    pub(crate) fn file_bytes(&self) -> u64 {
        let lengths = self.files.iter().map(|file| file.file.metadata().map_or(0, |m| m.len()));
        lengths.sum()
    }

    /// Reads a floating-point tensor, which must have `shape`.
    pub(crate) fn float(&mut self, name: &str, shape: &[i32]) -> Result<Array, LoadError> {
        let (array, path) = self.read(name, shape)?;
        if !is_float(array.dtype()) {
            let what = format!("tensor {name} is {:?}, not a floating-point type", array.dtype());
            return Err(LoadError::Invalid { path, what });
        }
        self.parameters += array.size() as u64;
        self.converted(array, path)
    }

    /// Converts a tensor to the compute dtype.
    fn converted(&mut self, array: Array, path: PathBuf) -> Result<Array, LoadError> {
        let array = match self.compute_dtype {
            Some(dtype) if dtype != array.dtype() => {
                // Evaluated now, so that the stored bytes are released before the next tensor.
                let converted = array.as_dtype(dtype).and_then(|a| a.eval().map(|()| a));
                converted.map_err(|error| LoadError::Mlx { path, what: error.what().to_owned() })?
            }
            _ => array,
        };
        self.memory_bytes += array.nbytes() as u64;
        Ok(array)
    }

    /// Reads the packed matrix of a layer, or the matrices of its experts: (weight, scales,
    /// biases). Each is checked against `shape`, whose last axis is the columns.
    pub(crate) fn packed(
        &mut self,
        path: &str,
        shape: &[i32],
        quantization: Quantization,
    ) -> Result<[Array; 3], LoadError> {
        let Quantization { bits, group_size } = quantization;
        let with_columns = |columns: i64| -> Vec<i32> {
            let rows = shape.iter().take(shape.len() - 1).copied();
            rows.chain([i32::try_from(columns).unwrap_or(i32::MAX)]).collect()
        };
        let columns = i64::from(shape[shape.len() - 1]);
        let groups = with_columns(columns / i64::from(group_size));
        let words = with_columns(columns * i64::from(bits) / 32);
        let (weight, file) = self.read(&format!("{path}.weight"), &words)?;
        if weight.dtype() != Dtype::Uint32 {
            let what = format!("tensor {path}.weight is {:?}, not packed Uint32", weight.dtype());
            return Err(LoadError::Invalid { path: file, what });
        }
        self.parameters += shape.iter().map(|&n| n as u64).product::<u64>();
        self.memory_bytes += weight.nbytes() as u64;
        let mut part = |kind: &str| {
            let (array, file) = self.read(&format!("{path}.{kind}"), &groups)?;
            if !is_float(array.dtype()) {
                let dtype = array.dtype();
                let what = format!("tensor {path}.{kind} is {dtype:?}, not a floating-point type");
                return Err(LoadError::Invalid { path: file, what });
            }
            self.converted(array, file)
        };
        Ok([weight, part("scales")?, part("biases")?])
    }

    fn read(&mut self, name: &str, shape: &[i32]) -> Result<(Array, PathBuf), LoadError> {
        let Some(slot) = self.tensors.get_mut(name) else {
            let path = self.files.first().map(|file| file.path.clone()).unwrap_or_default();
            let what = format!("tensor {name} is missing, and config.json asks for it");
            return Err(LoadError::Invalid { path, what });
        };
        let WeightFile { path, file, data_start } = &self.files[slot.file];
        let invalid = |what: String| LoadError::Invalid { path: path.clone(), what };
        let stored: Vec<i64> = slot.info.shape.iter().map(|&n| n as i64).collect();
        if !stored.iter().copied().eq(shape.iter().map(|&n| i64::from(n))) {
            return Err(invalid(format!(
                "tensor {name} has shape {stored:?}, and config.json asks for {shape:?}"
            )));
        }
        let dtype = dtype(slot.info.dtype).ok_or_else(|| {
            invalid(format!("tensor {name} has the unsupported type {:?}", slot.info.dtype))
        })?;
        let (start, end) = slot.info.data_offsets;
        let mut buffer = PageBuffer::zeroed(end - start);
        file.read_exact_at(buffer.as_mut_slice(), data_start + start as u64)
            .map_err(|source| LoadError::Io { path: path.clone(), source })?;
        slot.taken = true;
        let bytes = buffer.as_mut_slice();
        self.digest.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        self.digest.update(&(bytes.len() as u64).to_le_bytes()).update_rayon(bytes);
        let array = buffer.into_array(shape, dtype).map_err(|error| invalid(error.to_string()))?;
        Ok((array, path.clone()))
    }

    /// Names of tensors that the model did not use.
    pub(crate) fn unused(&self) -> BTreeSet<&str> {
        let unused = self.tensors.iter().filter(|(_, slot)| !slot.taken);
        unused.map(|(name, _)| name.as_str()).collect()
    }

    /// Bytes in memory of the tensors read so far.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// A digest of the files' headers and of the content of every tensor read so far.
    pub(crate) fn digest(&self) -> blake3::Hash {
        self.digest.finalize()
    }

    /// Number of parameters of the tensors read so far; packed weights are counted unpacked.
    pub(crate) fn parameters(&self) -> u64 {
        self.parameters
    }

    /// The first stored floating-point tensor with a NaN or an infinity, as part of a sentence.
    /// This reads every file once, so it is only used to explain why a model computes NaN.
    pub(crate) fn find_not_finite(&self) -> Option<String> {
        let mut names: Vec<_> = self.tensors.iter().filter(|(_, slot)| slot.taken).collect();
        names.sort_by_key(|(name, _)| *name);
        names.into_iter().find_map(|(name, slot)| {
            let file = &self.files[slot.file];
            let (start, end) = slot.info.data_offsets;
            let finite = all_finite(file, slot.info.dtype, start as u64, end as u64);
            match finite {
                Ok(true) => None,
                Ok(false) => Some(format!("tensor {name} in {} holds one", file.path.display())),
                Err(error) => Some(format!("{} cannot be read: {error}", file.path.display())),
            }
        })
    }
}

/// Whether a stored tensor has neither NaN nor infinity. Integer tensors have none.
fn all_finite(
    file: &WeightFile,
    dtype: safetensors::Dtype,
    start: u64,
    end: u64,
) -> io::Result<bool> {
    // The exponent bits, which are all set in a NaN or an infinity.
    let (width, exponent) = match dtype {
        safetensors::Dtype::F32 => (4, 0x7f80_0000u32),
        safetensors::Dtype::BF16 => (2, 0x7f80),
        safetensors::Dtype::F16 => (2, 0x7c00),
        _ => return Ok(true),
    };
    let mut chunk = vec![0u8; 1 << 20];
    let mut at = start;
    while at < end {
        let bytes = &mut chunk[..(end - at).min(1 << 20) as usize];
        file.file.read_exact_at(bytes, file.data_start + at)?;
        let not_finite = bytes.chunks_exact(width).any(|element| {
            let mut bits = [0; 4];
            bits[..width].copy_from_slice(element);
            u32::from_le_bytes(bits) & exponent == exponent
        });
        if not_finite {
            return Ok(false);
        }
        at += bytes.len() as u64;
    }
    Ok(true)
}

fn check_extent(name: &str, info: &TensorInfo, data_bytes: u64) -> Result<(), String> {
    let (start, end) = info.data_offsets;
    if start > end || end as u64 > data_bytes {
        return Err(format!("tensor {name} lies at {start}..{end}, outside the file"));
    }
    let count = info.shape.iter().try_fold(1usize, |all, &n| all.checked_mul(n));
    let fits = info.shape.len() <= 8 && info.shape.iter().all(|&n| n <= i32::MAX as usize);
    let bytes = dtype(info.dtype).and_then(|dtype| count?.checked_mul(item_bytes(dtype)));
    match bytes {
        // A dtype that MLX lacks is an error only if the tensor is needed.
        None if dtype(info.dtype).is_none() => Ok(()),
        Some(bytes) if fits && bytes == end - start => Ok(()),
        _ => Err(format!(
            "tensor {name} of shape {:?} and type {:?} does not fill its {} bytes",
            info.shape,
            info.dtype,
            end - start
        )),
    }
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16)
}

fn dtype(stored: safetensors::Dtype) -> Option<Dtype> {
    Some(match stored {
        safetensors::Dtype::F32 => Dtype::Float32,
        safetensors::Dtype::F16 => Dtype::Float16,
        safetensors::Dtype::BF16 => Dtype::Bfloat16,
        safetensors::Dtype::U32 => Dtype::Uint32,
        safetensors::Dtype::U8 => Dtype::Uint8,
        safetensors::Dtype::I32 => Dtype::Int32,
        safetensors::Dtype::I64 => Dtype::Int64,
        _ => return None,
    })
}
