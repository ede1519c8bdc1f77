/* Compiled in front of every mlx-c source file (and read by bindgen) on Linux. See README.md. */
#ifndef OMLX_MLX_COMPAT_H
#define OMLX_MLX_COMPAT_H

#include <stdint.h>

/* mlx-c declares its float16 and bfloat16 accessors only where the target has the ARM scalar types,
   and mlx-rs needs them. x86-64 has _Float16; a bfloat16 travels as its 16 bits. */
#if !defined(__aarch64__)
#define HAS_FLOAT16
#define HAS_BFLOAT16
#if defined(OMLX_BINDGEN)
typedef struct { uint16_t bits; } float16_t;
#else
typedef _Float16 float16_t;
#endif
typedef uint16_t bfloat16_t;
#endif

/* <format> came with GCC 13. Before it, fmt supplies the one function that MLX's headers use. */
#if defined(__cplusplus) && !defined(OMLX_BINDGEN) && !__has_include(<format>)
#define FMT_HEADER_ONLY
#include <fmt/format.h>
namespace std {
using fmt::format;
}
#endif

#endif
