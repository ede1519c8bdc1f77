//! The few MLX calls that mlx-rs does not wrap. This file has the only unsafe code of the crate.
//!
//! Every function relies on mlx-rs's error handler, which mlx-rs installs at its first operation.
//! [`init`] ensures this on the engine thread before anything else runs.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::OnceCell;
use std::ffi::c_void;
use std::ptr::NonNull;

use crate::error::Result;
use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype, Stream};

/// Metal uses memory without a copy when pointer and length are multiples of this.
pub(crate) const PAGE: usize = 16 * 1024;

/// Limit on freed memory that MLX keeps for reuse on Metal, where new buffers are expensive. The
/// steps of a model reuse the same sizes, so a higher limit would not help.
const METAL_CACHE_BYTES: usize = 1 << 30;
/// The same limit on the CPU backend, where a new buffer costs little more than its page faults.
const CPU_CACHE_BYTES: usize = 32 << 20;

/// Sets MLX's limits. The first call also installs mlx-rs's error handler: without it, mlx-c ends
/// the process at the first error.
pub(crate) fn init() -> Result<()> {
    // No call before this one may fail, because it installs the error handler.
    mlx_rs::memory::set_cache_limit(CPU_CACHE_BYTES)?;
    if metal_is_available() {
        mlx_rs::memory::set_cache_limit(METAL_CACHE_BYTES)?;
    }
    Ok(())
}

/// Limit on freed memory that MLX keeps for reuse.
pub(crate) fn cache_limit_bytes() -> u64 {
    if metal_is_available() { METAL_CACHE_BYTES as u64 } else { CPU_CACHE_BYTES as u64 }
}

/// Makes macOS keep up to `wanted_bytes` of MLX's memory wired, the weights first. Otherwise memory
/// that was idle for a while is compressed or paged out, and the next request waits for it. 0
/// unwires everything. More than Metal's recommendation would be refused and would take memory from
/// other programs. Returns the new limit: 0 where there is no Metal, and where macOS refuses
/// (before version 15 it wires nothing).
pub(crate) fn set_wired_limit(wanted_bytes: u64) -> u64 {
    if !metal_is_available() {
        return 0;
    }
    let limit = wanted_bytes.min(recommended_bytes());
    mlx_rs::memory::set_wired_limit(limit as usize).map_or(0, |_| limit)
}

/// Metal's recommended limit on a process's memory; 0 when it does not report one.
fn recommended_bytes() -> u64 {
    let mut bytes = 0;
    // SAFETY: device and info are made here and freed once. The key ends with a NUL. `bytes`
    // outlives the call that writes it.
    unsafe {
        let gpu = mlx_sys::mlx_device_new_type(mlx_sys::mlx_device_type__MLX_GPU, 0);
        let mut info = mlx_sys::mlx_device_info_new();
        let key = c"max_recommended_working_set_size";
        if mlx_sys::mlx_device_info_get(&raw mut info, gpu) != 0
            || mlx_sys::mlx_device_info_get_size(&raw mut bytes, info, key.as_ptr()) != 0
        {
            bytes = 0;
        }
        mlx_sys::mlx_device_info_free(info);
        mlx_sys::mlx_device_free(gpu);
    }
    bytes as u64
}

/// Whether arrays are on a Metal device. On Linux MLX uses its CPU backend.
pub fn metal_is_available() -> bool {
    let mut available = false;
    // SAFETY: the call writes one bool through a valid pointer.
    let status = unsafe { mlx_sys::mlx_metal_is_available(&raw mut available) };
    status == 0 && available
}

/// MLX's version, such as `0.32.2`.
pub fn version() -> String {
    // SAFETY: the string is made here, filled by MLX, read while it is alive, and freed once. MLX
    // ends it with a NUL.
    unsafe {
        let mut text = mlx_sys::mlx_string_new();
        let status = mlx_sys::mlx_version(&raw mut text);
        let data = mlx_sys::mlx_string_data(text);
        let version = if status == 0 && !data.is_null() {
            std::ffi::CStr::from_ptr(data).to_string_lossy().into_owned()
        } else {
            "unknown".to_owned()
        };
        mlx_sys::mlx_string_free(text);
        version
    }
}

/// The bytes of an array, which is evaluated first. The array must be row-contiguous.
///
/// # Errors
/// If it is not row-contiguous or cannot be evaluated.
pub(crate) fn raw_bytes(a: &Array) -> Result<&[u8]> {
    a.eval()?;
    let mut expected = 1;
    for (&n, &stride) in a.shape().iter().zip(a.strides()).rev() {
        if n > 1 && stride != expected {
            return Err(Exception::custom(format!("{:?} is not contiguous", a.shape())));
        }
        expected *= n as usize;
    }
    if a.size() == 0 {
        return Ok(&[]);
    }
    // SAFETY: the array is evaluated, and its strides say that its `nbytes` bytes are contiguous
    // from its data pointer. The slice borrows the array, which keeps the buffer alive. No
    // operation writes to a buffer that has another owner.
    unsafe {
        let data = mlx_sys::mlx_array_data_uint8(a.as_ptr());
        if data.is_null() {
            return Err(Exception::custom("an evaluated array has no data"));
        }
        Ok(std::slice::from_raw_parts(data, a.nbytes()))
    }
}

/// `a[start..stop]` per axis, as a view. `start` and `stop` have one entry per axis of `a`.
pub(crate) fn slice(a: &Array, start: &[i32], stop: &[i32]) -> Result<Array> {
    slice_or_update(a, None, start, stop)
}

/// `a` with `a[start..stop]` replaced by `update`. MLX writes in place if no other array holds
/// `a`'s buffer when it is evaluated.
pub(crate) fn slice_update(
    a: &Array,
    update: &Array,
    start: &[i32],
    stop: &[i32],
) -> Result<Array> {
    slice_or_update(a, Some(update), start, stop)
}

fn slice_or_update(
    a: &Array,
    update: Option<&Array>,
    start: &[i32],
    stop: &[i32],
) -> Result<Array> {
    check_axes(a, start, stop)?;
    let (dims, strides) = (a.ndim(), [1; 8]);
    let stream = Stream::thread_local_or_default();
    let (a_ptr, stream_ptr) = (a.as_ptr(), stream.as_ptr());
    let (start_ptr, stop_ptr, strides_ptr) = (start.as_ptr(), stop.as_ptr(), strides.as_ptr());
    // SAFETY: the three vectors have `dims` entries each, the handles stay alive during the call,
    // and a handle that MLX filled in is owned by the Array made from it.
    unsafe {
        let mut out = mlx_sys::mlx_array_new();
        let res = &raw mut out;
        let status = match update {
            None => mlx_sys::mlx_slice(
                res,
                a_ptr,
                start_ptr,
                dims,
                stop_ptr,
                dims,
                strides_ptr,
                dims,
                stream_ptr,
            ),
            Some(update) => mlx_sys::mlx_slice_update(
                res,
                a_ptr,
                update.as_ptr(),
                start_ptr,
                dims,
                stop_ptr,
                dims,
                strides_ptr,
                dims,
                stream_ptr,
            ),
        };
        owned(out, status, || format!("slice {start:?}..{stop:?} of {:?}", a.shape()))
    }
}

/// The gated delta rule on Metal. Its inputs are the fields of [`crate::mlx::gated_delta::Inputs`]
/// in order, then the state. Returns y and the new state. This has not been run yet, because it
/// needs a Mac.
pub(crate) fn gated_delta_kernel(inputs: [&Array; 6]) -> Result<(Array, Array)> {
    use mlx_rs::fast::{MetalKernelApplyOptions, MetalKernelOutput, TemplateArg};

    let [q, k, v, log_decay, beta, state] = inputs;
    let wrong = || Exception::custom(format!("the delta kernel over {inputs:?}"));
    let (&[batch, tokens, key_heads, dk], &[_, _, heads, dv]) = (q.shape(), v.shape()) else {
        return Err(wrong());
    };
    let shapes_fit = k.shape() == q.shape()
        && v.shape()[..2] == [batch, tokens]
        && log_decay.shape() == [batch, tokens, heads]
        && beta.shape() == [batch, tokens, heads]
        && state.shape() == [batch, heads, dv, dk];
    let sizes_fit = heads % key_heads == 0 && dk % 32 == 0 && state.dtype() == Dtype::Float32;
    // The kernel counts elements in 32 bits.
    let small = [q, v, state].iter().all(|a| a.size() <= u32::MAX as usize);
    if !shapes_fit || !sizes_fit || !small {
        return Err(wrong());
    }
    let int = |name: &str, value| (name.to_owned(), TemplateArg::Int(value));
    let options = MetalKernelApplyOptions {
        template_args: vec![
            int("DK", dk),
            int("DV", dv),
            int("HK", key_heads),
            int("HV", heads),
            ("OUT".to_owned(), TemplateArg::Dtype(v.dtype())),
        ],
        ..MetalKernelApplyOptions::default()
    };
    let outputs = [
        MetalKernelOutput { shape: v.shape().to_vec(), dtype: v.dtype() },
        MetalKernelOutput { shape: state.shape().to_vec(), dtype: Dtype::Float32 },
    ];
    let outputs = DELTA_KERNEL.with(|kernel| -> Result<Vec<Array>> {
        if kernel.get().is_none() {
            let _ = kernel.set(delta_kernel()?);
        }
        let kernel = kernel.get().ok_or_else(wrong)?;
        let grid = (32, dv, batch * heads);
        // SAFETY: the shapes were checked above. Every source index is within them, each output
        // element is written by one thread, and the inputs are only read and are made
        // row-contiguous.
        unsafe { kernel.apply(&inputs, &outputs, grid, (32, dv.min(4), 1), options) }
    })?;
    match <[Array; 2]>::try_from(outputs) {
        Ok([y, state]) => Ok((y, state)),
        Err(_) => Err(wrong()),
    }
}

thread_local! {
    /// Created at first use, when MLX parses its names and source.
    static DELTA_KERNEL: OnceCell<mlx_rs::fast::MetalKernel> = const { OnceCell::new() };
}

fn delta_kernel() -> Result<mlx_rs::fast::MetalKernel> {
    mlx_rs::fast::MetalKernel::new(
        "omlx_gated_delta",
        &["q", "k", "v", "log_decay", "beta", "state"],
        &["y", "new_state"],
        include_str!("gated_delta.metal"),
        mlx_rs::fast::MetalKernelOptions { ensure_row_contiguous: true, ..Default::default() },
    )
}

fn check_axes(a: &Array, start: &[i32], stop: &[i32]) -> Result<()> {
    if a.ndim() > 8 || start.len() != a.ndim() || stop.len() != a.ndim() {
        return Err(Exception::custom(format!("slice of {:?} by {start:?}..{stop:?}", a.shape())));
    }
    Ok(())
}

/// # Safety
/// `handle` must be a handle that MLX returned with `status`, owned by the caller.
unsafe fn owned(
    handle: mlx_sys::mlx_array,
    status: i32,
    what: impl FnOnce() -> String,
) -> Result<Array> {
    if status == 0 {
        // SAFETY: MLX filled the handle, and ownership passes to the Array.
        return Ok(unsafe { Array::from_ptr(handle) });
    }
    // SAFETY: a handle that was not filled must still be freed by us.
    unsafe { mlx_sys::mlx_array_free(handle) };
    Err(Exception::custom(format!("{} failed", what())))
}

/// Zeroed memory, aligned to [`PAGE`] and padded to whole pages, that MLX can use without a copy.
#[derive(Debug)]
pub(crate) struct PageBuffer {
    data: NonNull<u8>,
    len: usize,
    layout: Layout,
}

// SAFETY: the buffer is the only owner of plain memory.
unsafe impl Send for PageBuffer {}

impl PageBuffer {
    /// Allocates `len` bytes of zeros.
    pub(crate) fn zeroed(len: usize) -> PageBuffer {
        let padded = len.max(1).next_multiple_of(PAGE);
        let layout = Layout::from_size_align(padded, PAGE).expect("a buffer under isize::MAX");
        // SAFETY: the layout's size is not zero.
        let data = unsafe { alloc_zeroed(layout) };
        let Some(data) = NonNull::new(data) else { handle_alloc_error(layout) };
        PageBuffer { data, len, layout }
    }

    /// The bytes, for the caller to fill.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: `len` bytes were allocated and initialised, and we hold the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }

    /// Makes an array of this memory, without a copy on Metal if possible, else by copying.
    ///
    /// # Errors
    /// If `shape` and `dtype` do not describe exactly these bytes.
    pub(crate) fn into_array(self, shape: &[i32], dtype: Dtype) -> Result<Array> {
        let bytes = shape.iter().map(|&n| n as usize).product::<usize>() * item_bytes(dtype);
        if bytes != self.len {
            return Err(Exception::custom(format!(
                "{} bytes are not an array of {shape:?} {dtype:?}",
                self.len
            )));
        }
        let data = self.data.as_ptr().cast::<c_void>();
        let payload = Box::into_raw(Box::new(self)).cast::<c_void>();
        // SAFETY: data holds `bytes` bytes, checked above. MLX calls `drop_page_buffer` with the
        // payload exactly once, when it no longer needs the memory (immediately, if it copies).
        unsafe {
            let handle = mlx_sys::mlx_array_new_data_managed_payload(
                data,
                shape.as_ptr(),
                shape.len() as i32,
                dtype.into(),
                payload,
                Some(drop_page_buffer),
            );
            let status = if handle.ctx.is_null() { 1 } else { 0 };
            owned(handle, status, || format!("an array of {shape:?} {dtype:?}"))
        }
    }
}

impl Drop for PageBuffer {
    fn drop(&mut self) {
        // SAFETY: the memory was allocated with this layout and is freed once.
        unsafe { dealloc(self.data.as_ptr(), self.layout) }
    }
}

/// MLX calls this for a buffer that it no longer needs.
unsafe extern "C" fn drop_page_buffer(payload: *mut c_void) {
    // SAFETY: the payload is the box leaked in `into_array`, and it is returned once.
    drop(unsafe { Box::from_raw(payload.cast::<PageBuffer>()) });
}

/// Bytes of one element.
pub(crate) fn item_bytes(dtype: Dtype) -> usize {
    match dtype {
        Dtype::Bool | Dtype::Uint8 | Dtype::Int8 => 1,
        Dtype::Uint16 | Dtype::Int16 | Dtype::Float16 | Dtype::Bfloat16 => 2,
        Dtype::Uint32 | Dtype::Int32 | Dtype::Float32 => 4,
        Dtype::Uint64 | Dtype::Int64 | Dtype::Float64 | Dtype::Complex64 => 8,
    }
}

/// The names of the operations needed to compute these arrays, taken from MLX's drawing of its
/// graph.
#[cfg(test)]
pub(crate) fn operations(outputs: &[Array]) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let path = std::ffi::CString::new(file.path().to_str().expect("UTF-8")).expect("no NUL");
    // SAFETY: the path ends with a NUL. Everything made here is freed once and alive during the
    // calls.
    unsafe {
        let out = mlx_sys::fopen(path.as_ptr(), c"w".as_ptr());
        assert!(!out.is_null());
        let namer = mlx_sys::mlx_node_namer_new();
        let arrays = mlx_sys::mlx_vector_array_new();
        for output in outputs {
            mlx_sys::mlx_vector_array_append_value(arrays, output.as_ptr());
        }
        assert_eq!(mlx_sys::mlx_export_to_dot(out, namer, arrays), 0);
        mlx_sys::mlx_vector_array_free(arrays);
        mlx_sys::mlx_node_namer_free(namer);
        mlx_sys::fclose(out);
    }
    let text = std::fs::read_to_string(file.path()).expect("readable");
    let names = text.lines().filter(|line| line.contains("rectangle"));
    let name = |line: &str| line.split('"').nth(1).unwrap_or_default().to_owned();
    names.map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_and_updates() {
        init().unwrap();
        let a = Array::from_iter(0..12, &[3, 4]);
        let cut = slice(&a, &[1, 1], &[3, 3]).unwrap();
        assert_eq!(cut.contiguous().unwrap().as_slice::<i32>(), [5, 6, 9, 10]);
        let update = Array::from_iter([100, 200], &[1, 2]);
        let b = slice_update(&a, &update, &[0, 0], &[1, 2]).unwrap();
        assert_eq!(&b.as_slice::<i32>()[..4], [100, 200, 2, 3]);
        assert_eq!(a.as_slice::<i32>()[0], 0, "the original is untouched");
    }

    #[test]
    fn nothing_is_wired_without_metal() {
        init().unwrap();
        let wired = set_wired_limit(1 << 20);
        assert_eq!(wired > 0, metal_is_available());
        assert_eq!(set_wired_limit(0), 0);
    }

    #[test]
    fn wrong_axes_and_shapes_are_errors() {
        init().unwrap();
        let a = Array::from_iter(0..12, &[3, 4]);
        assert!(slice(&a, &[1], &[3]).is_err());
        assert!(slice_update(&a, &a, &[0, 0], &[1, 2]).is_err());
        assert!(PageBuffer::zeroed(8).into_array(&[3], Dtype::Float32).is_err());
    }

    #[test]
    fn a_buffer_becomes_an_array() {
        init().unwrap();
        let mut buffer = PageBuffer::zeroed(8);
        buffer.as_mut_slice().copy_from_slice(bytemuck_f32(&[1.5, -2.0]).as_slice());
        let array = buffer.into_array(&[2], Dtype::Float32).unwrap();
        assert_eq!(array.as_slice::<f32>(), [1.5, -2.0]);
    }

    fn bytemuck_f32(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }
}
